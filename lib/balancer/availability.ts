// Availability of a deployment: may it be asked, and when. Read off its health. Pure.
import type { BackendHealth } from './health-lease.ts'
import { phaseAt } from './health-state.ts'

/** Whether it may be chosen now: neither throttled nor out, or its hold has passed and nobody is on trial. */
export function isAvailable({ state }: BackendHealth, nowMs: number): boolean {
  // Said first because it is nearly always so.
  if (state.phase.kind === 'in') return state.throttle.dueAtMs <= nowMs
  return state.throttle.dueAtMs <= nowMs && phaseAt(state, nowMs) === 'due'
}

/** Whether it is out: ejected, and the hold has not passed. Throttled is not out, nor is one on trial. */
export function isEjected({ state }: BackendHealth, nowMs: number): boolean {
  return state.phase.kind !== 'in' && phaseAt(state, nowMs) === 'held'
}

/** Whether no request may choose it, throttled or not: out, or on trial for somebody else. */
export function isEjectedOrOnTrial({ state }: BackendHealth, nowMs: number): boolean {
  return state.phase.kind !== 'in' && phaseAt(state, nowMs) !== 'due'
}

/** How long its throttle lasts from now, to the next time it may be asked; 0: it is not throttled. */
export function throttledForMs({ state }: BackendHealth, nowMs: number): number {
  return Math.max(state.throttle.dueAtMs - nowMs, 0)
}

/**
 * Whether a waiting request may be let through to it, as far as its throttles tell (ramp.ts).
 * @param isLast the request waits no longer
 */
export function takesWaiting({ ramp, inFlight }: BackendHealth, nowMs: number, isLast = false): boolean {
  return ramp === undefined || ramp.allows(nowMs, inFlight, isLast)
}

/** The soonest time at which it may become available, or take one more, by itself; Infinity: not before news of it. */
export function changesMs({ state: { phase, throttle }, ramp }: BackendHealth, nowMs: number): number {
  const times = [throttle.dueAtMs, phase.kind === 'in' ? 0 : phase.trouble.dueAtMs, ramp?.changesMs(nowMs) ?? 0]
  return Math.min(...times.filter(ms => ms > nowMs))
}
