// Reads the error bodies of Azure OpenAI, API Management and OpenAI, and says what kind of trouble they tell of. Pure.

/**
 * What an error body or an error event says; every part may be missing, since load balancers answer HTML or nothing.
 */
export interface UpstreamError {
  readonly code: string | undefined
  readonly type: string | undefined
  readonly message: string
  readonly param: string | undefined
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
  return {
    code: text(inner.code) ?? (inner === value ? text(value.statusCode) : undefined),
    type: text(inner.type),
    message: text(inner.message) ?? (typeof value.error === 'string' ? value.error : ''),
    param: text(inner.param),
  }
}

/** As readError, from bytes that may be anything. Never throws. */
export function readErrorBody(body: Buffer): UpstreamError {
  try {
    return readError(JSON.parse(body.toString('utf8')))
  } catch {
    return NOTHING
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
  return (
    error.code === 'DeploymentNotFound' ||
    error.code === 'model_not_found' ||
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
  if (status === 404) return !isReadable(error) || /^resource not found$/i.test(error.message.trim())
  if (status !== 400) return false
  return /api[ -]version/i.test(error.message) && /(not supported|enabled only for)/i.test(error.message)
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
