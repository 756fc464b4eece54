// The places of a JSON array's elements, by a walk over its bytes that skips strings. So the items of a request's
// `input` are looked at one by one, or left out, without parsing a body that may be megabytes.
import type { ByteRange } from './chunk-list.ts'
import { closingQuote } from './json-string.ts'

const QUOTE = 0x22
const COMMA = 0x2c
const OPEN_ARRAY = 0x5b
const CLOSE_ARRAY = 0x5d
const OPEN_OBJECT = 0x7b
const CLOSE_OBJECT = 0x7d

/**
 * The elements of the array that `bytes` is, blanks around them included; of one with more than `max` elements the
 * first ones.
 * @param bytes valid JSON from `[` to `]`: json-scan.ts has seen to it before
 */
export function arrayElements(bytes: Buffer, max: number): readonly ByteRange[] {
  const elements: ByteRange[] = []
  let depth = 0
  let start = 1
  for (let at = 0; at < bytes.length && elements.length < max; at++) {
    const byte = bytes[at]
    if (byte === QUOTE) at = closingQuote(bytes, at + 1)
    else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) depth++
    else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) {
      depth--
      if (depth === 0 && bytes.toString('latin1', start, at).trim() !== '') elements.push({ start, end: at })
    } else if (byte === COMMA && depth === 1) {
      elements.push({ start, end: at })
      start = at + 1
    }
  }
  return elements
}

/**
 * The ranges to take out of the array so that the named elements are gone with one of their commas each.
 * @param elements all of the array's, as arrayElements gives them
 * @param gone indexes into `elements`, ascending
 */
export function withoutElements(elements: readonly ByteRange[], gone: ReadonlySet<number>): readonly ByteRange[] {
  const ranges: ByteRange[] = []
  const lastKept = elements.findLastIndex((_, index) => !gone.has(index))
  for (const [index, { start, end }] of elements.entries()) {
    if (!gone.has(index)) continue
    // The comma behind it, or, where nothing follows that stays, the one in front.
    if (index < lastKept) ranges.push({ start, end: end + 1 })
    else ranges.push({ start: index > 0 ? start - 1 : start, end })
  }
  return ranges
}
