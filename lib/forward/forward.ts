// The story of one request: attempts in turn until one is the client's answer, then the relay; a refusal when none is. The
// decisions are made in outcome.ts and the balancer; here they are only carried out, in order.

import type { HealthRegistry, Lease } from '../balancer/health.ts'
import type { Member, Picker, PickResult } from '../balancer/pool.ts'
import { isWorthWaiting, type WaitQueue, type WaitResult } from '../balancer/wait-queue.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { CancelReason, Exchange } from '../request-context.ts'
import {
  type AttemptReport,
  noteSignals,
  outcomeDetail,
  recordResponse,
  recordResult,
  report,
} from './attempt-record.ts'
import { blameOf, exhaustedError, type History, isAttempt, labelOf, type Outcome } from './outcome.ts'
import { relay } from './relay.ts'
import { type SendDeps, type SendResult, sendToBackend } from './send.ts'
import type {
  AttemptResult,
  ForwardRequest,
  RelayOptions,
  RelayResult,
  Upgraded,
  UpstreamResponse,
} from './upstream.ts'

export interface ForwardDeps extends SendDeps {
  readonly health: HealthRegistry
  readonly waitQueue: WaitQueue
  readonly limits: SendDeps['limits'] & {
    readonly maxAttempts: number
    readonly maxWaitMs: number
    readonly keepaliveMs: number
  }
  onAttempt(report: AttemptReport): void
}

/** A refused key is a mistake in the config only if it was the config's: a client's own ephemeral key may have expired. */
function outcomeFor({ ephemeral }: Exchange, { upgrade }: ForwardRequest, result: AttemptResult): Outcome {
  const { kind, outcome } = result
  if (kind !== 'response') return outcome
  if (ephemeral !== undefined && outcome.kind === 'misconfigured') return { kind: 'served' }
  // A handshake whose refusal is no answer to the client: it speaks of the route, not of a request.
  if (upgrade?.refusalsMoveOn === true && outcome.kind === 'served') {
    return { kind: 'unsupported', detail: `${result.response.status} to a handshake` }
  }
  return outcome
}

/** Azure denies, at random, an item that the same resource made a moment ago; asked again, it has it (azure/README.md 13.4). */
function deniesOwnItem(exchange: Exchange, request: ForwardRequest, member: Member, result: SendResult): boolean {
  if (request.itemOwners?.has(member.resourceId) !== true || result.kind === 'upgraded') return false
  return outcomeFor(exchange, request, result).kind === 'state_elsewhere'
}

/** Gives an answer to the client; tells how that ended. At once where all of it is there already. */
function relayResponse(
  exchange: Exchange,
  request: ForwardRequest,
  member: Member,
  upstreamResponse: UpstreamResponse,
  deps: ForwardDeps,
): RelayResult | Promise<RelayResult> {
  recordResponse(exchange, upstreamResponse)
  request.onServed?.(member, upstreamResponse)
  request.releaseBody()
  const { onEvents } = request
  const options: RelayOptions = {
    backendName: member.backend.name,
    dialect: request.dialect,
    idleMs: deps.limits.idleMs,
    keepaliveMs: deps.limits.keepaliveMs,
    dropUsageEvent: request.dropsUsageEvent?.() === true,
    onEvents: onEvents === undefined ? undefined : bytes => onEvents(member, bytes),
  }
  return relay(exchange, upstreamResponse, options, deps)
}

/** Whether another backend is worth asking after this. */
function shouldRetry(outcome: Outcome, request: ForwardRequest): boolean {
  if (outcome.kind === 'state_elsewhere') return request.stateOwnerUnknown
  return outcome.kind !== 'served' && outcome.kind !== 'cancelled'
}

/** An answer that was put fallback because another backend might do better; given to the client when none did. */
interface FallbackResponse {
  readonly member: Member
  readonly response: UpstreamResponse
  readonly outcome: Outcome
}

/** A throttle, a wrong key and a wrong deployment are ours to explain: their upstream answers would mislead a client. */
function isPresentable(outcome: Outcome): boolean {
  return outcome.kind !== 'throttled' && outcome.kind !== 'misconfigured'
}

/** Waits in the model's queue for a lease, where there is something to wait for; the time runs from the request's head. */
function waitForCapacity(
  exchange: Exchange,
  { pool }: ForwardRequest,
  picker: Picker,
  pick: PickResult,
  ticket: { place: number },
  { limits, waitQueue, clock }: ForwardDeps,
): WaitResult | Promise<WaitResult> {
  const untilMs = exchange.beganMs + limits.maxWaitMs
  if (pick.kind !== 'throttled' || !isWorthWaiting(pick, untilMs - clock.nowMs())) return pick
  return waitQueue.wait({ pool, picker, leaving: exchange.cancellation, untilMs, ticket }, pick.waitMs)
}

/** An attempt that was the last one, whose lease is still held. */
interface LastAttempt {
  readonly member: Member
  readonly lease: Lease
  readonly outcome: Outcome
  readonly askedMs: number
}

/** How the attempts ended. */
export type TryResult =
  | (LastAttempt & { readonly kind: 'response'; readonly response: UpstreamResponse })
  | (LastAttempt & { readonly kind: 'upgraded'; readonly upgraded: Upgraded })
  /** No attempt is left; this answer is better than none. */
  | { readonly kind: 'fallback'; readonly member: Member; readonly response: UpstreamResponse }
  | { readonly kind: 'refusal'; readonly refusal: Refusal }
  /** The client did not wait. */
  | { readonly kind: 'left'; readonly reason: CancelReason }

/** The retry loop: attempts at one backend after another until one answers, or none is left. The lease of the last one is still held. */
export async function tryBackends(
  exchange: Exchange,
  request: ForwardRequest,
  picker: Picker,
  deps: ForwardDeps,
): Promise<TryResult> {
  const { record, cancellation } = exchange
  const history: History = { outcomes: [], throttledLeft: undefined, stopped: undefined }
  let fallback: FallbackResponse | undefined
  let firstSuspect: Lease | undefined
  // Looking for the resource that can read a state costs no token and is bounded by their number: it is no retry.
  let counted = 0
  const ticket = { place: 0 }
  while (counted < deps.limits.maxAttempts && cancellation.reason === undefined) {
    const first = picker.pick()
    const pick =
      first.kind === 'throttled' ? await waitForCapacity(exchange, request, picker, first, ticket, deps) : first
    if (pick.kind !== 'lease') {
      if (pick.kind !== 'left' && pick.kind !== 'queue_full') history.stopped = pick.kind
      break
    }
    const { member, lease } = pick
    record.attempts++
    record.backend = member.backend.name
    if (pick.servedByLowerTier) record.servedByLowerTier = true
    const askedMs = deps.clock.nowMs()

    let result = await sendToBackend(exchange, request, member, deps)
    if (deniesOwnItem(exchange, request, member, result)) result = await sendToBackend(exchange, request, member, deps)
    if (result.kind === 'response' && request.onRefused?.(member, result.response) === 'again') {
      result = await sendToBackend(exchange, request, member, deps)
    }
    if (result.kind === 'upgraded') {
      return { kind: 'upgraded', member, lease, outcome: { kind: 'served' }, askedMs, upgraded: result }
    }
    const outcome = outcomeFor(exchange, request, result)
    const values = result.kind === 'response' ? result.response.headers.values : result.values
    if (values !== undefined) noteSignals(member, values, deps.health)
    history.outcomes.push(outcome)
    if (result.kind === 'response' && !shouldRetry(outcome, request)) {
      return { kind: 'response', member, lease, outcome, askedMs, response: result.response }
    }
    const isSuspect = (outcome.kind === 'failed' && outcome.suspect) || outcome.kind === 'misconfigured'
    lease.release(blameOf(outcome, firstSuspect !== undefined))
    if (isSuspect) {
      if (firstSuspect === undefined) firstSuspect = lease
      else firstSuspect.withdraw()
    }
    if (outcome.kind === 'throttled') picker.throttled(member)
    report(
      exchange,
      request,
      member,
      { label: labelOf(outcome), detail: outcomeDetail(outcome), askedMs },
      deps.onAttempt,
    )
    if (outcome.kind === 'unsupported') request.onUnsupported?.(member)
    fallback = result.kind === 'response' ? { member, response: result.response, outcome } : undefined
    if (outcome.kind !== 'state_elsewhere') counted += isAttempt(outcome) ? 1 : 0
    else picker.skipResource(member.resourceId)
  }
  const { reason } = cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') return { kind: 'left', reason }
  if (reason !== undefined) {
    const message = 'The proxy is shutting down.'
    return { kind: 'refusal', refusal: { status: 503, code: 'draining', message, retryAfterMs: 1000 } }
  }
  if (fallback !== undefined && isPresentable(fallback.outcome)) {
    return { kind: 'fallback', member: fallback.member, response: fallback.response }
  }
  history.throttledLeft = picker.soonest()?.waitMs
  return { kind: 'refusal', refusal: exhaustedError(request.pool.model.name, history, undefined) }
}

/** Holds the lease until `passing` has ended, and tells how it did. */
function holdLease(
  exchange: Exchange,
  request: ForwardRequest,
  { member, lease, outcome, askedMs }: LastAttempt,
  passing: () => RelayResult | Promise<RelayResult>,
  deps: ForwardDeps,
): void | Promise<void> {
  const ended = (end: RelayResult): void => {
    lease.release({ kind: 'none' })
    recordResult(exchange, end)
    const label = end.kind === 'complete' ? labelOf(outcome) : end.kind
    const detail = end.kind === 'cut' ? end.detail : outcomeDetail(outcome)
    report(exchange, request, member, { label, detail, askedMs }, deps.onAttempt)
  }
  const failed = (error: unknown): never => {
    lease.release({ kind: 'none' })
    throw error
  }
  lease.answered()
  try {
    const end = passing()
    return end instanceof Promise ? end.then(ended, failed) : ended(end)
  } catch (error) {
    return failed(error)
  }
}

/** What the client gets. While that takes minutes, nothing of how it was found is kept: hence a function of its own. */
function respond(
  exchange: Exchange,
  request: ForwardRequest,
  found: TryResult,
  deps: ForwardDeps,
): void | Promise<void> {
  const { record } = exchange
  switch (found.kind) {
    case 'response':
      return holdLease(
        exchange,
        request,
        found,
        () => relayResponse(exchange, request, found.member, found.response, deps),
        deps,
      )
    case 'upgraded':
      return holdLease(
        exchange,
        request,
        found,
        () => request.upgrade?.open(found.member, found.upgraded) ?? { kind: 'complete' },
        deps,
      )
    case 'fallback': {
      record.backend = found.member.backend.name
      const end = relayResponse(exchange, request, found.member, found.response, deps)
      return end instanceof Promise ? end.then(told => recordResult(exchange, told)) : recordResult(exchange, end)
    }
    case 'refusal':
      return refuse(exchange, found.refusal)
    case 'left':
      record.error = found.reason
  }
}

/**
 * Forwards one request: every phase after its body is known. Always answers, cuts or is cancelled; never throws for what a
 * backend or a client does.
 */
export async function forward(exchange: Exchange, request: ForwardRequest, deps: ForwardDeps): Promise<void> {
  const picker = request.pool.picker(request.pickerOptions)
  try {
    await tryBackends(exchange, request, picker, deps).then(found => respond(exchange, request, found, deps))
  } finally {
    picker.end()
    request.releaseBody()
  }
}
