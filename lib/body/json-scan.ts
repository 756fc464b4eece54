// Finds top-level members of a JSON object in a list of chunks, in one pass over the bytes. It joins nothing, decodes
// only what was asked for, and never parses a body that may be megabytes. It validates the structure on the way, so
// that a body that is no JSON object is refused here and not by a backend. It must not know what a model or a
// deployment is, nor change a byte: edit.ts does that.
//
// Where it is more lenient than JSON.parse, on purpose:
// - A UTF-8 byte order mark in front is skipped. RFC 8259 (8.1) lets a parser ignore one; nothing documents what Azure
//   does with it. The body goes on as it came, so the upstream decides.
// - Strings that nobody wants (all but wanted names and their captured values) may hold control characters, unknown
//   escapes and invalid UTF-8. To check each byte of a base64 image would cost 100 times the skip. The end of a string
//   does not depend on them.
// Where it is stricter: the top level must be an object, nested no deeper than MAX_DEPTH, with at most MAX_MEMBERS
// wanted members.

import { beginValue, endString, endValue, fail, type JsonMember, type Scan, suspendString } from './json-capture.ts'
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
import { closingQuote } from './json-string.ts'

export { type JsonKind, type JsonMember, MAX_CAPTURE_BYTES, MAX_MEMBERS } from './json-capture.ts'

/** Brackets open at once; more is refused. It bounds the stack, which holds one small number a level. */
export const MAX_DEPTH = 4096

// A UTF-16 unit of a name takes at most 6 bytes in JSON: "m" may be written \u006d.
const MAX_BYTES_PER_UNIT = 6

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
