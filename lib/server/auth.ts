// Proves who a request comes from: by a client key, or by a token of an issuer that the config names.
import { hash, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import type { Clock } from '../clock.ts'
import type { AuthConfig, ClientKey, TokenIssuer } from '../config/types.ts'
import type { Refusal } from '../errors.ts'
import { protocolKey } from '../handlers/ephemeral-keys.ts'
import type { TokenFault } from '../tokens/claims.ts'
import { looksLikeToken, MAX_TOKEN_CHARS } from '../tokens/jwt.ts'
import type { TokenVerdict, TokenVerifier } from '../tokens/verifier.ts'

export type AuthResult =
  | { readonly kind: 'known'; readonly principal: ClientKey | TokenIssuer }
  /** @property given whether anything was shown that could be a key */
  | { readonly kind: 'refused'; readonly refusal: Refusal; readonly given: boolean }

/** What a request shows of itself. */
export interface Presented {
  readonly headers: IncomingHttpHeaders
  /** The request line's target: a WebSocket handshake may carry the key in its query. */
  readonly target: string
  /** undefined: not known any more. */
  readonly client: string | undefined
  readonly webSocket: boolean
}

export interface Authenticator {
  /** At once, unless a token's issuer has to be asked for its keys first. */
  authenticate(presented: Presented): AuthResult | Promise<AuthResult>
}

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}

/** Azure's form for browsers, which cannot set headers on a WebSocket: `?api-key=KEY`. */
function queryKeys(target: string): readonly string[] {
  const mark = target.indexOf('?')
  if (mark === -1) return []
  const query = new URLSearchParams(target.slice(mark + 1))
  return [...query].filter(([name]) => name.toLowerCase() === 'api-key').map(([, value]) => value)
}

/** Headers in which clients send a key, besides `Authorization`; the last is API Management's. */
const KEY_HEADERS = ['api-key', 'x-api-key', 'ocp-apim-subscription-key'] as const

function bearerIn({ authorization }: IncomingHttpHeaders): string | undefined {
  return authorization !== undefined && /^bearer /i.test(authorization) ? authorization.slice(7).trim() : undefined
}

/** The texts a request may mean as its key, in the order in which they are tried; some clients send two. */
function presentedKeys({ headers, target, webSocket }: Presented): readonly string[] {
  const found: string[] = []
  const add = (text: string | undefined): void => {
    const key = text?.trim()
    if (key !== undefined && key !== '' && !found.includes(key)) found.push(key)
  }
  add(bearerIn(headers))
  for (const name of KEY_HEADERS) add(single(headers[name]))
  if (webSocket) {
    add(protocolKey(headers))
    for (const key of queryKeys(target)) add(key)
  }
  return found
}

/** The config's key with this digest, or undefined. Every key is compared, whether or not one has matched already. */
export function keyOf(digest: Buffer, keys: readonly ClientKey[]): ClientKey | undefined {
  let match: ClientKey | undefined
  for (const key of keys) if (timingSafeEqual(key.digest, digest)) match = key
  return match
}

/** Texts that are remembered as keys: those in use at once, whatever a config names. */
const MAX_KNOWN = 1_000
/** A header's text holds a character a byte; a query's is decoded. */
function bytesOf(text: string): string | Buffer {
  return /^[\0-\x7f]*$|[^\0-\xff]/.test(text) ? text : Buffer.from(text, 'latin1')
}

/**
 * Texts that were found to be keys of this config, so that a client's next request costs neither a SHA-256 (2 µs) nor a
 * comparison with every key (1 µs each). Wrong credentials are never remembered, so strangers cannot fill the memory.
 * Nor can they measure what is in it: a Map compares texts only where their seeded hashes are equal.
 */
function createKnownKeys(): {
  readonly find: (text: string) => ClientKey | undefined
  readonly keep: (text: string, key: ClientKey) => void
} {
  const known = new Map<string, ClientKey>()
  return {
    find: text => known.get(text),
    keep(text, key) {
      if (known.size >= MAX_KNOWN) known.clear()
      // A copy: the text may be a piece of a longer header, which would be kept with it.
      known.set(Buffer.from(text, 'utf8').toString('utf8'), key)
    },
  }
}

function unauthorized(message: string): Refusal {
  return { status: 401, code: 'invalid_api_key', message, headers: ['www-authenticate', 'Bearer'] }
}

const NO_KEY = unauthorized(
  'No API key was given: send it as "Authorization: Bearer KEY", or as "api-key", "x-api-key" or "Ocp-Apim-Subscription-Key".',
)
const WRONG_KEY = unauthorized('This API key is not known here: it is mistyped, or it was withdrawn.')
const NO_TOKENS = unauthorized(
  'This is a token, and this proxy takes keys only: its config names no issuer of tokens (auth.tokens).',
)
const EXPIRED_KEY = unauthorized("This API key has expired: ask the proxy's operator for another one.")

/** Said of a token that does not verify; nothing of the token is repeated. */
const TOKEN_FAULTS: Readonly<Record<TokenFault, string>> = {
  malformed: 'The token is no well-formed JWT access token.',
  algorithm: 'The token is signed with an algorithm that is not accepted here: it must be RS256, PS256 or ES256.',
  issuer: 'The token was issued by an issuer that is not accepted here.',
  audience: 'The token is for another audience: ask for one with the scope of this proxy.',
  no_expiry: 'The token has no expiry time ("exp"), which it must have.',
  not_yet_valid: "The token is not valid yet: compare the clock of the token's issuer with that of this proxy.",
  expired: 'The token has expired: get a new one.',
  unknown_key: 'The token is signed with a key that its issuer does not list: its signature cannot be verified.',
  signature: "The token's signature is wrong.",
  subject: 'The token is valid, but its subject is not among those that may call this proxy.',
}

/** A missing set of keys is nobody's fault but ours: the client may come back. */
function unavailable(waitMs: number): Refusal {
  return {
    status: 503,
    code: 'no_backend',
    message: "The keys of the token's issuer cannot be fetched at the moment, so the token cannot be verified.",
    retryAfterMs: waitMs,
  }
}

function addressRefusal(client: string | undefined): Refusal {
  return {
    status: 403,
    code: 'address_not_allowed',
    message: `This key may not be used from the address ${client ?? 'of this client'}.`,
  }
}

/** How much a refusal tells, so that of several credentials the one that was nearly right is spoken of. */
function weight(refusal: Refusal): number {
  if (refusal.status === 503) return 4
  if (refusal.status === 403) return 3
  return refusal === NO_KEY ? 0 : refusal === WRONG_KEY ? 1 : 2
}

function heavier(a: Refusal, b: Refusal): Refusal {
  return weight(b) > weight(a) ? b : a
}

function ofVerdict(verdict: TokenVerdict): AuthResult {
  if (verdict.kind === 'valid') return { kind: 'known', principal: verdict.issuer }
  const refusal = verdict.kind === 'refused' ? unauthorized(TOKEN_FAULTS[verdict.fault]) : unavailable(verdict.waitMs)
  return { kind: 'refused', refusal, given: true }
}

/**
 * Step 3 of a request (lib/README.md). Authenticates for one config. Of several credentials the first that is valid
 * counts; when none is, the response speaks of the one that came closest.
 */
export function createAuthenticator(
  { keys, tokens }: AuthConfig,
  verifier: TokenVerifier,
  clock: Clock,
): Authenticator {
  const refused = (refusal: Refusal): AuthResult => ({ kind: 'refused', refusal, given: true })
  const known = createKnownKeys()

  const judgeKey = (key: ClientKey, client: string | undefined): AuthResult => {
    if (key.expiresEpochMs !== undefined && clock.epochMs() >= key.expiresEpochMs) return refused(EXPIRED_KEY)
    if (key.from !== undefined && (client === undefined || !key.from.contains(client))) {
      return refused(addressRefusal(client))
    }
    return { kind: 'known', principal: key }
  }

  const judge = (text: string, client: string | undefined): AuthResult | Promise<AuthResult> => {
    // Hashing megabytes for a stranger is not our business.
    if (text.length > MAX_TOKEN_CHARS) return refused(WRONG_KEY)
    const remembered = known.find(text)
    if (remembered !== undefined) return judgeKey(remembered, client)
    const digest = hash('sha256', bytesOf(text), 'buffer')
    const key = keyOf(digest, keys)
    if (key !== undefined) {
      known.keep(text, key)
      return judgeKey(key, client)
    }
    if (!looksLikeToken(text)) return refused(WRONG_KEY)
    if (tokens.length === 0) return refused(NO_TOKENS)
    const verdict = verifier.verify(text, digest.toString('base64'))
    return verdict instanceof Promise ? verdict.then(ofVerdict) : ofVerdict(verdict)
  }

  const tryFrom = (
    texts: readonly string[],
    at: number,
    worst: Refusal,
    client: string | undefined,
  ): AuthResult | Promise<AuthResult> => {
    const text = texts[at]
    if (text === undefined) return { kind: 'refused', refusal: worst, given: texts.length > 0 }
    const goOn = (result: AuthResult): AuthResult | Promise<AuthResult> =>
      result.kind === 'known' ? result : tryFrom(texts, at + 1, heavier(worst, result.refusal), client)
    const result = judge(text, client)
    return result instanceof Promise ? result.then(goOn) : goOn(result)
  }

  return {
    authenticate(presented) {
      // Nearly every request: the bearer is tried first, and it is known.
      const bearer = bearerIn(presented.headers)
      const key = bearer === undefined ? undefined : known.find(bearer)
      const result = key === undefined ? undefined : judgeKey(key, presented.client)
      if (result?.kind === 'known') return result
      return tryFrom(presentedKeys(presented), 0, NO_KEY, presented.client)
    },
  }
}
