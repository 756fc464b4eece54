// Passes an answer on to the client: whole, flowing, or event by event. From its first byte on there is no second chance: a
// part is never made to look like the whole.
import { pipeline } from 'node:stream/promises'
import type { AnswerBody, UpstreamAnswer } from './attempt-result.ts'
import type { Exchange } from './exchange.ts'
import { capWaits } from './headers.ts'
import { MAX_TOLD_WAIT_MS } from './refuse.ts'
import { relayEvents } from './relay-events.ts'
import type { RelayDeps, RelayEnd, RelayOptions } from './relay-terms.ts'
import { createTail, readUsage } from './usage.ts'

/** Up to this size an answer joins its head in one string and one write; above, copying costs more than a second write. */
const ONE_WRITE_MAX_BYTES = 16 * 1024

/** A header value may hold only visible ASCII here; a backend's name may hold anything. */
function headerSafe(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : encodeURIComponent(text)
}

function writeHead(exchange: Exchange, answer: UpstreamAnswer, options: RelayOptions, knownBytes?: number): void {
  const { response, record } = exchange
  const { headers: list, values, contentLength } = answer.headers
  if (answer.status >= 400) capWaits(list, MAX_TOLD_WAIT_MS)
  if (values['x-request-id'] === undefined) list.push('x-request-id', exchange.id)
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
  const tail = createTail()
  let timedOut = false
  const pass = (chunk: Buffer): Buffer => {
    tail.push(chunk)
    record.bytesOut += chunk.length
    deadline.dueMs = clock.nowMs() + options.idleMs
    return chunk
  }
  const upstream = answer.reply.stream(pass, 'error')
  const deadline = deadlines.add(clock.nowMs() + options.idleMs, () => {
    // Silence while the client doesn't read is the client's, not the backend's.
    if (response.writableNeedDrain) cancellation.cancel('client_stalled')
    else timedOut = true
    upstream.destroy()
  })
  const stopWatching = cancellation.onCancel(() => upstream.destroy())
  try {
    writeHead(exchange, answer, options)
    for (const chunk of body.held) response.write(pass(chunk))
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
  }
}

/** Sends an answer's head and body. Tells how it ended when the last byte is handed over, or the answer has been cut. */
export function relay(
  exchange: Exchange,
  answer: UpstreamAnswer,
  options: RelayOptions,
  deps: RelayDeps,
): RelayEnd | Promise<RelayEnd> {
  const { body } = answer
  exchange.record.ttfbMs = deps.clock.nowMs() - exchange.beganMs
  switch (body.kind) {
    case 'whole':
      return relayWhole(exchange, answer, body, options)
    case 'flowing':
      return relayFlowing(exchange, answer, body, options, deps)
    case 'events':
      writeHead(exchange, answer, options)
      return relayEvents(exchange, answer.reply, body, options, deps)
  }
}
