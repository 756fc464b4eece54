// One worker's news to the others and theirs to it: which backends are out or throttled, which resource holds a response, which
// key made it. Whole standings with a version, not steps: a message lost, late or doubled changes nothing in the end.
import type { Ejection } from '../balancer/health.ts'
import type { Clock } from '../clock.ts'
import type { SharedState } from '../runtime.ts'
import type { HealthStanding, StateUpdate } from './messages.ts'
import { isNewer } from './shared-memory.ts'

/** News is sent together: one message for what a few hundredths of a second brought. */
const BATCH_MS = 20
/** News waiting to be sent; what is beyond is found out by the others themselves. */
const MAX_WAITING = 10_000

export interface Sharing {
  /** Applies what other processes learnt. */
  applyUpdates(items: readonly StateUpdate[]): void
  /** Whether a change that happens now is another process's: it has said so itself, in log and status page. */
  isApplying(): boolean
}

type HealthUpdate = StateUpdate & { readonly kind: 'health' }

function standingOf(
  { throttledUntilMs, ejection }: { readonly throttledUntilMs: number; readonly ejection: Ejection | undefined },
  nowMs: number,
): HealthStanding {
  const throttledForMs = Math.max(throttledUntilMs - nowMs, 0)
  if (ejection === undefined) return { throttledForMs, ejection: null }
  const { sinceMs, failedMs, untilMs, ...rest } = ejection
  const forMs = Number.isFinite(untilMs) ? untilMs - nowMs : null
  return {
    throttledForMs,
    ejection: { ...rest, sinceAgoMs: nowMs - sinceMs, failedAgoMs: nowMs - failedMs, forMs },
  }
}

function ejectionOf({ ejection }: HealthStanding, thenMs: number): Ejection | null {
  if (ejection === null) return null
  const { sinceAgoMs, failedAgoMs, forMs, ...rest } = ejection
  const untilMs = forMs === null ? Number.POSITIVE_INFINITY : thenMs + forMs
  return { ...rest, sinceMs: thenMs - sinceAgoMs, failedMs: thenMs - failedAgoMs, untilMs }
}

/** Items by name, sent together a moment later; a newer one of the same name replaces the older. */
function createBatch(clock: Clock, send: (items: readonly StateUpdate[]) => void) {
  const waiting = new Map<string, { readonly item: StateUpdate; readonly atMs: number }>()
  return (item: StateUpdate): void => {
    const name = `${item.kind} ${item.id}`
    if (waiting.size >= MAX_WAITING && !waiting.has(name)) return
    const isFirst = waiting.size === 0
    waiting.set(name, { item, atMs: clock.nowMs() })
    if (!isFirst) return
    clock.after(BATCH_MS, () => {
      const nowMs = clock.nowMs()
      const items = [...waiting.values()].map(({ item, atMs }) =>
        item.kind === 'health' ? { ...item, agoMs: item.agoMs + nowMs - atMs } : item,
      )
      waiting.clear()
      send(items)
    })
  }
}

/**
 * @param source names this process among those of the proxy
 * @param send gives a batch to the other processes
 */
export function replicateState(
  { clock, health: registry, owners }: Pick<SharedState, 'clock' | 'health' | 'owners'>,
  source: string,
  send: (items: readonly StateUpdate[]) => void,
): Sharing {
  const versions = new Map<string, Pick<HealthUpdate, 'version' | 'by'>>()
  const tell = createBatch(clock, send)
  let applying = false

  registry.onChange(({ health }) => {
    // What was just applied from another process is no news.
    if (applying) return
    const made = { version: (versions.get(health.id)?.version ?? 0) + 1, by: source }
    versions.set(health.id, made)
    tell({ kind: 'health', id: health.id, ...made, agoMs: 0, standing: standingOf(health, clock.nowMs()) })
  })
  owners.onLearn((id, owned) => {
    if (!applying) tell({ kind: 'owner', id, resourceId: owned?.resourceId ?? null, maker: owned?.maker ?? null })
  })

  const applyOne = (item: StateUpdate): void => {
    if (item.kind === 'owner') {
      if (item.resourceId === null) owners.forget(item.id)
      else owners.learn(item.id, item.resourceId, item.maker ?? undefined)
      return
    }
    const { id, version, by, agoMs, standing } = item
    if (!isNewer(item, versions.get(id))) return
    versions.set(id, { version, by })
    const thenMs = clock.nowMs() - agoMs
    registry.adopt(id, {
      throttledUntilMs: thenMs + standing.throttledForMs,
      ejection: ejectionOf(standing, thenMs),
    })
  }

  return {
    applyUpdates(items) {
      applying = true
      try {
        for (const item of items) applyOne(item)
      } finally {
        applying = false
      }
    },
    isApplying: () => applying,
  }
}
