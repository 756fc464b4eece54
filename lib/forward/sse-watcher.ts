// Watches an event stream as its bytes pass: where events end, whether output has been shown, whether the protocol's
// own end has come. Changes nothing, holds no more than an unfinished event, knows nothing of sockets.
import type { UpstreamError } from '../azure/errors.ts'
import type { Dialect } from '../azure/operations.ts'
import { type Meaning, STREAM_RULES, type StreamRules } from './sse-dialects.ts'
import {
  beginningOf,
  createEventSplitter,
  type EventBytes,
  type EventSplitter,
  endsWithBlankLine,
  MAX_READ_EVENT_BYTES,
  readEvent,
} from './sse-reader.ts'

/** What the stream has shown so far. */
export type Phase =
  /** Only start-up events: nothing a client would miss if another backend began again. */
  | { readonly kind: 'starting' }
  | { readonly kind: 'output' }
  /** An error event before any output. */
  | { readonly kind: 'error'; readonly error: UpstreamError }

export interface EventStreamWatcher {
  /**
   * Looks at the next piece; returns how many bytes of it belong to whole events (the rest begins an unfinished one).
   */
  push(chunk: Buffer): number
  /** The stream's bytes have ended: a whole event that lacks only its blank line counts, as it does for clients. */
  finish(): void
  phase(): Phase
  /** The protocol's own end has passed: `[DONE]`, `response.completed`, `.incomplete`, `.failed`, or an error event. */
  ended(): boolean
  /** An error event passed after output had begun, or as its end. */
  lastError(): UpstreamError | undefined
  /** Whole events with data up to the first output; those behind it are not counted. */
  events(): number
  /** The same with blocks that hold comments alone. */
  blocks(): number
}

const STARTING: Phase = { kind: 'starting' }
const OUTPUT: Phase = { kind: 'output' }

/** From this size on reading an event costs more than looking at its beginning first. */
const GLANCE_BYTES = 1024

/** A blank line behind a line that ends with LF: the end of an event, whatever ends the other lines. */
const BLANK_LINE = '\n\n'

/** A letter, a dot or an underscore as JSON escapes: no usual writer makes them, but types may be spelt so. */
const ESCAPED_NAME = /\\u00(?:2e|5f|[67])/i
/** Of a stream with such: each of its events is read. */
const EACH = /^/

/** Whether the data of an event without its blank line can have come whole. */
function isWholeData(data: string): boolean {
  if (data.trim() === '[DONE]') return true
  try {
    JSON.parse(data)
    return true
  } catch {
    return false
  }
}

/** A class: one for every open stream, of which there may be thousands. */
class Watcher implements EventStreamWatcher {
  readonly #rules: StreamRules
  readonly #splitter: EventSplitter
  #marks: RegExp | undefined
  #phase: Phase = STARTING
  #ended = false
  #lastError: UpstreamError | undefined
  #events = 0
  #blocks = 0

  constructor(rules: StreamRules) {
    this.#rules = rules
    this.#marks = rules.marks
    this.#splitter = createEventSplitter(event => this.#onEvent(event))
  }

  push(chunk: Buffer): number {
    let at = this.#phase.kind === 'starting' ? this.#pushStart(chunk) : 0
    if (at === chunk.length) return at
    // Nearly every chunk of an open stream is whole events of output: seen as one, it costs one search (0.1 µs).
    if (this.#phase.kind === 'output' && this.#splitter.atBoundary()) {
      at += this.#outputEnd(at === 0 ? chunk : chunk.subarray(at))
      if (at === chunk.length) return at
    }
    return at + this.#splitter.push(at === 0 ? chunk : chunk.subarray(at))
  }

  finish(): void {
    this.#splitter.flush()
  }

  phase(): Phase {
    return this.#phase
  }

  ended(): boolean {
    return this.#ended
  }

  lastError(): UpstreamError | undefined {
    return this.#lastError
  }

  events(): number {
    return this.#events
  }

  blocks(): number {
    return this.#blocks
  }

  /** Reads events one by one while none of them was output. @returns how many bytes belong to whole events */
  #pushStart(chunk: Buffer): number {
    let at = 0
    while (this.#phase.kind === 'starting' && this.#splitter.atBoundary()) {
      const end = chunk.indexOf(BLANK_LINE, at)
      if (end === -1) break
      this.#splitter.push(chunk.subarray(at, end + BLANK_LINE.length))
      at = end + BLANK_LINE.length
    }
    return at
  }

  /** @returns where the whole events of output end that stand in a row at the beginning of these bytes, at least */
  #outputEnd(bytes: Buffer): number {
    const text = bytes.toString('latin1')
    const mark = this.#marks === undefined ? -1 : text.search(this.#marks)
    if (mark === -1 && endsWithBlankLine(bytes)) return bytes.length
    const end = text.lastIndexOf(BLANK_LINE, mark === -1 ? text.length : mark)
    return end === -1 ? 0 : end + BLANK_LINE.length
  }

  #onEvent({ pieces, unfinished }: EventBytes): void {
    const [first] = pieces
    const bytes = pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces)
    const starting = this.#phase.kind === 'starting'
    // Most events of a stream after its first output are more output, which need no string at all.
    if (!starting && this.#marks?.test(bytes.toString('latin1')) !== true) return
    const glanced = unfinished ? undefined : this.#glance(bytes)
    const event = glanced ?? readEvent(bytes.toString('utf8', 0, MAX_READ_EVENT_BYTES))
    if (unfinished && event.data !== undefined && !isWholeData(event.data)) return
    if (starting) this.#blocks++
    if (starting && event.data !== undefined) this.#countEvent(event.data)
    const meaning = 'meaning' in event ? event.meaning : this.#rules.meaningOf(event)
    if (meaning === 'start') return
    if (meaning === 'end') this.#ended = true
    else if (meaning !== 'output') {
      this.#fail(meaning)
      return
    }
    if (starting) this.#phase = OUTPUT
  }

  #countEvent(data: string): void {
    this.#events++
    if (this.#marks !== undefined && ESCAPED_NAME.test(data)) this.#marks = EACH
  }

  /** A long event that need not be read whole, because its beginning says what it means. */
  #glance(bytes: Buffer): { readonly data: string; readonly meaning: Meaning } | undefined {
    const { glance } = this.#rules
    if (bytes.length < GLANCE_BYTES || glance === undefined) return undefined
    const begun = beginningOf(bytes)
    const meaning = begun === undefined ? undefined : glance(begun.name, begun.data)
    return begun === undefined || meaning === undefined ? undefined : { data: begun.data, meaning }
  }

  #fail(error: UpstreamError): void {
    // The first one counts: `response.failed` behind an error event often says less than that event did.
    this.#lastError ??= error
    this.#ended = true
    if (this.#phase.kind === 'starting') this.#phase = { kind: 'error', error: this.#lastError }
  }
}

/**
 * A watcher at the beginning of a stream.
 * @param dialect `opaque` streams have no known end: `ended` is claimed for an error alone
 */
export function watchEventStream(dialect: Dialect): EventStreamWatcher {
  return new Watcher(STREAM_RULES[dialect])
}
