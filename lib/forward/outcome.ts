// The meaning of an attempt: for the request (whose response is it, or which backend is asked next) and for the backend
// (blame). Pure. The table stands in lib/README.md, section "Outcomes of an attempt".
import { errorText, type Sent } from '../azure/error-text.ts'
import {
  isAccountRefused,
  isClientMistake,
  isDeploymentMissing,
  isForeignState,
  isNetworkRefused,
  isOperationNotSupported,
  isOperationUnsupported,
  isQuota,
  isRouteMissing,
  isThrottle,
  statusOf,
  type UpstreamError,
} from '../azure/errors.ts'
import { DEFAULT_THROTTLE_MS, type HeaderValues, namedWaitMs, throttleWaitMs } from '../azure/waits.ts'
import type { Blame, EjectReason } from '../balancer/health.ts'
import type { CancelReason } from '../request-context.ts'
import type { OutcomeLabel } from './outcome-label.ts'

export type Outcome =
  /** The response is the client's, good or bad. */
  | { readonly kind: 'served' }
  /**
   * The response is the client's, and says nothing of the backend: the client's own header has caused it, or nobody
   * could read it.
   */
  | { readonly kind: 'clients_own' }
  | { readonly kind: 'throttled'; readonly waitMs: number; readonly detail: string }
  | {
      readonly kind: 'failed'
      readonly reason: EjectReason
      readonly detail: string
      readonly holdMs?: number
      /**
       * Whether the request itself may be the trouble. `out`: the first backend that it meets goes out, until a second
       * one meets it too; `mark`: it only counts towards five in a row.
       */
      readonly suspect: 'no' | 'out' | 'mark'
      /** It is a timeout: blames only a backend that answered nobody else meanwhile. */
      readonly timeout: boolean
    }
  /**
   * A mistake in the config: credentials, account, network rules, deployment or operation. The request may have caused
   * it.
   */
  | { readonly kind: 'misconfigured'; readonly reason: EjectReason; readonly detail: string }
  /** No token for this backend at the moment. `permanent`: it takes a mended config. */
  | { readonly kind: 'no_token'; readonly detail: string; readonly waitMs: number; readonly permanent: boolean }
  /** This backend does not offer the operation at this api_version, or at this path; others may. */
  | { readonly kind: 'unsupported'; readonly detail: string; readonly wrong: 'version' | 'path' | 'either' }
  /** Worth another backend, nobody's fault (408). */
  | { readonly kind: 'request_timeout'; readonly detail: string }
  /** The connection was another host's (421). */
  | { readonly kind: 'misdirected'; readonly detail: string }
  /** This resource does not hold the state that the request names. */
  | { readonly kind: 'state_elsewhere'; readonly detail: string }
  /** Something of this machine's ran out: descriptors, ports, memory, the resolver. */
  | { readonly kind: 'shortage'; readonly detail: string }
  | { readonly kind: 'cancelled'; readonly reason: CancelReason }

const SERVED: Outcome = { kind: 'served' }

/** No connection was made: no request can be the cause. */
const UNCONNECTED: ReadonlySet<EjectReason> = new Set(['connect_failed', 'connect_timeout', 'egress_refused'])
const TIMEOUTS: ReadonlySet<EjectReason> = new Set([
  'connect_timeout',
  'header_timeout',
  'first_output_timeout',
  'idle_timeout',
])

/** A failure of the connection or its timing. */
export function transportFailure(reason: EjectReason, detail: string): Outcome {
  const suspect = UNCONNECTED.has(reason) ? 'no' : 'out'
  return { kind: 'failed', reason, detail, suspect, timeout: TIMEOUTS.has(reason) }
}

/** A page where an API should answer: a redirect, or HTML with a good status. */
export function pageOutcome(detail: string): Outcome {
  return { kind: 'failed', reason: 'not_an_api', detail, suspect: 'out', timeout: false }
}

const misconfigured = (reason: EjectReason, detail: string): Outcome => ({ kind: 'misconfigured', reason, detail })

/** A page of a box in front of the backend: a firewall that dislikes this prompt, an ingress that lost its route. */
const pageOfABox = (detail: string): Outcome => ({
  kind: 'failed',
  reason: 'not_an_api',
  detail,
  suspect: 'mark',
  timeout: false,
})

function serverFailure(reason: EjectReason, detail: string, holdMs: number | undefined): Outcome {
  const failed = { kind: 'failed', reason, detail, suspect: 'out', timeout: false } as const
  return holdMs === undefined ? failed : { ...failed, holdMs }
}

/** The several meanings of a 403 (azure/README.md 13.6). */
function forbidden(headers: HeaderValues, error: UpstreamError, said: () => string, epochMs: number): Outcome {
  if (namedWaitMs(headers, epochMs) !== undefined || isQuota(error)) {
    return { kind: 'throttled', waitMs: throttleWaitMs(headers, epochMs), detail: said() }
  }
  if (isNetworkRefused(headers, error)) return misconfigured('network_refused', said())
  if (isAccountRefused(error)) return misconfigured('account_refused', said())
  return error.shape === 'api' ? misconfigured('credentials_refused', said()) : pageOfABox('403 page')
}

/**
 * Step 10 of a request (lib/README.md): the meaning of a response's head and, for 4xx and 5xx, of its error body.
 * @param isCreate false for reads of stored objects, whose 404 is the client's
 * @param epochMs the wall clock, for waits that are dates
 * @param sent what the error may repeat of the request; left out: `detail` has no words of the upstream's
 */
export function classifyResponse(
  status: number,
  headers: HeaderValues,
  error: UpstreamError,
  {
    isCreate,
    epochMs,
    sent,
  }: { readonly isCreate: boolean; readonly epochMs: number; readonly sent?: Sent | undefined },
): Outcome {
  if (status < 300 || status === 304) return SERVED
  // Read only where somebody sees it: a client's own mistake costs nothing, nor does a backend that throttles.
  const said = (): string => errorText(`${status}`, error, sent)
  const code = (): string => errorText(`${status}`, error)
  if (status < 400) return pageOutcome(`${status} redirect`)
  switch (status) {
    case 401:
    // A box on the way that wants a password of its own (RFC 9110 section 15.5.8).
    case 407:
      return misconfigured('credentials_refused', said())
    case 402:
      return misconfigured('account_refused', said())
    case 403:
      return forbidden(headers, error, said, epochMs)
    case 408:
      return { kind: 'request_timeout', detail: code() }
    case 421:
      return { kind: 'misdirected', detail: code() }
    case 429:
      return { kind: 'throttled', waitMs: throttleWaitMs(headers, epochMs), detail: code() }
    // Azure Firewall's answer to plain http (azure/README.md 13.6).
    case 470:
      return misconfigured('network_refused', said())
  }
  if (status >= 500 || status === 424) return serverFailure('server_error', said(), namedWaitMs(headers, epochMs))
  if (isForeignState(status, error)) return { kind: 'state_elsewhere', detail: code() }
  return isCreate ? classifyRefusal(status, error, said) : SERVED
}

/** The part of the URL that a response finds fault with: Azure's 404 is the same for an unknown version and path. */
function wrongPart(status: number, { isGateways }: UpstreamError): 'version' | 'path' | 'either' {
  if (isGateways === true) return 'path'
  return status === 404 ? 'either' : 'version'
}

/** What is left: 4xx whose body says whether the client, the config or a gateway is the cause. */
function classifyRefusal(status: number, error: UpstreamError, said: () => string): Outcome {
  if ((status === 404 || status === 400 || status === 410) && isDeploymentMissing(error)) {
    return misconfigured('deployment_missing', said())
  }
  if (status === 400 && isOperationNotSupported(error)) return misconfigured('operation_not_supported', said())
  if (isOperationUnsupported(status, error))
    return { kind: 'unsupported', detail: said(), wrong: wrongPart(status, error) }
  if ((status === 404 || status === 410) && isRouteMissing(error)) return pageOfABox(`${status} page`)
  return SERVED
}

/**
 * The outcome of an error inside a 200 while the client has seen nothing: an event, or a body that is only an error.
 * @param headers the 200's own headers: where Azure answers 200 first, the wait stands there (azure/README.md 5.4)
 * @param sent as for `classifyResponse`
 */
export function classifyStreamError(
  error: UpstreamError,
  headers: HeaderValues,
  epochMs: number,
  sent?: Sent,
): Outcome {
  const said = (): string => errorText('in stream', error, sent)
  if (isThrottle(error)) {
    return {
      kind: 'throttled',
      waitMs: namedWaitMs(headers, epochMs) ?? DEFAULT_THROTTLE_MS,
      detail: errorText('in stream', error),
    }
  }
  if (isDeploymentMissing(error)) return misconfigured('deployment_missing', said())
  if (isForeignState(400, error)) return { kind: 'state_elsewhere', detail: said() }
  if (isClientMistake(error)) return SERVED
  const status = statusOf(error)
  if (status !== undefined && status < 500) {
    return classifyResponse(status, headers, error, { isCreate: true, epochMs, sent })
  }
  return serverFailure('stream_error', said(), namedWaitMs(headers, epochMs))
}

/** Whether it may be the request's own doing, so that blame for it is provisional. */
export function isSuspect(outcome: Outcome): boolean {
  return outcome.kind === 'misconfigured' || (outcome.kind === 'failed' && outcome.suspect !== 'no')
}

/** Whether a backend may have had a look at the request: what never got there costs nothing, and is no attempt. */
export function reachedBackend(outcome: Outcome): boolean {
  if (outcome.kind === 'failed') return !UNCONNECTED.has(outcome.reason)
  return outcome.kind !== 'no_token' && outcome.kind !== 'shortage'
}

/**
 * What the outcome means for the backend's health.
 * @param metSuspect whether the request has met suspect trouble at another backend before
 */
export function blameOf(outcome: Outcome, metSuspect: boolean): Blame {
  switch (outcome.kind) {
    case 'served':
    case 'state_elsewhere':
      return { kind: 'healthy' }
    case 'clients_own':
    case 'unsupported':
    case 'request_timeout':
    case 'misdirected':
    case 'shortage':
    case 'cancelled':
      return { kind: 'none' }
    case 'throttled':
      return { kind: 'throttled', waitMs: outcome.waitMs }
    case 'no_token': {
      const { detail, waitMs } = outcome
      return { kind: 'failed', reason: 'credential_unavailable', detail, holdMs: waitMs, suspect: 'no', timeout: false }
    }
    case 'misconfigured': {
      const { reason, detail } = outcome
      return { kind: 'failed', reason, detail, suspect: metSuspect ? 'mark' : 'out', timeout: false }
    }
    case 'failed': {
      const { reason, detail, timeout, holdMs } = outcome
      const suspect = outcome.suspect === 'out' && metSuspect ? 'mark' : outcome.suspect
      return holdMs === undefined
        ? { kind: 'failed', reason, detail, suspect, timeout }
        : { kind: 'failed', reason, detail, suspect, timeout, holdMs }
    }
  }
}

/**
 * Whether the upstream's response may be given to the client when no backend did better. A throttle, refused
 * credentials, a missing deployment, a login page or a redirect are ours to explain: their responses would mislead a
 * client.
 * @param status of the response; an error inside a 200 is given as it is
 */
export function isPresentable(outcome: Outcome, status: number): boolean {
  switch (outcome.kind) {
    case 'throttled':
      return status === 200
    case 'misconfigured':
      return status === 200 || outcome.reason === 'operation_not_supported'
    case 'failed':
      return outcome.reason !== 'not_an_api' || outcome.suspect === 'mark'
    default:
      return outcome.kind !== 'misdirected'
  }
}

/** The label of an outcome. A 408 counts as a timeout, state held elsewhere as served: the backend did its part. */
export function labelOf(outcome: Outcome): OutcomeLabel {
  switch (outcome.kind) {
    case 'failed':
      return outcome.timeout ? 'timeout' : 'failed'
    case 'request_timeout':
      return 'timeout'
    case 'state_elsewhere':
    case 'clients_own':
      return 'served'
    case 'misdirected':
      return 'failed'
    case 'no_token':
      return outcome.permanent ? 'misconfigured' : 'failed'
    default:
      return outcome.kind
  }
}
