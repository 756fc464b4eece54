// What an attempt meant: for the request (whose answer is it, or who is asked next) and for the backend (blame). Pure.
// The table stands in lib/README.md, section "Outcomes of an attempt".
import {
  isClientMistake,
  isDeploymentMissing,
  isForeignState,
  isOperationUnsupported,
  isThrottle,
  type UpstreamError,
} from '../azure/errors.ts'
import { DEFAULT_THROTTLE_MS, type HeaderValues, namedWaitMs, throttleWaitMs } from '../azure/waits.ts'
import type { Blame, EjectReason } from '../balancer/health.ts'
import type { PickResult } from '../balancer/pool.ts'
import { MAX_TOLD_WAIT_MS, type Refusal } from '../errors.ts'
import type { CancelReason } from '../request-context.ts'

export type Outcome =
  /** The answer is the client's, good or bad. */
  | { readonly kind: 'served' }
  | { readonly kind: 'throttled'; readonly waitMs: number; readonly detail: string }
  | {
      readonly kind: 'failed'
      readonly reason: EjectReason
      readonly detail: string
      readonly holdMs?: number
      /** The request itself may be the trouble: only the first of these that it meets blames a backend. */
      readonly suspect: boolean
      /** It is a timeout: blames only a backend that answered nobody else meanwhile. */
      readonly timeout: boolean
    }
  /** A mistake in the config: credentials or deployment. */
  | { readonly kind: 'misconfigured'; readonly reason: EjectReason; readonly detail: string }
  /** This backend does not offer the operation; others may. */
  | { readonly kind: 'unsupported'; readonly detail: string }
  /** Worth another backend, nobody's fault (408). */
  | { readonly kind: 'request_timeout'; readonly detail: string }
  /** This resource does not hold the state that the request names. */
  | { readonly kind: 'state_elsewhere'; readonly detail: string }
  | { readonly kind: 'cancelled'; readonly reason: CancelReason }

const SERVED: Outcome = { kind: 'served' }

/** Whether no connection was made, so that nothing of the request can have reached the backend. */
function isUnconnected(reason: EjectReason): boolean {
  return reason === 'connect_failed' || reason === 'connect_timeout' || reason === 'egress_refused'
}

/** Whether a try counts towards `retry.max_attempts`: one whose connection was never made cost nothing and does not. */
export function isAttempt(outcome: Outcome): boolean {
  return outcome.kind !== 'failed' || !isUnconnected(outcome.reason)
}

/** A failure of the connection or its timing. */
export function transportFailure(reason: EjectReason, detail: string): Outcome {
  const timeout = reason === 'header_timeout' || reason === 'first_output_timeout' || reason === 'idle_timeout'
  return {
    kind: 'failed',
    reason,
    detail,
    suspect: !isUnconnected(reason),
    timeout: timeout || reason === 'connect_timeout',
  }
}

/**
 * What an answer's head and, for 4xx and 5xx, its error body mean.
 * @param creates false for reads of stored objects, whose 404 is the client's
 * @param epochMs the wall clock, for waits that are dates
 */
export function classifyResponse(
  status: number,
  headers: HeaderValues,
  error: UpstreamError,
  { creates, epochMs }: { readonly creates: boolean; readonly epochMs: number },
): Outcome {
  if (status < 400) return SERVED
  const detail = error.code !== undefined && /^[\w.-]{1,64}$/.test(error.code) ? `${status} ${error.code}` : `${status}`
  if (status === 429) return { kind: 'throttled', waitMs: throttleWaitMs(headers, epochMs), detail }
  if (status === 401 || status === 403) return { kind: 'misconfigured', reason: 'credentials_refused', detail }
  if (status === 408) return { kind: 'request_timeout', detail }
  if (status >= 500 || status === 424) {
    const holdMs = namedWaitMs(headers, epochMs)
    const failed = { kind: 'failed', reason: 'server_error', detail, suspect: true, timeout: false } as const
    return holdMs === undefined ? failed : { ...failed, holdMs }
  }
  if (isForeignState(status, error)) return { kind: 'state_elsewhere', detail }
  if (!creates) return SERVED
  if ((status === 404 || status === 400 || status === 410) && isDeploymentMissing(error)) {
    return { kind: 'misconfigured', reason: 'deployment_missing', detail }
  }
  if (isOperationUnsupported(status, error)) return { kind: 'unsupported', detail }
  return SERVED
}

/**
 * What an error event inside a 200 stream means while the client has seen nothing.
 * @param headers the 200's own headers: where Azure answers 200 first, the wait stands there (azure/README.md 5.4)
 */
export function classifyStreamError(error: UpstreamError, headers: HeaderValues, epochMs: number): Outcome {
  const detail =
    error.code !== undefined && /^[\w.-]{1,64}$/.test(error.code) ? `in stream: ${error.code}` : 'in stream'
  if (isThrottle(error)) {
    return { kind: 'throttled', waitMs: namedWaitMs(headers, epochMs) ?? DEFAULT_THROTTLE_MS, detail }
  }
  if (isDeploymentMissing(error)) return { kind: 'misconfigured', reason: 'deployment_missing', detail }
  if (isForeignState(400, error)) return { kind: 'state_elsewhere', detail }
  if (isClientMistake(error)) return SERVED
  const holdMs = namedWaitMs(headers, epochMs)
  const failed = { kind: 'failed', reason: 'stream_error', detail, suspect: true, timeout: false } as const
  return holdMs === undefined ? failed : { ...failed, holdMs }
}

/**
 * What the backend is told of it.
 * @param metSuspect whether the request has met a suspect failure before this one
 */
export function blameOf(outcome: Outcome, metSuspect: boolean): Blame {
  switch (outcome.kind) {
    case 'served':
    case 'state_elsewhere':
      return { kind: 'healthy' }
    case 'unsupported':
    case 'request_timeout':
      return { kind: 'none' }
    case 'cancelled':
      return { kind: 'none' }
    case 'throttled':
      return { kind: 'throttled', waitMs: outcome.waitMs }
    case 'misconfigured': {
      const { reason, detail } = outcome
      const suspect = reason === 'credential_unavailable' ? 'no' : metSuspect ? 'mark' : 'out'
      return { kind: 'failed', reason, detail, suspect, timeout: false }
    }
    case 'failed': {
      const { reason, detail, timeout } = outcome
      const suspect = !outcome.suspect ? 'no' : metSuspect ? 'mark' : 'out'
      return outcome.holdMs === undefined
        ? { kind: 'failed', reason, detail, suspect, timeout }
        : { kind: 'failed', reason, detail, suspect, timeout, holdMs: outcome.holdMs }
    }
  }
}

/** The short name for logs and metrics; a closed set. */
export type OutcomeLabel =
  | 'served'
  | 'throttled'
  | 'failed'
  | 'timeout'
  | 'misconfigured'
  | 'unsupported'
  | 'cut'
  | 'cancelled'

/** The label of an outcome. A 408 counts as a timeout; state held elsewhere as served, since the backend did its part. */
export function labelOf(outcome: Outcome): OutcomeLabel {
  switch (outcome.kind) {
    case 'failed':
      return outcome.timeout ? 'timeout' : 'failed'
    case 'request_timeout':
      return 'timeout'
    case 'state_elsewhere':
      return 'served'
    default:
      return outcome.kind
  }
}

// What a client is told when no backend gave it an answer. Pure.

/** What a request has met on its way. */
export interface History {
  /** One an attempt, in order. */
  outcomes: Outcome[]
  /** Milliseconds until the soonest throttled backend is back; undefined when none is throttled. */
  throttledLeft: number | undefined
  /** Why no further attempt was made; undefined when the attempts were used up. */
  stopped: Exclude<PickResult['kind'], 'lease'> | undefined
}

/** When every backend failed and none named a time, a client may come back after this. */
const OUTAGE_WAIT_MS = 5_000

const timedOut = (outcome: Outcome): boolean => outcome.kind === 'failed' && outcome.timeout

/**
 * The refusal after the last attempt (README, "What the proxy itself answers"). Throttled backends decide before failed ones: they say when
 * sound capacity is back.
 * @param ownerBackMs for a request bound to one resource: milliseconds until that resource is back
 */
export function exhaustedError(model: string, history: History, ownerBackMs: number | undefined): Refusal {
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
