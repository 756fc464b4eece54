// The story of one request: attempts in turn until one is the client's answer, then the relay; a refusal when none is. The
// decisions are made in outcome.ts and the balancer; here they are only carried out, in order.
import type { IncomingMessage } from 'node:http'
import type { Authorization, Authorizer } from '../azure/credentials.ts'
import type { Dialect } from '../azure/operations.ts'
import { exhaustedForMs, rateLimitSignals } from '../azure/waits.ts'
import type { Member, Pick, Pool, Turn, TurnOptions } from '../balancer/pool.ts'
import type { Lease, Standings } from '../balancer/standings.ts'
import type { WaitQueue } from '../balancer/wait-queue.ts'
import type { Clock } from '../clock.ts'
import type { BackendConfig } from '../config/types.ts'
import { type AttemptPlan, type AttemptResult, type AttemptTimeouts, attempt, type UpstreamAnswer } from './attempt.ts'
import type { ChunkList } from './chunk-list.ts'
import type { Deadlines } from './deadlines.ts'
import type { Exchange } from './exchange.ts'
import { upstreamHeaders } from './headers.ts'
import { blameOf, labelOf, type Outcome, type OutcomeLabel } from './outcome.ts'
import { type Refusal, refuse } from './refuse.ts'
import { type RelayEnd, type RelayOptions, relay } from './relay.ts'
import type { Transport } from './transport.ts'
import { attemptUpgrade, type Upgraded } from './upgrade.ts'
import { finalRefusal, type History } from './verdict.ts'

/** What the body is for one backend, and what was changed in it that the answer must be put right for. */
export interface BackendBody extends ChunkList {
  /** Usage was asked for in the client's name: its event is taken out again. */
  readonly dropUsageEvent: boolean
}

/** One request as the handlers understand it. */
export interface Ask {
  readonly pool: Pool
  readonly method: string
  readonly dialect: Dialect
  readonly wantsStream: boolean
  /** The body is known to be a JSON object. */
  readonly json: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly creates: boolean
  /** Path and query at a backend. */
  path(backend: BackendConfig): string
  body(member: Member): BackendBody
  /** No further attempt can need the body. */
  releaseBody(): void
  /** Which members it may go to, and which it had better not. */
  readonly turn: TurnOptions
  /** The state it names lives in one resource: no failover beyond `turn.allow`, and a wait instead of a wrong answer. */
  readonly bound: boolean
  /** It carries state whose home is not known: a resource that cannot read it passes it on to the next one. */
  readonly searches: boolean
  /** Sees the first bytes of an answer that is passed on, and whose it is. */
  onServed?(member: Member, answer: UpstreamAnswer): void
  /** Sees whole events of an answer's stream. */
  onEvents?(member: Member, events: Buffer): void
  /** Looks at an answer before it is judged final; `again` asks the same backend once more with a changed body. */
  onRefused?(member: Member, answer: UpstreamAnswer): 'again' | undefined
  /** The backend turned out not to offer the operation. */
  onUnsupported?(member: Member): void
  /** It asks for a WebSocket: the headers that do, and what becomes of a backend's agreement. */
  readonly upgrade?: {
    readonly headers: readonly string[]
    open(member: Member, upgraded: Upgraded): Promise<RelayEnd>
  }
}

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

export interface ForwardDeps {
  readonly clock: Clock
  readonly transport: Transport
  readonly deadlines: Deadlines
  readonly standings: Standings
  readonly waitQueue: WaitQueue
  authorizer(member: Member): Authorizer
  readonly limits: {
    readonly maxAttempts: number
    readonly maxWaitMs: number
    readonly connectMs: number
    readonly streamHoldMs: number
    readonly idleMs: number
    readonly keepaliveMs: number
  }
  onAttempt(report: AttemptReport): void
}

function timeoutsFor(pool: Pool, { limits }: ForwardDeps): AttemptTimeouts {
  return {
    connectMs: limits.connectMs,
    headersMs: pool.model.timeoutMs,
    firstOutputMs: pool.model.firstOutputTimeoutMs,
    streamHoldMs: limits.streamHoldMs,
    idleMs: limits.idleMs,
  }
}

function detailOf(outcome: Outcome): string {
  return 'detail' in outcome ? outcome.detail : ''
}

/** curl -d calls its JSON a form and some clients call it nothing: Azure answers both with 415, though the body is sound. */
function asJson(headers: string[]): void {
  const at = headers.findIndex((text, i) => i % 2 === 0 && text.toLowerCase() === 'content-type')
  if (at === -1) headers.push('content-type', 'application/json')
  else if (/^application\/x-www-form-urlencoded/i.test(headers[at + 1] ?? '')) headers[at + 1] = 'application/json'
}

/** Makes the attempt's headers; undefined body length means there is no body and no Content-Length. */
function wireHeaders(
  request: IncomingMessage,
  backend: BackendConfig,
  authorization: { readonly name: string; readonly value: string } | undefined,
  byteLength: number | undefined,
  json: boolean,
): string[] {
  const headers = upstreamHeaders(request.rawHeaders, backend.type)
  if (json) asJson(headers)
  headers.push('host', backend.endpoint.host, 'accept-encoding', 'identity')
  if (authorization !== undefined) headers.push(authorization.name, authorization.value)
  if (byteLength !== undefined) headers.push('content-length', String(byteLength))
  return headers
}

/** A refused key is a mistake in the config only if it was the config's: a client's own ephemeral key may have expired. */
function outcomeFor({ ephemeral }: Exchange, { kind, outcome }: AttemptResult): Outcome {
  const clients = ephemeral !== undefined && kind === 'answer' && outcome.kind === 'misconfigured'
  return clients ? { kind: 'served' } : outcome
}

/** What an attempt brought. It must not hold the body, which is let go of while the answer may stream for minutes. */
interface Tried {
  readonly result: AttemptResult | Upgraded
  readonly dropUsageEvent: boolean
}

/** A token is fetched for many requests: one that is given up does not wait for it, and does not end the fetch. */
function unlessCancelled(
  fetching: Promise<Authorization>,
  { cancellation }: Exchange,
): Promise<Authorization | (Outcome & { readonly kind: 'cancelled' })> {
  return new Promise((resolve, reject) => {
    const takeBack = cancellation.onCancel(reason => resolve({ kind: 'cancelled', reason }))
    fetching.then(resolve, reject).finally(takeBack)
  })
}

async function attemptAt(exchange: Exchange, ask: Ask, member: Member, deps: ForwardDeps): Promise<Tried> {
  const { backend } = member
  const body = ask.body(member)
  const given: Authorization | Promise<Authorization> =
    exchange.ephemeral === undefined
      ? deps.authorizer(member).authorize()
      : { kind: 'header', name: 'authorization', value: `Bearer ${exchange.ephemeral.secret}` }
  const authorization = given instanceof Promise ? await unlessCancelled(given, exchange) : given
  if (authorization.kind === 'cancelled') {
    return { result: { kind: 'no_answer', outcome: authorization }, dropUsageEvent: false }
  }
  if (authorization.kind === 'unavailable') {
    const outcome: Outcome = { kind: 'misconfigured', reason: 'credential_unavailable', detail: authorization.reason }
    return { result: { kind: 'no_answer', outcome }, dropUsageEvent: false }
  }
  const hasBody = body.byteLength > 0 || ask.method === 'POST'
  const headers = wireHeaders(
    exchange.request,
    backend,
    authorization.kind === 'header' ? authorization : undefined,
    hasBody ? body.byteLength : undefined,
    body.byteLength > 0 && ask.json,
  )
  if (ask.upgrade !== undefined) headers.push(...ask.upgrade.headers)
  const plan: AttemptPlan = {
    wire: { endpoint: backend.endpoint, method: ask.method, path: ask.path(backend), headers },
    body: body.chunks,
    dialect: ask.dialect,
    wantsStream: ask.wantsStream,
    creates: ask.creates,
    timeouts: timeoutsFor(ask.pool, deps),
    cancellation: exchange.cancellation,
  }
  const result = await (ask.upgrade === undefined ? attempt(plan, deps) : attemptUpgrade(plan, deps))
  return { result, dropUsageEvent: body.dropUsageEvent }
}

function noteSignals(member: Member, headers: IncomingMessage['headers'], standings: Standings): void {
  if (
    headers['x-ratelimit-remaining-requests'] === undefined &&
    headers['x-ratelimit-remaining-tokens'] === undefined
  ) {
    return
  }
  const signals = rateLimitSignals(headers)
  const { remainingRequests, remainingTokens, limitRequests, limitTokens } = signals
  standings.noteHeadroom(
    member.standing,
    { remainingRequests, remainingTokens, limitRequests, limitTokens },
    exhaustedForMs(signals),
  )
}

function header(response: IncomingMessage, name: string): string | undefined {
  const value = response.headers[name]
  const text = Array.isArray(value) ? value[0] : value
  // Shown in log lines: bounded, and only what such ids and names are made of.
  return text !== undefined && /^[\w .:/-]{1,128}$/.test(text) ? text : undefined
}

function recordAnswer(exchange: Exchange, { response }: UpstreamAnswer): void {
  const { record } = exchange
  record.upstreamId = header(response, 'apim-request-id') ?? header(response, 'x-request-id')
  const from = header(response, 'x-ms-spillover-from-deployment')
  if (from !== undefined) record.spilledOver = from
  else if (response.headers['x-ms-is-spilled-over'] === 'true') {
    record.spilledOver = header(response, 'x-ms-deployment-name') ?? 'yes'
  }
}

/** Gives an answer to the client; tells how that ended. */
async function relayTo(
  exchange: Exchange,
  ask: Ask,
  member: Member,
  answer: UpstreamAnswer,
  dropUsageEvent: boolean,
  deps: ForwardDeps,
): Promise<RelayEnd> {
  const { record } = exchange
  recordAnswer(exchange, answer)
  ask.onServed?.(member, answer)
  ask.releaseBody()
  const base: RelayOptions = {
    backendName: member.backend.name,
    dialect: ask.dialect,
    idleMs: deps.limits.idleMs,
    keepaliveMs: deps.limits.keepaliveMs,
    dropUsageEvent,
  }
  const onEvents = ask.onEvents
  const options = onEvents === undefined ? base : { ...base, onEvents: (bytes: Buffer) => onEvents(member, bytes) }
  const end = await relay(exchange, answer, options, deps)
  if (end.kind === 'cut') record.error = `cut: ${end.detail}`
  else if (end.kind === 'cancelled') record.error = end.reason
  return end
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
  const { record } = exchange
  lease.answered()
  let end: RelayEnd | undefined
  try {
    end = await ask.upgrade?.open(member, upgraded)
  } finally {
    lease.release({ kind: 'none' })
  }
  if (end?.kind === 'cut') record.error = `cut: ${end.detail}`
  else if (end?.kind === 'cancelled') record.error = end.reason
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

      let tried = await attemptAt(exchange, ask, member, deps)
      if (tried.result.kind === 'answer' && ask.onRefused?.(member, tried.result.answer) === 'again') {
        tried = await attemptAt(exchange, ask, member, deps)
      }
      const { result, dropUsageEvent } = tried
      if (result.kind === 'upgraded') {
        await openTunnel(exchange, ask, { member, lease, askedMs, upgraded: result }, deps)
        return
      }
      const outcome = outcomeFor(exchange, result)
      const headers = result.kind === 'answer' ? result.answer.response.headers : result.headers
      if (headers !== undefined) noteSignals(member, headers, deps.standings)
      history.outcomes.push(outcome)

      if (result.kind === 'answer' && !goesOn(outcome, ask)) {
        lease.answered()
        let end: RelayEnd | undefined
        try {
          end = await relayTo(exchange, ask, member, result.answer, dropUsageEvent, deps)
        } finally {
          lease.release({ kind: 'none' })
        }
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
      await relayTo(exchange, ask, aside.member, aside.answer, false, deps)
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
