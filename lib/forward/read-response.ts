// Reads an upstream response far enough to decide: pass it on, or try another backend. That is an event stream to its
// first output, an error or a short body to its end, anything else to its first byte. Until then the client has seen
// nothing, and another backend may still be asked.

import { readLoneError } from '../azure/error-objects.ts'
import type { Sent } from '../azure/error-text.ts'
import { readErrorBody, type UpstreamError } from '../azure/errors.ts'
import type { Clock } from '../clock.ts'
import type { ResponseBody, ResponseHead } from '../http1/send.ts'
import { type Beginning, beginningOfAnswer } from './answer-beginning.ts'
import { type Begun, type Done, type ReadDeps, readBody, served, withBody } from './body-reading.ts'
import { isEncoded, type ResponseHeaders, type ResponseValues, responseHeaders } from './headers.ts'
import { jsonEndFor } from './json-end.ts'
import { classifyResponse, classifyStreamError, type Outcome, pageOutcome, transportFailure } from './outcome.ts'
import { readStreamStart } from './stream-start.ts'
import type { AttemptPlan, UpstreamBody } from './upstream.ts'

/**
 * A short response is read whole and passed on in one write, and can still fail over while it is read: if its length is
 * known, or if it is JSON, of which no client can use a part.
 */
const JOIN_MAX_BYTES = 64 * 1024
/**
 * Error bodies are read whole, for what they mean; a longer one repeats its request, and is judged by its status alone.
 */
const ERROR_BODY_MAX_BYTES = 256 * 1024
/** An error's body that does not come within this is judged by its status alone. */
const ERROR_BODY_MS = 5_000
/** A 4xx that nobody can judge. */
const UNREAD: Outcome = { kind: 'clients_own' }

/** Whether a response's events can be read. An encoded one passes as any other body. */
function isEventStream({ values, contentLength }: ResponseHeaders, wantsStream: boolean): boolean {
  if (isEncoded(values)) return false
  const type = values['content-type']
  if (type !== undefined) return type.startsWith('text/event-stream') || /^text\/event-stream/i.test(type)
  // Some gateways lose the content type of streams (azure/README.md 5.1).
  return wantsStream && contentLength === undefined
}

/** What an upstream's error may repeat. */
function sentBy({ wire, body }: AttemptPlan): Sent {
  return { headers: wire.headers, body }
}

const NO_ERROR: UpstreamError = { code: undefined, type: undefined, message: '', param: undefined }
const ANY = { isCreate: true, epochMs: 0 }

function hasNoBody(status: number, method: string): boolean {
  return method === 'HEAD' || status === 204 || status === 304
}

/** A redirect, or HTML in place of what was to be made: a login page or a proxy in between. */
function isPage(status: number, { values }: ResponseHeaders, { isCreate }: AttemptPlan): boolean {
  if (status >= 300) return true
  // A stored file may be HTML.
  return isCreate && /^(?:text\/html|application\/xhtml\+xml)/i.test(values['content-type'] ?? '')
}

/**
 * Step 9 of a request (lib/README.md). Reads on as far as it takes, and calls `done` once; it never throws for what
 * comes.
 */
export function readResponse(
  plan: AttemptPlan,
  deps: ReadDeps,
  head: ResponseHead,
  source: ResponseBody,
  done: Done,
): void {
  const { status } = head
  const headers = responseHeaders(head)
  const begun: Begun = { status, headers, source, jsonEnd: jsonEndFor(head, headers.values) }
  if (hasNoBody(status, plan.wire.method)) {
    source.discard()
    done(served(begun, { kind: 'whole', chunks: [], bytes: 0 }))
  } else if (status >= 400) readError(plan, deps, begun, done)
  else if (isPage(status, headers, plan)) {
    source.destroy()
    const outcome =
      status < 300 ? pageOutcome(`${status} HTML`) : classifyResponse(status, headers.values, NO_ERROR, ANY)
    done({ kind: 'no_response', outcome, values: headers.values })
  } else if (isEventStream(headers, plan.wantsStream)) readStreamStart(plan, deps, begun, done)
  else readPlain(plan, deps, begun, done)
}

/** These say enough by themselves; what any other 4xx means stands in its body. */
const PLAIN_STATUSES: ReadonlySet<number> = new Set([401, 402, 403, 407, 408, 421, 424, 429])

function readError(plan: AttemptPlan, deps: ReadDeps, begun: Begun, done: Done): void {
  const { status, headers, source } = begun
  const { values } = headers
  const chunks: Buffer[] = []
  let bytes = 0
  const judge = (body: Buffer): Outcome =>
    classifyResponse(status, values, readErrorBody(body), {
      isCreate: plan.isCreate,
      epochMs: deps.clock.epochMs(),
      sent: sentBy(plan),
    })
  /** By the status alone. A 4xx that cannot be judged so is the client's response: nobody's fault, and passed on. */
  const judgeUnread = (): Outcome => (status >= 500 || PLAIN_STATUSES.has(status) ? judge(Buffer.alloc(0)) : UNREAD)
  /** No more of it is waited for. */
  const stopReading = (): void => {
    reader.stop()
    const outcome = judgeUnread()
    if (outcome.kind === 'clients_own') {
      source.hold()
      done({ kind: 'response', outcome, response: withBody(begun, { kind: 'flowing', held: chunks }) })
    } else {
      source.destroy()
      done({ kind: 'no_response', outcome, values })
    }
  }
  const reader = readBody(
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
          response: withBody(begun, { kind: 'whole', chunks, bytes }),
        }),
      onLost(outcome) {
        const judged = judgeUnread()
        // What would have been the client's response never came whole: the connection is the fault then.
        const meant = outcome.kind === 'cancelled' || judged.kind === 'clients_own' ? outcome : judged
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

/** An error object alone is shorter, and says so at its beginning. */
const ERROR_OBJECT_MAX_BYTES = 16 * 1024
const ERROR_MARK = /"error"|"statusCode"|"detail"|"errors"/
const ERROR_MARK_MAX_BYTES = 256

/** What a good response means that is nothing but an error object; undefined for every other. */
function errorInside(
  chunks: readonly Buffer[],
  bytes: number,
  { values }: ResponseHeaders,
  plan: AttemptPlan,
  clock: Clock,
): Outcome | undefined {
  const [first] = chunks
  if (first === undefined || bytes > ERROR_OBJECT_MAX_BYTES || isEncoded(values)) return undefined
  const body = chunks.length === 1 ? first : Buffer.concat(chunks)
  if (!ERROR_MARK.test(body.toString('latin1', 0, ERROR_MARK_MAX_BYTES))) return undefined
  const error = readLoneError(body)
  const outcome = error && classifyStreamError(error, values, clock.epochMs(), sentBy(plan))
  return outcome?.kind === 'served' ? undefined : outcome
}

const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
/** The last of JSON's blanks (RFC 8259 section 2): tab, LF, CR and space. */
const SPACE = 0x20

/** Whether it is JSON that opens with an object: blanks before it keep a connection alive, and are passed on. */
function opensObject([first]: readonly Buffer[], values: ResponseValues): boolean {
  return first?.[0] === OPEN_BRACE && /\bjson\b/i.test(values['content-type'] ?? '')
}

/** Whether an object has not come to its end, though its framing says so. */
function isCutObject(chunks: readonly Buffer[], values: ResponseValues): boolean {
  if (!opensObject(chunks, values)) return false
  for (let i = chunks.length - 1; i >= 0; i--) {
    const chunk = chunks[i] ?? Buffer.alloc(0)
    for (let at = chunk.length - 1; at >= 0; at--) {
      const byte = chunk[at] ?? SPACE
      if (byte > SPACE) return byte !== CLOSE_BRACE
    }
  }
  return true
}

/** What the first bytes of a good response say, where more than its content type is to be looked at. */
function lookAt(
  chunks: readonly Buffer[],
  { isCreate }: AttemptPlan,
  values: ResponseValues,
  join: boolean,
): Beginning {
  // A stored file may be anything, and nobody reads what is encoded.
  if (!isCreate || isEncoded(values)) return 'answer'
  // One that is read to its end is judged there.
  return join && chunks[0]?.[0] === OPEN_BRACE ? 'answer' : beginningOfAnswer(chunks)
}

function readPlain(plan: AttemptPlan, deps: ReadDeps, begun: Begun, done: Done): void {
  const { source, jsonEnd } = begun
  const { contentLength, values } = begun.headers
  const join = contentLength !== undefined && contentLength <= JOIN_MAX_BYTES
  const chunks: Buffer[] = []
  let bytes = 0
  let over = false
  let beginning: Beginning = 'unknown'
  let held = false
  let passing = false
  const passOn = (body: UpstreamBody): void => {
    over = true
    done(served(begun, body))
  }
  const passOnAsItComes = (): void => {
    if (over) return
    reader.stop()
    source.hold()
    passOn({ kind: 'flowing', held: chunks })
  }
  const reader = readBody(
    source,
    deps,
    { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
    {
      onData(chunk) {
        chunks.push(chunk)
        bytes += chunk.length
        if (beginning === 'unknown') beginning = lookAt(chunks, plan, values, join)
        if (beginning === 'page') {
          over = true
          reader.stop()
          source.destroy()
          done({ kind: 'no_response', outcome: pageOutcome(`${begun.status} HTML`), values })
          return
        }
        if (join || passing) return
        if (beginning !== 'answer' && bytes <= ERROR_OBJECT_MAX_BYTES) {
          if (chunks.length === 1) reader.limit(deps.clock.nowMs() + ERROR_BODY_MS, passOnAsItComes)
          return
        }
        if (bytes <= JOIN_MAX_BYTES && opensObject(chunks, values)) {
          if (!held) reader.limit(deps.clock.nowMs() + plan.timeouts.streamHoldMs, passOnAsItComes)
          held = true
          return
        }
        passing = true
        // A response of unknown length that came in one piece has ended by then, and is passed on as a whole.
        queueMicrotask(passOnAsItComes)
      },
      onEnd() {
        over = true
        for (const chunk of chunks) jsonEnd?.push(chunk)
        if (jsonEnd?.isWhole() === false || isCutObject(chunks, values)) {
          done({ kind: 'no_response', outcome: transportFailure('connection_lost', 'JSON cut off'), values })
          return
        }
        const outcome = plan.isCreate ? errorInside(chunks, bytes, begun.headers, plan, deps.clock) : undefined
        const body: UpstreamBody = { kind: 'whole', chunks, bytes }
        if (outcome === undefined) passOn(body)
        else done({ kind: 'response', outcome, response: withBody(begun, body) })
      },
      onLost(outcome) {
        over = true
        done({ kind: 'no_response', outcome, values })
      },
    },
  )
}
