// One line of the log for all connections that were closed above `server.max_connections` within a minute.
import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'

/** Refused connections are logged this often, together. */
const DROP_LOG_MS = 60_000

/** One line for all connections that were closed above `server.max_connections` within a minute. */
export function createDropLog(clock: Clock, log: Log): () => void {
  let dropped = 0
  return () => {
    if (dropped++ > 0) return
    log.warn('connections refused: server.max_connections is reached')
    clock.after(DROP_LOG_MS, () => {
      if (dropped > 1) log.warn('connections refused', { count: dropped })
      dropped = 0
    })
  }
}
