// Time as an argument: nothing else in the program asks the system what time it is or sets a timer.

/** A timer that can be given up; cancelling twice, or after it fired, does nothing. */
export interface Timer {
  cancel(): void
}

/**
 * Where time comes from. `nowMs` is monotonic (a stepped system clock cannot end or stretch a hold), `epochMs` is the
 * wall clock and only for what people and other machines read: log lines, HTTP dates, token expiry.
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
