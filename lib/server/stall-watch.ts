// Responses that are complete and that their client does not read: short ones, which no relay watches over.
import { type Clock, PAUSE_MS, type Timer } from '../clock.ts'
import type { DenseSet, Slotted } from '../dense-set.ts'
import type { Exchange } from '../request-context.ts'

/** How often they are looked for: a timer for each response would cost more than all it saves. */
const CHECK_MS = 1_000

export interface Handled {
  /** When its handler had done its part; the last bytes may still wait for the client to read. */
  handledMs: number | undefined
}

/**
 * Ends responses whose last bytes the client has not taken for too long.
 * @param longestMs how long it may take, now
 * @returns call it when a request begins: looking ends by itself when none is left
 */
export function createStallWatch(
  live: DenseSet<Exchange & Handled & Slotted>,
  clock: Clock,
  longestMs: () => number,
): () => void {
  let timer: Timer | undefined
  let checkedMs = 0
  const check = (): void => {
    const nowMs = clock.nowMs()
    const lateMs = nowMs - checkedMs - CHECK_MS
    checkedMs = nowMs
    if (live.size() === 0) {
      timer?.cancel()
      timer = undefined
      return
    }
    if (lateMs > PAUSE_MS) {
      // This process stood still: what its clients have read meanwhile is only heard of after this timer.
      live.visit(exchange => {
        if (exchange.handledMs !== undefined) exchange.handledMs += lateMs
      })
      return
    }
    const beforeMs = nowMs - longestMs()
    live.visit(({ handledMs, response, record, cancellation }) => {
      if (handledMs === undefined || handledMs > beforeMs) return
      record.error = 'client_stalled'
      cancellation.cancel('client_stalled')
      response.destroy()
    })
  }
  return () => {
    if (timer !== undefined) return
    checkedMs = clock.nowMs()
    timer = clock.every(CHECK_MS, check)
  }
}
