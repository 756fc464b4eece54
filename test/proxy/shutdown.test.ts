// Going down: nothing new, what is in flight finishes within the grace period, the rest gets an error event or is cut.
import http from 'node:http'
import net from 'node:net'
import t, { type Test } from 'tap'
import { throttle } from '../../lib/simulator/faults.ts'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { chatEvent, DONE, type HeldBackend, responsesEvent, startHeldBackend } from '../fixtures/held-backend.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

/** Below every limit on a client's silence, so that nothing but the grace period ends. */
const GRACE_MS = 20_000
/** More than the time in which those who are cut off hear of it. */
const CLOSE_GRACE_MS = 1_000
const COMPLETION = '{"object":"chat.completion","choices":[]}'

interface Ready {
  readonly backend: HeldBackend
  readonly clock: FakeClock
  readonly running: RunningProxy
}

async function start(t: Test): Promise<Ready> {
  const backend = await startHeldBackend(t)
  const clock = createFakeClock()
  const text = configFor([{ url: backend.url }], { rest: NO_PROBES })
  // Without the comment lines of a silent stream, so that its bytes are the backend's and the last word's alone.
  const running = await runProxy(t, text.replace('shutdown_grace: 1s', 'stream_keepalive: 0s'), { clock })
  return { backend, clock, running }
}

/** Everything that follows from what was just done, up to the next byte from outside. */
function settled(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

/** A body as far as it came, and whether it came to its end. */
async function read(response: Response): Promise<{ readonly text: string; readonly whole: boolean }> {
  let text = ''
  const decoder = new TextDecoder()
  try {
    for await (const chunk of response.body ?? []) text += decoder.decode(chunk, { stream: true })
    return { text, whole: true }
  } catch {
    return { text, whole: false }
  }
}

async function errorCode(response: Response): Promise<unknown> {
  const body: unknown = await response.json()
  return typeof body === 'object' && body !== null && 'error' in body ? Object(body.error).code : undefined
}

function connects(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = net.connect(port, '127.0.0.1')
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}

/** Lets the grace period pass, and the time for a last word; resolves when the proxy is down. */
async function passGrace(clock: FakeClock, down: Promise<void>, told: readonly Promise<unknown>[]): Promise<void> {
  await settled()
  clock.advance(GRACE_MS)
  await settled()
  await Promise.all(told)
  clock.advance(CLOSE_GRACE_MS)
  await down
}

t.test('while it drains, health says so and new requests are sent elsewhere', async t => {
  const { backend, running } = await start(t)
  const asked = running.chat()
  const held = await backend.next()
  const down = running.proxy.shutdown(GRACE_MS)

  const health = await fetch(`${running.url}/health`)
  t.equal(health.status, 503)
  t.match(await health.json(), { status: 'draining', models: { 'gpt-4o': { healthy: 1, total: 1 } } })
  t.equal((await fetch(`${running.url}/livez`)).status, 200, 'the process itself is well')
  t.equal((await fetch(`${running.url}/metrics`)).status, 200, 'its last figures can be fetched')
  for (const refused of [
    await running.chat(),
    await fetch(`${running.url}/v1/models`),
    await running.chat({ stream: true }),
  ]) {
    t.equal(refused.status, 503)
    t.equal(refused.headers.get('retry-after'), '1')
    t.equal(refused.headers.get('connection'), 'close')
    t.equal(await errorCode(refused), 'draining')
  }
  t.equal(backend.count(), 1, 'none of them reached a backend')

  held.response.writeHead(200, { 'content-type': 'application/json' }).end(COMPLETION)
  t.equal(await (await asked).text(), COMPLETION)
  await down
  t.notOk(await connects(running.port), 'nobody listens any more')
})

t.test('what is in flight finishes, plain or streamed, and no longer than that does the proxy stay', async t => {
  const { backend, clock, running } = await start(t)
  const stream = running.chat({ stream: true })
  const streamed = await backend.next()
  streamed.stream()
  streamed.response.write(chatEvent('one'))
  const plain = running.chat()
  const asked = await backend.next()
  const streaming = read(await stream)

  const down = running.proxy.shutdown(GRACE_MS)
  await settled()
  clock.advance(GRACE_MS - 1)
  asked.response.writeHead(200, { 'content-type': 'application/json' }).end(COMPLETION)
  t.equal(await (await plain).text(), COMPLETION)
  streamed.response.end(`${chatEvent('two')}${DONE}`)
  t.strictSame(await streaming, { text: `${chatEvent('one')}${chatEvent('two')}${DONE}`, whole: true })
  await down
  t.equal(clock.nowMs(), 1_000 + GRACE_MS - 1, 'it did not wait for the rest of the grace period')
})

t.test('a chat stream past the grace period gets an error event, the end, and no false [DONE]', async t => {
  const { backend, clock, running } = await start(t)
  const stream = running.chat({ stream: true })
  const held = await backend.next()
  held.stream()
  held.response.write(chatEvent('one'))
  const streaming = read(await stream)
  const down = running.proxy.shutdown(GRACE_MS)
  await passGrace(clock, down, [streaming, held.closed])
  const { text, whole } = await streaming
  t.ok(whole)
  t.ok(text.startsWith(chatEvent('one')))
  const last: unknown = JSON.parse(text.slice(chatEvent('one').length).replace(/^data: /, ''))
  t.match(last, { error: { code: 'draining', type: 'server_error', message: String } })
  t.notOk(text.includes('[DONE]'))
})

t.test(
  'a Responses stream past the grace period gets its own error event, numbered on, and no terminal event',
  async t => {
    const { backend, clock, running } = await start(t)
    const stream = running.post('/v1/responses', { model: 'gpt-4o', input: 'Hello', stream: true })
    const held = await backend.next()
    held.stream()
    held.response.write(responsesEvent('one', 4))
    const streaming = read(await stream)
    const down = running.proxy.shutdown(GRACE_MS)
    await passGrace(clock, down, [streaming, held.closed])
    const { text, whole } = await streaming
    t.ok(whole)
    const [first, last, ...more] = text.split('\n\n')
    t.equal(`${first}\n\n`, responsesEvent('one', 4))
    t.match(last, /^event: error\ndata: \{/)
    t.match(JSON.parse(last?.split('data: ')[1] ?? ''), { type: 'error', sequence_number: 5, code: 'draining' })
    t.strictSame(more, [''])
  },
)

t.test('an answer that is half sent is cut, so that nobody takes it for whole', async t => {
  const { backend, clock, running } = await start(t)
  const asked = running.chat()
  const held = await backend.next()
  held.response.writeHead(200, { 'content-type': 'text/plain' }).write('x'.repeat(5_000_000))
  const reading = read(await asked)
  const down = running.proxy.shutdown(GRACE_MS)
  await passGrace(clock, down, [reading, held.closed])
  t.notOk((await reading).whole)
})

t.test(
  'a request that waits for its answer is told that the proxy goes down, and its backend is let go of',
  async t => {
    const { backend, clock, running } = await start(t)
    const asked = running.chat()
    const held = await backend.next()
    const down = running.proxy.shutdown(GRACE_MS)
    await passGrace(clock, down, [asked, held.closed])
    const answer = await asked
    t.equal(answer.status, 503)
    t.equal(await errorCode(answer), 'draining')
    t.match(
      running.lines.find(({ msg }) => msg === 'request'),
      { status: 503, error: 'draining' },
    )
  },
)

t.test('a request that queues for a throttled backend is told so too', async t => {
  const { resource, url } = await startResource(t)
  const clock = createFakeClock()
  const rest = `${NO_PROBES}\nretry: {max_wait: 5m}`
  const running = await runProxy(t, configFor([{ url }], { rest }), { clock })
  resource.next(throttle(240))
  const asked = running.chat()
  const [pool] = running.proxy.runtime().pools
  while (pool !== undefined && running.proxy.shared.waitQueue.waiting(pool) === 0) await settled()
  const down = running.proxy.shutdown(GRACE_MS)
  await passGrace(clock, down, [asked])
  t.equal((await asked).status, 503)
  t.equal(await errorCode(await asked), 'draining')
  t.equal(resource.requests.length, 1)
})

t.test('nothing is left open: idle connections, half-sent heads and half-sent bodies end with the proxy', async t => {
  const { backend, clock, running } = await start(t)
  const agent = new http.Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const idle = await new Promise<net.Socket>((resolve, reject) => {
    const request = http.get(`${running.url}/livez`, { agent }, response => {
      const { socket } = response
      response.resume().on('end', () => resolve(socket))
    })
    request.on('error', reject)
  })
  const opened = (text: string): Promise<net.Socket> =>
    new Promise(resolve => {
      const socket = net.connect(running.port, '127.0.0.1', () => socket.write(text, () => resolve(socket)))
      socket.on('error', () => undefined).resume()
    })
  const head = await opened('POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n')
  const body = await opened(
    `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${CLIENT_KEY}\r\nContent-Length: 500\r\nExpect: 100-continue\r\n\r\n`,
  )
  await new Promise(resolve => body.once('data', resolve))
  body.write('{"model":')
  const asked = running.chat()
  const held = await backend.next()
  const closed = [idle, head, body].map(socket => new Promise(resolve => socket.once('close', resolve)))

  const down = running.proxy.shutdown(GRACE_MS)
  await passGrace(clock, down, [asked, held.closed])
  await Promise.all(closed)
  const open = await new Promise((resolve, reject) =>
    running.proxy.listener.server.getConnections((error, count) => (error === null ? resolve(count) : reject(error))),
  )
  t.equal(open, 0)
  const errors = running.lines.filter(({ msg }) => msg === 'request').map(({ path, error }) => `${path} ${error}`)
  t.strictSame(
    errors.sort(),
    ['/livez null', '/v1/chat/completions draining', '/v1/chat/completions shutdown'],
    'each request has its line, also the one that was cut last',
  )
  t.equal(running.proxy.app.inFlight(), 0)
  t.equal(running.proxy.shared.deadlines.size(), 0)
  t.equal(running.proxy.shared.bodyBudget.heldBytes(), 0)
  t.equal(running.proxy.runtime().pools[0]?.members[0]?.health.inFlight, 0)
  t.notOk(await connects(running.port))
})

t.test('a second call to go down is harmless', async t => {
  const { running } = await start(t)
  await Promise.all([running.proxy.shutdown(GRACE_MS), running.proxy.shutdown(0)])
  t.notOk(await connects(running.port))
})
