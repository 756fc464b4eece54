// The config as the rest of the program sees it: read once, checked, defaults filled in, units in the names, frozen.
import type { LogLevel } from '../log.ts'
import type { AddressRanges } from './addresses.ts'
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

/** An outbound proxy on the way to a backend, taken apart once. */
export interface EgressProxy {
  readonly protocol: 'https:' | 'http:'
  /** Without brackets for IPv6. */
  readonly hostname: string
  readonly port: number
  /** `http://host:port`, without credentials: what logs and messages show. */
  readonly url: string
  /** `Basic …` for Proxy-Authorization; undefined: the URL names no user. */
  readonly authorization: Secret | undefined
}

/**
 * How an endpoint is reached, where that is not straight and with the system's CAs alone. PEM texts are kept as Secret,
 * so that nothing prints them and a reload's log says "changed".
 */
export interface Route {
  /** Equal for equal routes; a digest, which shows nothing. */
  readonly id: string
  readonly proxy: EgressProxy | undefined
  /** Added to the system's CAs. */
  readonly ca: readonly Secret[]
  /** The client's own certificate. */
  readonly identity: { readonly cert: Secret; readonly key: Secret } | undefined
  /** The name that is asked of the certificate, instead of the endpoint's. */
  readonly serverName: string | undefined
}

/** The way out for all endpoints that have none of their own. */
export interface EgressConfig {
  readonly httpsProxy: EgressProxy | undefined
  readonly httpProxy: EgressProxy | undefined
  /** Reached without it: hosts, `.suffixes`, ranges, each with a port or without; `*`. */
  readonly noProxy: readonly string[]
  /** Added to the system's CAs. */
  readonly ca: readonly Secret[]
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
  /** undefined: straight there, trusting the system's CAs. */
  readonly route?: Route | undefined
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
  /** Requests at once, in this process; undefined: no limit. */
  readonly maxInFlight: number | undefined
  /** Sent with every request, in place of the client's of the same name. */
  readonly headers: readonly BackendHeader[]
}

/** A header of the config's own; its value is as secret as a key. */
export interface BackendHeader {
  /** In lower case. */
  readonly name: string
  readonly value: Secret
}

/** What a million tokens cost, in any currency. */
export interface Price {
  readonly input: number
  readonly cachedInput: number
  readonly output: number
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
  /** Encrypted reasoning whose maker cannot serve is left out, and the turn goes on elsewhere. */
  readonly stripForeignReasoning: boolean
  /** undefined: no cost is counted. */
  readonly price?: Price | undefined
  readonly backends: readonly BackendConfig[]
}

export interface ClientKeyLimits {
  readonly requestsPerMinute: number | undefined
  readonly tokensPerMinute: number | undefined
  readonly concurrent: number | undefined
  /** Of a UTC day or month, over all models; money in the currency of the prices. */
  readonly tokensPerDay?: number | undefined
  readonly tokensPerMonth?: number | undefined
  readonly costPerMonth?: number | undefined
}

/** What a client may do once it has proved itself, by a key or by a token. */
export interface Principal {
  /** For logs, metrics and the ownership of stored responses; two keys may share one while they rotate. */
  readonly name: string
  /** Public model names it may use; undefined: all. */
  readonly models: readonly string[] | undefined
  /** May read the dashboard's data and eject or restore backends. */
  readonly admin: boolean
  readonly limits: ClientKeyLimits
}

export interface ClientKey extends Principal {
  /** SHA-256 of the key, 32 bytes: the config does not keep the key itself. */
  readonly digest: Buffer
  /** Addresses it may come from; undefined: anywhere. */
  readonly from: AddressRanges | undefined
  /** Wall clock time in milliseconds from which it is refused; undefined: never. */
  readonly expiresEpochMs: number | undefined
}

/** Where the keys that verify an issuer's tokens come from. */
export type KeySource =
  /** @property url the discovery document (OpenID Connect Discovery 1.0) */
  | { readonly kind: 'discovery'; readonly url: string; readonly issuer: string }
  /** @property url the JSON Web Key Set itself */
  | { readonly kind: 'url'; readonly url: string }
  | { readonly kind: 'file'; readonly path: string }

/** Clients that show a signed token of this issuer, for one of these audiences. */
export interface TokenIssuer extends Principal {
  readonly issuer: string
  readonly audiences: readonly string[]
  readonly keys: KeySource
  /** Allowed values of the claim; undefined: every token of that audience. */
  readonly subjects: readonly string[] | undefined
  /** undefined: the first that is there of azp, appid and sub. */
  readonly claim: string | undefined
}

export interface AuthConfig {
  readonly enabled: boolean
  readonly keys: readonly ClientKey[]
  readonly tokens: readonly TokenIssuer[]
  /** Stored responses may be used by every key that knows their id. */
  readonly sharedResponses: boolean
}

export interface ServerConfig {
  readonly port: number
  /** undefined: all interfaces. */
  readonly host: string | undefined
  readonly workers: number | 'auto'
  readonly maxBodyBytes: number
  readonly maxBufferedBytes: number
  /** Of one process; undefined: what the limit of open files allows. */
  readonly maxConnections: number | undefined
  readonly shutdownGraceMs: number
  readonly streamKeepaliveMs: number
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined
  readonly watch: boolean
  /** Peers whose X-Forwarded-For is believed. */
  readonly trustedProxies: AddressRanges | undefined
  /** Further JSON operations of the v1 form, routed by the body's model: `rerank`, `team/thing`. */
  readonly extraOperations: readonly string[]
  /** Origins of browser apps, `*` for all; empty: no browser app of another origin may read responses. */
  readonly corsOrigins: readonly string[]
}

export interface RetryConfig {
  readonly maxAttempts: number
  readonly connectTimeoutMs: number
  readonly streamHoldMs: number
  readonly idleTimeoutMs: number
  /** A share of the requests in flight: 0.2 for `20%`. */
  readonly budget: number
  readonly maxWaitMs: number
  /** A kept connection that is older is not used again. */
  readonly connectionMaxAgeMs: number
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

/** Where traces go. */
export interface TracingConfig {
  /** The OTLP/HTTP endpoint for traces; undefined: nothing is traced. */
  readonly url: string | undefined
  /** Share of the traces begun here, 0 to 1. */
  readonly sample: number
  readonly headers: readonly { readonly name: string; readonly value: Secret }[]
}

export interface Config {
  readonly tracing: TracingConfig
  readonly server: ServerConfig
  readonly auth: AuthConfig
  readonly models: readonly ModelConfig[]
  readonly egress: EgressConfig
  readonly retry: RetryConfig
  readonly healthCheck: HealthCheckConfig
  readonly logging: LoggingConfig
  readonly metrics: { readonly enabled: boolean }
  /** The sums of keys with a limit of a day or a month: an absolute path, used only when there is such a limit. */
  readonly usage: { readonly file: string }
}
