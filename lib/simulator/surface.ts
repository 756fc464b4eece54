// The URLs of Azure's surfaces, and the credentials that a request must bring (azure/README.md 1 and 2).
import type { IncomingMessage } from 'node:http'
import { notSupported } from './claude.ts'
import {
  frontError,
  gatewayError,
  noCredential,
  resourceNotFound,
  versionNotSupported,
  type WholeResponse,
  wrongKey,
} from './errors.ts'
import { isObjectOperation } from './objects.ts'

/** The dated API versions that exist. */
const VERSIONS = new Set([
  '2022-12-01',
  '2023-03-15-preview',
  '2023-05-15',
  '2023-12-01-preview',
  '2024-02-01',
  '2024-02-15-preview',
  '2024-03-01-preview',
  '2024-04-01-preview',
  '2024-05-01-preview',
  '2024-06-01',
  '2024-07-01-preview',
  '2024-08-01-preview',
  '2024-09-01-preview',
  '2024-10-01-preview',
  '2024-10-21',
  '2024-12-01-preview',
  '2025-01-01-preview',
  '2025-02-01-preview',
  '2025-03-01-preview',
  '2025-04-01-preview',
])
/** The first version with the Responses API. */
const RESPONSES_SINCE = '2025-03-01-preview'

/** What is asked for, by whichever surface. */
export interface Asked {
  readonly surface: 'classic' | 'v1' | 'anthropic'
  /** `chat/completions`, `responses`, `responses/{id}/cancel` … */
  readonly operation: string
  /** The deployment in the path; undefined where the body's `model` names it. */
  readonly deployment: string | undefined
  readonly apiVersion: string
  readonly query: URLSearchParams
}

const PER_DEPLOYMENT = new Set([
  'chat/completions',
  'completions',
  'embeddings',
  'images/generations',
  'images/edits',
  'audio/speech',
  'audio/transcriptions',
  'audio/translations',
])

/** The first versions of operations that the older ones have not (inference specifications; azure/README.md 1.2). */
const SINCE: Readonly<Record<string, string>> = {
  'audio/speech': '2024-02-15-preview',
  'images/edits': '2025-04-01-preview',
}
/** Operations that only preview versions have among the dated ones. */
const PREVIEW_ONLY = new Set(['audio/speech', 'images/edits', 'realtime'])
const REALTIME_SINCE = '2024-10-01-preview'

function isResourceOperation(operation: string): boolean {
  return /^(responses(\/[^/]+){0,2}|models(\/[^/]+)?|realtime)$/.test(operation)
}

/** What only the v1 surface has. */
const V1_ONLY = new Set(['realtime/client_secrets', 'realtime/calls', 'decisions'])

function isConversation(operation: string): boolean {
  return /^conversations(\/[^/]+(\/items(\/[^/]+)?)?)?$/.test(operation)
}

const CLAUDE = new Set(['v1/messages', 'v1/messages/count_tokens'])

function hasOperation(operation: string, apiVersion: string): boolean {
  if (PREVIEW_ONLY.has(operation) && !apiVersion.endsWith('-preview')) return false
  return apiVersion >= (SINCE[operation] ?? '')
}

function readV1(method: string, operation: string, query: URLSearchParams): Asked | WholeResponse {
  const apiVersion = query.get('api-version')
  const isKnown =
    PER_DEPLOYMENT.has(operation) ||
    isResourceOperation(operation) ||
    V1_ONLY.has(operation) ||
    isConversation(operation) ||
    isObjectOperation(method, operation)
  if (!isKnown) return resourceNotFound()
  if (apiVersion !== null && apiVersion !== 'v1' && apiVersion !== 'preview') return versionNotSupported()
  return { surface: 'v1', operation, deployment: undefined, apiVersion: apiVersion ?? 'v1', query }
}

/** Reads a request's target, or refuses it as Azure does. */
export function readSurface(method: string, target: string): Asked | WholeResponse {
  const url = new URL(target, 'http://simulated')
  const segments = url.pathname.split('/').slice(1)
  const query = url.searchParams
  const apiVersion = query.get('api-version')
  if (segments[0] === 'anthropic') {
    const operation = segments.slice(1).join('/')
    if (!CLAUDE.has(operation)) return notSupported()
    return { surface: 'anthropic', operation, deployment: undefined, apiVersion: 'v1', query }
  }
  if (segments[0] !== 'openai') return resourceNotFound()
  if (segments[1] === 'v1') return readV1(method, segments.slice(2).join('/'), query)
  if (apiVersion === null || !VERSIONS.has(apiVersion)) return resourceNotFound()
  if (segments[1] === 'deployments') {
    const operation = segments.slice(3).join('/')
    if (!PER_DEPLOYMENT.has(operation) || !hasOperation(operation, apiVersion)) return resourceNotFound()
    return { surface: 'classic', operation, deployment: decodeURIComponent(segments[2] ?? ''), apiVersion, query }
  }
  const operation = segments.slice(1).join('/')
  if (!isResourceOperation(operation) && !isObjectOperation(method, operation)) return resourceNotFound()
  if (operation.startsWith('responses') && apiVersion < RESPONSES_SINCE) {
    return frontError(
      400,
      'BadRequest',
      `Azure OpenAI Responses API is enabled only for api-version ${RESPONSES_SINCE} and later`,
    )
  }
  if (operation === 'realtime' && (!hasOperation(operation, apiVersion) || apiVersion < REALTIME_SINCE)) {
    return resourceNotFound()
  }
  return { surface: 'classic', operation, deployment: undefined, apiVersion, query }
}

/** Sub-routes of responses that are asked of a model, not of a stored response. */
const CREATES = new Set(['responses/compact', 'responses/input_tokens'])

/** Whether a request makes something of a model, and is not token-free. */
export function creates(method: string, { operation }: Asked): boolean {
  return (
    method === 'POST' &&
    (!operation.includes('responses/') || CREATES.has(operation)) &&
    !operation.startsWith('models') &&
    !operation.startsWith('conversations') &&
    !isObjectOperation(method, operation)
  )
}

/** Tells a refusal from what is asked. */
export function isWholeResponse(value: object): value is WholeResponse {
  return 'status' in value
}

export interface Access {
  readonly keys: readonly string[]
  /** Whether an Entra access token is good; undefined: none is. */
  readonly acceptsToken: ((token: string) => boolean) | undefined
}

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}

/**
 * Checks the credential: a key as `api-key`, for Claude as `x-api-key`, on v1 as Bearer too, or a token
 * (azure/README.md 2.1, 13.3).
 * @param ephemeral whether a token is one that this resource issued for a realtime session
 */
export function checkAccess(
  request: IncomingMessage,
  surface: Asked['surface'],
  access: Access,
  ephemeral: (token: string) => boolean = () => false,
): WholeResponse | undefined {
  const own = surface === 'anthropic' ? single(request.headers['x-api-key']) : undefined
  const key = own ?? single(request.headers['api-key'])
  if (key !== undefined) return access.keys.includes(key) ? undefined : wrongKey()
  const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1]
  if (bearer !== undefined && ephemeral(bearer)) return undefined
  if (bearer === undefined) return noCredential()
  if (access.acceptsToken?.(bearer) === true) return undefined
  return surface !== 'classic' && access.keys.includes(bearer) ? undefined : noCredential()
}

const STANDARD = new Set([
  'accept',
  'accept-charset',
  'accept-encoding',
  'accept-language',
  'api-key',
  'authorization',
  'cache-control',
  'connection',
  'content-encoding',
  'content-language',
  'content-length',
  'content-type',
  'date',
  'expect',
  'host',
  'if-match',
  'if-none-match',
  'origin',
  'pragma',
  'prefer',
  'priority',
  'range',
  'referer',
  'te',
  'transfer-encoding',
  'user-agent',
  'sec-websocket-extensions',
  'sec-websocket-key',
  'sec-websocket-protocol',
  'sec-websocket-version',
  'upgrade',
])
const HOP_BY_HOP = new Set(['keep-alive', 'proxy-connection', 'proxy-authorization', 'te', 'trailer', 'upgrade'])
const MAX_CUSTOM = 10
/** Routes on which agents send more to Azure directly, as Microsoft documents: the limit is not enforced there. */
const UNCOUNTED = /^\/(anthropic\/|openai\/v1\/responses($|\?))/

/** What is wrong with the request's head: refused as Azure does, or only noted where Azure would let it pass. */
export interface HeadCheck {
  readonly refusal: WholeResponse | undefined
  readonly violations: readonly string[]
}

/**
 * @param host the resource's own, with its port
 * @param forbidden texts that must not arrive: the keys of the proxy's own clients
 */
export function checkHead(request: IncomingMessage, host: string, forbidden: readonly string[]): HeadCheck {
  const violations: string[] = []
  let custom = 0
  let contentTypes = 0
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    const name = (request.rawHeaders[i] ?? '').toLowerCase()
    const value = request.rawHeaders[i + 1] ?? ''
    if (name === 'content-type') contentTypes++
    if (!STANDARD.has(name)) custom++
    const asksSocket = name === 'upgrade' && value === 'websocket'
    if (HOP_BY_HOP.has(name) && !asksSocket) violations.push(`hop-by-hop header ${name}`)
    if (forbidden.some(secret => value.includes(secret))) violations.push(`a client's key in ${name}`)
  }
  if (forbidden.some(secret => (request.url ?? '').includes(secret))) violations.push("a client's key in the URL")
  if (request.headers.host !== host) violations.push(`host ${request.headers.host ?? 'missing'}`)
  if (contentTypes > 1) violations.push('content-type twice')
  if (custom > MAX_CUSTOM && !UNCOUNTED.test(request.url ?? '')) {
    violations.push(`${custom} custom headers`)
    return { refusal: gatewayError(431, 'Request Header Fields Too Large'), violations }
  }
  return { refusal: contentTypes > 1 ? gatewayError(400, 'Duplicate content-type header.') : undefined, violations }
}
