// The pieces that need the process itself: environment, files, standard streams.
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createTokenAuthorizers, type TokenAuthorizers, type TokenAuthorizersOptions } from '../azure/entra.ts'
import type { Clock } from '../clock.ts'
import type { Config } from '../config/types.ts'
import { createLog, type Log } from '../log.ts'
import { ATOMIC_WRITE_CHARS, createLogOutput, type LogOutput } from '../log-output.ts'
import type { TlsFiles } from '../server/listener.ts'

/** Entra ID tokens with the identity that the config and this process's environment name. */
export function createEntra(clock: Clock, onProblem: TokenAuthorizersOptions['onProblem']): TokenAuthorizers {
  const readText = (path: string): Promise<string> => readFile(path, 'utf8')
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
  const output = shared ? createLogOutput(target, ATOMIC_WRITE_CHARS) : createLogOutput(target)
  const log = createLog({ clock, level: () => config().level, format: () => config().format, write: output.write })
  return { log, output }
}

/** The listener's certificate and key. @throws when one cannot be read */
export function readTls(tls: Config['server']['tls']): TlsFiles | undefined {
  return tls === undefined ? undefined : { cert: readFileSync(tls.certFile), key: readFileSync(tls.keyFile) }
}
