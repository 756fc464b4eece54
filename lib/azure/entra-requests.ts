// Token requests of each kind of Entra identity, and the meaning of the responses. Pure: no socket, no clock, no file.
import { isLoopback } from '../config/endpoint.ts'
import type { Credential } from '../config/types.ts'
import { namedWaitMs } from './waits.ts'

/** A credential whose proof is a token that has to be fetched. */
export type TokenCredential = Exclude<Credential, { readonly kind: 'none' | 'api_key' }>

/** Where the platform gives out tokens of its managed identities. */
export interface Platform {
  /** The Instance Metadata Service of virtual machines and AKS nodes: `http://host[:port]`. */
  readonly imdsUrl: string
  /** App Service, Functions and Container Apps: a URL and a header that proves one runs there; undefined elsewhere. */
  readonly service: { readonly url: string; readonly header: string } | undefined
}

/** One HTTP request for a token. It holds secrets: never to be logged. */
export interface TokenRequest {
  readonly method: 'GET' | 'POST'
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  /** Empty for GET. */
  readonly body: string
  /** For connecting, in milliseconds. */
  readonly connectMs: number
  /** An endpoint of the platform this runs on: never by a proxy. */
  readonly platform?: boolean
}

/** A response as it came, its body whole. */
export interface HttpResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly body: string
}

export type TokenResult =
  /** @property livesMs from the moment the request was made; at least MIN_LIFE_MS */
  | { readonly kind: 'token'; readonly token: string; readonly livesMs: number }
  | {
      readonly kind: 'failed'
      readonly reason: string
      /** How long the response asks to be left alone; undefined: it does not say. */
      readonly waitMs: number | undefined
      /**
       * It speaks of the config (`invalid_client`, an identity that is not assigned); left out: it may be there a
       * moment later.
       */
      readonly permanent?: boolean
    }

/**
 * Every virtual machine of Azure has it at this address, and it is reached without leaving the host (azure/README.md
 * 2.5).
 */
export const IMDS_URL = 'http://169.254.169.254'

/** Entra is far away and behind DNS: the same patience as for a slow backend. */
const ENTRA_CONNECT_MS = 5_000
/**
 * The platform's own endpoint is on the same host; where there is none, nothing answers at all (azure/README.md 2.5).
 */
const PLATFORM_CONNECT_MS = 2_000
/** A token that ends sooner is of no use to a request, and would have us fetch all the time. */
export const MIN_LIFE_MS = 5_000
/** The longest lifetime that is believed: tokens of managed identities live for up to a day (azure/README.md 2.2). */
export const MAX_LIFE_MS = 86_400_000
/** A header longer than this is refused by Azure's front end anyway; real tokens have 1 to 3 thousand characters. */
const MAX_TOKEN_CHARS = 16_384

const ASSERTION_TYPE = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'

/** What a managed identity's token is asked for: the scope without its `/.default` (azure/README.md 2.5). */
export function resourceOf(scope: string): string {
  return scope.replace(/\/\.default$/, '')
}

/**
 * Who a credential says it is, for log lines: its mode and its ids, which are no secrets.
 */
export function describeCredential(credential: TokenCredential): string {
  switch (credential.kind) {
    case 'client_secret':
      return `client secret of app ${credential.clientId}`
    case 'workload_identity':
      return `workload identity of app ${credential.clientId}`
    case 'managed_identity':
      return credential.clientId === undefined ? 'managed identity' : `managed identity ${credential.clientId}`
  }
}

function formRequest(authority: string, tenantId: string, fields: Readonly<Record<string, string>>): TokenRequest {
  const body = new URLSearchParams(fields).toString()
  return {
    method: 'POST',
    url: new URL(`${authority}/${encodeURIComponent(tenantId)}/oauth2/v2.0/token`),
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body,
    connectMs: ENTRA_CONNECT_MS,
  }
}

function identityRequest(
  credential: TokenCredential & { readonly kind: 'managed_identity' },
  { imdsUrl, service }: Platform,
): TokenRequest {
  const url = service === undefined ? new URL('/metadata/identity/oauth2/token', imdsUrl) : new URL(service.url)
  url.searchParams.set('api-version', service === undefined ? '2018-02-01' : '2019-08-01')
  url.searchParams.set('resource', resourceOf(credential.scope))
  if (credential.clientId !== undefined) url.searchParams.set('client_id', credential.clientId)
  const headers = service === undefined ? { metadata: 'true' } : { 'x-identity-header': service.header }
  return { method: 'GET', url, headers, body: '', connectMs: PLATFORM_CONNECT_MS, platform: true }
}

/**
 * The request for a token (azure/README.md 2.3 to 2.5).
 * @param assertion the federated token, for workload_identity; not read otherwise
 */
export function tokenRequest(credential: TokenCredential, platform: Platform, assertion: string): TokenRequest {
  switch (credential.kind) {
    case 'client_secret':
      return formRequest(credential.authority, credential.tenantId, {
        grant_type: 'client_credentials',
        client_id: credential.clientId,
        client_secret: credential.clientSecret.reveal(),
        scope: credential.scope,
      })
    case 'workload_identity':
      return formRequest(credential.authority, credential.tenantId, {
        grant_type: 'client_credentials',
        client_id: credential.clientId,
        client_assertion_type: ASSERTION_TYPE,
        client_assertion: assertion,
        scope: credential.scope,
      })
    case 'managed_identity':
      return identityRequest(credential, platform)
  }
}

/**
 * The platform's endpoint as its environment names it (azure/README.md 2.5); undefined where both variables are not
 * set.
 * @throws nothing; a URL that is none counts as not set
 */
export function serviceFrom(env: Readonly<Record<string, string | undefined>>): Platform['service'] {
  const { IDENTITY_ENDPOINT: url, IDENTITY_HEADER: header } = env
  if (url === undefined || url === '' || header === undefined || !isHeaderSafe(header)) return undefined
  return /^https?:\/\//i.test(url) && URL.canParse(url) ? { url, header } : undefined
}

/**
 * Secrets go over plain http to this machine and to the platform's own endpoints alone; config has checked it before.
 */
export function maySendPlainly(credential: TokenCredential, url: URL): boolean {
  return credential.kind === 'managed_identity' || isLoopback(url.hostname.replace(/^\[(.*)\]$/, '$1'))
}

/** Whether a text can stand in a header: visible ASCII without blanks. */
function isHeaderSafe(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text)
}

function parseObject(body: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(body)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined
  } catch {
    return undefined
  }
}

/** Seconds as a number or, from the platform's endpoints, as a string of digits. */
function seconds(value: unknown): number | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined
  return typeof value === 'string' && /^\d{1,12}$/.test(value) ? Number(value) : undefined
}

/** Relative first: it does not depend on this machine's clock being right. App Service gives the absolute one alone. */
function lifeMs(response: Readonly<Record<string, unknown>>, epochMs: number): number | undefined {
  const relative = seconds(response.expires_in)
  if (relative !== undefined) return relative * 1000
  const absolute = seconds(response.expires_on)
  return absolute === undefined ? undefined : absolute * 1000 - epochMs
}

function sourceOf(credential: TokenCredential): string {
  return credential.kind === 'managed_identity' ? 'the managed identity endpoint' : 'Entra'
}

const REFUSED: Readonly<Record<TokenCredential['kind'], string>> = {
  client_secret: 'the client secret',
  workload_identity: 'the workload identity',
  managed_identity: 'a token',
}

/**
 * Entra's number and OAuth's word for what is wrong, where they are there; free text of a response is never passed on.
 */
function errorCodes(response: Readonly<Record<string, unknown>> | undefined): string[] {
  if (response === undefined) return []
  const { error, error_codes: codes, error_description: description } = response
  const first: unknown = Array.isArray(codes) ? codes[0] : undefined
  const fromText = typeof description === 'string' ? /\bAADSTS(\d{1,10})\b/.exec(description)?.[1] : undefined
  const number = Number.isSafeInteger(first) ? String(first) : fromText
  const word = typeof error === 'string' && /^[\w.-]{1,64}$/.test(error) ? error : undefined
  return [...(number === undefined ? [] : [`AADSTS${number}`]), ...(word === undefined ? [] : [word])]
}

/** What Entra and the metadata service say of a wrong identity, secret or scope (azure/README.md 2.3, 2.5). */
function isAboutConfig(status: number): boolean {
  return status === 400 || status === 401 || status === 403
}

/**
 * What a response means. The reasons name codes and statuses, never what was sent or any free text that came back.
 * @param epochMs the wall clock when the request was made
 */
export function readTokenResponse(credential: TokenCredential, response: HttpResponse, epochMs: number): TokenResult {
  const source = sourceOf(credential)
  const failed = (reason: string): TokenResult => ({
    kind: 'failed',
    reason,
    waitMs: namedWaitMs(response.headers, epochMs),
    ...(isAboutConfig(response.status) ? { permanent: true } : {}),
  })
  const { status } = response
  const value = parseObject(response.body)
  if (status !== 200) {
    const codes = errorCodes(value)
    const shown = codes.length === 0 ? String(status) : codes.join(', ')
    if (status === 429) return failed(`${source} is throttling (${['429', ...codes].join(', ')})`)
    // The metadata service says 404 and 410 while it is being updated (azure/README.md 2.5).
    const restarts = credential.kind === 'managed_identity' && (status === 404 || status === 410)
    if (status >= 500 || status === 408 || restarts) {
      return failed(`${source} is failing (${[String(status), ...codes].join(', ')})`)
    }
    if (status >= 400) {
      const hint = credential.kind === 'managed_identity' ? ': is the identity assigned here?' : ''
      return failed(`${source} refused ${REFUSED[credential.kind]} (${shown})${hint}`)
    }
    return failed(`${source} answered ${status}, which no token endpoint does`)
  }
  const token = value?.access_token
  if (value === undefined || typeof token !== 'string') return failed(`${source} answered 200 without a token`)
  if (token.length > MAX_TOKEN_CHARS || !isHeaderSafe(token)) {
    return failed(`${source} gave a token that cannot stand in a header`)
  }
  const { token_type: type } = value
  if (type !== undefined && !(typeof type === 'string' && type.toLowerCase() === 'bearer')) {
    return failed(`${source} gave a token that is no Bearer token`)
  }
  const livesMs = lifeMs(value, epochMs)
  if (livesMs === undefined) return failed(`${source} gave a token without saying how long it lives`)
  if (livesMs < MIN_LIFE_MS) {
    return failed(`${source} gave a token that is already over: is this machine's clock right?`)
  }
  return { kind: 'token', token, livesMs: Math.min(livesMs, MAX_LIFE_MS) }
}

/** What to say when no response came. @param code the system's error code or a few plain words */
export function unreachable(credential: TokenCredential, host: string, code: string): TokenResult {
  const hint = credential.kind === 'managed_identity' ? ': does this run on Azure, with an identity assigned?' : ''
  return {
    kind: 'failed',
    reason: `${sourceOf(credential)} at ${host} does not answer (${code})${hint}`,
    waitMs: undefined,
  }
}
