// Hostile bytes on raw sockets against a real proxy. It sends a whole response or cuts; it never sends two for one
// request, and never stops. Afterwards it still answers and holds nothing. FUZZ_SEED repeats a run, FUZZ_RUNS sets its
// length.
import net from 'node:net'
import t, { type Test } from 'tap'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 1_000_000_000)
const runs = Number(process.env.FUZZ_RUNS ?? 400)
t.comment(`FUZZ_SEED=${seed} FUZZ_RUNS=${runs}`)

const random = seededRandom(seed)
const below = (limit: number): number => Math.floor(random() * limit)
const chance = (share: number): boolean => random() < share
const pick = <T>(from: readonly [T, ...T[]]): T => from[below(from.length)] ?? from[0]

const QUIET = `health_check: {enabled: false}
retry: {timeout: 5s}`

interface Scene {
  readonly running: RunningProxy
  readonly backend: StartedResource
}

async function scene(t: Test): Promise<Scene> {
  const backend = await startResource(t)
  const running = await runProxy(t, configFor([{ url: backend.url }], { rest: QUIET }))
  return { running, backend }
}

interface Answer {
  readonly status: number
  readonly body: string
}

/** The answers in what a socket got; the last one may be cut short, which is said. @throws where bytes are no HTTP */
function readAnswers(bytes: Buffer): { readonly answers: readonly Answer[]; readonly cut: boolean } {
  const text = bytes.toString('latin1')
  const answers: Answer[] = []
  let at = 0
  while (at < text.length) {
    const headEnd = text.indexOf('\r\n\r\n', at)
    if (headEnd === -1) return { answers, cut: true }
    const head = text.slice(at, headEnd)
    const status = /^HTTP\/1\.1 (\d{3}) [^\r\n]*(\r\n|$)/.exec(head)?.[1]
    if (status === undefined) throw new Error(`no answer begins like this: ${JSON.stringify(head.slice(0, 80))}`)
    at = headEnd + 4
    if (status === '100') continue
    const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1]
    // To a HEAD there is a length and no body: the next answer, or nothing, follows at once.
    if (at === text.length || text.startsWith('HTTP/1.1 ', at)) {
      answers.push({ status: Number(status), body: '' })
      continue
    }
    if (length !== undefined) {
      if (at + Number(length) > text.length) return { answers, cut: true }
      answers.push({ status: Number(status), body: text.slice(at, at + Number(length)) })
      at += Number(length)
      continue
    }
    let body = ''
    for (;;) {
      const size = /^([0-9a-f]+)\r\n/i.exec(text.slice(at, at + 20))
      if (size === null) return { answers, cut: true }
      const from = at + size[0].length
      const bytesOfChunk = Number.parseInt(size[1] ?? '0', 16)
      if (from + bytesOfChunk + 2 > text.length) return { answers, cut: true }
      body += text.slice(from, from + bytesOfChunk)
      at = from + bytesOfChunk + 2
      if (bytesOfChunk === 0) break
    }
    answers.push({ status: Number(status), body })
  }
  return { answers, cut: false }
}

type Leave = 'when answered' | 'after sending' | 'reset'

/** Sends these pieces, one an event-loop turn, and gives what came back until the socket closed. */
async function talk(port: number, pieces: readonly Buffer[], leave: Leave): Promise<Buffer> {
  const socket = net.connect({ host: '127.0.0.1', port })
  const got: Buffer[] = []
  socket.on('data', chunk => got.push(chunk))
  // The proxy may close while this side still sends.
  socket.on('error', () => undefined)
  const closed = new Promise(resolve => socket.once('close', resolve))
  await new Promise(resolve => socket.once('connect', resolve).once('close', resolve))
  for (const piece of pieces) {
    if (!socket.writable) break
    socket.write(piece)
    await new Promise(resolve => setImmediate(resolve))
  }
  if (leave === 'reset') socket.resetAndDestroy()
  else if (leave === 'after sending') socket.end()
  await closed
  return Buffer.concat(got)
}

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1')

async function stillServes(t: Test, { running, backend }: Scene): Promise<void> {
  const answer = await running.chat()
  t.equal(answer.status, 200, 'the next client is served')
  t.match(await answer.json(), { object: 'chat.completion' })
  t.same(backend.resource.violations, [], 'nothing unlawful went upstream')
  t.same(
    running.lines.filter(({ msg }) => msg === 'handler failed'),
    [],
    'no handler failed',
  )
}

const BODY = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
const HEAD = `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${CLIENT_KEY}\r\nContent-Type: application/json\r\n`
const SMUGGLED = `DELETE /v1/responses/resp_smuggled HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${CLIENT_KEY}\r\n\r\n`
const chunked = (body: string): string => `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`

const AMBIGUOUS: readonly (readonly [string, string])[] = [
  ['a length and chunks', `Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n${chunked(BODY)}`],
  ['chunks and a length', `Transfer-Encoding: chunked\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`],
  ['two lengths', `Content-Length: ${BODY.length}\r\nContent-Length: 4\r\n\r\n${BODY}`],
  ['a list of lengths', `Content-Length: ${BODY.length}, 4\r\n\r\n${BODY}`],
  ['a negative length', 'Content-Length: -1\r\n\r\n'],
  ['a length with a plus', `Content-Length: +${BODY.length}\r\n\r\n${BODY}`],
  ['a hexadecimal length', `Content-Length: 0x${BODY.length.toString(16)}\r\n\r\n${BODY}`],
  ['a length beyond all numbers', `Content-Length: 99999999999999999999999\r\n\r\n${BODY}`],
  ['a blank before the colon', `Content-Length : ${BODY.length}\r\n\r\n${BODY}`],
  ['an encoding that only looks like chunks', `Transfer-Encoding: xchunked\r\n\r\n${chunked(BODY)}`],
  ['chunks that are not the last encoding', `Transfer-Encoding: chunked, identity\r\n\r\n${chunked(BODY)}`],
  ['a NUL in a header', `X-A: a\0b\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`],
  ['a CR alone in a header', `X-A: a\rContent-Length: 4\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`],
  ['a chunk size that is no number', 'Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n'],
  ['a chunk size beyond all numbers', 'Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n'],
  ['a chunk longer than it says', `Transfer-Encoding: chunked\r\n\r\n1\r\n${BODY}\r\n0\r\n\r\n`],
]

t.test('a request whose end can be read in two ways is refused or cut, and nothing behind it is a request', async t => {
  const both = await scene(t)
  for (const [what, rest] of AMBIGUOUS) {
    const { answers } = readAnswers(await talk(both.running.port, [bytesOf(HEAD + rest + SMUGGLED)], 'when answered'))
    t.ok(answers.length <= 1, `${what}: one answer at most`)
    for (const { status, body } of answers) {
      t.equal(status, 400, what)
      t.match(JSON.parse(body), { error: { code: 'invalid_request', type: 'invalid_request_error' } })
    }
    t.equal(both.backend.resource.requests.length, 0, `${what}: the backend saw nothing`)
  }
  await stillServes(t, both)
})

const LIMITS: readonly (readonly [string, string, number, string])[] = [
  ['a head of 40 KB', `X-Long: ${'x'.repeat(40_000)}\r\n\r\n`, 431, 'request_headers_too_large'],
  ['a URL of 40 KB', '', 431, 'request_headers_too_large'],
  ['a declared gigabyte', 'Content-Length: 1073741824\r\n\r\n{"model"', 413, 'request_too_large'],
  ['an expectation nobody knows', 'Expect: 200-ok\r\nContent-Length: 0\r\n\r\n', 417, 'expectation_failed'],
]

t.test('what is too large or unheard of is refused with its code, and the connection closes', async t => {
  const both = await scene(t)
  for (const [what, rest, status, code] of LIMITS) {
    const text = rest === '' ? `GET /${'x'.repeat(40_000)} HTTP/1.1\r\nHost: x\r\n\r\n` : HEAD + rest
    const { answers } = readAnswers(await talk(both.running.port, [bytesOf(text)], 'after sending'))
    // A reset may overtake an answer while much is unread; what came must be this.
    for (const answer of answers) {
      t.equal(answer.status, status, what)
      t.match(JSON.parse(answer.body), { error: { code } })
    }
    t.ok(answers.length <= 1)
  }
  t.equal(both.backend.resource.requests.length, 0)
  await stillServes(t, both)
})

t.test('a body that stops coming is answered with 408 when its time is over, and the connection closes', async t => {
  const clock = createFakeClock()
  const backend = await startResource(t)
  const running = await runProxy(t, configFor([{ url: backend.url }], { rest: QUIET }), { clock })
  const { shared, app } = running.proxy
  const slow = talk(
    running.port,
    [bytesOf(`${HEAD}Content-Length: ${BODY.length}\r\n\r\n${BODY.slice(0, 9)}`)],
    'when answered',
  )
  while (shared.bodyBudget.heldBytes() !== 9) await new Promise(resolve => setImmediate(resolve))
  clock.advance(29_000)
  t.equal(shared.bodyBudget.heldBytes(), 9, 'silence is allowed for half a minute')
  clock.advance(1_100)
  t.equal(shared.bodyBudget.heldBytes(), 0, 'and no longer')
  let open = true
  slow.finally(() => {
    open = false
  })
  // The answered connection lingers for the client's sake, and then closes by itself.
  while (open) {
    clock.advance(500)
    await new Promise(resolve => setImmediate(resolve))
  }
  const { answers } = readAnswers(await slow)
  t.equal(answers.length, 1)
  t.equal(answers[0]?.status, 408)
  t.match(JSON.parse(answers[0]?.body ?? ''), { error: { code: 'request_timeout' } })
  while (app.inFlight() !== 0) await new Promise(resolve => setImmediate(resolve))
  t.equal(backend.resource.requests.length, 0)
})

/** Codes that README lists for what a client can do wrong. */
const CODES: ReadonlySet<unknown> = new Set([
  'invalid_json',
  'invalid_multipart',
  'invalid_request',
  'missing_model',
  'invalid_api_key',
  'model_not_found',
  'response_not_found',
  'unknown_url',
  'method_not_allowed',
  'request_too_large',
  'unsupported_encoding',
  'request_headers_too_large',
  'expectation_failed',
  'upgrade_required',
])

const word = (): string => Buffer.from(Array.from({ length: 1 + below(12) }, () => 33 + below(94))).toString('latin1')
const noise = (): string => Buffer.from(Array.from({ length: below(300) }, () => below(256))).toString('latin1')

const method = (): string =>
  pick(['POST', 'POST', 'POST', 'GET', 'HEAD', 'DELETE', 'PUT', 'OPTIONS', 'TRACE', 'PATCH', 'PRI', 'get', word()])
const target = (): string =>
  pick([
    '/v1/chat/completions',
    '/v1/chat/completions',
    '/v1/embeddings',
    '/v1/responses',
    '/v1/responses/resp_1/cancel',
    '/v1/responses/%2e%2e',
    '/v1/images/edits',
    '/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21',
    '//openai/v1/chat/completions?x=%',
    '/v1/realtime?model=gpt-4o',
    '/health',
    '*',
    `/${word()}`,
    `/v1/models/${word()}?${word()}`,
    'http://[::1/v1/models',
  ])
const header = (): string =>
  pick([
    'Host: y',
    'Connection: close',
    'Connection: keep-alive, authorization, content-length',
    'Connection: upgrade\r\nUpgrade: websocket',
    'Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__',
    'Expect: 100-continue',
    'TE: trailers',
    'Transfer-Encoding: chunked',
    'Transfer-Encoding:\r\n chunked',
    `Content-Length: ${below(200)}`,
    'Content-Type: multipart/form-data; boundary=x',
    'Content-Type: application/json',
    'Content-Encoding: gzip',
    'x-request-id: a\u00ffb',
    `x-${below(1_000)}: ${word()}`,
    `${word()}: ${word()}`,
    noise(),
  ])
const body = (): string =>
  pick([
    BODY,
    BODY,
    chunked(BODY),
    BODY.slice(0, below(BODY.length)),
    '',
    '[]',
    '{"model":1}',
    '{"model":"nobody"}',
    `${'['.repeat(5_000)}`,
    `--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--x--\r\n`,
    noise(),
  ])

function request(): string {
  const lines = [
    `${method()} ${target()} ${pick(['HTTP/1.1', 'HTTP/1.1', 'HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', word()])}`,
  ]
  if (chance(0.9)) lines.push('Host: x')
  if (chance(0.8)) lines.push(`Authorization: Bearer ${chance(0.9) ? CLIENT_KEY : word()}`)
  const content = body()
  if (chance(0.5)) lines.push(chance(0.8) ? `Content-Length: ${content.length}` : 'Transfer-Encoding: chunked')
  for (let i = below(4); i > 0; i--) lines.push(header())
  const end = chance(0.95) ? '\r\n' : '\n'
  return `${lines.join(end)}${end}${end}${content}`
}

function cutUp(bytes: Buffer): readonly Buffer[] {
  const cuts = Array.from({ length: below(6) }, () => below(bytes.length + 1)).sort((a, b) => a - b)
  return [0, ...cuts].map((from, i) => bytes.subarray(from, cuts[i] ?? bytes.length))
}

t.test('whatever bytes come, the proxy answers with what is listed, or cuts, and serves the next client', async t => {
  const both = await scene(t)
  const statuses = new Map<number, number>()
  const unlisted: string[] = []
  for (let run = 0; run < runs; run += 8) {
    const batch = Array.from({ length: 8 }, async () => {
      const text = Array.from({ length: 1 + below(3) }, request).join('')
      const spoilt = bytesOf(text)
      if (chance(0.3) && spoilt.length > 0) spoilt[below(spoilt.length)] = below(256)
      const bytes = chance(0.1) ? spoilt.subarray(0, below(spoilt.length)) : spoilt
      const got = await talk(both.running.port, cutUp(bytes), chance(0.15) ? 'reset' : 'after sending')
      for (const { status, body } of readAnswers(got).answers) {
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
        if (status < 400 || body === '') continue
        const parsed: { readonly error?: { readonly code?: unknown } } = JSON.parse(body)
        // A backend's own refusal passes as it is; its requests are counted below.
        if (!CODES.has(parsed.error?.code) && both.backend.resource.requests.length === 0) unlisted.push(body)
        if (status >= 500) unlisted.push(`${status} ${body}`)
      }
    })
    await Promise.all(batch)
  }
  t.same(unlisted, [])
  t.comment([...statuses].map(([status, count]) => `${status}: ${count}`).join(', '))
  if (runs >= 400) t.ok(statuses.has(400) && statuses.has(404), 'the bytes were hostile enough to be refused')
  await stillServes(t, both)
  const { app, shared } = both.running.proxy
  while (app.inFlight() !== 0) await new Promise(resolve => setImmediate(resolve))
  t.equal(shared.bodyBudget.heldBytes(), 0)
})
