// One request as the handlers understand it, and what forwarding needs to know of it as it goes.
import type { Socket } from 'node:net'
import type { Dialect } from '../azure/operations.ts'
import type { Member, PickerOptions, Pool } from '../balancer/pool.ts'
import type { ChunkList } from '../body/chunk-list.ts'
import type { Clock, Deadlines } from '../clock.ts'
import type { BackendConfig } from '../config/types.ts'
import type { ResponseBody, ResponseHead, WireRequest } from '../http1/send.ts'
import type { Cancellation, CancelReason } from '../request-context.ts'
import type { ResponseHeaders, ResponseValues } from './headers.ts'
import type { JsonEnd } from './json-end.ts'
import type { Outcome } from './outcome.ts'
import type { EventStreamWatcher } from './sse-watcher.ts'

/** One request as the handlers understand it. */
export interface ForwardRequest {
  readonly pool: Pool
  readonly method: string
  readonly dialect: Dialect
  readonly wantsStream: boolean
  /** The body is known to be a JSON object. */
  readonly json: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly isCreate: boolean
  /** Path and query at a backend. */
  path(backend: BackendConfig): string
  body(member: Member): ChunkList
  /** The last body asked for usage in the client's name: its event is taken out of the answer again. */
  dropsUsageEvent?(): boolean
  /** No further attempt can need the body. */
  releaseBody(): void
  /** Which members it may go to, and which it had better not. */
  readonly pickerOptions: PickerOptions
  /** The state it names lives in one resource: no failover beyond `turn.allow`, and a wait instead of a wrong answer. */
  readonly pinned: boolean
  /** It carries state whose home is not known: a resource that cannot read it passes it on to the next one. */
  readonly stateOwnerUnknown: boolean
  /** Resources that made the items it names: one that denies them is asked once more (azure/README.md 13.4). */
  readonly itemOwners?: ReadonlySet<string> | undefined
  /** Sees the first bytes of an answer that is passed on, and whose it is. */
  onServed?(member: Member, upstreamResponse: UpstreamResponse): void
  /** Sees whole events of an answer's stream. */
  readonly onEvents?: ((member: Member, events: Buffer) => void) | undefined
  /** Looks at an answer before it is judged final; `again` asks the same backend once more with a changed body. */
  onRefused?(member: Member, upstreamResponse: UpstreamResponse): 'again' | undefined
  /** The backend turned out not to offer the operation. */
  onUnsupported?(member: Member): void
  /** It asks for a WebSocket: the headers that do, and what becomes of a backend's agreement. */
  readonly upgrade?: {
    readonly headers: readonly string[]
    /** Any plain answer to the handshake means that this backend has no such route: the next one is asked. */
    readonly refusalsMoveOn?: boolean
    open(member: Member, upgraded: Upgraded): Promise<RelayResult>
  }
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

export interface AttemptPlan {
  readonly wire: WireRequest
  /** The body as pieces, already rewritten for this backend; empty for none. */
  readonly body: readonly Buffer[]
  readonly dialect: Dialect
  /** The request asked for an event stream: believed when the answer's content type says nothing. */
  readonly wantsStream: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly isCreate: boolean
  readonly timeouts: AttemptTimeouts
  readonly cancellation: Cancellation
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
  | { readonly kind: 'response'; readonly outcome: Outcome; readonly response: UpstreamResponse }
  | { readonly kind: 'no_response'; readonly outcome: Outcome; readonly values?: ResponseValues }

// On what terms an answer is passed on, and how that may end.

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
  /** Frames that came together with the answer. */
  readonly head: Buffer
}
