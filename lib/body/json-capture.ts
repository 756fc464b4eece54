// The state of one scan of a JSON object, and what it captures: names of members, wanted values, and strings that span
// chunks. The scan itself, json-scan.ts, steps through the bytes; it calls these functions where a string or a
// top-level value begins or ends.

import { COLON, FAILED, IN_STRING } from './json-grammar.ts'
import { decodeString } from './json-string.ts'

/** Bytes between the quotes of a wanted string whose text is given; of longer ones only the place is given. */
export const MAX_CAPTURE_BYTES = 4096

/** Wanted members, duplicates included; a body that repeats `model` more often than so is an attack, not a client. */
export const MAX_MEMBERS = 256

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

/** What a scan knows between two chunks. */
export interface Scan {
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

/** The chunk ended inside a string: keeps what is needed of it, within the caps, and waits for more. */
export function suspendString(scan: Scan, chunk: Buffer, from: number, end: number): void {
  scan.state = IN_STRING
  scan.escaped = end > chunk.length
  if (scan.capturing) keep(scan, chunk, from, chunk.length)
  scan.base += chunk.length
}

/** Copies a part of a string that is captured; one that grows beyond its cap is captured no more. */
function keep(scan: Scan, chunk: Buffer, from: number, to: number): void {
  const limit = scan.inKey ? scan.maxKeyBytes : MAX_CAPTURE_BYTES
  if (scan.carried + to - from > limit) {
    scan.capturing = false
    return
  }
  scan.carry ??= Buffer.allocUnsafe(Math.max(MAX_CAPTURE_BYTES, scan.maxKeyBytes))
  scan.carried += chunk.copy(scan.carry, scan.carried, from, to)
}

/** A string that matters, or that came in several chunks, has ended at its quote, which is byte `end` of the chunk. */
export function endString(scan: Scan, chunk: Buffer, from: number, end: number): void {
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

/** The value of a top-level member begins at byte `at` of the chunk. */
export function beginValue(scan: Scan, at: number, kind: JsonKind): void {
  scan.valueStart = scan.base + at
  scan.valueKind = kind
}

/** The value of a top-level member ended before byte `at`; `text` is what a captured string says. */
export function endValue(scan: Scan, at: number, text: string | undefined): void {
  const name = scan.name
  if (name === undefined) return
  if (scan.members.length === MAX_MEMBERS) fail(scan, `more than ${MAX_MEMBERS} members of the same names`, at)
  else scan.members.push({ name, start: scan.valueStart, end: scan.base + at, kind: scan.valueKind, text })
}

/** Ends the scan at byte `at` of the chunk: what follows is ignored. */
export function fail(scan: Scan, reason: string, at: number): void {
  scan.failure = { reason, offset: scan.base + at }
  scan.state = FAILED
}
