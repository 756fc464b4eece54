// Services of the primary for its workers, besides running them. It counts the limits of keys, keeps shared state and
// counters, and passes on what one worker learns. It outlives every worker.
import { createKeyUsage } from '../balancer/key-limits.ts'
import type { UsageLedger } from '../balancer/usage-ledger.ts'
import type { Clock } from '../clock.ts'
import type { EgressChange } from '../http1/send.ts'
import { createEgressNews } from './egress-news.ts'
import { createGathering } from './gathering.ts'
import type { PrimaryCall, ProcessState, StateLine, StateUpdate, ToWorker } from './messages.ts'
import { PATIENCE_MS } from './peers.ts'
import { createSharedMemory } from './shared-memory.ts'

/** A worker's messages that are no step of its life. */
export type ServiceCall =
  | PrimaryCall
  | { readonly kind: 'share'; readonly items: readonly StateUpdate[] }
  | { readonly kind: 'egress'; readonly change: EgressChange }
  | { readonly kind: 'line'; readonly line: StateLine }
  | { readonly kind: 'counted'; readonly round: number | null; readonly state: ProcessState }

/** What the primary makes of its workers' words about the state of things. */
export interface Told {
  /** Gets each change of an outbound proxy once, whichever workers see it. */
  readonly onEgress?: (change: EgressChange) => void
  readonly onLine?: (line: StateLine) => void
}

export interface PrimaryServices {
  answer(worker: number, call: ServiceCall): void
  /** All that is known, for a worker that begins. From now on it gets the news too. */
  welcome(worker: number): readonly StateUpdate[]
  /** A worker has ended: what it had taken is given back, what it had counted stays. */
  bury(worker: number): void
  broadcast(message: ToWorker, except?: number): void
}

/**
 * @param sendTo sends to one worker
 * @param ledger the sums of the days and months of keys
 * @param told hears of changes that the log has to say: each of an outbound proxy once, and lines about other states
 */
export function createPrimaryServices(
  clock: Clock,
  sendTo: (worker: number, message: ToWorker) => void,
  ledger: UsageLedger,
  told: Told = {},
): PrimaryServices {
  const listening = new Set<number>()
  const keyUsage = createKeyUsage(clock, ledger)
  /** Admissions that each worker has not settled. */
  const tickets = new Map<number, Set<number>>()
  const memory = createSharedMemory()
  const egress = createEgressNews(change => told.onEgress?.(change))
  const gathering = createGathering({
    clock,
    workers: () => listening,
    ask: (worker, round) => sendTo(worker, { kind: 'count', round }),
  })
  const broadcast = (message: ToWorker, except?: number): void => {
    for (const worker of listening) if (worker !== except) sendTo(worker, message)
  }

  return {
    broadcast,
    answer(worker, call) {
      switch (call.kind) {
        case 'share':
          memory.take(call.items)
          return broadcast({ kind: 'share', items: call.items }, worker)
        case 'egress':
          return egress.take(worker, call.change)
        case 'line':
          return told.onLine?.(call.line)
        case 'gather':
          return gathering.gather(states => sendTo(worker, { kind: 'gathered', question: call.question, states }))
        case 'counted':
          return gathering.counted(worker, call.round, call.state)
        case 'admit': {
          const { question, name, limits, tokens, askedEpochMs } = call
          // Nobody waits for this answer any more; it would only take a place from a request that can still be served.
          if (clock.epochMs() - askedEpochMs >= PATIENCE_MS) return
          const admission = keyUsage.admit(name, limits, tokens)
          if (admission.kind === 'admitted') tickets.get(worker)?.add(admission.ticket)
          return sendTo(worker, { kind: 'admission', question, admission })
        }
        case 'settle':
          tickets.get(worker)?.delete(call.ticket)
          return keyUsage.settle(call.ticket, call.tokens ?? undefined, call.cost)
        case 'used':
          return sendTo(worker, { kind: 'used', question: call.question, used: keyUsage.used(call.names) })
        case 'cancel':
          tickets.get(worker)?.delete(call.ticket)
          return keyUsage.cancel(call.ticket)
      }
    },
    welcome(worker) {
      listening.add(worker)
      tickets.set(worker, new Set())
      return memory.snapshot()
    },
    bury(worker) {
      listening.delete(worker)
      for (const ticket of tickets.get(worker) ?? []) keyUsage.settle(ticket, undefined)
      tickets.delete(worker)
      gathering.ended(worker)
      egress.forget(worker)
    },
  }
}
