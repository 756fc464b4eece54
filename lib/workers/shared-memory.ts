// Shared state of the workers, kept in the primary for a worker that starts later: the latest of each.
import { type HealthSnapshot, joinSnapshots } from '../balancer/health-snapshot.ts'
import type { StateUpdate } from './messages.ts'

/** Backends remembered: a config names them, so this holds only where reloads go on bringing others. */
const MAX_BACKENDS = 10_000
/** Owners remembered, as many as each worker does (balancer/owners.ts). */
const MAX_OWNERS = 50_000
/** Lacks remembered, as many as each worker does (balancer/unsupported.ts). */
const MAX_LACKS = 10_000
/** Places remembered, as many as each worker does (balancer/warm-places.ts). */
const MAX_PLACES = 50_000

type OwnerUpdate = StateUpdate & { readonly kind: 'owner' }
type LackUpdate = StateUpdate & { readonly kind: 'lack' }
type PlaceUpdate = StateUpdate & { readonly kind: 'place' }

export interface SharedMemory {
  take(items: readonly StateUpdate[]): void
  /** All of it. */
  snapshot(): readonly StateUpdate[]
}

/** Puts an entry last; the one used longest ago goes. */
function put<K, V>(map: Map<K, V>, id: K, value: V, max: number): void {
  map.delete(id)
  map.set(id, value)
  if (map.size <= max) return
  const oldest = map.keys().next()
  if (oldest.done !== true) map.delete(oldest.value)
}

/** Makes the primary's memory. It is bounded. */
export function createSharedMemory(): SharedMemory {
  const health = new Map<string, HealthSnapshot>()
  const owners = new Map<string, OwnerUpdate>()
  const lacks = new Map<string, LackUpdate>()
  const places = new Map<number, PlaceUpdate>()
  return {
    take(items) {
      for (const update of items) {
        if (update.kind === 'health') {
          const { state } = update
          const known = health.get(state.id)
          put(health, state.id, known === undefined ? state : joinSnapshots(known, state), MAX_BACKENDS)
        } else if (update.kind === 'lack') {
          const { deployment, what, apiVersion } = update
          put(lacks, `${deployment}\n${what}\n${apiVersion}`, update, MAX_LACKS)
        } else if (update.kind === 'place') put(places, update.key, update, MAX_PLACES)
        else if (update.resourceId === null) owners.delete(update.id)
        else {
          // A worker that found it by asking the resources does not know its maker.
          const maker = owners.get(update.id)?.maker ?? update.maker
          put(owners, update.id, { ...update, maker }, MAX_OWNERS)
        }
      }
    },
    snapshot: () => [
      ...[...health.values()].map(state => ({ kind: 'health', state }) as const),
      ...owners.values(),
      ...lacks.values(),
      ...places.values(),
    ],
  }
}
