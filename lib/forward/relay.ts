// Passes an answer on to the client: whole, flowing, or event by event. From its first byte on there is no second chance: a
// part is never made to look like the whole.
import { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Dialect } from '../azure/operations.ts'
import type { Clock } from '../clock.ts'
import type { AnswerBody, UpstreamAnswer } from './attempt.ts'
import type { Deadline, Deadlines } from './deadlines.ts'
import type { CancelReason, Exchange } from './exchange.ts'
import { capWaits } from './headers.ts'
import { MAX_TOLD_WAIT_MS } from './refuse.ts'
import { type StreamTrouble, streamErrorEvent } from './stream-error.ts'
import { CHAT_TAIL_BYTES, createTail, readUsage, TAIL_BYTES, type Tail } from './usage.ts'

export type RelayEnd =
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
  readonly onEvents?: (bytes: Buffer) => void
}

export interface RelayDeps {
  readonly clock: Clock
  readonly deadlines: Deadlines
}

/** An unfinished event is kept back until its end comes, so that a cut or a comment falls between events; up to this size. */
const PARTIAL_EVENT_MAX_BYTES = 64 * 1024

/** Up to this size an answer joins its head in one string and one write; above, copying costs more than a second write. */
const ONE_WRITE_MAX_BYTES = 16 * 1024

/** Pieces of a stream taken in before its source is asked to pause. */
const STREAM_BUFFER_BYTES = 256 * 1024

const KEEPALIVE = Buffer.from(': keep-alive\n\n')
const EVENT_END = Buffer.from('\n\n')

/** A header value may hold only visible ASCII here; a backend's name may hold anything. */
function headerSafe(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : encodeURIComponent(text)
}

function writeHead(exchange: Exchange, answer: UpstreamAnswer, options: RelayOptions, knownBytes?: number): void {
  const { response, record } = exchange
  const { headers, hasRequestId, contentLength } = answer.headers
  const list = headers
  if (answer.status >= 400) capWaits(list, MAX_TOLD_WAIT_MS)
  if (!hasRequestId) list.push('x-request-id', exchange.id)
  if (knownBytes !== undefined && contentLength === undefined) list.push('content-length', String(knownBytes))
  list.push('x-proxy-backend', headerSafe(options.backendName), 'x-proxy-attempts', String(record.attempts))
  record.status = answer.status
  response.writeHead(answer.status, list)
}

function relayWhole(
  exchange: Exchange,
  answer: UpstreamAnswer,
  body: AnswerBody & { kind: 'whole' },
  options: RelayOptions,
): RelayEnd {
  const { response, record, cancellation } = exchange
  const bodiless = exchange.request.method === 'HEAD' || answer.status === 204 || answer.status === 304
  const first = body.chunks[0]
  const bytes = body.chunks.length === 1 && first !== undefined ? first : Buffer.concat(body.chunks)
  if (answer.status < 300) record.usage = readUsage(bytes)
  writeHead(exchange, answer, options, bodiless ? undefined : bytes.length)
  // As a string, head and body leave in one write; latin1 gives each byte back as it was.
  if (bytes.length <= ONE_WRITE_MAX_BYTES) response.end(bytes.toString('latin1'), 'latin1')
  else response.end(bytes)
  record.bytesOut += bytes.length
  return cancellation.reason === undefined ? { kind: 'complete' } : { kind: 'cancelled', reason: cancellation.reason }
}

async function relayFlowing(
  exchange: Exchange,
  answer: UpstreamAnswer,
  body: AnswerBody & { kind: 'flowing' },
  options: RelayOptions,
  { clock, deadlines }: RelayDeps,
): Promise<RelayEnd> {
  const { response, record, cancellation } = exchange
  const upstream = answer.response
  const tail = createTail()
  let timedOut = false
  const pass = (chunk: Buffer): void => {
    tail.push(chunk)
    record.bytesOut += chunk.length
    deadline.dueMs = clock.nowMs() + options.idleMs
  }
  const deadline: Deadline = {
    dueMs: clock.nowMs() + options.idleMs,
    expire() {
      // Silence while the client doesn't read is the client's, not the backend's.
      if (response.writableNeedDrain) cancellation.cancel('client_stalled')
      else timedOut = true
      upstream.destroy()
    },
  }
  writeHead(exchange, answer, options)
  for (const chunk of body.held) {
    pass(chunk)
    response.write(chunk)
  }
  deadlines.add(deadline)
  upstream.on('data', pass)
  const stopWatching = cancellation.onCancel(() => upstream.destroy())
  try {
    await pipeline(upstream, response)
    record.usage = readUsage(tail.bytes())
    return { kind: 'complete' }
  } catch {
    // pipeline has destroyed both sides: the client sees a cut, never a short whole.
    if (cancellation.reason !== undefined) return { kind: 'cancelled', reason: cancellation.reason }
    if (timedOut) return { kind: 'cut', detail: 'idle_timeout' }
    return response.errored !== null && upstream.errored === null
      ? { kind: 'cancelled', reason: 'client_closed' }
      : { kind: 'cut', detail: 'connection_lost' }
  } finally {
    stopWatching()
    deadlines.remove(deadline)
    upstream.off('data', pass)
  }
}

/** Whether a whole event is the usage event that include_usage adds: no choices, and a usage object (wire reference, 5.2). */
function isUsageEvent(event: string): boolean {
  const data = /^data: ?(\{.*\})\s*$/s.exec(event)?.[1]
  if (data === undefined || !data.includes('"usage"')) return false
  try {
    const value: unknown = JSON.parse(data)
    if (typeof value !== 'object' || value === null) return false
    const choices: unknown = Reflect.get(value, 'choices')
    const usage: unknown = Reflect.get(value, 'usage')
    return Array.isArray(choices) && choices.length === 0 && typeof usage === 'object' && usage !== null
  } catch {
    return false
  }
}

/** Whole events without the usage event; the same buffer where there is none. */
function withoutUsageEvent(bytes: Buffer): Buffer {
  if (!bytes.includes('"usage"') || !/"choices": ?\[\]/.test(bytes.toString('latin1'))) return bytes
  const kept = bytes
    .toString('utf8')
    .split(/(?<=\r?\n\r?\n)/)
    .filter(event => !isUsageEvent(event))
  return Buffer.from(kept.join(''))
}

/** The client's side of an event stream: whole events out, comments in the silence, and how it must end. */
interface EventSink {
  accept(chunk: Buffer, wholeBytes: number): void
  comment(): void
  /** Writes what is left and ends as upstream did. */
  end(): void
  /** Ends with an error event; cuts where the dialect has none. */
  fail(trouble: StreamTrouble): void
}

function createEventSink(exchange: Exchange, tail: Tail, options: RelayOptions): EventSink {
  const { response, record } = exchange
  let partial: Buffer[] = []
  let partialBytes = 0
  let insideEvent = false
  let out: Buffer[] = []

  // All events that one socket read brought leave in one write at the end of the turn, as one chunk: framing and writing each
  // by itself costs eight times as much, and nothing is kept for a timer.
  const flush = (): void => {
    const [only] = out
    const bytes = out.length === 1 && only !== undefined ? only : Buffer.concat(out)
    out = []
    if (bytes.length > 0 && !response.destroyed) response.write(bytes)
  }
  const write = (bytes: Buffer): void => {
    // What the client has not been sent is no part of what its stream's end goes on from.
    tail.push(bytes)
    options.onEvents?.(bytes)
    const shown = options.dropUsageEvent ? withoutUsageEvent(bytes) : bytes
    if (shown.length === 0) return
    record.bytesOut += shown.length
    out.push(shown)
    if (out.length === 1) process.nextTick(flush)
  }
  const flushPartial = (): void => {
    for (const piece of partial) write(piece)
    partial = []
    partialBytes = 0
  }

  return {
    accept(chunk, wholeBytes) {
      if (wholeBytes > 0) {
        if (partialBytes > 0) flushPartial()
        write(wholeBytes === chunk.length ? chunk : chunk.subarray(0, wholeBytes))
        insideEvent = false
      }
      if (wholeBytes === chunk.length) return
      const rest = wholeBytes === 0 ? chunk : chunk.subarray(wholeBytes)
      partial.push(rest)
      partialBytes += rest.length
      if (partialBytes <= PARTIAL_EVENT_MAX_BYTES) return
      insideEvent = true
      flushPartial()
    },
    comment() {
      if (!insideEvent && out.length === 0 && !response.writableNeedDrain) response.write(KEEPALIVE)
    },
    end() {
      flushPartial()
      flush()
      response.end()
    },
    fail(trouble) {
      const event = streamErrorEvent(options.dialect, trouble, tail.bytes())
      if (event === undefined || response.destroyed) {
        response.destroy()
        return
      }
      if (insideEvent) write(EVENT_END)
      flush()
      record.bytesOut += event.length
      response.end(event)
    },
  }
}

async function relayEvents(
  exchange: Exchange,
  answer: UpstreamAnswer,
  body: AnswerBody & { kind: 'events' },
  options: RelayOptions,
  { clock, deadlines }: RelayDeps,
): Promise<RelayEnd> {
  const { response, record, cancellation } = exchange
  const { watcher } = body
  const upstream = answer.response
  const tail = createTail(options.dialect === 'chat' ? CHAT_TAIL_BYTES : TAIL_BYTES)
  const sink = createEventSink(exchange, tail, options)
  record.stream = true
  let lastByteMs = clock.nowMs()
  let timedOut: 'idle_timeout' | 'first_output_timeout' | undefined

  const nextDueMs = (): number => {
    const idleDueMs = lastByteMs + options.idleMs
    return watcher.phase().kind === 'starting' ? Math.min(idleDueMs, body.firstOutputDueMs) : idleDueMs
  }
  const patience: Deadline = {
    dueMs: nextDueMs(),
    expire() {
      if (response.writableNeedDrain) cancellation.cancel('client_stalled')
      else timedOut = clock.nowMs() - lastByteMs >= options.idleMs ? 'idle_timeout' : 'first_output_timeout'
      upstream.destroy()
    },
  }
  const keepalive: Deadline = {
    dueMs: options.keepaliveMs > 0 ? lastByteMs + options.keepaliveMs : Number.POSITIVE_INFINITY,
    expire() {
      sink.comment()
      keepalive.dueMs = clock.nowMs() + options.keepaliveMs
    },
  }
  const accept = (chunk: Buffer, wholeBytes: number): void => {
    sink.accept(chunk, wholeBytes)
    lastByteMs = clock.nowMs()
    patience.dueMs = nextDueMs()
    if (options.keepaliveMs > 0) keepalive.dueMs = lastByteMs + options.keepaliveMs
  }
  const goOn = (done: () => void): void => {
    if (response.writableNeedDrain) response.once('drain', done)
    else done()
  }
  const client = new Writable({
    highWaterMark: STREAM_BUFFER_BYTES,
    // Taking the first piece at the end of the turn lets the others of the turn gather behind it and come as one list: a
    // write of each by itself is most of what an event costs.
    write(chunk: Buffer, _encoding, done) {
      process.nextTick(() => {
        accept(chunk, watcher.push(chunk))
        goOn(done)
      })
    },
    writev(pieces, done) {
      for (const { chunk } of pieces) accept(chunk, watcher.push(chunk))
      goOn(done)
    },
  })
  // Where the client leaves while we wait for its drain, nothing else would end the pipeline.
  const stopWatching = cancellation.onCancel(() => upstream.destroy())

  writeHead(exchange, answer, options)
  for (const { chunk, wholeBytes } of body.held) accept(chunk, wholeBytes)
  deadlines.add(patience)
  deadlines.add(keepalive)
  let whole = true
  try {
    if (!body.complete) await pipeline(upstream, client)
  } catch {
    whole = false
  } finally {
    stopWatching()
    deadlines.remove(patience)
    deadlines.remove(keepalive)
  }
  // A last line without its blank line is an end all the same.
  if (whole && !watcher.ended()) watcher.push(EVENT_END)
  const { reason } = cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') {
    response.destroy()
    return { kind: 'cancelled', reason }
  }
  if (watcher.ended() || (whole && options.dialect === 'opaque')) {
    sink.end()
    record.usage = readUsage(tail.bytes())
    const error = watcher.lastError()
    if (error !== undefined) record.error = 'upstream_stream_error'
    return { kind: 'complete' }
  }
  if (reason !== undefined) {
    sink.fail({ code: 'draining', message: 'The proxy is shutting down; this answer is not complete.' })
    return { kind: 'cancelled', reason }
  }
  if (timedOut !== undefined) {
    sink.fail({ code: 'upstream_timeout', message: 'The backend fell silent; this answer is not complete.' })
    return { kind: 'cut', detail: timedOut }
  }
  sink.fail({ code: 'upstream_error', message: 'The backend broke off; this answer is not complete.' })
  return { kind: 'cut', detail: whole ? 'no_protocol_end' : 'connection_lost' }
}

/** Sends an answer's head and body. Resolves when the last byte is handed over, or the answer has been cut. */
export async function relay(
  exchange: Exchange,
  answer: UpstreamAnswer,
  options: RelayOptions,
  deps: RelayDeps,
): Promise<RelayEnd> {
  const { body } = answer
  exchange.record.ttfbMs = deps.clock.nowMs() - exchange.beganMs
  switch (body.kind) {
    case 'whole':
      return relayWhole(exchange, answer, body, options)
    case 'flowing':
      return relayFlowing(exchange, answer, body, options, deps)
    case 'events':
      return relayEvents(exchange, answer, body, options, deps)
  }
}
