// Runs a built executable: what a user does first. Each step throws with what went wrong.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BuildError } from './errors.ts'

/** An emulator is some twenty times slower. */
const STEP_MS = 60_000

/** The program and what stands before its arguments, e.g. an emulator. */
export type CommandLine = readonly [program: string, ...args: string[]]

interface Ended {
  readonly code: number | null
  readonly output: string
}

/** A program that runs: what it has printed so far, and how it ends. */
interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  /** Resolves with the match once the output has it. */
  printed(what: RegExp): Promise<RegExpExecArray>
}

function run([program, ...before]: CommandLine, args: readonly string[]): Running {
  const child = spawn(program, [...before, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  const watchers = new Set<() => void>()
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text
      for (const watcher of watchers) watcher()
    })
  }
  const ended = new Promise<Ended>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', code => resolve({ code, output }))
  })
  ended.catch(() => undefined)
  return {
    child,
    ended,
    printed(what) {
      return new Promise((resolve, reject) => {
        const fail = (why: string): void => reject(new BuildError(`${why} before it printed ${what}:\n${output}`))
        const timer = setTimeout(() => fail('time was over'), STEP_MS)
        const look = (): void => {
          const match = what.exec(output)
          if (match === null) return
          clearTimeout(timer)
          watchers.delete(look)
          resolve(match)
        }
        watchers.add(look)
        ended.then(() => fail('the program ended'), reject)
        look()
      })
    },
  }
}

interface Answer {
  readonly status: number
  readonly body: string
}

function ask(port: number, path: string, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: 'Bearer demo-key', 'content-type': 'application/json', connection: 'close' }
    const request = http.request({
      host: '127.0.0.1',
      port,
      path,
      method: body === undefined ? 'GET' : 'POST',
      headers,
    })
    request.setTimeout(STEP_MS, () => request.destroy(new Error('no answer')))
    request.once('error', reject)
    request.once('response', response => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      response.once('end', () => resolve({ status: response.statusCode ?? 0, body: text }))
    })
    request.end(body)
  })
}

async function expectEnd(running: Running, what: string, code: number, output: RegExp): Promise<void> {
  const timer = setTimeout(() => running.child.kill('SIGKILL'), STEP_MS)
  const ended = await running.ended
  clearTimeout(timer)
  if (ended.code !== code || !output.test(ended.output)) {
    throw new BuildError(`${what} ended with ${ended.code} instead of ${code}, and printed:\n${ended.output}`)
  }
}

function config(workers: number): string {
  return `server: {port: 0, host: 127.0.0.1, workers: ${workers}, shutdown_grace: 1s}
auth: {keys: [{name: check, key: demo-key}]}
models:
  gpt-4o: {backends: [{endpoint: "http://127.0.0.1:9", api_key: "no-key"}]}
`
}

/** The processes a Linux process has started; undefined elsewhere. */
function childrenOf(pid: number | undefined): number | undefined {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).length
  } catch {
    return undefined
  }
}

async function demoAnswers(command: CommandLine, stop: boolean): Promise<void> {
  const demo = run(command, ['--demo', '--port', '0'])
  try {
    const [, port] = await demo.printed(/http:\/\/localhost:(\d+)/)
    const body = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
    const answer = await ask(Number(port), '/v1/chat/completions', body)
    if (answer.status !== 200) throw new BuildError(`--demo answered ${answer.status}: ${answer.body}`)
    if (!stop) return
    demo.child.kill('SIGTERM')
    await expectEnd(demo, '--demo', 0, /stopped/)
  } finally {
    demo.child.kill('SIGKILL')
  }
}

async function workersServe(command: CommandLine, file: string): Promise<number | undefined> {
  const proxy = run(command, ['--config', file])
  try {
    const [, port] = await proxy.printed(/"msg":"listening".*?"port":(\d+)/)
    const answer = await ask(Number(port), '/livez')
    if (answer.status !== 200) throw new BuildError(`/livez answered ${answer.status} with two workers`)
    const children = childrenOf(proxy.child.pid)
    proxy.child.kill('SIGTERM')
    await expectEnd(proxy, 'the proxy with two workers', 0, /stopped/)
    return children
  } finally {
    proxy.child.kill('SIGKILL')
  }
}

export interface SmokeOptions {
  readonly command: CommandLine
  readonly version: string
  /** False where no signal reaches the program, as through wine. */
  readonly signals: boolean
  /** False where the program cannot start itself, as through an emulator that the kernel does not know. */
  readonly workers: boolean
  readonly say: (line: string) => void
}

/**
 * --version, --check, --demo with a request, two workers.
 * @throws BuildError on the first that fails
 */
export async function smoke({ command, version, signals, workers, say }: SmokeOptions): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'azure-openai-proxy-'))
  try {
    const escaped = version.replace(/[.+]/g, '\\$&')
    await expectEnd(run(command, ['--version']), '--version', 0, new RegExp(`^${escaped}\\s*$`, 'm'))
    say('--version: ok')
    const file = join(folder, 'config.yaml')
    writeFileSync(file, config(2))
    await expectEnd(run(command, ['--config', file, '--check']), '--check', 0, /./)
    say('--check: ok')
    await demoAnswers(command, signals)
    say(`--demo: one request answered${signals ? ', SIGTERM ended it' : '; signals: NOT RUN'}`)
    if (!workers) {
      say('workers: NOT RUN')
      return
    }
    const children = await workersServe(command, file)
    if (children !== undefined && children < 2) throw new BuildError(`two workers were asked for, ${children} run`)
    say(
      `workers: 2 asked for, ${children ?? 'an unknown number of'} processes started; /livez answered; SIGTERM ended all`,
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * How long the program needs from its start to the first answer of /livez.
 * @returns milliseconds, one for each run
 */
export async function startTimes(command: CommandLine, runs: number): Promise<readonly number[]> {
  const folder = mkdtempSync(join(tmpdir(), 'azure-openai-proxy-'))
  const file = join(folder, 'config.yaml')
  writeFileSync(file, config(1))
  const times: number[] = []
  try {
    for (let index = 0; index < runs; index++) {
      const started = performance.now()
      const proxy = run(command, ['--config', file])
      const [, port] = await proxy.printed(/"msg":"listening".*?"port":(\d+)/)
      await ask(Number(port), '/livez')
      times.push(performance.now() - started)
      proxy.child.kill('SIGTERM')
      await proxy.ended
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  return times
}
