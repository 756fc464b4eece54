// A backend's bytes on their way to a client: whole, failed over, or cut; never held in memory, never garbled.
import { once } from 'node:events'
import http from 'node:http'
import { setImmediate as nextTurn } from 'node:timers/promises'
import v8 from 'node:v8'
import vm from 'node:vm'
import t, { type Test } from 'tap'
import type { Clock } from '../../lib/clock.ts'
import { CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { chatEvent, DONE } from '../fixtures/held-backend.ts'
import { jsonAnswer, type RawBackend, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'

const STREAM_HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n'
const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`

interface Scene {
  readonly first: RawBackend
  readonly second: RawBackend
  readonly running: RunningProxy
}

/** Two backends; the second is asked only where the first fails. */
async function scene(t: Test, { clock, rest = NO_PROBES }: { clock?: Clock; rest?: string } = {}): Promise<Scene> {
  const first = await startRawBackend(t)
  const second = await startRawBackend(t)
  const text = configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest })
  const running = await runProxy(t, text, clock === undefined ? {} : { clock })
  return { first, second, running }
}

function ejected({ running }: Scene): readonly unknown[] {
  return running.lines.filter(({ msg }) => String(msg).startsWith('backend ejected')).map(({ reason }) => reason)
}

/** Once every request is over, no connection is in use. */
async function nothingBusy({ running }: Scene): Promise<void> {
  const { app, shared } = running.proxy
  await until(() => app.inFlight() === 0 && shared.transport.sockets().busy === 0 && shared.deadlines.size() === 0)
}

/** A request with a client's connection of its own. */
function post(running: RunningProxy, stream = false): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${CLIENT_KEY}`, 'content-type': 'application/json' }
    const request = http.request(`${running.url}${CHAT}`, { method: 'POST', agent: false, headers })
    request.on('response', resolve).on('error', reject)
    request.end(JSON.stringify({ model: 'gpt-4o', stream, messages: [{ role: 'user', content: 'Hello' }] }))
  })
}

async function bodyOf(response: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const bytes of response) if (Buffer.isBuffer(bytes)) chunks.push(bytes)
  return Buffer.concat(chunks).toString('latin1')
}

for (const end of ['end', 'resetAndDestroy'] as const) {
  t.test(`a used connection found dead (${end}) costs nothing and blames nobody`, async t => {
    const all = await scene(t)
    const { first, second, running } = all
    const one = running.chat()
    const warm = await first.next()
    warm.send(jsonAnswer('{"n":1}'))
    t.same(await (await one).json(), { n: 1 })

    const two = running.chat()
    const dead = await first.next()
    t.equal(dead.connection, 0)
    dead.socket[end]()
    const again = await first.next()
    t.equal(again.connection, 1)
    t.ok(again.body.equals(dead.body), 'with the same body')
    again.send(jsonAnswer('{"n":2}'))
    const answer = await two
    t.same(await answer.json(), { n: 2 })
    t.equal(answer.headers.get('x-proxy-attempts'), '1')
    t.strictSame(ejected(all), [])
    t.equal(second.requests.length, 0)

    const three = running.chat()
    const died = await first.next()
    t.equal(died.connection, 1)
    died.socket[end]()
    const diedAgain = await first.next()
    diedAgain.socket[end]()
    const spare = await second.next()
    spare.send(jsonAnswer('{"n":3}'))
    t.same(await (await three).json(), { n: 3 })
    t.strictSame(ejected(all), ['connection_lost'], 'it is tried once more, not for ever')
    t.equal(first.requests.length, 5)
    await nothingBusy(all)
  })
}

const FAILURES: readonly (readonly [string, string, string])[] = [
  ['a used connection that dies behind the first byte', 'H', 'connection_lost'],
  ['a head that breaks off', 'HTTP/1.1 200 OK\r\nContent-Le', 'connection_lost'],
  ['a short answer that breaks off', jsonAnswer('{"n":1}').slice(0, -1), 'connection_lost'],
  ['a control character in a header', jsonAnswer('{}', ['X-A: a\x01b']), 'protocol_error'],
  ['a CR alone in a header', jsonAnswer('{}', ['X-A: a\rX-B: b']), 'protocol_error'],
  ['two lengths', jsonAnswer('{}', ['Content-Length: 2']), 'protocol_error'],
  ['a length and chunks', jsonAnswer('{}', ['Transfer-Encoding: chunked']), 'protocol_error'],
  ['lines that end in LF alone', 'HTTP/1.1 200 OK\nContent-Length: 2\n\n{}', 'protocol_error'],
  ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n', 'protocol_error'],
  ['chunks that are none, before any output', `${STREAM_HEAD}${chunk(': a comment\n\n')}zz\r\n`, 'protocol_error'],
]
for (const [what, bytes, reason] of FAILURES) {
  t.test(`${what} fails over, and is blamed as ${reason}`, async t => {
    const all = await scene(t)
    const { first, second, running } = all
    const one = running.chat()
    const warm = await first.next()
    warm.send(jsonAnswer())
    await (await one).text()

    const asked = running.chat({ stream: bytes.startsWith(STREAM_HEAD) })
    const request = await first.next()
    t.equal(request.connection, 0)
    if (reason === 'connection_lost') request.socket.end(bytes, 'latin1')
    else request.send(bytes)
    const spare = await second.next()
    spare.send(jsonAnswer('{"from":"second"}'))
    t.same(await (await asked).json(), { from: 'second' })
    t.strictSame(ejected(all), [reason])
    await nothingBusy(all)
    t.same(running.proxy.shared.transport.sockets(), { busy: 0, free: 1 })
  })
}

t.test('100 and 103 before an answer are passed over, and its trailers are dropped', async t => {
  const all = await scene(t)
  const { first, running } = all
  const asked = post(running)
  const request = await first.next()
  request.send('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n')
  request.send(
    'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n',
  )
  request.send(`${chunk('{"a":')}${chunk('1}')}0\r\nX-T: late\r\n\r\n`)
  const response = await asked
  t.equal(response.statusCode, 200)
  t.equal(response.headers.link, undefined)
  t.equal(response.headers.trailer, undefined)
  t.equal(await bodyOf(response), '{"a":1}')
  t.same(response.trailers, {})
  const next = post(running)
  const second = await first.next()
  t.equal(second.connection, 0, 'the connection goes on')
  second.send(jsonAnswer())
  await bodyOf(await next)
})

t.test('an answer in chunks that came in one piece has a length for the client; gzip is never asked for', async t => {
  const { first, running } = await scene(t)
  const asked = post(running)
  const request = await first.next()
  t.match(request.head, /\r\naccept-encoding: identity\r\n/)
  t.notMatch(request.head, /gzip|\r\nte:/i)
  request.send(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunk('{"a":')}${chunk('1}')}0\r\n\r\n`)
  const response = await asked
  t.equal(response.headers['content-length'], '7')
  t.equal(response.headers['transfer-encoding'], undefined)
  t.equal(await bodyOf(response), '{"a":1}')
})

const JSON_HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n'
const CHUNKED_HEAD = `${JSON_HEAD}Transfer-Encoding: chunked\r\n\r\n`

for (const [what, bytes, end] of [
  ['in chunks, its connection closed', `${CHUNKED_HEAD}${chunk('{"id":"a","choices":[')}`, 'closed'],
  ['in chunks, its connection reset', `${CHUNKED_HEAD}${chunk('{"id":"a","choices":[')}`, 'reset'],
  ['in a chunk', `${CHUNKED_HEAD}40\r\n{"id":`, 'closed'],
  ['in chunks that end as if they were whole', `${CHUNKED_HEAD}${chunk('{"id":"a"')}0\r\n\r\n`, 'open'],
  ['that ends with its connection', `${JSON_HEAD}\r\n{"id":"a","choices":[`, 'closed'],
  ['that ends with its connection, in a text', `${JSON_HEAD}\r\n{"id":"a`, 'closed'],
  ['under a length that is too short', `${JSON_HEAD}Content-Length: 9\r\n\r\n{"id":"a","choices":[]}`, 'open'],
] as const) {
  t.test(`JSON cut off ${what}: the client has seen none of it, and the next backend is asked`, async t => {
    const all = await scene(t)
    const { first, second, running } = all
    const asked = post(running)
    const request = await first.next()
    request.send(bytes)
    // Apart, so that the beginning has been read before the end comes.
    await until(() => request.socket.writableLength === 0)
    for (let turn = 0; turn < 20; turn++) await nextTurn()
    if (end === 'closed') request.socket.end()
    if (end === 'reset') request.socket.resetAndDestroy()
    const saved = await second.next()
    saved.send(jsonAnswer('{"sound":true}'))
    const response = await asked
    t.equal(response.statusCode, 200)
    t.equal(response.headers['x-proxy-attempts'], '2')
    t.equal(await bodyOf(response), '{"sound":true}')
    t.same(ejected(all), ['connection_lost'])
  })
}

t.test('JSON that comes slowly is passed on as it comes after stream_hold, and so is what is no object', async t => {
  const clock = createFakeClock()
  const { first, running } = await scene(t, { clock, rest: `${NO_PROBES}\nretry: {stream_hold: 1s}` })
  const asked = post(running)
  const request = await first.next()
  request.send(`${CHUNKED_HEAD}${chunk('{"id":')}`)
  const { deadlines } = running.proxy.shared
  await until(() => request.socket.writableLength === 0 && deadlines.size() > 0)
  for (let turn = 0; turn < 20; turn++) await nextTurn()
  clock.advance(1_100)
  const response = await asked
  t.equal(response.headers['x-proxy-attempts'], '1')
  const [begun] = await once(response, 'data')
  t.equal(String(begun), '{"id":')
  request.send(`${chunk('1}')}0\r\n\r\n`)
  t.equal(await bodyOf(response), '1}')

  for (const piece of ['  ', 'data', '\n']) {
    const next = post(running)
    const blank = await first.next()
    blank.send(`${CHUNKED_HEAD}${chunk(piece)}`)
    const flowing = await next
    const [bytes] = await once(flowing, 'data')
    t.equal(String(bytes), piece, 'no time has passed')
    blank.send(`${chunk('{}')}0\r\n\r\n`)
    t.equal(await bodyOf(flowing), '{}')
  }
})

t.test('header values beyond ASCII pass unchanged in both directions', async t => {
  const { first, running } = await scene(t)
  const odd = '\x80caf\xe9 \xff'
  const client = connect(running)
  const body = '{"model":"gpt-4o","messages":[]}'
  client.send(
    [
      ...[`POST ${CHAT} HTTP/1.1`, 'Host: x', `Authorization: Bearer ${CLIENT_KEY}`, 'Content-Type: application/json'],
      ...['X-Utf8: caf\xe9', `Content-Length: ${body.length}`],
    ],
    body,
  )
  // The fixture writes UTF-8: two bytes, each a character of the head.
  const request = await first.next()
  t.match(request.head, '\r\nX-Utf8: caf\xc3\xa9\r\n')
  request.send(jsonAnswer('{}', [`X-Odd: ${odd}`]))
  t.match(await client.until('\r\n\r\n{}'), `\r\nX-Odd: ${odd}\r\n`)
  client.socket.destroy()
})

/** Collections that have to free nothing before what is left counts as needed. */
const SETTLED_ROUNDS = 5

/** A look at the bytes that buffers hold, after what is not needed has gone. */
function measure(): () => Promise<number> {
  v8.setFlagsFromString('--expose_gc')
  const collect: unknown = vm.runInNewContext('gc')
  if (typeof collect !== 'function') throw new Error('no collector')
  return async () => {
    // Buffers are given back beside the program, late on a busy machine: until several rounds have freed nothing more.
    let least = Number.POSITIVE_INFINITY
    for (let still = 0; still < SETTLED_ROUNDS; still++) {
      collect()
      await nextTurn()
      const bytes = process.memoryUsage().arrayBuffers
      if (bytes < least) still = -1
      least = Math.min(least, bytes)
    }
    return least
  }
}

/** Resolves once the far side has taken nothing more for many turns: it is held up, or done. */
async function heldUp(socket: { readonly bytesWritten: number; readonly writableLength: number }): Promise<number> {
  const gone = (): number => socket.bytesWritten - socket.writableLength
  let last = -1
  for (let still = 0; still < 300; still++) {
    await nextTurn()
    if (gone() === last) continue
    last = gone()
    still = 0
  }
  return last
}

const BIG_BYTES = 200 * 1024 * 1024
const PIECE = Buffer.alloc(64 * 1024, 'x')
const EVENT = Buffer.from(chatEvent('x'.repeat(16 * 1024)))

for (const kind of ['a long answer', 'an event stream'] as const) {
  t.test(
    `${kind} that its client reads slowly stops its backend, stays out of memory, and is whole in the end`,
    async t => {
      const all = await scene(t)
      const { first, running } = all
      const arrayBytes = measure()
      const isStream = kind === 'an event stream'
      const asked = post(running, isStream)
      const { socket, send } = await first.next()
      const piece = isStream
        ? Buffer.concat([Buffer.from(`${EVENT.length.toString(16)}\r\n`), EVENT, Buffer.from('\r\n')])
        : PIECE
      const count = Math.ceil(BIG_BYTES / piece.length)
      send(isStream ? STREAM_HEAD : `HTTP/1.1 200 OK\r\nContent-Length: ${count * PIECE.length}\r\n\r\n`)
      let sent = 0
      const fill = (): void => {
        while (sent < count) {
          sent++
          if (!socket.write(piece)) return
        }
        if (isStream) send(`${chunk(DONE)}0\r\n\r\n`)
        socket.off('drain', fill)
      }
      socket.on('drain', fill)
      const before = await arrayBytes()
      fill()
      const response = await asked
      let read = 0
      let held = false
      response.on('data', (bytes: Buffer) => {
        read += bytes.length
        if (held || read < 1024 * 1024) return
        held = true
        response.pause()
      })
      await until(() => held)
      const gone = await heldUp(socket)
      t.ok(gone < BIG_BYTES / 2, `the backend is held up, at ${gone} bytes: the rest is what kernels hold`)
      const heldBytes = (await arrayBytes()) - before
      t.ok(heldBytes < 2 * 1024 * 1024, `${heldBytes} bytes are held, the test's own client included`)
      response.resume()
      await once(response, 'end')
      t.equal(read, isStream ? count * EVENT.length + DONE.length : count * PIECE.length)
      t.ok(response.complete)
      await nothingBusy(all)

      const next = post(running)
      const again = await first.next()
      t.equal(again.connection, 0, 'the connection is used again')
      again.send(jsonAnswer('"next"'))
      t.equal(await bodyOf(await next), '"next"')
    },
  )
}

t.test('a client that leaves in the middle of a long answer takes its connection along', async t => {
  const all = await scene(t)
  const { first, running } = all
  for (const isStream of [false, true]) {
    const asked = post(running, isStream)
    const { socket, send } = await first.next()
    send(
      isStream ? `${STREAM_HEAD}${chunk(chatEvent('a'))}` : 'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun',
    )
    const response = await asked
    response.on('error', () => undefined)
    const closed = once(socket, 'close')
    response.destroy()
    await closed
    await nothingBusy(all)
    t.equal(running.proxy.shared.transport.sockets().free, 0)
  }
})

t.test(
  'a long request takes no more memory than half as much again as its size, until its answer has begun',
  async t => {
    const CLIENTS = 4
    const first = await startRawBackend(t, { early: true })
    const running = await runProxy(t, configFor([{ url: first.url }], { rest: NO_PROBES }))
    const { bodyBudget } = running.proxy.shared
    const content = 'x'.repeat(12 * 1024 * 1024)
    const body = Buffer.from(JSON.stringify({ messages: [{ role: 'user', content }], model: 'gpt-4o' }))
    const bytesInUse = measure()
    const before = await bytesInUse()
    const clients = Array.from({ length: CLIENTS }, () => {
      const client = connect(running)
      const lines = [`POST ${CHAT} HTTP/1.1`, 'Host: x', `Authorization: Bearer ${CLIENT_KEY}`]
      client.send([...lines, 'Content-Type: application/json', `Content-Length: ${body.length}`])
      client.socket.write(body)
      return client
    })
    await until(() => bodyBudget.heldBytes() === CLIENTS * body.length && first.requests.length === CLIENTS)
    const held = (await bytesInUse()) - before
    t.ok(held >= CLIENTS * body.length, 'it is all there, to be sent again')
    t.ok(held <= 1.5 * CLIENTS * body.length, `${held} bytes for ${CLIENTS * body.length}`)
    for (const request of first.requests) request.send(STREAM_HEAD + chunk(chatEvent('begun')))
    await until(() => bodyBudget.heldBytes() === 0)
    // What the backend has not taken yet waits in its connection; then nothing is left of it, however long the streams
    // last.
    for (const { socket } of first.requests) {
      socket.removeAllListeners('data')
      socket.on('data', () => undefined).resume()
    }
    await until(() => first.requests.every(({ socket }) => socket.bytesRead > body.length))
    t.equal(running.proxy.app.openStreams(), CLIENTS)
    const left = (await bytesInUse()) - before
    t.ok(left < body.length / 2, `${left} bytes while the answers stream`)
    for (const { socket } of first.requests) socket.destroy()
    for (const { socket } of clients) socket.destroy()
  },
)

t.test('broken chunks behind the first output cut the answer, and what was sound before them has passed', async t => {
  const all = await scene(t)
  const { first, running } = all
  const stream = post(running, true)
  const one = await first.next()
  one.send(`${STREAM_HEAD}${chunk(chatEvent('a'))}`)
  const response = await stream
  one.send(`${chunk(chatEvent('b'))}zz\r\n`)
  const text = await bodyOf(response)
  t.ok(text.startsWith(chatEvent('a') + chatEvent('b')), 'what came in the same read is not lost')
  t.match(text, '"code":"upstream_error"')
  t.notMatch(text, '[DONE]')

  const long = post(running)
  const two = await first.next()
  two.send(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunk('begun')}`)
  const cut = await long
  two.send('5\r\nlonger\r\n')
  await t.rejects(bodyOf(cut), { code: 'ECONNRESET' })
  await nothingBusy(all)
})

for (const version of ['1.1', '1.0'] as const) {
  t.test(`an event stream reaches an HTTP/${version} client in the framing it knows, byte for byte`, async t => {
    const { first, running } = await scene(t)
    const client = connect(running)
    const body = JSON.stringify({ model: 'gpt-4o', stream: true, messages: [] })
    client.send(
      [
        `POST ${CHAT} HTTP/${version}`,
        'Host: proxy',
        `Authorization: Bearer ${CLIENT_KEY}`,
        'Connection: close',
        `Content-Length: ${body.length}`,
      ],
      body,
    )
    const { send } = await first.next()
    const [one, two] = [chatEvent('one'), chatEvent('two')]
    send(STREAM_HEAD + chunk(one))
    await client.until(one)
    // Longer than what is read at once, and cut within an event.
    const long = chatEvent('x'.repeat(100_000))
    send(chunk(two + long.slice(0, 70_000)) + chunk(long.slice(70_000)))
    await client.until(long)
    send(`${chunk(DONE)}0\r\n\r\n`)
    const [head = '', ...rest] = (await client.closed).split('\r\n\r\n')
    const wire = rest.join('\r\n\r\n')
    t.equal(/transfer-encoding: chunked/i.test(head), version === '1.1')
    t.equal(/content-length/i.test(head), false)
    const whole = one + two + long + DONE
    if (version === '1.0') t.equal(wire, whole)
    else {
      let read = ''
      let at = 0
      for (let size = -1; size !== 0; ) {
        const end = wire.indexOf('\r\n', at)
        size = Number.parseInt(wire.slice(at, end), 16)
        read += wire.slice(end + 2, end + 2 + size)
        t.equal(wire.slice(end + 2 + size, end + 4 + size), '\r\n')
        at = end + 4 + size
      }
      t.equal(read, whole)
      t.equal(at, wire.length, 'nothing follows the last chunk')
    }
  })
}

t.test(
  'what came before a stream broke off goes out before its error event, also to a client that reads late',
  async t => {
    const all = await scene(t)
    const response = post(all.running, true)
    const { send, socket } = await all.first.next()
    const events = Array.from({ length: 60 }, (_, i) => chatEvent(`${i} ${'x'.repeat(100_000)}`))
    send(STREAM_HEAD + events.map(chunk).join(''))
    socket.end()
    const late = await response
    for (let turn = 0; turn < 200; turn++) await nextTurn()
    const text = await bodyOf(late)
    const sent = events.join('')
    t.equal(text.slice(0, sent.length), sent)
    t.match(text.slice(sent.length), /^data: \{"error":\{.*"code":"upstream_error"\}\}\n\n$/)
    await nothingBusy(all)
  },
)

t.test("an error's body that drips is judged by its status after five seconds", async t => {
  const clock = createFakeClock()
  const all = await scene(t, { clock })
  const { first, second, running } = all
  const asked = running.chat()
  const request = await first.next()
  request.send('HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 1000\r\n\r\n{')
  // Its own deadline and that of the client's connection, which a sweep looks at.
  let dripped = 1
  for (let second = 0; second < 8 && all.second.requests.length === 0; second++) {
    clock.advance(1_000)
    request.send(' ')
    dripped++
    for (let turn = 0; turn < 20; turn++) await nextTurn()
  }
  t.ok(dripped < 8, 'it is not read for as long as it drips')
  const spare = await second.next()
  spare.send(jsonAnswer())
  t.equal((await asked).status, 200)
  t.equal(running.lines.find(({ msg }) => msg === 'backend throttled')?.for_ms, 7_000)
  await nothingBusy(all)
})
