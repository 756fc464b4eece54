// A worker's questions to its primary. Limits of client keys are counted there, so that they hold for all workers
// together. Figures are gathered there, so that every worker can report the whole.

import type { KeyLimiter } from '../balancer/key-limits.ts'
import { afterRunning, type Clock, type Timer } from '../clock.ts'
import type { PrimaryCall, PrimaryResult, ProcessState } from './messages.ts'

export interface Peers {
  /** The states of all processes, ended ones' counters included; undefined: the primary does not answer. */
  askAll(): Promise<readonly ProcessState[] | undefined>
  readonly keyLimiter: KeyLimiter
  /** Takes the primary's result. */
  onResult(result: PrimaryResult): void
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
    { readonly resolve: (result: PrimaryResult | undefined) => void; readonly timer: Timer }
  >()
  let next = 1

  const put = (make: (question: number) => PrimaryCall): Promise<PrimaryResult | undefined> =>
    new Promise(resolve => {
      const question = next++
      const timer = afterRunning(clock, PATIENCE_MS, () => {
        waiting.delete(question)
        resolve(undefined)
      })
      waiting.set(question, { resolve, timer })
      ask(make(question))
    })

  return {
    async askAll() {
      const result = await put(question => ({ kind: 'gather', question }))
      return result?.kind === 'gathered' ? result.states : undefined
    },
    keyLimiter: {
      async admit(name, limits, tokens) {
        const result = await put(question => ({
          kind: 'admit',
          question,
          name,
          limits,
          tokens,
          askedEpochMs: clock.epochMs(),
        }))
        return result?.kind === 'admission' ? result.admission : { kind: 'unknown', waitMs: UNSURE_WAIT_MS }
      },
      settle: (ticket, tokens, cost = 0) => ask({ kind: 'settle', ticket, tokens: tokens ?? null, cost }),
      cancel: ticket => ask({ kind: 'cancel', ticket }),
      async used(names) {
        const result = await put(question => ({ kind: 'used', question, names }))
        return result?.kind === 'used' ? result.used : undefined
      },
    },
    onResult(result) {
      const pending = waiting.get(result.question)
      if (pending === undefined) {
        // Nobody waits any more: the request was refused. Its place goes back, or the key would be locked out for good.
        if (result.kind === 'admission' && result.admission.kind === 'admitted') {
          ask({ kind: 'cancel', ticket: result.admission.ticket })
        }
        return
      }
      waiting.delete(result.question)
      pending.timer.cancel()
      pending.resolve(result)
    },
  }
}
