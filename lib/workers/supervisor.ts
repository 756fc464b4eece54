// The primary process of a proxy with several workers. It starts them, replaces one that dies, passes on what they
// learn, and ends all of them together. It serves no request itself. Decisions: supervision.ts; what it keeps for them:
// primary-services.ts.
import cluster, { type Worker } from 'node:cluster'
import type { UsageLedger } from '../balancer/usage-ledger.ts'
import type { Clock } from '../clock.ts'
import type { Log } from '../log.ts'
import { type FileTexts, type FromWorker, isMessage, type ToWorker } from './messages.ts'
import { createPrimaryServices, type PrimaryServices, type Told } from './primary-services.ts'
import { decide, type Effect, INITIAL, type SupervisionEvent } from './supervision.ts'

/**
 * The environment variable in which a worker finds its arguments: argv is not its own, above all not in a packaged
 * program.
 */
export const WORKER_ARGS = 'AZURE_OPENAI_PROXY_WORKER'

/** Over the grace period: how long a worker has to end before it is killed. It ends by itself within a second. */
const KILL_AFTER_MS = 1_500

export interface SupervisorOptions {
  readonly workers: number
  /** Given to every worker, as JSON. */
  readonly args: unknown
  /** The config in force. */
  readonly texts: () => FileTexts
  readonly clock: Clock
  readonly log: Log
  /** Sums of the days and months of keys. */
  readonly ledger: UsageLedger
  readonly told?: Told
  /** Starts a worker process; left out: a fork of this program. */
  readonly spawn?: (args: unknown) => WorkerProcess
}

/** What the primary needs of a worker process. */
export interface WorkerProcess {
  readonly id: number
  readonly pid: number | undefined
  /** Does nothing where the process does not hear any more. */
  send(message: ToWorker): void
  /** Ends it at once. */
  kill(): void
  onMessage(hear: (message: unknown) => void): void
  onExit(ended: (code: number | null, signal: string | null) => void): void
}

function fork(args: unknown): WorkerProcess {
  const worker: Worker = cluster.fork({ [WORKER_ARGS]: JSON.stringify(args) })
  worker.on('error', () => undefined)
  return {
    id: worker.id,
    pid: worker.process.pid,
    send(message) {
      if (worker.isConnected()) worker.send(message, () => undefined)
    },
    kill: () => void worker.process.kill('SIGKILL'),
    onMessage: hear => void worker.on('message', hear),
    onExit: ended => void worker.once('exit', ended),
  }
}

export type Started =
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'failed'; readonly message: string }

export interface Supervisor {
  /** Starts all; resolves with the port when the first one listens, or with the reason why none can. */
  start(): Promise<Started>
  reload(): void
  /** Tells the workers that a reload has failed. @param problem the first one */
  reloadFailed(problem: string): void
  reopen(): void
  /** Resolves when all workers have ended. */
  shutdown(graceMs: number): Promise<void>
}

interface Acting extends SupervisorOptions {
  readonly running: Map<number, WorkerProcess>
  readonly services: PrimaryServices
  readonly sendTo: (id: number, message: ToWorker) => void
  readonly fork: () => void
  readonly happened: (event: SupervisionEvent) => void
  readonly onStarted: (started: Started) => void
  readonly onAllGone: () => void
}

/** Does what was decided. */
function act(effect: Effect, acting: Acting): void {
  const { running, services, sendTo, clock, log } = acting
  switch (effect.kind) {
    case 'fork':
      acting.fork()
      return
    case 'fork_after':
      clock.after(effect.waitMs, () => acting.happened({ kind: 'pause_over' }))
      return
    case 'send_start':
      sendTo(effect.id, { kind: 'start', texts: acting.texts(), items: services.welcome(effect.id) })
      return
    case 'send_lead':
      sendTo(effect.id, { kind: 'lead' })
      return
    case 'send_shutdown':
      sendTo(effect.id, { kind: 'shutdown' })
      return
    case 'kill':
      running.get(effect.id)?.kill()
      return
    case 'listening':
      acting.onStarted({ kind: 'listening', port: effect.port })
      return
    case 'failed':
      acting.onStarted({ kind: 'failed', message: effect.message })
      return
    case 'log_death': {
      const { id, code, signal, inMs } = effect
      const pid = running.get(id)?.pid ?? null
      log.error('worker died and is replaced', { pid, code, signal, in_ms: inMs })
      return
    }
    case 'log_cannot_listen': {
      const pid = running.get(effect.id)?.pid ?? null
      log.error('worker cannot listen', { pid, error: effect.message })
      return
    }
    case 'bury':
      running.delete(effect.id)
      services.bury(effect.id)
      return
    case 'all_gone':
      acting.onAllGone()
      return
  }
}

export function createSupervisor(options: SupervisorOptions): Supervisor {
  const { workers, args, texts, clock, spawn = fork } = options
  const running = new Map<number, WorkerProcess>()
  let state = INITIAL
  let onStarted: (started: Started) => void = () => undefined
  let onAllGone: () => void = () => undefined

  const sendTo = (id: number, message: ToWorker): void => running.get(id)?.send(message)
  const services = createPrimaryServices(clock, sendTo, options.ledger, options.told)

  const startOne = (): void => {
    const worker = spawn(args)
    const { id } = worker
    running.set(id, worker)
    worker.onMessage(message => {
      // What a worker said before its end may arrive after it.
      if (isMessage(message) && state.workers.has(id)) hear(id, message)
    })
    worker.onExit((code, signal) => happened({ kind: 'exited', id, code, signal, atMs: clock.nowMs() }))
    happened({ kind: 'forked', id, atMs: clock.nowMs() })
  }

  const hear = (id: number, message: FromWorker): void => {
    switch (message.kind) {
      case 'awake':
        happened({ kind: 'awake', id })
        break
      case 'ready':
        happened({ kind: 'ready', id, port: message.port })
        break
      case 'cannot_listen':
        happened({ kind: 'cannot_listen', id, message: message.message })
        break
      default:
        services.answer(id, message)
        break
    }
  }

  const happened = (event: SupervisionEvent): void => {
    const { next, effects } = decide(state, event)
    state = next
    const acting = { ...options, running, services, sendTo, fork: startOne, happened, onStarted, onAllGone }
    for (const effect of effects) act(effect, acting)
  }

  return {
    start() {
      return new Promise(resolve => {
        onStarted = resolve
        happened({ kind: 'begin', workers })
      })
    },
    reloadFailed: problem => services.broadcast({ kind: 'reload_failed', problem }),
    reload: () => services.broadcast({ kind: 'reload', texts: texts() }),
    reopen: () => services.broadcast({ kind: 'reopen' }),
    shutdown(graceMs) {
      return new Promise(resolve => {
        const killer = clock.after(graceMs + KILL_AFTER_MS, () => happened({ kind: 'grace_over' }))
        onAllGone = () => {
          killer.cancel()
          resolve()
        }
        happened({ kind: 'stop' })
      })
    },
  }
}
