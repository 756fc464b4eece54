// Makes a failing world small: events are taken out as long as the same check still fails.
import type { Violation } from './checks.ts'
import type { PlanEvent, WorldPlan } from './plan.ts'
import type { ConfigMaker } from './processes.ts'
import { runWorld } from './world.ts'

/** Runs that a shrinking may take; a world has some forty events, so this is rarely reached. */
const MAX_RUNS = 400

/**
 * The world with the fewest events that still violates what the given one violated (delta debugging, Zeller 2002).
 * @param wanted the violation to keep
 */
export async function shrink(plan: WorldPlan, wanted: Violation, configOf: ConfigMaker): Promise<WorldPlan> {
  let runs = 0
  const fails = async (events: readonly PlanEvent[]): Promise<boolean> => {
    runs++
    const { violations } = await runWorld({ ...plan, events }, { configOf, traced: false })
    return violations.some(({ invariant, check }) => invariant === wanted.invariant && check === wanted.check)
  }
  let events = plan.events
  for (let size = Math.ceil(events.length / 2); size >= 1 && runs < MAX_RUNS; ) {
    let removed = false
    for (let at = 0; at < events.length && runs < MAX_RUNS; ) {
      const fewer = [...events.slice(0, at), ...events.slice(at + size)]
      if (await fails(fewer)) {
        events = fewer
        removed = true
      } else at += size
    }
    if (size === 1 && !removed) break
    if (!removed || size > events.length) size = size === 1 ? 1 : Math.floor(size / 2)
  }
  return { ...plan, events }
}
