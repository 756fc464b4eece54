// The story of one request: attempts in turn until one is the client's answer, then the relay; a refusal when none is. The
// decisions are made in outcome.ts and the balancer; here they are only carried out, in order.
import { exhaustedForMs, rateLimitSignals } from '../azure/waits.ts'
import type { Member, Pick, Turn } from '../balancer/pool.ts'
import type { Lease, Standings } from '../balancer/standings.ts'
import type { WaitQueue } from '../balancer/wait-queue.ts'
import type { Ask } from './ask.ts'
import { type AskDeps, askBackend } from './ask-backend.ts'
import type { Upgraded } from './attempt.ts'
import type { AttemptResult, UpstreamAnswer } from './attempt-result.ts'
import type { Exchange } from './exchange.ts'
import type { AnswerValues } from './headers.ts'
import { blameOf, labelOf, type Outcome, type OutcomeLabel } from './outcome.ts'
import { type Refusal, refuse } from './refuse.ts'
import { relay } from './relay.ts'
import type { RelayEnd, RelayOptions } from './relay-terms.ts'
import { finalRefusal, type History } from './verdict.ts'

/** Seen by logs and metrics, once an attempt. */
export interface AttemptReport {
  readonly model: string
  readonly backend: string
  readonly label: OutcomeLabel
  readonly detail: string
  readonly attempt: number
  /** Milliseconds from asking this backend to the first byte that was passed on; undefined when none was. */
  readonly ttfbMs: number | undefined
}

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

function detailOf(outcome: Outcome): string {
  return 'detail' in outcome ? outcome.detail : ''
}

/** A refused key is a mistake in the config only if it was the config's: a client's own ephemeral key may have expired. */
function outcomeFor({ ephemeral }: Exchange, { kind, outcome }: AttemptResult): Outcome {
  const clients = ephemeral !== undefined && kind === 'answer' && outcome.kind === 'misconfigured'
  return clients ? { kind: 'served' } : outcome
}

function noteSignals(member: Member, values: AnswerValues, standings: Standings): void {
  if (values['x-ratelimit-remaining-requests'] === undefined && values['x-ratelimit-remaining-tokens'] === undefined) {
    return
  }
  const signals = rateLimitSignals(values)
  standings.noteHeadroom(member.standing, signals, exhaustedForMs(signals))
}

/** What may be shown in a log line: bounded, and only what such ids and names are made of. */
function shown(value: string | undefined): string | undefined {
  return value !== undefined && /^[\w .:/-]{1,128}$/.test(value) ? value : undefined
}

function recordAnswer({ record }: Exchange, { headers }: UpstreamAnswer): void {
  const { values } = headers
  record.upstreamId = shown(values['apim-request-id']) ?? shown(values['x-request-id'])
  const from = shown(values['x-ms-spillover-from-deployment'])
  if (from !== undefined) record.spilledOver = from
  else if (values['x-ms-is-spilled-over'] === 'true') {
    record.spilledOver = shown(values['x-ms-deployment-name']) ?? 'yes'
  }
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

function recordEnd({ record }: Exchange, end: RelayEnd): void {
  if (end.kind === 'cut') record.error = `cut: ${end.detail}`
  else if (end.kind === 'cancelled') record.error = end.reason
}

function report(
  exchange: Exchange,
  ask: Ask,
  member: Member,
  { label, detail, askedMs }: { readonly label: OutcomeLabel; readonly detail: string; readonly askedMs: number },
  deps: ForwardDeps,
): void {
  const { ttfbMs, attempts } = exchange.record
  deps.onAttempt({
    model: ask.pool.model.name,
    backend: member.backend.name,
    label,
    detail,
    attempt: attempts,
    ttfbMs: ttfbMs === undefined ? undefined : exchange.beganMs + ttfbMs - askedMs,
  })
}

/** A backend agreed to a WebSocket: the lease is held for as long as the session lasts. */
async function openTunnel(
  exchange: Exchange,
  ask: Ask,
  {
    member,
    lease,
    askedMs,
    upgraded,
  }: { readonly member: Member; readonly lease: Lease; readonly askedMs: number; readonly upgraded: Upgraded },
  deps: ForwardDeps,
): Promise<void> {
  lease.answered()
  let end: RelayEnd | undefined
  try {
    end = await ask.upgrade?.open(member, upgraded)
  } finally {
    lease.release({ kind: 'none' })
  }
  if (end !== undefined) recordEnd(exchange, end)
  const label = end === undefined || end.kind === 'complete' ? 'served' : end.kind
  report(exchange, ask, member, { label, detail: end?.kind === 'cut' ? end.detail : '', askedMs }, deps)
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

/**
 * Forwards one request: every phase after its body is known. Always answers, cuts or is cancelled; never throws for what a
 * backend or a client does.
 */
export async function forward(exchange: Exchange, ask: Ask, deps: ForwardDeps): Promise<void> {
  const { record, cancellation } = exchange
  const turn = ask.pool.begin(ask.turn)
  const history: History = { outcomes: [], throttledLeft: undefined, stopped: undefined }
  let aside: PutAside | undefined
  let metSuspect = false
  // Looking for the resource that can read a state costs no token and is bounded by their number: it is no retry.
  let counted = 0
  try {
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
        await openTunnel(exchange, ask, { member, lease, askedMs, upgraded: result }, deps)
        return
      }
      const outcome = outcomeFor(exchange, result)
      const values = result.kind === 'answer' ? result.answer.headers.values : result.values
      if (values !== undefined) noteSignals(member, values, deps.standings)
      history.outcomes.push(outcome)

      if (result.kind === 'answer' && !goesOn(outcome, ask)) {
        lease.answered()
        let end: RelayEnd
        try {
          const passing = relayTo(exchange, ask, member, result.answer, deps)
          end = passing instanceof Promise ? await passing : passing
        } finally {
          lease.release({ kind: 'none' })
        }
        recordEnd(exchange, end)
        const label = end.kind === 'complete' ? labelOf(outcome) : end.kind
        const detail = end.kind === 'cut' ? end.detail : detailOf(outcome)
        report(exchange, ask, member, { label, detail, askedMs }, deps)
        return
      }
      lease.release(blameOf(outcome, metSuspect))
      report(exchange, ask, member, { label: labelOf(outcome), detail: detailOf(outcome), askedMs }, deps)
      if (outcome.kind === 'failed' && outcome.suspect) metSuspect = true
      if (outcome.kind === 'unsupported') ask.onUnsupported?.(member)
      aside = result.kind === 'answer' ? { member, answer: result.answer, outcome } : undefined
      if (outcome.kind !== 'foreign_state') counted++
      else turn.skipResource(member.resourceId)
    }
    if (cancellation.reason === 'client_closed' || cancellation.reason === 'client_stalled') {
      record.error = cancellation.reason
      return
    }
    if (cancellation.reason !== undefined) {
      refuse(exchange, { status: 503, code: 'draining', message: 'The proxy is shutting down.', retryAfterMs: 1000 })
      return
    }
    if (aside !== undefined && isPresentable(aside.outcome)) {
      record.backend = aside.member.backend.name
      recordEnd(exchange, await relayTo(exchange, ask, aside.member, aside.answer, deps))
      return
    }
    history.throttledLeft = turn.soonestMs()
    refuse(exchange, verdictOf(ask, turn, history))
  } finally {
    turn.end()
    ask.releaseBody()
  }
}

function verdictOf(ask: Ask, turn: Turn, history: History): Refusal {
  return finalRefusal(ask.pool.model.name, history, ask.bound ? turn.soonestBackMs() : undefined)
}
