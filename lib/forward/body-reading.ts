// Reading of an upstream body in time: one deadline, one way to stop, and every loss said once. It knows nothing of
// what is read.
import type { Clock, Deadlines } from '../clock.ts'
import type { ResponseBody } from '../http1/send.ts'
import { ProtocolError } from '../http1/send.ts'
import type { Cancellation } from '../request-context.ts'
import { type Outcome, transportFailure } from './outcome.ts'
import type { AttemptResult, UpstreamResponse } from './upstream.ts'

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

/** The result of an attempt whose response is the client's. */
export function served(upstreamResponse: UpstreamResponse): AttemptResult {
  return { kind: 'response', outcome: SERVED, response: upstreamResponse }
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

/** Reads a body until `stop`; every way to lose it ends in `onLost`, once. */
export function readBody(
  source: ResponseBody,
  { deadlines, clock }: ReadDeps,
  { cancellation, idleMs }: { readonly cancellation: Cancellation; readonly idleMs: number },
  reading: Reading,
): Reader {
  let capMs = Number.POSITIVE_INFINITY
  let atCap = (): void => undefined
  let stopped = false
  const stop = (): void => {
    stopped = true
    deadlines.remove(deadline)
    stopWatching()
  }
  const lose = (outcome: Outcome): void => {
    if (stopped) return
    stop()
    source.destroy()
    reading.onLost(outcome)
  }
  const deadline = deadlines.add(clock.nowMs() + idleMs, () => (clock.nowMs() >= capMs ? atCap() : lose(SILENT)))
  const stopWatching = cancellation.onCancel(reason => queueMicrotask(() => lose({ kind: 'cancelled', reason })))
  source.attach({
    data(chunk) {
      deadline.dueMs = Math.min(clock.nowMs() + idleMs, capMs)
      reading.onData(chunk)
    },
    end() {
      if (stopped) return
      stop()
      reading.onEnd()
    },
    lost: error =>
      lose(transportFailure(error instanceof ProtocolError ? 'protocol_error' : 'connection_lost', errorCode(error))),
  })
  return {
    stop,
    lose,
    limit(dueMs, act) {
      capMs = dueMs
      atCap = act
      deadline.dueMs = Math.min(deadline.dueMs, dueMs)
    },
  }
}
