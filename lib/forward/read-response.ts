// Reads an answer until it is clear whose it is: an event stream to its first output, an error or a short answer to its end,
// anything else to its first byte. Until then the client has seen nothing, and another backend may still be asked.
import { readErrorBody } from '../azure/errors.ts'
import type { Clock, Deadlines } from '../clock.ts'
import { ProtocolError } from '../http1/connection.ts'
import type { ResponseBody } from '../http1/response-body.ts'
import type { ResponseHead } from '../http1/response-head.ts'
import type { Cancellation } from '../request-context.ts'
import { isEncoded, type ResponseHeaders, responseHeaders } from './headers.ts'
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
/** Error bodies are read whole, for what they mean; a longer one repeats its request, and is judged by its status alone. */
const ERROR_BODY_MAX_BYTES = 256 * 1024
/** An error's body that does not come within this is judged by its status alone. */
const ERROR_BODY_MS = 5_000
/** Limits on start-up events held back (lib/README.md, outcomes). */
const HOLD_MAX_EVENTS = 64
const HOLD_MAX_BYTES = 4 * 1024 * 1024

const SERVED: Outcome = { kind: 'served' }
const SILENT = transportFailure('idle_timeout', 'silence')
const NO_OUTPUT = transportFailure('first_output_timeout', 'no output')

/** Whether an answer's events can be read. An encoded one passes as any other body. */
function isEventStream({ values, contentLength }: ResponseHeaders, wantsStream: boolean): boolean {
  if (isEncoded(values)) return false
  const type = values['content-type']
  if (type !== undefined) return type.startsWith('text/event-stream') || /^text\/event-stream/i.test(type)
  // Some gateways lose the content type of streams (azure/README.md 5.1).
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
  /** Calls `act` at that time, in monotonic ms, whatever comes. */
  limit(dueMs: number, act: () => void): void
  /** Loses the reply: what it means goes to `onLost`. */
  lose(outcome: Outcome): void
}

/** Reads a reply until `stop`; every way to lose it ends in `onLost`, once. */
function read(
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

/** These say enough by themselves; what any other 4xx means stands in its body. */
const PLAIN_STATUSES: ReadonlySet<number> = new Set([401, 402, 403, 407, 408, 421, 424, 429])

function readError(plan: AttemptPlan, deps: ReadDeps, { status, headers, source }: Begun, done: Done): void {
  const { values } = headers
  const chunks: Buffer[] = []
  let bytes = 0
  const judge = (body: Buffer): Outcome =>
    classifyResponse(status, values, readErrorBody(body), {
      creates: plan.isCreate,
      epochMs: deps.clock.epochMs(),
    })
  /** By the status alone. A 4xx that cannot be judged so is the client's answer: nobody's fault, and passed on. */
  const judgeUnread = (): Outcome => (status >= 500 || PLAIN_STATUSES.has(status) ? judge(Buffer.alloc(0)) : SERVED)
  /** No more of it is waited for. */
  const stopReading = (): void => {
    reader.stop()
    const outcome = judgeUnread()
    if (outcome.kind === 'served') {
      source.pause()
      done(served({ status, source, headers, body: { kind: 'flowing', held: chunks } }))
    } else {
      source.destroy()
      done({ kind: 'no_response', outcome, values })
    }
  }
  const reader = read(
    source,
    deps,
    { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
    {
      onData(chunk) {
        bytes += chunk.length
        chunks.push(chunk)
        if (bytes > ERROR_BODY_MAX_BYTES) stopReading()
      },
      onEnd: () =>
        done({
          kind: 'response',
          outcome: isEncoded(values) ? judgeUnread() : judge(Buffer.concat(chunks)),
          response: { status, source, headers, body: { kind: 'whole', chunks, bytes } },
        }),
      onLost(outcome) {
        const judged = judgeUnread()
        // What would have been the client's answer never came whole: the connection is the fault then.
        const meant = outcome.kind === 'cancelled' || judged.kind === 'served' ? outcome : judged
        done(
          meant.kind === 'cancelled'
            ? { kind: 'no_response', outcome }
            : { kind: 'no_response', outcome: meant, values },
        )
      },
    },
  )
  // For all of it: one that drips would hold the client up for as long as it likes.
  reader.limit(deps.clock.nowMs() + ERROR_BODY_MS, stopReading)
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
  let complete = false
  let over = false

  const accept = (): void => {
    over = true
    reader.stop()
    deadlines.remove(holdDeadline)
    if (!complete) source.pause()
    done(
      served({
        status,
        source,
        headers,
        body: { kind: 'events', held, watcher, complete, firstOutputDueMs, isRead: !plan.isCreate },
      }),
    )
  }
  const refuse = (outcome: Outcome): void => {
    over = true
    reader.stop()
    deadlines.remove(holdDeadline)
    source.destroy()
    done({ kind: 'no_response', outcome, values })
  }
  const decide = (): void => {
    const phase = watcher.phase()
    if (phase.kind === 'error') {
      const outcome = classifyStreamError(phase.error, values, clock.epochMs())
      if (outcome.kind === 'served') accept()
      else refuse(outcome)
    } else if (phase.kind === 'output' || watcher.ended()) accept()
    else if (watcher.events() >= HOLD_MAX_EVENTS || heldBytes > HOLD_MAX_BYTES) accept()
    // The hold is on start-up events and on the comments of a server that thinks: without any, nothing is kept from anyone.
    else if (holdOver && watcher.blocks() > 0) accept()
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
        complete = true
        watcher.finish()
        decide()
        if (over) return
        // A resumed stream may have nothing left to bring.
        if (plan.dialect === 'opaque' || (!plan.isCreate && watcher.events() === 0)) accept()
        else refuse(transportFailure('connection_lost', 'stream ended before any output'))
      },
      onLost(outcome) {
        deadlines.remove(holdDeadline)
        done({ kind: 'no_response', outcome, values })
      },
    },
  )
  reader.limit(firstOutputDueMs, () => reader.lose(NO_OUTPUT))
}
