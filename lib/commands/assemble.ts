// What a process that serves is made of, alone or as a worker: the proxy, its tokens, its log; and why it could not be made.
import type { TokenAuthorizers } from '../azure/entra.ts'
import { systemClock } from '../clock.ts'
import type { Config } from '../config/types.ts'
import type { Peers } from '../server/peers.ts'
import { createProxy, type ProxyServer } from '../server/proxy.ts'
import type { ExitCode } from './exit-code.ts'
import { createEntra, type OpenedLog, openLog, processFigures, readTls } from './process-parts.ts'

/** Log lines that are still queued at the end get this long to reach their reader. */
export const FLUSH_MS = 1_000

export interface ServeOptions {
  readonly file: string
  readonly port: number | undefined
  readonly version: string
}

/** The config with the port of the command line, where that names one. */
export function withPort(config: Config, port: number | undefined): Config {
  return port === undefined ? config : { ...config, server: { ...config.server, port } }
}

/** Why a port could not be listened on, for people. */
export function whyNot(error: unknown, port: number): string {
  const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
  if (code === 'EADDRINUSE') return `port ${port} is in use`
  if (code === 'EACCES') return `port ${port} may not be opened by this user`
  return error instanceof Error ? error.message : 'unknown error'
}

/** Says what is wrong on standard error. @returns 1: could not run */
export function complain(message: string): ExitCode {
  process.stderr.write(`azure-openai-proxy: ${message}\n`)
  return 1
}

/** Opens the log a config asks for, or says why it cannot. */
export function logFor(config: () => Config, shared: boolean): OpenedLog | string {
  try {
    return openLog(systemClock(), () => config().logging, shared)
  } catch (error) {
    return `the log file cannot be opened: ${error instanceof Error ? error.message : 'unknown'}`
  }
}

export interface ServingProcess {
  readonly proxy: ProxyServer
  readonly entra: TokenAuthorizers
  readonly opened: OpenedLog
}

/** A proxy of this process, not listening yet; or why it cannot be made. */
export function assemble(
  config: Config,
  version: string,
  among?: {
    readonly shareWith: (items: Parameters<ProxyServer['learn']>[0]) => void
    readonly peers: Peers
  },
): ServingProcess | string {
  let current = (): Config => config
  const opened = logFor(() => current(), among !== undefined)
  if (typeof opened === 'string') return opened
  const clock = systemClock()
  const tls = readTls(config.server.tls)
  const entra = createEntra(clock, (message, state) => opened.log[state === 'failing' ? 'error' : 'info'](message))
  const proxy = createProxy({
    config,
    version,
    clock,
    random: Math.random,
    log: opened.log,
    tokenAuthorizer: entra,
    ...(tls === undefined ? {} : { tls }),
    ...(among ?? {}),
    processFigures: processFigures(opened.output),
  })
  current = () => proxy.gateway().config
  return { proxy, entra, opened }
}
