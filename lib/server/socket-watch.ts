// Tells requests that their connection has closed. A response that waits behind another one of its connection (pipelining) has
// no socket yet, and Node never closes it when that connection ends.
import type { Duplex } from 'node:stream'

/** Calls `run` when the socket closes; returns how to take that back. */
export type SocketWatch = (socket: Duplex, run: () => void) => () => void

/** One listener a socket, however many requests stand in it. */
export function createSocketWatch(): SocketWatch {
  const bySocket = new WeakMap<Duplex, Set<() => void>>()
  return (socket, run) => {
    let waiting = bySocket.get(socket)
    if (waiting === undefined) {
      const all = new Set<() => void>()
      waiting = all
      bySocket.set(socket, all)
      socket.once('close', () => {
        for (const each of all) each()
      })
    }
    waiting.add(run)
    return () => waiting.delete(run)
  }
}
