// The main command: the proxy as a process. Signals, exit codes, and nothing lost on the way out.
import { systemClock } from '../clock.ts'
import type { Config } from '../config/types.ts'
import type { ExitCode } from '../main.ts'
import { createProxy, type Proxy } from '../server/proxy.ts'
import { loadOrExplain } from './load.ts'
import { createEntra, openLog, readTls } from './process-parts.ts'

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

/** Serves until a signal, drains, and ends. */
export async function serve({ file, port, version }: ServeOptions): Promise<ExitCode> {
  const loaded = loadOrExplain(file)
  if (loaded === undefined) return 2
  const config = withPort(loaded.config, port)
  const clock = systemClock()
  let current = (): Config => config
  const { log, output } = openLog(clock, () => current().logging)
  const proxy: Proxy = createProxy({
    config,
    version,
    clock,
    random: Math.random,
    log,
    tokenAuthorizer: createEntra(clock, message => log.error(message)),
    ...tlsOption(config),
  })
  current = () => proxy.gateway().config

  const stopped = stopSignal()
  try {
    const address = await proxy.listen()
    log.info('listening', { port: address.port, host: config.server.host ?? null, version, pid: process.pid })
  } catch (error) {
    process.stderr.write(`azure-openai-proxy: ${whyNot(error, config.server.port)}\n`)
    return 1
  }
  const signal = await stopped
  log.info('draining', { signal, in_flight: proxy.app.inFlight(), grace_ms: config.server.shutdownGraceMs })
  await proxy.shutdown(config.server.shutdownGraceMs)
  log.info('stopped', {})
  await output.flush(FLUSH_MS)
  return 0
}

function tlsOption(config: Config): { readonly tls?: NonNullable<ReturnType<typeof readTls>> } {
  const tls = readTls(config.server.tls)
  return tls === undefined ? {} : { tls }
}
