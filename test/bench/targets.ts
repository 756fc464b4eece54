// What is measured: nothing at all (direct), nginx, and this proxy, each doing the same: check the client's key, rewrite the
// URL, set the backend's key, keep connections alive, write a log line.
import type { ChildProcess } from 'node:child_process'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { start, stop } from './children.ts'
import { createClient, sameBytes } from './client.ts'
import {
  API_VERSION,
  AZURE_KEY,
  CLIENT_KEY,
  EMBEDDINGS_MODEL,
  expectedBody,
  MODEL,
  type Route,
  requestBytes,
} from './payloads.ts'

/** `bare`: a node:http server that answers by itself, to compare starts and idle memory with. */
export type TargetName = 'direct' | 'nginx' | 'bare' | 'proxy'

export interface Target {
  readonly name: TargetName
  readonly port: number
  readonly route: Route
  /** Undefined for direct: there is no process to measure. */
  readonly pid: number | undefined
  /** From its start to its first answer, in ms. */
  readonly firstAnswerMs: number
  stop(): Promise<void>
}

export interface TargetOptions {
  readonly pin: readonly string[]
  /** Where config files and the like may be written. */
  readonly folder: string
  /** Ports of the backends; the second one may be failing. */
  readonly backends: readonly number[]
  readonly nginx?: string
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
function firstAnswer(port: number, route: Route, beganMs: number, child: ChildProcess): Promise<number> {
  const { all } = requestBytes('chat', route, 'chat')
  return new Promise((resolveMs, reject) => {
    const client = createClient({
      port,
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

function proxyConfig(port: number, backends: readonly number[]): string {
  const list = (deployment: string): string =>
    backends
      .map(
        (backend, i) =>
          `      - {name: ${deployment}-${i + 1}, endpoint: "http://127.0.0.1:${backend}", api_key: ${AZURE_KEY}, api_version: "${API_VERSION}"}`,
      )
      .join('\n')
  return `auth: {keys: [{name: bench, key: ${CLIENT_KEY}}]}
models:
  ${MODEL}:
    backends:
${list(MODEL)}
  ${EMBEDDINGS_MODEL}:
    backends:
${list(EMBEDDINGS_MODEL)}
server: {port: ${port}, host: 127.0.0.1}
logging: {level: info, format: json}
metrics: {enabled: true}
`
}

function nginxConfig(folder: string, port: number, backends: readonly number[]): string {
  const forward = (deployment: string, operation: string): string => `
      if ($http_authorization != "Bearer ${CLIENT_KEY}") { return 401; }
      proxy_pass http://azure/openai/deployments/${deployment}/${operation}?api-version=${API_VERSION};
      proxy_set_header api-key ${AZURE_KEY};
      proxy_set_header Authorization "";
      proxy_set_header Accept-Encoding "";
      proxy_set_header Connection "";`
  return `daemon off;
pid ${folder}/nginx.pid;
error_log ${folder}/error.log;
worker_processes 1;
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  # A log line a request, gathered and written in one go, as the proxy does it.
  access_log /dev/null combined buffer=64k flush=1s;
  client_max_body_size 64m;
  # A body is held in memory, so that it can be sent to another backend.
  client_body_buffer_size 16m;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  proxy_http_version 1.1;
  proxy_read_timeout 300s;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  proxy_next_upstream error timeout http_500 http_502 http_503 http_504 http_429 non_idempotent;
  upstream azure {
${backends.map(backend => `    server 127.0.0.1:${backend} max_fails=1 fail_timeout=30s;`).join('\n')}
    keepalive 1024;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location = /v1/chat/completions {${forward(MODEL, 'chat/completions')}
      # Events must pass as they come.
      proxy_buffering off;
    }
    location = /v1/embeddings {${forward(EMBEDDINGS_MODEL, 'embeddings')}
      proxy_buffers 8 16k;
    }
  }
}
`
}

async function started(name: TargetName, port: number, child: ChildProcess, beganMs: number): Promise<Target> {
  try {
    const firstAnswerMs = await firstAnswer(port, 'gateway', beganMs, child)
    return { name, port, route: 'gateway', pid: child.pid, firstAnswerMs, stop: () => stop(child) }
  } catch (error) {
    await stop(child)
    throw error
  }
}

async function startProxy({ pin, folder, backends }: TargetOptions): Promise<Target> {
  const port = await freePort()
  const file = join(folder, 'proxy.yaml')
  writeFileSync(file, proxyConfig(port, backends))
  const beganMs = performance.now()
  // Its log goes to /dev/null: written, but no disk is measured.
  const child = start(pin, [process.execPath, resolve('bin/proxy.js'), '--config', file], 'ignore')
  return started('proxy', port, child, beganMs)
}

async function startNginx({ pin, folder, backends, nginx }: TargetOptions): Promise<Target> {
  if (nginx === undefined) throw new Error('there is no nginx here')
  const port = await freePort()
  const own = join(folder, 'nginx')
  mkdirSync(own, { recursive: true })
  // Started by root it serves as another user, who must get in.
  chmodSync(folder, 0o755)
  const file = join(own, 'nginx.conf')
  writeFileSync(file, nginxConfig(own, port, backends))
  const beganMs = performance.now()
  const child = start(pin, [nginx, '-c', file, '-p', own, '-e', join(own, 'error.log')], 'ignore')
  return started('nginx', port, child, beganMs)
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
    case 'proxy':
      return startProxy(options)
    case 'bare':
      return startBare(options)
    case 'direct': {
      const [port = 0] = options.backends
      return Promise.resolve({
        name,
        port,
        route: 'azure',
        pid: undefined,
        firstAnswerMs: 0,
        stop: () => Promise.resolve(),
      })
    }
  }
}
