// Faults as answers: the wait headers of a 429, failures in each family of shapes, errors inside a stream. Pure.
import { claudeError, claudeErrorType } from './claude.ts'
import {
  contentFiltered,
  deploymentNotFound,
  frontError,
  gatewayError,
  modelError,
  networkRule,
  resourceNotFound,
  serverError,
  throttled,
  versionNotSupported,
  type WholeResponse,
  wrongKey,
} from './errors.ts'
import type { ErrorFamily, Fault, NamedError, StreamErrorKind, Waits } from './faults.ts'

/**
 * The headers by which a 429 names its wait, and the seconds that its text says. @param epochMs the wall clock, for
 * dates
 */
export function waitHeaders(
  waits: Waits,
  epochMs: number,
): { readonly seconds: number; readonly headers: Record<string, string> } {
  switch (waits.kind) {
    case 'retry_after':
      return { seconds: waits.seconds, headers: { 'retry-after': String(waits.seconds) } }
    case 'both':
    case 'provisioned':
      return {
        seconds: Math.ceil(waits.ms / 1000),
        headers: { 'retry-after': String(Math.ceil(waits.ms / 1000)), 'retry-after-ms': String(waits.ms) },
      }
    case 'ms':
      return { seconds: Math.ceil(waits.ms / 1000), headers: { 'retry-after-ms': String(waits.ms) } }
    case 'none':
      return { seconds: 1, headers: {} }
    case 'date':
      return {
        seconds: waits.seconds,
        headers: { 'retry-after': new Date(epochMs + waits.seconds * 1000).toUTCString() },
      }
    case 'reset_requests':
      return { seconds: Math.ceil(waits.ms / 1000), headers: { 'x-ratelimit-reset-requests': String(waits.ms) } }
  }
}

/** A failure of the status and the family of error shapes that a fault names. */
function failure(status: number, family: ErrorFamily, headers: Readonly<Record<string, string>>): WholeResponse {
  const plain = ((): WholeResponse => {
    switch (family) {
      case 'model':
        return status === 500
          ? serverError()
          : modelError(status, 'The server is currently overloaded.', { type: 'server_error' })
      case 'front':
        return status === 408
          ? frontError(408, 'Timeout', 'The operation was timeout.')
          : frontError(status, 'ServiceUnavailable', 'Service unavailable.')
      case 'gateway':
        return gatewayError(status, 'Internal server error')
      case 'html':
        return {
          status,
          headers: { 'Content-Type': 'text/html' },
          body: '<html><body><h1>Bad Gateway</h1></body></html>',
        }
      case 'claude':
        return claudeError(status, claudeErrorType(status), status === 529 ? 'Overloaded' : 'The request failed.')
      case 'empty':
        return { status, headers: {}, body: '' }
    }
  })()
  return { ...plain, headers: { ...plain.headers, ...headers } }
}

/** The answer of a fault that has a name of its own. */
function namedError(error: NamedError): WholeResponse {
  switch (error) {
    case 'wrong_key':
      return wrongKey()
    case 'deployment_not_found':
      return deploymentNotFound()
    case 'resource_not_found':
      return resourceNotFound()
    case 'network_rule':
      return networkRule()
    case 'content_filter':
      return contentFiltered()
    case 'version':
      return versionNotSupported()
    case 'timeout':
      return frontError(408, 'Timeout', 'The operation was timeout.')
  }
}

/** The events that a stream error consists of (azure/README.md 5.4). */
export function errorEvents(kind: StreamErrorKind, sequence: number, done: boolean): string[] {
  const responses = (type: string, fields: object): string =>
    `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence, ...fields })}\n\n`
  switch (kind) {
    case 'nested_throttle': {
      const error = {
        type: 'too_many_requests',
        code: 'rate_limit_exceeded',
        message: 'Your requests to gpt-5 for gpt-5 in East US 2 have exceeded token rate limit.',
        param: null,
        headers: { 'x-ms-fe-error': 'true' },
      }
      return [
        responses('error', { error }),
        responses('response.failed', {
          response: { id: 'resp_1', status: 'failed', error: { code: error.code, message: error.message } },
        }),
      ]
    }
    case 'nested_missing_deployment':
      return [
        responses('error', {
          error: {
            type: 'invalid_request_error',
            code: null,
            message: 'Could not find an existing deployment to match the model in the request.',
            param: null,
          },
        }),
      ]
    case 'flat':
      return [responses('error', { code: 'server_error', message: 'The server had an error.', param: null })]
    case 'failed_alone':
      return [
        responses('response.failed', {
          response: {
            id: 'resp_1',
            status: 'failed',
            error: { code: 'server_error', message: 'The server had an error.' },
          },
        }),
      ]
    case 'claude':
    case 'claude_throttle': {
      const type = kind === 'claude' ? 'overloaded_error' : 'rate_limit_error'
      const message = kind === 'claude' ? 'Overloaded' : 'Rate limit reached.'
      const error = { type: 'error', error: { type, message }, request_id: 'req_simulated' }
      return [`event: error\ndata: ${JSON.stringify(error)}\n\n`]
    }
    case 'chat': {
      const error = {
        message: 'That model is currently overloaded with other requests.',
        type: 'server_error',
        param: null,
        code: null,
      }
      return [`data: ${JSON.stringify({ error })}\n\n`, ...(done ? ['data: [DONE]\n\n'] : [])]
    }
  }
}

/** An answer that a fault puts in the place of any other; undefined: the request is served. */
export function faultResponse(fault: Fault | undefined, epochMs: number): WholeResponse | undefined {
  switch (fault?.kind) {
    case 'throttle': {
      const { seconds, headers } = waitHeaders(fault.waits, epochMs)
      return throttled(fault.waits.kind === 'provisioned' ? 'provisioned' : 'call', seconds, headers)
    }
    case 'fail':
      return failure(fault.status, fault.family, fault.headers)
    case 'named':
      return namedError(fault.error)
    default:
      return undefined
  }
}
