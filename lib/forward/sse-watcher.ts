// Watches an event stream as its bytes pass: where events end, whether output has been shown, whether the protocol's
// own end has come. Changes nothing, holds no more than an unfinished event, knows nothing of sockets.
import type { UpstreamError } from '../azure/errors.ts'
import type { Dialect } from '../azure/operations.ts'
import { type Meaning, STREAM_RULES } from './sse-dialects.ts'
import {
  beginningOf,
  createEventSplitter,
  type EventBytes,
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

/**
 * A watcher at the beginning of a stream.
 * @param dialect `opaque` streams have no known end: `ended` is claimed for an error alone
 */
export function watchEventStream(dialect: Dialect): EventStreamWatcher {
  const rules = STREAM_RULES[dialect]
  const mayMatter = (bytes: Buffer): boolean => rules.marks?.test(bytes.toString('latin1')) === true
  let phase = STARTING
  let ended = false
  let lastError: UpstreamError | undefined
  let events = 0
  let blocks = 0

  const fail = (error: UpstreamError): void => {
    // The first one counts: `response.failed` behind an error event often says less than that event did.
    lastError ??= error
    ended = true
    if (phase.kind === 'starting') phase = { kind: 'error', error: lastError }
  }

  /** A long event that need not be read whole, because its beginning says what it means. */
  const glance = (bytes: Buffer): { readonly data: string; readonly meaning: Meaning } | undefined => {
    if (bytes.length < GLANCE_BYTES || rules.glance === undefined) return undefined
    const begun = beginningOf(bytes)
    const meaning = begun === undefined ? undefined : rules.glance(begun.name, begun.data)
    return begun === undefined || meaning === undefined ? undefined : { data: begun.data, meaning }
  }

  const onEvent = ({ pieces, unfinished }: EventBytes): void => {
    const [first] = pieces
    const bytes = pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces)
    const starting = phase.kind === 'starting'
    // Most events of a stream after its first output are more output, which need no string at all.
    if (!starting && !mayMatter(bytes)) return
    const event = (unfinished ? undefined : glance(bytes)) ?? readEvent(bytes.toString('utf8', 0, MAX_READ_EVENT_BYTES))
    if (unfinished && event.data !== undefined && !isWholeData(event.data)) return
    if (starting) blocks++
    if (starting && event.data !== undefined) events++
    const meaning = 'meaning' in event ? event.meaning : rules.meaningOf(event)
    if (meaning === 'start') return
    if (meaning === 'end') ended = true
    else if (meaning !== 'output') {
      fail(meaning)
      return
    }
    if (starting) phase = OUTPUT
  }
  const splitter = createEventSplitter(onEvent)

  return {
    push(chunk) {
      // Nearly every chunk of an open stream is whole events of output: seen as one, it costs one search (0.1 µs).
      if (phase.kind === 'output' && endsWithBlankLine(chunk) && splitter.atBoundary() && !mayMatter(chunk)) {
        return chunk.length
      }
      return splitter.push(chunk)
    },
    finish: () => splitter.flush(),
    phase: () => phase,
    ended: () => ended,
    lastError: () => lastError,
    events: () => events,
    blocks: () => blocks,
  }
}
