// Request bodies that come packed: made plain within the limits and passed on so, or refused with what the client may
// send instead.
import http from 'node:http'
import zlib from 'node:zlib'
import t from 'tap'
import { CODINGS } from '../../lib/body/decode.ts'
import { BEARER, CHAT, NO_PROBES, oneBackend } from '../fixtures/backends-and-proxy.ts'
import { jsonAnswer, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'

const text = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Grüße 😀 '.repeat(4_000) }] })

interface Packed {
  readonly name: string
  readonly encoding: string
  readonly bytes: Buffer
}

const zstd: unknown = Reflect.get(zlib, 'zstdCompressSync')

const packed = (plain: string | Buffer): readonly Packed[] => [
  { name: 'gzip', encoding: 'gzip', bytes: zlib.gzipSync(plain) },
  { name: 'gzip by its old name', encoding: 'X-GZIP', bytes: zlib.gzipSync(plain) },
  {
    name: 'gzip in two members',
    encoding: 'gzip',
    bytes: Buffer.concat([zlib.gzipSync(plain.slice(0, 9)), zlib.gzipSync(plain.slice(9))]),
  },
  { name: 'deflate', encoding: 'deflate', bytes: zlib.deflateSync(plain) },
  { name: 'deflate without its frame', encoding: ' Deflate ', bytes: zlib.deflateRawSync(plain) },
  { name: 'br', encoding: 'br', bytes: zlib.brotliCompressSync(plain) },
  ...(typeof zstd === 'function'
    ? [{ name: 'zstd', encoding: 'zstd', bytes: Buffer.from(Reflect.apply(zstd, zlib, [plain])) }]
    : []),
]

function post(running: RunningProxy, encoding: string, body: Buffer, path = CHAT): Promise<Response> {
  return running.post(path, undefined, { body, headers: { 'content-encoding': encoding } })
}

async function codeOf(answer: Response): Promise<unknown> {
  const body: unknown = await answer.json()
  return body !== null && typeof body === 'object' && 'error' in body ? body.error : body
}

t.test('a packed body goes on plain, with its plain length and without Content-Encoding', async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(
    t,
    configFor([{ url: backend.url, more: 'api_version: "2024-10-21"' }], { rest: NO_PROBES }),
  )
  for (const { name, encoding, bytes } of packed(text)) {
    const asked = post(running, encoding, bytes)
    const request = await backend.next()
    t.equal(request.body.toString(), text, name)
    t.match(request.head, `content-length: ${Buffer.byteLength(text)}`)
    t.notMatch(request.head, /content-encoding/i)
    request.send(jsonAnswer())
    t.equal((await asked).status, 200)
  }
})

t.test('the model is found in a packed body, and its value replaced', async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(t, configFor([{ url: backend.url, more: 'deployment: own' }], { rest: NO_PROBES }))
  for (const { name, encoding, bytes } of packed('{"model":"gpt-4o","messages":[]}')) {
    const asked = post(running, encoding, bytes)
    const request = await backend.next()
    t.equal(request.body.toString(), '{"model":"own","messages":[]}', name)
    request.send(jsonAnswer())
    await asked
  }
})

t.test('it may come in any pieces, in chunks, and with the expectation to be asked for it', async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
  for (const { name, encoding, bytes } of packed('{"model":"gpt-4o","messages":[]}')) {
    const request = http.request(`${running.url}${CHAT}`, {
      method: 'POST',
      headers: { ...BEARER, 'content-encoding': encoding, expect: '100-continue', 'transfer-encoding': 'chunked' },
    })
    const answered = new Promise<number | undefined>(resolve =>
      request.on('response', answer => resolve(answer.resume().statusCode)),
    )
    request.on('continue', async () => {
      for (const byte of bytes) {
        request.write(Buffer.of(byte))
        await new Promise(resolve => setImmediate(resolve))
      }
      request.end()
    })
    request.flushHeaders()
    const got = await backend.next()
    t.match(got.body.toString(), /"messages":\[\]/, name)
    got.send(jsonAnswer())
    t.equal(await answered, 200)
  }
})

t.test('another encoding, or a stack of them, is 415 with those that may be sent; identity is none', async t => {
  const { running, backend } = await oneBackend(t)
  for (const encoding of ['compress', 'gzip, br', 'gzip, gzip', 'aws-chunked', 'identity, gzip', 'exi', 'gzip;q=1']) {
    const answer = await post(running, encoding, zlib.gzipSync(text))
    t.equal(answer.status, 415, encoding)
    t.equal(answer.headers.get('accept-encoding'), CODINGS.join(', '))
    t.match(await codeOf(answer), {
      code: 'unsupported_encoding',
      type: 'invalid_request_error',
      message: /gzip, deflate, br/,
    })
  }
  t.equal(backend.resource.requests.length, 0)
  t.equal((await post(running, 'Identity', Buffer.from(text))).status, 200)
})

t.test('what is not of its encoding, is not whole or goes on behind its end is 400', async t => {
  const { running, backend } = await oneBackend(t)
  for (const { name, encoding, bytes } of packed(text)) {
    const broken = {
      plain: Buffer.from(text),
      'cut off': bytes.subarray(0, bytes.length - 1),
      'half of it': bytes.subarray(0, bytes.length >> 1),
      empty: Buffer.alloc(0),
      'one byte': bytes.subarray(0, 1),
      'garbage behind it': Buffer.concat([bytes, Buffer.from('{"model":"gpt-4o"}')]),
    }
    for (const [what, body] of Object.entries(broken)) {
      const answer = await post(running, encoding, body)
      t.equal(answer.status, 400, `${name}: ${what}`)
      t.match(await codeOf(answer), { code: 'invalid_request' })
    }
  }
  t.equal(backend.resource.requests.length, 0)
})

t.test('max_body bounds the plain size, and a bomb takes no more memory than it does', async t => {
  const { running, backend } = await oneBackend(t, {
    change: text => text.replace('server: {', 'server: {max_body: 1MB, '),
  })
  const { bodyBudget } = running.proxy.shared
  let most = 0
  const { reserve } = bodyBudget
  bodyBudget.reserve = bytes => {
    const taken = reserve(bytes)
    most = Math.max(most, bodyBudget.heldBytes())
    return taken
  }
  for (const { name, encoding, bytes } of packed(Buffer.alloc(20 * 1024 * 1024))) {
    most = 0
    const answer = await post(running, encoding, bytes)
    t.equal(answer.status, 413, name)
    t.match(await codeOf(answer), { code: 'request_too_large' })
    t.ok(most <= 10 * 1024 * 1024, `${name}: ${most} bytes at once`)
  }
  t.equal(bodyBudget.heldBytes(), 0)
  t.equal(backend.resource.requests.length, 0)
  t.equal((await post(running, 'gzip', zlib.gzipSync(Buffer.alloc(2 * 1024 * 1024, ' ')))).status, 413)
  t.equal((await post(running, 'gzip', zlib.gzipSync(text))).status, 200)
})

t.test('what is held of packed bodies counts among all that is held', async t => {
  const { running } = await oneBackend(t, {
    change: text => text.replace('server: {', 'server: {max_body: 1MB, max_buffered: 1MB, '),
  })
  const answer = await post(running, 'gzip', zlib.gzipSync(Buffer.alloc(1000 * 1024, ' ')))
  t.equal(answer.status, 503)
  t.match(await codeOf(answer), { code: 'overloaded' })
  t.equal((await post(running, 'gzip', zlib.gzipSync(text))).status, 200)
})

t.test('a client that leaves in the middle of a packed body leaves nothing behind', async t => {
  const { running, backend } = await oneBackend(t)
  const bytes = zlib.gzipSync(Buffer.from(Array.from({ length: 400_000 }, (_, i) => i * 7)))
  const client = connect(running)
  client.send([
    `POST ${CHAT} HTTP/1.1`,
    'Host: x',
    `Authorization: Bearer ${CLIENT_KEY}`,
    'Content-Encoding: gzip',
    `Content-Length: ${bytes.length}`,
  ])
  client.socket.write(bytes.subarray(0, bytes.length >> 1))
  const { bodyBudget } = running.proxy.shared
  while (bodyBudget.heldBytes() < 10_000) await new Promise(resolve => setImmediate(resolve))
  client.socket.destroy()
  while (running.proxy.app.inFlight() > 0) await new Promise(resolve => setImmediate(resolve))
  t.equal(bodyBudget.heldBytes(), 0)
  t.equal(backend.resource.requests.length, 0)
})

t.test('a form may come packed too', async t => {
  const { running, backend } = await oneBackend(t)
  const form =
    '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n'
  await running.post('/v1/audio/transcriptions', undefined, {
    body: zlib.gzipSync(form),
    headers: { 'content-encoding': 'gzip', 'content-type': 'multipart/form-data; boundary=b' },
  })
  t.match(backend.resource.requests[0]?.body.toString(), 'RIFF')
})

t.test('without a key a packed body is not even looked at', async t => {
  const { running } = await oneBackend(t)
  const answer = await fetch(`${running.url}${CHAT}`, {
    method: 'POST',
    body: 'x',
    headers: { 'content-encoding': 'compress' },
  })
  t.equal(answer.status, 401)
})
