// What a client is told when no backend gave it an answer. Pure.
import type { Pick } from '../balancer/pool.ts'
import type { Outcome } from './outcome.ts'
import { MAX_TOLD_WAIT_MS, type Refusal } from './refuse.ts'

/** What a request has met on its way. */
export interface History {
  /** One an attempt, in order. */
  outcomes: Outcome[]
  /** Milliseconds until the soonest throttled backend is back; undefined when none is throttled. */
  throttledLeft: number | undefined
  /** Why no further attempt was made; undefined when the attempts were used up. */
  stopped: Exclude<Pick['kind'], 'lease'> | undefined
}

/** When every backend failed and none named a time, a client may come back after this. */
const OUTAGE_WAIT_MS = 5_000

const timedOut = (outcome: Outcome): boolean => outcome.kind === 'failed' && outcome.timeout

/**
 * The refusal after the last attempt (contract, section 4). Throttled backends decide before failed ones: they say when
 * sound capacity is back.
 * @param ownerBackMs for a request bound to one resource: milliseconds until that resource is back
 */
export function finalRefusal(model: string, history: History, ownerBackMs: number | undefined): Refusal {
  const { outcomes, throttledLeft, stopped } = history
  const allTimedOut = outcomes.length > 0 && outcomes.every(timedOut)
  if (throttledLeft !== undefined && !allTimedOut) {
    return {
      status: 429,
      code: 'rate_limit_exceeded',
      message: `All backends of model "${model}" that could take this request are throttled. Try again after the time given.`,
      retryAfterMs: throttledLeft,
      pointless: throttledLeft > MAX_TOLD_WAIT_MS,
    }
  }
  const last = outcomes.at(-1)
  if (last?.kind === 'throttled') {
    // Its wait has passed while the others were tried.
    return {
      status: 429,
      code: 'rate_limit_exceeded',
      message: `The backends of model "${model}" are throttled. Try again.`,
      retryAfterMs: 1,
    }
  }
  if (ownerBackMs !== undefined && ownerBackMs > 0) {
    return {
      status: 503,
      code: 'no_backend',
      message: `The resource that holds what this request refers to is out. Try again after the time given.`,
      retryAfterMs: ownerBackMs,
      pointless: ownerBackMs > MAX_TOLD_WAIT_MS,
    }
  }
  if (stopped === 'over_budget' || outcomes.length === 0) {
    return {
      status: 503,
      code: 'no_backend',
      message: `All backends of model "${model}" are out, and enough requests are trying them already.`,
      retryAfterMs: OUTAGE_WAIT_MS,
    }
  }
  if (allTimedOut) {
    return {
      status: 504,
      code: 'upstream_timeout',
      message: `No backend of model "${model}" answered in time.`,
    }
  }
  if (outcomes.every(outcome => outcome.kind === 'misconfigured')) {
    return {
      status: 502,
      code: 'upstream_error',
      message: `The backends of model "${model}" refuse this proxy's credentials or lack the deployment. Its operator has to mend the config.`,
      pointless: true,
    }
  }
  return { status: 502, code: 'upstream_error', message: `No backend of model "${model}" could be reached.` }
}
