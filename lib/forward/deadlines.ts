// One coarse sweep over everything that waits, instead of timers of its own for every request: moving a deadline is one
// assignment, which a stream does for each piece that passes. It owns the one interval, which runs only while something waits.
import { createBag, NO_SLOT, type Slotted } from '../bag.ts'
import type { Clock, Timer } from '../clock.ts'

/** Something that must not wait past a time. `dueMs` may be moved at will; Infinity rests it. */
export interface Deadline extends Slotted {
  dueMs: number
  /** Called once per passing of `dueMs`, which is set to Infinity before. */
  readonly expire: () => void
}

export interface Deadlines {
  /** Watches over a new deadline until it is removed. @param dueMs monotonic time in ms */
  add(dueMs: number, expire: () => void): Deadline
  remove(deadline: Deadline): void
  /** How many wait, for leak checks. */
  size(): number
}

/** The sweep's period in milliseconds: how late a deadline may be noticed. A fiftieth of a second is far below any limit. */
const SWEEP_MS = 20

export function createDeadlines(clock: Clock): Deadlines {
  const waiting = createBag<Deadline>()
  let sweep: Timer | undefined

  const run = (): void => {
    const nowMs = clock.nowMs()
    waiting.visit(deadline => {
      if (deadline.dueMs > nowMs) return
      deadline.dueMs = Number.POSITIVE_INFINITY
      deadline.expire()
    })
    if (waiting.size() > 0) return
    sweep?.cancel()
    sweep = undefined
  }

  return {
    add(dueMs, expire) {
      const deadline: Deadline = { dueMs, expire, slot: NO_SLOT }
      waiting.add(deadline)
      sweep ??= clock.every(SWEEP_MS, run)
      return deadline
    },
    remove: waiting.remove,
    size: waiting.size,
  }
}
