// A worker's questions to its primary. Limits of client keys are counted there, so that they hold for all workers
// together. Figures are gathered there, so that every worker can report the whole.

import type { KeyLimiter } from '../balancer/key-limits.ts'
import type { Clock, Timer } from '../clock.ts'
import type { PrimaryCall, PrimaryResult, ProcessState } from './messages.ts'

export interface Peers {
  /** The states of all processes, ended ones' counters included; undefined: the primary does not answer. */
  askAll(): Promise<readonly ProcessState[] | undefined>
  readonly keyLimiter: KeyLimiter
  /** Takes the primary's answer. */
  onReply(reply: PrimaryResult): void
}

/** A primary that does not answer within this is gone or stuck. */
export const PATIENCE_MS = 2_000
/** Where the primary does not answer, a client comes back after this. */
const UNSURE_WAIT_MS = 1_000

/**
 * @param ask sends to the primary
 */
export function createPeers(clock: Clock, ask: (question: PrimaryCall) => void): Peers {
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
      const reply = await put(question => ({ kind: 'gather', question }))
      return reply?.kind === 'gathered' ? reply.states : undefined
    },
    keyLimiter: {
      async admit(name, limits, tokens) {
        const reply = await put(question => ({
          kind: 'admit',
          question,
          name,
          limits,
          tokens,
          askedEpochMs: clock.epochMs(),
        }))
        return reply?.kind === 'admission' ? reply.admission : { kind: 'unknown', waitMs: UNSURE_WAIT_MS }
      },
      settle: (ticket, tokens, cost = 0) => ask({ kind: 'settle', ticket, tokens: tokens ?? null, cost }),
      cancel: ticket => ask({ kind: 'cancel', ticket }),
      async used(names) {
        const reply = await put(question => ({ kind: 'used', question, names }))
        return reply?.kind === 'used' ? reply.used : undefined
      },
    },
    onReply(reply) {
      const pending = waiting.get(reply.question)
      if (pending === undefined) {
        // Nobody waits any more: the request was refused. Its place goes back, or the key would be locked out for good.
        if (reply.kind === 'admission' && reply.admission.kind === 'admitted') {
          ask({ kind: 'cancel', ticket: reply.admission.ticket })
        }
        return
      }
      waiting.delete(reply.question)
      pending.timer.cancel()
      pending.resolve(reply)
    },
  }
}
