// What the workers have shared, kept in the primary for a worker that starts later: the latest of each. It understands no update
// beyond its name, its version and its age.
import type { Clock } from '../clock.ts'
import type { StateUpdate } from './messages.ts'

/** Backends remembered: a config names them, so this holds only where reloads go on bringing others. */
const MAX_BACKENDS = 10_000
/** Owners remembered, as many as each worker does (balancer/owners.ts). */
const MAX_OWNERS = 50_000

type HealthUpdate = StateUpdate & { readonly kind: 'health' }
type OwnerUpdate = StateUpdate & { readonly kind: 'owner' }

export interface SharedMemory {
  take(items: readonly StateUpdate[]): void
  /** All of it, aged by the time it has lain here. */
  snapshot(): readonly StateUpdate[]
}

/** Whether an update is newer than the one known. The same order in every process, so that all end alike. */
export function isNewer(
  update: Pick<HealthUpdate, 'version' | 'by'>,
  known: Pick<HealthUpdate, 'version' | 'by'> | undefined,
): boolean {
  if (known === undefined) return true
  return update.version > known.version || (update.version === known.version && update.by > known.by)
}

/** Puts an entry last; the one used longest ago goes. */
function put<V>(map: Map<string, V>, id: string, value: V, max: number): void {
  map.delete(id)
  map.set(id, value)
  if (map.size <= max) return
  const oldest = map.keys().next()
  if (oldest.done !== true) map.delete(oldest.value)
}

export function createSharedMemory(clock: Clock): SharedMemory {
  const health = new Map<string, { readonly update: HealthUpdate; readonly atMs: number }>()
  const owners = new Map<string, OwnerUpdate>()
  return {
    take(items) {
      for (const update of items) {
        if (update.kind === 'health') {
          if (isNewer(update, health.get(update.id)?.update)) {
            put(health, update.id, { update, atMs: clock.nowMs() }, MAX_BACKENDS)
          }
        } else if (update.resourceId === null) owners.delete(update.id)
        else {
          // A worker that found it by asking the resources does not know its maker.
          const maker = owners.get(update.id)?.maker ?? update.maker
          put(owners, update.id, { ...update, maker }, MAX_OWNERS)
        }
      }
    },
    snapshot() {
      const nowMs = clock.nowMs()
      const aged = [...health.values()].map(({ update, atMs }) => ({ ...update, agoMs: update.agoMs + nowMs - atMs }))
      return [...aged, ...owners.values()]
    },
  }
}
