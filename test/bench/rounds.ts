// A scenario in rounds: all targets take turns, so that a machine that grows slower does so for each of them.
import type { Bench, Figures } from './measure.ts'
import type { Sample } from './report.ts'
import type { Target, TargetName } from './targets.ts'

export interface Scenario {
  readonly id: string
  readonly title: string
  readonly targets: readonly TargetName[]
  /** `kept`: one process for all rounds, warm; `fresh`: a new one each round. */
  readonly process: 'kept' | 'fresh'
  /** Whether the second backend is there, and failing from some point on. */
  readonly secondBackend?: true
  /** The way to the backends is TLS. */
  readonly tlsBackends?: true
  /** Clients come over TLS. */
  readonly tlsClients?: true
  /**
   * A process group of each of these numbers of workers, all measured in one go. Default: a single one, of one worker.
   */
  readonly workers?: readonly number[]
  /** How many cores the measured processes may use. Default: one. */
  readonly cores?: number
  /** Not counted; takes the costs of a beginning away. Of each process group. */
  warmUp?(bench: Bench, target: Target): Promise<unknown>
  /** @param targets a process group for each of `workers` */
  run(bench: Bench, targets: Targets): Promise<Figures>
}

type Targets = readonly [Target, ...Target[]]

/** Starts one of a scenario's targets, with so many workers. */
export type Starter = (name: TargetName, workers: number) => Promise<Target>

/** Performs all rounds. Whatever it started has ended when it resolves or rejects. */
export async function runRounds(
  bench: Bench,
  scenario: Scenario,
  names: readonly TargetName[],
  { start, onRound }: { readonly start: Starter; readonly onRound: (round: number) => void },
): Promise<readonly Sample[]> {
  const isKept = scenario.process === 'kept'
  const [workers = 1, ...more] = scenario.workers ?? []
  const samples: Sample[] = []
  const alive = new Set<Target>()
  const kept = new Map<TargetName, Targets>()

  const begin = async (name: TargetName, count: number): Promise<Target> => {
    const target = await start(name, count)
    alive.add(target)
    await scenario.warmUp?.(bench, target)
    return target
  }
  const ready = async (name: TargetName): Promise<Targets> => {
    const there = kept.get(name)
    if (there !== undefined) return there
    const targets: [Target, ...Target[]] = [await begin(name, workers)]
    for (const count of more) targets.push(await begin(name, count))
    if (isKept) kept.set(name, targets)
    return targets
  }
  const end = async (targets: Iterable<Target>): Promise<void> => {
    for (const target of targets) {
      await target.stop()
      alive.delete(target)
    }
  }

  try {
    if (isKept) for (const name of names) await ready(name)
    for (let round = 1; round <= bench.scale.rounds; round++) {
      onRound(round)
      for (const name of names) {
        const targets = await ready(name)
        samples.push({ scenario: scenario.id, round, target: name, figures: await scenario.run(bench, targets) })
        if (!isKept) await end(targets)
      }
    }
  } finally {
    await end([...alive])
  }
  return samples
}
