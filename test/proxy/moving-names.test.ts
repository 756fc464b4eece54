// A backend's name moves to another address: private endpoints, failover by DNS, a service that was moved. And names
// with several addresses, names that hang, certificates that do not fit. covers: lib/http1/keeper.ts,
// lib/http1/dial.ts, lib/http1/trust.ts
import net from 'node:net'
import t, { type Test } from 'tap'
import { createDeadlines } from '../../lib/clock.ts'
import { Secret } from '../../lib/config/secret.ts'
import type { Route } from '../../lib/config/types.ts'
import { attempt } from '../../lib/forward/attempt.ts'
import type { Lookup } from '../../lib/http1/resolver.ts'
import { ConnectError, createTransport, type Transport } from '../../lib/http1/send.ts'
import { createCancellation } from '../../lib/request-context.ts'
import { type Answered, ask, endpointOf } from '../fixtures/ask-transport.ts'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { jsonAnswer, type RawBackend, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'

const MINUTE_MS = 60_000

interface Scene {
  readonly clock: FakeClock
  readonly transport: Transport
  /** Where a name leads from now on. */
  point(name: string, ...addresses: string[]): void
  readonly looked: string[]
}

function scene(t: Test, maxAgeMs = 5 * MINUTE_MS): Scene {
  const clock = createFakeClock()
  const names = new Map<string, readonly string[]>()
  const looked: string[] = []
  const lookup: Lookup = (hostname, done) => {
    looked.push(hostname)
    const addresses = names.get(hostname)
    if (addresses === undefined) done(Object.assign(new Error('no such name'), { code: 'ENOTFOUND' }), [])
    else done(null, addresses)
  }
  const transport = createTransport(clock, { maxAgeMs: () => maxAgeMs, lookup })
  t.teardown(async () => {
    transport.close()
    await until(() => transport.sockets().busy + transport.sockets().free === 0)
  })
  return { clock, transport, looked, point: (name, ...addresses) => void names.set(name, addresses) }
}

async function exchange(transport: Transport, url: string, backend: RawBackend): Promise<number> {
  const { answered } = ask(transport, url)
  const request = await backend.next()
  request.send(jsonAnswer())
  await answered
  return request.connection
}

t.test('a kept connection is used for connection_max_age, however busy, and then the name is met anew', async t => {
  const { clock, transport, point, looked } = scene(t)
  const backend = await startRawBackend(t)
  const url = `http://moves.test:${backend.port}`
  point('moves.test', '127.0.0.1')
  for (let minute = 0; minute < 5; minute++) {
    for (let at = 0; at < 60; at += 20) {
      t.equal(await exchange(transport, url, backend), 0)
      clock.advance(20_000)
    }
  }
  t.equal(await exchange(transport, url, backend), 1, 'five minutes are over')
  t.equal(looked.length, 2)
})

t.test('a backend that goes out loses its resting connections, and those in use are not kept', async t => {
  const { clock, transport, point } = scene(t)
  const backend = await startRawBackend(t)
  const url = `http://moves.test:${backend.port}`
  point('moves.test', '127.0.0.1')
  await exchange(transport, url, backend)
  const inUse = ask(transport, url, { fresh: true })
  const request = await backend.next()
  clock.advance(1_000)
  transport.retire(endpointOf(url))
  await until(() => transport.sockets().free === 0)
  request.send(jsonAnswer())
  t.equal((await inUse.answered).kind, 'whole', 'what is under way is not cut')
  await until(() => transport.sockets().busy === 0)
  t.equal(transport.sockets().free, 0)
  clock.advance(1_000)
  t.equal(await exchange(transport, url, backend), 2)
  t.equal(await exchange(transport, url, backend), 2, 'new ones are kept as ever')
})

t.test('a backend that answers with trouble from its old address is found at its new one', async t => {
  const [old, moved] = [await startRawBackend(t), await startRawBackend(t)]
  const text = configFor([{ url: `http://127.0.0.1:${old.port}` }, { url: `http://127.0.0.1:${moved.port}` }], {
    rest: 'health_check: {enabled: false, recovery: 10ms}',
  })
  const running = await runProxy(t, text)
  const first = running.chat()
  const request = await old.next()
  request.send(jsonAnswer('{"object":"chat.completion"}'))
  await first
  const { transport } = running.proxy.shared
  t.equal(transport.sockets().free, 1)
  const member = running.proxy.runtime().pools[0]?.members[0]
  if (member === undefined) throw new Error('no member')
  running.proxy.shared.health.eject(member.health, 10)
  await until(() => transport.sockets().free === 0)
})

t.test('the only backend, refused at its old address, is asked over a new connection next', async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(t, configFor([{ url: backend.url }], { rest: 'health_check: {enabled: false}' }))
  const body = '{"error":{"code":"403","message":"Public access is disabled. Please configure private endpoint."}}'
  const answers = [
    jsonAnswer('{"object":"chat.completion"}'),
    jsonAnswer(body).replace('200 OK', '403 Forbidden'),
    jsonAnswer(),
  ]
  const used: number[] = []
  for (const answer of answers) {
    const asked = running.chat()
    const request = await backend.next()
    used.push(request.connection)
    request.send(answer)
    await (await asked).arrayBuffer()
  }
  t.strictSame(used, [0, 0, 1])
})

t.test('a resolver that takes longer than the whole attempt may is not the backend’s fault', async t => {
  const clock = createFakeClock()
  const deadlines = createDeadlines(clock)
  const transport = createTransport(clock, { lookup: () => undefined })
  t.teardown(() => transport.close())
  const endpoint = endpointOf('http://hangs.test')
  const times = { connectMs: 4_000, headersMs: 2_000, firstOutputMs: 2_000, streamHoldMs: 1, idleMs: 2_000 }
  const tried = attempt(
    {
      wire: { endpoint, method: 'GET', path: '/', headers: ['host', endpoint.host] },
      body: [],
      dialect: 'opaque',
      wantsStream: false,
      isCreate: true,
      timeouts: times,
      cancellation: createCancellation(),
      fresh: false,
    },
    { transport, deadlines, clock },
  )
  clock.advance(2_100)
  t.match(await tried, { kind: 'no_response', outcome: { kind: 'shortage', detail: 'EAI_AGAIN' } })
  t.equal(deadlines.size(), 0)
})

t.test('all addresses of a name are tried: a dead one first costs a quarter of a second at most', async t => {
  const { transport, point } = scene(t)
  const backend = await startRawBackend(t)
  // Nobody listens at this port of 127.0.0.2.
  point('two.test', '127.0.0.2', '127.0.0.1')
  const answered = ask(transport, `http://two.test:${backend.port}`).answered
  const request = await backend.next()
  request.send(jsonAnswer())
  t.equal((await answered).kind, 'whole')
})

t.test('one that hangs is overtaken by the next', async t => {
  const clock = createFakeClock()
  const hanging = new net.Socket()
  const backend = await startRawBackend(t)
  const tried: string[] = []
  const transport = createTransport(clock, {
    lookup: (_hostname, done) => done(null, ['192.0.2.1', '127.0.0.1']),
    makeSocket(_protocol, options) {
      const host = 'host' in options ? String(options.host) : ''
      tried.push(host)
      return host === '192.0.2.1' ? hanging : net.connect(options as net.TcpNetConnectOpts)
    },
  })
  t.teardown(() => transport.close())
  const answered = ask(transport, `http://two.test:${backend.port}`).answered
  t.strictSame(tried, ['192.0.2.1'])
  clock.advance(250)
  const request = await backend.next()
  request.send(jsonAnswer())
  t.equal((await answered).kind, 'whole')
  t.ok(hanging.destroyed, 'and is given up')
})

/** How a connection fails, in the words that log and --probe show. */
async function wordsOf(transport: Transport, url: string, route?: Route): Promise<{ code: string; words: string }> {
  const endpoint = { ...endpointOf(url), route }
  return new Promise((resolve, reject) => {
    transport.send(
      { endpoint, method: 'GET', path: '/', headers: ['host', endpoint.host] },
      [],
      { fresh: true, connectMs: 30_000 },
      {
        connected: () => reject(new Error('connected')),
        head: () => reject(new Error('answered')),
        switched: () => reject(new Error('switched')),
        failed: error =>
          error instanceof ConnectError ? resolve({ code: error.code, words: error.message }) : reject(error),
      },
    )
  })
}

function routeWith(cert: string, more: Partial<Route> = {}): Route {
  return { id: cert, proxy: undefined, ca: [new Secret(cert)], identity: undefined, serverName: undefined, ...more }
}

t.test('TLS failures are said in words, with the cure', async t => {
  const { transport, point } = scene(t)
  const sound = makeCertificate('sound', { names: ['right.test'] })
  const ended = makeCertificate('ended', { names: ['right.test'], until: '240131120000Z' })
  const early = makeCertificate('early', { names: ['right.test'], from: '480131120000Z' })
  for (const name of ['right.test', 'wrong.test']) point(name, '127.0.0.1')
  const urlOf = async (certificate: typeof sound, name: string): Promise<string> =>
    `https://${name}:${(await startRawBackend(t, { certificate })).port}`
  const plain = await startRawBackend(t)
  plain.next().then(({ socket }) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  const cases = [
    [
      await urlOf(sound, 'right.test'),
      undefined,
      /signed by a CA that this machine does not know \(sound\): an inspecting proxy\?.*egress\.ca/,
    ],
    [await urlOf(ended, 'right.test'), routeWith(ended.cert), /expired on 2024-01-31/],
    [
      await urlOf(early, 'right.test'),
      routeWith(early.cert),
      /valid from 2048-01-31 on: is this machine's clock right/,
    ],
    [await urlOf(sound, 'wrong.test'), routeWith(sound.cert), /is for .*right\.test, not for wrong\.test/],
  ] as const
  for (const [url, route, words] of cases) t.match((await wordsOf(transport, url, route)).words, words)
  t.match((await wordsOf(transport, 'https://unknown.test')).words, /unknown\.test is not known/)
})

t.test('a port that speaks plain http is told from a broken certificate', async t => {
  const { transport, point } = scene(t)
  point('right.test', '127.0.0.1')
  const server = net.createServer(socket => {
    socket.on('error', () => undefined)
    socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  t.match((await wordsOf(transport, `https://right.test:${address.port}`)).words, /the port speaks plain http/)
})

t.test(
  'tls.server_name is what the certificate must be for, and a client certificate is shown where one is named',
  async t => {
    const { transport, point } = scene(t)
    const certificate = makeCertificate('gateway', { names: ['real.test'] })
    const mine = makeCertificate('client')
    const backend = await startRawBackend(t, { certificate })
    point('alias.test', '127.0.0.1')
    const endpoint = {
      ...endpointOf(`https://alias.test:${backend.port}`),
      route: routeWith(certificate.cert, {
        serverName: 'real.test',
        identity: { cert: new Secret(mine.cert), key: new Secret(mine.key) },
      }),
    }
    const answered = new Promise<Answered['kind']>(resolve => {
      transport.send(
        { endpoint, method: 'GET', path: '/', headers: ['host', endpoint.host] },
        [],
        { fresh: true },
        {
          connected: () => undefined,
          head: (_head, body) => body.discard(() => resolve('whole')),
          switched: () => resolve('switched'),
          failed: () => resolve('failed'),
        },
      )
    })
    const request = await backend.next()
    t.equal(Reflect.get(request.socket, 'servername'), 'real.test')
    request.send(jsonAnswer())
    t.equal(await answered, 'whole')
  },
)

t.test('NODE_TLS_REJECT_UNAUTHORIZED=0 is not heeded', async t => {
  const { transport } = scene(t)
  const backend = await startRawBackend(t, { certificate: makeCertificate('strange') })
  const before = process.env.NODE_TLS_REJECT_UNAUTHORIZED
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
  t.teardown(() => {
    if (before === undefined) delete process.env.NODE_TLS_REJECT_UNAUTHORIZED
    else process.env.NODE_TLS_REJECT_UNAUTHORIZED = before
  })
  t.equal((await wordsOf(transport, backend.url)).code, 'DEPTH_ZERO_SELF_SIGNED_CERT')
  t.equal(backend.requests.length, 0)
})
