// One worker of a proxy with several: it serves what the primary gives it, tells what it learns, and ends when the
// primary says so.
import { systemClock } from '../clock.ts'
import type { FromWorker, ToWorker } from '../workers/messages.ts'
import { createPeers } from '../workers/peers.ts'
import { assemble, endWithin, failStart, listenErrorText, type ServeOptions, withPort } from './assemble.ts'
import type { ExitCode } from './exit-code.ts'
import { loadFromTexts } from './load.ts'
import { applyConfig } from './reload.ts'

/**
 * A worker sends its figures unasked this often, if a request has ended since: so little is lost with one that dies.
 */
const COUNT_EVERY_MS = 1_000

function isOptions(value: unknown): value is ServeOptions {
  return typeof value === 'object' && value !== null && 'file' in value && 'version' in value
}

/** @param sent runs once the message is on its way, or cannot be sent */
function say(message: FromWorker, sent: () => void = () => undefined): void {
  if (process.connected) process.send?.(message, undefined, undefined, sent)
  else sent()
}

interface Serving {
  take(message: ToWorker): void
  reopen(): void
  /** Drains and closes. */
  close(): Promise<void>
}

/** Serves the config that the primary has found sound; or says why it cannot. */
function startServing(options: ServeOptions, { texts, items }: ToWorker & { kind: 'start' }): Serving | string {
  const loaded = loadFromTexts(options.file, texts)
  if (loaded.kind === 'invalid') return 'a worker cannot read the config that the primary found sound'
  const config = withPort(loaded.config, options.port)
  const clock = systemClock()
  const peers = createPeers(clock, say)
  const assembled = assemble({ config, texts }, options.version, {
    shareWith: items => say({ kind: 'share', items }),
    onEgress: change => say({ kind: 'egress', change }),
    sayState: line => say({ kind: 'line', line }),
    peers,
  })
  if (typeof assembled === 'string') return assembled
  const { proxy, entra, opened } = assembled
  const { log, output } = opened
  proxy.applyUpdates(items)
  proxy.listen().then(
    ({ port }) => say({ kind: 'ready', port }),
    error => {
      // Of no use without a port: the primary starts another one after a pause.
      say({ kind: 'cannot_listen', message: listenErrorText(error, config.server.port) }, () => process.exit(1))
    },
  )
  let counted = 0
  clock.every(COUNT_EVERY_MS, () => {
    if (proxy.finished() === counted) return
    counted = proxy.finished()
    say({ kind: 'counted', round: null, state: proxy.state() })
  })
  return {
    take(message) {
      switch (message.kind) {
        case 'share':
          return proxy.applyUpdates(message.items)
        case 'lead':
          return proxy.startProbes()
        case 'count':
          return say({ kind: 'counted', round: message.round, state: proxy.state() })
        case 'gathered':
        case 'admission':
        case 'used':
          return peers.onResult(message)
        case 'reopen':
          return output.reopen()
        case 'reload_failed':
          return proxy.reloadFailed(message.problem)
        case 'reload': {
          const fresh = loadFromTexts(options.file, message.texts)
          if (fresh.kind !== 'ok') return
          return applyConfig(proxy, { config: withPort(fresh.config, options.port), texts: message.texts }, log)
        }
        default:
      }
    },
    reopen: output.reopen,
    async close() {
      const graceMs = proxy.runtime().config.server.shutdownGraceMs
      await endWithin(graceMs, output, 0, async () => {
        await proxy.shutdown(graceMs)
        entra.close()
        say({ kind: 'counted', round: null, state: proxy.state() })
      })
    },
  }
}

/**
 * A worker of a proxy with several. Ends the process itself: the channel to the primary would keep it, idle, for ever.
 * @param args what the primary put into the environment, as JSON
 */
export async function serveAsWorker(args: string): Promise<ExitCode> {
  const options: unknown = JSON.parse(args)
  if (!isOptions(options)) process.exit(failStart('a worker was started without its arguments'))
  let serving: Serving | undefined
  // The primary alone answers signals: a terminal sends them to the whole group.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined)
  // Sent to all processes of the name by habit; unheard, the one would open a debugger and the other end the process.
  for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) process.on(signal, () => serving?.reopen())
  await new Promise<void>(resolve => {
    process.on('disconnect', resolve)
    process.on('message', (message: ToWorker) => {
      if (message.kind === 'shutdown') resolve()
      else if (message.kind === 'start') {
        const started = startServing(options, message)
        if (typeof started === 'string') process.exit(failStart(started))
        serving = started
      } else serving?.take(message)
    })
    // Only now: what is sent to a process that does not listen yet is lost.
    say({ kind: 'awake' })
  })
  await serving?.close()
  process.exit(0)
}
