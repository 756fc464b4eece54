// Figures of all rounds to medians, ratios and a table beside the goals.
import { type ByTarget, goalOf, inWords, type Judged, verdict } from './goals.ts'
import type { Figures } from './measure.ts'
import { SCENARIOS } from './scenarios.ts'
import type { TargetName } from './targets.ts'

/** One round's figures of one target in one scenario. */
export interface Sample {
  readonly scenario: string
  readonly round: number
  readonly target: TargetName
  readonly figures: Figures
}

/**
 * What the JSON file holds, one for each figure of a scenario: medians over the rounds, and the proxy against each
 * yardstick. A ratio is the median of the rounds' ratios, which drift of the machine disturbs least.
 */
export interface Row extends Judged {
  readonly scenario: string
  readonly metric: string
}

const YARDSTICKS: readonly TargetName[] = ['nginx', 'haproxy', 'envoy', 'caddy', 'go-original', 'bare', 'twin']

/** What going through a target adds to going direct. */
const ADDED: ReadonlyMap<string, string> = new Map([
  ['p50_us', 'added_p50_us'],
  ['p99_us', 'added_p99_us'],
  ['delay_p50_us', 'added_delay_p50_us'],
  ['delay_p99_us', 'added_delay_p99_us'],
])

/** Of the finite ones; NaN where there are none. */
export function median(values: readonly number[]): number {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  return sorted.length % 2 === 1 ? Number(sorted[middle]) : (Number(sorted[middle - 1]) + Number(sorted[middle])) / 2
}

/** The samples, and for each latency what it adds to the same round's direct one. */
function withAdded(samples: readonly Sample[]): readonly Sample[] {
  return samples.map(sample => {
    const direct = samples.find(
      ({ scenario, round, target }) => scenario === sample.scenario && round === sample.round && target === 'direct',
    )
    if (direct === undefined || sample.target === 'direct') return sample
    const added: Record<string, number> = {}
    for (const [name, value] of Object.entries(sample.figures)) {
      const as = ADDED.get(name)
      if (as !== undefined) added[as] = value - (direct.figures[name] ?? Number.NaN)
    }
    return { ...sample, figures: { ...sample.figures, ...added } }
  })
}

/** What there is a finite value of. */
function finite(names: readonly TargetName[], figureOf: (name: TargetName) => number): ByTarget {
  return Object.fromEntries(
    names.map(name => [name, figureOf(name)] as const).filter(([, value]) => Number.isFinite(value)),
  )
}

/** One row a figure, in the order in which they were first measured. */
export function summarize(given: readonly Sample[]): readonly Row[] {
  const samples = withAdded(given)
  const keys = new Map<string, { scenario: string; metric: string }>()
  for (const { scenario, figures } of samples) {
    for (const metric of Object.keys(figures)) keys.set(`${scenario} ${metric}`, { scenario, metric })
  }
  return [...keys.values()].map(({ scenario, metric }): Row => {
    const here = samples.filter(sample => sample.scenario === scenario)
    const of = (target: TargetName): readonly Sample[] => here.filter(sample => sample.target === target)
    const targets = [...new Set(here.map(({ target }) => target))]
    return {
      scenario,
      metric,
      medians: finite(targets, target => median(of(target).map(({ figures }) => figures[metric] ?? Number.NaN))),
      ratios: finite(YARDSTICKS, yardstick =>
        median(
          of('proxy').map(({ round, figures }) => {
            const other = of(yardstick).find(sample => sample.round === round)
            return (figures[metric] ?? Number.NaN) / (other?.figures[metric] ?? Number.NaN)
          }),
        ),
      ),
    }
  })
}

/** The yardstick that counts first for this figure: the goal's, or nginx. */
export function yardstickOf({ scenario, metric }: Row): TargetName {
  return goalOf(scenario, metric)?.aims[0].against ?? 'nginx'
}

/** A figure with as many digits as say something; a dash where there is none. */
export function shown(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return '–'
  if (value === 0) return '0'
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toFixed(digits)
}

function shownRatio(value: number | undefined, against = ''): string {
  return value === undefined ? '' : `${shown(value)} ×${against}`
}

/** Columns of a Markdown table that is readable as it stands. */
export function columns(lines: readonly (readonly string[])[]): string {
  const widths = (lines[0] ?? []).map((_, i) => Math.max(...lines.map(line => line[i]?.length ?? 0)))
  const text = (line: readonly string[]): string =>
    `| ${line.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`
  const [head = [], ...rest] = lines
  return [text(head), `|${widths.map(width => '-'.repeat(width + 2)).join('|')}|`, ...rest.map(text)].join('\n')
}

/** The table: medians, the ratios to nginx (or a bare server) and to the other yardsticks, and the goals. */
export function table(rows: readonly Row[]): string {
  const titles = new Map(SCENARIOS.map(({ id, title }) => [id, title]))
  const lines = rows.map(row => {
    const { scenario, metric, medians, ratios } = row
    const goal = goalOf(scenario, metric)
    const first = yardstickOf(row)
    return [
      `${scenario} ${titles.get(scenario) ?? ''}`,
      metric.replaceAll('_', ' '),
      shown(medians.direct),
      shown(medians.nginx),
      shown(medians.haproxy),
      shown(medians.envoy),
      shown(medians.caddy),
      shown(medians['go-original']),
      shown(medians.bare),
      shown(medians.twin),
      shown(medians.proxy),
      shownRatio(ratios[first], first === 'nginx' ? '' : ` ${first}`),
      shownRatio(ratios.haproxy),
      shownRatio(ratios.envoy),
      shownRatio(ratios['go-original']),
      shownRatio(ratios.twin),
      goal === undefined ? '' : inWords(goal, 'goal'),
      goal === undefined ? '' : inWords(goal, 'stretch'),
      goal === undefined ? '' : (verdict(goal, row) ?? ''),
    ]
  })
  const head = [
    'scenario',
    'measure',
    'direct',
    'nginx',
    'haproxy',
    'envoy',
    'caddy',
    'go',
    'bare',
    'twin',
    'proxy',
    'proxy / nginx',
    'proxy / haproxy',
    'proxy / envoy',
    'proxy / go',
    'proxy / twin',
  ]
  return columns([[...head, 'goal', 'stretch', ''], ...lines])
}
