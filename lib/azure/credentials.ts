// Credentials that a backend's requests carry. One authorizer per credential, shared by all its backends.
import { createHash } from 'node:crypto'
import type { BackendConfig, Credential } from '../config/types.ts'

export type Authorization =
  | { readonly kind: 'header'; readonly name: string; readonly value: string }
  /** OpenAI-compatible servers on a private network may want none. */
  | { readonly kind: 'none' }
  /** The token endpoint's fault, said plainly; never the backend's. Holds no secret. */
  | {
      readonly kind: 'unavailable'
      readonly reason: string
      /** Until the next fetch, in milliseconds. */
      readonly waitMs: number
      /** The token endpoint says that the config is wrong: waiting alone does not help. */
      readonly permanent: boolean
    }

/** Gives the header for one request: at once for keys and fresh tokens, later where a token must be fetched first. */
export interface Authorizer {
  authorize(): Authorization | Promise<Authorization>
  /**
   * The backend refused the token: the next who asks gets a new one, fetched no more often than failures are. Keys have
   * none.
   */
  refused?(authorization: Authorization): void
}

/** Fetches and keeps tokens for one Entra credential; see entra.ts. */
export interface TokenAuthorizerFactory {
  (credential: Credential): Authorizer
  /** Sets the one listener for tokens that arrive after failures; it takes the `credentialId` of the identity. */
  onWorking?(listener: (credentialId: string) => void): void
}

function constant(authorization: Authorization): Authorizer {
  return { authorize: () => authorization }
}

/**
 * The authorizer of a backend. Keys go as `api-key` to Azure (it is accepted on every surface and by API Management)
 * and as Bearer to OpenAI-compatible servers.
 */
export function authorizerFor(backend: BackendConfig, tokenAuthorizer: TokenAuthorizerFactory): Authorizer {
  const { credential } = backend
  if (credential.kind === 'none') return constant({ kind: 'none' })
  if (credential.kind !== 'api_key') return tokenAuthorizer(credential)
  const key = credential.key.reveal()
  return constant(
    backend.type === 'azure'
      ? { kind: 'header', name: 'api-key', value: key }
      : { kind: 'header', name: 'authorization', value: `Bearer ${key}` },
  )
}

/**
 * A name for a credential that can be compared and logged: 12 hex digits of a SHA-256 over its kind and all its parts.
 * Equal for two backends that use the same one.
 */
export function credentialId(credential: Credential): string {
  const shared = Object.entries(credential)
    .map(([name, value]) => `${name}=${typeof value === 'object' ? value.reveal() : (value ?? '')}`)
    .sort()
  return createHash('sha256').update(shared.join('\n')).digest('hex').slice(0, 12)
}

/**
 * How a backend is reached and with which headers of the config's own, where that is not as usual: a digest, empty
 * otherwise. Two backends that differ in it are two deployments, since one may be out of reach while the other is not.
 */
export function wayId({ endpoint: { route }, headers }: BackendConfig): string {
  if (route === undefined && headers.length === 0) return ''
  const parts = [route?.id ?? '', ...headers.flatMap(({ name, value }) => [name, value.reveal()])]
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 12)
}

/** What holds Responses state and what a probe asks: endpoint and credential, in one comparable string. */
export function resourceId(backend: BackendConfig): string {
  return `${backend.endpoint.url} ${credentialId(backend.credential)}`
}
