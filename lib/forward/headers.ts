// The headers that pass, in both directions. Works on flat raw lists (name, value, name, value …): no objects on the
// hot path.
import type { HeaderValues } from '../azure/waits.ts'
import type { BackendHeader, BackendType } from '../config/types.ts'
import { NameMemory, type ResponseHead } from '../http1/send.ts'

const names = (...list: string[]): ReadonlySet<string> => new Set(list)

/** One connection's business (RFC 9110 section 7.6.1); never passed on in either direction. */
const HOP_BY_HOP = names(
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
)

/** Stays here: credentials of the client, and what the upstream request gets anew or has no use for. */
const STAYS = names(
  'host',
  'content-length',
  // The body goes on plain, however it came.
  'content-encoding',
  'expect',
  'authorization',
  'api-key',
  'x-api-key',
  'ocp-apim-subscription-key',
  'cookie',
  // Answers must come uncompressed, so that usage and the ends of streams can be read as they pass.
  'accept-encoding',
  'forwarded',
  'via',
  'x-real-ip',
  // Names a backend of this proxy.
  'x-proxy-backend',
)

/** Headers that hold a key. Never to a client either: a gateway in between may echo what it was sent. */
const NEVER_BACK = names('api-key', 'x-api-key', 'authorization', 'ocp-apim-subscription-key')
/**
 * Headers that concern the upstream's host or its own front, and would act on the proxy's. They name other hosts or
 * protocols for its clients (RFC 7838), HTTPS for a whole domain (RFC 6797), or pins of another's keys (RFC 7469).
 * Others are commands to an nginx in front of it.
 */
const HOST_BOUND = names('alt-svc', 'strict-transport-security', 'public-key-pins', 'public-key-pins-report-only')
const FRONT_PREFIX = 'x-accel-'
/** Shorter texts are found in harmless headers by chance. */
const MIN_CREDENTIAL_CHARS = 8

/** What browsers and Node's fetch say of themselves; nothing an API needs, and each would count as custom upstream. */
const STAYS_PREFIXES = ['x-forwarded-', 'sec-'] as const

/** Registered names, which Azure does not count as custom. */
const STANDARD = names(
  'accept',
  'accept-charset',
  'accept-language',
  'cache-control',
  'content-language',
  'content-type',
  'date',
  'if-match',
  'if-modified-since',
  'if-none-match',
  'if-unmodified-since',
  'origin',
  'pragma',
  'prefer',
  'priority',
  'range',
  'referer',
  'user-agent',
  'dnt',
  'upgrade-insecure-requests',
  'access-control-request-method',
  'access-control-request-headers',
)

/** Azure answers 431 to more custom request headers than this (quotas and limits page; azure/README.md 3.3). */
export const MAX_CUSTOM_HEADERS = 10

/** Given a place among the ten before any other: they change what Azure does, or tie traces together. */
function matters(name: string): boolean {
  return (
    name.startsWith('x-ms-') ||
    name.startsWith('openai-') ||
    name.startsWith('aoai-') ||
    name.startsWith('anthropic-') ||
    name === 'traceparent' ||
    name === 'tracestate' ||
    name === 'x-client-request-id' ||
    name === 'idempotency-key'
  )
}

/**
 * The names that a Connection header declares as this hop's business, in lower case; undefined where it declares none.
 */
function nominated(rawHeaders: readonly string[]): ReadonlySet<string> | undefined {
  let all: Set<string> | undefined
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]
    if (name?.length !== 10 || name.toLowerCase() !== 'connection') continue
    const value = (rawHeaders[i + 1] ?? '').toLowerCase()
    if (value === 'keep-alive' || value === 'close') continue
    all ??= new Set<string>()
    for (const item of value.split(',')) all.add(item.trim())
  }
  return all
}

/** What there is to know of a name in a client's request. */
export interface RequestName {
  readonly lowerCase: string
  /** To no backend, or to none that is Azure's. */
  readonly stays: 'always' | 'for_azure' | 'no'
  readonly isCredential: boolean
  /** Azure counts it (MAX_CUSTOM_HEADERS). */
  readonly isCustom: boolean
}

function lookAt(name: string): RequestName {
  const always = HOP_BY_HOP.has(name) || STAYS.has(name) || STAYS_PREFIXES.some(prefix => name.startsWith(prefix))
  // Up to ten of these come with every SDK request, which would leave no room for anything else (azure/README.md 3.3).
  const forAzure = name.startsWith('x-stainless-')
  return {
    lowerCase: name,
    stays: always ? 'always' : forAzure ? 'for_azure' : 'no',
    isCredential: NEVER_BACK.has(name),
    isCustom: !STANDARD.has(name),
  }
}

/** A memory of what is known of request header names. */
export function createRequestNames(): NameMemory<RequestName> {
  return new NameMemory(lookAt)
}

/** The key in such a header's value, without its scheme. */
function credentialIn(value: string): string {
  return value.slice(value.lastIndexOf(' ') + 1)
}

/**
 * Takes out of a flat list, in place, every header that repeats a credential: clients made for several gateways send
 * theirs twice.
 */
function dropCredentials(headers: string[], credentials: readonly string[]): void {
  const repeats = (value: string): boolean =>
    credentials.some(text => text.length >= MIN_CREDENTIAL_CHARS && value.includes(text))
  for (let i = headers.length - 2; i >= 0; i -= 2) if (repeats(headers[i + 1] ?? '')) headers.splice(i, 2)
}

/**
 * The client's headers that go upstream: a flat list, in the client's order. For Azure at most ten custom ones, those
 * that mean something to it first. Content-Type only once (Responses refuses it twice).
 * @param rawHeaders the client request's flat raw list
 * @param own the backend's own headers, which are written elsewhere: they win over the client's, and take places of the
 * ten
 */
export function upstreamHeaders(
  rawHeaders: readonly string[],
  type: BackendType,
  names: NameMemory<RequestName>,
  own: readonly BackendHeader[] = [],
): string[] {
  const dropped = nominated(rawHeaders)
  const kept: string[] = []
  const custom: string[] = []
  const credentials: string[] = []
  let sawContentType = false
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const raw = rawHeaders[i] ?? ''
    const name = names.of(raw)
    if (name === undefined) continue
    const value = rawHeaders[i + 1] ?? ''
    if (name.isCredential) credentials.push(credentialIn(value))
    if (name.stays !== 'no' && (name.stays === 'always' || type === 'azure')) continue
    if (dropped?.has(name.lowerCase) === true) continue
    if (own.length > 0 && own.some(header => header.name === name.lowerCase)) continue
    if (name.lowerCase === 'content-type') {
      if (sawContentType) continue
      sawContentType = true
    }
    if (type === 'azure' && name.isCustom) custom.push(raw, value)
    else kept.push(raw, value)
  }
  dropCredentials(kept, credentials)
  dropCredentials(custom, credentials)
  let places = MAX_CUSTOM_HEADERS
  for (const header of own) if (!STANDARD.has(header.name)) places--
  if (custom.length <= places * 2) {
    for (const text of custom) kept.push(text)
    return kept
  }
  for (const wanted of [true, false]) {
    for (let i = 0; i < custom.length && places > 0; i += 2) {
      const raw = custom[i] ?? ''
      if (matters(raw.toLowerCase()) !== wanted) continue
      kept.push(raw, custom[i + 1] ?? '')
      places--
    }
  }
  return kept
}

/** The headers of a response that mean something to the proxy itself, by lower-case name; of several the first. */
export interface ResponseValues extends HeaderValues {
  'content-type': string | undefined
  'content-encoding': string | undefined
  'retry-after': string | undefined
  'retry-after-ms': string | undefined
  'x-ratelimit-limit-requests': string | undefined
  'x-ratelimit-limit-tokens': string | undefined
  'x-ratelimit-remaining-requests': string | undefined
  'x-ratelimit-remaining-tokens': string | undefined
  'x-ratelimit-reset-requests': string | undefined
  'x-ratelimit-reset-tokens': string | undefined
  'x-request-id': string | undefined
  'apim-request-id': string | undefined
  'x-ms-deployment-name': string | undefined
  'x-ms-is-spilled-over': string | undefined
  'x-ms-spillover-from-deployment': string | undefined
  'policy-id': string | undefined
}

/** Always all of them, so that every response's has the same shape: reading one then costs next to nothing. */
function noValues(): ResponseValues {
  return {
    'content-type': undefined,
    'content-encoding': undefined,
    'retry-after': undefined,
    'retry-after-ms': undefined,
    'x-ratelimit-limit-requests': undefined,
    'x-ratelimit-limit-tokens': undefined,
    'x-ratelimit-remaining-requests': undefined,
    'x-ratelimit-remaining-tokens': undefined,
    'x-ratelimit-reset-requests': undefined,
    'x-ratelimit-reset-tokens': undefined,
    'x-request-id': undefined,
    'apim-request-id': undefined,
    'x-ms-deployment-name': undefined,
    'x-ms-is-spilled-over': undefined,
    'x-ms-spillover-from-deployment': undefined,
    'policy-id': undefined,
  }
}

/** What a response's header is here; one that is not among them passes, but for those of FRONT_PREFIX. */
const IN_RESPONSES: ReadonlyMap<string, 'stays' | 'length' | 'value'> = new Map([
  // The caller adds the proxy's own; an upstream proxy of the same make must not double them.
  ...[...HOP_BY_HOP, ...NEVER_BACK, ...HOST_BOUND, 'x-proxy-backend', 'x-proxy-attempts'].map(
    name => [name, 'stays'] as const,
  ),
  ...Object.keys(noValues()).map(name => [name, 'value'] as const),
  ['content-length', 'length'] as const,
])

export interface ResponseHeaders {
  /** Flat list for writeHead, less hop-by-hop. */
  readonly headers: string[]
  readonly values: ResponseValues
  /** The declared length in bytes; undefined when there is none. */
  readonly contentLength: number | undefined
}

/** A response's headers on their way to the client: all but hop-by-hop and credentials. */
export function responseHeaders({
  rawHeaders,
  names: lowerNames,
}: Pick<ResponseHead, 'rawHeaders' | 'names'>): ResponseHeaders {
  const dropped = nominated(rawHeaders)
  const headers: string[] = []
  const values = noValues()
  const writable: Record<string, string | string[] | undefined> = values
  let contentLength: number | undefined
  for (let i = 0; i < lowerNames.length; i++) {
    const name = lowerNames[i] ?? ''
    const is = IN_RESPONSES.get(name)
    if (is === 'stays' || dropped?.has(name) === true) continue
    const value = rawHeaders[2 * i + 1] ?? ''
    if (is === undefined) {
      if (name.startsWith(FRONT_PREFIX)) continue
    } else if (is === 'length') contentLength = Number(value)
    else writable[name] ??= value
    headers.push(rawHeaders[2 * i] ?? '', value)
  }
  return { headers, values, contentLength }
}

/** Whether a body is encoded in spite of `accept-encoding: identity`: it passes untouched, and nobody reads it. */
export function isEncoded({ 'content-encoding': coding }: Pick<ResponseValues, 'content-encoding'>): boolean {
  return coding !== undefined && coding !== '' && !/^\s*identity\s*$/i.test(coding)
}
