// The main command: the proxy as one process, or as a primary with workers. Signals, exit codes, and nothing lost on
// the way out.
import { createServer } from 'node:net'
import { availableParallelism } from 'node:os'
import { systemClock } from '../clock.ts'
import { logEgressChange } from '../server/network.ts'
import { createStateLines } from '../workers/state-lines.ts'
import { createSupervisor } from '../workers/supervisor.ts'
import {
  assemble,
  endWithin,
  failStart,
  listenErrorText,
  logFor,
  type OpenedLog,
  openLedger,
  type ServeOptions,
  type ServingProcess,
  withPort,
} from './assemble.ts'
import type { ExitCode } from './exit-code.ts'
import { loadOrReport } from './load.ts'
import { applyConfig, type ReloadResult, reloadConfig, watchFiles } from './reload.ts'

/** The longest a timer of Node's takes. */
const MAX_TIMER_MS = 2 ** 31 - 1
/** Workers end a second after their grace period at the latest; one that does not is killed. */
const WORKERS_END_MS = 1_000

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

/** Listens to SIGHUP and, where asked for, to the files; both read the config again. */
function followConfig(
  options: ServeOptions,
  first: ReloadResult,
  { log, output }: OpenedLog,
  {
    onNewConfig,
    failed,
    reopen,
  }: {
    readonly onNewConfig: (fresh: ReloadResult) => boolean
    readonly failed: (problem: string) => void
    readonly reopen?: () => void
  },
): void {
  let files = first.files
  let watched = first.config.server.watch
  const reloadNow = (): boolean => {
    const fresh = reloadConfig(options.file, log, failed)
    if (fresh === undefined) return false
    files = fresh.files
    watched = fresh.config.server.watch
    return onNewConfig({ ...fresh, config: withPort(fresh.config, options.port) })
  }
  // A signal says nothing of its sender; to send one, or to change the file, takes the rights of this process.
  const again = (by: 'SIGHUP' | 'file_change'): void => {
    const applied = reloadNow()
    log[applied ? 'info' : 'error'](applied ? 'config reload' : 'config reload refused', {
      audit: true,
      by,
      file: options.file,
      key: null,
      client: null,
    })
  }
  const reopenAll = (): void => {
    output.reopen()
    reopen?.()
  }
  process.on('SIGHUP', () => {
    reopenAll()
    again('SIGHUP')
  })
  // By habit of nginx and others. Unheard, the one would open Node's debugger, and the other end the process.
  process.on('SIGUSR1', reopenAll)
  process.on('SIGUSR2', reopenAll)
  watchFiles(
    systemClock(),
    () => files,
    () => {
      if (watched) again('file_change')
    },
  )
}

/** Serves a config in this process until a signal, drains, and ends. */
async function serveHere(
  { config, texts }: Pick<ReloadResult, 'config' | 'texts'>,
  version: string,
  hooks: { readonly onListening?: (port: number) => void; readonly follow?: (assembled: ServingProcess) => void },
): Promise<ExitCode> {
  const assembled = assemble({ config, texts }, version)
  if (typeof assembled === 'string') return failStart(assembled)
  const { proxy, entra, opened, ledger } = assembled
  const { log, output } = opened
  const stopped = stopSignal()
  hooks.follow?.(assembled)
  try {
    const { port } = await proxy.listen()
    hooks.onListening?.(port)
    log.info('listening', { port, host: config.server.host ?? null, version, pid: process.pid })
  } catch (error) {
    // What was begun for requests ends without a word: an issuer that is not waited for has not failed.
    await proxy.shutdown(0)
    entra.close()
    ledger?.close()
    return failStart(listenErrorText(error, config.server.port))
  }
  const signal = await stopped
  const graceMs = proxy.runtime().config.server.shutdownGraceMs
  log.info('draining', { signal, in_flight: proxy.app.inFlight(), grace_ms: graceMs })
  return endWithin(graceMs, output, 0, async () => {
    await proxy.shutdown(graceMs)
    entra.close()
    ledger?.close()
    log.info('stopped')
  })
}

/** Serves a config that came from no file, so that there is nothing to reload. */
export function serveLoaded(
  loaded: Pick<ReloadResult, 'config' | 'texts'>,
  version: string,
  onListening: (port: number) => void,
): Promise<ExitCode> {
  return serveHere(loaded, version, { onListening })
}

function serveAlone(options: ServeOptions, loaded: ReloadResult): Promise<ExitCode> {
  return serveHere(loaded, options.version, {
    follow: ({ proxy, opened }) =>
      followConfig(options, loaded, opened, {
        onNewConfig: fresh => applyConfig(proxy, fresh, opened.log),
        failed: proxy.reloadFailed,
      }),
  })
}

/** A port that is free now: "any" must mean the same one for a worker that starts when all others are dead. */
function freePort(host: string | undefined): Promise<number> {
  const server = createServer()
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port: 0, ...(host === undefined ? {} : { host }) }, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}

async function serveWithWorkers(given: ServeOptions, loaded: ReloadResult, workers: number): Promise<ExitCode> {
  const { port, host } = loaded.config.server
  const options = port === 0 ? { ...given, port: await freePort(host).catch(() => 0) } : given
  let { config, texts } = loaded
  const opened = logFor(() => config, true)
  if (typeof opened === 'string') return failStart(opened)
  const { log, output } = opened
  const ledger = openLedger(config, log)
  if (typeof ledger === 'string') return failStart(ledger)
  const stopped = stopSignal()
  const lines = createStateLines(systemClock(), log)
  const supervisor = createSupervisor({
    workers,
    args: options,
    texts: () => texts,
    clock: systemClock(),
    log,
    ledger,
    told: { onEgress: change => logEgressChange(log, change), onLine: lines.take },
  })
  followConfig(options, loaded, opened, {
    onNewConfig(fresh) {
      config = fresh.config
      texts = fresh.texts
      lines.reset()
      supervisor.reload()
      return true
    },
    failed: supervisor.reloadFailed,
    reopen: supervisor.reopen,
  })
  // Workers come and go: something must keep this process while none is there. Every other timer lets it end.
  const alive = setInterval(() => undefined, MAX_TIMER_MS)
  const started = await Promise.race([supervisor.start(), stopped.then(() => undefined)])
  if (started?.kind === 'failed') {
    await supervisor.shutdown(0)
    clearInterval(alive)
    return failStart(started.message)
  }
  if (started !== undefined) {
    log.info('listening', {
      port: started.port,
      host: config.server.host ?? null,
      version: options.version,
      pid: process.pid,
      workers,
    })
  }
  const signal = await stopped
  const graceMs = config.server.shutdownGraceMs
  log.info('draining', { signal, grace_ms: graceMs })
  return endWithin(graceMs + WORKERS_END_MS, output, 0, async () => {
    await supervisor.shutdown(graceMs)
    ledger.close()
    log.info('stopped')
  })
}

/** Serves until a signal, drains, and ends. */
export async function serve(options: ServeOptions): Promise<ExitCode> {
  // What ends this process without a word is no success: a service manager must start it again.
  process.exitCode = 1
  const loaded = loadOrReport(options.file)
  if (loaded === undefined) return 2
  const config = withPort(loaded.config, options.port)
  const workers = config.server.workers === 'auto' ? availableParallelism() : config.server.workers
  const ready = { ...loaded, config }
  return workers > 1 ? serveWithWorkers(options, ready, workers) : serveAlone(options, ready)
}
