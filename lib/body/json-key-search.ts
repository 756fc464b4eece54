// Finds one key's string values at any depth of a JSON text, by a search for the key's bytes, not a walk over the
// structure. For keys that are rare and far apart in bodies that may be megabytes (the `encrypted_content` of reasoning
// items). The text must be valid JSON: json-scan.ts has seen to it before.
import { type ByteRange, viewBytes } from './chunk-list.ts'
import { closingQuote } from './json-string.ts'

const TAB = 0x09
const LINE_FEED = 0x0a
const CARRIAGE_RETURN = 0x0d
const SPACE = 0x20
const QUOTE = 0x22
const COLON = 0x3a
const BACKSLASH = 0x5c

/** A byte of a chunk list: the chunk's index, and the index within it. */
interface Place {
  chunk: number
  at: number
}

/**
 * The places of the string values of the members called `keyName`, in order. A place is the bytes between the quotes,
 * escapes as they are: a caller can hash them chunk by chunk (viewBytes). At most `maxFound` of them, in the `maxBytes`
 * bytes from `start` (0 if left out) on; a value that goes on beyond is left out. Not found are keys spelt with
 * escapes: no client writes them, and what is looked for here only makes a better first guess.
 *
 * Bytes that look like the key may also stand inside a string: then one of the quotes around them is escaped. Or they
 * are a string value: then no colon follows.
 */
export function findStringsOfKey(
  chunks: readonly Buffer[],
  keyName: string,
  maxFound: number,
  maxBytes: number,
  start = 0,
): readonly ByteRange[] {
  const key = Buffer.from(JSON.stringify(keyName))
  const part = viewBytes(chunks, start, start + maxBytes)
  const bases: number[] = []
  let base = start
  for (const chunk of part) {
    bases.push(base)
    base += chunk.length
  }
  const found: ByteRange[] = []
  const place: Place = { chunk: 0, at: 0 }
  while (found.length < maxFound && seekKey(part, place, key)) {
    const escaped = isEscaped(part, place)
    step(part, place, key.length)
    if (escaped || !skip(part, place, COLON) || !skip(part, place, QUOTE)) continue
    const valueStart = (bases[place.chunk] ?? base) + place.at
    if (!seekClosingQuote(part, place)) break
    found.push({ start: valueStart, end: (bases[place.chunk] ?? base) + place.at })
  }
  return found
}

/**
 * Moves to the next occurrence of `key`, also one that begins in one chunk and ends in another; false: there is none.
 */
function seekKey(chunks: readonly Buffer[], place: Place, key: Buffer): boolean {
  for (let chunk = chunks[place.chunk]; chunk !== undefined; chunk = chunks[++place.chunk]) {
    let at = chunk.indexOf(key, place.at)
    if (at === -1) {
      const tail = Math.max(place.at, chunk.length - key.length + 1)
      const border = Buffer.concat([chunk.subarray(tail), ...bytesAfter(chunks, place.chunk, key.length - 1)])
      const inBorder = border.indexOf(key)
      if (inBorder !== -1) at = tail + inBorder
    }
    if (at !== -1) {
      place.at = at
      return true
    }
    place.at = 0
  }
  return false
}

function bytesAfter(chunks: readonly Buffer[], index: number, count: number): readonly Buffer[] {
  const views: Buffer[] = []
  let missing = count
  for (let next = chunks[++index]; next !== undefined && missing > 0; next = chunks[++index]) {
    views.push(next.subarray(0, missing))
    missing -= Math.min(missing, next.length)
  }
  return views
}

/** Whether an odd number of backslashes stands before the place. */
function isEscaped(chunks: readonly Buffer[], place: Place): boolean {
  let escaped = false
  let index = place.chunk
  let at = place.at
  for (let chunk = chunks[index]; chunk !== undefined; chunk = chunks[--index], at = chunk?.length ?? 0) {
    while (at > 0 && chunk[at - 1] === BACKSLASH) {
      escaped = !escaped
      at--
    }
    if (at > 0) break
  }
  return escaped
}

function step(chunks: readonly Buffer[], place: Place, count: number): void {
  place.at += count
  for (let chunk = chunks[place.chunk]; chunk !== undefined && place.at >= chunk.length; chunk = chunks[place.chunk]) {
    place.at -= chunk.length
    place.chunk++
  }
}

/** Moves over blanks and then over `byte`; false, and before what is there, when it is another. */
function skip(chunks: readonly Buffer[], place: Place, byte: number): boolean {
  for (;;) {
    const here = chunks[place.chunk]?.[place.at]
    if (here !== byte && here !== SPACE && here !== LINE_FEED && here !== CARRIAGE_RETURN && here !== TAB) return false
    step(chunks, place, 1)
    if (here === byte) return true
  }
}

/** Moves from inside a string to the quote that ends it; false: the text ends before. */
function seekClosingQuote(chunks: readonly Buffer[], place: Place): boolean {
  for (let chunk = chunks[place.chunk]; chunk !== undefined; chunk = chunks[++place.chunk]) {
    const at = closingQuote(chunk, place.at)
    if (at < chunk.length) {
      place.at = at
      return true
    }
    place.at = at - chunk.length
  }
  return false
}
