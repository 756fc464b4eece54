// The event stream format as bytes: where its events end, and what one of them says. Changes nothing, knows no API and
// no socket. Format: WHATWG HTML, "Server-sent events", sections 9.2.5 and 9.2.6.

const LF = 0x0a
const CR = 0x0d
const BOM = '\uFEFF'

/** A longer event is content, whatever it says; the longest start-up events are bounded by the hold anyway. */
export const MAX_READ_EVENT_BYTES = 4 * 1024 * 1024

/** An event's bytes, up to MAX_READ_EVENT_BYTES of them. */
export interface EventBytes {
  readonly pieces: readonly Buffer[]
  /** The stream ended before its blank line came. */
  readonly unfinished: boolean
}

export interface EventSplitter {
  /**
   * Looks at the next piece; returns how many bytes of it belong to whole events (the rest begins an unfinished one).
   */
  push(chunk: Buffer): number
  /** The stream has ended: clients take a last event for whole even without its blank line. */
  flush(): void
  /** Between two events: what comes next begins one. */
  atBoundary(): boolean
}

/** Whether these bytes, seen by themselves, end with a blank line. */
export function endsWithBlankLine(chunk: Buffer): boolean {
  const { length } = chunk
  if (length < 2 || chunk[length - 1] !== LF) return false
  return chunk[length - 2] === LF || (length >= 4 && chunk[length - 2] === CR && chunk[length - 3] === LF)
}

/** Splits a stream's bytes into events at blank lines; lines end with LF, CR or CRLF. */
class BlankLineSplitter implements EventSplitter {
  readonly #onEvent: (event: EventBytes) => void
  // The event that is being read: its earlier pieces (references) and their length.
  #pieces: Buffer[] = []
  #bytes = 0
  #lineIsEmpty = true
  #afterCr = false
  #endsCrlf = false
  #awaitsLf = false

  constructor(onEvent: (event: EventBytes) => void) {
    this.#onEvent = onEvent
  }

  #keep(piece: Buffer): void {
    if (piece.length === 0) return
    if (this.#bytes < MAX_READ_EVENT_BYTES) this.#pieces.push(piece)
    this.#bytes += piece.length
  }

  #endEvent(last: Buffer, unfinished = false): void {
    this.#keep(last)
    const event = { pieces: this.#pieces, unfinished }
    this.#pieces = []
    this.#bytes = 0
    this.#onEvent(event)
  }

  /** Where every line ends with LF: a search instead of a look at each byte. */
  #pushLines(chunk: Buffer): number {
    let start = 0
    let at = 0
    for (let end = chunk.indexOf(LF); end !== -1; end = chunk.indexOf(LF, at)) {
      if (end === at && this.#lineIsEmpty) {
        this.#endEvent(chunk.subarray(start, end + 1))
        start = end + 1
      }
      this.#lineIsEmpty = true
      at = end + 1
    }
    if (at < chunk.length) this.#lineIsEmpty = false
    return start
  }

  /** Where a line may end with CR: each byte is looked at. */
  #pushBytes(chunk: Buffer): number {
    let start = 0
    const cut = (end: number): void => {
      this.#endEvent(chunk.subarray(start, end))
      start = end
    }
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at]
      if (this.#afterCr && byte === LF) {
        // One end of a line, not two.
        this.#afterCr = false
        this.#endsCrlf = true
        if (this.#awaitsLf) cut(at + 1)
        else if (start === at && this.#bytes === 0) start = at + 1
        this.#awaitsLf = false
        continue
      }
      if (this.#awaitsLf) cut(at)
      this.#awaitsLf = false
      if (byte !== LF && byte !== CR) this.#lineIsEmpty = this.#afterCr = false
      else {
        // In a stream whose lines end with CRLF the LF of a blank line belongs to it, though it may come with the next
        // piece.
        if (this.#lineIsEmpty && byte === CR && this.#endsCrlf) this.#awaitsLf = true
        else if (this.#lineIsEmpty) cut(at + 1)
        this.#lineIsEmpty = true
        this.#afterCr = byte === CR
        this.#endsCrlf = false
      }
    }
    return start
  }

  push(chunk: Buffer): number {
    const whole = this.#afterCr || chunk.includes(CR) ? this.#pushBytes(chunk) : this.#pushLines(chunk)
    this.#keep(chunk.subarray(whole))
    return whole
  }

  flush(): void {
    if (this.#bytes > 0) this.#endEvent(Buffer.alloc(0), !this.#awaitsLf)
    this.#lineIsEmpty = true
    this.#afterCr = this.#awaitsLf = false
  }

  atBoundary(): boolean {
    return this.#bytes === 0 && this.#lineIsEmpty && !this.#afterCr
  }
}

/**
 * A splitter that stands at the beginning of a stream.
 * @param onEvent is shown each whole event, its blank line included; its pieces lie in the chunks that were pushed
 */
export function createEventSplitter(onEvent: (event: EventBytes) => void): EventSplitter {
  return new BlankLineSplitter(onEvent)
}

/** What an event says to a client. */
export interface StreamEvent {
  /** Of its last `event` line; undefined where there is none or it is empty. */
  readonly name: string | undefined
  /** Its `data` lines, joined by LF; undefined without one (such a block dispatches nothing). */
  readonly data: string | undefined
  /** llama.cpp sends an error as a field of its own: `error: {…}`. */
  readonly errorField: string | undefined
}

/** Reads the text of one event, whatever the order of its lines. */
export function readEvent(text: string): StreamEvent {
  let name: string | undefined
  let data: string | undefined
  let errorField: string | undefined
  for (const line of (text.startsWith(BOM) ? text.slice(1) : text).split(/\r\n|\n|\r/)) {
    const colon = line.indexOf(':')
    const field = colon === -1 ? line : line.slice(0, colon)
    if (field === '') continue
    const from = colon === -1 ? line.length : line[colon + 1] === ' ' ? colon + 2 : colon + 1
    if (field === 'data') data = data === undefined ? line.slice(from) : `${data}\n${line.slice(from)}`
    else if (field === 'event') name = line.slice(from)
    else if (field === 'error') errorField = line.slice(from)
  }
  return { name: name === '' ? undefined : name, data, errorField }
}

/** The beginning of an event whose data is one line. */
export interface EventBeginning {
  readonly name: string | undefined
  /** The data's first characters, as latin1. */
  readonly data: string
}

/** As many bytes hold an `event` line and the type behind it: the longest known type has 45 characters. */
const BEGINNING_BYTES = 256
const ONE_DATA_LINE = /^(?:event: ?([^\r\n]*)\r?\n)?data: ?/

/**
 * The beginning of a whole event, or undefined where more stands in it than an `event` line and one `data` line with LF
 * or CRLF.
 */
export function beginningOf(bytes: Buffer): EventBeginning | undefined {
  const head = bytes.toString('latin1', 0, BEGINNING_BYTES)
  const [lines, name] = ONE_DATA_LINE.exec(head) ?? []
  if (lines === undefined) return undefined
  const lineEnd = bytes.indexOf(LF, lines.length)
  const crAt = bytes.indexOf(CR, lines.length)
  const isOneLine = lineEnd >= bytes.length - 3 && (crAt === -1 || crAt === lineEnd - 1)
  return isOneLine ? { name: name === '' ? undefined : name, data: head.slice(lines.length) } : undefined
}
