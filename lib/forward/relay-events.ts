// Passes an event stream on, event by event: watched for its protocol's end as it goes, under the time limits of silence. Its head
// has gone out already.
import { pipeline } from 'node:stream/promises'
import type { AnswerBody } from './attempt-result.ts'
import { createEventSink, type EventSink } from './event-sink.ts'
import type { EventStreamWatcher } from './event-stream.ts'
import type { Exchange } from './exchange.ts'
import type { RelayDeps, RelayEnd, RelayOptions } from './relay-terms.ts'
import type { Reply } from './reply.ts'
import { CHAT_TAIL_BYTES, createTail, readUsage, TAIL_BYTES, type Tail } from './usage.ts'

const EVENT_END = Buffer.from('\n\n')

const COMPLETE: RelayEnd = { kind: 'complete' }

/** A stream under way. Holds nothing of its beginning: it may last for minutes, and there may be thousands of it. */
interface Passing {
  readonly exchange: Exchange
  readonly options: RelayOptions
  readonly watcher: EventStreamWatcher
  readonly tail: Tail
  readonly sink: EventSink
  /** Monotonic time by which output must have begun. */
  readonly firstOutputDueMs: number
}

/** How upstream's bytes ended. */
type Transport = 'whole' | 'broken' | 'idle_timeout' | 'first_output_timeout'

async function passRest(
  { exchange, options, watcher, sink, firstOutputDueMs }: Passing,
  reply: Reply,
  { clock, deadlines }: RelayDeps,
): Promise<Transport> {
  const { response, cancellation } = exchange
  const { idleMs, keepaliveMs } = options
  let lastByteMs = clock.nowMs()
  let timedOut: Transport | undefined
  const pass = (chunk: Buffer): Buffer | undefined => {
    const outgoing = sink.take(chunk, watcher.push(chunk))
    lastByteMs = clock.nowMs()
    const idleDueMs = lastByteMs + idleMs
    patience.dueMs = watcher.phase().kind === 'starting' ? Math.min(idleDueMs, firstOutputDueMs) : idleDueMs
    if (keepaliveMs > 0) keepalive.dueMs = lastByteMs + keepaliveMs
    return outgoing
  }
  // Where upstream breaks off, the client gets what came until then, and is told.
  const upstream = reply.stream(pass, 'end')
  const patience = deadlines.add(Math.min(lastByteMs + idleMs, firstOutputDueMs), () => {
    if (response.writableNeedDrain) cancellation.cancel('client_stalled')
    else timedOut = clock.nowMs() - lastByteMs >= idleMs ? 'idle_timeout' : 'first_output_timeout'
    upstream.destroy()
  })
  const keepalive = deadlines.add(keepaliveMs > 0 ? lastByteMs + keepaliveMs : Number.POSITIVE_INFINITY, () => {
    sink.comment()
    keepalive.dueMs = clock.nowMs() + keepaliveMs
  })
  if (watcher.phase().kind !== 'starting') patience.dueMs = lastByteMs + idleMs
  const stopWatching = cancellation.onCancel(() => upstream.destroy())
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
function endStream({ exchange, options, watcher, tail, sink }: Passing, transport: Transport): RelayEnd {
  const { response, record } = exchange
  const whole = transport === 'whole'
  // A last line without its blank line is an end all the same.
  if (whole && !watcher.ended()) watcher.push(EVENT_END)
  const { reason } = exchange.cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') {
    response.destroy()
    return { kind: 'cancelled', reason }
  }
  if (watcher.ended() || (whole && options.dialect === 'opaque')) {
    sink.end()
    record.usage = readUsage(tail.bytes())
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

/** Passes an event stream on to its end, and ends the client's as it must end. At once, where all of it has come already. */
export function relayEvents(
  exchange: Exchange,
  reply: Reply,
  body: AnswerBody & { kind: 'events' },
  options: RelayOptions,
  deps: RelayDeps,
): RelayEnd | Promise<RelayEnd> {
  const { watcher, firstOutputDueMs } = body
  const tail = createTail(options.dialect === 'chat' ? CHAT_TAIL_BYTES : TAIL_BYTES)
  const sink = createEventSink(exchange, tail, options)
  exchange.record.stream = true
  for (const { chunk, wholeBytes } of body.held) {
    const outgoing = sink.take(chunk, wholeBytes)
    if (outgoing !== undefined) exchange.response.write(outgoing)
  }
  const passing: Passing = { exchange, options, watcher, tail, sink, firstOutputDueMs }
  return body.complete || reply.isWhole()
    ? endStream(passing, 'whole')
    : passRest(passing, reply, deps).then(transport => endStream(passing, transport))
}
