// The goals of the benchmark, and whether a figure reaches them.
import type { TargetName } from './targets.ts'

/** Medians, or ratios of the proxy's figure, by target. */
export type ByTarget = Readonly<Partial<Record<TargetName, number>>>

/** The part of a result that is judged. */
export interface Judged {
  readonly medians: ByTarget
  /** The proxy's figure divided by that target's. */
  readonly ratios: ByTarget
}

interface Aim {
  /** A ratio to this target; left out: the proxy's own figure. */
  readonly against?: TargetName
  readonly goal: number
  readonly stretch?: number
}

export interface Goal {
  readonly limit: 'at most' | 'at least'
  /** One of them is enough. The first is the one that is shown first. */
  readonly aims: readonly [Aim, ...Aim[]]
}

/** `open`: not reached, as far as is known, but a yardstick is missing. */
export type Verdict = 'stretch reached' | 'reached' | 'open' | 'missed'

const atMost = (...aims: readonly [Aim, ...Aim[]]): Goal => ({ limit: 'at most', aims })
const atLeast = (...aims: readonly [Aim, ...Aim[]]): Goal => ({ limit: 'at least', aims })
const nginx = (goal: number, stretch: number): Aim => ({ against: 'nginx', goal, stretch })

/** Two workers on two cores against one worker. */
const SPEED_UP = atLeast({ goal: 1.7, stretch: 1.9 })

/** By scenario and metric. */
const GOALS: ReadonlyMap<string, Goal> = new Map([
  ['A cpu_us_per_request', atMost(nginx(4.5, 3.5))],
  ['A added_p50_us', atMost(nginx(2, 1.5))],
  ['A added_p99_us', atMost(nginx(4, 2))],
  ['B cpu_us_per_request', atMost(nginx(3.5, 2.2))],
  ['C cpu_us_per_request', atMost(nginx(2, 1.5), { against: 'haproxy', goal: 1 })],
  ['D cpu_us_per_request', atMost(nginx(4, 2))],
  ['E cpu_us_per_event', atMost(nginx(1.1, 1))],
  ['F cpu_us_per_event', atMost(nginx(1.6, 1.4))],
  ['F memory_kb_per_stream', atMost({ goal: 60, stretch: 40 })],
  ['F delay_p99_us', atMost({ goal: 5_000 })],
  ['V first_event_p50_us', atMost({ goal: 2_000 })],
  ['VW first_event_p50_us', atMost({ goal: 2_000 })],
  ['VW delay_p99_us', atMost({ goal: 5_000 })],
  ['T cpu_us_per_request', atMost(nginx(3.5, 3))],
  ['TE cpu_us_per_event', atMost(nginx(2, 1.5))],
  ['F errors', atMost({ goal: 0 })],
  ['G first_answer_ms', atMost({ against: 'bare', goal: 1.3, stretch: 1 })],
  ['G idle_mb', atMost({ goal: 55 })],
  ['H client_errors', atMost({ goal: 0 })],
  ['H asked_the_bad_one', atMost({ goal: 1 })],
  ['H p50_against_healthy', atMost({ goal: 1.1 })],
  ['W speed_up', SPEED_UP],
  ['W projected_speed_up', SPEED_UP],
])

/** What this figure is to reach; undefined: it is only reported. */
export function goalOf(scenario: string, metric: string): Goal | undefined {
  return GOALS.get(`${scenario} ${metric}`)
}

/** The figure that an aim is about; undefined where it could not be measured. */
function figureOf({ against }: Aim, { medians, ratios }: Judged): number | undefined {
  return against === undefined ? medians.proxy : ratios[against]
}

/** Best first. */
const VERDICTS: readonly Verdict[] = ['stretch reached', 'reached', 'open', 'missed']

/** @returns undefined where nothing of what the goal speaks of could be measured */
export function verdict(goal: Goal, judged: Judged): Verdict | undefined {
  const within = (value: number, bound: number): boolean => (goal.limit === 'at most' ? value <= bound : value >= bound)
  const found = goal.aims.map((aim): Verdict => {
    const value = figureOf(aim, judged)
    if (value === undefined) return 'open'
    if (aim.stretch !== undefined && within(value, aim.stretch)) return 'stretch reached'
    return within(value, aim.goal) ? 'reached' : 'missed'
  })
  if (goal.aims.every(aim => figureOf(aim, judged) === undefined)) return undefined
  return VERDICTS.find(each => found.includes(each))
}

/** The goal in words, such as `≤ 2 × nginx or ≤ 1 × haproxy`. */
export function inWords({ limit, aims }: Goal, which: 'goal' | 'stretch'): string {
  const sign = limit === 'at most' ? '≤' : '≥'
  return aims
    .filter(aim => aim[which] !== undefined)
    .map(aim => `${sign} ${aim[which]}${aim.against === undefined ? '' : ` × ${aim.against}`}`)
    .join(' or ')
}
