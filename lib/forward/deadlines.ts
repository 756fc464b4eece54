// One coarse sweep over everything that waits, instead of timers of its own for every request: moving a deadline is one
// assignment, which a stream does for each piece that passes. It owns the one interval, which runs only while something waits.
import type { Clock, Timer } from '../clock.ts'

/** Something that must not wait past a time. `dueMs` may be moved at will; Infinity rests it. */
export interface Deadline {
  dueMs: number
  /** Called once per passing of `dueMs`, which is set to Infinity before. */
  readonly expire: () => void
}

export interface Deadlines {
  add(deadline: Deadline): void
  remove(deadline: Deadline): void
  /** How many wait, for leak checks. */
  size(): number
}

/** The sweep's period in milliseconds: how late a deadline may be noticed. A fiftieth of a second is far below any limit. */
const SWEEP_MS = 20

export function createDeadlines(clock: Clock): Deadlines {
  const waiting = new Set<Deadline>()
  let sweep: Timer | undefined

  const run = (): void => {
    const nowMs = clock.nowMs()
    for (const deadline of waiting) {
      if (deadline.dueMs > nowMs) continue
      deadline.dueMs = Number.POSITIVE_INFINITY
      deadline.expire()
    }
    if (waiting.size === 0) {
      sweep?.cancel()
      sweep = undefined
    }
  }

  return {
    add(deadline) {
      waiting.add(deadline)
      sweep ??= clock.every(SWEEP_MS, run)
    },
    remove(deadline) {
      waiting.delete(deadline)
    },
    size: () => waiting.size,
  }
}
