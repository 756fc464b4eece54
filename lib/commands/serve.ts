// The main command: the proxy as one process, or as a primary with workers. Signals, exit codes, and nothing lost on the way out.
import { availableParallelism } from 'node:os'
import type { TokenAuthorizers } from '../azure/entra.ts'
import { systemClock } from '../clock.ts'
import type { Config } from '../config/types.ts'
import { createPeers, type Peers } from '../server/peers.ts'
import { createProxy, type ProxyServer } from '../server/proxy.ts'
import { createSupervisor, type FromWorker, type ToWorker } from '../server/supervisor.ts'
import type { ExitCode } from './exit-code.ts'
import { loadOrExplain } from './load.ts'
import { createEntra, type OpenedLog, openLog, processFigures, readTls } from './process-parts.ts'
import { type Reloaded, readAgain, takeUp, watchFiles } from './reload.ts'

/** Log lines that are still queued at the end get this long to reach their reader. */
const FLUSH_MS = 1_000

export interface ServeOptions {
  readonly file: string
  readonly port: number | undefined
  readonly version: string
}

function withPort(config: Config, port: number | undefined): Config {
  return port === undefined ? config : { ...config, server: { ...config.server, port } }
}

function whyNot(error: unknown, port: number): string {
  const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
  if (code === 'EADDRINUSE') return `port ${port} is in use`
  if (code === 'EACCES') return `port ${port} may not be opened by this user`
  return error instanceof Error ? error.message : 'unknown error'
}

/** Resolves with the first signal to stop; a second one exits at once. */
function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise(resolve => {
    let stopping = false
    const onSignal = (signal: NodeJS.Signals): void => {
      if (stopping) process.exit(1)
      stopping = true
      resolve(signal)
    }
    process.on('SIGTERM', onSignal)
    process.on('SIGINT', onSignal)
  })
}

function complain(message: string): ExitCode {
  process.stderr.write(`azure-openai-proxy: ${message}\n`)
  return 1
}

/** Opens the log a config asks for, or says why it cannot. */
function logFor(config: () => Config, shared: boolean): OpenedLog | string {
  try {
    return openLog(systemClock(), () => config().logging, shared)
  } catch (error) {
    return `the log file cannot be opened: ${error instanceof Error ? error.message : 'unknown'}`
  }
}

interface Process {
  readonly proxy: ProxyServer
  readonly entra: TokenAuthorizers
  readonly opened: OpenedLog
}

/** Makes a proxy of this process, not listening yet. */
function assemble(
  config: Config,
  version: string,
  among?: {
    readonly shareWith: (items: Parameters<ProxyServer['learn']>[0]) => void
    readonly peers: Peers
  },
): Process | string {
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

/** Listens to SIGHUP and, where asked for, to the files; both read the config again. */
function followConfig(
  options: ServeOptions,
  first: Reloaded,
  opened: OpenedLog,
  takeOver: (fresh: Reloaded) => void,
): void {
  const { log, output } = opened
  let files = first.files
  let watched = first.config.server.watch
  const again = (): void => {
    const fresh = readAgain(options.file, log)
    if (fresh === undefined) return
    files = fresh.files
    watched = fresh.config.server.watch
    takeOver({ config: withPort(fresh.config, options.port), files })
  }
  process.on('SIGHUP', () => {
    output.reopen()
    again()
  })
  watchFiles(
    systemClock(),
    () => files,
    () => {
      if (watched) again()
    },
  )
}

/** Serves a config in this process until a signal, drains, and ends. */
async function serveHere(
  { config }: Reloaded,
  version: string,
  hooks: { readonly onListening?: (port: number) => void; readonly follow?: (assembled: Process) => void },
): Promise<ExitCode> {
  const assembled = assemble(config, version)
  if (typeof assembled === 'string') return complain(assembled)
  const { proxy, entra, opened } = assembled
  const { log, output } = opened
  const stopped = stopSignal()
  hooks.follow?.(assembled)
  try {
    const { port } = await proxy.listen()
    hooks.onListening?.(port)
    log.info('listening', { port, host: config.server.host ?? null, version, pid: process.pid })
  } catch (error) {
    return complain(whyNot(error, config.server.port))
  }
  const signal = await stopped
  const graceMs = proxy.gateway().config.server.shutdownGraceMs
  log.info('draining', { signal, in_flight: proxy.app.inFlight(), grace_ms: graceMs })
  await proxy.shutdown(graceMs)
  entra.close()
  log.info('stopped')
  await output.flush(FLUSH_MS)
  return 0
}

/** Serves a config that came from no file, so that there is nothing to reload. */
export function serveLoaded(loaded: Reloaded, version: string, onListening: (port: number) => void): Promise<ExitCode> {
  return serveHere(loaded, version, { onListening })
}

function serveAlone(options: ServeOptions, loaded: Reloaded): Promise<ExitCode> {
  return serveHere(loaded, options.version, {
    follow: ({ proxy, opened }) => followConfig(options, loaded, opened, fresh => takeUp(proxy, fresh, opened.log)),
  })
}

async function serveWithWorkers(options: ServeOptions, loaded: Reloaded, workers: number): Promise<ExitCode> {
  let { config } = loaded
  const opened = logFor(() => config, true)
  if (typeof opened === 'string') return complain(opened)
  const { log, output } = opened
  const stopped = stopSignal()
  const supervisor = createSupervisor({ workers, args: options, clock: systemClock(), log })
  followConfig(options, loaded, opened, fresh => {
    config = fresh.config
    supervisor.reload()
  })
  const started = await supervisor.start()
  if (started.kind === 'failed') {
    await supervisor.shutdown(0)
    return complain(started.message)
  }
  log.info('listening', {
    port: started.port,
    host: config.server.host ?? null,
    version: options.version,
    pid: process.pid,
    workers,
  })
  const signal = await stopped
  log.info('draining', { signal, grace_ms: config.server.shutdownGraceMs })
  await supervisor.shutdown(config.server.shutdownGraceMs)
  log.info('stopped')
  await output.flush(FLUSH_MS)
  return 0
}

/** Serves until a signal, drains, and ends. */
export async function serve(options: ServeOptions): Promise<ExitCode> {
  const loaded = loadOrExplain(options.file)
  if (loaded === undefined) return 2
  const config = withPort(loaded.config, options.port)
  const workers = config.server.workers === 'auto' ? availableParallelism() : config.server.workers
  const ready = { config, files: loaded.files }
  return workers > 1 ? serveWithWorkers(options, ready, workers) : serveAlone(options, ready)
}

function isOptions(value: unknown): value is ServeOptions {
  return typeof value === 'object' && value !== null && 'file' in value && 'version' in value
}

function say(message: FromWorker): void {
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}

/**
 * A worker of serveWithWorkers.
 * @param args what the primary put into the environment, as JSON
 */
export async function serveAsWorker(args: string): Promise<ExitCode> {
  const options: unknown = JSON.parse(args)
  if (!isOptions(options)) return complain('a worker was started without its arguments')
  const loaded = loadOrExplain(options.file)
  if (loaded === undefined) return 2
  const config = withPort(loaded.config, options.port)
  const peers = createPeers(systemClock(), say, () =>
    typeof assembled === 'string' ? undefined : assembled.proxy.state(),
  )
  const assembled = assemble(config, options.version, { shareWith: items => say({ kind: 'share', items }), peers })
  if (typeof assembled === 'string') return complain(assembled)
  const { proxy, entra, opened } = assembled
  const { log, output } = opened
  // The primary alone answers signals: a terminal sends them to the whole group.
  process.on('SIGINT', () => undefined)
  process.on('SIGTERM', () => undefined)
  process.on('SIGHUP', () => undefined)
  const ended = new Promise<void>(resolve => {
    process.on('disconnect', resolve)
    process.on('message', (message: ToWorker) => {
      switch (message.kind) {
        case 'share':
          return proxy.learn(message.items)
        case 'lead':
          return proxy.startProbes()
        case 'count':
          return say({ kind: 'counted', question: message.question, state: proxy.state() })
        case 'counts':
        case 'admission':
          return peers.onReply(message)
        case 'reload': {
          output.reopen()
          const fresh = readAgain(options.file, log)
          if (fresh !== undefined) takeUp(proxy, { ...fresh, config: withPort(fresh.config, options.port) }, log)
          return
        }
        case 'shutdown':
          return resolve()
      }
    })
  })
  try {
    const { port } = await proxy.listen()
    say({ kind: 'ready', port })
  } catch (error) {
    say({ kind: 'cannot_listen', message: whyNot(error, config.server.port) })
    await ended
    return 1
  }
  await ended
  await proxy.shutdown(proxy.gateway().config.server.shutdownGraceMs)
  entra.close()
  await output.flush(FLUSH_MS)
  process.exit(0)
}
