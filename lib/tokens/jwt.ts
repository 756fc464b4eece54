// Reads and verifies one signed token (JWT, RFC 7519; JWS compact form, RFC 7515). Pure: no socket, no clock, no
// config.
import { constants, createPublicKey, type JsonWebKey, type KeyObject, verify } from 'node:crypto'

/** The algorithms that count. `none` and HMAC are no choice: a public key must never be taken for a shared secret. */
export type Algorithm = 'RS256' | 'PS256' | 'ES256'

/** A public key of an issuer, with the algorithms its type allows. */
export interface VerificationKey {
  readonly kid: string | undefined
  readonly algorithms: readonly Algorithm[]
  readonly key: KeyObject
}

/** A token taken apart. Nothing in it is believed before its signature has been verified. */
export interface ParsedToken {
  readonly algorithm: Algorithm
  readonly kid: string | undefined
  readonly claims: Readonly<Record<string, unknown>>
  readonly signed: Buffer
  readonly signature: Buffer
}

/** Characters of a token. Entra's have 1 to 8 thousand (200 groups); all headers of a request share 32 KB. */
export const MAX_TOKEN_CHARS = 24_576
/** Keys read from one set. Entra lists about ten; a longer list is another kind of document. */
const MAX_KEYS = 100
/** Characters of a key's id. */
const MAX_KID_CHARS = 256
/** Shorter RSA keys can be factored (NIST SP 800-131A). */
const MIN_RSA_BITS = 2048
/** Bytes of an ES256 signature: r and s of 32 bytes each (RFC 7518 section 3.4). */
const ES256_BYTES = 64

const COMPACT = /^eyJ[\w-]+\.[\w-]+\.[\w-]*$/
/** Types that an access token or an id token may name (RFC 7519 section 5.1, RFC 9068 section 2.1). */
const TYPES: ReadonlySet<string> = new Set(['jwt', 'at+jwt'])

/** Whether a text has the form of a token: three base64url parts, of which the first begins like a JSON object. */
export function looksLikeToken(text: string): boolean {
  return text.length <= MAX_TOKEN_CHARS && COMPACT.test(text)
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

function isAlgorithm(value: unknown): value is Algorithm {
  return value === 'RS256' || value === 'PS256' || value === 'ES256'
}

/**
 * Takes a token apart.
 * @returns the token; `malformed`: it is no JWT of this form; `algorithm`: it names an algorithm that is not accepted
 */
export function parseToken(text: string): ParsedToken | 'malformed' | 'algorithm' {
  if (!looksLikeToken(text)) return 'malformed'
  const firstDot = text.indexOf('.')
  const lastDot = text.lastIndexOf('.')
  const header = parseObject(Buffer.from(text.slice(0, firstDot), 'base64url').toString('utf8'))
  const claims = parseObject(Buffer.from(text.slice(firstDot + 1, lastDot), 'base64url').toString('utf8'))
  if (header === undefined || claims === undefined) return 'malformed'
  const { alg, kid, typ } = header
  if (!isAlgorithm(alg)) return 'algorithm'
  // RFC 7515 section 4.1.11: an extension that must be understood and is not makes the token invalid.
  if ('crit' in header) return 'malformed'
  if (kid !== undefined && (typeof kid !== 'string' || kid.length > MAX_KID_CHARS)) return 'malformed'
  if (typ !== undefined) {
    if (typeof typ !== 'string' || !TYPES.has(typ.toLowerCase().replace(/^application\//, ''))) return 'malformed'
  }
  return {
    algorithm: alg,
    kid,
    claims,
    signed: Buffer.from(text.slice(0, lastDot), 'latin1'),
    signature: Buffer.from(text.slice(lastDot + 1), 'base64url'),
  }
}

/**
 * Whether this key signed the token. Takes 30 to 60 µs. The key's type decides which algorithms may be named; the
 * token's own choice is only compared with it.
 */
export function verifySignature({ algorithm, signed, signature }: ParsedToken, given: VerificationKey): boolean {
  if (!given.algorithms.includes(algorithm)) return false
  const { key } = given
  switch (algorithm) {
    case 'RS256':
      return verify('sha256', signed, { key, padding: constants.RSA_PKCS1_PADDING }, signature)
    case 'PS256': {
      const padding = constants.RSA_PKCS1_PSS_PADDING
      return verify('sha256', signed, { key, padding, saltLength: constants.RSA_PSS_SALTLEN_DIGEST }, signature)
    }
    case 'ES256':
      return signature.length === ES256_BYTES && verify('sha256', signed, { key, dsaEncoding: 'ieee-p1363' }, signature)
  }
}

/** The algorithms that a JSON Web Key may verify; none for symmetric, encrypting, short or unknown ones. */
function algorithmsOf(jwk: Readonly<Record<string, unknown>>): readonly Algorithm[] {
  const { kty, alg, use, key_ops: operations, crv } = jwk
  if (use !== undefined && use !== 'sig') return []
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes('verify'))) return []
  const ofType: readonly Algorithm[] =
    kty === 'RSA' ? ['RS256', 'PS256'] : kty === 'EC' && crv === 'P-256' ? ['ES256'] : []
  return alg === undefined ? ofType : ofType.filter(algorithm => algorithm === alg)
}

function readKey(jwk: unknown): VerificationKey | undefined {
  if (!isObject(jwk)) return undefined
  const algorithms = algorithmsOf(jwk)
  const { kty, crv, n, e, x, y, kid } = jwk
  if (algorithms.length === 0 || (kid !== undefined && typeof kid !== 'string')) return undefined
  const parts = kty === 'RSA' ? { kty, n, e } : { kty, crv, x, y }
  if (Object.values(parts).some(part => typeof part !== 'string')) return undefined
  try {
    // The public parts alone: a private key that somebody published must not be used as one.
    const key = createPublicKey({ key: parts as JsonWebKey, format: 'jwk' })
    const bits = key.asymmetricKeyDetails?.modulusLength
    return bits !== undefined && bits < MIN_RSA_BITS ? undefined : { kid, algorithms, key }
  } catch {
    return undefined
  }
}

/**
 * The usable keys of a JSON Web Key Set (RFC 7517 section 5). Keys of other kinds are left out, as the RFC asks.
 * @returns undefined when the text is no key set, or holds no key that could verify anything
 */
export function parseKeySet(text: string): readonly VerificationKey[] | undefined {
  const keys = parseObject(text)?.keys
  if (!Array.isArray(keys)) return undefined
  const usable = keys.slice(0, MAX_KEYS).flatMap(jwk => readKey(jwk) ?? [])
  return usable.length === 0 ? undefined : usable
}
