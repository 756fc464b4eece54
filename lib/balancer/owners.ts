// Which resource holds a stored response, and which made an encrypted reasoning item: a bounded memory of what was seen.
// Azure binds both to the resource (wire reference, 1.5).

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
