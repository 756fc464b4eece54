// The benchmark's own child processes, upstream and load, and how to talk with them.
import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { FromLoad, Job, Result } from './load.ts'
import type { FromUpstream, ToUpstream } from './upstream.ts'

/**
 * Starts a program with `prefix` in front of its command line, such as taskset's.
 * @param stdio `ipc`: with a channel for messages; `silent`: its standard error is its log, and thrown away
 */
export function start(
  prefix: readonly string[],
  command: readonly string[],
  stdio: 'ignore' | 'ipc' | 'silent',
  cwd?: string,
): ChildProcess {
  const [program = '', ...args] = [...prefix, ...command]
  return spawn(program, args, {
    stdio: [
      'ignore',
      'ignore',
      stdio === 'silent' ? 'ignore' : 'inherit',
      ...(stdio === 'ipc' ? (['ipc'] as const) : []),
    ],
    // 150 certificates that this machine's user trusts would be 2 MB of a target that needs none.
    env: { ...process.env, NODE_EXTRA_CA_CERTS: undefined },
    ...(cwd === undefined ? {} : { cwd }),
  })
}

/** Ends a child, and waits until it is gone. */
export function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
  return new Promise(resolve => {
    child.once('exit', () => resolve())
    child.kill('SIGTERM')
  })
}

/** The next message of this kind. Rejects when the child ends before. */
export function heard<M extends { readonly kind: string }, K extends M['kind']>(
  child: ChildProcess,
  kind: K,
): Promise<Extract<M, { readonly kind: K }>> {
  return new Promise((resolve, reject) => {
    const onExit = (): void => reject(new Error('a process of the benchmark ended early'))
    const onMessage = (message: M): void => {
      if (message.kind !== kind) return
      child.off('message', onMessage).off('exit', onExit)
      resolve(message as Extract<M, { readonly kind: K }>)
    }
    child.on('message', onMessage).on('exit', onExit)
  })
}

/** Starts a file of this folder as a process of its own, with a channel for messages. */
export function startHere(prefix: readonly string[], file: string): ChildProcess {
  return start(prefix, [process.execPath, fileURLToPath(new URL(file, import.meta.url))], 'ipc')
}

export interface Upstream {
  readonly port: number
  readonly secondPort: number
  /** The first port's answers over TLS, and the PEM of its certificate. */
  readonly tlsPort: number
  readonly certificate: string
  /** Whether the second port answers 500. */
  fail(on: boolean): void
  /** What it has seen since it was last asked. */
  count(): Promise<Extract<FromUpstream, { readonly kind: 'counted' }>>
  stop(): Promise<void>
}

export async function startUpstream(prefix: readonly string[]): Promise<Upstream> {
  const child = startHere(prefix, './upstream.js')
  const tell = (message: ToUpstream): void => {
    child.send(message)
  }
  const { port, secondPort, tlsPort, certificate } = await heard<FromUpstream, 'listening'>(child, 'listening')
  return {
    port,
    secondPort,
    tlsPort,
    certificate,
    fail: on => tell({ kind: 'fail', on }),
    count() {
      const answer = heard<FromUpstream, 'counted'>(child, 'counted')
      tell({ kind: 'count' })
      return answer
    },
    stop: () => stop(child),
  }
}

export interface Load {
  /** Performs one job; one at a time. */
  run(job: Job): Promise<Result>
  /** While a job with slow streams runs: all of them are open. */
  opened(): Promise<void>
  stop(): Promise<void>
}

export async function startLoad(prefix: readonly string[]): Promise<Load> {
  const child = startHere(prefix, './load.js')
  await heard<FromLoad, 'ready'>(child, 'ready')
  return {
    run(job) {
      const result = heard<FromLoad, 'result'>(child, 'result')
      child.send(job)
      return result
    },
    async opened() {
      await heard<FromLoad, 'opened'>(child, 'opened')
    },
    stop: () => stop(child),
  }
}
