// The series of a metric: plain numbers under their label values, quickly found again, never more than a limit.

/**
 * A family beyond this many series counts the rest under `other`: a config with that many names is a mistake, not a
 * memory leak.
 */
const MAX_SERIES = 10_000
const OTHER = 'other'
/** Stands between the label values of a series' key. */
export const LABEL_SEPARATOR = '\u0000'

/** Grains of sums, as parts of one: a billionth of a currency's unit, a microsecond of seconds. */
export const COUNTER_PARTS = 1e9
export const DURATION_PARTS = 1e6

/**
 * A sum without the rounding of binary fractions. The figures of several processes are added in the order in which
 * those live and die; a sum that is less by one bit than before is a fallen counter, which Prometheus takes for a
 * restart.
 * @param parts all figures are whole numbers of these
 */
export function exactSum(a: number, b: number, parts: number): number {
  const sum = a + b
  return Number.isInteger(sum) ? sum : Math.round(sum * parts) / parts
}

export interface Counter {
  add(amount: number): void
}

export interface Histogram {
  observe(seconds: number): void
}

export interface Gauge {
  /** @param atEpochMs its time, for a gauge of which the latest counts */
  set(value: number, atEpochMs?: number): void
}

/** One family's series. */
export interface SeriesOf<S> {
  /** The series of these label values, in the family's order of labels; shown, at zero, once it was asked for. */
  of(...labels: readonly string[]): S
}

/** As MetricsState (metrics.ts) carries it: a number, or a histogram's numbers. */
export interface Readable {
  value(): number | readonly number[]
}

export function createFigure(): Readable & Counter & Gauge {
  let figure = 0
  let atMs: number | undefined
  return {
    add(amount) {
      figure = exactSum(figure, amount, COUNTER_PARTS)
    },
    set(value, atEpochMs) {
      figure = value
      atMs = atEpochMs
    },
    value: () => (atMs === undefined ? figure : [figure, atMs]),
  }
}

/** @param buckets upper bounds in seconds, ascending */
export function createHistogram(buckets: readonly number[]): Readable & Histogram {
  // As MetricsState wants them: the buckets, what is above the last one, the sum.
  const counts = new Float64Array(buckets.length + 2)
  return {
    observe(seconds) {
      let at = 0
      while (at < buckets.length && seconds > (buckets[at] ?? 0)) at++
      counts[at] = (counts[at] ?? 0) + 1
      counts[buckets.length + 1] = exactSum(counts[buckets.length + 1] ?? 0, seconds, DURATION_PARTS)
    },
    value: () => [...counts],
  }
}

interface Branch<S> {
  series: S | undefined
  readonly next: Map<string, Branch<S>>
}

export interface SeriesTree<S> extends SeriesOf<S> {
  clear(): void
  read(): Readonly<Record<string, number | readonly number[]>>
}

/**
 * The series of a family, found label by label: 0.03 µs, where joining the labels to one key took 0.2, several times a
 * request.
 */
export function createSeries<S extends Readable>(make: () => S): SeriesTree<S> {
  const byKey = new Map<string, S>()
  const root: Branch<S> = { series: undefined, next: new Map() }

  const made = (labels: readonly string[]): S => {
    const isFull = byKey.size >= MAX_SERIES
    const key = labels.map(label => (isFull ? OTHER : label)).join(LABEL_SEPARATOR)
    const series = byKey.get(key) ?? make()
    byKey.set(key, series)
    if (isFull) return series
    let branch = root
    for (const label of labels) {
      const next: Branch<S> = branch.next.get(label) ?? { series: undefined, next: new Map() }
      branch.next.set(label, next)
      branch = next
    }
    branch.series = series
    return series
  }

  return {
    of(...labels) {
      let branch: Branch<S> | undefined = root
      for (const label of labels) branch = branch?.next.get(label)
      return branch?.series ?? made(labels)
    },
    clear() {
      byKey.clear()
      root.next.clear()
      root.series = undefined
    },
    read: () => Object.fromEntries([...byKey].map(([key, series]) => [key, series.value()] as const)),
  }
}
