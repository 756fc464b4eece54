// Where requests wait when every backend of their model is throttled and soon back (retry.max_wait): first come, first
// served, bounded, and left at once by clients that go away.
import type { Clock, Timer } from '../clock.ts'
import type { Pool } from './pool.ts'

/** Requests waiting per model; beyond it a 429 is the honest answer. */
export const MAX_WAITING = 1_000

/** What ends a wait early. */
export interface Leaving {
  onCancel(stop: () => void): () => void
}

export interface WaitQueue {
  /** Goes to the end of the line if there is one, and resolves when its turn comes; at once when nobody waits. */
  takePlace(pool: Pool, leaving: Leaving): Promise<void>
  /**
   * Waits until a throttled backend is back, at the place that was taken first.
   * @returns false when the line is full or the client left
   */
  wait(pool: Pool, waitMs: number, leaving: Leaving): Promise<boolean>
  waiting(pool: Pool): number
}

interface Waiter {
  readonly order: number
  readonly wake: (turnCame: boolean) => void
}

interface Line {
  waiters: Waiter[]
  timer: Timer | undefined
  dueMs: number
}

export function createWaitQueue(clock: Clock): WaitQueue {
  const lines = new Map<Pool, Line>()
  const places = new WeakMap<Leaving, number>()
  let nextOrder = 0

  const wakeAll = (pool: Pool, line: Line): void => {
    const woken = line.waiters
    line.waiters = []
    line.timer?.cancel()
    line.timer = undefined
    lines.delete(pool)
    // In order: each takes its turn in the same tick, before anyone who comes later.
    for (const waiter of woken) waiter.wake(true)
  }

  const schedule = (pool: Pool, line: Line, waitMs: number): void => {
    const dueMs = clock.nowMs() + waitMs
    if (line.timer !== undefined && line.dueMs <= dueMs) return
    line.timer?.cancel()
    line.dueMs = dueMs
    line.timer = clock.after(Math.ceil(waitMs), () => wakeAll(pool, line))
  }

  const join = (pool: Pool, waitMs: number | undefined, leaving: Leaving): Promise<boolean> => {
    const line = lines.get(pool) ?? { waiters: [], timer: undefined, dueMs: 0 }
    if (line.waiters.length >= MAX_WAITING) return Promise.resolve(false)
    lines.set(pool, line)
    const order = places.get(leaving) ?? nextOrder++
    places.set(leaving, order)
    return new Promise(resolve => {
      let left = false
      const waiter: Waiter = {
        order,
        wake(turnCame) {
          stopWatching()
          resolve(turnCame)
        },
      }
      const stopWatching = leaving.onCancel(() => {
        left = true
        line.waiters = line.waiters.filter(other => other !== waiter)
        if (line.waiters.length === 0) {
          line.timer?.cancel()
          if (lines.get(pool) === line) lines.delete(pool)
        }
        resolve(false)
      })
      // Who was gone already when it came takes no place: nobody would take it back again.
      if (left) return
      // Someone who was woken and found nothing keeps the place in front of those who came later.
      const at = line.waiters.findIndex(other => other.order > order)
      line.waiters.splice(at === -1 ? line.waiters.length : at, 0, waiter)
      if (waitMs !== undefined) schedule(pool, line, waitMs)
    })
  }

  return {
    async takePlace(pool, leaving) {
      if (!lines.has(pool)) return
      await join(pool, undefined, leaving)
    },
    wait: join,
    waiting: pool => lines.get(pool)?.waiters.length ?? 0,
  }
}
