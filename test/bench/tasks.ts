// The load of the scenarios: as fast as it goes, as warm-up, or at a fixed rate; brief where the run is.
import type { Bench, Task } from './measure.ts'
import type { Work } from './payloads.ts'

export type PlainWork = Exclude<Work, 'slow'>
type ClosedTask = Extract<Task, { readonly kind: 'closed' }>

/** As fast as it goes, over so many connections, for so many seconds. */
export function closed({ scale }: Bench, work: PlainWork, connections: number, seconds: number): ClosedTask {
  const { requests } = scale
  return { kind: 'closed', work, connections, seconds, ...(requests === undefined ? {} : { requests }) }
}

/**
 * The same until the code that serves it is as good as it gets. V8 optimizes what has often run: on a slow machine a
 * few seconds are not enough for that, so requests are counted as well.
 * @param requests so many, unless they take too long
 */
export function warming(bench: Bench, work: PlainWork, connections: number, requests: number): Task {
  const { seconds, mostSeconds } = bench.scale.warm
  return { ...closed(bench, work, connections, mostSeconds), enough: { seconds, requests } }
}

/** At a fixed rate: latency, counted from when a request was due. */
export function steady({ scale }: Bench): Task {
  const { perSecond, seconds, connections } = scale
  return { kind: 'fixed', work: 'chat', connections: connections * 4, seconds, perSecond }
}
