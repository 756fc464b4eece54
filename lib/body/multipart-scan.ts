// Finds text fields in a multipart/form-data body (RFC 7578, RFC 2046) that comes in chunks, and replaces them. The
// model of an image edit or a transcription is a field, before or after megabytes of file. Files are skipped by a
// search for the delimiter; what is held is one part's headers, one wanted value and a delimiter's length of bytes. It
// must not know which fields are wanted, or why.
import { type ByteRange, type ChunkList, replaceBytes } from './chunk-list.ts'
import { parseBoundary, parsePartHeaders } from './multipart-headers.ts'

/** Bytes of one part's headers; those of real clients are about 150. */
export const MAX_PART_HEADER_BYTES = 16 * 1024

/** Bytes of a wanted field whose text is given; of longer ones only the place is given. */
export const MAX_FIELD_BYTES = 4096

/** Parts of a body. An image edit with every option and 16 images has about 30; more cost time and mean nothing. */
export const MAX_PARTS = 1000

const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const SPACE = 0x20
const DASH = 0x2d
const CRLF_BYTES = 2

/** A wanted text field: where its value lies, and what it says unless it is longer than MAX_FIELD_BYTES. */
export interface Field extends ByteRange {
  readonly name: string
  readonly text: string | undefined
}

/** A form that was read to its final boundary. */
export interface ScannedForm {
  readonly kind: 'ok'
  /** Every occurrence of a wanted name, in order. A part with a file name is a file and never among them. */
  readonly fields: readonly Field[]
  readonly boundary: string
  /** The offset of the first boundary's dashes: a part may be inserted there. */
  readonly firstPart: number
}

/** `offset` is the byte up to which the form was one; `reason` is for people and quotes nothing of the body. */
export type MultipartResult =
  | ScannedForm
  | { readonly kind: 'invalid'; readonly reason: string; readonly offset: number }

/** A scan that is fed as the bytes come. */
export interface MultipartScanner {
  /** Takes the next bytes; what is needed of them later is copied. After a fault they are ignored. */
  push(chunk: Buffer): void
  /** Gives the verdict once all bytes were pushed; without a final boundary the form is invalid. */
  end(): MultipartResult
  /** The wanted fields that are complete so far. */
  readonly fields: readonly Field[]
}

type State =
  | 'preamble'
  | 'after_boundary'
  | 'after_dash'
  | 'padding'
  | 'after_carriage_return'
  | 'headers'
  | 'body'
  | 'epilogue'
  | 'failed'

interface Scan {
  readonly boundary: string
  readonly wanted: ReadonlySet<string>
  readonly delimiter: Buffer
  readonly fields: Field[]
  state: State
  /** The offset of the current chunk's first byte. */
  base: number
  firstPart: number
  parts: number
  /** While a delimiter is searched: the last bytes before the current chunk, where one may have begun. */
  tail: Buffer
  /** Where the delimiter found last begins, its line break included. */
  delimiterStart: number
  /** Copied pieces of the headers or of the wanted value being read, and the sum of their bytes. */
  pieces: Buffer[]
  pieceBytes: number
  /** How many bytes of the CR LF CR LF that ends the headers stand right before. */
  lineBreakBytes: number
  /** The wanted name of the part being read. */
  name: string | undefined
  bodyStart: number
  failure: { readonly reason: string; readonly offset: number } | undefined
}

/** The scan of a body that is there as a whole, by its request's content type. Errors: none thrown. */
export function scanMultipart(
  chunks: readonly Buffer[],
  contentType: string,
  wanted: ReadonlySet<string>,
): MultipartResult {
  const parsed = parseBoundary(contentType)
  if (parsed.kind === 'invalid') return { ...parsed, offset: 0 }
  const scanner = createMultipartScanner(parsed.boundary, wanted)
  for (const chunk of chunks) scanner.push(chunk)
  return scanner.end()
}

/** A resumable scan for the text fields called as one of `wanted`; `boundary` comes from parseBoundary. */
export function createMultipartScanner(boundary: string, wanted: ReadonlySet<string>): MultipartScanner {
  const scan: Scan = {
    boundary,
    wanted,
    delimiter: Buffer.from(`\r\n--${boundary}`, 'latin1'),
    fields: [],
    state: 'preamble',
    base: 0,
    firstPart: 0,
    parts: 0,
    tail: Buffer.from('\r\n'),
    delimiterStart: 0,
    pieces: [],
    pieceBytes: 0,
    lineBreakBytes: 0,
    name: undefined,
    bodyStart: 0,
    failure: undefined,
  }
  return { push: chunk => advance(scan, chunk), end: () => finish(scan), fields: scan.fields }
}

/**
 * The form with the text field `name` set to `value`, which may hold no line break. The value of every occurrence is
 * replaced; without one, a part is inserted before the first. Boundaries, other parts and files stay as they are.
 * `scan` is the scan of exactly these chunks, with `name` among the wanted names.
 */
export function setField(chunks: readonly Buffer[], scan: ScannedForm, name: string, value: string): ChunkList {
  if (/[\r\n]/.test(value)) throw new Error('a form field must not hold a line break')
  const fields = scan.fields.filter(field => field.name === name)
  if (fields.length > 0) {
    const bytes = Buffer.from(value)
    return replaceBytes(
      chunks,
      fields.map(({ start, end }) => ({ start, end, bytes })),
    )
  }
  const part = `--${scan.boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`
  return replaceBytes(chunks, [{ start: scan.firstPart, end: scan.firstPart, bytes: Buffer.from(part) }])
}

function finish(scan: Scan): MultipartResult {
  if (scan.failure !== undefined) return { kind: 'invalid', ...scan.failure }
  if (scan.state === 'epilogue') {
    return { kind: 'ok', fields: scan.fields, boundary: scan.boundary, firstPart: scan.firstPart }
  }
  const reason = scan.state === 'preamble' ? 'the boundary does not occur' : 'the final boundary is missing'
  return { kind: 'invalid', reason, offset: scan.base }
}

function advance(scan: Scan, chunk: Buffer): void {
  let at = 0
  while (at < chunk.length && scan.state !== 'epilogue' && scan.state !== 'failed') {
    if (scan.state === 'preamble' || scan.state === 'body') at = readToDelimiter(scan, chunk, at)
    else if (scan.state === 'headers') at = readHeaders(scan, chunk, at)
    else readBoundaryLine(scan, chunk, at++)
  }
  scan.base += chunk.length
}

/** What precedes the first part, or the body of one; gives the index after the delimiter, or the chunk's length. */
function readToDelimiter(scan: Scan, chunk: Buffer, from: number): number {
  const found = seekDelimiter(scan, chunk, from)
  const at = found === -1 ? chunk.length : found
  if (scan.name !== undefined) {
    const room = MAX_FIELD_BYTES + scan.delimiter.length - scan.pieceBytes
    if (room > 0) keep(scan, chunk, from, Math.min(at, from + room))
  }
  if (found === -1) return at
  if (scan.state === 'preamble') scan.firstPart = scan.delimiterStart + CRLF_BYTES
  else if (scan.delimiterStart < scan.bodyStart) {
    // Its headers end in the very line break that the delimiter begins with: others take the delimiter for content.
    fail(scan, 'a part has no body', at)
    return at
  } else if (scan.name !== undefined) endField(scan, scan.name)
  scan.state = 'after_boundary'
  return at
}

function endField(scan: Scan, name: string): void {
  const start = scan.bodyStart
  const end = scan.delimiterStart
  const value = Buffer.concat(scan.pieces).subarray(0, end - start)
  scan.fields.push({ name, start, end, text: end - start > MAX_FIELD_BYTES ? undefined : value.toString('utf8') })
  scan.name = undefined
}

/**
 * The index after the next delimiter, also one that began in an earlier chunk; -1, and the tail kept: there is none.
 */
function seekDelimiter(scan: Scan, chunk: Buffer, from: number): number {
  const { tail, delimiter } = scan
  const overlap = delimiter.length - 1
  if (tail.length > 0) {
    const inBorder = Buffer.concat([tail, chunk.subarray(from, from + overlap)]).indexOf(delimiter)
    if (inBorder !== -1) {
      const start = from - tail.length + inBorder
      scan.delimiterStart = scan.base + start
      return start + delimiter.length
    }
  }
  const found = chunk.indexOf(delimiter, from)
  if (found !== -1) {
    scan.delimiterStart = scan.base + found
    return found + delimiter.length
  }
  const left = chunk.length - from
  scan.tail =
    left >= overlap
      ? Buffer.from(chunk.subarray(chunk.length - overlap))
      : Buffer.concat([tail.subarray(Math.max(0, tail.length + left - overlap)), chunk.subarray(from)])
  return -1
}

/**
 * A byte of the rest of a boundary's line: two dashes end the form; blanks may precede the line break (RFC 2046,
 * 5.1.1).
 */
function readBoundaryLine(scan: Scan, chunk: Buffer, at: number): void {
  const byte = chunk[at]
  const fresh = scan.state === 'after_boundary'
  if (scan.state === 'after_dash') {
    if (byte === DASH) scan.state = 'epilogue'
    else fail(scan, 'something follows a boundary', at)
  } else if (scan.state === 'after_carriage_return') {
    if (byte === LINE_FEED) beginHeaders(scan, at)
    else fail(scan, 'something follows a boundary', at)
  } else if (byte === CARRIAGE_RETURN) scan.state = 'after_carriage_return'
  else if (byte === SPACE || byte === TAB) scan.state = 'padding'
  else if (byte === DASH && fresh) scan.state = 'after_dash'
  else fail(scan, 'something follows a boundary', at)
}

function beginHeaders(scan: Scan, at: number): void {
  scan.parts++
  if (scan.parts > MAX_PARTS) fail(scan, `more than ${MAX_PARTS} parts`, at)
  else scan.state = 'headers'
  scan.pieces = []
  scan.pieceBytes = 0
  scan.lineBreakBytes = CRLF_BYTES
}

/** The headers of a part, up to the blank line; gives the index after it, or the chunk's length. */
function readHeaders(scan: Scan, chunk: Buffer, from: number): number {
  let at = from
  while (at < chunk.length && scan.lineBreakBytes < 2 * CRLF_BYTES) {
    const byte = chunk[at++]
    const awaited = scan.lineBreakBytes % 2 === 0 ? CARRIAGE_RETURN : LINE_FEED
    if (byte === awaited) scan.lineBreakBytes++
    else scan.lineBreakBytes = byte === CARRIAGE_RETURN ? 1 : 0
  }
  if (scan.pieceBytes + at - from > MAX_PART_HEADER_BYTES) {
    fail(scan, `the headers of a part are longer than ${MAX_PART_HEADER_BYTES} bytes`, at)
    return at
  }
  keep(scan, chunk, from, at)
  if (scan.lineBreakBytes < 2 * CRLF_BYTES) return at

  const block = Buffer.concat(scan.pieces)
  const headers = parsePartHeaders(block.subarray(0, Math.max(0, block.length - 2 * CRLF_BYTES)))
  if (headers.kind === 'invalid') {
    fail(scan, headers.reason, at)
    return at
  }
  scan.name = scan.wanted.has(headers.name) && !headers.file ? headers.name : undefined
  if (scan.name !== undefined && headers.encoded) fail(scan, 'a field has a content-transfer-encoding', at)
  else scan.state = 'body'
  scan.bodyStart = scan.base + at
  scan.tail = Buffer.from('\r\n')
  scan.pieces = []
  scan.pieceBytes = 0
  return at
}

function keep(scan: Scan, chunk: Buffer, from: number, to: number): void {
  scan.pieces.push(Buffer.from(chunk.subarray(from, to)))
  scan.pieceBytes += to - from
}

function fail(scan: Scan, reason: string, at: number): void {
  scan.failure = { reason, offset: scan.base + at }
  scan.state = 'failed'
}
