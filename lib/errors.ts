// The proxy's own errors, in OpenAI's shape. The only file that knows that shape.
import type { IncomingMessage } from 'node:http'
import type { Exchange } from './request-context.ts'

/** The codes clients may rely on (README, "What the proxy itself answers"). */
export type RefusalCode =
  | 'invalid_json'
  | 'invalid_multipart'
  | 'invalid_request'
  | 'missing_model'
  | 'invalid_api_key'
  | 'model_not_allowed'
  | 'address_not_allowed'
  | 'admin_key_required'
  | 'model_not_found'
  | 'response_not_found'
  | 'previous_response_not_found'
  | 'unknown_url'
  | 'method_not_allowed'
  | 'request_timeout'
  | 'request_too_large'
  | 'unsupported_encoding'
  | 'request_headers_too_large'
  | 'expectation_failed'
  | 'upgrade_required'
  | 'rate_limit_exceeded'
  | 'quota_exceeded'
  | 'internal_error'
  | 'upstream_error'
  | 'upstream_timeout'
  | 'no_backend'
  | 'draining'
  | 'overloaded'

/** A failure of ours, as data. */
export interface Refusal {
  readonly status: number
  readonly code: RefusalCode
  readonly message: string
  readonly param?: string
  /** When to come back; the client gets at most MAX_NAMED_WAIT_MS. */
  readonly retryAfterMs?: number
  /** Retrying cannot help, or not within the longest wait a client may get. */
  readonly pointless?: boolean
  readonly headers?: readonly string[]
  /** The request's body is not read to its end, so the connection cannot be used again. */
  readonly close?: boolean
}

/** SDKs ignore a longer wait, or sleep through it (azure/README.md 6.6). */
export const MAX_NAMED_WAIT_MS = 60_000

function typeOf(status: number): string {
  if (status === 429) return 'rate_limit_error'
  return status >= 500 ? 'server_error' : 'invalid_request_error'
}

/** Anthropic's type of an error (azure/README.md 13.3), for the routes of its API. */
function anthropicType(status: number): string {
  switch (status) {
    case 401:
      return 'authentication_error'
    case 403:
      return 'permission_error'
    case 404:
      return 'not_found_error'
    case 408:
    case 504:
      return 'timeout_error'
    case 413:
      return 'request_too_large'
    case 429:
      return 'rate_limit_error'
    case 503:
      return 'overloaded_error'
    default:
      return status >= 500 ? 'api_error' : 'invalid_request_error'
  }
}

/** The error as Anthropic's SDKs read it: `{"type":"error","error":{"type","message"},"request_id"}`. */
function anthropicJson({ status, message }: Pick<Refusal, 'status' | 'message'>, requestId: string): string {
  return JSON.stringify({ type: 'error', error: { type: anthropicType(status), message }, request_id: requestId })
}

/** The error object's JSON text: `{"error":{"message","type","param","code"}}`. */
export function errorJson(refusal: Pick<Refusal, 'status' | 'code' | 'message' | 'param'>): string {
  const { status, code, message, param } = refusal
  return JSON.stringify({ error: { message, type: typeOf(status), param: param ?? null, code } })
}

/**
 * The two headers that say a wait: whole seconds for everyone, milliseconds for those who read them. Never over 60 s.
 */
export function waitHeaders(waitMs: number): string[] {
  const namedMs = Math.min(Math.max(Math.ceil(waitMs), 1), MAX_NAMED_WAIT_MS)
  return ['retry-after', String(Math.ceil(namedMs / 1000)), 'retry-after-ms', String(namedMs)]
}

/**
 * The head and the body of a refusal, for the normal path and for responses written straight to a socket.
 * @returns flat header list (names and values in turn, content-length included) and the body's text
 */
export function refusalParts(
  refusal: Refusal,
  body: string = errorJson(refusal),
): { readonly headers: readonly string[]; readonly body: string } {
  const headers = ['content-type', 'application/json', 'content-length', String(Buffer.byteLength(body))]
  if (refusal.retryAfterMs !== undefined) headers.push(...waitHeaders(refusal.retryAfterMs))
  if (refusal.pointless === true) headers.push('x-should-retry', 'false')
  if (refusal.headers !== undefined) headers.push(...refusal.headers)
  if (refusal.close === true) headers.push('connection', 'close')
  return { headers, body }
}

/**
 * An unread request body up to this size is thrown away to keep the connection; a longer one costs more than a new
 * connection.
 */
const UNREAD_MAX_BYTES = 64 * 1024

function leavesTooMuchUnread(request: IncomingMessage): boolean {
  if (request.complete) return false
  const declared = request.headers['content-length']
  return declared === undefined
    ? request.headers['transfer-encoding'] !== undefined
    : Number(declared) > UNREAD_MAX_BYTES
}

/**
 * Answers with a refusal, unless a response has begun already (then the connection is cut: nothing whole can follow).
 */
export function refuse(exchange: Exchange, refusal: Refusal): void {
  const { request, response, record } = exchange
  record.error = refusal.code
  if (response.headersSent || response.destroyed) {
    response.destroy()
    return
  }
  const close = refusal.close === true || leavesTooMuchUnread(request)
  const { headers, body } = refusalParts(
    { ...refusal, close },
    exchange.isAnthropic ? anthropicJson(refusal, exchange.id) : undefined,
  )
  const own = ['x-request-id', exchange.id]
  if (record.attempts > 0) own.push('x-proxy-attempts', String(record.attempts))
  record.status = refusal.status
  response.writeHead(refusal.status, [...headers, ...own])
  const shown = request.method === 'HEAD' ? '' : body
  record.bytesOut += Buffer.byteLength(shown)
  if (!close || request.complete) {
    response.end(shown)
    return
  }
  if (shown !== '') response.write(shown)
  exchange.lingerAndClose()
}
