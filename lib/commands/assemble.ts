// Assembles a serving process, alone or as a worker: the proxy, its tokens, its log; and says why it cannot.

import { promises } from 'node:fs'
import { hostname } from 'node:os'
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks'
import { createTokenAuthorizers, type TokenAuthorizers, type TokenAuthorizersOptions } from '../azure/entra.ts'
import type { Exchange } from '../azure/entra-http.ts'
import { hasQuota } from '../balancer/key-limits.ts'
import { createUsageLedger, type UsageLedger } from '../balancer/usage-ledger.ts'
import { type Clock, systemClock } from '../clock.ts'
import type { Config } from '../config/types.ts'
import { type EgressChange, lookupPlaces } from '../http1/send.ts'
import { createLog, type Log } from '../log.ts'
import { ATOMIC_WRITE_BYTES, createLogOutput, type LogOutput } from '../log-output.ts'
import { createNetwork } from '../server/network.ts'
import { createProxy, type ProxyServer } from '../server/proxy.ts'
import type { ProcessFigures } from '../server/request-metrics.ts'
import type { FileTexts, StateLine, StateUpdate } from '../workers/messages.ts'
import type { Peers } from '../workers/peers.ts'
import type { ExitCode } from './exit-code.ts'
import { maxConnectionsFor, openFileLimit } from './file-limit.ts'
import { tlsFrom } from './load.ts'

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
export function listenErrorText(error: unknown, port: number): string {
  const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
  if (code === 'EADDRINUSE')
    return `port ${port} is in use: end the program that has it, or choose another one by server.port or --port N`
  if (code === 'EACCES')
    return `port ${port} may not be opened by this user: choose one above 1023, or allow it (CAP_NET_BIND_SERVICE)`
  if (code === 'EADDRNOTAVAIL')
    return 'server.host is no address of this machine: leave it out to listen on all of them'
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return 'server.host is a name that cannot be resolved: write an address'
  return error instanceof Error ? error.message : 'unknown error'
}

/** Says what is wrong on standard error. @returns 1: could not run */
export function failStart(message: string): ExitCode {
  process.stderr.write(`azure-openai-proxy: ${message}\n`)
  return 1
}

/**
 * Ends the process after `stop` and the last log lines; at the latest, whatever hangs, a second after the grace period.
 * By process.exit: a write to a reader that is stuck would keep the event loop for ever.
 */
export async function endWithin(
  graceMs: number,
  output: LogOutput,
  code: ExitCode,
  stop: () => Promise<void>,
): Promise<never> {
  const latestMs = performance.now() + graceMs + FLUSH_MS
  const timer = setTimeout(() => process.exit(code), graceMs + FLUSH_MS)
  await stop()
  await output.flush(Math.max(latestMs - performance.now(), 0))
  clearTimeout(timer)
  process.exit(code)
}

/** Opens the log a config asks for, or says why it cannot. */
export function logFor(config: () => Config, shared: boolean): OpenedLog | string {
  try {
    return openLog(systemClock(), () => config().logging, shared)
  } catch (error) {
    return `the log file cannot be opened: ${error instanceof Error ? error.message : 'unknown'}`
  }
}

/** The ledger of a config's usage file: of this process alone, or of a primary for all its workers. */
export function openLedger(config: Config, log: Log): UsageLedger | string {
  const onProblem = (message: string, state: 'failing' | 'recovered'): void =>
    log[state === 'failing' ? 'error' : 'info'](message)
  const ledger = createUsageLedger({ clock: systemClock(), file: config.usage.file, onProblem })
  const needed = [...config.auth.keys, ...config.auth.tokens].some(({ limits }) => hasQuota(limits))
  return (needed ? ledger.open() : undefined) ?? ledger
}

export interface ServingProcess {
  /** Undefined in a worker: its primary keeps it. */
  readonly ledger: UsageLedger | undefined
  readonly proxy: ProxyServer
  readonly entra: TokenAuthorizers
  readonly opened: OpenedLog
}

/** A proxy of this process, not listening yet; or why it cannot be made. */
export function assemble(
  { config, texts }: { readonly config: Config; readonly texts: FileTexts },
  version: string,
  among?: {
    readonly shareWith: (items: readonly StateUpdate[]) => void
    readonly peers: Peers
    readonly onEgress: (change: EgressChange) => void
    readonly sayState: (line: StateLine) => void
  },
): ServingProcess | string {
  let current = (): Config => config
  const opened = logFor(() => current(), among !== undefined)
  if (typeof opened === 'string') return opened
  const clock = systemClock()
  const tls = tlsFrom(config.server.tls, texts)
  const ledger = among === undefined ? openLedger(config, opened.log) : undefined
  if (typeof ledger === 'string') return ledger
  const maxConnections = maxConnectionsFor(openFileLimit())
  const network = createNetwork({
    clock,
    log: opened.log,
    config: () => current(),
    onEgress: among?.onEgress,
    lookupPlaces: lookupPlaces(process.env.UV_THREADPOOL_SIZE),
  })
  const entra = createEntra(
    clock,
    (message, state) => opened.log[state === 'failing' ? 'error' : 'info'](message),
    network.exchange,
  )
  const proxy = createProxy({
    config,
    version,
    clock,
    random: Math.random,
    log: opened.log,
    tokenAuthorizer: entra,
    network,
    ...(tls === undefined ? {} : { tls }),
    ...(among === undefined ? {} : { shareWith: among.shareWith, peers: among.peers, sayState: among.sayState }),
    ...(ledger === undefined ? {} : { ledger }),
    processFigures: processFigures(opened.output),
    host: hostname(),
    ...(maxConnections === undefined ? {} : { maxConnections }),
  })
  current = () => proxy.runtime().config
  return { proxy, entra, opened, ledger }
}

// The pieces that need the process itself: environment, files, standard streams.

/** A timer this often measures the delay; finer costs more than it tells. */
const LOOP_DELAY_RESOLUTION_MS = 20
/** A scrape a minute, the slowest in use, misses no delay. */
const LOOP_DELAY_WINDOW_MS = 60_000

/** Entra ID tokens with the identity that the config and this process's environment name. */
export function createEntra(
  clock: Clock,
  onProblem: TokenAuthorizersOptions['onProblem'],
  exchange: Exchange,
): TokenAuthorizers {
  // Not by node:fs/promises, which would be loaded at every start: 3 % of the way to the first response.
  const readText = (path: string): Promise<string> => promises.readFile(path, 'utf8')
  return createTokenAuthorizers({
    clock,
    random: Math.random,
    env: process.env,
    readFile: readText,
    onProblem,
    exchange,
  })
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
  // https://no-color.org: any value but an empty one.
  const colour = file === undefined && process.stdout.isTTY === true && (process.env.NO_COLOR ?? '') === ''
  const log = createLog({
    clock,
    level: () => config().level,
    format: () => config().format,
    write: output.write,
    colour,
  })
  return { log, output }
}

/**
 * Reads the event loop's delay over a window that no reader shortens for the others. It is the worse of the last whole
 * window and the one in progress: between two readings at most a window apart nothing is lost.
 * @param nowMs monotonic time
 */
export function loopDelayReader(
  delay: Pick<IntervalHistogram, 'percentile' | 'max' | 'reset'>,
  nowMs: () => number,
): () => ProcessFigures['loopLag'] {
  let beganMs = nowMs()
  let last = { p50: 0, p99: 0, max: 0 }
  // Node measures from tick to tick: what is beyond the tick's own length is delay.
  const seconds = (nanoseconds: number): number =>
    Number.isFinite(nanoseconds) ? Math.max(nanoseconds / 1e9 - LOOP_DELAY_RESOLUTION_MS / 1000, 0) : 0
  return () => {
    const now = { p50: seconds(delay.percentile(50)), p99: seconds(delay.percentile(99)), max: seconds(delay.max) }
    const worse = {
      p50: Math.max(last.p50, now.p50),
      p99: Math.max(last.p99, now.p99),
      max: Math.max(last.max, now.max),
    }
    if (nowMs() - beganMs < LOOP_DELAY_WINDOW_MS) return worse
    beganMs = nowMs()
    last = now
    delay.reset()
    return worse
  }
}

/** What this process says of itself, for the metrics; the event loop's delay is measured from now on. */
export function processFigures(output: LogOutput): () => ProcessFigures {
  const startedEpochS = Math.round(Date.now() / 1000 - process.uptime())
  const delay = monitorEventLoopDelay({ resolution: LOOP_DELAY_RESOLUTION_MS })
  delay.enable()
  const loopLag = loopDelayReader(delay, () => performance.now())
  return () => {
    const { user, system } = process.cpuUsage()
    const { rss, heapUsed } = process.memoryUsage()
    return {
      cpuSeconds: (user + system) / 1e6,
      residentBytes: rss,
      startedEpochS,
      heapUsedBytes: heapUsed,
      loopLag: loopLag(),
      logLinesDropped: output.dropped(),
    }
  }
}
