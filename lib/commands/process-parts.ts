// The pieces that need the process itself: environment, files, standard streams.
import { promises, readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { createTokenAuthorizers, type TokenAuthorizers, type TokenAuthorizersOptions } from '../azure/entra.ts'
import type { Clock } from '../clock.ts'
import type { Config } from '../config/types.ts'
import { createLog, type Log } from '../log.ts'
import { ATOMIC_WRITE_BYTES, createLogOutput, type LogOutput } from '../log-output.ts'
import type { TlsFiles } from '../server/listener.ts'
import type { ProcessFigures } from '../server/measure.ts'

/** A timer this often measures the delay; finer costs more than it tells. */
const LOOP_DELAY_RESOLUTION_MS = 20

/** Entra ID tokens with the identity that the config and this process's environment name. */
export function createEntra(clock: Clock, onProblem: TokenAuthorizersOptions['onProblem']): TokenAuthorizers {
  // Not by node:fs/promises, which would be loaded at every start: 3 % of the way to the first answer.
  const readText = (path: string): Promise<string> => promises.readFile(path, 'utf8')
  return createTokenAuthorizers({ clock, random: Math.random, env: process.env, readFile: readText, onProblem })
}

export interface OpenedLog {
  readonly log: Log
  readonly output: LogOutput
}

/**
 * The log a config asks for; its level and format follow reloads.
 * @param shared several processes write to it
 * @throws when its file cannot be opened
 */
export function openLog(clock: Clock, config: () => Config['logging'], shared: boolean): OpenedLog {
  const { file } = config()
  const target = file === undefined ? ({ kind: 'fd', fd: 1 } as const) : ({ kind: 'file', path: file } as const)
  const output = shared ? createLogOutput(target, ATOMIC_WRITE_BYTES) : createLogOutput(target)
  const log = createLog({ clock, level: () => config().level, format: () => config().format, write: output.write })
  return { log, output }
}

/** What this process says of itself, for the metrics; the event loop's delay is measured from now on. */
export function processFigures(output: LogOutput): () => ProcessFigures {
  const startedEpochS = Math.round(Date.now() / 1000 - process.uptime())
  const delay = monitorEventLoopDelay({ resolution: LOOP_DELAY_RESOLUTION_MS })
  delay.enable()
  return () => {
    const { user, system } = process.cpuUsage()
    const { rss, heapUsed } = process.memoryUsage()
    // Node measures from tick to tick: what is beyond the tick's own length is delay.
    const seconds = (nanoseconds: number): number =>
      Number.isFinite(nanoseconds) ? Math.max(nanoseconds / 1e9 - LOOP_DELAY_RESOLUTION_MS / 1000, 0) : 0
    const loopLag = { p50: seconds(delay.percentile(50)), p99: seconds(delay.percentile(99)), max: seconds(delay.max) }
    delay.reset()
    return {
      cpuSeconds: (user + system) / 1e6,
      residentBytes: rss,
      startedEpochS,
      heapUsedBytes: heapUsed,
      loopLag,
      logLinesDropped: output.dropped(),
    }
  }
}

/** The listener's certificate and key. @throws when one cannot be read */
export function readTls(tls: Config['server']['tls']): TlsFiles | undefined {
  return tls === undefined ? undefined : { cert: readFileSync(tls.certFile), key: readFileSync(tls.keyFile) }
}
