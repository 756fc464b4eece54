// Remembers which resource holds a stored response, which key made it, and which resource made an encrypted reasoning
// item. Bounded: what was not seen for long is forgotten. Azure binds both to the resource (azure/README.md 1.5).
import { createHash } from 'node:crypto'

/** Things remembered; the least recently used is forgotten first. About 250 bytes each. */
export const MAX_OWNERS = 50_000

const OBJECT = 'object '

/** The id under which a file, batch, vector store or container is remembered: a name space of their own. */
export function objectKey(id: string): string {
  return `${OBJECT}${id}`
}

/** What is remembered of stored state. */
export interface Owned {
  readonly resourceId: string
  /** Name of the key that made it; undefined: not known, as after a restart. */
  readonly maker: string | undefined
}

export interface Owners {
  /** The resource that holds it, and it counts as used; undefined when it is not known (any more). */
  of(id: string): string | undefined
  /** The name of the key that made it; undefined when it is not known. */
  makerOf(id: string): string | undefined
  /** Whether all that is remembered with its maker was made by this one: then nothing can be another's. */
  isOnlyMaker(name: string): boolean
  /**
   * Remembers where something is. A known maker stays: using a response does not make a key its maker. An upstream
   * response that claims the id of another key's response changes nothing.
   * @param maker given where the state was made, not where it was used
   */
  learn(id: string, resourceId: string, maker?: string): void
  forget(id: string): void
  size(): number
  /** Whether any object (objectKey) was ever learnt: where not, nobody need look for one in a body. */
  holdsObjects(): boolean
  /** Everything learnt or forgotten from now on, to share it with other workers; undefined means forgotten. */
  onLearn(listener: (id: string, owned: Owned | undefined) => void): void
}

/**
 * @param max entries held at most
 */
export function createOwners(max: number = MAX_OWNERS): Owners {
  // A Map keeps insertion order: re-inserting on use makes its first key the least recently used.
  const owners = new Map<string, Owned>()
  // Names of keys, which come from the config: a handful.
  const makers = new Set<string>()
  const listeners: ((id: string, owned: Owned | undefined) => void)[] = []
  let sawObject = false
  return {
    of(id) {
      const owned = owners.get(id)
      if (owned === undefined) return undefined
      owners.delete(id)
      owners.set(id, owned)
      return owned.resourceId
    },
    makerOf: id => owners.get(id)?.maker,
    isOnlyMaker: name => makers.size === 0 || (makers.size === 1 && makers.has(name)),
    learn(id, resourceId, maker) {
      const known = owners.get(id)
      if (known?.maker !== undefined && maker !== undefined && known.maker !== maker) return
      const isNews = known?.resourceId !== resourceId || (maker !== undefined && known.maker !== maker)
      const owned = isNews ? { resourceId, maker: known?.maker ?? maker } : known
      if (owned.maker !== undefined) makers.add(owned.maker)
      sawObject ||= id.startsWith(OBJECT)
      owners.delete(id)
      owners.set(id, owned)
      if (owners.size > max) {
        const oldest = owners.keys().next()
        if (oldest.done !== true) owners.delete(oldest.value)
      }
      if (isNews) for (const listener of listeners) listener(id, owned)
    },
    forget(id) {
      if (owners.delete(id)) for (const listener of listeners) listener(id, undefined)
    },
    size: () => owners.size,
    holdsObjects: () => sawObject,
    onLearn(listener) {
      listeners.push(listener)
    },
  }
}

/** Longer texts are no keys. */
export const MAX_KEY_CHARS = 4096

/** The id under which a realtime session's ephemeral key is remembered: its digest, never the key itself. */
export function ephemeralKeyId(secret: string): string {
  return `ek ${createHash('sha256').update(secret).digest('base64url')}`
}

/** Whether a text is an ephemeral key that a resource behind this proxy issued. */
export function isEphemeralKey(text: string, owners: Owners): boolean {
  return text.length <= MAX_KEY_CHARS && owners.of(ephemeralKeyId(text)) !== undefined
}
