// Watches an event stream as its bytes pass: where its events end, whether it has shown output yet, whether it came to its
// protocol's own end. Changes nothing, copies nothing but short line beginnings, knows nothing of sockets.
// Framing: WHATWG HTML, "Server-sent events"; Azure's dialects: wire reference, section 5.

import { readError, type UpstreamError } from '../azure/errors.ts'
import type { Dialect } from '../azure/operations.ts'

/** What the stream has shown so far. */
export type Phase =
  /** Only start-up events: nothing a client would miss if another backend began again. */
  | { readonly kind: 'starting' }
  | { readonly kind: 'output' }
  /** An error event before any output. */
  | { readonly kind: 'error'; readonly error: UpstreamError }

export interface EventStreamWatcher {
  /** Looks at the next piece; returns how many bytes of it belong to whole events (the rest begins an unfinished one). */
  push(chunk: Buffer): number
  phase(): Phase
  /** The protocol's own end has passed: `[DONE]`, `response.completed`, `.incomplete`, `.failed`, or an error event. */
  ended(): boolean
  /** An error event passed after output had begun, or as its end. */
  lastError(): UpstreamError | undefined
  /** Whole events so far. */
  events(): number
}

/** A data line longer than this is content, whatever it says; the longest start-up events are bounded by the hold anyway. */
const MAX_READ_LINE_BYTES = 4 * 1024 * 1024
/** Enough of a line to tell its field and a Responses event type: the longest known type has 45 characters. */
const LINE_HEAD_BYTES = 96

const LF = 0x0a
const CR = 0x0d

const RESPONSES_START = new Set(['response.created', 'response.in_progress', 'keepalive'])
const RESPONSES_END = new Set(['response.completed', 'response.incomplete', 'response.cancelled'])

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isEmpty(value: unknown): boolean {
  return value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0)
}

/** Whether a chat chunk carries anything beyond the role, prompt filter results and empty deltas. */
function chatHasOutput(value: unknown): boolean {
  if (!isObject(value) || !Array.isArray(value.choices)) return true
  return value.choices.some((choice: unknown) => {
    if (!isObject(choice)) return true
    if (!isEmpty(choice.finish_reason) || !isEmpty(choice.text)) return true
    if (!isObject(choice.delta)) return false
    return Object.entries(choice.delta).some(([name, part]) => name !== 'role' && !isEmpty(part))
  })
}

/**
 * @param dialect `opaque` streams have no known start or end: the first event is output, and `ended` is never claimed
 */
export function watchEventStream(dialect: Dialect): EventStreamWatcher {
  let phase: Phase = { kind: 'starting' }
  let ended = false
  let lastError: UpstreamError | undefined
  let events = 0

  // The line that is being read: its pieces (references, for lines that have to be read whole) and its length.
  let linePieces: Buffer[] = []
  let lineBytes = 0
  // The event that is being read.
  let eventHasData = false
  let eventType: string | undefined

  const fail = (error: UpstreamError): void => {
    lastError = error
    ended = true
    if (phase.kind === 'starting') phase = { kind: 'error', error }
  }

  const readChat = (data: string): void => {
    if (data === '[DONE]') {
      ended = true
      return
    }
    const value = parse(data)
    if (isObject(value) && isObject(value.error)) fail(readError(value))
    else if (phase.kind === 'starting' && chatHasOutput(value)) phase = { kind: 'output' }
  }

  const readResponses = (type: string, data: () => string): void => {
    if (type === 'error') fail(readError(parse(data())))
    else if (type === 'response.failed') {
      const value = parse(data())
      const response = isObject(value) && isObject(value.response) ? value.response : undefined
      fail(lastError ?? readError(isObject(response?.error) ? response.error : undefined))
    } else if (RESPONSES_END.has(type)) {
      ended = true
      if (phase.kind === 'starting') phase = { kind: 'output' }
    } else if (phase.kind === 'starting' && !RESPONSES_START.has(type)) phase = { kind: 'output' }
  }

  /** `{"type":"response.x"` names the type too, for gateways that drop the event line. */
  const typeOf = (head: string): string => eventType ?? /^\{\s*"type"\s*:\s*"([a-z_.]+)"/.exec(head)?.[1] ?? ''

  const onDataLine = (head: string, whole: () => string): void => {
    const data = (): string => whole().slice(5).trimStart()
    if (dialect === 'opaque') {
      phase = { kind: 'output' }
      return
    }
    if (dialect === 'responses') {
      readResponses(typeOf(head.slice(5).trimStart()), data)
      return
    }
    // After output only the end and an error matter, and both show in the line's first bytes.
    if (phase.kind === 'output' && !/^data: ?(\[DONE\]|\{"error")/.test(head)) return
    readChat(data())
  }

  const onLine = (head: string, whole: () => string): void => {
    if (head === '') {
      if (eventHasData) events++
      eventHasData = false
      eventType = undefined
    } else if (head.startsWith('data:')) {
      eventHasData = true
      onDataLine(head, whole)
    } else if (head.startsWith('event:')) eventType = head.slice(6).trim()
  }

  /** Most lines of a chat stream after its first output are content deltas, which need no string at all. */
  const isPlainDelta = (chunk: Buffer, start: number, end: number): boolean =>
    dialect === 'chat' &&
    phase.kind === 'output' &&
    end - start > 15 &&
    chunk[start] === 0x64 &&
    chunk[start + 4] === 0x3a &&
    chunk[start + 5] === 0x20 &&
    chunk[start + 6] === 0x7b &&
    chunk[start + 8] !== 0x65

  const endLine = (chunk: Buffer, start: number, end: number): boolean => {
    if (linePieces.length === 0 && lineBytes === 0) {
      if (end === start) {
        onLine('', () => '')
        return true
      }
      if (isPlainDelta(chunk, start, end)) {
        eventHasData = true
        return false
      }
    }
    const tail = chunk.subarray(start, end)
    const pieces = linePieces.length === 0 ? [tail] : [...linePieces, tail]
    const wholeBytes = lineBytes + tail.length
    linePieces = []
    lineBytes = 0
    const whole = (): string => (wholeBytes > MAX_READ_LINE_BYTES ? '' : Buffer.concat(pieces).toString('utf8'))
    const first = pieces[0] ?? tail
    const lineHead = first.length >= LINE_HEAD_BYTES || pieces.length === 1 ? first : Buffer.concat(pieces)
    let head = lineHead.toString('latin1', 0, Math.min(lineHead.length, LINE_HEAD_BYTES))
    if (head.endsWith('\r') && wholeBytes <= LINE_HEAD_BYTES) head = head.slice(0, -1)
    onLine(head, () => whole().replace(/\r$/, ''))
    return head === ''
  }

  return {
    push(chunk) {
      let whole = 0
      let start = 0
      while (start < chunk.length) {
        const newline = chunk.indexOf(LF, start)
        if (newline === -1) break
        const end = newline > start && chunk[newline - 1] === CR ? newline - 1 : newline
        if (endLine(chunk, start, end)) whole = newline + 1
        start = newline + 1
      }
      if (start < chunk.length) {
        const rest = chunk.subarray(start)
        lineBytes += rest.length
        if (lineBytes <= MAX_READ_LINE_BYTES) linePieces.push(rest)
      }
      return whole
    },
    phase: () => phase,
    ended: () => ended,
    lastError: () => lastError,
    events: () => events,
  }
}
