// The measured targets: nothing at all (direct), the yardsticks and this proxy, each doing the same; gateway-configs.ts
// says what.
import type { ChildProcess } from 'node:child_process'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { start, stop } from './children.ts'
import { createClient, sameBytes } from './client.ts'
import {
  caddyConfig,
  envoyConfig,
  type GatewayOptions,
  goOriginalConfig,
  haproxyConfig,
  nginxConfig,
  proxyConfig,
} from './gateway-configs.ts'
import { expectedBody, type Route, requestBytes } from './payloads.ts'
import { findProgram } from './system.ts'

/** Programs measured beside the proxy, where they are installed or `make bench-yardsticks` has fetched them. */
export const YARDSTICK_PROGRAMS = ['nginx', 'haproxy', 'envoy', 'caddy', 'go-original'] as const
type ProgramName = (typeof YARDSTICK_PROGRAMS)[number]

/**
 * `bare`: a node:http server that answers by itself, to compare starts and idle memory with. `twin`: the proxy with
 * node:http's client in place of its own.
 */
export type TargetName = 'direct' | ProgramName | 'bare' | 'twin' | 'proxy'

export interface Target {
  readonly name: TargetName
  readonly port: number
  readonly route: Route
  /** It speaks TLS to its clients. */
  readonly secure: boolean
  /** Undefined for direct: there is no process to measure. */
  readonly pid: number | undefined
  /** From its start to its first answer, in ms. */
  readonly firstAnswerMs: number
  stop(): Promise<void>
}

export interface TargetOptions extends Omit<GatewayOptions, 'port'> {
  readonly pin: readonly string[]
  /** Where config files and the like may be written. */
  readonly folder: string
}

/** A start that takes longer has failed. */
const START_MS = 15_000

/** A port that was free a moment ago. */
function freePort(): Promise<number> {
  const server = net.createServer()
  return new Promise(resolvePort => {
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolvePort(port))
    })
  })
}

/** Asks until it is answered as it should be. @returns ms since `beganMs` */
function firstAnswer(port: number, secure: boolean, beganMs: number, child: ChildProcess): Promise<number> {
  const { all } = requestBytes('chat', 'gateway', 'chat')
  return new Promise((resolveMs, reject) => {
    const client = createClient({
      port,
      secure,
      request: all,
      check: sameBytes(expectedBody('chat')),
      onDone(problem) {
        const ms = performance.now() - beganMs
        if (problem === undefined) {
          client.close()
          resolveMs(ms)
        } else if (ms > START_MS || child.exitCode !== null) reject(new Error(`it did not start: ${problem}`))
        else setTimeout(() => client.send(), 1)
      },
    })
    client.send()
  })
}

async function started(
  name: TargetName,
  port: number,
  child: ChildProcess,
  beganMs: number,
  secure = false,
): Promise<Target> {
  try {
    const firstAnswerMs = await firstAnswer(port, secure, beganMs, child)
    return { name, port, route: 'gateway', secure, pid: child.pid, firstAnswerMs, stop: () => stop(child) }
  } catch (error) {
    await stop(child)
    throw error
  }
}

/** What a target's files are called, so that no two targets share one. */
function fileName(name: string, { workers, backendCa, clientTls }: Omit<GatewayOptions, 'port'>): string {
  const from = clientTls === undefined ? '' : '-from-tls'
  return `${name}-${workers}${backendCa === undefined ? '' : '-to-tls'}${from}`
}

/** As the container and the services start it. */
const YOUNG_HEAP = '--max-semi-space-size=8'

/** Starts this proxy. @param program what node runs */
async function startProxy(
  name: 'proxy' | 'twin',
  program: string,
  { pin, folder, ...options }: TargetOptions,
): Promise<Target> {
  const port = await freePort()
  const file = join(folder, `${fileName(name, options)}.yaml`)
  // Not readable by others, as --check would warn.
  writeFileSync(file, proxyConfig({ port, ...options }), { mode: 0o600 })
  const beganMs = performance.now()
  // Its log goes to /dev/null: written, but no disk is measured.
  const ca = options.backendCa === undefined ? [] : ['env', `NODE_EXTRA_CA_CERTS=${options.backendCa}`]
  const child = start(pin, [...ca, process.execPath, YOUNG_HEAP, program, '--config', file], 'ignore')
  return started(name, port, child, beganMs, options.clientTls !== undefined)
}

function programFile(name: ProgramName): string {
  const file = findProgram(name)
  if (file === undefined) throw new Error(`there is no ${name} here`)
  return file
}

async function startNginx({ pin, folder, ...options }: TargetOptions): Promise<Target> {
  const port = await freePort()
  const own = join(folder, fileName('nginx', options))
  mkdirSync(own, { recursive: true })
  // Started by root it serves as another user, who must get in.
  chmodSync(folder, 0o755)
  const file = join(own, 'nginx.conf')
  writeFileSync(file, nginxConfig(own, { port, ...options }))
  const command = [programFile('nginx'), '-c', file, '-p', own, '-e', join(own, 'error.log')]
  const beganMs = performance.now()
  return started('nginx', port, start(pin, command, 'ignore'), beganMs, options.clientTls !== undefined)
}

async function startHaproxy({ pin, folder, ...options }: TargetOptions): Promise<Target> {
  const port = await freePort()
  const file = join(folder, 'haproxy.cfg')
  writeFileSync(file, haproxyConfig({ port, ...options }))
  // -db: one process, in the foreground.
  const command = [programFile('haproxy'), '-db', '-f', file]
  const beganMs = performance.now()
  return started('haproxy', port, start(pin, command, 'ignore'), beganMs)
}

/** The yardsticks of one process that take a config file and serve at once. */
async function startSimple(
  name: 'envoy' | 'caddy' | 'go-original',
  { pin, folder, ...options }: TargetOptions,
): Promise<Target> {
  const port = await freePort()
  const file = join(folder, `${fileName(name, options)}.yaml`)
  const program = programFile(name)
  const ca = options.backendCa === undefined ? [] : [`SSL_CERT_FILE=${options.backendCa}`]
  // GOMAXPROCS: the programs in Go have one core, as everybody has.
  const env = ['env', 'GOMAXPROCS=1', ...ca]
  const { config, args } = {
    envoy: {
      config: envoyConfig,
      args: ['-c', file, '--concurrency', '1', '--log-level', 'error', '--disable-hot-restart'],
    },
    caddy: { config: caddyConfig, args: ['run', '--adapter', 'caddyfile', '--config', file] },
    'go-original': { config: goOriginalConfig, args: ['--config', file] },
  }[name]
  writeFileSync(file, config({ port, ...options }))
  const beganMs = performance.now()
  const child = start(pin, [...env, program, ...args], 'silent')
  return started(name, port, child, beganMs, options.clientTls !== undefined)
}

async function startBare({ pin }: TargetOptions): Promise<Target> {
  const port = await freePort()
  const beganMs = performance.now()
  const file = fileURLToPath(new URL('./bare-server.js', import.meta.url))
  return started('bare', port, start(pin, [process.execPath, file, String(port)], 'ignore'), beganMs)
}

/** Starts one, and waits for its first answer. */
export function startTarget(name: TargetName, options: TargetOptions): Promise<Target> {
  switch (name) {
    case 'nginx':
      return startNginx(options)
    case 'haproxy':
      return startHaproxy(options)
    case 'envoy':
    case 'caddy':
    case 'go-original':
      return startSimple(name, options)
    case 'proxy':
      return startProxy(name, resolve('bin/proxy.js'), options)
    case 'twin':
      return startProxy(name, fileURLToPath(new URL('./twin.js', import.meta.url)), options)
    case 'bare':
      return startBare(options)
    case 'direct': {
      const [port = 0] = options.backends
      return Promise.resolve({
        name,
        port,
        route: 'azure',
        secure: false,
        pid: undefined,
        firstAnswerMs: 0,
        stop: () => Promise.resolve(),
      })
    }
  }
}
