// Scenario W: what a second worker brings. With enough cores that is measured. With fewer, load and upstream share the
// two cores, and it is projected: two cores' worth of CPU time divided by a request's cost.
import { type Bench, type Figures, type Measured, measure } from './measure.ts'
import type { Scenario } from './rounds.ts'
import type { Target } from './targets.ts'
import { closed, warming } from './tasks.ts'

/** More than elsewhere: so many connections spread evenly over two workers. */
const connections = ({ scale }: Bench): number => 2 * scale.connections
/** For each worker as many as one alone needs. */
const WARM_UP_REQUESTS = 40_000
/** The workers of a group do not listen at the same moment: those of the first connections are the first one's. */
const WAKING_SECONDS = 0.5

/**
 * @param workersUs CPU time of each worker
 * @returns the smaller one's share of all, 0.5 at best; NaN where there are not two of them
 */
export function smallerShare(workersUs: readonly number[]): number {
  if (workersUs.length !== 2) return Number.NaN
  return Math.min(...workersUs) / workersUs.reduce((sum, us) => sum + us, 0)
}

type Cost = Pick<Measured, 'cpuUs' | 'requests' | 'elapsedS'>
type Spread = Cost & Pick<Measured, 'workersUs'>

function together(a: Spread, b: Spread): Spread {
  return {
    cpuUs: a.cpuUs + b.cpuUs,
    requests: a.requests + b.requests,
    elapsedS: a.elapsedS + b.elapsedS,
    workersUs: a.workersUs.map((us, i) => us + (b.workersUs[i] ?? 0)),
  }
}

/**
 * What two workers do on two cores, against one worker.
 * @param apart whether they had the cores for themselves, so that requests/s can be compared
 */
export function speedUp(one: Cost, two: Cost, apart: boolean): Figures {
  if (apart) return { speed_up: two.requests / two.elapsedS / (one.requests / one.elapsedS) }
  return { projected_speed_up: (2 * (one.cpuUs / one.requests)) / (two.cpuUs / two.requests) }
}

export const twoWorkers: Scenario = {
  id: 'W',
  title: 'two workers, 1 KB chat',
  targets: ['direct', 'nginx', 'proxy'],
  process: 'kept',
  workers: [1, 2],
  cores: 2,
  async warmUp(bench, target) {
    await measure(bench, target, 'W', closed(bench, 'chat', connections(bench), WAKING_SECONDS))
    await measure(bench, target, 'W', warming(bench, 'chat', connections(bench), WARM_UP_REQUESTS))
  },
  async run(bench, [oneWorker, twoWorkers]) {
    const { seconds } = bench.scale
    const busy = (target: Target): Promise<Measured> =>
      measure(bench, target, 'W', closed(bench, 'chat', connections(bench), seconds / 2))
    if (twoWorkers === undefined) throw new Error('W compares two process groups, and has got one')
    // One, two, two, one: a machine that grows slower meanwhile does so for both alike.
    const earlier = await busy(oneWorker)
    const two = together(await busy(twoWorkers), await busy(twoWorkers))
    const one = together(earlier, await busy(oneWorker))
    const rates = {
      one_worker_requests_per_s: one.requests / one.elapsedS,
      two_workers_requests_per_s: two.requests / two.elapsedS,
    }
    // Direct has no workers: its rates say what load and upstream can do.
    if (oneWorker.name === 'direct') return rates
    return {
      ...rates,
      one_worker_cpu_us_per_request: one.cpuUs / one.requests,
      two_workers_cpu_us_per_request: two.cpuUs / two.requests,
      ...speedUp(one, two, bench.apart),
      smaller_worker_cpu_share: smallerShare(two.workersUs),
    }
  },
}
