// Figures of all rounds to medians, ratios and a table beside the goals.
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

/** What the JSON file holds, one for each figure of a scenario. */
export interface Row {
  readonly scenario: string
  readonly metric: string
  /** Medians over the rounds. */
  readonly medians: Readonly<Partial<Record<TargetName, number>>>
  /** The proxy against the yardstick: the median of the rounds' ratios, which drift of the machine disturbs least. */
  readonly ratio?: number
  readonly against?: TargetName
}

interface Goal {
  /** A ratio to this target; left out: the proxy's own figure. */
  readonly against?: TargetName
  readonly goal: number
  readonly stretch?: number
}

const NGINX = (goal: number, stretch: number): Goal => ({ against: 'nginx', goal, stretch })

/** At most. By scenario and metric. */
const GOALS: ReadonlyMap<string, Goal> = new Map([
  ['A cpu_us_per_request', NGINX(4.5, 3.5)],
  ['A added_p50_us', NGINX(3.5, 2.2)],
  ['B cpu_us_per_request', NGINX(3.2, 2.2)],
  ['C cpu_us_per_request', NGINX(2, 1.5)],
  ['D cpu_us_per_request', NGINX(3, 2)],
  ['E cpu_us_per_event', NGINX(3, 1.5)],
  ['F cpu_us_per_event', NGINX(1.8, 1.4)],
  ['F memory_kb_per_stream', { goal: 60, stretch: 40 }],
  ['F errors', { goal: 0 }],
  ['G first_answer_ms', { against: 'bare', goal: 1.3, stretch: 1 }],
  ['G idle_mb', { goal: 60 }],
  ['H client_errors', { goal: 0 }],
  ['H asked_the_bad_one', { goal: 1 }],
  ['H p50_against_healthy', { goal: 1.1 }],
])

/** What going through a target adds to going direct. */
const ADDED: ReadonlyMap<string, string> = new Map([
  ['p50_us', 'added_p50_us'],
  ['p99_us', 'added_p99_us'],
  ['delay_p50_us', 'added_delay_p50_us'],
  ['delay_p99_us', 'added_delay_p99_us'],
])

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

export function summarize(given: readonly Sample[]): readonly Row[] {
  const samples = withAdded(given)
  const keys = new Map<string, { scenario: string; metric: string }>()
  for (const { scenario, figures } of samples) {
    for (const metric of Object.keys(figures)) keys.set(`${scenario} ${metric}`, { scenario, metric })
  }
  return [...keys].map(([key, { scenario, metric }]): Row => {
    const here = samples.filter(sample => sample.scenario === scenario)
    const of = (target: TargetName): readonly Sample[] => here.filter(sample => sample.target === target)
    const medians: Partial<Record<TargetName, number>> = {}
    for (const target of new Set(here.map(sample => sample.target))) {
      const value = median(of(target).map(({ figures }) => figures[metric] ?? Number.NaN))
      if (Number.isFinite(value)) medians[target] = value
    }
    const against = GOALS.get(key)?.against ?? 'nginx'
    const ratio = median(
      of('proxy').map(({ round, figures }) => {
        const yardstick = of(against).find(sample => sample.round === round)?.figures[metric]
        return (figures[metric] ?? Number.NaN) / (yardstick ?? Number.NaN)
      }),
    )
    return { scenario, metric, medians, ...(Number.isFinite(ratio) ? { ratio, against } : {}) }
  })
}

export function shown(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return '–'
  if (value === 0) return '0'
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  return value.toFixed(digits)
}

function verdict(value: number, { goal, stretch }: Goal): string {
  if (stretch !== undefined && value <= stretch) return 'stretch reached'
  return value <= goal ? 'reached' : 'missed'
}

/** Columns of a Markdown table that is readable as it stands. */
export function columns(lines: readonly (readonly string[])[]): string {
  const widths = (lines[0] ?? []).map((_, i) => Math.max(...lines.map(line => line[i]?.length ?? 0)))
  const text = (line: readonly string[]): string =>
    `| ${line.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(' | ')} |`
  const [head = [], ...rest] = lines
  return [text(head), `|${widths.map(width => '-'.repeat(width + 2)).join('|')}|`, ...rest.map(text)].join('\n')
}

/** The table: medians, the ratio to nginx or a bare server, and what was aimed at. */
export function table(rows: readonly Row[]): string {
  const titles = new Map(SCENARIOS.map(({ id, title }) => [id, title]))
  const lines = rows.map(({ scenario, metric, medians, ratio, against }) => {
    const goal = GOALS.get(`${scenario} ${metric}`)
    const judged = goal?.against === undefined ? medians.proxy : ratio
    const aim = goal === undefined ? '' : `≤ ${goal.goal}${goal.against === undefined ? '' : ` × ${goal.against}`}`
    return [
      `${scenario} ${titles.get(scenario) ?? ''}`,
      metric.replaceAll('_', ' '),
      shown(medians.direct),
      shown(medians.nginx),
      shown(medians.bare),
      shown(medians.proxy),
      ratio === undefined ? '' : `${shown(ratio)} ×${against === 'nginx' ? '' : ` ${against}`}`,
      aim,
      goal?.stretch === undefined ? '' : `≤ ${goal.stretch}`,
      goal === undefined || judged === undefined ? '' : verdict(judged, goal),
    ]
  })
  return columns([
    ['scenario', 'measure', 'direct', 'nginx', 'bare', 'proxy', 'proxy / nginx', 'goal', 'stretch', ''],
    ...lines,
  ])
}
