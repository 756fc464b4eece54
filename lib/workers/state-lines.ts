// Lines of the log about states that all processes know: which backend is out, which model is down. Two workers may see
// the same change in the same moment; it is logged once.
import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import type { StateLine } from './messages.ts'

/** Topics remembered: two or three for each backend of a config. */
const MAX_TOPICS = 10_000

export interface StateLines {
  take(line: StateLine): void
  /** A reload: what a name stands for may be another thing now. */
  reset(): void
}

interface Known {
  readonly state: string
  readonly untilMs: number
}

/** Logs each line that tells of another state of its topic than the one before. */
export function createStateLines(clock: Clock, log: Log): StateLines {
  const known = new Map<string, Known>()
  return {
    take({ topic, state, forMs = Number.POSITIVE_INFINITY, level, msg, fields }) {
      const before = known.get(topic)
      const nowMs = clock.nowMs()
      if (before?.state === state && nowMs < before.untilMs) return
      const oldest = known.keys().next()
      if (known.size >= MAX_TOPICS && oldest.done !== true) known.delete(oldest.value)
      known.set(topic, { state, untilMs: nowMs + forMs })
      log[level](msg, fields)
    },
    reset: () => known.clear(),
  }
}
