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

/** Words that stand by themselves: Ollama's `error`, FastAPI's `detail`, the `title` of RFC 9457. */
function plain(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

/** A code or a type without the differences of spelling: `DeploymentNotFound`, `deployment_not_found`. */
function word(name: string | undefined): string {
  return name === undefined ? '' : name.toLowerCase().replace(/[ _-]/g, '')
}

/**
 * Reads the four families of error shapes (azure/README.md 6.1): `{error:{…}}` of Azure and OpenAI,
 * `{statusCode,message}` of API Management, and the flat form of the Responses error event; then those of others.
 */
export function readError(value: unknown): UpstreamError {
  if (!isObject(value)) return NOTHING
  const first = Array.isArray(value.errors) ? value.errors[0] : undefined
  const inner = [value.error, first].find(isObject) ?? value
  const isGateways = inner === value && typeof value.statusCode === 'number'
  return {
    ...(isGateways || isObject(value.error) ? { shape: 'api' as const } : {}),
    ...(isGateways ? { isGateways } : {}),
    code: text(inner.code) ?? (inner === value ? text(value.statusCode) : undefined),
    type: text(inner.type),
    message: text(inner.message) ?? [value.error, value.detail, value.title].map(plain).find(Boolean) ?? '',
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

/** Whether the body is JSON that carries an error at all. */
export function isReadable(error: UpstreamError): boolean {
  return error.code !== undefined || error.type !== undefined || error.message !== ''
}

/** Ids of the APIs' objects, and the words for one that is not there. */
const NAMES_OBJECT =
  /\b(?:file|vs|resp|conv|msg|rs|item|cntr|container|batch|ft|ftjob|asst|thread|call)[-_]\w{2}|\bno such/i
/** Said of the URL alone: OpenAI's, and what routers say. */
const NAMES_ROUTE =
  /^(?:(?:the )?(?:requested )?(?:resource|url|uri|path|page|route|endpoint|service|api) )?(?:was |is )?(?:not found|gone)\b|^no (?:matching )?route|^invalid url|^unknown (?:request )?(?:url|path|route|endpoint)|^cannot post\b/i

/**
 * Whether a 404 or 410 names neither an object nor a deployment, as those of gateways, ingresses and frameworks do, in
 * HTML, in a text or in JSON.
 */
export function isRouteMissing(error: UpstreamError): boolean {
  if (!isReadable(error)) return true
  if (error.param !== undefined && error.shape === 'api' && !/^none$/i.test(error.param)) return false
  const message = error.message.trim()
  if (NAMES_OBJECT.test(message)) return false
  const isGeneral = message === '' || NAMES_ROUTE.test(message) || word(error.code) === 'resourcenotfound'
  return error.shape !== 'api' || isGeneral
}

/** vLLM, Ollama, LiteLLM and OpenRouter, of the model that the config names as the deployment. */
const MODEL_MISSING =
  /^(?:the )?model (?:[`'"].*[`'"] )?(?:does not exist|(?:is |was )?not found)|\binvalid model name passed in model=|is not a valid model id\b/i

/**
 * The deployment (or, on OpenAI-compatible servers, the model) is not there: a mistake in the config, not the client's.
 * Texts and codes: azure/README.md 6.2.
 */
export function isDeploymentMissing(error: UpstreamError): boolean {
  // A model that stands elsewhere in the body (`tools[0].model`) is the client's own mistake.
  const named = error.param === undefined || error.param === 'model'
  const code = word(error.code)
  return (
    code === 'deploymentnotfound' ||
    (code === 'modelnotfound' && named) ||
    code === 'modeldeprecated' ||
    (named && MODEL_MISSING.test(error.message)) ||
    /could not find an existing deployment/i.test(error.message) ||
    /^the api deployment for this resource does not exist/i.test(error.message) ||
    // Anthropic's own, for a model that it does not know.
    (word(error.type) === 'notfounderror' && /^model:/i.test(error.message))
  )
}

/** The path or the api-version is not served there: `Resource not found`, or "enabled only for api versions …". */
export function isOperationUnsupported(status: number, error: UpstreamError): boolean {
  if (word(error.code) === 'apinotsupported') return true
  if (status === 404 || status === 410) return /^resource not found\.?$/i.test(error.message.trim())
  if (status !== 400) return false
  return /api[ -]version/i.test(error.message) && /(not supported|enabled only for)/i.test(error.message)
}

/** The deployment is of another kind than the operation needs: a mistake in the config (azure/README.md 6.2). */
export function isOperationNotSupported(error: UpstreamError): boolean {
  return word(error.code) === 'operationnotsupported'
}

/** A 403 that is a throttle: API Management's quota policies (azure/README.md 13.6). */
export function isQuota(error: UpstreamError): boolean {
  return /quota/i.test(`${error.code ?? ''} ${error.type ?? ''} ${error.message}`) || isThrottle(error)
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
  const code = word(error.code)
  if (code === 'previousresponsenotfound' || code === 'invalidencryptedcontent') return true
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
    word(error.code) === 'invalidencryptedcontent' ||
    (/encrypted content/i.test(error.message) && /could not be/i.test(error.message))
  )
}

/** Says, in whatever words, that a rate or throughput limit was hit (azure/README.md 5.4 and 6.3). */
export function isThrottle(error: UpstreamError): boolean {
  const named = `${word(error.code)} ${word(error.type)}`
  return (
    /ratelimit|toomanyrequests|\b429\b/.test(named) ||
    /exceeded (the )?(token|call|throughput)|rate limit|throughput limit|token limit is exceeded/i.test(error.message)
  )
}

/** The status of an error by its type or code, where a stream or a 200 shows none (azure/README.md 6.2, 13.3). */
const STATUS_OF: Readonly<Record<string, number>> = {
  authenticationerror: 401,
  invalidapikey: 401,
  billingerror: 402,
  permissionerror: 403,
  permissiondenied: 401,
  insufficientquota: 429,
}

/** The status that an error would have had by itself: its code where that is one, or what its name stands for. */
export function statusOf({ code, type }: UpstreamError): number | undefined {
  if (code !== undefined && /^[45]\d\d$/.test(code)) return Number(code)
  for (const name of [word(code), word(type)]) if (Object.hasOwn(STATUS_OF, name)) return STATUS_OF[name]
  return undefined
}

/** Codes as `word` gives them. */
const CLIENT_MISTAKES = new Set([
  'invalidprompt',
  'contentfilter',
  'contextlengthexceeded',
  'invalidimage',
  'invalidimageformat',
  'invalid_base64_image',
  'invalidimageurl',
  'imagetoolarge',
  'imagetoosmall',
  'imageparseerror',
  'imagecontentpolicyviolation',
  'invalidimagemode',
  'imagefiletoolarge',
  'unsupportedimagemediatype',
  'emptyimagefile',
  'failedtodownloadimage',
  'imagefilenotfound',
])

/** An error inside a stream that the request itself has caused; another backend would say the same. */
export function isClientMistake(error: UpstreamError): boolean {
  if (CLIENT_MISTAKES.has(word(error.code))) return true
  return word(error.type) === 'invalidrequesterror' && !isDeploymentMissing(error) && !isForeignState(400, error)
}
