// One worker of a proxy with several: it serves what the primary gives it, tells what it learns, and ends when the
// primary says so.
import { systemClock } from '../clock.ts'
import { createPeers } from '../workers/peers.ts'
import type { FileTexts, FromWorker, ToWorker } from '../workers/supervisor.ts'
import { assemble, FLUSH_MS, failStart, listenErrorText, type ServeOptions, withPort } from './assemble.ts'
import type { ExitCode } from './exit-code.ts'
import { loadFromTexts } from './load.ts'
import { applyConfig } from './reload.ts'

function isOptions(value: unknown): value is ServeOptions {
  return typeof value === 'object' && value !== null && 'file' in value && 'version' in value
}

function say(message: FromWorker): void {
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}

interface Serving {
  take(message: ToWorker): void
  /** Drains and closes. */
  close(): Promise<void>
}

/** Serves the config that the primary has found sound; or says why it cannot. */
function startServing(options: ServeOptions, texts: FileTexts): Serving | string {
  const loaded = loadFromTexts(options.file, texts)
  if (loaded.kind === 'invalid') return 'a worker cannot read the config that the primary found sound'
  const config = withPort(loaded.config, options.port)
  const peers = createPeers(systemClock(), say, () =>
    typeof assembled === 'string' ? undefined : assembled.proxy.state(),
  )
  const assembled = assemble(config, options.version, { shareWith: items => say({ kind: 'share', items }), peers })
  if (typeof assembled === 'string') return assembled
  const { proxy, entra, opened } = assembled
  const { log, output } = opened
  proxy.listen().then(
    ({ port }) => say({ kind: 'ready', port }),
    error => say({ kind: 'cannot_listen', message: listenErrorText(error, config.server.port) }),
  )
  return {
    take(message) {
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
        case 'reopen':
          return output.reopen()
        case 'reload': {
          const fresh = loadFromTexts(options.file, message.texts)
          if (fresh.kind === 'ok') applyConfig(proxy, withPort(fresh.config, options.port), log)
          return
        }
        default:
      }
    },
    async close() {
      await proxy.shutdown(proxy.runtime().config.server.shutdownGraceMs)
      entra.close()
      await output.flush(FLUSH_MS)
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
  // The primary alone answers signals: a terminal sends them to the whole group.
  process.on('SIGINT', () => undefined)
  process.on('SIGTERM', () => undefined)
  process.on('SIGHUP', () => undefined)
  let serving: Serving | undefined
  await new Promise<void>(resolve => {
    process.on('disconnect', resolve)
    process.on('message', (message: ToWorker) => {
      if (message.kind === 'shutdown') resolve()
      else if (message.kind === 'start') {
        const started = startServing(options, message.texts)
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
