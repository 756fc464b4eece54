// Finds top-level members of a JSON object in a list of chunks, in one pass over the bytes: no join, no decoding of
// what nobody asked for, no JSON.parse of a body that may be megabytes. It validates the structure on the way, so that
// a body that is no JSON object is refused here and not by a backend. It must not know what a model or a deployment is,
// nor change a byte: edit.ts does that.
//
// Where it is more lenient than JSON.parse, on purpose:
// - a UTF-8 byte order mark in front is skipped. RFC 8259 (8.1) lets a parser ignore one; nothing documents what Azure
//   does with it, and the body goes on as it came, so the upstream decides;
// - in strings that nobody wants (all but wanted names and their captured values), control characters, unknown escapes
//   and bytes that are not UTF-8 go unnoticed: looking at each byte of a base64 image would cost 100 times the skip.
//   The end of a string does not depend on them.
// Where it is stricter: the top level must be an object, nested no deeper than MAX_DEPTH, with at most MAX_MEMBERS
// wanted members.

import {
  AFTER_ELEMENT,
  AFTER_MEMBER,
  BAD,
  BEGIN_SCALAR,
  CLOSE,
  COLON,
  DONE,
  END_NUMBER,
  FAILED,
  FIRST_ACTION,
  FIRST_KEY,
  FIRST_VALUE,
  faultOf,
  IN_STRING,
  KEY,
  OPEN_ARRAY,
  OPEN_OBJECT,
  SCALAR_KIND,
  SCALAR_STATE,
  START,
  STEP,
  STRING,
} from './json-grammar.ts'
import { closingQuote, decodeString } from './json-string.ts'

/** Brackets open at once; more is refused. It bounds the stack, which holds one small number a level. */
export const MAX_DEPTH = 4096

/** Bytes between the quotes of a wanted string whose text is given; of longer ones only the place is given. */
export const MAX_CAPTURE_BYTES = 4096

/** Wanted members, duplicates included; a body that repeats `model` more often than so is an attack, not a client. */
export const MAX_MEMBERS = 256

// A UTF-16 unit of a name takes at most 6 bytes in JSON: "m" may be written \u006d.
const MAX_BYTES_PER_UNIT = 6

const BACKSLASH = 0x5c

/** What a value is, by its first byte. */
export type JsonKind = 'string' | 'number' | 'object' | 'array' | 'true' | 'false' | 'null'

/**
 * One wanted top-level member. `start` and `end` are the absolute byte offsets of its value, quotes included, `end` not
 * included. `text` is the decoded string of a string value of at most MAX_CAPTURE_BYTES, else undefined.
 */
export interface JsonMember {
  readonly name: string
  readonly start: number
  readonly end: number
  readonly kind: JsonKind
  readonly text: string | undefined
}

/** An object that was read to its end. `objectStart` is the offset just after its opening brace. */
export interface ScannedObject {
  readonly kind: 'ok'
  /** Every occurrence of a wanted name, in the order of the bytes: JSON allows duplicates, and the last one counts. */
  readonly members: readonly JsonMember[]
  readonly objectStart: number
  /** The object has no member at all: what is inserted needs no comma. */
  readonly empty: boolean
}

/** `offset` is the byte at which the text stopped being JSON; `reason` is for people and quotes nothing of the body. */
export type ScanResult = ScannedObject | { readonly kind: 'invalid'; readonly reason: string; readonly offset: number }

/** A scan that is fed as the bytes come. */
export interface JsonScanner {
  /** Takes the next bytes; they are not kept and may not be changed meanwhile. After a fault they are ignored. */
  push(chunk: Buffer): void
  /** Gives the verdict once all bytes were pushed; a text that stops early is invalid. */
  end(): ScanResult
  /** The wanted members whose value is complete so far: the model is often known long before the body has ended. */
  readonly members: readonly JsonMember[]
}

interface Scan {
  readonly wanted: ReadonlySet<string>
  readonly names: readonly string[]
  /** Keys with more bytes than this between their quotes cannot be wanted. */
  readonly maxKeyBytes: number
  readonly members: JsonMember[]
  /** For each open bracket: the state to go on with in what surrounds it. */
  readonly surrounding: number[]
  state: number
  /** The state after a value in the innermost open bracket. */
  afterValue: number
  /** The offset of the next chunk's first byte. */
  base: number
  objectStart: number
  empty: boolean
  /** The wanted name of the top-level member being read, its value's start and its kind. */
  name: string | undefined
  valueStart: number
  valueKind: JsonKind
  /**
   * Of a string that goes on in the next chunk: is it a key, does its text matter, did the chunk end after a backslash.
   */
  inKey: boolean
  capturing: boolean
  escaped: boolean
  /** What earlier chunks held of such a string. */
  carry: Buffer | undefined
  carried: number
  failure: { readonly reason: string; readonly offset: number } | undefined
}

/** Makes resumable scans for the top-level members called as one of `wanted` (decoded names). Errors: none thrown. */
export function jsonScannerFor(wanted: ReadonlySet<string>): () => JsonScanner {
  const prepared = prepare(wanted)
  return () => {
    const scan = newScan(prepared)
    return { push: chunk => advance(scan, chunk), end: () => finish(scan), members: scan.members }
  }
}

/** The scan of a body that is there as a whole, in as many chunks as it came in. */
export function scanJson(chunks: readonly Buffer[], wanted: ReadonlySet<string>): ScanResult {
  const scan = newScan(prepare(wanted))
  for (const chunk of chunks) advance(scan, chunk)
  return finish(scan)
}

type Prepared = Pick<Scan, 'wanted' | 'names' | 'maxKeyBytes'>

function prepare(wanted: ReadonlySet<string>): Prepared {
  const names = [...wanted]
  const longest = names.reduce((length, name) => Math.max(length, name.length), 0)
  return { wanted, names, maxKeyBytes: longest * MAX_BYTES_PER_UNIT }
}

function newScan({ wanted, names, maxKeyBytes }: Prepared): Scan {
  return {
    wanted,
    names,
    maxKeyBytes,
    members: [],
    surrounding: [],
    state: START,
    afterValue: DONE,
    base: 0,
    objectStart: 0,
    empty: true,
    name: undefined,
    valueStart: 0,
    valueKind: 'null',
    inKey: false,
    capturing: false,
    escaped: false,
    carry: undefined,
    carried: 0,
    failure: undefined,
  }
}

function finish(scan: Scan): ScanResult {
  if (scan.failure !== undefined) return { kind: 'invalid', ...scan.failure }
  if (scan.state !== DONE) {
    const reason = scan.base === 0 ? 'the text is empty' : 'the text ends before the object does'
    return { kind: 'invalid', reason, offset: scan.base }
  }
  return { kind: 'ok', members: scan.members, objectStart: scan.objectStart, empty: scan.empty }
}

// The whole hot path. The fields it changes at every byte live in locals and are written back at the end.
function advance(scan: Scan, chunk: Buffer): void {
  const length = chunk.length
  if (length === 0 || scan.state === FAILED) return
  const surrounding = scan.surrounding
  let at = 0
  if (scan.state === IN_STRING) {
    at = closingQuote(chunk, scan.escaped ? 1 : 0)
    if (at >= length) {
      suspendString(scan, chunk, 0, at)
      return
    }
    endString(scan, chunk, 0, at)
    if (scan.failure !== undefined) return
    at++
  }
  const table = STEP
  let state = scan.state
  let afterValue = scan.afterValue
  let depth = surrounding.length
  while (at < length) {
    const byte = chunk[at] as number
    const step = table[(state << 8) | byte] as number
    if (step < FIRST_ACTION) {
      state = step
      at++
      continue
    }
    if (step === STRING) {
      const from = at + 1
      at = closingQuote(chunk, from)
      const inKey = state === KEY || state === FIRST_KEY
      if (depth > 1 && at < length) {
        state = inKey ? COLON : afterValue
        at++
        continue
      }
      scan.afterValue = afterValue
      scan.inKey = inKey
      scan.capturing = depth === 1 && (inKey || scan.name !== undefined)
      if (!inKey && depth === 1) beginValue(scan, from - 1, 'string')
      if (at >= length) {
        suspendString(scan, chunk, from, at)
        return
      }
      endString(scan, chunk, from, at)
      if (scan.failure !== undefined) return
      state = scan.state
      at++
      continue
    }
    if (step === BEGIN_SCALAR) {
      if (depth === 1) beginValue(scan, at, SCALAR_KIND[byte] ?? 'number')
      state = SCALAR_STATE[byte] as number
      at++
      continue
    }
    if (step === OPEN_OBJECT || step === OPEN_ARRAY) {
      if (depth === MAX_DEPTH) {
        fail(scan, `nested deeper than ${MAX_DEPTH} levels`, at)
        return
      }
      if (depth === 1) beginValue(scan, at, step === OPEN_OBJECT ? 'object' : 'array')
      else if (depth === 0) scan.objectStart = scan.base + at + 1
      surrounding.push(afterValue)
      depth++
      afterValue = step === OPEN_OBJECT ? AFTER_MEMBER : AFTER_ELEMENT
      state = step === OPEN_OBJECT ? FIRST_KEY : FIRST_VALUE
      at++
      continue
    }
    if (step === BAD) {
      fail(scan, faultOf(state), at)
      return
    }
    // A value other than a string has ended. The byte that ends a number belongs to what follows: it is looked at
    // again.
    if (step === CLOSE) {
      afterValue = surrounding.pop() as number
      depth--
    }
    if (step !== END_NUMBER) at++
    state = afterValue
    if (depth === 1) {
      endValue(scan, at, undefined)
      if (scan.failure !== undefined) return
    }
  }
  scan.state = state
  scan.afterValue = afterValue
  scan.base += length
}

// The chunk ended inside a string: keeps what is needed of it, within the caps, and waits for more.
function suspendString(scan: Scan, chunk: Buffer, from: number, end: number): void {
  scan.state = IN_STRING
  scan.escaped = end > chunk.length
  if (scan.capturing) keep(scan, chunk, from, chunk.length)
  scan.base += chunk.length
}

function keep(scan: Scan, chunk: Buffer, from: number, to: number): void {
  const limit = scan.inKey ? scan.maxKeyBytes : MAX_CAPTURE_BYTES
  if (scan.carried + to - from > limit) {
    scan.capturing = false
    return
  }
  scan.carry ??= Buffer.allocUnsafe(Math.max(MAX_CAPTURE_BYTES, scan.maxKeyBytes))
  scan.carried += chunk.copy(scan.carry, scan.carried, from, to)
}

// A string that matters, or that came in several chunks, has ended at its quote `end`.
function endString(scan: Scan, chunk: Buffer, from: number, end: number): void {
  let bytes = chunk
  let first = from
  let last = end
  if (scan.carried > 0) {
    if (scan.capturing) keep(scan, chunk, from, end)
    bytes = scan.carry ?? chunk
    first = 0
    last = scan.carried
    scan.carried = 0
  }
  if (scan.inKey) {
    scan.state = COLON
    if (scan.surrounding.length !== 1) return
    scan.empty = false
    const fits = scan.capturing && last - first <= scan.maxKeyBytes
    const name = fits ? wantedName(scan, bytes, first, last) : undefined
    if (name === null) fail(scan, 'a name holds a character or an escape that JSON does not allow', end)
    else scan.name = name
    return
  }
  scan.state = scan.afterValue
  if (scan.surrounding.length !== 1 || scan.name === undefined) return
  const text = scan.capturing && last - first <= MAX_CAPTURE_BYTES ? decodeString(bytes, first, last) : undefined
  if (text === null) fail(scan, 'a string holds a character or an escape that JSON does not allow', end)
  else endValue(scan, end + 1, text)
}

/** The wanted name that a key spells, undefined for any other key, null for one that is no JSON string. */
function wantedName(scan: Scan, bytes: Buffer, from: number, to: number): string | undefined | null {
  const length = to - from
  for (const name of scan.names) {
    if (name.length !== length) continue
    let same = 0
    while (same < length && bytes[from + same] === name.charCodeAt(same)) same++
    if (same === length) return name
  }
  for (let at = from; at < to; at++) {
    const byte = bytes[at] as number
    if (byte !== BACKSLASH && byte >= 0x20 && byte < 0x80) continue
    const text = decodeString(bytes, from, to)
    return text !== null && !scan.wanted.has(text) ? undefined : text
  }
  return undefined
}

function beginValue(scan: Scan, at: number, kind: JsonKind): void {
  scan.valueStart = scan.base + at
  scan.valueKind = kind
}

function endValue(scan: Scan, at: number, text: string | undefined): void {
  const name = scan.name
  if (name === undefined) return
  if (scan.members.length === MAX_MEMBERS) fail(scan, `more than ${MAX_MEMBERS} members of the same names`, at)
  else scan.members.push({ name, start: scan.valueStart, end: scan.base + at, kind: scan.valueKind, text })
}

function fail(scan: Scan, reason: string, at: number): void {
  scan.failure = { reason, offset: scan.base + at }
  scan.state = FAILED
}
