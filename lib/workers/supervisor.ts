// The primary process of a proxy with several workers: starts them, replaces one that dies, passes on what they learn, collects
// what they count, and brings all of them to an end together. It serves no request itself.
import cluster, { type Worker } from 'node:cluster'
import { createKeyUsage } from '../balancer/key-limits.ts'
import type { Clock, Timer } from '../clock.ts'
import type { Log } from '../log.ts'
import type { PrimaryCall, PrimaryResult } from './peers.ts'
import type { StateUpdate } from './sharing.ts'

/** What a worker says. */
export type FromWorker =
  /** The first: from now on it hears what it is told. */
  | { readonly kind: 'awake' }
  | { readonly kind: 'ready'; readonly port: number }
  | { readonly kind: 'cannot_listen'; readonly message: string }
  | { readonly kind: 'share'; readonly items: readonly StateUpdate[] }
  | PrimaryCall
  | { readonly kind: 'counted'; readonly question: number; readonly state: unknown }

/** The texts of the files a config was made of, by path: what each worker serves is what the primary has found sound. */
export type FileTexts = readonly (readonly [path: string, text: string])[]

/** What a worker is told. */
export type ToWorker =
  /** The answer to `awake`: the config to begin with. Not read from the disk, where a broken one may lie by now. */
  | { readonly kind: 'start'; readonly texts: FileTexts }
  | { readonly kind: 'share'; readonly items: readonly StateUpdate[] }
  /** Probes run in one worker only. */
  | { readonly kind: 'lead' }
  | { readonly kind: 'reload'; readonly texts: FileTexts }
  /** The log file has been renamed. */
  | { readonly kind: 'reopen' }
  | { readonly kind: 'shutdown' }
  | { readonly kind: 'count'; readonly question: number }
  | PrimaryResult

/** The environment variable in which a worker finds its arguments: argv is not its own, above all not in a packaged program. */
export const WORKER_ARGS = 'AZURE_OPENAI_PROXY_WORKER'

/** A worker that lived this long died of something else than its start. */
const HEALTHY_MS = 10_000
/** Pause before a worker that keeps dying is started again: doubled each time, up to the second figure. */
const FIRST_PAUSE_MS = 500
const MAX_PAUSE_MS = 30_000
/** A worker that does not count within this is left out of the sum. */
const COUNT_MS = 1_000
/** Over the grace period: how long a worker has to end before it is killed. */
const KILL_AFTER_MS = 3_000

export interface SupervisorOptions {
  readonly workers: number
  /** Given to every worker, as JSON. */
  readonly args: unknown
  /** The config in force. */
  readonly texts: () => FileTexts
  readonly clock: Clock
  readonly log: Log
}

export interface Supervisor {
  /** Starts all; resolves with the port when the first one listens, or with why it cannot. */
  start(): Promise<
    { readonly kind: 'listening'; readonly port: number } | { readonly kind: 'failed'; readonly message: string }
  >
  reload(): void
  reopen(): void
  /** Resolves when all workers have ended. */
  shutdown(graceMs: number): Promise<void>
}

function isMessage(value: unknown): value is FromWorker {
  return typeof value === 'object' && value !== null && 'kind' in value
}

export function createSupervisor({ workers, args, texts, clock, log }: SupervisorOptions): Supervisor {
  const alive = new Set<Worker>()
  /** Those that serve; one that is only about to would not hear what it is told. */
  const serving = new Set<Worker>()
  const bornMs = new WeakMap<Worker, number>()
  const keyUsage = createKeyUsage(clock)
  /** Admissions that each worker has not settled: settled for it should it die. */
  const tickets = new Map<Worker, Set<number>>()
  const questions = new Map<string, { readonly states: unknown[]; missing: number; answer: () => void; timer: Timer }>()
  let leader: Worker | undefined
  let ending = false
  let pauseMs = FIRST_PAUSE_MS
  let allGone: (() => void) | undefined
  let settleStart: ((started: Awaited<ReturnType<Supervisor['start']>>) => void) | undefined

  const tell = (worker: Worker, message: ToWorker): void => {
    if (worker.isConnected()) worker.send(message, () => undefined)
  }
  const tellAll = (message: ToWorker, except?: Worker): void => {
    for (const worker of serving) if (worker !== except) tell(worker, message)
  }
  const electLeader = (): void => {
    if (leader !== undefined && serving.has(leader)) return
    leader = [...serving].find(worker => worker.isConnected())
    if (leader !== undefined) tell(leader, { kind: 'lead' })
  }

  /** Every worker is asked for its counters; who asked gets them all. */
  const count = (asker: Worker, question: number): void => {
    const id = `${asker.id}:${question}`
    const states: unknown[] = []
    const answer = (): void => {
      questions.delete(id)
      pending.timer.cancel()
      tell(asker, { kind: 'counts', question, states })
    }
    const pending = { states, missing: serving.size, answer, timer: clock.after(COUNT_MS, answer) }
    questions.set(id, pending)
    for (const worker of serving) tell(worker, { kind: 'count', question: question * 65_536 + asker.id })
  }
  const counted = (question: number, state: unknown): void => {
    const pending = questions.get(`${question % 65_536}:${Math.floor(question / 65_536)}`)
    if (pending === undefined) return
    pending.states.push(state)
    pending.missing--
    if (pending.missing <= 0) pending.answer()
  }

  const onMessage = (worker: Worker, message: unknown): void => {
    if (!isMessage(message)) return
    switch (message.kind) {
      case 'awake':
        serving.add(worker)
        tell(worker, ending ? { kind: 'shutdown' } : { kind: 'start', texts: texts() })
        return
      case 'ready':
        pauseMs = FIRST_PAUSE_MS
        settleStart?.({ kind: 'listening', port: message.port })
        settleStart = undefined
        electLeader()
        return
      case 'cannot_listen':
        ending = true
        settleStart?.({ kind: 'failed', message: message.message })
        settleStart = undefined
        return
      case 'share':
        tellAll({ kind: 'share', items: message.items }, worker)
        return
      case 'count':
        count(worker, message.question)
        return
      case 'admit': {
        const { question, name, limits, tokens } = message
        const admission = keyUsage.admit(name, limits, tokens)
        if (admission.kind === 'admitted') tickets.get(worker)?.add(admission.ticket)
        tell(worker, { kind: 'admission', question, admission })
        return
      }
      case 'settle':
        tickets.get(worker)?.delete(message.ticket)
        keyUsage.settle(message.ticket, message.tokens ?? undefined)
        return
      case 'counted':
        counted(message.question, message.state)
        return
    }
  }

  const fork = (): void => {
    const worker = cluster.fork({ [WORKER_ARGS]: JSON.stringify(args) })
    alive.add(worker)
    tickets.set(worker, new Set())
    bornMs.set(worker, clock.nowMs())
    worker.on('message', message => onMessage(worker, message))
    worker.on('error', () => undefined)
    worker.once('exit', (code: number | null, signal: string | null) => onExit(worker, code, signal))
  }

  const onExit = (worker: Worker, code: number | null, signal: string | null): void => {
    alive.delete(worker)
    serving.delete(worker)
    for (const ticket of tickets.get(worker) ?? []) keyUsage.settle(ticket, undefined)
    tickets.delete(worker)
    if (ending) {
      if (alive.size === 0) allGone?.()
      return
    }
    const lived = clock.nowMs() - (bornMs.get(worker) ?? 0)
    const waitMs = lived >= HEALTHY_MS ? 0 : pauseMs
    if (lived < HEALTHY_MS) pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)
    log.error('worker died and is replaced', { pid: worker.process.pid ?? null, code, signal, in_ms: waitMs })
    electLeader()
    clock.after(waitMs, () => {
      if (!ending) fork()
    })
  }

  return {
    start() {
      return new Promise(resolve => {
        settleStart = resolve
        for (let i = 0; i < workers; i++) fork()
      })
    },
    reload: () => tellAll({ kind: 'reload', texts: texts() }),
    reopen: () => tellAll({ kind: 'reopen' }),
    shutdown(graceMs) {
      ending = true
      if (alive.size === 0) return Promise.resolve()
      return new Promise(resolve => {
        const killer = clock.after(graceMs + KILL_AFTER_MS, () => {
          for (const worker of alive) worker.process.kill('SIGKILL')
        })
        allGone = () => {
          killer.cancel()
          resolve()
        }
        tellAll({ kind: 'shutdown' })
      })
    },
  }
}
