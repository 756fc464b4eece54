// Time as an argument: nothing else in the program asks the system what time it is or sets a timer.
import { createDenseSet, NO_SLOT, type Slotted } from './dense-set.ts'

/** A timer that can be given up; cancelling twice, or after it fired, does nothing. */
export interface Timer {
  cancel(): void
}

/**
 * Where time comes from. `nowMs` is monotonic: a stepped system clock cannot end or stretch a hold. `epochMs` is the
 * wall clock, only for what people and other machines read: log lines, HTTP dates, token expiry.
 */
export interface Clock {
  nowMs(): number
  epochMs(): number
  /** Calls `run` once after `delayMs` milliseconds. Timers never keep the process alive. */
  after(delayMs: number, run: () => void): Timer
  /** Calls `run` every `periodMs` milliseconds until cancelled. */
  every(periodMs: number, run: () => void): Timer
}

/** Chance as an argument: a number from 0 (included) to 1 (excluded), as Math.random gives. */
export type Random = () => number

// Node clamps longer timeouts to 1 ms with a warning (lib/internal/timers.js, TIMEOUT_MAX).
const MAX_TIMER_MS = 2 ** 31 - 1

/** The system's clock. */
export function systemClock(): Clock {
  return {
    nowMs: () => performance.now(),
    epochMs: () => Date.now(),
    after(delayMs, run) {
      const handle = setTimeout(run, Math.min(Math.max(delayMs, 0), MAX_TIMER_MS)).unref()
      return { cancel: () => clearTimeout(handle) }
    },
    every(periodMs, run) {
      const handle = setInterval(run, Math.min(Math.max(periodMs, 1), MAX_TIMER_MS)).unref()
      return { cancel: () => clearInterval(handle) }
    },
  }
}

// One coarse sweep over everything that waits, instead of timers for every request. Moving a deadline is one
// assignment, which a stream does for each piece that passes. It owns the one interval, which runs only while something
// waits.

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

/**
 * The sweep's period in milliseconds: how late a deadline may be noticed. A fiftieth of a second is far below any
 * limit.
 */
const SWEEP_MS = 20

/**
 * A sweep that comes this much late finds that the whole process stood still: a frozen virtual machine, a CPU limit, a
 * debugger. What came in time lies unread in the sockets, since timers run before them.
 */
export const PAUSE_MS = 200

/**
 * Calls `run` once this process has run for so many milliseconds. A timer that comes late finds that it stood still:
 * what came meanwhile is read only after the timers, so that the time begins anew.
 */
export function afterRunning(clock: Clock, delayMs: number, run: () => void): Timer {
  const dueMs = clock.nowMs() + delayMs
  let timer = clock.after(delayMs, () => {
    if (clock.nowMs() - dueMs > PAUSE_MS) timer = afterRunning(clock, delayMs, run)
    else run()
  })
  return { cancel: () => timer.cancel() }
}

export function createDeadlines(clock: Clock): Deadlines {
  const waiting = createDenseSet<Deadline>()
  let sweep: Timer | undefined
  let sweptMs = 0

  const run = (): void => {
    const nowMs = clock.nowMs()
    const lateMs = nowMs - sweptMs - SWEEP_MS
    sweptMs = nowMs
    if (lateMs > PAUSE_MS) {
      // Time that this process did not run counts against nobody.
      waiting.visit(deadline => {
        deadline.dueMs += lateMs
      })
      return
    }
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
      if (sweep === undefined) {
        sweptMs = clock.nowMs()
        sweep = clock.every(SWEEP_MS, run)
      }
      return deadline
    },
    remove: waiting.remove,
    size: waiting.size,
  }
}
