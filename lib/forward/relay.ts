// Passes a response on to the client: whole, flowing, or event by event. From its first byte on there is no second
// chance: a part never looks like the whole.

import type { ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '../clock.ts'
import { MAX_NAMED_WAIT_MS } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { capWaits } from './cap-waits.ts'
import { type BodyPlan, declareLength } from './client-framing.ts'
import { writeUpstreamHead } from './client-head.ts'
import { ALLOW_ORIGIN, withoutUpstreamCors } from './cors.ts'
import { relayEvents } from './relay-events.ts'
import type { RelayDeps, RelayOptions, RelayResult, UpstreamBody, UpstreamResponse } from './upstream.ts'
import { createTail, readUsage } from './usage.ts'

/**
 * Up to this size a response joins its head in one string and one write; above, copying costs more than a second write.
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
  const isCors = response.hasHeader(ALLOW_ORIGIN)
  const list = isCors ? withoutUpstreamCors(headers) : headers
  if (upstreamResponse.status >= 400) capWaits(list, MAX_NAMED_WAIT_MS, clock.epochMs())
  if (values['x-request-id'] === undefined) list.push('x-request-id', exchange.id)
  declareLength(list, contentLength, upstreamResponse.status, body)
  // nginx in front would gather events into buffers of its own (its module ngx_http_proxy_module, `X-Accel-Buffering`).
  if (body.kind === 'edited') list.push('x-accel-buffering', 'no')
  list.push('x-proxy-backend', headerSafe(options.backendName), 'x-proxy-attempts', String(record.attempts))
  record.status = upstreamResponse.status
  // With headers set before, node:http has to see which stand twice.
  if (isCors) response.writeHead(upstreamResponse.status, list)
  else writeUpstreamHead(response, upstreamResponse.status, list)
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
  const see = (chunk: Buffer): void => {
    tail.push(chunk)
    jsonEnd?.push(chunk)
    record.bytesOut += chunk.length
    deadline.dueMs = clock.nowMs() + options.idleMs
  }
  const upstream = upstreamResponse.source.stream(see, () => jsonEnd?.isWhole() !== false)
  const deadline = deadlines.add(clock.nowMs() + options.idleMs, () => {
    // Silence while the client doesn't read is the client's, not the backend's.
    if (response.writableNeedDrain) cancellation.cancel('client_stalled')
    else timedOut = true
    upstream.destroy(new GivenUp())
  })
  const stopWatching = cancellation.onCancel(() => upstream.destroy(new GivenUp()))
  try {
    writeHead(exchange, upstreamResponse, options, UNCHANGED, clock)
    for (const chunk of body.held) {
      see(chunk)
      response.write(chunk)
    }
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
 * Step 11 of a request (lib/README.md). Sends a response's head and body.
 * @returns how it ended, once the last byte is handed over or the response has been cut
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
