// One process among several: what it asks the others for. Limits of client keys are counted in the primary, so that they hold
// for all processes together; figures are gathered from all, so that whichever is asked answers for the whole.

import type { Admission, KeyLimiter } from '../balancer/key-limits.ts'
import type { Clock, Timer } from '../clock.ts'
import type { ClientKeyLimits } from '../config/types.ts'

/** What a worker asks its primary, beside what supervisor.ts lists. */
export type PrimaryCall =
  | { readonly kind: 'count'; readonly question: number }
  | {
      readonly kind: 'admit'
      readonly question: number
      readonly name: string
      readonly limits: ClientKeyLimits
      readonly tokens: number
    }
  | { readonly kind: 'settle'; readonly ticket: number; readonly tokens: number | null }

export type PrimaryResult =
  | { readonly kind: 'counts'; readonly question: number; readonly states: readonly unknown[] }
  | { readonly kind: 'admission'; readonly question: number; readonly admission: Admission }

export interface Peers {
  /** The states of all processes, this one's among them; fewer when some do not answer in time. */
  askAll(): Promise<readonly unknown[]>
  readonly keyLimiter: KeyLimiter
  /** Takes what the primary answered. */
  onReply(reply: PrimaryResult): void
}

/** A primary that does not answer within this is gone or stuck; the question is then answered without it. */
const PATIENCE_MS = 2_000
/** When the primary does not say, a client comes back after this. */
const UNSURE_WAIT_MS = 1_000

/**
 * @param ask sends to the primary
 * @param own this process's own state, for when nobody answers
 */
export function createPeers(clock: Clock, ask: (question: PrimaryCall) => void, own: () => unknown): Peers {
  const waiting = new Map<
    number,
    { readonly resolve: (reply: PrimaryResult | undefined) => void; readonly timer: Timer }
  >()
  let next = 1

  const put = (make: (question: number) => PrimaryCall): Promise<PrimaryResult | undefined> =>
    new Promise(resolve => {
      const question = next++
      const timer = clock.after(PATIENCE_MS, () => {
        waiting.delete(question)
        resolve(undefined)
      })
      waiting.set(question, { resolve, timer })
      ask(make(question))
    })

  return {
    async askAll() {
      const reply = await put(question => ({ kind: 'count', question }))
      return reply?.kind === 'counts' && reply.states.length > 0 ? reply.states : [own()]
    },
    keyLimiter: {
      async admit(name, limits, tokens) {
        const reply = await put(question => ({ kind: 'admit', question, name, limits, tokens }))
        if (reply?.kind === 'admission') return reply.admission
        return { kind: 'limited', limit: 'concurrent', max: 0, remaining: 0, waitMs: UNSURE_WAIT_MS }
      },
      settle: (ticket, tokens) => ask({ kind: 'settle', ticket, tokens: tokens ?? null }),
    },
    onReply(reply) {
      const pending = waiting.get(reply.question)
      if (pending === undefined) return
      waiting.delete(reply.question)
      pending.timer.cancel()
      pending.resolve(reply)
    },
  }
}
