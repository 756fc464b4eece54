// The metrics, and the text Prometheus reads (exposition format 0.0.4). Several processes' states are merged before
// they are shown. Label values come from the config only: nothing a client sends can make a new series.
import {
  COUNTER_PARTS,
  type Counter,
  createFigure,
  createHistogram,
  createSeries,
  DURATION_PARTS,
  exactSum,
  type Gauge,
  type Histogram,
  LABEL_SEPARATOR,
  type SeriesOf,
  type SeriesTree,
} from './series.ts'

/** How the figures of several processes become one. */
type Merge = 'sum' | 'max' | 'min' | 'latest'

interface Family {
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly labels: readonly string[]
  readonly merge: Merge
  /** Upper bounds in seconds, ascending. */
  readonly buckets?: readonly number[]
}

/** LLM responses take from a tenth of a second (embeddings) to ten minutes (reasoning without streaming). */
const DURATION_BUCKETS = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600]
const FIRST_BYTE_BUCKETS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120]

const counter = (help: string, ...labels: readonly string[]): Family => ({
  type: 'counter',
  help,
  labels,
  merge: 'sum',
})
const gauge = (merge: Merge, help: string, ...labels: readonly string[]): Family => ({
  type: 'gauge',
  help,
  labels,
  merge,
})
const histogram = (help: string, buckets: readonly number[], ...labels: readonly string[]): Family => ({
  type: 'histogram',
  help,
  labels,
  merge: 'sum',
  buckets,
})

const FAMILIES = {
  proxy_requests_total: counter('Client requests by the status that the client got.', 'model', 'key', 'status'),
  proxy_request_duration_seconds: histogram(
    'From the head of a request to the last byte of its response.',
    DURATION_BUCKETS,
    'model',
  ),
  proxy_time_to_first_byte_seconds: histogram(
    'From the head of a request to the first byte of its response.',
    FIRST_BYTE_BUCKETS,
    'model',
  ),
  proxy_attempt_first_byte_seconds: histogram(
    'From an upstream request to the first byte of its response.',
    FIRST_BYTE_BUCKETS,
    'backend',
  ),
  proxy_request_bytes_total: counter('Bytes of request bodies.', 'model'),
  proxy_response_bytes_total: counter('Bytes of response bodies.', 'model'),
  proxy_attempts_total: counter('Upstream attempts by outcome.', 'backend', 'outcome'),
  proxy_failovers_total: counter('Requests served by a later attempt after a failure.', 'model'),
  proxy_spilled_total: counter('Requests served by a lower tier because the tiers above could not.', 'model'),
  proxy_tokens_total: counter('Tokens as the backends counted them.', 'model', 'key', 'kind'),
  proxy_cost_total: counter('Cost of the counted tokens, in the currency of models.*.price.', 'model', 'key'),
  proxy_key_limited_total: counter('Requests refused by a limit of their key.', 'key', 'limit'),
  proxy_model_up: gauge('min', '1 while some backend of the model may be chosen, 0 while all are out.', 'model'),
  proxy_backend_out: gauge(
    'max',
    '1 while the backend is out, with the reason and what to do.',
    'model',
    'backend',
    'reason',
    'todo',
  ),
  proxy_backend_up: gauge('min', '1 while the backend may be chosen, 0 while it is out.', 'model', 'backend'),
  proxy_operation_avoided: gauge(
    'max',
    '1 while the backend is avoided for an operation that it does not serve; reason and what to do as labels.',
    'model',
    'backend',
    'operation',
    'reason',
    'todo',
  ),
  proxy_backend_throttled: gauge('max', '1 while the backend is throttled.', 'model', 'backend'),
  proxy_backend_in_flight: gauge('sum', 'Attempts in flight at the backend.', 'model', 'backend'),
  proxy_backend_remaining_requests: gauge('latest', 'Requests the backend last said it has left.', 'model', 'backend'),
  proxy_backend_remaining_tokens: gauge('latest', 'Tokens the backend last said it has left.', 'model', 'backend'),
  proxy_open_streams: gauge('sum', 'Streamed responses in progress.'),
  proxy_requests_in_flight: gauge('sum', 'Requests being served.'),
  proxy_buffered_bytes: gauge('sum', 'Request bytes held for replay.'),
  proxy_log_lines_dropped_total: counter('Log lines lost because their reader was too slow.'),
  // Every worker counts every reload.
  proxy_config_reloads_total: { ...counter('Config reloads.'), merge: 'max' },
  proxy_key_expiry_timestamp_seconds: gauge('max', 'End of the client key, seconds since the epoch.', 'key'),
  proxy_config_last_reload_successful: gauge(
    'min',
    '1 while the last config that was read is in force, 0 after a bad one.',
  ),
  proxy_certificate_expiry_timestamp_seconds: gauge('max', 'When a certificate ends, seconds since the epoch.', 'cert'),
  proxy_build_info: gauge('max', 'Always 1; the version is a label.', 'version'),
  proxy_workers: gauge('sum', 'Processes that serve.'),
  process_cpu_seconds_total: counter('CPU time of the serving processes.'),
  process_resident_memory_bytes: gauge('sum', 'Resident memory of the serving processes.'),
  process_start_time_seconds: gauge('min', 'Start of the oldest serving process, seconds since the epoch.'),
  nodejs_heap_size_used_bytes: gauge('sum', 'JavaScript heap in use.'),
  nodejs_eventloop_lag_p50_seconds: gauge('max', 'Median delay of the event loop in the last one to two minutes.'),
  nodejs_eventloop_lag_p99_seconds: gauge(
    'max',
    '99th percentile delay of the event loop in the last one to two minutes.',
  ),
  nodejs_eventloop_lag_max_seconds: gauge('max', 'Longest delay of the event loop in the last one to two minutes.'),
} as const satisfies Readonly<Record<string, Family>>

export type MetricName = keyof typeof FAMILIES

/**
 * Every series of one process, as JSON can carry it: family → label values joined by U+0000 → a number. For histograms:
 * the count per bucket, the count above the last one, and the sum. Where the latest counts: the number and its time
 * (epoch ms).
 */
export type MetricsState = Readonly<Partial<Record<MetricName, Readonly<Record<string, number | readonly number[]>>>>>

export interface Metrics {
  counters(name: MetricName): SeriesOf<Counter>
  histograms(name: MetricName): SeriesOf<Histogram>
  /** @param atEpochMs when it was so, for a gauge of which the latest counts */
  set(name: MetricName, labels: readonly string[], value: number, atEpochMs?: number): void
  /** Called before each reading, to set what is looked up rather than counted. */
  onRead(collect: () => void): void
  read(): MetricsState
}

/** One process's counters. */
export function createMetrics(): Metrics {
  const figures = new Map<MetricName, SeriesTree<Counter & Gauge>>()
  const durations = new Map<MetricName, SeriesTree<Histogram>>()
  const collectors: (() => void)[] = []

  const figuresOf = (name: MetricName): SeriesTree<Counter & Gauge> => {
    const series = figures.get(name) ?? createSeries(createFigure)
    figures.set(name, series)
    return series
  }

  return {
    counters: figuresOf,
    histograms(name) {
      const { buckets = [] }: Family = FAMILIES[name]
      const series = durations.get(name) ?? createSeries(() => createHistogram(buckets))
      durations.set(name, series)
      return series
    },
    set(name, labels, value, atEpochMs) {
      figuresOf(name)
        .of(...labels)
        .set(value, atEpochMs)
    },
    onRead: collect => void collectors.push(collect),
    read() {
      // What is looked up is shown as it is now: a backend that a reload removed must not stay at its last figure.
      for (const [name, series] of figures) if (FAMILIES[name].type === 'gauge') series.clear()
      for (const collect of collectors) collect()
      return Object.fromEntries([...figures, ...durations].map(([name, series]) => [name, series.read()] as const))
    },
  }
}

function mergeNumbers(rule: Merge, a: number, b: number): number {
  return rule === 'sum' ? exactSum(a, b, COUNTER_PARTS) : rule === 'max' ? Math.max(a, b) : Math.min(a, b)
}

type Value = number | readonly number[]

function mergeValues(rule: Merge, a: Value, b: Value): Value {
  if (typeof a === 'number') return typeof b === 'number' ? mergeNumbers(rule, a, b) : b
  if (typeof b === 'number') return a
  // A number and its time, or a histogram.
  if (rule === 'latest') return (b[1] ?? 0) > (a[1] ?? 0) ? b : a
  return b.map((n, i) => exactSum(n, a[i] ?? 0, DURATION_PARTS))
}

function names(): MetricName[] {
  return Object.keys(FAMILIES) as MetricName[]
}

/** The states of several processes as one. */
export function mergeMetrics(states: readonly MetricsState[]): MetricsState {
  const [only] = states
  if (states.length === 1 && only !== undefined) return only
  const merged = names().map(name => {
    const family: Family = FAMILIES[name]
    const series = new Map<string, Value>()
    for (const state of states) {
      for (const [key, value] of Object.entries(state[name] ?? {})) {
        const before = series.get(key)
        series.set(key, before === undefined ? value : mergeValues(family.merge, before, value))
      }
    }
    return [name, Object.fromEntries(series)] as const
  })
  return Object.fromEntries(merged)
}

/** What stays of a process that has ended: its counters and histograms. */
export function countersOf(state: MetricsState): MetricsState {
  return Object.fromEntries(Object.entries(state).filter(([name]) => FAMILIES[name as MetricName].type !== 'gauge'))
}

function escaped(value: string): string {
  return value.replace(/[\\"\n]/g, char => (char === '\n' ? '\\n' : `\\${char}`))
}

function labelText(names: readonly string[], key: string, more = ''): string {
  const values = names.length === 0 ? [] : key.split(LABEL_SEPARATOR)
  const pairs = names.map((name, i) => `${name}="${escaped(values[i] ?? '')}"`)
  if (more !== '') pairs.push(more)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

function histogramLines(name: string, family: Family, key: string, value: readonly number[]): string[] {
  const buckets = family.buckets ?? []
  const lines: string[] = []
  let seen = 0
  for (const [i, bound] of buckets.entries()) {
    seen += value[i] ?? 0
    lines.push(`${name}_bucket${labelText(family.labels, key, `le="${bound}"`)} ${seen}`)
  }
  seen += value[buckets.length] ?? 0
  lines.push(`${name}_bucket${labelText(family.labels, key, 'le="+Inf"')} ${seen}`)
  lines.push(`${name}_sum${labelText(family.labels, key)} ${value[buckets.length + 1] ?? 0}`)
  lines.push(`${name}_count${labelText(family.labels, key)} ${seen}`)
  return lines
}

/** The text of GET /metrics; every family has its HELP and TYPE, those without a series too. */
export function renderMetrics(state: MetricsState): string {
  const lines: string[] = []
  for (const name of names()) {
    const family: Family = FAMILIES[name]
    lines.push(`# HELP ${name} ${family.help}`, `# TYPE ${name} ${family.type}`)
    for (const [key, value] of Object.entries(state[name] ?? {})) {
      const figure = family.merge === 'latest' && typeof value !== 'number' ? value[0] : value
      if (figure === undefined) continue
      if (typeof figure === 'number') lines.push(`${name}${labelText(family.labels, key)} ${figure}`)
      else lines.push(...histogramLines(name, family, key, figure))
    }
  }
  return `${lines.join('\n')}\n`
}

/** The content type under which Prometheus takes that text. */
export const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
