// The config as the rest of the program sees it: read once, checked, defaults filled in, units in the names, frozen.
import type { LogLevel } from '../log.ts'
import type { Secret } from './secret.ts'

/** How a model spreads its requests over its backends (README, "Balancing"). */
export type Balance = 'round_robin' | 'least_busy' | 'prompt_cache'

export type BackendType = 'azure' | 'openai'

/** How a backend's requests prove who they are. */
export type Credential =
  | { readonly kind: 'none' }
  | { readonly kind: 'api_key'; readonly key: Secret }
  | { readonly kind: 'managed_identity'; readonly clientId: string | undefined; readonly scope: string }
  | {
      readonly kind: 'workload_identity'
      readonly tenantId: string
      readonly clientId: string
      readonly tokenFile: string
      readonly authority: string
      readonly scope: string
    }
  | {
      readonly kind: 'client_secret'
      readonly tenantId: string
      readonly clientId: string
      readonly clientSecret: Secret
      readonly authority: string
      readonly scope: string
    }

/** A base URL, taken apart once. */
export interface Endpoint {
  readonly protocol: 'https:' | 'http:'
  /** Without brackets for IPv6, as net.connect wants it. */
  readonly hostname: string
  readonly port: number
  /** As the Host header says it: the port only when it is not the protocol's own. */
  readonly host: string
  /** The path prefix, without a final slash; empty when there is none. */
  readonly basePath: string
  /** `https://host[:port][/prefix]`, the one form under which equal endpoints are equal. */
  readonly url: string
}

export interface BackendConfig {
  /** Unique within its model. */
  readonly name: string
  readonly type: BackendType
  readonly endpoint: Endpoint
  readonly credential: Credential
  /** Azure's deployment name; for `type: openai` the model name to send. */
  readonly deployment: string
  /** `v1`, `preview` or a date such as `2024-10-21`, optionally with `-preview`. */
  readonly apiVersion: string
  /** Whole number from 1 to 1000: its share within the tier. */
  readonly weight: number
  /** Whole number from 1 to 100: 1 is used first. */
  readonly priority: number
}

export interface ModelConfig {
  readonly name: string
  readonly aliases: readonly string[]
  readonly balance: Balance
  /** Per attempt, until response headers. */
  readonly timeoutMs: number
  /** Stream: from headers to the first event with output. */
  readonly firstOutputTimeoutMs: number
  readonly streamUsage: boolean
  readonly backends: readonly BackendConfig[]
}

export interface ClientKeyLimits {
  readonly requestsPerMinute: number | undefined
  readonly tokensPerMinute: number | undefined
  readonly concurrent: number | undefined
}

export interface ClientKey {
  /** For logs and metrics; two keys may share one while they rotate. */
  readonly name: string
  /** SHA-256 of the key, 32 bytes: the key itself is not kept. */
  readonly digest: Buffer
  /** Public model names this key may use; undefined: all. */
  readonly models: readonly string[] | undefined
  /** May read the dashboard's data and eject or restore backends. */
  readonly admin: boolean
  readonly limits: ClientKeyLimits
}

export interface ServerConfig {
  readonly port: number
  /** undefined: all interfaces. */
  readonly host: string | undefined
  readonly workers: number | 'auto'
  readonly maxBodyBytes: number
  readonly maxBufferedBytes: number
  readonly shutdownGraceMs: number
  readonly streamKeepaliveMs: number
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined
  readonly watch: boolean
}

export interface RetryConfig {
  readonly maxAttempts: number
  readonly connectTimeoutMs: number
  readonly streamHoldMs: number
  readonly idleTimeoutMs: number
  /** A share of the requests in flight: 0.2 for `20%`. */
  readonly budget: number
  readonly maxWaitMs: number
}

export interface HealthCheckConfig {
  readonly enabled: boolean
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly recoveryMs: number
}

export interface LoggingConfig {
  readonly level: LogLevel
  readonly format: 'json' | 'text'
  /** undefined: standard output. */
  readonly file: string | undefined
}

export interface Config {
  readonly server: ServerConfig
  readonly auth: { readonly enabled: boolean; readonly keys: readonly ClientKey[] }
  readonly models: readonly ModelConfig[]
  readonly retry: RetryConfig
  readonly healthCheck: HealthCheckConfig
  readonly logging: LoggingConfig
  readonly metrics: { readonly enabled: boolean }
}
