// What bin/proxy.js starts: `node dist/deploy/build/program.js`, the second half of `make build`. Puts into dist the program as one
// file, its source map, and V8's code cache of it: the functions that a start and the first requests need, compiled. Without the
// cache a start to the first answer takes 1.7 times as long as a bare server's, with it 1.3; it fits the Node it was made by.
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { createRequire } from 'node:module'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { Script } from 'node:vm'
import { systemClock } from '../../lib/clock.ts'
import type { main } from '../../lib/main.ts'
import { createSimulatedResource } from '../../lib/simulator/resource.ts'
import { bundleForLauncher } from './bundle.ts'
import { BuildError, explain } from './errors.ts'

const DIST = 'dist'
const BUNDLE = join(DIST, 'proxy.cjs')
const CACHE = join(DIST, 'proxy.cache')
/** As bin/proxy.js names it: the cache keeps the name. */
const NAME = 'dist/proxy.cjs'
const KEY = 'a-key-of-the-build'
const MODEL = 'gpt-4o'
/** A start that takes longer has failed. */
const START_MS = 15_000
const POLL_MS = 5

type Program = { readonly main: typeof main }

/** Whole or not at all: a start meanwhile reads the old file. */
function put(file: string, content: string | Buffer): void {
  writeFileSync(`${file}.new`, content)
  renameSync(`${file}.new`, file)
}

function freePort(): Promise<number> {
  const server = net.createServer()
  return new Promise(resolve => {
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo
      server.close(() => resolve(port))
    })
  })
}

/** One chat request. @returns the status; undefined where nobody listens yet */
function chat(port: number, stream: boolean): Promise<number | undefined> {
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' }
  const body = JSON.stringify({ model: MODEL, stream, messages: [{ role: 'user', content: 'Hello' }] })
  return new Promise((resolve, reject) => {
    const path = '/v1/chat/completions'
    const request = http.request({ host: '127.0.0.1', port, method: 'POST', path, headers, agent: false })
    request.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'ECONNREFUSED' ? resolve(undefined) : reject(error),
    )
    request.once('response', response => {
      response.resume().once('end', () => resolve(response.statusCode))
    })
    request.end(body)
  })
}

/** Starts the program, has it answer, and ends it: what a start needs is compiled then. */
async function exercise(program: Program, folder: string): Promise<void> {
  const resource = createSimulatedResource({
    clock: systemClock(),
    name: 'build',
    keys: [KEY],
    deployments: [{ name: MODEL, kind: 'chat' }],
  })
  const { url } = await resource.listen()
  const port = await freePort()
  const file = join(folder, 'config.yaml')
  writeFileSync(
    file,
    `server: {port: ${port}, host: 127.0.0.1}
auth:
  keys:
    - name: build
      key: ${KEY}
models:
  ${MODEL}: {backends: [{endpoint: "${url}", api_key: ${KEY}}]}
logging: {level: info, format: json, file: ${JSON.stringify(join(folder, 'log'))}}
`,
  )
  const ended = program.main(['--config', file], { version: '0' })
  for (const stream of [false, true]) {
    const giveUpMs = performance.now() + START_MS
    let status = await chat(port, stream)
    while (status === undefined && performance.now() < giveUpMs) {
      await sleep(POLL_MS)
      status = await chat(port, stream)
    }
    if (status !== 200) throw new BuildError(`the program answered ${status} to the build`)
  }
  process.kill(process.pid, 'SIGTERM')
  await ended
  await resource.close()
}

async function makeCache(source: string): Promise<Buffer> {
  const folder = mkdtempSync(join(tmpdir(), 'azure-openai-proxy-'))
  try {
    const script = new Script(source, { filename: NAME })
    const program: Program = script.runInThisContext()(createRequire(import.meta.url), {})
    await exercise(program, folder)
    return script.createCachedData()
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Whether a cache is there that fits this source and this Node. */
function isCached(source: string, identity: string): boolean {
  if (!existsSync(CACHE)) return false
  const bytes = readFileSync(CACHE)
  if (bytes.toString('latin1', 0, identity.length) !== identity) return false
  const script = new Script(source, { filename: NAME, cachedData: bytes.subarray(identity.length) })
  return script.cachedDataRejected === false
}

async function run(): Promise<void> {
  const { code, map } = await bundleForLauncher(process.cwd(), BUNDLE)
  // One other character, in a raw text for example, would make it two bytes a character in memory: 1 MB more at rest.
  const odd = /[^\p{ASCII}].{0,40}/u.exec(code)?.[0]
  if (odd !== undefined) throw new BuildError(`the bundle is not ASCII; write this as an escape: ${odd}`)
  const identity = createHash('sha256').update(code).digest('hex')
  const source = `${code}//${identity}\n`
  put(`${BUNDLE}.map`, map)
  put(BUNDLE, source)
  if (!isCached(source, identity)) put(CACHE, Buffer.concat([Buffer.from(identity), await makeCache(source)]))
}

run().catch((error: unknown) => {
  const { message, exitCode } = explain(error)
  process.stderr.write(`build: ${message}\n`)
  process.exitCode = exitCode
})
