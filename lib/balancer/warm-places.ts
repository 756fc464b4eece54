// Places of conversations for `balance: prompt_cache`: the backend that each went to last, where Azure's cache is warm.
// Bounded, and only a hint: without it the hash of the prompt decides, the same in every process.
import type { Clock } from '../clock.ts'

/** Conversations remembered; the least recently used is forgotten first. About 120 bytes each. */
export const MAX_PLACES = 50_000

/** Azure drops a cached prompt that was idle for 5 to 10 minutes (azure/README.md 7.4). */
const WARM_MS = 5 * 60_000

/** Other workers hear of a conversation that goes on this often: well before they would take it for cold. */
const RENEW_MS = 60_000

/** One conversation's place. */
export interface Place {
  /** The backend's `hashSeed`, which outlives reloads and rotated keys. */
  seed: number
  usedMs: number
  /** When the other workers last heard of it. */
  sharedMs: number
  /** Requests of this conversation in progress in this process. */
  inFlight: number
}

export interface WarmPlaces {
  /** The place of a conversation whose cache is still warm. It does not count as used. */
  of(key: number): Place | undefined
  /** The conversation's next request goes to this backend. */
  use(key: number, seed: number): Place
  /** Another worker sent a request of this conversation there. */
  adopt(key: number, seed: number): void
  /** What other workers should know from now on: new places, moves, and those still in use. */
  onUse(listener: (key: number, seed: number) => void): void
  size(): number
}

/**
 * @param max conversations held at most
 */
export function createWarmPlaces(clock: Clock, max: number = MAX_PLACES): WarmPlaces {
  // A Map keeps insertion order: re-inserting on use makes its first key the least recently used.
  const places = new Map<number, Place>()
  const listeners: ((key: number, seed: number) => void)[] = []

  const put = (key: number, seed: number): { readonly place: Place; readonly moved: boolean } => {
    const usedMs = clock.nowMs()
    const known = places.get(key)
    const moved = known === undefined || known.seed !== seed || usedMs - known.usedMs > WARM_MS
    const place = known ?? { seed, usedMs, sharedMs: usedMs, inFlight: 0 }
    place.seed = seed
    place.usedMs = usedMs
    places.delete(key)
    places.set(key, place)
    if (places.size > max) {
      const oldest = places.keys().next()
      if (oldest.done !== true) places.delete(oldest.value)
    }
    return { place, moved }
  }

  return {
    of(key) {
      const place = places.get(key)
      return place !== undefined && clock.nowMs() - place.usedMs <= WARM_MS ? place : undefined
    },
    use(key, seed) {
      const { place, moved } = put(key, seed)
      if (moved || place.usedMs - place.sharedMs >= RENEW_MS) {
        place.sharedMs = place.usedMs
        for (const listener of listeners) listener(key, seed)
      }
      return place
    },
    adopt(key, seed) {
      const { place } = put(key, seed)
      place.sharedMs = place.usedMs
    },
    onUse(listener) {
      listeners.push(listener)
    },
    size: () => places.size,
  }
}
