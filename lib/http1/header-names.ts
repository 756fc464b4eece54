// Facts of a header's name, remembered. The same few dozen names come with every message, and mostly in the same order.
// To find one again costs less than lower case and a look into several lists; to compare it with the one expected, less
// than its hash.

interface Remembered<T> {
  readonly name: string
  readonly about: T
  /** The name that came behind it the last time. */
  next: Remembered<T> | undefined
}

/** Names remembered; a peer that invents new ones makes it begin anew, and costs itself the gain. */
const MAX_NAMES = 1_000
/** A longer name is looked at each time: what is remembered must not keep a peer's kilobytes. */
const MAX_NAME_CHARS = 64

const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/

/** A memory of names and what is known of them. */
export class NameMemory<T> {
  private readonly look: (lowerCase: string) => T
  private readonly known = new Map<string, Remembered<T>>()
  /** The last name that came, in whatever message. */
  private last: Remembered<T> | undefined

  /** @param look what there is to know of a name, given in lower case; pure */
  constructor(look: (lowerCase: string) => T) {
    this.look = look
  }

  /** What is known of a name; undefined for what is no name at all (RFC 9110 section 5.6.2, token). */
  of(name: string): T | undefined {
    const guess = this.last?.next
    if (guess !== undefined && guess.name === name) {
      this.last = guess
      return guess.about
    }
    const found = this.known.get(name)
    if (found !== undefined) return this.follow(found).about
    if (!TOKEN.test(name)) return undefined
    return name.length > MAX_NAME_CHARS ? this.look(name.toLowerCase()) : this.follow(this.learn(name)).about
  }

  private follow(name: Remembered<T>): Remembered<T> {
    if (this.last !== undefined) this.last.next = name
    this.last = name
    return name
  }

  private learn(name: string): Remembered<T> {
    if (this.known.size >= MAX_NAMES) {
      this.known.clear()
      this.last = undefined
    }
    // A copy, and what is known of the copy: a name is a slice of a whole head, and would keep that head. Making it
    // lower case makes no new one where it is so already.
    const copy = Buffer.from(name, 'latin1').toString('latin1')
    const remembered = { name: copy, about: this.look(copy.toLowerCase()), next: undefined }
    this.known.set(copy, remembered)
    return remembered
  }
}

/** Names in lower case. */
export type LowerCaseNames = NameMemory<string>

/** A memory of names in lower case. */
export function createLowerCaseNames(): LowerCaseNames {
  return new NameMemory(lowerCase => lowerCase)
}
