// What the processes of one proxy tell each other, so that one's lesson is everyone's: who is out or throttled, who holds a
// response, what a probe said. Times travel as distances, since every process has a clock of its own.

import type { Ejection, EjectReason } from '../balancer/health.ts'
import type { ProbeVerdict } from '../balancer/probes.ts'
import type { SharedState } from '../runtime.ts'

export type StateUpdate =
  | { readonly kind: 'throttled'; readonly id: string; readonly waitMs: number }
  | {
      readonly kind: 'ejected'
      readonly id: string
      /** null: until restored by hand (JSON knows no infinity). */
      readonly forMs: number | null
      readonly agoMs: number
      readonly reason: EjectReason
      readonly detail: string
      readonly named: boolean
    }
  | { readonly kind: 'restored'; readonly id: string }
  | { readonly kind: 'owner'; readonly id: string; readonly resourceId: string | null }
  | { readonly kind: 'probed'; readonly resourceId: string; readonly verdict: ProbeVerdict; readonly agoMs: number }

/** Lessons are sent together: one message for what a few hundredths of a second brought. */
const BATCH_MS = 20
/** Lessons waiting to be sent; what is beyond is found out by the others themselves. */
const MAX_WAITING = 10_000

export interface Sharing {
  /** Takes over what another process learnt. */
  take(items: readonly StateUpdate[]): void
  /** A probe round's verdict, for those who do not probe. */
  tellProbe(resourceId: string, verdict: ProbeVerdict, askedAtMs: number): void
}

/**
 * @param send gives a batch to the other processes
 * @param onProbed applies a verdict that another process obtained
 */
export function replicateState(
  { clock, health: healthRegistry, owners }: Pick<SharedState, 'clock' | 'health' | 'owners'>,
  send: (items: readonly StateUpdate[]) => void,
  onProbed: (resourceId: string, verdict: ProbeVerdict, askedAtMs: number) => void,
): Sharing {
  let waiting: StateUpdate[] = []
  let taking = false

  const tell = (item: StateUpdate): void => {
    // What was just taken over from another is no news.
    if (taking || waiting.length >= MAX_WAITING) return
    waiting.push(item)
    if (waiting.length > 1) return
    clock.after(BATCH_MS, () => {
      const batch = waiting
      waiting = []
      send(batch)
    })
  }

  const tellEjection = (id: string, { untilMs, failedMs, reason, detail, named }: Ejection): void => {
    const forMs = Number.isFinite(untilMs) ? untilMs - clock.nowMs() : null
    tell({ kind: 'ejected', id, forMs, agoMs: clock.nowMs() - failedMs, reason, detail, named })
  }

  healthRegistry.onChange(change => {
    const { id } = change.health
    if (change.kind === 'throttled') tell({ kind: 'throttled', id, waitMs: change.waitMs })
    else if (change.kind === 'restored') tell({ kind: 'restored', id })
    else tellEjection(id, change.ejection)
  })
  owners.onLearn((id, resourceId) => tell({ kind: 'owner', id, resourceId: resourceId ?? null }))

  const takeOne = (item: StateUpdate): void => {
    const nowMs = clock.nowMs()
    switch (item.kind) {
      case 'throttled':
        healthRegistry.adopt(item.id, { throttledUntilMs: nowMs + item.waitMs })
        return
      case 'ejected': {
        const { forMs, agoMs, reason, detail, named } = item
        const untilMs = forMs === null ? Number.POSITIVE_INFINITY : nowMs + forMs
        const failedMs = nowMs - agoMs
        healthRegistry.adopt(item.id, { ejection: { sinceMs: failedMs, failedMs, untilMs, reason, detail, named } })
        return
      }
      case 'restored':
        healthRegistry.adopt(item.id, { ejection: null })
        return
      case 'owner':
        if (item.resourceId === null) owners.forget(item.id)
        else owners.learn(item.id, item.resourceId)
        return
      case 'probed':
        onProbed(item.resourceId, item.verdict, nowMs - item.agoMs)
    }
  }

  return {
    take(items) {
      taking = true
      try {
        for (const item of items) takeOne(item)
      } finally {
        taking = false
      }
    },
    tellProbe(resourceId, verdict, askedAtMs) {
      tell({ kind: 'probed', resourceId, verdict, agoMs: clock.nowMs() - askedAtMs })
    },
  }
}
