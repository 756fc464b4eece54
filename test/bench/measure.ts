// One measurement: a job, and what the measured process used for it.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Load, Upstream } from './children.ts'
import type { Aim, Job, Result } from './load.ts'
import { cpuUs, cpuUsByProcess, residentBytes } from './system.ts'
import type { Target } from './targets.ts'

/** Metric names and values; a name ends in its unit. */
export type Figures = Readonly<Record<string, number>>

/** How much is done; brief runs only show that everything works. */
export interface Scale {
  readonly rounds: number
  /** A warm-up takes at least `seconds`, and as long as its requests take, but no longer than `mostSeconds`. */
  readonly warm: { readonly seconds: number; readonly mostSeconds: number }
  readonly seconds: number
  /** Ends closed loops early. */
  readonly requests?: number
  readonly connections: number
  readonly perSecond: number
  readonly streams: number
  readonly streamSeconds: number
}

/** Counts what was answered and how much of it was wrong, over the whole run. */
export interface Totals {
  requests: number
  errors: number
  readonly problems: string[]
}

export interface Bench {
  readonly scale: Scale
  readonly load: Load
  readonly upstream: Upstream
  readonly totals: Totals
  /** Whether the measured process has its cores for itself. */
  readonly apart: boolean
}

type Distribute<T> = T extends unknown ? Omit<T, keyof Aim> : never
/** A job whose aim is still to be said. */
export type Task = Distribute<Job>

const MAX_PROBLEMS = 20

/** A job at this target. */
export function aimAt(task: Task, { port, route, secure }: Aim): Job {
  return { ...task, port, route, secure }
}

function account(totals: Totals, what: string, result: Result): void {
  totals.requests += result.requests
  totals.errors += result.errors
  if (result.errors > 0 && totals.problems.length < MAX_PROBLEMS) {
    totals.problems.push(`${what}: ${result.errors} of ${result.requests} went wrong, the first: ${result.problem}`)
  }
}

export interface Measured extends Result {
  /** User and system time of the target's processes meanwhile, in µs; NaN where it has none. */
  readonly cpuUs: number
  /** The same of each of the processes that its first one has started. */
  readonly workersUs: readonly number[]
}

/** @returns for each process what it has used since, those that are new included */
function usedSince(before: ReadonlyMap<number, number>, pid: number | undefined): ReadonlyMap<number, number> {
  if (pid === undefined) return new Map([[0, Number.NaN]])
  return new Map([...cpuUsByProcess(pid)].map(([each, us]) => [each, us - (before.get(each) ?? 0)]))
}

/**
 * Runs a job against a target. Every answer is checked by the load generator; that every request body has arrived in
 * full length, by the upstream's count.
 */
export async function measure(bench: Bench, target: Target, what: string, task: Task): Promise<Measured> {
  const { load, upstream, totals } = bench
  const before = usedSince(new Map(), target.pid)
  await upstream.count()
  const result = await load.run(aimAt(task, target))
  const [first = Number.NaN, ...workersUs] = usedSince(before, target.pid).values()
  const { bodyBytes } = await upstream.count()
  account(totals, `${what}, ${target.name}`, result)
  // A request asked twice (failover) arrives twice: fewer bytes are wrong, more are not.
  if (result.errors === 0 && bodyBytes < result.sentBodyBytes) {
    totals.errors++
    totals.problems.push(`${what}, ${target.name}: ${result.sentBodyBytes} bytes asked, ${bodyBytes} arrived`)
  }
  return { ...result, cpuUs: workersUs.reduce((sum, us) => sum + us, first), workersUs }
}

const MB = 1024 * 1024
/** Streams are all open: this long until nothing is left of their opening. */
const SETTLE_MS = 1_000
/** Measuring ends this much before the first stream does. */
const MARGIN_MS = 1_500

/** Opens slow streams at once: what an event and an open stream cost while all are open. */
export async function measureOpenStreams(bench: Bench, target: Target): Promise<Figures> {
  const { scale, load, totals } = bench
  const { pid } = target
  const idle = pid === undefined ? Number.NaN : residentBytes(pid)
  const beganMs = performance.now()
  const running = load.run(aimAt({ kind: 'slow', streams: scale.streams, seconds: scale.streamSeconds }, target))
  await Promise.race([load.opened(), running])
  await sleep(SETTLE_MS)
  const fromMs = performance.now()
  const before = pid === undefined ? Number.NaN : cpuUs(pid)
  let most = 0
  while (performance.now() - beganMs < scale.streamSeconds * 1000 - MARGIN_MS) {
    if (pid !== undefined) most = Math.max(most, residentBytes(pid))
    await sleep(250)
  }
  const used = pid === undefined ? Number.NaN : cpuUs(pid) - before
  const seconds = (performance.now() - fromMs) / 1000
  const result = await running
  account(totals, `open streams, ${target.name}`, result)
  return {
    // All together speak ten times a second each, as the events that arrive show: all of them, or there are errors.
    cpu_us_per_event: used / (seconds * scale.streams * 10),
    memory_kb_per_stream: (most - idle) / 1024 / scale.streams,
    delay_p50_us: result.p50Us,
    delay_p99_us: result.p99Us,
    errors: result.errors,
  }
}

/** Resident memory of a target that has nothing to do, in MB. */
export function idleMb(target: Target): number {
  return target.pid === undefined ? Number.NaN : residentBytes(target.pid) / MB
}
