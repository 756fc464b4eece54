// Cores for the measured process and others for the load generator and the upstream, so that neither takes time from
// the other. Where there are too few cores for that, it is said.
import { allowedCores, findProgram } from './system.ts'

/** Core numbers of each side. */
export interface Division {
  readonly measured: readonly number[]
  readonly rest: readonly number[]
  /** Whether no core is on both sides. */
  readonly apart: boolean
}

/**
 * The rest must never be what limits the measured process: it needs at least as many cores as that.
 * @param wanted how many cores the measured process is to have
 */
export function divide(cores: readonly number[], wanted: number): Division {
  const measured = cores.slice(0, wanted)
  if (cores.length < 2 * wanted) return { measured, rest: measured, apart: false }
  return { measured, rest: cores.slice(wanted), apart: true }
}

/** Command prefixes that keep a process on its cores; empty where that is not possible. */
export interface Pins {
  readonly measured: readonly string[]
  readonly rest: readonly string[]
  readonly apart: boolean
}

/** How this machine's cores are divided, as commands. */
export function pins(wanted: number): Pins {
  const taskset = findProgram('taskset')
  const cores = allowedCores()
  if (taskset === undefined || cores.length < 2) return { measured: [], rest: [], apart: false }
  const { measured, rest, apart } = divide(cores, wanted)
  const on = (list: readonly number[]): readonly string[] => [taskset, '-c', list.join(',')]
  return { measured: on(measured), rest: on(rest), apart }
}
