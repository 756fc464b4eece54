// One try at one backend, up to the point where its response is either the client's or known not to be. Never throws
// for what it meets: that is its result. It knows no pools and sends nothing to the client.
import type { Socket } from 'node:net'
import type { Clock, Deadline, Deadlines } from '../clock.ts'
import type { ResponseBody, ResponseHead, Sent, Transport } from '../http1/send.ts'
import { ConnectError, ProtocolError, type ResponseHandler } from '../http1/send.ts'
import { errorCode } from './body-reading.ts'
import { type Outcome, transportFailure } from './outcome.ts'
import { readResponse } from './read-response.ts'
import type { AttemptPlan, AttemptResult, Upgraded } from './upstream.ts'

export interface AttemptDeps {
  readonly transport: Transport
  readonly deadlines: Deadlines
  readonly clock: Clock
}

function connectFailed(detail: string): boolean {
  return (
    /^(ECONNREFUSED|ENOTFOUND|EAI_|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT)/.test(detail) ||
    /^(ERR_TLS|ERR_SSL|CERT_|DEPTH_ZERO|UNABLE_TO|SELF_SIGNED|EPROTO|HOSTNAME_MISMATCH)/.test(detail)
  )
}

/**
 * What this machine ran out of: descriptors, socket buffers, memory, local ports, its resolver (errno(3),
 * getaddrinfo(3)).
 */
const SHORTAGES: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL', 'EAI_AGAIN'])

/** No connection was made, so that nothing of the request can have reached the backend. */
function notConnected({ code, message, phase, timeout }: ConnectError): Outcome {
  const detail = `${code}: ${message}`
  if (phase === 'proxy') return transportFailure('egress_refused', detail)
  return transportFailure(timeout ? 'connect_timeout' : 'connect_failed', detail)
}

/** What it means that no response came. */
function failureOf(error: Error): Outcome {
  const code = errorCode(error)
  if (SHORTAGES.has(code)) return { kind: 'shortage', detail: code }
  if (error instanceof ConnectError) return notConnected(error)
  if (error instanceof ProtocolError) return transportFailure('protocol_error', error.code)
  return transportFailure(connectFailed(code) ? 'connect_failed' : 'connection_lost', code)
}

/**
 * A used connection that dies this soon after a request was sent, without a byte of a response, was closed before the
 * request arrived. Later the backend may have worked on it for minutes: sent again it is paid twice.
 */
const STALE_MS = 1_000

type Tried = AttemptResult | Upgraded | { readonly kind: 'stale_socket' }

interface How {
  readonly fresh: boolean
  readonly maySwitch: boolean
}

/** What a try waits for: its time runs out with another outcome each. */
type Phase = 'resolver' | 'connect_timeout' | 'header_timeout'

/** One try, begun as it is made. One for every request: a class, whose methods are made once. */
class Try implements ResponseHandler {
  private readonly plan: AttemptPlan
  private readonly deps: AttemptDeps
  private readonly fresh: boolean
  private readonly done: (tried: Tried) => void
  private readonly sent: Sent
  private readonly deadline: Deadline
  private readonly stopWatching: () => void
  private finished = false
  private pending: Phase = 'resolver'

  constructor(plan: AttemptPlan, deps: AttemptDeps, how: How, done: (tried: Tried) => void) {
    const { wire, body, timeouts, cancellation } = plan
    this.plan = plan
    this.deps = deps
    this.fresh = how.fresh
    this.done = done
    const { fresh, maySwitch } = how
    const beganMs = deps.clock.nowMs()
    this.sent = deps.transport.send(wire, body, { fresh, maySwitch, connectMs: timeouts.connectMs }, this)
    this.deadline = deps.deadlines.add(beganMs + timeouts.headersMs, () => this.late())
    if (!this.sent.connecting) this.pending = 'header_timeout'
    this.stopWatching = cancellation.onCancel(reason =>
      queueMicrotask(() => this.giveUp({ kind: 'cancelled', reason })),
    )
  }

  connecting(): void {
    this.pending = 'connect_timeout'
  }

  connected(): void {
    this.pending = 'header_timeout'
  }

  head(head: ResponseHead, source: ResponseBody): void {
    const { plan, deps, done } = this
    if (!this.finishOnce()) source.destroy()
    else if (head.status === 421 && !this.sent.connecting) {
      readResponse(plan, deps, head, source, result =>
        done(result.kind === 'response' ? { ...result, reused: true } : result),
      )
    } else readResponse(plan, deps, head, source, done)
  }

  switched(upstreamResponse: ResponseHead, socket: Socket, head: Buffer): void {
    if (this.finishOnce()) this.done({ kind: 'upgraded', response: upstreamResponse, socket, head })
    else socket.destroy()
  }

  failed(error: Error, stale: boolean): void {
    if (!this.finishOnce()) return
    // RFC 9112 section 9.3.1: the far side may close an idle connection at any time.
    const closedBefore = stale && this.deps.clock.nowMs() - this.countsFromMs() <= STALE_MS
    if (closedBefore && !this.fresh && !(error instanceof ProtocolError)) this.done({ kind: 'stale_socket' })
    else this.done({ kind: 'no_response', outcome: failureOf(error) })
  }

  /** When it began, moved by the time for which this process stood still since: as its deadline was. */
  private countsFromMs(): number {
    return this.deadline.dueMs - this.plan.timeouts.headersMs
  }

  private finishOnce(): boolean {
    if (this.finished) return false
    this.finished = true
    this.deps.deadlines.remove(this.deadline)
    this.stopWatching()
    return true
  }

  private giveUp(outcome: Outcome): void {
    if (!this.finishOnce()) return
    this.sent.destroy()
    this.done({ kind: 'no_response', outcome })
  }

  private late(): void {
    const { pending } = this
    // The time of the resolver is not the backend's.
    if (pending === 'resolver') this.giveUp({ kind: 'shortage', detail: 'EAI_AGAIN' })
    else this.giveUp(transportFailure(pending, pending === 'connect_timeout' ? 'no connection' : 'no headers'))
  }
}

function beginTry(plan: AttemptPlan, deps: AttemptDeps, how: How, done: (tried: Tried) => void): void {
  new Try(plan, deps, how, done)
}

/**
 * Step 8 of a request (lib/README.md). A used connection that turns out dead before any byte of a response is nobody's
 * fault: once more, on a fresh one.
 */
export function attempt(plan: AttemptPlan, deps: AttemptDeps): Promise<AttemptResult> {
  return new Promise(resolve =>
    beginTry(plan, deps, { fresh: plan.fresh, maySwitch: false }, tried => {
      if (tried.kind === 'response' || tried.kind === 'no_response') resolve(tried)
      else tryAfresh(plan, deps, resolve)
    }),
  )
}

function tryAfresh(plan: AttemptPlan, deps: AttemptDeps, done: (result: AttemptResult) => void): void {
  beginTry(plan, deps, { fresh: true, maySwitch: false }, tried => {
    if (tried.kind === 'response' || tried.kind === 'no_response') done(tried)
    else done({ kind: 'no_response', outcome: transportFailure('connection_lost', 'stale socket') })
  })
}

/**
 * One try to open a WebSocket, on a connection of its own. Either the backend agrees, or it sends a plain HTTP
 * response, which is judged.
 * @param plan its wire headers ask for the upgrade already
 */
export function attemptUpgrade(plan: AttemptPlan, deps: AttemptDeps): Promise<AttemptResult | Upgraded> {
  return new Promise(resolve => {
    beginTry(plan, deps, { fresh: true, maySwitch: true }, tried => {
      if (tried.kind !== 'stale_socket') resolve(tried)
    })
  })
}
