// Passes an event stream on, event by event: watched for its protocol's end as it goes, under the time limits of silence. Its head
// has gone out already.
import { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { AnswerBody, UpstreamAnswer } from './attempt-result.ts'
import { createEventSink } from './event-sink.ts'
import type { Exchange } from './exchange.ts'
import type { RelayDeps, RelayEnd, RelayOptions } from './relay-terms.ts'
import { CHAT_TAIL_BYTES, createTail, readUsage, TAIL_BYTES } from './usage.ts'

/** Pieces of a stream taken in before its source is asked to pause. */
const STREAM_BUFFER_BYTES = 256 * 1024

const EVENT_END = Buffer.from('\n\n')

/** Passes an event stream on to its end, and ends the client's as it must end. */
export async function relayEvents(
  exchange: Exchange,
  answer: UpstreamAnswer,
  body: AnswerBody & { kind: 'events' },
  options: RelayOptions,
  { clock, deadlines }: RelayDeps,
): Promise<RelayEnd> {
  const { response, record, cancellation } = exchange
  const { watcher } = body
  const tail = createTail(options.dialect === 'chat' ? CHAT_TAIL_BYTES : TAIL_BYTES)
  const sink = createEventSink(exchange, tail, options)
  record.stream = true
  let lastByteMs = clock.nowMs()
  const accept = (chunk: Buffer, wholeBytes: number): void => {
    sink.accept(chunk, wholeBytes)
    lastByteMs = clock.nowMs()
  }
  for (const { chunk, wholeBytes } of body.held) accept(chunk, wholeBytes)

  let timedOut: 'idle_timeout' | 'first_output_timeout' | undefined
  let whole = true
  if (!body.complete && !answer.reply.isWhole()) {
    const upstream = answer.reply.stream()
    const nextDueMs = (): number => {
      const idleDueMs = lastByteMs + options.idleMs
      return watcher.phase().kind === 'starting' ? Math.min(idleDueMs, body.firstOutputDueMs) : idleDueMs
    }
    const patience = deadlines.add(nextDueMs(), () => {
      if (response.writableNeedDrain) cancellation.cancel('client_stalled')
      else timedOut = clock.nowMs() - lastByteMs >= options.idleMs ? 'idle_timeout' : 'first_output_timeout'
      upstream.destroy()
    })
    const keepaliveDueMs = (): number =>
      options.keepaliveMs > 0 ? lastByteMs + options.keepaliveMs : Number.POSITIVE_INFINITY
    const keepalive = deadlines.add(keepaliveDueMs(), () => {
      sink.comment()
      keepalive.dueMs = clock.nowMs() + options.keepaliveMs
    })
    const client = new Writable({
      highWaterMark: STREAM_BUFFER_BYTES,
      write(chunk: Buffer, _encoding, done) {
        accept(chunk, watcher.push(chunk))
        patience.dueMs = nextDueMs()
        keepalive.dueMs = keepaliveDueMs()
        if (response.writableNeedDrain) response.once('drain', done)
        else done()
      },
    })
    // Where the client leaves while we wait for its drain, nothing else would end the pipeline.
    const stopWatching = cancellation.onCancel(() => upstream.destroy())
    try {
      await pipeline(upstream, client)
    } catch {
      whole = false
    } finally {
      stopWatching()
      deadlines.remove(patience)
      deadlines.remove(keepalive)
    }
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
