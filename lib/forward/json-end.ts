// The end of JSON that ends with its connection: has it come whole? Such a body has no length to check. Over TLS its
// end should be announced (RFC 9112 section 9.8), but node:tls does not report whether a close_notify came. Brackets
// and quotes of JSON do: each that opens is closed.
import type { ResponseHead } from '../http1/send.ts'
import { isEncoded, type ResponseValues } from './headers.ts'

const QUOTE = 0x22
const BACKSLASH = 0x5c
// `[` and `{`, `]` and `}` differ in one bit.
const CASE_BIT = 0x20
const OPEN = 0x7b
const CLOSE = 0x7d

/** Sees a body as it passes. */
export interface JsonEnd {
  push(chunk: Buffer): void
  /** Every object, array and string that began has ended; so have none at all. */
  isWhole(): boolean
}

/**
 * For a body that may end early unnoticed; undefined where its framing says whether it is whole, or where it is no
 * JSON.
 */
export function jsonEndFor({ framing }: ResponseHead, values: ResponseValues): JsonEnd | undefined {
  if (framing.kind !== 'until_close' || isEncoded(values) || !/\bjson\b/i.test(values['content-type'] ?? ''))
    return undefined
  let depth = 0
  let inString = false
  let escaped = false
  const take = (byte: number): void => {
    if (escaped) escaped = false
    else if (inString) {
      escaped = byte === BACKSLASH
      inString = byte !== QUOTE
    } else if (byte === QUOTE) inString = true
    else if ((byte | CASE_BIT) === OPEN) depth++
    else if ((byte | CASE_BIT) === CLOSE) depth--
  }
  return {
    push(chunk) {
      for (const byte of chunk) take(byte)
    },
    isWhole: () => depth === 0 && !inString,
  }
}
