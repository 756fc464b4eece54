// Reads an answer until it is clear whose it is: an event stream to its first output, an error or a short answer to its end,
// anything else to its first byte. Until then the client has seen nothing, and another backend may still be asked.
import { readErrorBody } from '../azure/errors.ts'
import type { Clock, Deadlines } from '../clock.ts'
import { ProtocolError } from '../http1/connection.ts'
import type { ResponseBody } from '../http1/response-body.ts'
import type { ResponseHead } from '../http1/response-head.ts'
import type { Cancellation } from '../request-context.ts'
import { type ResponseHeaders, responseHeaders } from './headers.ts'
import { classifyResponse, classifyStreamError, type Outcome, transportFailure } from './outcome.ts'
import { watchEventStream } from './sse-watcher.ts'
import type { AttemptPlan, AttemptResult, HeldPiece, UpstreamBody, UpstreamResponse } from './upstream.ts'

/** What reading needs: time. */
export interface ReadDeps {
  readonly deadlines: Deadlines
  readonly clock: Clock
}

type Done = (result: AttemptResult) => void

/** A short answer of known length is read whole and passed on in one write (and can still fail over while it is read). */
const JOIN_MAX_BYTES = 64 * 1024
/** Error bodies are read whole to tell what they mean; one that is longer is no API's. */
const ERROR_BODY_MAX_BYTES = 256 * 1024
/** An error's body that does not come within this is judged by its status alone. */
const ERROR_BODY_MS = 5_000
/** Limits on start-up events held back (contract, section 5). */
const HOLD_MAX_EVENTS = 64
const HOLD_MAX_BYTES = 4 * 1024 * 1024

const SERVED: Outcome = { kind: 'served' }
const SILENT = transportFailure('idle_timeout', 'silence')
const NO_OUTPUT = transportFailure('first_output_timeout', 'no output')

function isEventStream({ values, contentLength }: ResponseHeaders, wantsStream: boolean): boolean {
  const type = values['content-type']
  if (type !== undefined) return type.startsWith('text/event-stream') || /^text\/event-stream/i.test(type)
  // Some gateways lose the content type of streams (wire reference, 5.1).
  return wantsStream && contentLength === undefined
}

function hasNoBody(status: number, method: string): boolean {
  return method === 'HEAD' || status === 204 || status === 304
}

/** System error codes are safe and useful to show; texts may hold anything. */
export function errorCode(error: unknown): string {
  if (typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string')
    return error.code
  return 'error'
}

/** Reads on as far as it takes, and tells the result once; it never throws for what comes. */
export function readResponse(
  plan: AttemptPlan,
  deps: ReadDeps,
  head: ResponseHead,
  source: ResponseBody,
  done: Done,
): void {
  const { status } = head
  const headers = responseHeaders(head)
  const begun: Begun = { status, headers, source }
  if (hasNoBody(status, plan.wire.method)) {
    source.discard()
    done(served({ ...begun, body: { kind: 'whole', chunks: [], bytes: 0 } }))
  } else if (status >= 400) readError(plan, deps, begun, done)
  else if (isEventStream(headers, plan.wantsStream)) readStreamStart(plan, deps, begun, done)
  else readPlain(plan, deps, begun, done)
}

/** An answer whose body is to be read. */
type Begun = Omit<UpstreamResponse, 'body'>

function served(upstreamResponse: UpstreamResponse): AttemptResult {
  return { kind: 'response', outcome: SERVED, response: upstreamResponse }
}

interface Reading {
  readonly onData: (chunk: Buffer) => void
  readonly onEnd: () => void
  /** The connection went, the time ran out, or the client did. */
  readonly onLost: (outcome: Outcome) => void
}

interface Reader {
  /** Lets go of the reply; whoever stops reading pauses or destroys it. */
  stop(): void
  /** Puts an end to the reading whatever comes. @param outcome what it means then */
  limit(dueMs: number, outcome: Outcome): void
}

/** Reads a reply until `stop`; every way to lose it ends in `onLost`, once. */
function read(
  source: ResponseBody,
  { deadlines, clock }: ReadDeps,
  { cancellation, idleMs }: { readonly cancellation: Cancellation; readonly idleMs: number },
  reading: Reading,
): Reader {
  let capMs = Number.POSITIVE_INFINITY
  let capped = SILENT
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
  const deadline = deadlines.add(clock.nowMs() + idleMs, () => lose(clock.nowMs() >= capMs ? capped : SILENT))
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
    limit(dueMs, outcome) {
      capMs = dueMs
      capped = outcome
      deadline.dueMs = Math.min(deadline.dueMs, dueMs)
    },
  }
}

function readError(plan: AttemptPlan, deps: ReadDeps, { status, headers, source }: Begun, done: Done): void {
  const { values } = headers
  const chunks: Buffer[] = []
  let bytes = 0
  const judge = (): Outcome =>
    classifyResponse(status, values, readErrorBody(Buffer.concat(chunks)), {
      creates: plan.isCreate,
      epochMs: deps.clock.epochMs(),
    })
  const unreadable = (outcome: Outcome): void => {
    if (outcome.kind === 'cancelled') {
      done({ kind: 'no_response', outcome })
      return
    }
    const judged = judge()
    // What would have been the client's answer never came whole: the connection is the fault then.
    done({ kind: 'no_response', outcome: judged.kind === 'served' ? outcome : judged, values })
  }
  const reader = read(
    source,
    deps,
    { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
    {
      onData(chunk) {
        bytes += chunk.length
        chunks.push(chunk)
        if (bytes <= ERROR_BODY_MAX_BYTES) return
        reader.stop()
        source.destroy()
        unreadable(transportFailure('protocol_error', 'oversized error'))
      },
      onEnd: () =>
        done({
          kind: 'response',
          outcome: judge(),
          response: { status, source, headers, body: { kind: 'whole', chunks, bytes } },
        }),
      onLost: unreadable,
    },
  )
  // For all of it: one that drips would hold the client up for as long as it likes.
  reader.limit(deps.clock.nowMs() + ERROR_BODY_MS, SILENT)
}

function readPlain(plan: AttemptPlan, deps: ReadDeps, { status, headers, source }: Begun, done: Done): void {
  const { contentLength, values } = headers
  const join = contentLength !== undefined && contentLength <= JOIN_MAX_BYTES
  const chunks: Buffer[] = []
  let bytes = 0
  let over = false
  const passOn = (body: UpstreamBody): void => {
    over = true
    done(served({ status, source, headers, body }))
  }
  const reader = read(
    source,
    deps,
    { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
    {
      onData(chunk) {
        chunks.push(chunk)
        bytes += chunk.length
        if (join || chunks.length > 1) return
        // An answer of unknown length that came in one piece has ended by then, and is passed on as a whole.
        queueMicrotask(() => {
          if (over) return
          reader.stop()
          source.pause()
          passOn({ kind: 'flowing', held: chunks })
        })
      },
      onEnd: () => passOn({ kind: 'whole', chunks, bytes }),
      onLost(outcome) {
        over = true
        done({ kind: 'no_response', outcome, values })
      },
    },
  )
}

function readStreamStart(plan: AttemptPlan, deps: ReadDeps, { status, headers, source }: Begun, done: Done): void {
  const { clock, deadlines } = deps
  const { values } = headers
  const watcher = watchEventStream(plan.dialect)
  const beganMs = clock.nowMs()
  const firstOutputDueMs = beganMs + plan.timeouts.firstOutputMs
  const held: HeldPiece[] = []
  let heldBytes = 0
  let holdOver = false

  const accept = (complete: boolean): void => {
    reader.stop()
    deadlines.remove(holdDeadline)
    if (!complete) source.pause()
    done(served({ status, source, headers, body: { kind: 'events', held, watcher, complete, firstOutputDueMs } }))
  }
  const refuse = (outcome: Outcome): void => {
    reader.stop()
    deadlines.remove(holdDeadline)
    source.destroy()
    done({ kind: 'no_response', outcome, values })
  }
  const decide = (): void => {
    const phase = watcher.phase()
    if (phase.kind === 'error') {
      const outcome = classifyStreamError(phase.error, values, clock.epochMs())
      if (outcome.kind === 'served') accept(false)
      else refuse(outcome)
    } else if (phase.kind === 'output' || watcher.ended()) accept(false)
    else if (watcher.events() >= HOLD_MAX_EVENTS || heldBytes > HOLD_MAX_BYTES) accept(false)
    // The hold is on start-up events: as long as none has come, nothing is kept from anyone.
    else if (holdOver && watcher.events() > 0) accept(false)
  }
  const holdDeadline = deadlines.add(beganMs + plan.timeouts.streamHoldMs, () => {
    holdOver = true
    decide()
  })
  const reader = read(
    source,
    deps,
    { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
    {
      onData(chunk) {
        held.push({ chunk, wholeBytes: watcher.push(chunk) })
        heldBytes += chunk.length
        decide()
      },
      onEnd() {
        deadlines.remove(holdDeadline)
        if (plan.dialect === 'opaque') accept(true)
        else refuse(transportFailure('connection_lost', 'stream ended before any output'))
      },
      onLost(outcome) {
        deadlines.remove(holdDeadline)
        done({ kind: 'no_response', outcome, values })
      },
    },
  )
  reader.limit(firstOutputDueMs, NO_OUTPUT)
}
