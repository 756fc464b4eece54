// Event streams as other servers send them. Errors in every form fail over before output; comments open a stream that
// thinks; a resumed stream may be empty; an encoded one passes unread.
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { jsonAnswer, type RawBackend, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'

const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
const DONE = 'data: [DONE]\n\n'
const HELLO = event({ choices: [{ index: 0, delta: { content: 'Hello' }, finish_reason: null }] })
const WHOLE = HELLO + DONE

function answer(status: string, headers: readonly string[], body: string | Buffer): Buffer {
  const bytes = Buffer.from(body)
  const lines = [`HTTP/1.1 ${status}`, ...headers, `Content-Length: ${bytes.length}`, '', '']
  return Buffer.concat([Buffer.from(lines.join('\r\n')), bytes])
}

const stream = (body: string): Buffer => answer('200 OK', ['Content-Type: text/event-stream'], body)

interface Scene {
  readonly first: RawBackend
  readonly second: RawBackend
  readonly running: RunningProxy
}

/** Two backends; the second is asked only where the first fails, and always answers with a whole stream. */
async function scene(
  t: Test,
  { clock, rest = NO_PROBES, model = '' }: { clock?: FakeClock; rest?: string; model?: string } = {},
): Promise<Scene> {
  const first = await startRawBackend(t)
  const second = await startRawBackend(t)
  const text = configFor(
    [
      { url: first.url, more: 'api_version: v1' },
      { url: second.url, more: 'priority: 2' },
    ],
    { rest, model },
  )
  return { first, second, running: await runProxy(t, text, clock === undefined ? {} : { clock }) }
}

function ejected({ running }: Scene): readonly unknown[] {
  return running.lines.filter(({ msg }) => String(msg).startsWith('backend ejected')).map(({ reason }) => reason)
}

async function answerEach({ next }: RawBackend, bytes: Buffer): Promise<void> {
  const request = await next()
  request.socket.write(bytes)
}

const ERRORS = [
  'event: error\ndata: {"message":"overloaded"}\n\n',
  'data: {"message":"overloaded"}\nevent: error\n\n',
  'data: {"error":"overloaded"}\n\n',
  'data: {"id":"x","error":{"message":"overloaded"}}\n\n',
  'data: {"object":"error","message":"overloaded","code":50001}\n\n',
  'error: {"code":500,"message":"overloaded"}\n\n',
  'event: ping\ndata: {}\n\ndata: {"error":{"message":"overloaded"}}\n\n',
  '\uFEFFevent: ping\r\ndata: {}\r\n\r\ndata: {"error":"overloaded"}\r\n\r\n',
  'data: {"error":"overloaded"}\r\r',
  'data: {"error":"overloaded"}',
]

for (const form of ERRORS) {
  t.test(`before output ${JSON.stringify(form)} is unseen: the next backend answers`, async t => {
    const it = await scene(t)
    const asked = it.running.chat({ stream: true })
    await answerEach(it.first, stream(form))
    await answerEach(it.second, stream(WHOLE))
    t.equal(await (await asked).text(), WHOLE)
    t.equal(ejected(it).length, 1)
  })

  t.test(`behind output ${JSON.stringify(form)} is the stream's end, and the proxy adds none of its own`, async t => {
    const it = await scene(t)
    const asked = it.running.chat({ stream: true })
    const sent = HELLO + form.replace('\uFEFF', '')
    await answerEach(it.first, stream(sent))
    t.equal(await (await asked).text(), sent)
    t.equal(it.second.requests.length, 0)
  })
}

t.test('a Responses stream fails over on an untyped error, and on a typed one whose type stands last', async t => {
  for (const form of [
    event({ error: { message: 'overloaded', type: 'server_error' } }),
    event({ message: 'overloaded', code: 'server_error', type: 'error' }),
    `event: message\n${event({ response: { error: { code: 'server_error', message: 'm' } }, type: 'response.failed' })}`,
  ]) {
    const it = await scene(t)
    const body = { model: 'gpt-4o', input: 'x', stream: true }
    const asked = it.running.post('/v1/responses', body)
    const created = event({ response: { id: 'resp_1' }, type: 'response.created' })
    await answerEach(it.first, stream(created + form))
    const whole = `event: message\n${event({ response: { id: 'resp_2', output: [] }, type: 'response.completed' })}`
    await answerEach(it.second, stream(whole))
    t.equal(await (await asked).text(), whole, 'and the whole one gets no error event behind its end')
  }
})

t.test('streams with CR alone, with CRLF and with a byte order mark pass byte for byte', async t => {
  for (const sent of [
    WHOLE.replaceAll('\n', '\r'),
    WHOLE.replaceAll('\n', '\r\n'),
    `\uFEFF${WHOLE}`,
    `${HELLO}data:[DONE] \n\n`,
  ]) {
    const it = await scene(t)
    const asked = it.running.chat({ stream: true })
    await answerEach(it.first, stream(sent))
    t.equal(Buffer.from(await (await asked).arrayBuffer()).toString(), sent)
    t.same(ejected(it), [])
  }
})

t.test("a thinking backend's comments open the stream after stream_hold, and not before", async t => {
  const clock = createFakeClock()
  const it = await scene(t, { clock })
  const client = connect(it.running)
  const body = '{"model":"gpt-4o","stream":true,"messages":[]}'
  client.send(
    [
      `POST ${CHAT} HTTP/1.1`,
      'Host: x',
      `Authorization: Bearer ${CLIENT_KEY}`,
      `Content-Length: ${body.length}`,
      'Connection: close',
    ],
    body,
  )
  const request = await it.first.next()
  request.send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: PROCESSING\n\n')
  while (it.running.proxy.shared.deadlines.size() === 0) await new Promise(resolve => setImmediate(resolve))
  clock.advance(1_000)
  t.equal(client.socket.bytesRead, 0)
  let open = false
  void client.until(': PROCESSING').then(() => (open = true))
  while (!open) {
    clock.advance(100)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.ok(clock.nowMs() >= 3_000, 'two seconds after the head at the earliest')
  request.send(WHOLE)
  request.socket.end()
  t.match(await client.closed, 'DONE')
})

t.test('usage asked for in the name of a client is taken out again however its event is written', async t => {
  const usage = '"usage":{"prompt_tokens":5,"completion_tokens":2}'
  for (const block of [
    `id: 7\ndata: {"choices":[],${usage}}\n\n`,
    `data: {"choices":[],${usage}}\nevent: message\n\n`,
    `: a comment\ndata: {"choices":[],${usage}}\n\n`,
    `data: {${usage}, "choices" : [ ]}\n\n`,
    `data: {"choices":null,${usage}}\n\n`,
    `data: {"id":"c",${usage}}\n\n`,
    `data: {"choices":\ndata: [],${usage}}\n\n`,
    `data:{"choices":[],${usage}}\r\n\r\n`,
    `data: {"choices":[],${usage}}\r\r`,
  ]) {
    const it = await scene(t, { model: 'stream_usage: true' })
    const asked = it.running.chat({ stream: true })
    await answerEach(it.first, stream(HELLO + block + DONE))
    t.equal(await (await asked).text(), WHOLE, block)
    t.match(await until(it.running), { prompt_tokens: 5, completion_tokens: 2 })
  }
  for (const kept of [
    `data: {"choices":[],"usage":null,"prompt_filter_results":[]}\n\n`,
    `data: {"choices":[{"index":0,"delta":{"content":"!"}}],${usage}}\n\n`,
  ]) {
    const it = await scene(t, { model: 'stream_usage: true' })
    const asked = it.running.chat({ stream: true })
    await answerEach(it.first, stream(kept + WHOLE))
    t.equal(await (await asked).text(), kept + WHOLE)
  }
})

/** The request's log line, which may have come already. */
async function until(running: RunningProxy): Promise<unknown> {
  for (;;) {
    const line = running.lines.find(({ msg }) => msg === 'request')
    if (line !== undefined) return line
    await new Promise(resolve => setImmediate(resolve))
  }
}

t.test('a resumed stream with nothing left is a whole answer, and nobody is blamed', async t => {
  for (const body of ['', ': nothing\n\n']) {
    const backend = await startRawBackend(t)
    const running = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
    const asked = fetch(`${running.url}/v1/responses/resp_1?stream=true&starting_after=9`, {
      headers: { authorization: `Bearer ${CLIENT_KEY}` },
    })
    await answerEach(backend, stream(body))
    const answer = await asked
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('content-length'), null)
    t.equal(await answer.text(), body)
    t.match(await (await fetch(`${running.url}/health`)).json(), { status: 'ok' })
  }
})

t.test('an encoded answer passes untouched and unjudged: streams, JSON and errors', async t => {
  const cases: readonly (readonly [string, string, string])[] = [
    ['200 OK', 'text/event-stream', WHOLE],
    ['200 OK', 'text/event-stream', HELLO],
    ['200 OK', 'application/json', '{"choices":[],"usage":{"prompt_tokens":5}}'],
    ['400 Bad Request', 'application/json', '{"error":{"code":"model_not_found"}}'],
    ['404 Not Found', 'application/json', '{"error":{"code":"DeploymentNotFound"}}'],
  ]
  for (const [status, type, body] of cases) {
    const it = await scene(t)
    const packed = gzipSync(body)
    const asked = it.running.chat({ stream: type === 'text/event-stream' })
    await answerEach(it.first, answer(status, [`Content-Type: ${type}`, 'Content-Encoding: gzip'], packed))
    const got = await asked
    t.equal(got.status, Number(status.slice(0, 3)))
    t.equal(got.headers.get('content-encoding'), 'gzip')
    t.equal(await got.text(), body, 'fetch has undone what passed')
    t.same(ejected(it), [])
    t.match(await until(it.running), { prompt_tokens: null, completion_tokens: null })
  }
})

t.test('a 4xx too long to be judged goes to the client whole, and nobody is blamed', async t => {
  for (const status of ['400 Bad Request', '422 Unprocessable Entity', '404 Not Found']) {
    const it = await scene(t)
    const echoed = JSON.stringify({ detail: 'x'.repeat(600_000) })
    const asked = it.running.chat()
    await answerEach(it.first, answer(status, ['Content-Type: application/json'], echoed))
    const got = await asked
    t.equal(got.status, Number(status.slice(0, 3)))
    t.equal(await got.text(), echoed)
    t.same(ejected(it), [])
    t.equal(it.second.requests.length, 0)
  }
})

t.test('a 4xx that comes slowly is passed on as it comes after five seconds', async t => {
  const clock = createFakeClock()
  const it = await scene(t, { clock })
  const asked = it.running.chat()
  const request = await it.first.next()
  request.send('HTTP/1.1 422 X\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"detail"')
  let got: Response | undefined
  void asked.then(answer => (got = answer))
  while (got === undefined) {
    clock.advance(500)
    await new Promise(resolve => setImmediate(resolve))
  }
  request.send(':1}')
  t.equal(got.status, 422)
  t.equal(await got.text(), '{"detail":1}')
  t.same(ejected(it), [])
})

t.test("a date in Retry-After is the client's as it stands, as long as it is no more than a minute", async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
  const date = new Date(Date.now() + 5_000).toUTCString()
  const asked = running.chat()
  await answerEach(backend, answer('503 X', [`Retry-After: ${date}`], '{"error":{"message":"busy"}}'))
  t.equal((await asked).headers.get('retry-after'), date)
})

t.test("an invalid escape in stream_options is upstream's to refuse", async t => {
  const it = await scene(t, { model: 'stream_usage: true' })
  const body = String.raw`{"model":"gpt-4o","stream":true,"stream_options":{"a":"\q"},"messages":[]}`
  const asked = it.running.post(CHAT, undefined, { body })
  const request = await it.first.next()
  t.match(request.body.toString(), String.raw`"stream_options":{"a":"\q"}`)
  request.socket.write(answer('400 Bad Request', [], '{"error":{"message":"invalid JSON"}}'))
  t.equal((await asked).status, 400)
})

t.test('headers of another host or of its front stop here, and event streams ask not to be buffered', async t => {
  const it = await scene(t)
  const asked = it.running.chat({ stream: true })
  const headers = [
    'Alt-Svc: h3=":443"',
    'Strict-Transport-Security: max-age=9',
    'Public-Key-Pins: x',
    'X-Accel-Redirect: /x',
    'X-Accel-Buffering: yes',
  ]
  await answerEach(it.first, answer('200 OK', ['Content-Type: text/event-stream', ...headers], WHOLE))
  const got = await asked
  await got.text()
  for (const name of [
    'alt-svc',
    'strict-transport-security',
    'public-key-pins',
    'x-accel-redirect',
    'content-length',
  ]) {
    t.equal(got.headers.get(name), null, name)
  }
  t.equal(got.headers.get('x-accel-buffering'), 'no')
})

t.test('JSON that ends with its connection, and before its last bracket, is cut for the client too', async t => {
  const half = '{"choices":[{"index":0,"message":{"role":"assistant","content":"Hel'
  const head = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n'
  const late = await scene(t)
  const begun = late.running.chat()
  const { socket } = await late.first.next()
  socket.write(head + half)
  const got = await begun
  socket.end('lo')
  await t.rejects(got.text(), 'a part is never made to look like the whole')
  t.match(await until(late.running), { error: 'connection_lost' })

  // Where the end came with the rest, nothing has gone out yet, and the next backend answers.
  for (const cut of [`${half}"}}]`, `${half}"}}`, `${half}]}`, `${half}\\"}}]}`, '{']) {
    const short = await scene(t)
    const asked = short.running.chat()
    const { socket } = await short.first.next()
    void short.second.next().then(request => request.send(jsonAnswer('{"choices":[]}')))
    socket.end(head + cut)
    const text = await (await asked).text().catch(() => 'cut')
    t.ok(text === 'cut' || text === '{"choices":[]}', text)
  }

  for (const [type, body] of [
    ['application/json', `${half}"}}]}\r\n`],
    ['application/json', `${half} ]}[ \\"{ \\\\"}}]}`],
    ['application/json', ''],
    ['text/plain', half],
  ] as const) {
    const sound = await scene(t)
    const whole = sound.running.chat()
    const { socket } = await sound.first.next()
    socket.end(`HTTP/1.1 200 OK\r\nContent-Type: ${type}\r\n\r\n${body}`)
    t.equal(await (await whole).text(), body)
  }
})

t.test('a last line without its blank line ends a stream all the same', async t => {
  for (const last of ['data: [DONE]\n', 'data: [DONE]', 'data:[DONE]\r\n']) {
    const it = await scene(t)
    const asked = it.running.chat({ stream: true })
    await answerEach(it.first, stream(HELLO + last))
    t.equal(await (await asked).text(), HELLO + last, 'and gets no error event behind it')
    t.same(ejected(it), [])
  }
})

t.test('an error event behind a part of a long event that went out already begins with a blank line', async t => {
  const it = await scene(t)
  const asked = it.running.chat({ stream: true })
  const request = await it.first.next()
  // Beyond 64 KB an unfinished event is passed on, so that memory stays bounded.
  const part = `data: {"choices":[{"index":0,"delta":{"content":"${'x'.repeat(100_000)}`
  request.socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n')
  request.socket.write(HELLO)
  const response = await asked
  await new Promise<void>(resolve => request.socket.write(part, () => resolve()))
  request.socket.end()
  const text = await response.text()
  t.ok(text.startsWith(HELLO + part), 'what had come goes out')
  t.match(
    text.slice(HELLO.length + part.length),
    /^\n\ndata: \{"error":.*\}\n\n$/,
    'and the error is an event of its own',
  )
})
