// Facts of a header's name, remembered. The same few dozen names come with every message. To find one again costs less
// than lower case and a look into several lists.

/** Tells what is known of a name; undefined for what is no name at all (RFC 9110 section 5.6.2, token). */
export type NameMemory<T> = (name: string) => T | undefined

/** Names remembered; a peer that invents new ones makes it begin anew, and costs itself the gain. */
const MAX_NAMES = 1_000
/** A longer name is looked at each time: what is remembered must not keep a peer's kilobytes. */
const MAX_NAME_CHARS = 64

const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/

/** A memory of its own. @param look what there is to know of a name, given in lower case; pure */
export function createNameMemory<T>(look: (lowerCase: string) => T): NameMemory<T> {
  const known = new Map<string, T>()
  return name => {
    const remembered = known.get(name)
    if (remembered !== undefined) return remembered
    if (!TOKEN.test(name)) return undefined
    if (name.length > MAX_NAME_CHARS) return look(name.toLowerCase())
    if (known.size >= MAX_NAMES) known.clear()
    // A copy, and what is known of the copy: a name is a slice of a whole head, and would keep that head. Making it
    // lower case makes no new one where it is so already.
    const copy = Buffer.from(name, 'latin1').toString('latin1')
    const found = look(copy.toLowerCase())
    known.set(copy, found)
    return found
  }
}

/** Tells names in lower case. */
export type LowerCaseName = NameMemory<string>

/** A memory of names in lower case. */
export function createLowerCaseNames(): LowerCaseName {
  return createNameMemory(lowerCase => lowerCase)
}
