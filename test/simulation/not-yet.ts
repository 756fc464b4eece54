// Checks that are not demanded yet: faults of the proxy that the simulation has found and that are being mended. Each
// line goes when its fault does; when the list is empty the file goes too.
import type { Violation } from './checks.ts'
import type { PlanEvent } from './plan.ts'

/**
 * By invariant and name of the check. The second row is watched only until ten thousand worlds in one run have shown
 * that these younger checks blame nobody wrongly.
 */
const NOT_YET: ReadonlySet<string> = new Set([
  ...['1 error', '7 idle', '7 order', '10 lines'],
  ...['3 unavailable', '3 instead', '3 probe', '6 blame', '6 last', '8 hand'],
])

/** Whether a violation fails the run. */
export function isDemanded({ invariant, check }: Violation): boolean {
  return !NOT_YET.has(`${invariant} ${check}`)
}

/** Kinds of events that worlds of the gate do without. */
const LEFT_OUT: ReadonlySet<string> = new Set()

/** Whether an event may happen in a world. */
export function isLetIn({ kind }: PlanEvent): boolean {
  return !LEFT_OUT.has(kind)
}
