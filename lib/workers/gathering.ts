// The figures of all workers, kept in the primary: a worker that dies leaves its counters, one that is slow its last
// state. So no counter of /metrics ever falls (Prometheus would take that for a restart, and count everything again).
import { afterRunning, type Clock, type Timer } from '../clock.ts'
import { countersOf, type MetricsState, mergeMetrics } from '../metrics.ts'
import type { ProcessState } from './messages.ts'

/** A worker that has not counted by then is shown by its last state. */
export const COUNT_MS = 1_000
/** Rounds begin at least so far apart, however often /metrics is asked for. */
export const ROUND_MS = 100

export interface GatheringOptions {
  readonly clock: Clock
  /** The workers that serve now. */
  readonly workers: () => Iterable<number>
  /** Asks a worker for its state. */
  readonly ask: (worker: number, round: number) => void
}

export interface Gathering {
  /** Calls back with the states of all, asked for after this call. Those who ask meanwhile share a round. */
  gather(done: (states: readonly ProcessState[]) => void): void
  /** A worker's state. @param round null: unasked */
  counted(worker: number, round: number | null, state: ProcessState): void
  /** A worker has ended: its counters stay. */
  ended(worker: number): void
}

export function createGathering({ clock, workers, ask }: GatheringOptions): Gathering {
  const latest = new Map<number, ProcessState>()
  /** Sums of all that have ended. */
  let dead: MetricsState | undefined
  let waiting: ((states: readonly ProcessState[]) => void)[] = []
  let round = 0
  let open: { readonly missing: Set<number>; readonly done: typeof waiting; readonly timer: Timer } | undefined
  let lastBeganMs = Number.NEGATIVE_INFINITY
  let next: Timer | undefined

  const states = (): readonly ProcessState[] => {
    const all = [...latest.values()]
    return dead === undefined ? all : [...all, { metrics: dead, status: null }]
  }

  const begin = (): void => {
    next = undefined
    if (open !== undefined || waiting.length === 0) return
    lastBeganMs = clock.nowMs()
    round++
    const asked = [...workers()]
    open = { missing: new Set(asked), done: waiting, timer: afterRunning(clock, COUNT_MS, finish) }
    waiting = []
    for (const worker of asked) ask(worker, round)
    if (asked.length === 0) finish()
  }

  const finish = (): void => {
    if (open === undefined) return
    const { done, timer } = open
    timer.cancel()
    open = undefined
    const all = states()
    for (const each of done) each(all)
    schedule()
  }

  const schedule = (): void => {
    if (open !== undefined || next !== undefined || waiting.length === 0) return
    const waitMs = lastBeganMs + ROUND_MS - clock.nowMs()
    if (waitMs <= 0) begin()
    else next = clock.after(waitMs, begin)
  }

  const noLongerMissing = (worker: number): void => {
    if (open?.missing.delete(worker) === true && open.missing.size === 0) finish()
  }

  return {
    gather(done) {
      waiting.push(done)
      schedule()
    },
    counted(worker, of, state) {
      latest.set(worker, state)
      if (of === round) noLongerMissing(worker)
    },
    ended(worker) {
      const last = latest.get(worker)
      latest.delete(worker)
      if (last !== undefined) {
        const counters = countersOf(last.metrics)
        dead = dead === undefined ? counters : mergeMetrics([dead, counters])
      }
      noLongerMissing(worker)
    },
  }
}
