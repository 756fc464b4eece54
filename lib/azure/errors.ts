// Reads the error bodies of Azure OpenAI, API Management and OpenAI, and says what kind of trouble they tell of. Pure.
import type { HeaderValues } from './waits.ts'

/**
 * What an error body or an error event says; every part may be missing, since load balancers answer HTML or nothing.
 */
export interface UpstreamError {
  readonly code: string | undefined
  readonly type: string | undefined
  readonly message: string
  readonly param: string | undefined
  /** Azure's, API Management's or OpenAI's own form; left out for pages, texts and JSON of other boxes. */
  readonly shape?: 'api'
  /** It is API Management's own form: the gateway has answered, not Azure OpenAI behind it. */
  readonly isGateways?: true
}

const NOTHING: UpstreamError = { code: undefined, type: undefined, message: '', param: undefined }

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function text(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return typeof value === 'number' ? String(value) : undefined
}

/**
 * Reads the four families of error shapes (azure/README.md 6.1): `{error:{…}}` of Azure and OpenAI,
 * `{statusCode,message}` of API Management, and the flat form of the Responses error event.
 */
export function readError(value: unknown): UpstreamError {
  if (!isObject(value)) return NOTHING
  const inner = isObject(value.error) ? value.error : value
  const isGateways = inner === value && typeof value.statusCode === 'number'
  return {
    ...(isGateways || inner !== value ? { shape: 'api' as const } : {}),
    ...(isGateways ? { isGateways } : {}),
    code: text(inner.code) ?? (inner === value ? text(value.statusCode) : undefined),
    type: text(inner.type),
    message: text(inner.message) ?? (typeof value.error === 'string' ? value.error : ''),
    param: text(inner.param),
  }
}

/** As readError, from bytes that may be anything. Never throws. */
export function readErrorBody(body: Buffer): UpstreamError {
  try {
    // .NET's writers put a byte order mark first.
    return readError(JSON.parse(body.toString('utf8').replace(/^\uFEFF/, '')))
  } catch {
    return NOTHING
  }
}

/**
 * Members that an error object alone may have beside `error` (azure/README.md 6.1, and `object: "error"` of compatible
 * servers).
 */
const BESIDE_ERROR: ReadonlySet<string> = new Set([
  'error',
  'object',
  'type',
  'request_id',
  'status',
  'statusCode',
  'activityId',
  'code',
  'message',
])

/** API Management's own form (azure/README.md 6.1). */
function isGatewayError({ statusCode, message }: Readonly<Record<string, unknown>>): boolean {
  return typeof statusCode === 'number' && statusCode >= 400 && typeof message === 'string'
}

/** The error of a body that is nothing else; undefined for any other body. Never throws. */
export function readLoneError(body: Buffer): UpstreamError | undefined {
  try {
    const value: unknown = JSON.parse(body.toString('utf8').replace(/^\uFEFF/, ''))
    if (!isObject(value)) return undefined
    const hasError = value.error !== null && value.error !== undefined
    if (!hasError && !isGatewayError(value)) return undefined
    return Object.keys(value).every(name => BESIDE_ERROR.has(name)) ? readError(value) : undefined
  } catch {
    return undefined
  }
}

/** Whether the body is JSON that carries an error at all. */
export function isReadable(error: UpstreamError): boolean {
  return error.code !== undefined || error.type !== undefined || error.message !== ''
}

/**
 * The deployment (or, on OpenAI-compatible servers, the model) is not there: a mistake in the config, not the client's.
 * Texts and codes: azure/README.md 6.2.
 */
export function isDeploymentMissing(error: UpstreamError): boolean {
  // A model that stands elsewhere in the body (`tools[0].model`) is the client's own mistake.
  const named = error.param === undefined || error.param === 'model'
  return (
    error.code === 'DeploymentNotFound' ||
    (error.code === 'model_not_found' && named) ||
    error.code === 'ModelDeprecated' ||
    /could not find an existing deployment/i.test(error.message) ||
    /^the api deployment for this resource does not exist/i.test(error.message) ||
    // Anthropic's own, for a model that it does not know.
    (error.type === 'not_found_error' && /^model:/i.test(error.message))
  )
}

/** The path or the api-version is not served there: `Resource not found`, or "enabled only for api versions …". */
export function isOperationUnsupported(status: number, error: UpstreamError): boolean {
  if (error.code === 'api_not_supported') return true
  if (status === 404 || status === 410) return /^resource not found$/i.test(error.message.trim())
  if (status !== 400) return false
  return /api[ -]version/i.test(error.message) && /(not supported|enabled only for)/i.test(error.message)
}

/** The deployment is of another kind than the operation needs: a mistake in the config (azure/README.md 6.2). */
export function isOperationNotSupported(error: UpstreamError): boolean {
  return error.code === 'OperationNotSupported'
}

/** A 403 that is a throttle: API Management's quota policies (azure/README.md 13.6). */
export function isQuota({ message }: UpstreamError): boolean {
  return /\bquota\b/i.test(message)
}

/** A 403 of the resource's network rules, or of its private endpoint (azure/README.md 13.6). */
export function isNetworkRefused(headers: HeaderValues, { message }: UpstreamError): boolean {
  return (
    headers['policy-id'] === 'ThrowExceptionDueToTrafficDenied' ||
    /virtual network|firewall rules|public access is disabled|private endpoint/i.test(message)
  )
}

/** The resource is suspended (azure/README.md 13.6). */
export function isAccountRefused({ message }: UpstreamError): boolean {
  return /temporarily blocked/i.test(message)
}

/** This resource does not hold the response that was named, or cannot read its reasoning (azure/README.md 1.5). */
export function isForeignState(status: number, error: UpstreamError): boolean {
  if (status !== 400 && status !== 404) return false
  if (error.code === 'previous_response_not_found' || error.code === 'invalid_encrypted_content') return true
  return (
    isUndecryptable(error) ||
    /^(previous )?response with id '.*' not found/is.test(error.message) ||
    /^item with id '.*' not found/is.test(error.message) ||
    /^conversation with id '.*' not found/is.test(error.message)
  )
}

/** Encrypted reasoning that was made elsewhere; `code` may be null and the text varies (azure/README.md 1.5). */
export function isUndecryptable(error: UpstreamError): boolean {
  return (
    error.code === 'invalid_encrypted_content' ||
    (/encrypted content/i.test(error.message) && /could not be/i.test(error.message))
  )
}

/** Says, in whatever words, that a rate or throughput limit was hit (azure/README.md 5.4 and 6.3). */
export function isThrottle(error: UpstreamError): boolean {
  const named = `${error.code ?? ''} ${error.type ?? ''}`.toLowerCase()
  return (
    /rate_limit|ratelimit|too_many_requests|\b429\b/.test(named) ||
    /exceeded (the )?(token|call|throughput)|rate limit|throughput limit/i.test(error.message)
  )
}

/** The status of an error by its type or code, where a stream or a 200 shows none (azure/README.md 6.2, 13.3). */
const STATUS_OF: Readonly<Record<string, number>> = {
  authentication_error: 401,
  invalid_api_key: 401,
  billing_error: 402,
  permission_error: 403,
  PermissionDenied: 401,
  insufficient_quota: 429,
}

/** The status that an error would have had by itself: its code where that is one, or what its name stands for. */
export function statusOf({ code, type }: UpstreamError): number | undefined {
  if (code !== undefined && /^[45]\d\d$/.test(code)) return Number(code)
  for (const name of [code, type]) if (name !== undefined && Object.hasOwn(STATUS_OF, name)) return STATUS_OF[name]
  return undefined
}

const CLIENT_MISTAKES = new Set([
  'invalid_prompt',
  'content_filter',
  'context_length_exceeded',
  'invalid_image',
  'invalid_image_format',
  'invalid_base64_image',
  'invalid_image_url',
  'image_too_large',
  'image_too_small',
  'image_parse_error',
  'image_content_policy_violation',
  'invalid_image_mode',
  'image_file_too_large',
  'unsupported_image_media_type',
  'empty_image_file',
  'failed_to_download_image',
  'image_file_not_found',
])

/** An error inside a stream that the request itself has caused; another backend would say the same. */
export function isClientMistake(error: UpstreamError): boolean {
  if (error.code !== undefined && CLIENT_MISTAKES.has(error.code)) return true
  return error.type === 'invalid_request_error' && !isDeploymentMissing(error) && !isForeignState(400, error)
}
