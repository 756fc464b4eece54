// The end of a world, when nothing goes wrong any more. Requests come now and then until every backend must be back,
// then whole rounds of the weights, then rest.
import { LONGEST_WAIT_MS } from './answers.ts'
import type { Checks } from './checks.ts'
import type { Asking, Clients } from './clients.ts'
import type { Engine } from './engine.ts'
import type { KeyName, RequestEvent, WorldPlan } from './plan.ts'

/** Requests to each process that show whether a backend has come back. */
const RETURN_REQUESTS = 8
/** A throttle that names no time lasts so long. */
const UNNAMED_THROTTLE_MS = 10_000
/** A wait of a bucket is shorter; in whole seconds it may be so long. */
const BUCKET_WAIT_MS = 2_000
/** A wait in whole seconds, or as a date, is longer than what was drawn. */
const ROUNDING_MS = 1_000
/** Between two tries at the issuer, and two replacements of a refused token, there may be so much in these worlds. */
const TOKEN_MS = 20_000
/** Longest answer of a sound backend, and what lies between two requests of a round at most. */
const ROUND_MS = 1_000
/** Between an answer and the next request of a round; every bucket fills by one in a second. */
const GAP_MS = 10
const BUCKET_GAP_MS = 1_000
/** After the last request: what is in progress ends, and news spreads. */
const REST_MS = 2_000
/** How often it is looked whether all have come back. */
const LOOK_MS = 200
/** So many worlds are asked for their metrics, and whether a key has all its places: each costs a request or two. */
const ASKED = 3
/** As many as may be under way for the key that is limited. */
const PLACES = 2
/** Every eighth world waits as long as a return may take, whatever is believed: what was in may go out again. */
const PATIENT = 8

export interface CalmDeps {
  readonly engine: Engine
  readonly plan: WorldPlan
  readonly clients: Clients
  readonly checks: Checks
}

export interface Calm {
  /** When the world has come to rest; it becomes sooner as the rounds end. */
  untilMs(): number
  /** A client has its answer. */
  result(asking: Asking): void
}

function calmRequest(
  id: string,
  atMs: number,
  process: number,
  key: KeyName = 'good',
  connection = 5_000 + process,
): RequestEvent {
  return {
    kind: 'request',
    atMs,
    id,
    key,
    form: 'chat',
    connection,
    process,
    poison: undefined,
    about: undefined,
    leavesAfterMs: undefined,
    stallMs: undefined,
    effort: 1,
    pieces: 1,
  }
}

/** The longest wait that any answer of a world names. */
function longestWaitMs({ events, backends }: WorldPlan): number {
  const waits = events.map(event => {
    if (event.kind !== 'trouble' || event.trouble.kind !== 'status') return 0
    const { wait, status } = event.trouble
    const isNamed = wait !== undefined && !/^(?:none|words|negative)$/.test(wait.form)
    if (!isNamed) return status === 429 ? UNNAMED_THROTTLE_MS : 0
    return Math.min(wait.ms, LONGEST_WAIT_MS) + ROUNDING_MS
  })
  return Math.max(0, ...waits, ...backends.map(({ bucket }) => (bucket === undefined ? 0 : BUCKET_WAIT_MS)))
}

/** How long a sound backend may take to be asked again, whatever happened before. */
function returnMs(plan: WorldPlan): number {
  const { recoveryMs, intervalMs, probeTimeoutMs, timeoutMs, idleTimeoutMs } = plan.settings
  const usualMs = recoveryMs + intervalMs * 1.1 + probeTimeoutMs + timeoutMs + idleTimeoutMs + longestWaitMs(plan)
  const isAboutTokens = plan.events.some(({ kind }) => kind === 'issuer_fails' || kind === 'revoke')
  return isAboutTokens ? usualMs + TOKEN_MS : usualMs
}

/** Puts the end of a world into its engine. */
export function createCalm({ engine, plan, clients, checks }: CalmDeps): Calm {
  const backMs = plan.calmMs + returnMs(plan)
  const round = plan.backends.reduce((sum, { weight, priority }) => sum + (priority === 1 ? weight : 0), 0)
  // Several processes, or the prompts, keep to no common rounds: there it is enough that requests are served.
  const count = plan.processes === 1 && plan.settings.balance !== 'prompt_cache' ? 2 * round : 2
  const gapMs = plan.backends.some(({ bucket }) => bucket !== undefined) ? BUCKET_GAP_MS : GAP_MS
  let restMs = backMs + (ROUND_MS + gapMs) * (count + 1) + REST_MS
  let sent = 0
  let hasBegun = false
  let quietSinceMs: number | undefined

  const isAsked = plan.seed % ASKED === 0 || plan.processes > 1
  const askMetrics = (isAtRest: boolean): void => {
    // A worker says what it knew before the answer came.
    const nothingIsLeft = isAtRest && clients.underWay.size === 0
    if (isAsked) clients.get(0, '/metrics', message => checks.metrics(message?.body, nothingIsLeft))
  }
  const end = (): void => {
    // What former throttles hold back may wait as long as a request may.
    restMs = engine.nowMs() + REST_MS + (isAsked ? plan.settings.maxWaitMs : 0)
    for (let i = 0; isAsked && i < PLACES; i++) {
      clients.send(calmRequest(`place${i}`, engine.nowMs(), 0, 'limited', 6_000 + i))
    }
    engine.outside(engine.nowMs() + REST_MS / 2, () => askMetrics(true))
  }
  const next = (): void => {
    if (sent === count) end()
    else clients.send(calmRequest(`round${sent++}`, engine.nowMs(), 0))
  }
  const beginRounds = (): void => {
    if (hasBegun) return
    hasBegun = true
    checks.beginRounds()
    next()
  }
  /** All that anybody may still have to say to the others has arrived. */
  const spreadMs = plan.processes === 1 ? 0 : 4 * plan.messageMs + LOOK_MS
  const look = (): void => {
    if (hasBegun) return
    const nowMs = engine.nowMs()
    quietSinceMs = checks.isQuiet() ? (quietSinceMs ?? nowMs) : undefined
    if (quietSinceMs !== undefined && nowMs - quietSinceMs >= spreadMs) beginRounds()
    else engine.outside(nowMs + LOOK_MS, look)
  }

  const requests = RETURN_REQUESTS * plan.processes
  for (let i = 0; i < requests; i++) {
    const atMs = plan.calmMs + ((backMs - plan.calmMs) * (i + 1)) / (requests + 1)
    engine.outside(atMs, () => {
      if (!hasBegun) clients.send(calmRequest(`back${i}`, atMs, i % plan.processes))
    })
  }
  if (plan.seed % PATIENT !== 0) engine.outside(plan.calmMs, look)
  engine.outside(backMs, beginRounds)
  engine.outside(plan.calmMs / 2, () => askMetrics(false))
  engine.outside(plan.calmMs, () => askMetrics(false))
  return {
    untilMs: () => restMs,
    result({ id }) {
      if (id.startsWith('round')) engine.outside(engine.nowMs() + gapMs, next)
    },
  }
}
