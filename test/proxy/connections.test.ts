// Connections to backends: when one is used again and when it must not be, what happens when it dies, and TLS.
import { setImmediate as nextTurn } from 'node:timers/promises'
import tls from 'node:tls'
import v8 from 'node:v8'
import vm from 'node:vm'
import t, { type Test } from 'tap'
import type { Authorizer } from '../../lib/azure/credentials.ts'
import { createDeadlines } from '../../lib/clock.ts'
import { attempt } from '../../lib/forward/attempt.ts'
import { askProbe } from '../../lib/forward/resource-query.ts'
import type { AttemptPlan } from '../../lib/forward/upstream.ts'
import type { ResponseBody, ResponseHead } from '../../lib/http1/send.ts'
import { createTransport, type Transport } from '../../lib/http1/send.ts'
import { createCancellation } from '../../lib/request-context.ts'
import { type Answered, ask, endpointOf, readReply } from '../fixtures/ask-transport.ts'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { chatEvent } from '../fixtures/held-backend.ts'
import { jsonAnswer, type RawBackend, type RawBackendOptions, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'

interface Scene {
  readonly backend: RawBackend
  readonly clock: FakeClock
  readonly transport: Transport
}

async function scene(t: Test, options: RawBackendOptions = {}): Promise<Scene> {
  const backend = await startRawBackend(t, options)
  const clock = createFakeClock()
  const transport = createTransport(clock)
  t.teardown(async () => {
    transport.close()
    await until(() => transport.sockets().busy + transport.sockets().free === 0)
  })
  return { backend, clock, transport }
}

/** One request and this answer to it, to the end; which connection it went over. */
async function exchange(
  { backend, transport }: Scene,
  answer = jsonAnswer(),
): Promise<{ readonly answered: Answered; readonly connection: number }> {
  const { answered } = ask(transport, backend.url)
  const request = await backend.next()
  request.send(answer)
  return { answered: await answered, connection: request.connection }
}

const isWhole = (answered: Answered, body: string): boolean => answered.kind === 'whole' && answered.body === body

t.test('requests in turn share a connection, requests at the same time do not', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  for (let i = 0; i < 5; i++) t.equal((await exchange(all)).connection, 0)
  const asked = [0, 1, 2].map(() => ask(transport, backend.url))
  t.strictSame(
    asked.map(({ sent }) => sent.connecting),
    [false, true, true],
  )
  t.strictSame(transport.sockets(), { busy: 3, free: 0 })
  for (let i = 0; i < 3; i++) {
    const request = await backend.next()
    request.send(jsonAnswer(`"${request.connection}"`))
  }
  const bodies = (await Promise.all(asked.map(({ answered }) => answered))).map(one =>
    one.kind === 'whole' ? one.body : one.kind,
  )
  t.strictSame(bodies.sort(), ['"0"', '"1"', '"2"'])
  t.equal(backend.sockets.length, 3)
  t.strictSame(transport.sockets(), { busy: 0, free: 3 })
  t.equal(backend.requests[0]?.head.split('\r\n').at(-1), 'connection: keep-alive')
})

const NO_REUSE: readonly (readonly [string, string])[] = [
  ['Connection: close', jsonAnswer('{}', ['Connection: close'])],
  ['Connection: close among others', jsonAnswer('{}', ['Connection: x-hop, close'])],
  ['Keep-Alive: timeout=1, of which the margin leaves nothing', jsonAnswer('{}', ['Keep-Alive: timeout=1'])],
  ['HTTP/1.0', jsonAnswer().replace('HTTP/1.1', 'HTTP/1.0')],
  ['a byte behind it', `${jsonAnswer()}\n`],
  ['a second answer behind it', `${jsonAnswer()}${jsonAnswer('"no"')}`],
  ['a body to a 204', 'HTTP/1.1 204 No Content\r\n\r\n0\r\n\r\n'],
]
for (const [what, answer] of NO_REUSE) {
  t.test(`after an answer with ${what} the connection is not used again`, async t => {
    const all = await scene(t)
    const first = await exchange(all, answer)
    t.equal(first.answered.kind, 'whole')
    t.equal((await exchange(all)).connection, 1)
    await until(() => all.transport.sockets().busy === 0)
    t.equal(all.transport.sockets().free, 1)
  })
}

t.test('an answer until the close is whole with it, and a reset instead of the close loses it', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  for (const end of ['close', 'reset'] as const) {
    let piece: () => void = () => undefined
    const begun = new Promise<void>(resolve => (piece = resolve))
    let over: (answered: Answered) => void = () => undefined
    const answered = new Promise<Answered>(resolve => (over = resolve))
    ask(transport, backend.url, {
      take(reply, head) {
        const chunks: Buffer[] = []
        reply.attach({
          data(bytes) {
            chunks.push(bytes)
            piece()
          },
          end: () => over({ kind: 'whole', head, body: Buffer.concat(chunks).toString() }),
          lost: () => over({ kind: 'lost', code: '', body: '' }),
        })
      },
    })
    const request = await backend.next()
    request.send('HTTP/1.1 200 OK\r\n\r\nhello')
    await begun
    if (end === 'close') request.socket.end()
    else request.socket.resetAndDestroy()
    const got = await answered
    if (end === 'close') t.ok(isWhole(got, 'hello'))
    else t.equal(got.kind, 'lost')
  }
  await until(() => transport.sockets().busy === 0)
  t.equal(transport.sockets().free, 0)
})

t.test('an answer that comes before its request is out is read, and the connection is not used again', async t => {
  const all = await scene(t, { early: true })
  const { backend, transport } = all
  for (const closes of [false, true]) {
    const asked = ask(transport, backend.url, { body: Array.from({ length: 32 }, () => Buffer.alloc(1 << 20)) })
    const request = await backend.next()
    request.send(jsonAnswer('"too large"'))
    // With the rest of the request unread, closing is a reset: it follows the answer at once.
    if (closes) request.socket.destroySoon()
    t.ok(isWhole(await asked.answered, '"too large"'))
    await until(() => transport.sockets().busy === 0)
    t.equal(transport.sockets().free, 0)
  }
})

t.test('a resting connection that brings unasked bytes or is closed is not used again', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  const leave: readonly ((at: number) => void)[] = [
    at => void backend.sockets[at]?.write('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n'),
    at => void backend.sockets[at]?.end(),
    at => void backend.sockets[at]?.resetAndDestroy(),
  ]
  for (const [i, go] of leave.entries()) {
    t.equal((await exchange(all)).connection, i)
    t.equal(transport.sockets().free, 1)
    go(i)
    await until(() => transport.sockets().free === 0)
  }
  t.equal((await exchange(all)).connection, leave.length)
})

t.test('a resting connection is used for less than 55 seconds, and then closed', async t => {
  const all = await scene(t)
  const { clock, transport } = all
  await exchange(all)
  clock.advance(54_900)
  t.equal((await exchange(all)).connection, 0, 'each use begins its rest anew')
  clock.advance(54_900)
  t.equal(transport.sockets().free, 1)
  clock.advance(5_100)
  await until(() => transport.sockets().free === 0)
  t.equal(transport.sockets().busy, 0)
  clock.advance(5_000)
  t.equal(clock.pending(), 0, 'nothing rests: no timer runs')
})

t.test('a connection whose backend names its time is left a second earlier, to the millisecond', async t => {
  const all = await scene(t)
  const { clock, transport } = all
  const answer = jsonAnswer('{}', ['Keep-Alive: timeout=3'])
  await exchange(all, answer)
  clock.advance(1_999)
  t.equal((await exchange(all, answer)).connection, 0)
  clock.advance(2_000)
  t.equal((await exchange(all, answer)).connection, 1)
  await until(() => transport.sockets().busy === 0)
  t.equal(transport.sockets().free, 1)
})

t.test('at most 256 connections rest', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  const asked = Array.from({ length: 300 }, () => ask(transport, backend.url).answered)
  await until(() => backend.requests.length === 300)
  t.strictSame(transport.sockets(), { busy: 300, free: 0 })
  for (const request of backend.requests) request.send(jsonAnswer())
  t.ok((await Promise.all(asked)).every(answered => isWhole(answered, '{}')))
  await until(() => transport.sockets().busy === 0)
  t.strictSame(transport.sockets(), { busy: 0, free: 256 })
})

t.test('a connection that dies before any byte is stale only where it had rested', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  for (const end of ['end', 'resetAndDestroy'] as const) {
    const fresh = ask(transport, backend.url, { fresh: true })
    const first = await backend.next()
    first.socket[end]()
    t.match(await fresh.answered, { kind: 'failed', stale: false })

    await exchange(all)
    const again = ask(transport, backend.url)
    t.notOk(again.sent.connecting)
    const second = await backend.next()
    second.socket[end]()
    t.match(await again.answered, { kind: 'failed', stale: true })

    await exchange(all)
    const begun = ask(transport, backend.url)
    const third = await backend.next()
    third.socket.end('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2')
    t.match(await begun.answered, { kind: 'failed', stale: false }, 'a byte has come')
  }
  await until(() => transport.sockets().busy === 0)
  t.equal(transport.sockets().free, 0)
})

t.test('a request that is given up says nothing more, and its connection is closed', async t => {
  const { backend, transport } = await scene(t)
  const asked = ask(transport, backend.url, { take: () => t.fail('a head') })
  asked.answered.then(() => t.fail('an answer'))
  const request = await backend.next()
  const closed = new Promise(resolve => request.socket.once('close', resolve))
  asked.sent.destroy()
  asked.sent.destroy()
  await closed
  await until(() => transport.sockets().busy === 0)
  t.equal(transport.sockets().free, 0)
})

t.test('giving up a request that has its reply does nothing', async t => {
  const all = await scene(t)
  const asked = ask(all.transport, all.backend.url)
  const request = await all.backend.next()
  request.send(jsonAnswer('"a"'))
  t.ok(isWhole(await asked.answered, '"a"'))
  asked.sent.destroy()
  t.equal((await exchange(all)).connection, 0)
})

t.test('an answer that is complete and read slowly does not stop the next one on its connection', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  let reply: ResponseBody | undefined
  let head: ResponseHead | undefined
  ask(transport, backend.url, {
    take(taken, itsHead) {
      reply = taken
      head = itsHead
      taken.attach({ data: () => t.fail('paused'), end: () => t.fail('paused'), lost: () => t.fail('paused') })
      taken.pause()
    },
  })
  const first = await backend.next()
  first.send(jsonAnswer('"slow"'))
  await until(() => transport.sockets().free === 1)
  for (let i = 0; i < 2; i++) {
    const next = await exchange(all, jsonAnswer('"next"'))
    t.equal(next.connection, 0)
    t.ok(isWhole(next.answered, '"next"'))
    // Pausing it now is no business of the connection any more.
    reply?.pause()
  }
  if (reply === undefined || head === undefined) throw new Error('no reply')
  t.ok(isWhole(await readReply(head, reply), '"slow"'), 'and the slow one is read whole')
  reply.destroy()
  t.equal((await exchange(all)).connection, 0)
})

t.test('a reply that is given up in its middle takes its connection along, in its head as well', async t => {
  const all = await scene(t)
  const { backend, transport } = all
  for (const when of ['head', 'body'] as const) {
    ask(transport, backend.url, {
      take(reply) {
        const told = (): void => {
          t.equal(when, 'body')
          reply.destroy()
        }
        reply.attach({ data: told, end: () => t.fail('an end'), lost: () => t.fail('a loss') })
        if (when === 'head') reply.destroy()
      },
    })
    const request = await backend.next()
    request.send(jsonAnswer('"abc"'))
    await new Promise(resolve => request.socket.once('close', resolve))
    await until(() => transport.sockets().busy === 0)
    t.equal(transport.sockets().free, 0)
  }
})

t.test(
  'an upgrade that a backend refuses is an answer like any other, and one that nobody asked for is a fault',
  async t => {
    const { backend, transport } = await scene(t)
    const refused = ask(transport, backend.url, { fresh: true, maySwitch: true })
    const first = await backend.next()
    first.send(jsonAnswer('"no"'))
    t.ok(isWhole(await refused.answered, '"no"'))
    const agreed = ask(transport, backend.url, { fresh: true, maySwitch: true })
    const second = await backend.next()
    second.send('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00')
    t.same(await agreed.answered, { kind: 'switched', rest: '\x81\x00' })
    const unasked = ask(transport, backend.url, { fresh: true })
    const third = await backend.next()
    third.send('HTTP/1.1 101 Switching Protocols\r\n\r\n')
    t.same(await unasked.answered, { kind: 'failed', code: 'unasked_upgrade', stale: false })
    await until(() => transport.sockets().busy === 0)
    t.equal(transport.sockets().free, 1, 'the one that refused rests')
  },
)

t.test('a header or path that cannot stand in a head is refused before a connection is made', async t => {
  const { backend, transport } = await scene(t)
  for (const value of ['a\r\nX: y', 'a\n', 'a\0', '\x7f', '\u0100'])
    t.throws(() => ask(transport, backend.url, { headers: ['x-a', value] }), JSON.stringify(value))
  for (const method of ['GET', 'HEAD']) {
    const asked = ask(transport, backend.url, { method, headers: ['x-a', '\t\x80\xff'] })
    const request = await backend.next()
    t.match(request.head, `${method} /x HTTP/1.1\r\n`)
    t.match(request.head, '\r\nx-a: \t\x80\xff\r\n')
    request.send('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n')
    if (method === 'GET') request.send('{}')
    t.ok(isWhole(await asked.answered, method === 'GET' ? '{}' : ''))
  }
  t.equal(backend.sockets.length, 1)
})

t.test('a body arrives byte for byte, whatever its pieces', async t => {
  const { backend, transport } = await scene(t)
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  for (const body of [
    [],
    [bytes],
    [bytes, bytes],
    [Buffer.alloc(16 * 1024, bytes)],
    [Buffer.alloc(16 * 1024 + 1, bytes)],
    [Buffer.alloc(3_000_000, bytes), bytes, Buffer.alloc(1)],
  ]) {
    const asked = ask(transport, backend.url, { body })
    const request = await backend.next()
    t.ok(request.body.equals(Buffer.concat(body)))
    request.send(jsonAnswer())
    t.ok(isWhole(await asked.answered, '{}'))
  }
  t.equal(backend.sockets.length, 1)
})

function collector(): () => void {
  v8.setFlagsFromString('--expose_gc')
  const collect: unknown = vm.runInNewContext('gc')
  if (typeof collect !== 'function') throw new Error('no collector')
  return () => void collect()
}

t.test("a request's body is let go of while its answer streams, on a new connection and on a used one", async t => {
  const { backend, transport } = await scene(t)
  const clock = createFakeClock()
  const deadlines = createDeadlines(clock)
  const collect = collector()
  const times = { connectMs: 1e6, headersMs: 1e6, firstOutputMs: 1e6, streamHoldMs: 1e6, idleMs: 1e6 }

  /** An attempt whose body nothing but the attempt itself can hold. */
  const begin = (
    pieces: number,
  ): { readonly bodies: readonly WeakRef<Buffer>[]; readonly result: Promise<ResponseBody> } => {
    const body = Array.from({ length: pieces }, () => Buffer.alloc(100_000))
    const endpoint = endpointOf(backend.url)
    const headers = ['host', endpoint.host, 'content-length', String(pieces * 100_000)]
    const plan: AttemptPlan = {
      wire: { endpoint, method: 'POST', path: '/', headers },
      body,
      dialect: 'chat',
      wantsStream: true,
      isCreate: true,
      timeouts: times,
      cancellation: createCancellation(),
      fresh: false,
    }
    const result = attempt(plan, { transport, deadlines, clock }).then(tried => {
      if (tried.kind !== 'response' || tried.response.body.kind !== 'events') throw new Error('no stream')
      return tried.response.source
    })
    return { bodies: body.map(piece => new WeakRef(piece)), result }
  }
  for (const round of ['new', 'used']) {
    const { bodies, result } = begin(3)
    const request = await backend.next()
    t.equal(request.connection, 0, round)
    const head = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n'
    const event = chatEvent('Hello')
    request.send(`${head}${event.length.toString(16)}\r\n${event}\r\n`)
    const stream = (await result).stream(() => undefined)
    const read: Promise<string> = (async () => {
      let text = ''
      for await (const chunk of stream) text += chunk
      return text
    })()
    await nextTurn()
    await nextTurn()
    collect()
    const held = bodies.filter(body => body.deref() !== undefined).length
    t.equal(held, 0, `${round}: no piece of the body is held`)
    request.send('3\r\nend\r\n0\r\n\r\n')
    t.equal(await read, 'end')
    await until(() => transport.sockets().free === 1)
  }
  t.equal(deadlines.size(), 0)
})

t.test(
  'what a probe does not need is read on to keep the connection, but no longer than the probe may take',
  async t => {
    const { backend, transport } = await scene(t)
    const clock = createFakeClock()
    const deadlines = createDeadlines(clock)
    const running = await runProxy(t, configFor([{ url: backend.url }], { rest: 'health_check: {enabled: false}' }))
    const [member] = running.proxy.runtime().pools[0]?.members ?? []
    if (member === undefined) throw new Error('no member')
    const authorizer: Authorizer = { authorize: () => ({ kind: 'header', name: 'api-key', value: 'azure-key' }) }
    for (const ends of [true, false]) {
      const asking = askProbe(member, authorizer, 5_000, { transport, deadlines, clock })
      const request = await backend.next()
      request.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n')
      t.same(await asking, { kind: 'alive' })
      t.equal(deadlines.size(), 1)
      t.equal(transport.sockets().busy, 1)
      if (ends) request.send('0\r\n\r\n')
      else clock.advance(5_000)
      await until(() => transport.sockets().busy === 0)
      t.equal(transport.sockets().free, 1, 'the one that ended in time is kept')
      t.equal(deadlines.size(), 0)
    }
  },
)

/** Makes this certificate one that Node trusts, for this test. */
function trust(t: Test, cert: string): void {
  const { createSecureContext } = tls
  Reflect.set(tls, 'createSecureContext', (options: tls.SecureContextOptions) =>
    createSecureContext(options.cert === undefined ? { ...options, ca: cert } : options),
  )
  t.teardown(() => void Reflect.set(tls, 'createSecureContext', createSecureContext))
}

function secured(backend: RawBackend, at: number): tls.TLSSocket {
  const socket = backend.sockets[at]
  if (!(socket instanceof tls.TLSSocket)) throw new Error('no TLS')
  return socket
}

t.test(
  'over TLS HTTP/1.1 is agreed on, an address names no server, and the next connection resumes the session',
  async t => {
    const certificate = makeCertificate('backend')
    const all = await scene(t, { certificate })
    trust(t, certificate.cert)
    const closing = jsonAnswer('{}', ['Connection: close'])
    for (const at of [0, 1, 2]) {
      const { connection, answered } = await exchange(all, closing)
      t.ok(isWhole(answered, '{}'))
      t.equal(connection, at)
      t.equal(secured(all.backend, at).isSessionReused(), at > 0, `connection ${at}`)
      t.equal(secured(all.backend, at).alpnProtocol, 'http/1.1')
      t.equal(Reflect.get(secured(all.backend, at), 'servername'), false)
      await until(() => all.transport.sockets().busy === 0)
    }
    t.equal((await exchange(all)).connection, 3)
    t.equal((await exchange(all)).connection, 3, 'and connections are used again as without TLS')
  },
)

for (const over of ['TCP', 'TLS'] as const) {
  t.test(`a paused reply stops its backend over ${over}, and nothing of it is lost or comes twice`, async t => {
    const certificate = over === 'TLS' ? makeCertificate('backend') : undefined
    const { backend, transport } = await scene(t, certificate === undefined ? {} : { certificate })
    if (certificate !== undefined) trust(t, certificate.cert)
    // A pattern whose length no buffer's is a multiple of.
    const whole = Buffer.alloc(32 << 20, Buffer.from(Array.from({ length: 65_537 }, (_, i) => (i >> 8) ^ i)))
    let taken: ResponseBody | undefined
    let itsHead: ResponseHead | undefined
    let whenPaused: () => void = () => undefined
    const paused = new Promise<void>(resolve => {
      whenPaused = resolve
    })
    const first: Buffer[] = []
    ask(transport, backend.url, {
      take(reply, head) {
        taken = reply
        itsHead = head
        const data = (bytes: Buffer): void => {
          first.push(bytes)
          reply.pause()
          whenPaused()
        }
        reply.attach({ data, end: () => t.fail('paused'), lost: () => t.fail('paused') })
      },
    })
    const { socket, send } = await backend.next()
    send(`HTTP/1.1 200 OK\r\nContent-Length: ${whole.length}\r\n\r\n`)
    socket.write(whole)
    await paused
    for (let turn = 0; turn < 200; turn++) await nextTurn()
    t.equal(first.length, 1, 'nothing is told while it is paused')
    t.ok(socket.writableLength > 0, 'the backend has not got rid of it')
    if (taken === undefined || itsHead === undefined) throw new Error('no reply')
    const rest = await readReply(itsHead, taken)
    if (rest.kind !== 'whole') throw new Error(rest.kind)
    t.ok(Buffer.concat([...first, Buffer.from(rest.body, 'latin1')]).equals(whole), 'byte for byte')
    await until(() => transport.sockets().free === 1)
  })
}

t.test('over TLS a certificate of another name, and one that nobody vouches for, end the request', async t => {
  const certificate = makeCertificate('backend')
  const { backend, transport: distrusting } = await scene(t, { certificate })
  t.match(await ask(distrusting, backend.url).answered, {
    kind: 'failed',
    code: 'DEPTH_ZERO_SELF_SIGNED_CERT',
    stale: false,
  })
  trust(t, certificate.cert)
  // What is trusted is found out once: with the first connection.
  const transport = createTransport(createFakeClock())
  t.teardown(() => transport.close())
  const named = backend.url.replace('127.0.0.1', 'localhost')
  for (let i = 0; i < 2; i++)
    t.match(await ask(transport, named).answered, {
      kind: 'failed',
      code: 'ERR_TLS_CERT_ALTNAME_INVALID',
      stale: false,
    })
  t.equal(backend.requests.length, 0, 'no byte of a request went out')
  await until(() => transport.sockets().busy === 0)
})

t.test('a backend that shows a certificate of another name is out as connect_failed, and sees no request', async t => {
  const certificate = makeCertificate('backend')
  const backend = await startRawBackend(t, { certificate })
  trust(t, certificate.cert)
  const url = backend.url.replace('127.0.0.1', 'localhost')
  const running = await runProxy(t, configFor([{ url }], { rest: 'health_check: {enabled: false}' }))
  t.equal((await running.chat()).status, 502)
  t.match(
    running.lines.find(({ msg }) => String(msg).startsWith('backend ejected')),
    { reason: 'connect_failed' },
  )
  t.equal(backend.requests.length, 0)
})
