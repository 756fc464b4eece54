// What an attempt is asked to do, and what it brings.
import type { Dialect } from '../azure/operations.ts'
import type { EventStreamWatcher } from './event-stream.ts'
import type { Cancellation } from './exchange.ts'
import type { AnswerHeaders, AnswerValues } from './headers.ts'
import type { Outcome } from './outcome.ts'
import type { Reply } from './reply.ts'
import type { WireRequest } from './transport.ts'

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
  readonly creates: boolean
  readonly timeouts: AttemptTimeouts
  readonly cancellation: Cancellation
}

/** A piece of an event stream with how many of its bytes belong to whole events. */
export interface HeldPiece {
  readonly chunk: Buffer
  readonly wholeBytes: number
}

export type AnswerBody =
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
    }

export interface UpstreamAnswer {
  readonly status: number
  readonly reply: Reply
  readonly headers: AnswerHeaders
  readonly body: AnswerBody
}

export type AttemptResult =
  | { readonly kind: 'answer'; readonly outcome: Outcome; readonly answer: UpstreamAnswer }
  | { readonly kind: 'no_answer'; readonly outcome: Outcome; readonly values?: AnswerValues }
