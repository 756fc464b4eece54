// Requests that stand behind another one on their connection (pipelining, RFC 9112 section 9.3.2). One is worked on at
// a time, a bounded number waits, and responses keep the order of the requests. Node parses all that one read brought,
// 2,000 requests of 33 bytes, and would start every one of them.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'

/** Requests that wait on one connection, in order; above, the connection is closed behind the last of them. */
export const MAX_WAITING = 100
/**
 * What one read of 64 KB may bring beyond. A connection that goes on sending is cut: each costs memory until the close.
 */
const MAX_DROPPED = 4_000

/**
 * The response that the socket is writing now; undefined: none. Private to Node: ServerResponse.assignSocket sets it.
 */
export function currentResponse(socket: Duplex): ServerResponse | undefined {
  const current = '_httpMessage' in socket ? socket._httpMessage : undefined
  return isResponse(current) ? current : undefined
}

function isResponse(value: unknown): value is ServerResponse {
  return typeof value === 'object' && value !== null && 'req' in value
}

/** Runs once everything before has been answered: at once, mostly. */
export function afterResponses(socket: Duplex, run: () => void): void {
  const current = currentResponse(socket)
  if (current === undefined) run()
  else current.once('close', () => afterResponses(socket, run))
}

interface Line {
  waiting: number
  dropped: number
}

/** Calls `run` when the request's turn has come; never, if the connection closes before. */
export type TakeTurns = (request: IncomingMessage, response: ServerResponse, run: () => void) => void

export function createTurns(): TakeTurns {
  const lines = new WeakMap<Duplex, Line>()
  return (request, response, run) => {
    // Node gives a response its socket when its turn has come.
    if (response.socket !== null) {
      run()
      return
    }
    const { socket } = request
    const line = lines.get(socket) ?? { waiting: 0, dropped: 0 }
    lines.set(socket, line)
    socket.pause()
    if (line.waiting >= MAX_WAITING || line.dropped > 0) {
      if (++line.dropped > MAX_DROPPED) socket.destroy()
      return
    }
    line.waiting++
    response.once('socket', () => {
      line.waiting--
      if (line.waiting === 0) {
        if (line.dropped > 0) response.shouldKeepAlive = false
        else socket.resume()
      }
      // Not at once: Node is in the middle of handing the socket over.
      queueMicrotask(run)
    })
  }
}

/** Whether requests wait on the connection, which is not read meanwhile. */
export function hasWaiting(socket: Duplex): boolean {
  return socket.isPaused() && currentResponse(socket) !== undefined
}
