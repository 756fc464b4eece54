// The end of JSON that ends with its connection: has it come whole? Such a body has no length to check. Over TLS its
// end should be announced (RFC 9112 section 9.8), but node:tls does not report whether a close_notify came. The last
// byte of JSON does.
import type { ResponseHead } from '../http1/send.ts'
import { isEncoded, type ResponseValues } from './headers.ts'

const CLOSE_BRACE = 0x7d
const CLOSE_BRACKET = 0x5d
const BLANK = 0x20

/** Sees a body as it passes. */
export interface JsonEnd {
  push(chunk: Buffer): void
  /** What came ends as an object or an array does; so does nothing at all. */
  isWhole(): boolean
}

/**
 * For a body that may end early unnoticed; undefined where its framing says whether it is whole, or where it is no
 * JSON.
 */
export function jsonEndFor({ framing }: ResponseHead, values: ResponseValues): JsonEnd | undefined {
  if (framing.kind !== 'until_close' || isEncoded(values) || !/\bjson\b/i.test(values['content-type'] ?? ''))
    return undefined
  let last: number | undefined
  return {
    push(chunk) {
      let at = chunk.length - 1
      while (at >= 0 && (chunk[at] ?? 0) <= BLANK) at--
      if (at >= 0) last = chunk[at]
    },
    isWhole: () => last === undefined || last === CLOSE_BRACE || last === CLOSE_BRACKET,
  }
}
