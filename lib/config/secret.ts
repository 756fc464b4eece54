// A string that shows itself to nobody who prints, joins, inspects or serializes it by accident.

import { createHash } from 'node:crypto'
import { inspect } from 'node:util'

const SHOWN = '[secret]'

/** Holds one secret text. Only `reveal()` gives it out; every implicit conversion gives `[secret]`. */
export class Secret {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  /** The text itself, for the one place that puts it on the wire. */
  reveal(): string {
    return this.#text
  }

  /** Whether both hold the same text; for "changed" in a reload's log, not for checking what a client sent. */
  equals(other: Secret): boolean {
    return this.#text === other.#text
  }

  toString(): string {
    return SHOWN
  }

  toJSON(): string {
    return SHOWN
  }

  [inspect.custom](): string {
    return SHOWN
  }
}

// The digest under which client keys are kept and compared; knows nothing of where a key came from.

/** Bytes of a SHA-256 digest. */
export const SHA256_BYTES = 32

/** A key as a header holds it: without the blanks around it, and each of its bytes in UTF-8 as one character. */
export function headerKey(key: string): string {
  return Buffer.from(key.trim(), 'utf8').toString('latin1')
}

/** SHA-256 of the text's UTF-8 bytes: 32 bytes, what `auth.keys[].key_sha256` spells in hex. */
export function sha256(text: string): Buffer {
  return createHash('sha256').update(text, 'utf8').digest()
}
