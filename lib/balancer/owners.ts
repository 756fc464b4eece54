// Which resource holds a stored response, and which made an encrypted reasoning item: a bounded memory of what was seen.
// Azure binds both to the resource (wire reference, 1.5).
import { createHash } from 'node:crypto'

/** Things remembered; the least recently used is forgotten first. About 200 bytes each. */
export const MAX_OWNERS = 50_000

export interface Owners {
  /** The resource that holds it, and it counts as used; undefined when it is not known (any more). */
  of(id: string): string | undefined
  learn(id: string, resourceId: string): void
  forget(id: string): void
  size(): number
  /** Everything learnt or forgotten from now on, to share it with other workers; undefined means forgotten. */
  onLearn(listener: (id: string, resourceId: string | undefined) => void): void
}

/**
 * @param max entries held at most
 */
export function createOwners(max: number = MAX_OWNERS): Owners {
  // A Map keeps insertion order: re-inserting on use makes its first key the least recently used.
  const owners = new Map<string, string>()
  const listeners: ((id: string, resourceId: string | undefined) => void)[] = []
  return {
    of(id) {
      const owner = owners.get(id)
      if (owner === undefined) return undefined
      owners.delete(id)
      owners.set(id, owner)
      return owner
    },
    learn(id, resourceId) {
      const known = owners.get(id)
      owners.delete(id)
      owners.set(id, resourceId)
      if (owners.size > max) {
        const oldest = owners.keys().next()
        if (oldest.done !== true) owners.delete(oldest.value)
      }
      if (known !== resourceId) for (const listener of listeners) listener(id, resourceId)
    },
    forget(id) {
      if (owners.delete(id)) for (const listener of listeners) listener(id, undefined)
    },
    size: () => owners.size,
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
