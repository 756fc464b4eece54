// `make strangers`: what clients cost that read nothing, send slowly, or flood what needs no key. Memory of the proxy's
// process, and the median delay of an ordinary client beside each flood.
//   SILENT=2000  clients that ask for a long answer and read nothing
//   SLOW=5000    clients that send a body byte by byte
//   SECONDS=5    how long each state is held
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { start, stop } from './children.ts'
import { columns } from './report.ts'
import { cpuUs } from './system.ts'

const KEY = 'a-key-of-the-bench'
const BODY = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }] })
const STREAM_BODY = JSON.stringify({ model: 'm', stream: true, messages: [{ role: 'user', content: 'Hello' }] })
const ANSWER = JSON.stringify({ id: 'c', object: 'chat.completion', choices: [] })
const EVENT = `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: 'x'.repeat(4_000) } }] })}\n\n`
/** Of a stream that nobody reads; the proxy must stop its backend long before. */
const EVENTS = 250
/** Connections opened at a time: more would fill the kernel's queue. */
const AT_ONCE = 100
const FLOOD_EVERY_MS = 250

function given(name: string, fallback: number): number {
  const value = Number(process.env[name] ?? fallback)
  if (!(value > 0)) throw new Error(`${name} must be a number above 0`)
  return value
}

/** Answers at once; streams without end, as fast as they are taken. */
function startBackend(): Promise<http.Server> {
  const server = http.createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      if (!Buffer.concat(chunks).includes('"stream":true')) {
        response.writeHead(200, { 'content-type': 'application/json' }).end(ANSWER)
        return
      }
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      let left = EVENTS
      const go = (): void => {
        while (left > 0 && response.write(EVENT)) left--
        if (left > 0) response.once('drain', go)
      }
      go()
    })
  })
  return new Promise(done => server.listen(0, '127.0.0.1', () => done(server)))
}

const portOf = (server: net.Server): number => (server.address() as AddressInfo).port

async function freePort(): Promise<number> {
  const server = net.createServer()
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done))
  const port = portOf(server)
  await new Promise<void>(done => server.close(() => done()))
  return port
}

/** Waits until the process rests: what its sockets can take has been taken. */
async function untilItRests(pid: number): Promise<void> {
  for (let before = cpuUs(pid); ; ) {
    await sleep(1_000)
    const after = cpuUs(pid)
    // A tenth of a core is timers, and what a busy machine adds.
    if (!(after - before > 100_000)) return
    before = after
  }
}

/** Resident memory in MB. */
function residentMb(pid: number): number {
  const found = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))
  return Math.round(Number(found?.[1]) / 1024)
}

const head = (line: string, length: number): string =>
  [
    `${line} HTTP/1.1`,
    'Host: proxy',
    `Authorization: Bearer ${KEY}`,
    'Content-Type: application/json',
    `Content-Length: ${length}`,
    '',
    '',
  ].join('\r\n')

/** So many connections, each with this sent, none of them read. */
async function connectMany(port: number, count: number, text: string): Promise<net.Socket[]> {
  const sockets: net.Socket[] = []
  for (let i = 0; i < count; i += AT_ONCE) {
    const batch = Array.from({ length: Math.min(AT_ONCE, count - i) }, () => {
      const socket = net.connect(port, '127.0.0.1')
      socket.on('error', () => undefined)
      socket.pause()
      sockets.push(socket)
      return new Promise<void>(done => socket.once('connect', () => socket.write(text, () => done())))
    })
    await Promise.all(batch)
  }
  return sockets
}

/** The median delay of one chat after the other over one connection, in ms. */
async function medianMs(port: number, seconds: number): Promise<number> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' }
  const ask = (): Promise<void> =>
    new Promise((done, reject) => {
      const options = { host: '127.0.0.1', port, path: '/v1/chat/completions', method: 'POST', headers, agent }
      const request = http.request(options, response => response.resume().once('end', () => done()))
      request.once('error', reject).end(BODY)
    })
  const delays: number[] = []
  const untilMs = performance.now() + seconds * 1000
  while (performance.now() < untilMs) {
    const beganMs = performance.now()
    await ask()
    delays.push(performance.now() - beganMs)
  }
  agent.destroy()
  return delays.sort((a, b) => a - b)[Math.floor(delays.length / 2)] ?? Number.NaN
}

/** Sends this over and over, on a new connection each time, until it is stopped. */
function flood(port: number, text: string): () => void {
  const sockets: net.Socket[] = []
  const timer = setInterval(() => {
    const socket = net.connect(port, '127.0.0.1')
    socket.on('error', () => undefined).on('data', () => undefined)
    socket.write(text)
    sockets.push(socket)
    if (sockets.length > 20) sockets.shift()?.destroy()
  }, FLOOD_EVERY_MS)
  return () => {
    clearInterval(timer)
    for (const socket of sockets) socket.destroy()
  }
}

async function untilItAnswers(port: number, child: ChildProcess): Promise<void> {
  for (;;) {
    if (child.exitCode !== null) throw new Error(`the proxy ended with ${child.exitCode}`)
    const answered = await fetch(`http://127.0.0.1:${port}/livez`).then(
      response => response.ok,
      () => false,
    )
    if (answered) return
    await sleep(50)
  }
}

/** Some models, so that /metrics has the size it has in use. */
function configText(port: number, backendPort: number): string {
  const backend = (i: number): string =>
    `{name: b${i}, endpoint: "http://127.0.0.1:${backendPort}", api_key: key-${i}, type: openai}`
  const others = Array.from({ length: 19 }, (_, i) => `  m${i}: {backends: [${[1, 2, 3].map(backend).join(', ')}]}`)
  return `server: {port: ${port}, host: 127.0.0.1, max_connections: 10000}
auth: {keys: [{name: bench, key: ${KEY}}]}
models:
  m: {backends: [${backend(0)}]}
${others.join('\n')}
health_check: {enabled: false}
`
}

async function run(): Promise<void> {
  const [silent, slow, seconds] = [given('SILENT', 2_000), given('SLOW', 5_000), given('SECONDS', 5)]
  const folder = mkdtempSync(join(tmpdir(), 'strangers-'))
  const backend = await startBackend()
  const port = await freePort()
  const file = join(folder, 'config.yaml')
  writeFileSync(file, configText(port, portOf(backend)))
  const child = start([], [process.execPath, resolve('bin/proxy.js'), '--config', file], 'ignore')
  try {
    await untilItAnswers(port, child)
    const pid = child.pid ?? 0
    const warm = await medianMs(port, seconds)
    const rows: string[][] = [['at rest, after a warm-up', `${residentMb(pid)} MB`, `${warm.toFixed(2)} ms`]]
    const held = async (what: string, count: number, text: string, drip?: string): Promise<void> => {
      const sockets = await connectMany(port, count, text)
      await untilItRests(pid)
      const timer = setInterval(() => {
        if (drip !== undefined) for (const socket of sockets) socket.write(drip)
      }, 5_000)
      await sleep(seconds * 1000)
      const mb = residentMb(pid)
      const median = await medianMs(port, seconds)
      clearInterval(timer)
      for (const socket of sockets) socket.destroy()
      await untilItRests(pid)
      rows.push([`${count} ${what}`, `${mb} MB`, `${median.toFixed(2)} ms`])
    }
    await held(
      'clients that read nothing of a stream',
      silent,
      head('POST /v1/chat/completions', STREAM_BODY.length) + STREAM_BODY,
    )
    await held('slow senders', slow, `${head('POST /v1/chat/completions', 100_000)}{`, ' ')
    for (const [what, text] of [
      ['a flood of /metrics, 1,985 in each write', 'GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(1_985)],
      ['a flood of paths of 31 KB', `GET ${'/aa'.repeat(10_300)} HTTP/1.1\r\nHost: a\r\n\r\n`.repeat(20)],
    ] as const) {
      const end = flood(port, text)
      await sleep(1_000)
      const median = await medianMs(port, seconds)
      const mb = residentMb(pid)
      end()
      await sleep(1_000)
      rows.push([what, `${mb} MB`, `${median.toFixed(2)} ms`])
    }
    rows.push(['at rest again', `${residentMb(pid)} MB`, `${(await medianMs(port, seconds)).toFixed(2)} ms`])
    process.stdout.write(`${columns([['', 'memory', 'median delay of another client'], ...rows])}\n`)
  } finally {
    await stop(child)
    backend.closeAllConnections()
    backend.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

await run()
process.exit(0)
