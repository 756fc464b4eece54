// News of outbound proxies from all workers, as one: a proxy that fails or works again is one change of the whole, and
// one line of the log.
import type { EgressChange } from '../http1/send.ts'

/** Failing proxies remembered: one or two a config. */
const MAX_FAILING = 100

export interface EgressNews {
  /** A worker has seen a proxy fail or work again. */
  take(worker: number, change: EgressChange): void
  /** A worker has ended, and what it alone knew is not known any more. */
  forget(worker: number): void
}

/** @param onChange gets each change once, from the worker that saw it first */
export function createEgressNews(onChange: (change: EgressChange) => void): EgressNews {
  /** The workers that saw a proxy fail, since it worked last. */
  const failing = new Map<string, Set<number>>()
  return {
    take(worker, change) {
      const { kind, proxy } = change
      const known = failing.get(proxy)
      if (kind === 'working') {
        if (failing.delete(proxy)) onChange(change)
        return
      }
      if (known !== undefined) {
        known.add(worker)
        return
      }
      const oldest = failing.keys().next()
      if (failing.size >= MAX_FAILING && oldest.done !== true) failing.delete(oldest.value)
      failing.set(proxy, new Set([worker]))
      onChange(change)
    },
    forget(worker) {
      for (const [proxy, workers] of failing) {
        if (workers.delete(worker) && workers.size === 0) failing.delete(proxy)
      }
    },
  }
}
