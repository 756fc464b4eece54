// Reading of an upstream body in time: one deadline, one way to stop, and every loss said once. It knows nothing of
// what is read.
import type { Clock, Deadline, Deadlines } from '../clock.ts'
import type { BodySink, ResponseBody } from '../http1/send.ts'
import { ProtocolError } from '../http1/send.ts'
import type { Cancellation } from '../request-context.ts'
import { type Outcome, transportFailure } from './outcome.ts'
import type { AttemptResult, UpstreamBody, UpstreamResponse } from './upstream.ts'

/** What reading needs: time. */
export interface ReadDeps {
  readonly deadlines: Deadlines
  readonly clock: Clock
}

/** Takes the result of an attempt, once. */
export type Done = (result: AttemptResult) => void

const SERVED: Outcome = { kind: 'served' }
const SILENT = transportFailure('idle_timeout', 'silence')

/** System error codes are safe and useful to show; texts may hold anything. */
export function errorCode(error: unknown): string {
  if (typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string')
    return error.code
  return 'error'
}

/** A response whose body is to be read. */
export type Begun = Omit<UpstreamResponse, 'body'>

/**
 * A response with what was read of its body. Written out: V8 puts what a spread in hot code makes among its old
 * objects, where it keeps all of the request alive until the next full collection.
 */
export function withBody({ status, source, headers, jsonEnd }: Begun, body: UpstreamBody): UpstreamResponse {
  return { status, source, headers, body, jsonEnd }
}

/** The result of an attempt whose response is the client's. */
export function served(begun: Begun, body: UpstreamBody): AttemptResult {
  return { kind: 'response', outcome: SERVED, response: withBody(begun, body) }
}

/** Hears what comes. */
export interface Reading {
  readonly onData: (chunk: Buffer) => void
  readonly onEnd: () => void
  /** The connection went, the time ran out, or the client did. */
  readonly onLost: (outcome: Outcome) => void
}

/** A reading in progress. */
export interface Reader {
  /** Detaches from the body; the caller pauses or destroys it. */
  stop(): void
  /** Calls `act` at that time, in monotonic ms, whatever comes. */
  limit(dueMs: number, act: () => void): void
  /** Gives the body up; the outcome goes to `onLost`. */
  lose(outcome: Outcome): void
}

/** One for every response: a class, whose methods are made once. */
class BodyReading implements Reader, BodySink {
  private readonly source: ResponseBody
  private readonly deps: ReadDeps
  private readonly idleMs: number
  private readonly reading: Reading
  private readonly deadline: Deadline
  private readonly stopWatching: () => void
  private capMs = Number.POSITIVE_INFINITY
  private atCap: (() => void) | undefined
  private stopped = false

  constructor(source: ResponseBody, deps: ReadDeps, cancellation: Cancellation, idleMs: number, reading: Reading) {
    this.source = source
    this.deps = deps
    this.idleMs = idleMs
    this.reading = reading
    this.deadline = deps.deadlines.add(deps.clock.nowMs() + idleMs, () => this.late())
    this.stopWatching = cancellation.onCancel(reason => queueMicrotask(() => this.lose({ kind: 'cancelled', reason })))
    source.attach(this)
  }

  data(chunk: Buffer): void {
    this.deadline.dueMs = Math.min(this.deps.clock.nowMs() + this.idleMs, this.capMs)
    this.reading.onData(chunk)
  }

  end(): void {
    if (this.stopped) return
    this.stop()
    this.reading.onEnd()
  }

  lost(error: Error): void {
    this.lose(transportFailure(error instanceof ProtocolError ? 'protocol_error' : 'connection_lost', errorCode(error)))
  }

  stop(): void {
    this.stopped = true
    this.deps.deadlines.remove(this.deadline)
    this.stopWatching()
  }

  lose(outcome: Outcome): void {
    if (this.stopped) return
    this.stop()
    this.source.destroy()
    this.reading.onLost(outcome)
  }

  limit(dueMs: number, act: () => void): void {
    this.capMs = dueMs
    this.atCap = act
    this.deadline.dueMs = Math.min(this.deadline.dueMs, dueMs)
  }

  private late(): void {
    if (this.deps.clock.nowMs() >= this.capMs) this.atCap?.()
    else this.lose(SILENT)
  }
}

/** Reads a body until `stop`; every way to lose it ends in `onLost`, once. */
export function readBody(
  source: ResponseBody,
  deps: ReadDeps,
  { cancellation, idleMs }: { readonly cancellation: Cancellation; readonly idleMs: number },
  reading: Reading,
): Reader {
  return new BodyReading(source, deps, cancellation, idleMs, reading)
}
