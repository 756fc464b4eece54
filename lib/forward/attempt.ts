// One try at one backend, up to the point where its response is either the client's or known not to be. Never throws
// for what it meets: that is its result. It knows no pools and sends nothing to the client.
import type { Clock, Deadlines } from '../clock.ts'
import type { Transport } from '../http1/send.ts'
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

function tryOnce(plan: AttemptPlan, deps: AttemptDeps, how: How, done: (tried: Tried) => void): void {
  const { transport, deadlines, clock } = deps
  const { wire, body, timeouts, cancellation } = plan
  let finished = false
  let pending: 'resolver' | 'connect_timeout' | 'header_timeout' = 'resolver'

  const finishOnce = (): boolean => {
    if (finished) return false
    finished = true
    deadlines.remove(deadline)
    stopWatching()
    return true
  }
  const giveUp = (outcome: Outcome): void => {
    if (!finishOnce()) return
    sent.destroy()
    done({ kind: 'no_response', outcome })
  }
  const handler: ResponseHandler = {
    connecting() {
      pending = 'connect_timeout'
    },
    connected() {
      pending = 'header_timeout'
    },
    head(head, source) {
      if (!finishOnce()) source.destroy()
      else if (head.status === 421 && !sent.connecting) {
        readResponse(plan, deps, head, source, result =>
          done(result.kind === 'response' ? { ...result, reused: true } : result),
        )
      } else readResponse(plan, deps, head, source, done)
    },
    switched(upstreamResponse, socket, head) {
      if (finishOnce()) done({ kind: 'upgraded', response: upstreamResponse, socket, head })
      else socket.destroy()
    },
    failed(error, stale) {
      if (!finishOnce()) return
      // RFC 9112 section 9.3.1: the far side may close an idle connection at any time.
      const closedBefore = stale && clock.nowMs() - beganMs <= STALE_MS
      if (closedBefore && !how.fresh && !(error instanceof ProtocolError)) done({ kind: 'stale_socket' })
      else done({ kind: 'no_response', outcome: failureOf(error) })
    },
  }
  const beganMs = clock.nowMs()
  const headersDueMs = beganMs + timeouts.headersMs
  const sent = transport.send(wire, body, { ...how, connectMs: timeouts.connectMs }, handler)
  const deadline = deadlines.add(headersDueMs, () =>
    giveUp(
      // The time of the resolver is not the backend's.
      pending === 'resolver'
        ? { kind: 'shortage', detail: 'EAI_AGAIN' }
        : transportFailure(pending, pending === 'connect_timeout' ? 'no connection' : 'no headers'),
    ),
  )
  if (!sent.connecting) pending = 'header_timeout'
  const stopWatching = cancellation.onCancel(reason => queueMicrotask(() => giveUp({ kind: 'cancelled', reason })))
}

/**
 * Step 8 of a request (lib/README.md). A used connection that turns out dead before any byte of a response is nobody's
 * fault: once more, on a fresh one.
 */
export function attempt(plan: AttemptPlan, deps: AttemptDeps): Promise<AttemptResult> {
  return new Promise(resolve => {
    const resolveOnce = (tried: Tried): void => {
      if (tried.kind === 'response' || tried.kind === 'no_response') resolve(tried)
      else resolve({ kind: 'no_response', outcome: transportFailure('connection_lost', 'stale socket') })
    }
    tryOnce(plan, deps, { fresh: plan.fresh, maySwitch: false }, tried => {
      if (tried.kind === 'stale_socket') tryOnce(plan, deps, { fresh: true, maySwitch: false }, resolveOnce)
      else resolveOnce(tried)
    })
  })
}

/**
 * One try to open a WebSocket, on a connection of its own. Either the backend agrees, or it sends a plain HTTP
 * response, which is judged.
 * @param plan its wire headers ask for the upgrade already
 */
export function attemptUpgrade(plan: AttemptPlan, deps: AttemptDeps): Promise<AttemptResult | Upgraded> {
  return new Promise(resolve => {
    tryOnce(plan, deps, { fresh: true, maySwitch: true }, tried => {
      if (tried.kind !== 'stale_socket') resolve(tried)
    })
  })
}
