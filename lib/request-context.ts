// One request of a client and its response: what every phase shares. The server makes it; it lives as long as the
// response does.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ClientKey, TokenIssuer } from './config/types.ts'

/** Who ended a request before its response was whole. */
export type CancelReason = 'client_closed' | 'shutdown' | 'client_stalled'

/** The one signal of a request: whatever phase it is in has put its way to stop here. */
export interface Cancellation {
  readonly reason: CancelReason | undefined
  /** The first reason stands; later ones are ignored. */
  cancel(reason: CancelReason): void
  /** Runs `stop` on cancellation (at once if it has come already); returns how to take it back. */
  onCancel(stop: (reason: CancelReason) => void): () => void
}

type Stop = (reason: CancelReason) => void

/**
 * One for every request: a class, since an object literal with a getter gets a shape of its own each time it is made.
 */
class RequestCancellation implements Cancellation {
  reason: CancelReason | undefined = undefined
  /** Hardly ever more than two at a time, of which the last is taken back first. */
  private readonly stops: Stop[] = []

  cancel(given: CancelReason): void {
    if (this.reason !== undefined) return
    this.reason = given
    // One by one: a stop may take back those after it.
    for (let stop = this.stops.shift(); stop !== undefined; stop = this.stops.shift()) stop(given)
  }

  onCancel(stop: Stop): () => void {
    if (this.reason !== undefined) {
      stop(this.reason)
      return () => undefined
    }
    this.stops.push(stop)
    return () => {
      const at = this.stops.lastIndexOf(stop)
      if (at !== -1) this.stops.splice(at, 1)
    }
  }
}

export function createCancellation(): Cancellation {
  return new RequestCancellation()
}

/** Tokens as the upstream counted them; undefined where it did not say. */
export interface Usage {
  readonly promptTokens: number | undefined
  readonly completionTokens: number | undefined
  readonly cachedTokens: number | undefined
}

export const NO_USAGE: Usage = { promptTokens: undefined, completionTokens: undefined, cachedTokens: undefined }

/**
 * What the log line and the metrics will say of the request; filled in as it becomes known. Holds no body and no
 * secret.
 */
export interface RequestRecord {
  key: string | undefined
  /** The model's public name, only when it is one of the config's. */
  model: string | undefined
  backend: string | undefined
  status: number
  attempts: number
  /** Milliseconds from the request's head to the first byte of the response. */
  ttfbMs: number | undefined
  bytesIn: number
  bytesOut: number
  stream: boolean
  usage: Usage
  /** A tier above could not take it. */
  servedByLowerTier: boolean
  /** Azure's own id of the response (`apim-request-id` or `x-request-id`), for a support ticket. */
  upstreamId: string | undefined
  /** Azure moved it to another deployment itself (`x-ms-is-spilled-over`, `x-ms-spillover-from-deployment`). */
  azureSpillover: string | undefined
  error: string | undefined
  /** Name of the key that made the stored state which this request was refused. */
  madeBy: string | undefined
  /** A session whose turns are logged and counted by themselves: it counts as no request. */
  isSession: boolean
}

export function createRecord(): RequestRecord {
  return {
    key: undefined,
    model: undefined,
    backend: undefined,
    status: 0,
    attempts: 0,
    ttfbMs: undefined,
    bytesIn: 0,
    bytesOut: 0,
    stream: false,
    usage: NO_USAGE,
    servedByLowerTier: false,
    upstreamId: undefined,
    azureSpillover: undefined,
    error: undefined,
    madeBy: undefined,
    isSession: false,
  }
}

/**
 * A realtime session's own key: it is good at the resource that issued it, and goes there in place of the backend's.
 */
export interface EphemeralKey {
  readonly resourceId: string
  readonly secret: string
  /** Id of the principal that had it issued: its models and limits hold. */
  readonly mintedBy: string | undefined
}

/** A request's trace, where it is traced. */
export interface RequestTrace {
  /** An attempt begins. @returns the `traceparent` that goes upstream */
  attemptBegins(backend: string): string
  attemptEnds(backend: string, label: string, detail: string): void
}

export interface Exchange {
  /** undefined: the request is not traced. */
  readonly trace?: RequestTrace | undefined
  /**
   * The proxy's id of the request, in the log and (unless the upstream sent its own) in the response's `x-request-id`.
   */
  readonly id: string
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly cancellation: Cancellation
  readonly record: RequestRecord
  /** Monotonic time of the request's head. */
  readonly beganMs: number
  /**
   * Ends a response that is complete while its request is not. What still comes is thrown away for a moment (RFC 9112
   * section 9.6, "lingering close"). So the client can read the response before the connection closes.
   */
  lingerAndClose(): void
  /**
   * The client's address in plain form, past the trusted proxies; kept, because the socket forgets it when it closes.
   */
  readonly client: string | undefined
  /** The client's key, or its tokens' issuer; undefined while not authenticated, and where authentication is off. */
  clientKey: ClientKey | TokenIssuer | undefined
  /** Shown instead of a client key. */
  ephemeral: EphemeralKey | undefined
  /** It asks for Anthropic's API: the proxy's own errors have that API's shape. */
  isAnthropic: boolean
}

/** A finished request, for the log and the counters. */
export interface FinishedRequest {
  readonly id: string
  readonly method: string
  readonly path: string
  readonly client: string | undefined
  readonly traceparent: string | undefined
  readonly durationMs: number
  /** In the currency of the prices; undefined without a price, and where nobody counted. */
  readonly cost: number | undefined
  readonly record: Readonly<RequestRecord>
}
