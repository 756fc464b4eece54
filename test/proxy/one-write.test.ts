// One write for all that comes up in one turn of the event loop, in whatever it came: TLS records, chunks, frames.
// covers: lib/http1/turn-reads.ts, lib/forward/relay-events.ts, lib/forward/client-framing.ts, lib/forward/tunnel.ts
import net, { type Socket } from 'node:net'
import tls from 'node:tls'
import t, { type Test } from 'tap'
import { BEARER, CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { type Certificate, makeCertificate } from '../fixtures/certificate.ts'
import { chatEvent, DONE } from '../fixtures/held-backend.ts'
import { type RawBackend, type RawRequest, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect, type RawClient } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const CERTIFICATE = makeCertificate('backend')
/** OpenSSL makes no smaller records: a write of more becomes many, which come up one by one. */
const LEAST_RECORD_BYTES = 512
const HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n'
const LAST_CHUNK = '0\r\n\r\n'

const chunked = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`
const words = (count: number): readonly string[] => Array.from({ length: count }, (_, i) => chatEvent(`word ${i}`))

/** Counts the writes of a socket, and keeps what they wrote. */
function countWrites(socket: Socket): string[] {
  const writes: string[] = []
  const { _write: write, _writev: writev } = socket
  const text = (chunk: Buffer | string, encoding: BufferEncoding): string =>
    typeof chunk === 'string' ? Buffer.from(chunk, encoding).toString('latin1') : chunk.toString('latin1')
  socket._write = (chunk, encoding, done) => {
    writes.push(text(chunk, encoding))
    write.call(socket, chunk, encoding, done)
  }
  socket._writev = (chunks, done) => {
    writes.push(chunks.map(each => text(each.chunk, each.encoding)).join(''))
    writev?.call(socket, chunks, done)
  }
  return writes
}

interface Scene {
  readonly backend: RawBackend
  readonly running: RunningProxy
  /** What the proxy wrote to its clients, write by write, of the connection that came last. */
  writes(): readonly string[]
  /** The proxy's end of that connection. */
  clientSocket(): Socket | undefined
}

async function scene(t: Test, certificate: Certificate | undefined, clients?: Certificate): Promise<Scene> {
  const backend = await startRawBackend(t, certificate === undefined ? {} : { certificate })
  const more = certificate === undefined ? '' : 'tls: {ca: /ca.pem, server_name: backend}'
  const text = configFor([{ url: backend.url, more }], { rest: NO_PROBES })
  const running = await runProxy(t, text, {
    readFile: () => CERTIFICATE.cert,
    ...(clients === undefined ? {} : { tls: { cert: Buffer.from(clients.cert), key: Buffer.from(clients.key) } }),
  })
  let writes: readonly string[] = []
  let last: Socket | undefined
  running.proxy.listener.server.on(clients === undefined ? 'connection' : 'secureConnection', (socket: Socket) => {
    last = socket
    writes = countWrites(socket)
  })
  return { backend, running, writes: () => writes, clientSocket: () => last }
}

/** Over TLS many small records, which leave in one go. */
function sendAtOnce({ socket }: RawRequest, text: string): void {
  if (socket instanceof tls.TLSSocket) socket.setMaxSendFragment(LEAST_RECORD_BYTES)
  socket.write(text, 'latin1')
}

function askStream(client: Pick<RawClient, 'send'>): void {
  const body = '{"model":"gpt-4o","stream":true,"messages":[]}'
  const lines = ['Host: x', `Authorization: Bearer ${CLIENT_KEY}`, `Content-Length: ${body.length}`]
  client.send([`POST ${CHAT} HTTP/1.1`, ...lines], body)
}

/** The data of a chunked answer behind its head. */
function unchunked(text: string): string {
  let rest = text.slice(text.indexOf('\r\n\r\n') + 4)
  let data = ''
  for (let size = Number.parseInt(rest, 16); size > 0; size = Number.parseInt(rest, 16)) {
    const from = rest.indexOf('\r\n') + 2
    data += rest.slice(from, from + size)
    rest = rest.slice(from + size + 2)
  }
  return data
}

for (const [name, certificate] of [
  ['chunks over plain HTTP', undefined],
  ['TLS records', CERTIFICATE],
] as const) {
  t.test(`${name} of one turn leave in one write: head and first events, events, events and the end`, async t => {
    const it = await scene(t, certificate)
    const client = connect(it.running)
    askStream(client)
    const request = await it.backend.next()
    const [first = '', second = '', third = ''] = [words(60), words(80), [...words(20), DONE]].map(events =>
      events.map(chunked).join(''),
    )
    sendAtOnce(request, HEAD + first)
    await client.until('word 59')
    t.equal(it.writes().length, 1)
    sendAtOnce(request, second)
    await client.until('word 79')
    t.equal(it.writes().length, 2)
    sendAtOnce(request, third + LAST_CHUNK)
    const got = await client.until(LAST_CHUNK)
    t.equal(it.writes().length, 3, 'the end goes with the last events')
    t.equal(unchunked(got), [...words(60), ...words(80), ...words(20), DONE].join(''), 'in order, every byte')
    client.socket.destroy()
  })
}

for (const [name, clients] of [
  ['plain HTTP', undefined],
  ['TLS', CERTIFICATE],
] as const) {
  t.test(
    `to a client over ${name} a long event leaves in one write, and so does a first one with the head`,
    async t => {
      const it = await scene(t, undefined, clients)
      const at = { port: it.running.port, host: '127.0.0.1' }
      const socket = clients === undefined ? net.connect(at) : tls.connect({ ...at, rejectUnauthorized: false })
      let got = ''
      socket.on('data', chunk => {
        got += chunk.toString('latin1')
      })
      askStream({ send: (lines, body = '') => void socket.write(`${lines.join('\r\n')}\r\n\r\n${body}`) })
      const request = await it.backend.next()
      const [first, second] = ['a', 'b'].map(letter => chatEvent(letter.repeat(40_000)))
      request.send(HEAD + chunked(first ?? ''))
      await until(() => got.includes(first ?? 'none'))
      t.equal(it.writes().filter(written => written !== '').length, 1)
      request.send(chunked(second ?? ''))
      await until(() => got.includes(second ?? 'none'))
      t.equal(it.writes().filter(written => written !== '').length, 2)
      request.send(chunked(DONE) + LAST_CHUNK)
      await until(() => got.endsWith(LAST_CHUNK))
      t.equal(unchunked(got), `${first}${second}${DONE}`, 'in order, every byte')
      socket.destroy()
    },
  )
}

t.test('records before a broken connection reach the client, and the error event behind them', async t => {
  const it = await scene(t, CERTIFICATE)
  const client = connect(it.running)
  askStream(client)
  const request = await it.backend.next()
  sendAtOnce(request, HEAD + words(1).map(chunked).join(''))
  await client.until('word 0')
  sendAtOnce(request, words(40).map(chunked).join(''))
  // TLS hands its records to the system at the end of the turn.
  setImmediate(() => request.socket.destroy())
  const got = await client.until(LAST_CHUNK)
  t.ok(unchunked(got).startsWith(`${chatEvent('word 0')}${words(40).join('')}data: {"error"`))
  client.socket.destroy()
})

t.test('a client that does not read holds the backend up, whose records then arrive all the same', async t => {
  const it = await scene(t, CERTIFICATE)
  const client = connect(it.running)
  askStream(client)
  const request = await it.backend.next()
  sendAtOnce(request, HEAD + words(1).map(chunked).join(''))
  await client.until('word 0')
  client.socket.pause()
  const long = chatEvent('x'.repeat(100_000))
  const events = 120
  if (request.socket instanceof tls.TLSSocket) request.socket.setMaxSendFragment(16 * 1024)
  for (let i = 0; i < events; i++) request.send(chunked(long))
  await until(() => it.clientSocket()?.writableNeedDrain === true)
  let most = 0
  for (let i = 0; i < 100; i++) {
    most = Math.max(most, it.clientSocket()?.writableLength ?? 0)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.ok(most < 512 * 1024, `${most} bytes wait in the proxy`)
  t.ok(request.socket.writableLength > 1_000_000, 'the rest waits at the backend')
  client.socket.resume()
  request.send(chunked(DONE) + LAST_CHUNK)
  t.equal(
    unchunked(await client.until(LAST_CHUNK)).length,
    words(1).join('').length + events * long.length + DONE.length,
  )
  client.socket.destroy()
})

t.test('an answer in many records is one answer, also where the connection ends it', async t => {
  const it = await scene(t, CERTIFICATE)
  for (const ending of ['length', 'close'] as const) {
    const body = JSON.stringify({ choices: [], filler: 'x'.repeat(40_000) })
    const asked = it.running.chat()
    const request = await it.backend.next()
    const framing = ending === 'length' ? `Content-Length: ${body.length}` : 'Connection: close'
    sendAtOnce(request, `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n${framing}\r\n\r\n${body}`)
    if (ending === 'close') request.socket.end()
    t.equal(await (await asked).text(), body)
  }
})

t.test('two streams whose records come up in the same turn do not mix', async t => {
  const it = await scene(t, CERTIFICATE)
  const streams: { readonly client: RawClient; readonly request: RawRequest; readonly name: string }[] = []
  for (const name of ['one', 'two', 'three']) {
    const client = connect(it.running)
    askStream(client)
    streams.push({ client, request: await it.backend.next(), name })
  }
  const said = (name: string, turn: number): string => chatEvent(`${name} ${turn} `.repeat(200))
  for (const { request } of streams) sendAtOnce(request, HEAD)
  for (let turn = 0; turn < 5; turn++) {
    for (const { request, name } of streams) sendAtOnce(request, chunked(said(name, turn)))
    await Promise.all(streams.map(({ client, name }) => client.until(`${name} ${turn} `)))
  }
  for (const { request } of streams) sendAtOnce(request, chunked(DONE) + LAST_CHUNK)
  for (const { client, name } of streams) {
    const got = await client.until(LAST_CHUNK)
    t.equal(unchunked(got), [0, 1, 2, 3, 4].map(turn => said(name, turn)).join('') + DONE)
    client.socket.destroy()
  }
})

t.test('what a backend sends unasked in the turn of its answer is no part of the next one', async t => {
  const it = await scene(t, CERTIFICATE)
  const answer = (text: string): string =>
    `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`
  const asked = it.running.chat()
  const request = await it.backend.next()
  sendAtOnce(request, answer(JSON.stringify({ n: 'x'.repeat(2_000) })) + answer('"never asked for"'))
  t.equal((await (await asked).text()).length, JSON.stringify({ n: 'x'.repeat(2_000) }).length)
  const again = it.running.chat()
  const second = await it.backend.next()
  t.equal(second.connection, 1, 'on a connection of its own')
  second.send(answer('"asked for"'))
  t.equal(await (await again).text(), '"asked for"')
})

/** A text frame as a server sends it. */
function frame(text: string): string {
  if (text.length >= 126) throw new Error('too long for the short form')
  return `\x81${String.fromCharCode(text.length)}${text}`
}

for (const [name, clients] of [
  ['a plain client', undefined],
  ['a client over TLS', CERTIFICATE],
] as const) {
  t.test(`realtime frames that come up in one turn reach ${name} in one write`, async t => {
    const it = await scene(t, CERTIFICATE, clients)
    const opening = openWebSocket(`${it.running.url}/v1/realtime?model=gpt-4o`, BEARER, clients?.cert)
    const request = await it.backend.next()
    request.send(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n',
    )
    const session = mustBeOpen(await opening)
    const before = it.writes().length
    const texts = Array.from({ length: 60 }, (_, i) => JSON.stringify({ type: 'delta', n: i, filler: 'x'.repeat(40) }))
    sendAtOnce(request, texts.map(frame).join(''))
    for (const text of texts) t.same(await session.next(), JSON.parse(text))
    t.equal(it.writes().length, before + 1)
    session.socket.destroy()
    await until(() => it.running.proxy.app.inFlight() === 0)
  })
}

t.test('events reach a client over TLS in one write too', async t => {
  const it = await scene(t, CERTIFICATE, CERTIFICATE)
  const socket = tls.connect({ port: it.running.port, host: '127.0.0.1', rejectUnauthorized: false })
  let got = ''
  socket.on('data', chunk => {
    got += chunk.toString('latin1')
  })
  askStream({ send: (lines, body = '') => void socket.write(`${lines.join('\r\n')}\r\n\r\n${body}`) })
  const request = await it.backend.next()
  sendAtOnce(request, HEAD + words(60).map(chunked).join(''))
  await until(() => got.includes('word 59'))
  t.equal(it.writes().length, 1)
  sendAtOnce(request, [...words(20), DONE].map(chunked).join('') + LAST_CHUNK)
  await until(() => got.includes(LAST_CHUNK))
  t.equal(it.writes().length, 2)
  t.equal(unchunked(got), [...words(60), ...words(20), DONE].join(''))
  socket.destroy()
})
