// One request as the handlers understand it, and what forwarding needs to know of it as it goes.
import type { Socket } from 'node:net'
import type { Dialect } from '../azure/operations.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import type { ChunkList } from '../body/chunk-list.ts'
import type { Clock, Deadlines } from '../clock.ts'
import type { ResponseBody, ResponseHead, WireRequest } from '../http1/send.ts'
import type { Cancellation, CancelReason } from '../request-context.ts'
import type { ResponseHeaders, ResponseValues } from './headers.ts'
import type { JsonEnd } from './json-end.ts'
import type { Outcome } from './outcome.ts'
import type { EventStreamWatcher } from './sse-watcher.ts'

/** The request for one backend. */
export interface PreparedRequest {
  /** Path and query. */
  readonly path: string
  readonly body: ChunkList
  /** The body is known to be a JSON object. */
  readonly isJson: boolean
}

/** Learns from what is relayed: owners of responses and of encrypted items. */
export interface ResponseObserver {
  /** Sees the first bytes of a response that is passed on, and whose it is. */
  onResponse(member: Member, response: UpstreamResponse): void
  /** Sees whole events of a response's stream; undefined: nothing can be learnt from them. */
  readonly onEvents: ((member: Member, events: Buffer) => void) | undefined
}

/** How a request with encrypted reasoning of other resources can do without it (`strip_foreign_reasoning`). */
export interface ForeignReasoning {
  /** It can read all of the reasoning, as far as is known: others are picked only if it is not available. */
  canRead(member: Member): boolean
  /**
   * A member cannot read an item. True: ask it once more, without reasoning, because no other that may read it is
   * there.
   */
  onDenied(member: Member): boolean
}

/** It asks for a WebSocket. */
export interface Upgrade {
  /** The headers that ask for it. */
  readonly headers: readonly string[]
  /** Any plain response to the handshake means that this backend has no such route: the next one is asked. */
  readonly refusalsMoveOn?: boolean
  /** What becomes of a backend's agreement. */
  open(member: Member, upgraded: Upgraded): Promise<RelayResult>
}

/** One request as its handler understood it. Data, but for what only the handler can answer. */
export interface ForwardRequest {
  readonly pool: Pool
  readonly method: string
  readonly dialect: Dialect
  readonly wantsStream: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly isCreate: boolean
  /**
   * As `unsupported` remembers it: a deployment without it is picked last. Undefined: nothing that could be missing.
   */
  readonly operation: string | undefined
  /** Only these resources hold what the request needs; undefined: any. */
  readonly pinnedResources: ReadonlySet<string> | undefined
  /** Of these the members that can have it at all; undefined: all. */
  readonly only?: ((member: Member) => boolean) | undefined
  /** Members that are picked only if no other is available. */
  readonly avoid?: ((member: Member) => boolean) | undefined
  /** It carries state whose owner is unknown: "not mine" moves on to the next resource. */
  readonly stateOwnerUnknown: boolean
  /** Resources that made the items it names: one that denies them is asked once more (azure/README.md 13.4). */
  readonly itemOwners: ReadonlySet<string> | undefined
  readonly foreignReasoning: ForeignReasoning | undefined
  /** 32-bit hash of the prompt's beginning, where the model balances by it and it is long enough. */
  readonly promptHash: number | undefined
  /** `stream_options` that ask for usage: added, or put into the client's own, whose fault a refusal of them may be. */
  readonly usageOption: 'added' | 'in_clients' | undefined
  /** Path, body and what was added to it, for one backend; called for each try. */
  prepare(member: Member, options: { readonly askUsage: boolean }): PreparedRequest
  /** No further attempt can need the body. */
  releaseBody(): void
  readonly observer: ResponseObserver | undefined
  readonly upgrade?: Upgrade | undefined
}

// What an attempt is asked to do, and what it brings.

/** How long each phase may take, in milliseconds. */
export interface AttemptTimeouts {
  readonly connectMs: number
  readonly headersMs: number
  readonly firstOutputMs: number
  readonly streamHoldMs: number
  readonly idleMs: number
}

/** One limit for every phase, for questions that are answered at once or not at all. */
export function sameTimeouts(ms: number): AttemptTimeouts {
  return { connectMs: ms, headersMs: ms, firstOutputMs: ms, streamHoldMs: ms, idleMs: ms }
}

export interface AttemptPlan {
  readonly wire: WireRequest
  /** The body as pieces, already rewritten for this backend; empty for none. */
  readonly body: readonly Buffer[]
  readonly dialect: Dialect
  /** The request asked for an event stream: believed when the response's content type says nothing. */
  readonly wantsStream: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly isCreate: boolean
  readonly timeouts: AttemptTimeouts
  readonly cancellation: Cancellation
  /** On a connection of its own: a trial must not meet an old address again. */
  readonly fresh: boolean
}

/** A piece of an event stream with how many of its bytes belong to whole events. */
export interface HeldPiece {
  readonly chunk: Buffer
  readonly wholeBytes: number
}

export type UpstreamBody =
  /** All of it. */
  | { readonly kind: 'whole'; readonly chunks: readonly Buffer[]; readonly bytes: number }
  /** Its beginning; the rest is still coming. */
  | { readonly kind: 'flowing'; readonly held: readonly Buffer[] }
  | {
      readonly kind: 'events'
      readonly held: readonly HeldPiece[]
      readonly watcher: EventStreamWatcher
      /** The response has ended already. */
      readonly complete: boolean
      /** Monotonic time by which output must have begun. */
      readonly firstOutputDueMs: number
      /** It reads a stored response, of which nothing may be left to bring. */
      readonly isRead: boolean
    }

export interface UpstreamResponse {
  readonly status: number
  readonly source: ResponseBody
  readonly headers: ResponseHeaders
  readonly body: UpstreamBody
  /** Sees what comes of a body that could end early unnoticed. */
  readonly jsonEnd: JsonEnd | undefined
}

export type AttemptResult =
  | {
      readonly kind: 'response'
      readonly outcome: Outcome
      readonly response: UpstreamResponse
      /** It came on a connection that had been used before; known where that matters, for a 421. */
      readonly reused?: boolean | undefined
    }
  | { readonly kind: 'no_response'; readonly outcome: Outcome; readonly values?: ResponseValues }

// On what terms a response is passed on, and how that may end.

export type RelayResult =
  | { readonly kind: 'complete' }
  /** Upstream's part broke off after the client had seen some of it. */
  | {
      readonly kind: 'cut'
      readonly detail: 'connection_lost' | 'no_protocol_end' | 'idle_timeout' | 'first_output_timeout'
    }
  | { readonly kind: 'cancelled'; readonly reason: CancelReason }

export interface RelayOptions {
  readonly backendName: string
  readonly dialect: Dialect
  readonly idleMs: number
  /** Silence after which an open event stream gets a comment; 0: never. */
  readonly keepaliveMs: number
  /** Takes the one extra usage event out again, where the client had not asked for it (`stream_usage`). */
  readonly dropUsageEvent: boolean
  /** Sees the whole events that go out. */
  readonly onEvents: ((bytes: Buffer) => void) | undefined
}

export interface RelayDeps {
  readonly clock: Clock
  readonly deadlines: Deadlines
}

/** A backend agreed to a WebSocket: from here on the socket carries frames. */
export interface Upgraded {
  readonly kind: 'upgraded'
  readonly response: ResponseHead
  readonly socket: Socket
  /** Frames that came together with the response. */
  readonly head: Buffer
}
