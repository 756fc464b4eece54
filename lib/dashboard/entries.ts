// Entries of the live status page: requests, attempts, changes of state, and how backends stand. Names no endpoint, no
// address of a client and no secret. Fields are named as in the log line.
import type { OutcomeLabel } from '../forward/outcome-label.ts'

/** A finished request; fields as in the log line (deploy/reference.md, "The log line"). */
export interface RequestEntry {
  /** Epoch milliseconds of its end. */
  readonly time_ms: number
  readonly id: string
  readonly key: string | null
  /** The client's address, past the trusted proxies. */
  readonly client: string | null
  readonly method: string
  readonly path: string
  /** Public name, only when it is one of the config's. */
  readonly model: string | null
  /** The one asked last. */
  readonly backend: string | null
  /** 0 when the client was gone before there was one. */
  readonly status: number
  readonly attempts: number
  readonly duration_ms: number
  readonly ttfb_ms: number | null
  readonly prompt_tokens: number | null
  readonly completion_tokens: number | null
  readonly cached_tokens: number | null
  readonly stream: boolean
  readonly error: string | null
}

/** One attempt at one backend. */
export interface AttemptEntry {
  readonly model: string
  readonly backend: string
  readonly outcome: OutcomeLabel
  /** Milliseconds from asking to the first byte of the response; undefined when none came. */
  readonly ttfbMs: number | undefined
}

/** A change of a backend's state. */
export interface ChangeEntry {
  readonly time_ms: number
  /** Several, with commas, where one deployment is in several models. */
  readonly model: string
  readonly backend: string
  readonly kind: 'ejected' | 'throttled' | 'restored'
  /** Of an ejection: its stable code, and what was seen. */
  readonly reason: string | null
  readonly detail: string | null
  /** Epoch milliseconds; null for a restored one, and for one that is out until somebody restores it. */
  readonly until_ms: number | null
  /** What restored it: trial, request, probe, hand. */
  readonly by: string | null
}

/** What a deployment said of itself last. */
export interface HeadroomEntry {
  readonly remaining_requests: number | null
  readonly limit_requests: number | null
  readonly remaining_tokens: number | null
  readonly limit_tokens: number | null
  /** Epoch milliseconds. */
  readonly at_ms: number
}

/** How one backend of one model stands now. */
export interface BackendState {
  readonly model: string
  readonly backend: string
  /**
   * The same number for places that share one deployment, and so its state, its requests in flight and its headroom.
   */
  readonly deployment: number
  readonly tier: number
  readonly weight: number
  /** `trial`: its hold has passed, its next response decides. */
  readonly state: 'healthy' | 'throttled' | 'ejected' | 'trial'
  readonly reason: string | null
  readonly detail: string | null
  /** Epoch milliseconds; null when there is no such time. */
  readonly since_ms: number | null
  /** Epoch milliseconds; null for an ejected one that is out until somebody restores it. */
  readonly until_ms: number | null
  readonly in_flight: number
  readonly headroom: HeadroomEntry | null
  /** Whether a request or a probe has met it since the start: until then `healthy` is a guess. */
  readonly asked: boolean
  /** What to do about its trouble: a code of balancer/advice.ts, and its sentence; null where nothing is wrong. */
  readonly advice: string | null
  /**
   * Operations that it does not serve at its api_version, and the version: a wrong one, most likely, or a wrong path.
   */
  readonly lacks: readonly string[]
  /** What to do about the first of them: a code of balancer/advice.ts, and its sentence. */
  readonly lack_advice: string | null
  readonly lack_todo: string | null
  readonly todo: string | null
}

/** Which proxy this is. */
export interface ProxyEntry {
  readonly host: string
  readonly version: string
  /** Epoch milliseconds of the oldest process's start. */
  readonly started_ms: number
  readonly workers: number
  /** Epoch milliseconds of the last reload that was taken up; null: none yet. */
  readonly reloaded_ms: number | null
  /** The last reload, if it failed: its first problem. */
  readonly reload_failed: { readonly time_ms: number; readonly problem: string } | null
  /** Epoch milliseconds at which the listener's certificate ends; null: plain HTTP. */
  readonly certificate_ends_ms: number | null
  /** Other certificates that end within two weeks, or have ended. */
  readonly certificates: readonly CertificateEntry[]
}

/** The end of a certificate: the listener's own, of a file that the config names, or shown by a backend. */
export interface CertificateEntry {
  /** `listener`, `egress.ca`, `NAME tls.cert`, or a host. */
  readonly cert: string
  readonly kind: 'listener' | 'file' | 'backend'
  /** Epoch milliseconds. */
  readonly ends_ms: number
}

/** One key's limit, and how much of it is used. */
export interface LimitEntry {
  readonly limit: string
  readonly used: number
  readonly max: number
}

/** What one key has used since the start of the processes; the limits as they stand now. */
export interface KeyEntry {
  readonly key: string
  readonly requests: number
  readonly errors: number
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly cached_tokens: number
  /** null: no model has a price. */
  readonly cost: number | null
  readonly limits: readonly LimitEntry[]
}

/**
 * Where an entry comes from: a process and its running number there. Request ids will not do, as clients may choose
 * them.
 */
export interface Sequenced {
  readonly source: string
  readonly seq: number
}

/** One value a step, oldest first. */
export interface StepHistory {
  readonly requests: readonly number[]
  readonly errors: readonly number[]
  readonly tokens: readonly number[]
  readonly ttfb_p50_ms: readonly (number | null)[]
}

export interface Figures {
  readonly requests_per_s: number
  /** Of the attempts, those that failed; null when there were none. */
  readonly error_share: number | null
  /** Of the attempts, those answered 429. */
  readonly throttled_share: number | null
  readonly ttfb_p50_ms: number | null
  readonly ttfb_p95_ms: number | null
  readonly tokens_per_min: number
  /** Of the prompt tokens, those from the cache; null when nothing was said of it. */
  readonly cached_share: number | null
  readonly history: StepHistory
}

export type BackendRow = BackendState & Figures

/** A client key that ends within a week, or has ended. */
export interface EndingKey {
  readonly key: string
  readonly ends_ms: number
}

export interface StatusView {
  readonly time_ms: number
  readonly step: number
  readonly step_ms: number
  readonly steps: number
  readonly totals: Figures & { readonly in_flight: number }
  readonly backends: readonly BackendRow[]
  /** The soonest first. */
  readonly keys_ending: readonly EndingKey[]
  readonly proxy: ProxyEntry
  readonly keys: readonly KeyEntry[]
}
