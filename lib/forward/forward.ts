// The story of one request: attempts in turn until one is the client's answer, then the relay; a refusal when none is. The
// decisions are made in outcome.ts and the balancer; here they are only carried out, in order.

import type { Lease, Standings } from '../balancer/health.ts'
import type { Member, Pick, Turn } from '../balancer/pool.ts'
import type { WaitQueue } from '../balancer/wait-queue.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { CancelReason, Exchange } from '../request-context.ts'
import { type AttemptReport, detailOf, noteSignals, recordAnswer, recordEnd, report } from './attempt-record.ts'
import { blameOf, finalRefusal, type History, labelOf, type Outcome } from './outcome.ts'
import { relay } from './relay.ts'
import { type AskDeps, askBackend } from './send.ts'
import type { Ask, AttemptResult, RelayEnd, RelayOptions, Upgraded, UpstreamAnswer } from './upstream.ts'

export interface ForwardDeps extends AskDeps {
  readonly standings: Standings
  readonly waitQueue: WaitQueue
  readonly limits: AskDeps['limits'] & {
    readonly maxAttempts: number
    readonly maxWaitMs: number
    readonly keepaliveMs: number
  }
  onAttempt(report: AttemptReport): void
}

/** A refused key is a mistake in the config only if it was the config's: a client's own ephemeral key may have expired. */
function outcomeFor({ ephemeral }: Exchange, { kind, outcome }: AttemptResult): Outcome {
  const clients = ephemeral !== undefined && kind === 'answer' && outcome.kind === 'misconfigured'
  return clients ? { kind: 'served' } : outcome
}

/** Gives an answer to the client; tells how that ended. At once where all of it is there already. */
function relayTo(
  exchange: Exchange,
  ask: Ask,
  member: Member,
  answer: UpstreamAnswer,
  deps: ForwardDeps,
): RelayEnd | Promise<RelayEnd> {
  recordAnswer(exchange, answer)
  ask.onServed?.(member, answer)
  ask.releaseBody()
  const { onEvents } = ask
  const options: RelayOptions = {
    backendName: member.backend.name,
    dialect: ask.dialect,
    idleMs: deps.limits.idleMs,
    keepaliveMs: deps.limits.keepaliveMs,
    dropUsageEvent: ask.dropsUsageEvent?.() === true,
    onEvents: onEvents === undefined ? undefined : bytes => onEvents(member, bytes),
  }
  return relay(exchange, answer, options, deps)
}

/** Whether another backend is worth asking after this. */
function goesOn(outcome: Outcome, ask: Ask): boolean {
  if (outcome.kind === 'foreign_state') return ask.searches
  return outcome.kind !== 'served' && outcome.kind !== 'cancelled'
}

/** An answer that was put aside because another backend might do better; given to the client when none did. */
interface PutAside {
  readonly member: Member
  readonly answer: UpstreamAnswer
  readonly outcome: Outcome
}

/** A throttle, a wrong key and a wrong deployment are ours to explain: their upstream answers would mislead a client. */
function isPresentable(outcome: Outcome): boolean {
  return outcome.kind !== 'throttled' && outcome.kind !== 'misconfigured'
}

/** How long a request that got no lease would have to wait; undefined where no wait brings it anything. */
function worthWaitingMs(pick: Pick, turn: Turn, aside: PutAside | undefined): number | undefined {
  if (pick.kind === 'throttled') return pick.waitMs
  // Who found out for itself that they are throttled waits like those who come later, unless it has an answer to give.
  if (pick.kind !== 'exhausted' || (aside !== undefined && isPresentable(aside.outcome))) return undefined
  return turn.soonestMs()
}

/**
 * Waits in the model's queue while all that is left is throttled and back in time; the clock starts when the request comes.
 * @returns whether another turn may be taken
 */
async function waited(
  exchange: Exchange,
  ask: Ask,
  turn: Turn,
  waitMs: number | undefined,
  deps: ForwardDeps,
): Promise<boolean> {
  const spentMs = deps.clock.nowMs() - exchange.beganMs
  if (waitMs === undefined || waitMs > deps.limits.maxWaitMs - spentMs) return false
  const woken = await deps.waitQueue.wait(ask.pool, waitMs, exchange.cancellation)
  if (woken) turn.retryThrottled()
  return woken
}

/** An attempt that was the last one, whose lease is still held. */
interface Last {
  readonly member: Member
  readonly lease: Lease
  readonly outcome: Outcome
  readonly askedMs: number
}

/** How the attempts ended. */
type Found =
  | (Last & { readonly kind: 'answer'; readonly answer: UpstreamAnswer })
  | (Last & { readonly kind: 'upgraded'; readonly upgraded: Upgraded })
  /** No attempt is left; this answer is better than none. */
  | { readonly kind: 'aside'; readonly member: Member; readonly answer: UpstreamAnswer }
  | { readonly kind: 'refusal'; readonly refusal: Refusal }
  /** The client did not wait. */
  | { readonly kind: 'left'; readonly reason: CancelReason }

async function findAnswer(exchange: Exchange, ask: Ask, turn: Turn, deps: ForwardDeps): Promise<Found> {
  const { record, cancellation } = exchange
  const history: History = { outcomes: [], throttledLeft: undefined, stopped: undefined }
  let aside: PutAside | undefined
  let metSuspect = false
  // Looking for the resource that can read a state costs no token and is bounded by their number: it is no retry.
  let counted = 0
  if (deps.limits.maxWaitMs > 0) await deps.waitQueue.takePlace(ask.pool, cancellation)
  while (counted < deps.limits.maxAttempts && cancellation.reason === undefined) {
    const pick = turn.next()
    if (pick.kind !== 'lease') {
      if (await waited(exchange, ask, turn, worthWaitingMs(pick, turn, aside), deps)) continue
      history.stopped = pick.kind
      break
    }
    const { member, lease } = pick
    record.attempts++
    record.backend = member.backend.name
    if (pick.spilled) record.spilled = true
    const askedMs = deps.clock.nowMs()

    let result = await askBackend(exchange, ask, member, deps)
    if (result.kind === 'answer' && ask.onRefused?.(member, result.answer) === 'again') {
      result = await askBackend(exchange, ask, member, deps)
    }
    if (result.kind === 'upgraded') {
      return { kind: 'upgraded', member, lease, outcome: { kind: 'served' }, askedMs, upgraded: result }
    }
    const outcome = outcomeFor(exchange, result)
    const values = result.kind === 'answer' ? result.answer.headers.values : result.values
    if (values !== undefined) noteSignals(member, values, deps.standings)
    history.outcomes.push(outcome)
    if (result.kind === 'answer' && !goesOn(outcome, ask)) {
      return { kind: 'answer', member, lease, outcome, askedMs, answer: result.answer }
    }
    lease.release(blameOf(outcome, metSuspect))
    report(exchange, ask, member, { label: labelOf(outcome), detail: detailOf(outcome), askedMs }, deps.onAttempt)
    if (outcome.kind === 'failed' && outcome.suspect) metSuspect = true
    if (outcome.kind === 'unsupported') ask.onUnsupported?.(member)
    aside = result.kind === 'answer' ? { member, answer: result.answer, outcome } : undefined
    if (outcome.kind !== 'foreign_state') counted++
    else turn.skipResource(member.resourceId)
  }
  const { reason } = cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') return { kind: 'left', reason }
  if (reason !== undefined) {
    const message = 'The proxy is shutting down.'
    return { kind: 'refusal', refusal: { status: 503, code: 'draining', message, retryAfterMs: 1000 } }
  }
  if (aside !== undefined && isPresentable(aside.outcome)) {
    return { kind: 'aside', member: aside.member, answer: aside.answer }
  }
  history.throttledLeft = turn.soonestMs()
  const ownerBackMs = ask.bound ? turn.soonestBackMs() : undefined
  return { kind: 'refusal', refusal: finalRefusal(ask.pool.model.name, history, ownerBackMs) }
}

/** Holds the lease until `passing` has ended, and tells how it did. */
function settle(
  exchange: Exchange,
  ask: Ask,
  { member, lease, outcome, askedMs }: Last,
  passing: () => RelayEnd | Promise<RelayEnd>,
  deps: ForwardDeps,
): void | Promise<void> {
  const ended = (end: RelayEnd): void => {
    lease.release({ kind: 'none' })
    recordEnd(exchange, end)
    const label = end.kind === 'complete' ? labelOf(outcome) : end.kind
    const detail = end.kind === 'cut' ? end.detail : detailOf(outcome)
    report(exchange, ask, member, { label, detail, askedMs }, deps.onAttempt)
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
function giveOut(exchange: Exchange, ask: Ask, found: Found, deps: ForwardDeps): void | Promise<void> {
  const { record } = exchange
  switch (found.kind) {
    case 'answer':
      return settle(exchange, ask, found, () => relayTo(exchange, ask, found.member, found.answer, deps), deps)
    case 'upgraded':
      return settle(
        exchange,
        ask,
        found,
        () => ask.upgrade?.open(found.member, found.upgraded) ?? { kind: 'complete' },
        deps,
      )
    case 'aside': {
      record.backend = found.member.backend.name
      const end = relayTo(exchange, ask, found.member, found.answer, deps)
      return end instanceof Promise ? end.then(told => recordEnd(exchange, told)) : recordEnd(exchange, end)
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
export async function forward(exchange: Exchange, ask: Ask, deps: ForwardDeps): Promise<void> {
  const turn = ask.pool.begin(ask.turn)
  try {
    await findAnswer(exchange, ask, turn, deps).then(found => giveOut(exchange, ask, found, deps))
  } finally {
    turn.end()
    ask.releaseBody()
  }
}
