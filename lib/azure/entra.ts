// Entra ID tokens for backends: one keeper for each identity and scope, for all callers, also across reloads of the
// config.
import type { Clock, Random } from '../clock.ts'
import type { Credential } from '../config/types.ts'
import { type Authorizer, credentialId, type TokenAuthorizerFactory } from './credentials.ts'
import { createStraightExchange, type Exchange } from './entra-http.ts'
import {
  describeCredential,
  IMDS_URL,
  maySendPlainly,
  type Platform,
  readTokenResponse,
  serviceFrom,
  type TokenCredential,
  type TokenResult,
  tokenRequest,
  unreachable,
} from './entra-requests.ts'
import { createTokenKeeper, type TokenChange, type TokenKeeper } from './entra-token.ts'

export interface TokenAuthorizersOptions {
  readonly clock: Clock
  readonly random: Random
  /** For IDENTITY_ENDPOINT and IDENTITY_HEADER; what else Entra needs of it stands in the credential. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Reads a federated token. Rejects with the system's error. */
  readonly readFile: (path: string) => Promise<string>
  /** Once when a credential's tokens begin to fail, once when they are there again. Plain words, no secret. */
  readonly onProblem: (message: string, state: 'failing' | 'working') => void
  /** Where the metadata service is, for machines that are none of Azure's: tests. */
  readonly imdsUrl?: string
  /** Carries requests to token endpoints; left out: straight, over connections of its own. */
  readonly exchange?: Exchange
}

export interface TokenAuthorizers extends TokenAuthorizerFactory {
  /** Cancels every timer and fetch; requests that wait for a token are rejected. */
  close(): void
}

/**
 * Identities that are remembered. A config has a handful; more come from many reloads with ever new secrets. Those
 * asked for longest ago are then dropped here; their holders may still use them.
 */
const MAX_IDENTITIES = 256
/** A federated token is a JWT of 1 to 3 KB; anything longer is the wrong file. */
const MAX_ASSERTION_CHARS = 16_384

function isTokenCredential(credential: Credential): credential is TokenCredential {
  return credential.kind !== 'none' && credential.kind !== 'api_key'
}

function describeChange(who: string, change: TokenChange): string {
  if (change.kind === 'working') return `Entra tokens for the ${who} are fetched again`
  const { reason, leftMs } = change
  const rest = leftMs > 0 ? `the present one serves for ${Math.ceil(leftMs / 60_000)} more min` : 'there is none'
  return `an Entra token for the ${who} could not be fetched, ${rest}: ${reason}`
}

function codeOf(error: unknown): string {
  const code: unknown = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^\w{1,64}$/.test(code) ? code : 'unreadable'
}

/**
 * Makes the authorizers of backends with an `entra` credential. Two backends with the same identity and scope share one
 * token.
 */
export function createTokenAuthorizers(options: TokenAuthorizersOptions): TokenAuthorizers {
  const { clock, random, env, readFile, onProblem, exchange = createStraightExchange(options.clock) } = options
  const platform: Platform = { imdsUrl: options.imdsUrl ?? IMDS_URL, service: serviceFrom(env) }
  const keepers = new Map<string, TokenKeeper>()
  const closing = new AbortController()
  let working: (credentialId: string) => void = () => undefined

  /** The federated token, read anew each time because the platform replaces it (azure/README.md 2.4). */
  const readAssertion = async (path: string): Promise<string | { readonly reason: string }> => {
    try {
      const text = (await readFile(path)).trim()
      // The path is not shown: somebody may have put the token itself there.
      if (text === '') return { reason: 'the federated token file is empty' }
      return text.length > MAX_ASSERTION_CHARS ? { reason: 'the federated token file holds no token' } : text
    } catch (error) {
      return { reason: `the federated token file cannot be read (${codeOf(error)})` }
    }
  }

  const fetch = async (credential: TokenCredential, signal: AbortSignal): Promise<TokenResult> => {
    const assertion = credential.kind === 'workload_identity' ? await readAssertion(credential.tokenFile) : ''
    if (typeof assertion !== 'string') return { kind: 'failed', reason: assertion.reason, waitMs: undefined }
    const request = tokenRequest(credential, platform, assertion)
    if (request.url.protocol !== 'https:' && !maySendPlainly(credential, request.url)) {
      return {
        kind: 'failed',
        reason: 'the authority is plain http: the secret is not sent',
        waitMs: undefined,
        permanent: true,
      }
    }
    const epochMs = clock.epochMs()
    const exchanged = await exchange(request, signal)
    return exchanged.kind === 'response'
      ? readTokenResponse(credential, exchanged.response, epochMs)
      : unreachable(credential, request.url.host, exchanged.code)
  }

  const keeperFor = (credential: TokenCredential, id: string): TokenKeeper => {
    const who = describeCredential(credential)
    return createTokenKeeper({
      clock,
      random,
      fetch: signal => fetch(credential, signal),
      closing: closing.signal,
      onChange(change) {
        onProblem(describeChange(who, change), change.kind)
        if (change.kind === 'working') working(id)
      },
    })
  }

  const authorizerFor = (credential: Credential): Authorizer => {
    if (!isTokenCredential(credential)) throw new TypeError(`a ${credential.kind} credential has no token`)
    const id = credentialId(credential)
    const keeper = keepers.get(id) ?? keeperFor(credential, id)
    // Asked for last, forgotten last.
    keepers.delete(id)
    keepers.set(id, keeper)
    for (const [oldest, old] of keepers) {
      if (keepers.size <= MAX_IDENTITIES) break
      keepers.delete(oldest)
      old.rest()
    }
    return keeper
  }
  const close = (): void => {
    closing.abort()
    for (const keeper of keepers.values()) keeper.rest()
  }
  const onWorking = (listener: typeof working): void => {
    working = listener
  }
  return Object.assign(authorizerFor, { close, onWorking })
}
