// What single deployments turned out not to offer: an operation, or the option that asks for usage in streams. Remembered for
// a while, so that it is not found out again with every request, and forgotten, since deployments are upgraded.
import type { Clock } from '../clock.ts'

/** A deployment is asked again after this, in case it has learnt it meanwhile. */
const REMEMBERED_MS = 600_000
/** Deployments times operations; far above any config, and a bound all the same. */
const MAX_REMEMBERED = 10_000

/** `lacks stream_options` or `lacks images/edits`: the name of an operation or of an option. */
export interface UnsupportedOperations {
  note(deployment: string, lacks: string): void
  has(deployment: string, what: string): boolean
}

export function createUnsupportedOperations(clock: Clock): UnsupportedOperations {
  const untilMs = new Map<string, number>()
  return {
    note(deployment, lacks) {
      if (untilMs.size >= MAX_REMEMBERED) untilMs.clear()
      untilMs.set(`${deployment}\n${lacks}`, clock.nowMs() + REMEMBERED_MS)
    },
    has(deployment, what) {
      if (untilMs.size === 0) return false
      return (untilMs.get(`${deployment}\n${what}`) ?? 0) > clock.nowMs()
    },
  }
}
