// The response to the client once the retry loop has ended: an upstream's response, a tunnel, or a refusal of ours. No
// second chance here.
import type { Blame, Lease } from '../balancer/health.ts'
import type { Member } from '../balancer/pool.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { CancelReason, Exchange } from '../request-context.ts'
import { type AttemptReport, outcomeDetail, recordResponse, recordResult, report } from './attempt-record.ts'
import { labelOf, type Outcome } from './outcome.ts'
import { relay } from './relay.ts'
import type { ForwardRequest, RelayDeps, RelayOptions, RelayResult, Upgraded, UpstreamResponse } from './upstream.ts'

export interface RespondDeps extends RelayDeps {
  readonly limits: { readonly idleMs: number; readonly keepaliveMs: number }
  onAttempt(report: AttemptReport): void
}

const HEALTHY: Blame = { kind: 'healthy' }
const NO_BLAME: Blame = { kind: 'none' }

/** The response of one backend. */
export interface MemberResponse {
  readonly member: Member
  readonly response: UpstreamResponse
  /** Its usage event is taken out again. */
  readonly asksUsage: boolean
}

/** An attempt that was the last one, whose lease is still held. */
export interface LastAttempt {
  readonly member: Member
  readonly lease: Lease
  readonly outcome: Outcome
  readonly askedMs: number
  /** Another backend had failed before: this one saved the request. */
  readonly isFailover: boolean
}

/** How the attempts ended. */
export type TryResult =
  | (LastAttempt & MemberResponse & { readonly kind: 'response' })
  | (LastAttempt & { readonly kind: 'upgraded'; readonly upgraded: Upgraded })
  /** No attempt is left; this response is better than none. */
  | (MemberResponse & { readonly kind: 'fallback' })
  | { readonly kind: 'refusal'; readonly refusal: Refusal }
  /** The client did not wait. */
  | { readonly kind: 'left'; readonly reason: CancelReason }

/** Gives a response to the client; returns how that ended. At once where all of it is there already. */
function relayResponse(
  exchange: Exchange,
  request: ForwardRequest,
  { member, response, asksUsage }: MemberResponse,
  deps: RespondDeps,
): RelayResult | Promise<RelayResult> {
  recordResponse(exchange, response)
  request.observer?.onResponse(member, response)
  request.releaseBody()
  const onEvents = request.observer?.onEvents
  const options: RelayOptions = {
    backendName: member.backend.name,
    dialect: request.dialect,
    idleMs: deps.limits.idleMs,
    keepaliveMs: deps.limits.keepaliveMs,
    dropUsageEvent: asksUsage,
    onEvents: onEvents === undefined ? undefined : bytes => onEvents(member, bytes),
  }
  return relay(exchange, response, options, deps)
}

/** Holds the lease until `passing` has ended, and returns how it did. */
function holdLease(
  exchange: Exchange,
  request: ForwardRequest,
  { member, lease, outcome, askedMs, isFailover }: LastAttempt,
  passing: () => RelayResult | Promise<RelayResult>,
  deps: RespondDeps,
): void | Promise<void> {
  // A response that the client has caused itself says nothing of the backend.
  const saysSound = outcome.kind !== 'clients_own'
  const ended = (end: RelayResult): void => {
    // Sound at its end as well: what others met while it streamed is not a row without a success between.
    lease.release(saysSound && end.kind === 'complete' ? HEALTHY : NO_BLAME)
    recordResult(exchange, end)
    const label = end.kind === 'complete' ? labelOf(outcome) : end.kind
    const detail = end.kind === 'cut' ? end.detail : outcomeDetail(outcome)
    report(exchange, request, member, { label, detail, askedMs, isFailover }, deps.onAttempt)
  }
  const failed = (error: unknown): never => {
    lease.release(NO_BLAME)
    throw error
  }
  if (saysSound) lease.answered()
  try {
    const end = passing()
    return end instanceof Promise ? end.then(ended, failed) : ended(end)
  } catch (error) {
    return failed(error)
  }
}

/**
 * Sends the result. Its own function, so that the loop's locals can be collected while a stream runs for minutes.
 */
export function respond(
  exchange: Exchange,
  request: ForwardRequest,
  found: TryResult,
  deps: RespondDeps,
): void | Promise<void> {
  const { record } = exchange
  switch (found.kind) {
    case 'response':
      return holdLease(exchange, request, found, () => relayResponse(exchange, request, found, deps), deps)
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
      const end = relayResponse(exchange, request, found, deps)
      return end instanceof Promise ? end.then(relayed => recordResult(exchange, relayed)) : recordResult(exchange, end)
    }
    case 'refusal':
      return refuse(exchange, found.refusal)
    case 'left':
      record.error = found.reason
  }
}
