// The client's side of an event stream: whole events out, comments in the silence, and the end that upstream's end asks
// for.
import type { Exchange } from '../request-context.ts'
import { EventBody } from './client-framing.ts'
import { type StreamTrouble, streamErrorEvent } from './sse-error.ts'
import { createEventSplitter, readEvent } from './sse-reader.ts'
import type { RelayOptions } from './upstream.ts'
import type { Tail } from './usage.ts'

/**
 * An unfinished event is kept back until its end comes, so that a cut or a comment falls between events; up to this
 * size.
 */
const PARTIAL_EVENT_MAX_BYTES = 64 * 1024

const KEEPALIVE = Buffer.from(': keep-alive\n\n')
const EVENT_END = Buffer.from('\n\n')

/**
 * A usage that is more than the null of every other chunk, however it is spelt: looked for before anything is parsed.
 */
const SOME_USAGE = /"usage"(?!\s*:\s*null)/

/**
 * Whether a whole event is the usage event that include_usage adds: no choices, and a usage object (azure/README.md
 * 5.2).
 */
function isUsageEvent(event: string): boolean {
  const { data } = readEvent(event)
  if (data === undefined || !data.includes('"usage"')) return false
  try {
    const value: unknown = JSON.parse(data)
    if (typeof value !== 'object' || value === null) return false
    const choices: unknown = Reflect.get(value, 'choices') ?? []
    const usage: unknown = Reflect.get(value, 'usage')
    const isBare = Array.isArray(choices) && choices.length === 0 && !('error' in value)
    return isBare && typeof usage === 'object' && usage !== null
  } catch {
    return false
  }
}

/** Whole events without the usage event, its comments and its other lines; the same buffer where there is none. */
function withoutUsageEvent(bytes: Buffer): Buffer {
  if (!SOME_USAGE.test(bytes.toString('latin1'))) return bytes
  const kept: Buffer[] = []
  const splitter = createEventSplitter(({ pieces }) => {
    const event = Buffer.concat(pieces)
    if (!isUsageEvent(event.toString('utf8'))) kept.push(event)
  })
  splitter.push(bytes)
  splitter.flush()
  return Buffer.concat(kept)
}

export interface EventSink {
  /**
   * Takes a piece of upstream's stream, and writes what may go out of it now.
   * @param wholeBytes how many of its bytes belong to whole events
   * @returns false: the next one should wait for the body's outlet to drain
   */
  take(chunk: Buffer, wholeBytes: number): boolean
  /** What it writes. Nothing goes out before its first `flush`. */
  readonly body: EventBody
  comment(): void
  /** Writes what is left and ends as upstream did. */
  end(): void
  /** Ends with an error event; cuts where the dialect has none. */
  fail(trouble: StreamTrouble): void
}

/**
 * The head must have been written.
 * @param tail is shown what goes out, for what stands at the stream's end
 */
export function createEventSink(exchange: Exchange, tail: Tail, options: RelayOptions): EventSink {
  const { response, record } = exchange
  const body = new EventBody(response)
  let partial: Buffer[] = []
  let partialBytes = 0
  let insideEvent = false

  const write = (bytes: Buffer): boolean => {
    // What the client has not been sent is no part of what its stream's end goes on from.
    tail.push(bytes)
    options.onEvents?.(bytes)
    const shown = options.dropUsageEvent ? withoutUsageEvent(bytes) : bytes
    if (shown.length === 0) return true
    record.bytesOut += shown.length
    return body.write(shown)
  }
  /** What was kept back and this, in one piece: writing each by itself costs eight times as much. */
  const joined = (bytes: Buffer | undefined): Buffer => {
    const all = bytes === undefined ? partial : [...partial, bytes]
    partial = []
    partialBytes = 0
    const [only] = all
    return all.length === 1 && only !== undefined ? only : Buffer.concat(all)
  }
  const keepBack = (rest: Buffer): void => {
    partial.push(rest)
    partialBytes += rest.length
  }

  return {
    body,
    take(chunk, wholeBytes) {
      if (wholeBytes > 0) {
        const whole = wholeBytes === chunk.length ? chunk : chunk.subarray(0, wholeBytes)
        const bytes = partialBytes > 0 ? joined(whole) : whole
        if (wholeBytes < chunk.length) keepBack(chunk.subarray(wholeBytes))
        insideEvent = false
        return write(bytes)
      }
      keepBack(chunk)
      if (partialBytes <= PARTIAL_EVENT_MAX_BYTES) return true
      insideEvent = true
      return write(joined(undefined))
    },
    comment() {
      if (!insideEvent && !body.outlet().writableNeedDrain) body.write(KEEPALIVE)
    },
    end() {
      if (partialBytes > 0) write(joined(undefined))
      body.end()
    },
    fail(trouble) {
      const event = streamErrorEvent(options.dialect, trouble, tail.bytes())
      if (event === undefined || response.destroyed) {
        response.destroy()
        return
      }
      record.bytesOut += event.length
      body.write(insideEvent ? Buffer.concat([EVENT_END, event]) : event)
      body.end()
    },
  }
}
