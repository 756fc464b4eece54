// The head of a response in HTTP/1.1: status line and headers. It decides where the body ends, and whether the
// connection can be used again (RFC 9112). Pure; strict, since what two readers could understand differently is a
// fault.
import type { LowerCaseNames } from './header-names.ts'

/** How the end of a body is found (RFC 9112 section 6.3). */
export type Framing =
  | { readonly kind: 'none' }
  | { readonly kind: 'length'; readonly bytes: number }
  | { readonly kind: 'chunked' }
  | { readonly kind: 'until_close' }

export interface ResponseHead {
  readonly kind: 'head'
  readonly status: number
  /** Flat list of names and values as they came. */
  readonly rawHeaders: readonly string[]
  /** The names alone, in lower case and the same order. */
  readonly names: readonly string[]
  readonly framing: Framing
  /**
   * Milliseconds for which the far side keeps the connection after this response: 0 when it closes, Infinity when it
   * does not say.
   */
  readonly keptForMs: number
}

/** What makes bytes no response; stable codes, shown in logs. */
export type ResponseFault =
  | 'bad_status_line'
  | 'bad_header'
  | 'bad_length'
  | 'bad_transfer_coding'
  | 'bad_chunk'
  | 'head_too_large'
  | 'too_many_interim_answers'
  | 'unasked_upgrade'

/** Some servers leave the blank away where they give no reason. */
const STATUS_LINE = /^HTTP\/1\.[01] [1-9]\d\d(?:[ \r]|$)/
const MINOR_AT = 'HTTP/1.'.length
const STATUS_AT = 'HTTP/1.1 '.length
/** As many bytes as tell whether a status line is one; what has not come yet is taken from here. */
const ANY_STATUS_LINE = 'HTTP/1.1 200 '
const TAB = 0x09
const LF = 0x0a
const CR = 0x0d
/** Beyond 2^53 a length is no number any more; no response has a petabyte. */
const LENGTH = /^\d{1,15}$/

const NONE: Framing = { kind: 'none' }
const CHUNKED: Framing = { kind: 'chunked' }
const UNTIL_CLOSE: Framing = { kind: 'until_close' }

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09
}

/** `timeout=5` of a Keep-Alive header, in ms; Infinity where it says nothing. */
export function keptForMs(keepAlive: string | undefined): number {
  const seconds = keepAlive === undefined ? undefined : /\btimeout=(\d{1,6})\b/i.exec(keepAlive)?.[1]
  return seconds === undefined ? Number.POSITIVE_INFINITY : Number(seconds) * 1000
}

/** Whether a list such as `keep-alive, Upgrade` names it. */
function lists(list: string | undefined, token: string): boolean {
  if (list === undefined) return false
  const text = list.toLowerCase()
  if (text === token) return true
  return text.includes(',') && text.split(',').some(item => item.trim() === token)
}

/**
 * The fault of a head that has not come whole. A server that speaks another protocol, or ends lines otherwise, might
 * never send its end.
 * @param begun as much as has come, as latin1
 */
export function faultOfPart(begun: string): ResponseFault | undefined {
  const first = begun.slice(0, ANY_STATUS_LINE.length)
  if (!STATUS_LINE.test(first + ANY_STATUS_LINE.slice(first.length))) return 'bad_status_line'
  const lineFeed = begun.indexOf('\n')
  return lineFeed !== -1 && begun[lineFeed - 1] !== '\r' ? 'bad_header' : undefined
}

/**
 * Where the line that begins at `at` ends, or the head does; -1: a control character of it has no place in a head, or a
 * CR or an LF stands alone, which could split it for another reader.
 */
function lineEnd(bytes: Buffer, at: number, stop: number): number {
  for (let i = at; i < stop; i++) {
    const byte = bytes[i] ?? 0
    if (byte >= 0x20 && byte !== 0x7f) continue
    if (byte === CR) return i + 1 < stop && bytes[i + 1] === LF ? i : -1
    if (byte !== TAB) return -1
  }
  return stop
}

/**
 * Reads the head that stands between `start` and `stop`, without the empty line at its end.
 * @param bodiless the request was a HEAD: the length says what a GET would bring
 */
export function parseHead(
  bytes: Buffer,
  { start, stop }: { readonly start: number; readonly stop: number },
  bodiless: boolean,
  names: LowerCaseNames,
): ResponseHead | ResponseFault {
  const text = bytes.toString('latin1', start, stop)
  if (!STATUS_LINE.test(text)) return 'bad_status_line'
  const isOld = text[MINOR_AT] === '0'
  const status = Number(text.slice(STATUS_AT, STATUS_AT + 3))
  const rawHeaders: string[] = []
  const lowerNames: string[] = []
  let length: string | undefined
  let coding: string | undefined
  let connection: string | undefined
  let keepAlive: string | undefined

  const firstEnd = lineEnd(bytes, start, stop)
  if (firstEnd === -1) return 'bad_header'
  let at = firstEnd + 2 - start
  while (at < text.length) {
    const lineStop = lineEnd(bytes, start + at, stop)
    if (lineStop === -1) return 'bad_header'
    const end = lineStop - start
    const colon = text.indexOf(':', at)
    if (colon === -1 || colon >= end) return 'bad_header'
    const name = text.slice(at, colon)
    // Also refuses a folded line and blanks before the colon (RFC 9112 sections 5.1 and 5.2).
    const lower = names.of(name)
    if (lower === undefined) return 'bad_header'
    let from = colon + 1
    let to = end
    while (from < to && isBlank(text.charCodeAt(from))) from++
    while (to > from && isBlank(text.charCodeAt(to - 1))) to--
    const value = text.slice(from, to)
    rawHeaders.push(name, value)
    lowerNames.push(lower)
    switch (lower) {
      case 'content-length':
        if (length !== undefined) return 'bad_length'
        length = value
        break
      case 'transfer-encoding':
        if (coding !== undefined) return 'bad_transfer_coding'
        coding = value
        break
      case 'connection':
        connection = connection === undefined ? value : `${connection},${value}`
        break
      case 'keep-alive':
        keepAlive = value
        break
      default:
    }
    at = end + 2
  }
  if (length !== undefined && !LENGTH.test(length)) return 'bad_length'
  // Other codings are never asked for; with a length beside it, two readers would end the body at different places.
  if (coding !== undefined && coding.toLowerCase() !== 'chunked') return 'bad_transfer_coding'
  if (coding !== undefined && length !== undefined) return 'bad_length'

  const framing =
    bodiless || status < 200 || status === 204 || status === 304
      ? NONE
      : coding !== undefined
        ? CHUNKED
        : length !== undefined
          ? ({ kind: 'length', bytes: Number(length) } as const)
          : UNTIL_CLOSE
  const closes =
    framing.kind === 'until_close' ||
    lists(connection, 'close') ||
    (isOld && (coding !== undefined || !lists(connection, 'keep-alive')))
  return { kind: 'head', status, rawHeaders, names: lowerNames, framing, keptForMs: closes ? 0 : keptForMs(keepAlive) }
}
