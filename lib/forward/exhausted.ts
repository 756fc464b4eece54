// The error for a client whom no backend gave a response. Pure.
import type { PickResult } from '../balancer/pool.ts'
import { MAX_NAMED_WAIT_MS, type Refusal } from '../errors.ts'
import type { Outcome } from './outcome.ts'

/** What a request has met on its way. */
export interface History {
  /** One an attempt, in order. */
  readonly outcomes: Outcome[]
  /** Somebody that the request may use is throttled or full, and sound: how soon it may be asked. */
  busy: (PickResult & { readonly kind: 'throttled' }) | undefined
  /** Why no further attempt was made; undefined when the attempts were used up. */
  stopped: Exclude<PickResult['kind'], 'lease'> | undefined
}

/** When every backend failed and none named a time, a client may come back after this. */
const OUTAGE_WAIT_MS = 5_000
/** What is known to pass soon: a shortage of this machine, a backend that others are trying already. */
const MOMENT_MS = 1_000

const timedOut = (outcome: Outcome): boolean => outcome.kind === 'failed' && outcome.timeout

function throttledRefusal(model: string, waitMs: number): Refusal {
  return {
    status: 429,
    code: 'rate_limit_exceeded',
    message: `All backends of model "${model}" that could take this request are throttled or full. Try again after the time given.`,
    // A wait that passed while others were tried is returned as a moment: without one, SDKs spend their retries within
    // milliseconds.
    retryAfterMs: waitMs > 0 ? waitMs : MOMENT_MS,
    pointless: waitMs > MAX_NAMED_WAIT_MS,
  }
}

/** Nobody was asked, or only in vain for reasons that pass by themselves; undefined where backends have failed. */
function temporaryRefusal(model: string, { outcomes, stopped }: History, pinned: boolean): Refusal | undefined {
  if (outcomes.some(({ kind }) => kind === 'shortage')) {
    const message = 'The proxy is short of connections at the moment. Try again after the time given.'
    return { status: 503, code: 'overloaded', message, retryAfterMs: MOMENT_MS }
  }
  const waits = outcomes.flatMap(outcome => (outcome.kind === 'no_token' && !outcome.permanent ? [outcome.waitMs] : []))
  if (waits.length > 0) {
    const message = `No token for the backends of model "${model}" could be had at the moment. Try again after the time given.`
    return { status: 503, code: 'no_backend', message, retryAfterMs: Math.max(Math.min(...waits), 1) }
  }
  const overBudget = stopped === 'over_budget'
  // A throttled one that went out since, or was taken out by hand, is neither a failure nor a time to name.
  if (!overBudget && outcomes.some(({ kind }) => kind !== 'throttled')) return undefined
  const who = pinned ? 'The resource that holds what this request refers to is' : `All backends of model "${model}" are`
  const tried = pinned ? 'it' : 'them'
  return {
    status: 503,
    code: 'no_backend',
    message: overBudget
      ? `${who} out, and enough requests are trying ${tried} already.`
      : `${who} out at the moment. Try again after the time given.`,
    retryAfterMs: pinned ? MOMENT_MS : OUTAGE_WAIT_MS,
  }
}

/**
 * The refusal after the last attempt. Throttled backends decide before failed ones: they say when sound capacity is
 * back.
 * @param pinned the state that the request names lives in one resource
 */
export function exhaustedError(model: string, history: History, pinned: boolean): Refusal {
  const { outcomes, busy } = history
  if (busy !== undefined) return throttledRefusal(model, busy.waitMs)
  const temporary = temporaryRefusal(model, history, pinned)
  if (temporary !== undefined) return temporary
  if (outcomes.every(timedOut)) {
    return { status: 504, code: 'upstream_timeout', message: `No backend of model "${model}" answered in time.` }
  }
  if (outcomes.every(({ kind }) => kind === 'misconfigured' || kind === 'no_token')) {
    return {
      status: 502,
      code: 'upstream_error',
      message: `The backends of model "${model}" refuse this proxy's credentials or network, or lack the deployment. The proxy's operator must fix the config.`,
      pointless: true,
    }
  }
  return { status: 502, code: 'upstream_error', message: `No backend of model "${model}" could be reached.` }
}
