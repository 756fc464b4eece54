// One worker's news to the others and theirs to it: health of deployments and operations that they do not offer, owner
// and maker of stored responses, backends at which conversations are warm. Health travels as whole states with a
// version: a message lost, late or doubled changes nothing in the end.
import type { BackendHealth } from '../balancer/health.ts'
import type { SharedState } from '../runtime.ts'
import type { StateUpdate } from './messages.ts'

/** News is sent together: one message for what a few hundredths of a second brought. */
const BATCH_MS = 20
/** News waiting to be sent; what is beyond is found out by the others themselves. */
const MAX_WAITING = 10_000

export interface Sharing {
  /** Applies what other processes learnt. */
  applyUpdates(items: readonly StateUpdate[]): void
}

type Parts = Pick<SharedState, 'clock' | 'health' | 'owners' | 'warmPlaces' | 'unsupported'>

/** Applies one piece of another process's news. */
function createTaker({ clock, health, owners, warmPlaces, unsupported }: Parts): (item: StateUpdate) => void {
  const takeLack = ({ wrong, times, untilEpochMs, ...lack }: StateUpdate & { readonly kind: 'lack' }): void => {
    const { deployment, what, apiVersion } = lack
    const untilMs = clock.nowMs() + untilEpochMs - clock.epochMs()
    unsupported.adopt({ deployment, what, apiVersion }, { wrong, times, untilMs })
  }
  return item => {
    if (item.kind === 'health') health.adopt([item.state])
    else if (item.kind === 'lack') takeLack(item)
    else if (item.kind === 'place') warmPlaces.adopt(item.key, item.seed)
    else if (item.resourceId === null) owners.forget(item.id)
    else owners.learn(item.id, item.resourceId, item.maker ?? undefined)
  }
}

/**
 * @param send gives a batch to the other processes
 */
export function replicateState(parts: Parts, send: (items: readonly StateUpdate[]) => void): Sharing {
  const { clock, health: healthRegistry, owners, warmPlaces, unsupported } = parts
  let waiting: StateUpdate[] = []
  let changed = new Set<BackendHealth>()
  /** An operator's last word on a deployment that was sent. */
  const words = new WeakMap<BackendHealth, number>()
  let taking = false
  let scheduled = false

  const schedule = (): void => {
    if (scheduled) return
    scheduled = true
    clock.after(BATCH_MS, () => {
      scheduled = false
      // A deployment's state once a batch, as it is now.
      const states = [...changed].flatMap(health => healthRegistry.snapshot(health))
      const batch = [...states.map((state): StateUpdate => ({ kind: 'health', state })), ...waiting]
      changed = new Set()
      waiting = []
      send(batch)
    })
  }

  healthRegistry.onVersion(health => {
    const { hand } = health.state
    const isWord = hand !== (words.get(health) ?? 0)
    words.set(health, hand)
    if (isWord) {
      // An operator's word is confirmed already: it must not be lost with this process.
      changed.delete(health)
      send(healthRegistry.snapshot(health).map((state): StateUpdate => ({ kind: 'health', state })))
      return
    }
    changed.add(health)
    schedule()
  })
  owners.onLearn((id, owned) => {
    // What was just taken over from another is no news.
    if (taking || waiting.length >= MAX_WAITING) return
    waiting.push({ kind: 'owner', id, resourceId: owned?.resourceId ?? null, maker: owned?.maker ?? null })
    schedule()
  })

  warmPlaces.onUse((key, seed) => {
    if (waiting.length >= MAX_WAITING) return
    waiting.push({ kind: 'place', key, seed })
    schedule()
  })

  unsupported.onChange(({ forMs, ...lack }) => {
    if (waiting.length >= MAX_WAITING) return
    waiting.push({ kind: 'lack', ...lack, untilEpochMs: clock.epochMs() + forMs })
    schedule()
  })

  const takeOne = createTaker(parts)

  return {
    applyUpdates(items) {
      taking = true
      try {
        for (const item of items) takeOne(item)
      } finally {
        taking = false
      }
    },
  }
}
