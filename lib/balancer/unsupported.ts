// What single deployments turned out not to offer: an operation, or the option that asks for usage in streams. Remembered for
// a while, so that it is not found out again with every request, and forgotten, since deployments are upgraded.
import type { Clock } from '../clock.ts'

/** A deployment is asked again after this, in case it has learnt it meanwhile. */
const REMEMBERED_MS = 600_000
/** Deployments times operations; far above any config, and a bound all the same. */
const MAX_QUIRKS = 10_000

/** `lacks stream_options` or `lacks images/edits`: the name of an operation or of an option. */
export interface Quirks {
  note(standingId: string, lacks: string): void
  lacks(standingId: string, what: string): boolean
}

export function createQuirks(clock: Clock): Quirks {
  const untilMs = new Map<string, number>()
  return {
    note(standingId, lacks) {
      if (untilMs.size >= MAX_QUIRKS) untilMs.clear()
      untilMs.set(`${standingId}\n${lacks}`, clock.nowMs() + REMEMBERED_MS)
    },
    lacks(standingId, what) {
      if (untilMs.size === 0) return false
      return (untilMs.get(`${standingId}\n${what}`) ?? 0) > clock.nowMs()
    },
  }
}
