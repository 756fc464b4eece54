// Puts an answer on the wire, as it should be or as a fault wants it. Stops when the client leaves.
import type { ServerResponse } from 'node:http'
import type { Clock } from '../clock.ts'
import type { SimulatedResponse } from './chat.ts'
import type { WholeResponse } from './errors.ts'
import type { Fault } from './faults.ts'

export interface WriteOptions {
  readonly clock: Clock
  readonly headers: Readonly<Record<string, string>>
  readonly fault: Fault | undefined
  /** Before an answer; for a stream before its first output. */
  readonly firstDelayMs: number
  /** Between the events of a stream. */
  readonly eventDelayMs: number
}

export function pause(clock: Clock, ms: number): Promise<void> {
  return ms <= 0 ? Promise.resolve() : new Promise(resolve => clock.after(ms, resolve))
}

function reset(response: ServerResponse): void {
  const { socket } = response
  if (socket === null) response.destroy()
  // A RST, not a FIN: what a crashing front end sends.
  else socket.resetAndDestroy()
}

/** Writes and waits for room, so that a slow reader slows us down. */
async function write(response: ServerResponse, bytes: Buffer | string): Promise<void> {
  if (response.destroyed || response.write(bytes)) return
  await new Promise<void>(resolve => {
    const go = (): void => {
      response.off('drain', go).off('close', go)
      resolve()
    }
    response.on('drain', go).on('close', go)
  })
}

/**
 * Bytes that have been handed over have left once this resolves, so that a cut behind them does not take them along.
 */
function settled(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

async function trickle(
  response: ServerResponse,
  bytes: Buffer,
  fault: Fault & { kind: 'trickle' },
  clock: Clock,
): Promise<void> {
  for (let at = 0; at < bytes.length && !response.destroyed; at += fault.bytes) {
    await write(response, bytes.subarray(at, at + fault.bytes))
    if (fault.delayMs > 0) await pause(clock, fault.delayMs)
    else await settled()
  }
}

function lengthHeader(answer: WholeResponse, body: Buffer, fault: Fault | undefined): Record<string, string> {
  if (answer.chunked === true) return {}
  const length = fault?.kind === 'wrong_length' ? body.length + fault.by : body.length
  return { 'Content-Length': String(length) }
}

/** Sends an answer that is there as a whole. */
export async function sendWhole(response: ServerResponse, answer: WholeResponse, options: WriteOptions): Promise<void> {
  const { fault, clock } = options
  const body = Buffer.from(answer.body)
  const own = answer.bare === true ? { 'apim-request-id': options.headers['apim-request-id'] ?? '' } : options.headers
  response.writeHead(answer.status, { ...own, ...answer.headers, ...lengthHeader(answer, body, fault) })
  switch (fault?.kind) {
    case 'reset_after_headers':
      response.flushHeaders()
      await settled()
      return reset(response)
    case 'cut_bytes':
    case 'cut_after': {
      const bytes = fault.kind === 'cut_bytes' ? fault.bytes : Math.floor(body.length / 2)
      await write(response, body.subarray(0, bytes))
      await settled()
      return reset(response)
    }
    case 'trickle':
      await trickle(response, body, fault, clock)
      break
    default:
      await write(response, body)
  }
  if (fault?.kind === 'wrong_length') {
    // Less than promised, then the end of the connection; more would begin the next answer.
    await settled()
    response.socket?.end()
    return
  }
  response.end()
}

/** Sends a stream, event by event. */
export async function sendEvents(
  response: ServerResponse,
  { events, startUp, terminal }: SimulatedResponse & { kind: 'events' },
  options: WriteOptions,
): Promise<void> {
  const { fault, clock, firstDelayMs, eventDelayMs } = options
  response.writeHead(200, { ...options.headers, 'Content-Type': 'text/event-stream; charset=utf-8' })
  response.flushHeaders()
  if (fault?.kind === 'reset_after_headers') {
    await settled()
    return reset(response)
  }
  if (fault?.kind === 'trickle') {
    await trickle(response, Buffer.from(events.join('')), fault, clock)
    response.end()
    return
  }
  if (fault?.kind === 'merge') {
    response.end(events.join(''))
    return
  }
  const kept =
    fault?.kind === 'end_without_terminal' ? events.slice(0, Math.min(fault.events, events.length - terminal)) : events
  const cutAt = fault?.kind === 'cut_after' ? fault.events : Number.POSITIVE_INFINITY
  for (const [i, event] of kept.entries()) {
    if (response.destroyed) return
    if (i === startUp) await pause(clock, firstDelayMs)
    else if (i > startUp) await pause(clock, eventDelayMs)
    if (i >= cutAt) {
      if (fault?.kind === 'cut_after' && fault.midEvent)
        await write(response, event.slice(0, Math.ceil(event.length / 2)))
      await settled()
      return reset(response)
    }
    await write(response, event)
  }
  response.end()
}
