// One try to open a WebSocket at a backend: either the backend agrees, or it answers like any HTTP request and that answer is
// judged. Never throws; sends nothing to the client.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { type AttemptDeps, type AttemptPlan, type AttemptResult, failureOf, readAnswer } from './attempt.ts'
import type { Deadline } from './deadlines.ts'
import type { Outcome } from './outcome.ts'
import { transportFailure } from './outcome.ts'

/** The backend agreed: from here on the socket carries frames. */
export interface Upgraded {
  readonly kind: 'upgraded'
  readonly response: IncomingMessage
  readonly socket: Duplex
  /** Frames that came together with the answer. */
  readonly head: Buffer
}

/** @param plan its wire headers ask for the upgrade already; its body is not sent */
export function attemptUpgrade(plan: AttemptPlan, deps: AttemptDeps): Promise<AttemptResult | Upgraded> {
  const { transport, deadlines, clock } = deps
  const { wire, timeouts, cancellation } = plan
  return new Promise(resolve => {
    const headersDueMs = clock.nowMs() + timeouts.headersMs
    const request = transport.open(wire, true)
    let settled = false
    let pending: 'connect_timeout' | 'header_timeout' = 'connect_timeout'

    const settle = (result: AttemptResult | Upgraded | Promise<AttemptResult>): void => {
      if (settled) return
      settled = true
      deadlines.remove(deadline)
      stopWatching()
      resolve(result)
    }
    const giveUp = (outcome: Outcome): void => {
      settle({ kind: 'no_answer', outcome })
      request.destroy()
    }
    const deadline: Deadline = {
      dueMs: Math.min(clock.nowMs() + timeouts.connectMs, headersDueMs),
      expire: () => giveUp(transportFailure(pending, pending === 'connect_timeout' ? 'no connection' : 'no headers')),
    }
    request.on('error', error => giveUp(failureOf(error)))
    request.once('close', () => giveUp(transportFailure('connection_lost', 'closed')))
    request.once('socket', socket => {
      const connected = (): void => {
        pending = 'header_timeout'
        deadline.dueMs = headersDueMs
      }
      if (socket.connecting) socket.once(wire.endpoint.protocol === 'https:' ? 'secureConnect' : 'connect', connected)
      else connected()
    })
    request.once('upgrade', (response: IncomingMessage, socket: Duplex, head: Buffer) => {
      socket.on('error', () => undefined)
      if (settled) socket.destroy()
      settle({ kind: 'upgraded', response, socket, head })
    })
    request.once('response', response => {
      response.on('error', () => undefined)
      if (settled) response.destroy()
      else settle(readAnswer(plan, deps, response))
    })
    deadlines.add(deadline)
    const stopWatching = cancellation.onCancel(reason => queueMicrotask(() => giveUp({ kind: 'cancelled', reason })))
    request.end()
  })
}
