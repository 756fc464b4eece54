// A string that shows itself to nobody who prints, joins, inspects or serializes it by accident.
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
