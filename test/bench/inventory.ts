// Inventory of a proxy in this process: everything that grows with requests and must be given back.
import type { Server } from 'node:http'
import type { Clock } from '../../lib/clock.ts'
import type { ProxyServer } from '../../lib/server/proxy.ts'

/** A clock that counts the timers which are still to fire. */
export function countingTimers(clock: Clock): { readonly clock: Clock; readonly live: () => number } {
  let live = 0
  const counted = (cancel: () => void): { readonly cancel: () => void; readonly fired: () => void } => {
    let over = false
    live++
    const end = (): void => {
      if (!over) live--
      over = true
    }
    return {
      fired: end,
      cancel() {
        end()
        cancel()
      },
    }
  }
  return {
    live: () => live,
    clock: {
      nowMs: clock.nowMs,
      epochMs: clock.epochMs,
      after(delayMs, run) {
        const timer = counted(() => inner.cancel())
        const inner = clock.after(delayMs, () => {
          timer.fired()
          run()
        })
        return { cancel: timer.cancel }
      },
      every(periodMs, run) {
        const inner = clock.every(periodMs, run)
        return { cancel: counted(() => inner.cancel()).cancel }
      },
    },
  }
}

/** Counts by name; what is held for one request each must be the same before and after. */
export type Inventory = Readonly<Record<string, number>>

function connections(server: Server): Promise<number> {
  return new Promise(resolve => server.getConnections((_error, count) => resolve(count)))
}

/** Counts what is there now. */
export async function takeInventory(proxy: ProxyServer, timers: () => number): Promise<Inventory> {
  const { app, shared, listener } = proxy
  const { pools } = proxy.runtime()
  const { busy, free } = shared.transport.sockets()
  const handles: Record<string, number> = {}
  for (const kind of process.getActiveResourcesInfo()) {
    // Timers are counted by the clock, which sees those too that do not keep the process alive.
    if (kind === 'Timeout' || kind === 'Immediate') continue
    handles[`handles: ${kind}`] = (handles[`handles: ${kind}`] ?? 0) + 1
  }
  return {
    'requests in flight': app.inFlight(),
    'open streams': app.openStreams(),
    leases: pools.flatMap(pool => pool.members).reduce((sum, { health }) => sum + health.inFlight, 0),
    'requests waiting': pools.reduce((sum, pool) => sum + shared.waitQueue.waiting(pool), 0),
    'held bytes': shared.bodyBudget.heldBytes(),
    deadlines: shared.deadlines.size(),
    timers: timers(),
    'client connections': await connections(listener.server),
    'backend sockets': busy + free,
    ...handles,
  }
}

/** Bytes in use after the garbage is gone; node needs --expose-gc. */
export function bytesInUse(): number {
  // Weak references and finalizers of the first pass are garbage of the second.
  for (let i = 0; i < 4; i++) globalThis.gc?.()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
