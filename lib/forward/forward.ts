// The story of one request: attempts in turn until one is the client's response, then the relay; a refusal when none
// is. The decisions are made in outcome.ts and the balancer; here they are only carried out, in order.
import type { HealthRegistry, Lease } from '../balancer/health.ts'
import type { Leased, Member, Picker, PickResult } from '../balancer/pool.ts'
import { isWorthWaiting, type WaitQueue, type WaitResult } from '../balancer/wait-queue.ts'
import type { Exchange } from '../request-context.ts'
import { noteSignals, outcomeDetail, report } from './attempt-record.ts'
import { exhaustedError, type History } from './exhausted.ts'
import { blameOf, isPresentable, isSuspect, labelOf, type Outcome, reachedBackend } from './outcome.ts'
import { pause } from './pause.ts'
import { type MemberResponse, type RespondDeps, respond, type TryResult } from './respond.ts'
import { type BackendResult, outcomeFor, type TryBackendDeps, tryBackend } from './try-backend.ts'
import type { ForwardRequest } from './upstream.ts'

export interface ForwardDeps extends TryBackendDeps, RespondDeps {
  readonly health: HealthRegistry
  readonly waitQueue: WaitQueue
  readonly limits: TryBackendDeps['limits'] &
    RespondDeps['limits'] & { readonly maxAttempts: number; readonly maxWaitMs: number }
}

/** One request's way through the backends. */
interface Way {
  readonly exchange: Exchange
  readonly request: ForwardRequest
  readonly picker: Picker
  readonly deps: ForwardDeps
  readonly history: History
  /** Its place among those who arrive at the same time (wait-queue.ts). */
  readonly place: number
  hasWaited: boolean
  /** Attempts that count against `retry.max_attempts`. */
  counted: number
  /** The last response that is better than none. */
  fallback: MemberResponse | undefined
  /**
   * The lease of the first backend that met this request with suspect trouble: its blame is withdrawn if a second one
   * does.
   */
  firstSuspect: Lease | undefined
  /** The first backend whose token was not there at the moment. */
  awaitsToken: { readonly member: Member; readonly waitMs: number } | undefined
  /** It has been waited for, once. */
  waitedForToken: boolean
}

/** Whether another backend is worth asking after this. */
function shouldRetry(outcome: Outcome, request: ForwardRequest): boolean {
  if (outcome.kind === 'state_elsewhere') return request.stateOwnerUnknown
  return outcome.kind !== 'served' && outcome.kind !== 'clients_own' && outcome.kind !== 'cancelled'
}

/** The next backend; where all are throttled or full and that ends in time, after a wait in the model's queue. */
function nextPick(way: Way): WaitResult | Promise<WaitResult> {
  const { exchange, request, picker, deps, place } = way
  const { limits, waitQueue, clock } = deps
  const { pool } = request
  // Those who wait come first, where both could use what is free.
  if (limits.maxWaitMs > 0 && waitQueue.waiting(pool) > 0) waitQueue.serve(pool)
  const pick: PickResult = picker.pick()
  const { beganMs, cancellation } = exchange
  // The time runs from the request's head, however often it waits.
  const untilMs = beganMs + limits.maxWaitMs
  if (pick.kind !== 'throttled' || !isWorthWaiting(pick, untilMs - clock.nowMs())) return pick
  way.hasWaited = true
  return waitQueue.wait({ pool, picker, leaving: cancellation, untilMs, beganMs, place })
}

/** A token that could not be had is often there a moment later: no longer than this, and once a request. */
const TOKEN_WAIT_MS = 1_000

/** Waits for a token that comes within a second; then its backend may be tried once more. */
async function waitForToken(way: Way): Promise<boolean> {
  const { exchange, picker, deps, awaitsToken, history } = way
  if (way.waitedForToken || awaitsToken === undefined || awaitsToken.waitMs > TOKEN_WAIT_MS) return false
  way.waitedForToken = true
  const goesOn = await pause(deps.clock, exchange.cancellation, awaitsToken.waitMs)
  picker.retry(awaitsToken.member)
  history.outcomes.length = 0
  return goesOn
}

/** Notes an attempt that was not the last: blame, what to try next, what to give out if nothing better comes. */
function noteFailure(
  way: Way,
  { member, lease }: Leased,
  { outcome, askedMs }: { readonly outcome: Outcome; readonly askedMs: number },
  answered: Exclude<BackendResult, { kind: 'upgraded' }>,
): void {
  const { exchange, request, picker, deps } = way
  lease.release(blameOf(outcome, way.firstSuspect !== undefined))
  if (isSuspect(outcome)) {
    // Two backends cannot both be wrong about it: nobody is blamed for this request.
    way.firstSuspect?.withdraw()
    way.firstSuspect ??= lease
  }
  const facts = { label: labelOf(outcome), detail: outcomeDetail(outcome), askedMs, isFailover: false }
  report(exchange, request, member, facts, deps.onAttempt)
  if (answered.kind === 'response' && isPresentable(outcome, answered.response.status)) {
    const { response, asksUsage } = answered
    way.fallback = { member, response, asksUsage }
  }
  if (outcome.kind === 'throttled') picker.throttled(member)
  if (outcome.kind === 'state_elsewhere') picker.skipResource(member.resourceId)
  if (outcome.kind === 'no_token' && !outcome.permanent) way.awaitsToken ??= { member, waitMs: outcome.waitMs }
  const { operation } = request
  if (outcome.kind === 'unsupported' && operation !== undefined) {
    const { endpoint, apiVersion } = member.backend
    // Without a path of its own an endpoint has none that could be wrong.
    const wrong = outcome.wrong === 'either' ? (endpoint.basePath === '' ? 'version' : 'path') : outcome.wrong
    deps.unsupported.note({ deployment: member.health.id, what: operation, apiVersion }, { wrong })
  }
  // Looking for the resource that can read a state costs no token and is bounded by their number: it is no retry. Nor
  // is a 429 after a wait, which the request has paid for with its time.
  const isSearch = outcome.kind === 'state_elsewhere'
  const afterWait = outcome.kind === 'throttled' && way.hasWaited
  if (reachedBackend(outcome) && !isSearch && !afterWait) way.counted++
}

/** Whether anything before went wrong: a search through resources is no failure. */
function hasFailed({ outcomes }: History): boolean {
  return outcomes.some(({ kind }) => kind !== 'state_elsewhere')
}

/** One response shows that a backend offers the operation after all. */
function noteOffered({ request: { operation }, deps: { unsupported } }: Way, { health, backend }: Member): void {
  if (operation === undefined) return
  unsupported.answered({ deployment: health.id, what: operation, apiVersion: backend.apiVersion })
}

/** An attempt that has begun. */
interface Begun {
  readonly askedMs: number
  readonly isFailover: boolean
}

function beginAttempt({ exchange: { record }, deps, history }: Way, { member, servedByLowerTier }: Leased): Begun {
  record.attempts++
  record.backend = member.backend.name
  if (servedByLowerTier) record.servedByLowerTier = true
  return { askedMs: deps.clock.nowMs(), isFailover: hasFailed(history) }
}

/** Whether it was sent to the wrong host on a used connection: over another one it may be served (RFC 9110 15.5.20). */
function isMisdirected(answered: BackendResult): boolean {
  return answered.kind === 'response' && answered.outcome.kind === 'misdirected' && answered.reused === true
}

/** Judges a backend's answer. @returns how the attempts ended, or undefined: the next backend */
function judge(way: Way, pick: Leased, { askedMs, isFailover }: Begun, answered: BackendResult): TryResult | undefined {
  const { exchange, request, deps, history } = way
  const { member, lease } = pick
  if (answered.kind === 'upgraded') {
    noteOffered(way, member)
    return { kind: 'upgraded', member, lease, outcome: { kind: 'served' }, askedMs, isFailover, upgraded: answered }
  }
  const outcome = outcomeFor(exchange, request, answered)
  const values = answered.kind === 'response' ? answered.response.headers.values : answered.values
  if (values !== undefined) noteSignals(member, values, deps.health)
  history.outcomes.push(outcome)
  if (answered.kind === 'response' && !shouldRetry(outcome, request)) {
    const { response, asksUsage } = answered
    if (response.status < 300) noteOffered(way, member)
    return { kind: 'response', member, lease, outcome, askedMs, isFailover, response, asksUsage }
  }
  noteFailure(way, pick, { outcome, askedMs }, answered)
  return undefined
}

/** What the client gets when no attempt is left. */
function whatIsLeft({ exchange, request, picker, history, fallback }: Way): TryResult {
  const { reason } = exchange.cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') return { kind: 'left', reason }
  if (reason !== undefined) {
    const message = 'The proxy is shutting down.'
    return { kind: 'refusal', refusal: { status: 503, code: 'draining', message, retryAfterMs: 1000 } }
  }
  history.busy = picker.soonest() ?? history.busy
  // While somebody sound is merely throttled or full, its time says more than another's failure.
  if (fallback !== undefined && history.busy === undefined) return { kind: 'fallback', ...fallback }
  const isPinned = request.pinnedResources !== undefined
  return { kind: 'refusal', refusal: exhaustedError(request.pool.model.name, history, isPinned) }
}

async function walk(way: Way): Promise<TryResult> {
  const { exchange, request, history, deps } = way
  const { cancellation } = exchange
  while (way.counted < deps.limits.maxAttempts && cancellation.reason === undefined) {
    const picked = nextPick(way)
    const pick = picked instanceof Promise ? await picked : picked
    if (pick.kind === 'lease') {
      const begun = beginAttempt(way, pick)
      const asked = tryBackend(exchange, request, pick, deps)
      let answered = asked instanceof Promise ? await asked : asked
      if (isMisdirected(answered) && way.counted + 1 < deps.limits.maxAttempts) {
        way.counted++
        exchange.record.attempts++
        answered = await tryBackend(exchange, request, pick, deps, true)
      }
      const ended = judge(way, pick, begun, answered)
      if (ended !== undefined) return ended
      continue
    }
    if (pick.kind === 'left') break
    if (pick.kind === 'exhausted' && (await waitForToken(way))) continue
    // What it has waited for in vain: once it has left the queue the same backend may look free.
    if (pick.kind === 'throttled') history.busy = pick
    // A full queue is as good as none: the refusal says when the soonest is back.
    if (pick.kind !== 'queue_full') history.stopped = pick.kind
    break
  }
  return whatIsLeft(way)
}

/** A way at its beginning. Its own function: `forward` must keep none of it while a response streams for minutes. */
function wayOf(exchange: Exchange, request: ForwardRequest, picker: Picker, deps: ForwardDeps): Way {
  return {
    exchange,
    request,
    picker,
    deps,
    history: { outcomes: [], busy: undefined, stopped: undefined },
    place: deps.waitQueue.nextPlace(),
    hasWaited: false,
    counted: 0,
    fallback: undefined,
    firstSuspect: undefined,
    awaitsToken: undefined,
    waitedForToken: false,
  }
}

/**
 * The retry loop: attempts at one backend after another until one brings a response, or none is left. The lease of the
 * last one is still held. Called again with the same picker it goes on with the backends that are left.
 */
export function tryBackends(
  exchange: Exchange,
  request: ForwardRequest,
  picker: Picker,
  deps: ForwardDeps,
): Promise<TryResult> {
  return walk(wayOf(exchange, request, picker, deps))
}

/**
 * Forwards one request: every phase after its body is known. Always answers, cuts or is cancelled; never throws for
 * what a backend or a client does.
 */
export async function forward(exchange: Exchange, request: ForwardRequest, deps: ForwardDeps): Promise<void> {
  const { pool, pinnedResources, operation, foreignReasoning, promptHash } = request
  const { unsupported, transport } = deps
  const avoid = (member: Member): boolean => {
    const { backend, health } = member
    if (operation !== undefined) {
      if (unsupported.has({ deployment: health.id, what: operation, apiVersion: backend.apiVersion })) return true
    }
    // By another way out, if there is one.
    if (transport.isCutOff(backend.endpoint)) return true
    return request.avoid?.(member) === true || foreignReasoning?.canRead(member) === false
  }
  const picker = pool.picker({ resources: pinnedResources, only: request.only, promptHash, avoid })
  try {
    await tryBackends(exchange, request, picker, deps).then(found => respond(exchange, request, found, deps))
  } finally {
    picker.end()
    request.releaseBody()
  }
}
