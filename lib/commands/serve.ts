// The main command: the proxy as one process, or as a primary with workers. Signals, exit codes, and nothing lost on the way out.
import { availableParallelism } from 'node:os'
import { systemClock } from '../clock.ts'
import { createSupervisor } from '../workers/supervisor.ts'
import {
  assemble,
  FLUSH_MS,
  failStart,
  listenErrorText,
  logFor,
  type OpenedLog,
  type ServeOptions,
  type ServingProcess,
  withPort,
} from './assemble.ts'
import type { ExitCode } from './exit-code.ts'
import { loadOrReport } from './load.ts'
import { applyConfig, type ReloadResult, reloadConfig, watchFiles } from './reload.ts'

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
  { takeOver, reopen }: { readonly takeOver: (fresh: ReloadResult) => void; readonly reopen?: () => void },
): void {
  let files = first.files
  let watched = first.config.server.watch
  const again = (): void => {
    const fresh = reloadConfig(options.file, log)
    if (fresh === undefined) return
    files = fresh.files
    watched = fresh.config.server.watch
    takeOver({ ...fresh, config: withPort(fresh.config, options.port) })
  }
  process.on('SIGHUP', () => {
    output.reopen()
    reopen?.()
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
  { config }: Pick<ReloadResult, 'config'>,
  version: string,
  hooks: { readonly onListening?: (port: number) => void; readonly follow?: (assembled: ServingProcess) => void },
): Promise<ExitCode> {
  const assembled = assemble(config, version)
  if (typeof assembled === 'string') return failStart(assembled)
  const { proxy, entra, opened } = assembled
  const { log, output } = opened
  const stopped = stopSignal()
  hooks.follow?.(assembled)
  try {
    const { port } = await proxy.listen()
    hooks.onListening?.(port)
    log.info('listening', { port, host: config.server.host ?? null, version, pid: process.pid })
  } catch (error) {
    return failStart(listenErrorText(error, config.server.port))
  }
  const signal = await stopped
  const graceMs = proxy.runtime().config.server.shutdownGraceMs
  log.info('draining', { signal, in_flight: proxy.app.inFlight(), grace_ms: graceMs })
  await proxy.shutdown(graceMs)
  entra.close()
  log.info('stopped')
  await output.flush(FLUSH_MS)
  return 0
}

/** Serves a config that came from no file, so that there is nothing to reload. */
export function serveLoaded(
  loaded: Pick<ReloadResult, 'config'>,
  version: string,
  onListening: (port: number) => void,
): Promise<ExitCode> {
  return serveHere(loaded, version, { onListening })
}

function serveAlone(options: ServeOptions, loaded: ReloadResult): Promise<ExitCode> {
  return serveHere(loaded, options.version, {
    follow: ({ proxy, opened }) =>
      followConfig(options, loaded, opened, { takeOver: ({ config }) => applyConfig(proxy, config, opened.log) }),
  })
}

async function serveWithWorkers(options: ServeOptions, loaded: ReloadResult, workers: number): Promise<ExitCode> {
  let { config, texts } = loaded
  const opened = logFor(() => config, true)
  if (typeof opened === 'string') return failStart(opened)
  const { log, output } = opened
  const stopped = stopSignal()
  const supervisor = createSupervisor({ workers, args: options, texts: () => texts, clock: systemClock(), log })
  followConfig(options, loaded, opened, {
    takeOver(fresh) {
      config = fresh.config
      texts = fresh.texts
      supervisor.reload()
    },
    reopen: supervisor.reopen,
  })
  const started = await supervisor.start()
  if (started.kind === 'failed') {
    await supervisor.shutdown(0)
    return failStart(started.message)
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
  const loaded = loadOrReport(options.file)
  if (loaded === undefined) return 2
  const config = withPort(loaded.config, options.port)
  const workers = config.server.workers === 'auto' ? availableParallelism() : config.server.workers
  const ready = { ...loaded, config }
  return workers > 1 ? serveWithWorkers(options, ready, workers) : serveAlone(options, ready)
}
