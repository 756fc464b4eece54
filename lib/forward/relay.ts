// Passes an answer on to the client: whole, flowing, or event by event. From its first byte on there is no second
// chance: a part never looks like the whole.

import type { ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '../clock.ts'
import { MAX_NAMED_WAIT_MS } from '../errors.ts'
import type { ResponseBody } from '../http1/send.ts'
import { type Exchange, NO_USAGE, type Usage } from '../request-context.ts'
import { capWaits } from './cap-waits.ts'
import { type BodyPlan, declareLength } from './client-framing.ts'
import { ALLOW_ORIGIN, withoutUpstreamCors } from './cors.ts'
import type { EventStreamWatcher } from './sse-watcher.ts'
import { createEventSink, type EventSink } from './sse-writer.ts'
import type { RelayDeps, RelayOptions, RelayResult, UpstreamBody, UpstreamResponse } from './upstream.ts'
import { CHAT_TAIL_BYTES, createTail, joinUsage, readFirstUsage, readUsage, TAIL_BYTES, type Tail } from './usage.ts'

/**
 * Up to this size an answer joins its head in one string and one write; above, copying costs more than a second write.
 */
const ONE_WRITE_MAX_BYTES = 16 * 1024

const UNCHANGED: BodyPlan = { kind: 'unchanged' }
const EDITED: BodyPlan = { kind: 'edited' }

/** A header value may hold only visible ASCII here; a backend's name may hold anything. */
function headerSafe(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : encodeURIComponent(text)
}

function writeHead(
  exchange: Exchange,
  upstreamResponse: UpstreamResponse,
  options: RelayOptions,
  body: BodyPlan,
  clock: Clock,
): void {
  const { response, record } = exchange
  const { headers, values, contentLength } = upstreamResponse.headers
  const list = response.hasHeader(ALLOW_ORIGIN) ? withoutUpstreamCors(headers) : headers
  if (upstreamResponse.status >= 400) capWaits(list, MAX_NAMED_WAIT_MS, clock.epochMs())
  if (values['x-request-id'] === undefined) list.push('x-request-id', exchange.id)
  declareLength(list, contentLength, upstreamResponse.status, body)
  // nginx in front would gather events into buffers of its own (its module ngx_http_proxy_module, `X-Accel-Buffering`).
  if (body.kind === 'edited') list.push('x-accel-buffering', 'no')
  list.push('x-proxy-backend', headerSafe(options.backendName), 'x-proxy-attempts', String(record.attempts))
  record.status = upstreamResponse.status
  response.writeHead(upstreamResponse.status, list)
}

/**
 * Ends a response with this body, head and body in one write where it is short. `response.end(body)` would queue an
 * empty piece behind it, and the list of two costs 2.5 µs more than a string of its own.
 */
function endWith(response: ServerResponse, bytes: Buffer): void {
  const { socket } = response
  if (bytes.length > 0 && socket !== null) {
    socket.cork()
    // As a string it joins the head; latin1 gives each byte back as it was.
    if (bytes.length <= ONE_WRITE_MAX_BYTES) response.write(bytes.toString('latin1'), 'latin1')
    else response.write(bytes)
    socket.uncork()
    response.end()
  } else response.end(bytes)
}

function relayWhole(
  exchange: Exchange,
  upstreamResponse: UpstreamResponse,
  body: UpstreamBody & { kind: 'whole' },
  options: RelayOptions,
  { clock }: RelayDeps,
): RelayResult {
  const { response, record, cancellation } = exchange
  const bodiless =
    exchange.request.method === 'HEAD' || upstreamResponse.status === 204 || upstreamResponse.status === 304
  const first = body.chunks[0]
  const bytes = body.chunks.length === 1 && first !== undefined ? first : Buffer.concat(body.chunks)
  if (upstreamResponse.status < 300) record.usage = readUsage(bytes)
  const plan: BodyPlan = bodiless ? { kind: 'none' } : { kind: 'whole', bytes: bytes.length }
  writeHead(exchange, upstreamResponse, options, plan, clock)
  endWith(response, bytes)
  record.bytesOut += bytes.length
  return cancellation.reason === undefined ? { kind: 'complete' } : { kind: 'cancelled', reason: cancellation.reason }
}

/**
 * Why a response that is given up is destroyed with an error: `pipeline` waits for the end of a source that has all its
 * bytes, and a source that is destroyed without an error never says it. A client that does not read would be served for
 * ever.
 */
class GivenUp extends Error {
  constructor() {
    super('the response was given up')
  }
}

async function relayFlowing(
  exchange: Exchange,
  upstreamResponse: UpstreamResponse,
  body: UpstreamBody & { kind: 'flowing' },
  options: RelayOptions,
  { clock, deadlines }: RelayDeps,
): Promise<RelayResult> {
  const { response, record, cancellation } = exchange
  const tail = createTail()
  const { jsonEnd } = upstreamResponse
  let timedOut = false
  const pass = (chunk: Buffer): Buffer => {
    tail.push(chunk)
    jsonEnd?.push(chunk)
    record.bytesOut += chunk.length
    deadline.dueMs = clock.nowMs() + options.idleMs
    return chunk
  }
  const upstream = upstreamResponse.source.stream(pass, 'error', () => jsonEnd?.isWhole() !== false)
  const deadline = deadlines.add(clock.nowMs() + options.idleMs, () => {
    // Silence while the client doesn't read is the client's, not the backend's.
    if (response.writableNeedDrain) cancellation.cancel('client_stalled')
    else timedOut = true
    upstream.destroy(new GivenUp())
  })
  const stopWatching = cancellation.onCancel(() => upstream.destroy(new GivenUp()))
  try {
    writeHead(exchange, upstreamResponse, options, UNCHANGED, clock)
    for (const chunk of body.held) response.write(pass(chunk))
    await pipeline(upstream, response)
    return { kind: 'complete' }
  } catch {
    // pipeline has destroyed both sides: the client sees a cut, never a short whole.
    if (cancellation.reason !== undefined) return { kind: 'cancelled', reason: cancellation.reason }
    if (timedOut) return { kind: 'cut', detail: 'idle_timeout' }
    return response.errored !== null && upstream.errored === null
      ? { kind: 'cancelled', reason: 'client_closed' }
      : { kind: 'cut', detail: 'connection_lost' }
  } finally {
    record.usage = readUsage(tail.bytes())
    stopWatching()
    deadlines.remove(deadline)
  }
}

/**
 * Step 11 of a request (lib/README.md). Sends an answer's head and body.
 * @returns how it ended, once the last byte is handed over or the answer has been cut
 */
export function relay(
  exchange: Exchange,
  upstreamResponse: UpstreamResponse,
  options: RelayOptions,
  deps: RelayDeps,
): RelayResult | Promise<RelayResult> {
  const { body } = upstreamResponse
  exchange.record.ttfbMs = deps.clock.nowMs() - exchange.beganMs
  switch (body.kind) {
    case 'whole':
      return relayWhole(exchange, upstreamResponse, body, options, deps)
    case 'flowing':
      return relayFlowing(exchange, upstreamResponse, body, options, deps)
    case 'events':
      writeHead(exchange, upstreamResponse, options, EDITED, deps.clock)
      return relayEvents(exchange, upstreamResponse.source, body, options, deps)
  }
}

// Passes an event stream on, event by event: watched for its protocol's end as it goes, under the time limits of
// silence. Its head has gone out already.

const COMPLETE: RelayResult = { kind: 'complete' }

/** A stream in progress. Holds nothing of its beginning: it may last for minutes, and there may be thousands of it. */
interface Passing {
  readonly exchange: Exchange
  readonly options: RelayOptions
  readonly watcher: EventStreamWatcher
  readonly tail: Tail
  readonly sink: EventSink
  /** Usage that its first events reported. */
  readonly begun: Usage
  /** Monotonic time by which output must have begun. */
  readonly firstOutputDueMs: number
  /** Of a stored response. */
  readonly isRead: boolean
}

/** How upstream's bytes ended. */
type UpstreamEnd = 'whole' | 'broken' | 'idle_timeout' | 'first_output_timeout'

async function passRest(
  { exchange, options, watcher, sink, firstOutputDueMs }: Passing,
  source: ResponseBody,
  { clock, deadlines }: RelayDeps,
): Promise<UpstreamEnd> {
  const { response, cancellation } = exchange
  const { idleMs, keepaliveMs } = options
  let lastByteMs = clock.nowMs()
  let timedOut: UpstreamEnd | undefined
  const pass = (chunk: Buffer): Buffer | undefined => {
    const outgoing = sink.take(chunk, watcher.push(chunk))
    lastByteMs = clock.nowMs()
    const idleDueMs = lastByteMs + idleMs
    patience.dueMs = watcher.phase().kind === 'starting' ? Math.min(idleDueMs, firstOutputDueMs) : idleDueMs
    if (keepaliveMs > 0) keepalive.dueMs = lastByteMs + keepaliveMs
    return outgoing
  }
  // Where upstream breaks off, the client gets what came until then, and an error event.
  const upstream = source.stream(pass, 'end')
  const patience = deadlines.add(Math.min(lastByteMs + idleMs, firstOutputDueMs), () => {
    if (response.writableNeedDrain) cancellation.cancel('client_stalled')
    else timedOut = clock.nowMs() - lastByteMs >= idleMs ? 'idle_timeout' : 'first_output_timeout'
    upstream.destroy(new GivenUp())
  })
  const keepalive = deadlines.add(keepaliveMs > 0 ? lastByteMs + keepaliveMs : Number.POSITIVE_INFINITY, () => {
    sink.comment()
    keepalive.dueMs = clock.nowMs() + keepaliveMs
  })
  if (watcher.phase().kind !== 'starting') patience.dueMs = lastByteMs + idleMs
  const stopWatching = cancellation.onCancel(() => upstream.destroy(new GivenUp()))
  try {
    // How the client's stream ends is decided when it is known how upstream's did.
    await pipeline(upstream, response, { end: false })
    return upstream.lost === undefined ? 'whole' : 'broken'
  } catch {
    return timedOut ?? 'broken'
  } finally {
    stopWatching()
    deadlines.remove(patience)
    deadlines.remove(keepalive)
  }
}

/** Ends the client's stream as upstream's protocol ended, or says that it did not. */
function endStream(
  { exchange, options, watcher, tail, sink, begun, isRead }: Passing,
  transport: UpstreamEnd,
): RelayResult {
  const { response, record } = exchange
  const whole = transport === 'whole'
  // However it ended: Azure bills what it has counted, also of a stream that its client left just then.
  record.usage = joinUsage(begun, readUsage(tail.bytes()))
  if (whole) watcher.finish()
  const { reason } = exchange.cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') {
    response.destroy()
    return { kind: 'cancelled', reason }
  }
  // A resumed stream may have nothing left to bring.
  const hasOwnEnd = options.dialect !== 'opaque' && !(isRead && watcher.events() === 0)
  if (watcher.ended() || (whole && !hasOwnEnd)) {
    sink.end()
    if (watcher.lastError() !== undefined) record.error = 'upstream_stream_error'
    return COMPLETE
  }
  if (reason !== undefined) {
    sink.fail({ code: 'draining', message: 'The proxy is shutting down; this answer is not complete.' })
    return { kind: 'cancelled', reason }
  }
  if (transport === 'idle_timeout' || transport === 'first_output_timeout') {
    sink.fail({ code: 'upstream_timeout', message: 'The backend fell silent; this answer is not complete.' })
    return { kind: 'cut', detail: transport }
  }
  sink.fail({ code: 'upstream_error', message: 'The backend broke off; this answer is not complete.' })
  return { kind: 'cut', detail: whole ? 'no_protocol_end' : 'connection_lost' }
}

/**
 * Passes an event stream on to its end, and ends the client's as it must end. At once, where all of it has come
 * already.
 */
export function relayEvents(
  exchange: Exchange,
  source: ResponseBody,
  body: UpstreamBody & { kind: 'events' },
  options: RelayOptions,
  deps: RelayDeps,
): RelayResult | Promise<RelayResult> {
  const { watcher, firstOutputDueMs, isRead } = body
  const tail = createTail(options.dialect === 'chat' ? CHAT_TAIL_BYTES : TAIL_BYTES)
  const sink = createEventSink(exchange, tail, options)
  exchange.record.stream = true
  // Claude tells the prompt's tokens with the first event, and only the output's with the last.
  const begun =
    options.dialect === 'claude' ? readFirstUsage(Buffer.concat(body.held.map(({ chunk }) => chunk))) : NO_USAGE
  for (const { chunk, wholeBytes } of body.held) {
    const outgoing = sink.take(chunk, wholeBytes)
    if (outgoing !== undefined) exchange.response.write(outgoing)
  }
  const passing: Passing = { exchange, options, watcher, tail, sink, begun, firstOutputDueMs, isRead }
  return body.complete || source.isWhole()
    ? endStream(passing, 'whole')
    : passRest(passing, source, deps).then(transport => endStream(passing, transport))
}
