// An issuer of signed tokens as Entra ID is one: discovery document, key set, tokens for client credentials. Keys are
// replaced and outages begin on request. Knows nothing of the proxy.
import {
  constants,
  createHmac,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
} from 'node:crypto'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Clock } from '../clock.ts'

type SigningAlgorithm = 'RS256' | 'PS256' | 'ES256'

interface SigningKey {
  readonly kid: string
  readonly algorithm: SigningAlgorithm
  readonly privateKey: KeyObject
  readonly publicKey: KeyObject
}

/** Changes of a token against the usual one. */
export interface TokenChanges {
  /** Members of the payload; undefined takes one out. */
  readonly claims?: Readonly<Record<string, unknown>>
  /** Members of the header; undefined takes one out. */
  readonly header?: Readonly<Record<string, unknown>>
  /** `none`: no signature; `HS256`: signed with the public key's text as a shared secret. */
  readonly signature?: 'none' | 'HS256' | 'wrong'
}

export type IssuerOutage = 'hang_up' | 'error' | 'silence' | 'garbage' | 'other_issuer'

export interface SimulatedIssuerOptions {
  readonly clock: Clock
  readonly tenant?: string
  readonly audience?: string
  readonly algorithm?: SigningAlgorithm
  /** How long its tokens live, in seconds. */
  readonly lifetimeS?: number
}

export interface SimulatedIssuer {
  /** @returns the issuer as its tokens name it: `http://127.0.0.1:PORT/TENANT/v2.0` */
  listen(port?: number): Promise<{ readonly issuer: string; readonly keySetUrl: string; readonly tokenUrl: string }>
  close(): Promise<void>
  /** A token signed with the present key. */
  token(changes?: TokenChanges): string
  /** Signs with a new key from now on. @param keepOld whether the old ones stay in the key set */
  rotate(keepOld?: boolean): void
  /** What every fetch gets; undefined: all is well again. */
  fail(outage: IssuerOutage | undefined): void
  /** The key set as JSON text. */
  keySet(): string
  /** Fetches of the key set. */
  fetches(): number
}

const DEFAULT_LIFETIME_S = 3_600
const RSA_BITS = 2048

function part(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

const SPKI = { type: 'spki', format: 'der' } as const
const PKCS8 = { type: 'pkcs8', format: 'der' } as const

/**
 * A fresh key by way of its bytes: Node 20 stands still for ever when it collects a generation's job while that key
 * object is exported.
 */
function generateKey(algorithm: SigningAlgorithm, kid: string): SigningKey {
  const { publicKey, privateKey } =
    algorithm === 'ES256'
      ? generateKeyPairSync('ec', { namedCurve: 'P-256', publicKeyEncoding: SPKI, privateKeyEncoding: PKCS8 })
      : generateKeyPairSync('rsa', { modulusLength: RSA_BITS, publicKeyEncoding: SPKI, privateKeyEncoding: PKCS8 })
  return {
    kid,
    algorithm,
    publicKey: createPublicKey({ key: publicKey, ...SPKI }),
    privateKey: createPrivateKey({ key: privateKey, ...PKCS8 }),
  }
}

function signWith({ algorithm, privateKey: key }: SigningKey, text: string): Buffer {
  const data = Buffer.from(text)
  if (algorithm === 'ES256') return sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' })
  if (algorithm === 'RS256') return sign('sha256', data, key)
  return sign('sha256', data, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 })
}

/** The public halves of keys, as a key set's JSON text (RFC 7517). */
function keySetOf(keys: readonly SigningKey[]): string {
  return JSON.stringify({
    keys: keys.map(key => ({ ...key.publicKey.export({ format: 'jwk' }), kid: key.kid, use: 'sig' })),
  })
}

/** What every token of an issuer says, unless it is changed. */
interface UsualClaims {
  readonly iss: string
  readonly aud: string
  readonly nowS: number
  readonly lifetimeS: number
}

/** A token with the usual claims, changed as asked and signed with this key. */
function signedToken(
  key: SigningKey,
  { iss, aud, nowS, lifetimeS }: UsualClaims,
  { claims = {}, header = {}, signature }: TokenChanges,
): string {
  const head = { typ: 'JWT', alg: signature === 'none' ? 'none' : key.algorithm, kid: key.kid }
  if (signature === 'HS256') head.alg = 'HS256'
  const body = {
    iss,
    aud,
    azp: 'client-app',
    sub: 'subject-1',
    iat: nowS,
    nbf: nowS,
    exp: nowS + lifetimeS,
    ...claims,
  }
  const text = `${part({ ...head, ...header })}.${part(body)}`
  if (signature === 'none') return `${text}.`
  const secret = key.publicKey.export({ type: 'spki', format: 'pem' })
  const bytes = signature === 'HS256' ? createHmac('sha256', secret).update(text).digest() : signWith(key, text)
  if (signature === 'wrong') bytes.writeUInt8((bytes.readUInt8(9) + 1) % 256, 9)
  return `${text}.${bytes.toString('base64url')}`
}

/** What an issuer needs to answer a fetch. */
interface IssuerView {
  readonly base: string
  readonly tenant: string
  readonly outage: IssuerOutage | undefined
  readonly issuer: string
  readonly lifetimeS: number
  keySet(): string
  token(): string
}

/** The answer to a fetch of a path, if an outage does not take it. */
function answerTo(path: string | undefined, view: IssuerView): readonly [status: number, text: string] {
  const { base, tenant, outage, issuer, lifetimeS } = view
  if (outage === 'error') return [503, '{"error":"temporarily_unavailable"}']
  if (outage === 'garbage') return [200, '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}']
  const named = outage === 'other_issuer' ? 'https://issuer.example' : issuer
  if (path === `/${tenant}/v2.0/.well-known/openid-configuration`) {
    return [200, JSON.stringify({ issuer: named, jwks_uri: `${base}/${tenant}/discovery/v2.0/keys` })]
  }
  if (path === `/${tenant}/discovery/v2.0/keys`) return [200, view.keySet()]
  if (path === `/${tenant}/oauth2/v2.0/token`) {
    const answer = { token_type: 'Bearer', expires_in: lifetimeS, access_token: view.token() }
    return [200, JSON.stringify(answer)]
  }
  return [404, '{"error":"not_found"}']
}

/**
 * An issuer that signs with one key at a time.
 * @example
 * const issuer = createSimulatedIssuer({ clock, audience: 'api://proxy' })
 * const { issuer: url } = await issuer.listen()
 * issuer.token({ claims: { azp: 'team-a' } })
 */
export function createSimulatedIssuer(options: SimulatedIssuerOptions): SimulatedIssuer {
  const { clock, tenant = 'simulated-tenant', audience = 'api://proxy', algorithm = 'RS256' } = options
  const lifetimeS = options.lifetimeS ?? DEFAULT_LIFETIME_S
  let keys: readonly SigningKey[] = [generateKey(algorithm, 'key-1')]
  let made = 1
  let outage: IssuerOutage | undefined
  let fetches = 0
  let base = ''

  const issuer = (): string => `${base}/${tenant}/v2.0`
  const keySet = (): string => keySetOf(keys)

  const token = (changes: TokenChanges = {}): string => {
    const [key] = keys
    if (key === undefined) throw new Error('an issuer has a key')
    const nowS = Math.floor(clock.epochMs() / 1000)
    return signedToken(key, { iss: issuer(), aud: audience, nowS, lifetimeS }, changes)
  }

  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    const path = request.url?.split('?', 1)[0]
    request.resume()
    if (path === `/${tenant}/discovery/v2.0/keys`) fetches++
    if (outage === 'silence') return
    if (outage === 'hang_up') {
      request.socket.resetAndDestroy()
      return
    }
    const [status, text] = answerTo(path, { base, tenant, outage, issuer: issuer(), lifetimeS, keySet, token })
    response.writeHead(status, { 'content-type': 'application/json' }).end(text)
  }

  const server = http.createServer((request, response) => {
    response.on('error', () => undefined)
    serve(request, response)
  })

  return {
    listen(port = 0) {
      return new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, '127.0.0.1', () => {
          const bound = server.address() as AddressInfo
          base = `http://127.0.0.1:${bound.port}`
          resolve({
            issuer: issuer(),
            keySetUrl: `${base}/${tenant}/discovery/v2.0/keys`,
            tokenUrl: `${base}/${tenant}/oauth2/v2.0/token`,
          })
        })
      })
    },
    close() {
      return new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
    },
    token,
    rotate(keepOld = false) {
      made++
      keys = [generateKey(algorithm, `key-${made}`), ...(keepOld ? keys : [])]
    },
    fail(next) {
      outage = next
    },
    keySet,
    fetches: () => fetches,
  }
}
