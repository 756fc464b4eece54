// With any framing and any end of the upstream's stream, a client finds the end of its response where it is. The next
// response of its connection stands behind it (RFC 9112 section 6.3).
import t from 'tap'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { type RawRequest, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect, type RawClient } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { readResponses, type StrictResponse } from '../fixtures/strict-responses.ts'

const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
const OUTPUT = event({ choices: [{ index: 0, delta: { content: 'Hello' }, finish_reason: null }] })
const MORE = event({ choices: [{ index: 0, delta: { content: ' there' }, finish_reason: 'stop' }] })
const USAGE = event({ choices: [], usage: { prompt_tokens: 5, completion_tokens: 2 } })
const DONE = 'data: [DONE]\n\n'

type Framing = 'chunked' | 'length' | 'close'

interface Fault {
  readonly name: string
  /** What comes before the moment and after it. */
  readonly first: string
  readonly rest: string
  /** Happens once the client has the first event. */
  readonly moment?: 'silence' | 'cut' | 'idle'
  /** The end of the client's body. */
  readonly ends: RegExp
  readonly holds?: RegExp
  readonly lacks?: RegExp
}

const PROXY_ERROR = /data: \{"error":\{[^\n]*"code":"upstream_(error|timeout)"\}\}\n\n$/

const FAULTS: readonly Fault[] = [
  { name: 'nothing', first: OUTPUT, rest: MORE + DONE, ends: /data: \[DONE\]\n\n$/, lacks: /: keep-alive|"error"/ },
  {
    name: 'a silence',
    first: OUTPUT,
    rest: MORE + DONE,
    moment: 'silence',
    ends: /\[DONE\]\n\n$/,
    holds: /: keep-alive\n\n/,
  },
  { name: 'no protocol end', first: OUTPUT, rest: MORE, ends: PROXY_ERROR, lacks: /DONE/ },
  {
    name: 'the end of the connection',
    first: OUTPUT,
    rest: MORE + DONE,
    moment: 'cut',
    ends: PROXY_ERROR,
    lacks: /DONE/,
  },
  { name: 'silence without end', first: OUTPUT, rest: MORE + DONE, moment: 'idle', ends: PROXY_ERROR, lacks: /DONE/ },
  { name: 'a usage event', first: OUTPUT, rest: USAGE + DONE, ends: /\[DONE\]\n\n$/, lacks: /usage/ },
  {
    name: 'an error event',
    first: OUTPUT,
    rest: event({ error: 'overloaded' }),
    ends: /overloaded"\}\n\n$/,
    lacks: /DONE/,
  },
  { name: 'an end without its blank line', first: OUTPUT, rest: 'data: [DONE]', ends: /\[DONE\]$/ },
]

function head(framing: Framing, bytes: number): string {
  const lines = ['HTTP/1.1 200 OK', 'Content-Type: text/event-stream']
  if (framing === 'chunked') lines.push('Transfer-Encoding: chunked')
  if (framing === 'length') lines.push(`Content-Length: ${bytes}`)
  return `${lines.join('\r\n')}\r\n\r\n`
}

const framed = (framing: Framing, text: string): string =>
  framing === 'chunked' ? `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n` : text

/** Lets time pass until the client has this text: timers are set anew by what arrives meanwhile. */
async function waitFor(client: RawClient, text: string, clock: FakeClock, stepMs: number): Promise<void> {
  let come = false
  void client.until(text).then(() => {
    come = true
  })
  while (!come) {
    clock.advance(stepMs)
    await new Promise(resolve => setImmediate(resolve))
  }
}

async function play(
  request: RawRequest,
  client: RawClient,
  framing: Framing,
  fault: Fault,
  clock: FakeClock,
): Promise<void> {
  request.send(head(framing, fault.first.length + fault.rest.length) + framed(framing, fault.first))
  await client.until('Hello')
  if (fault.moment === 'cut') {
    request.socket.destroy()
    return
  }
  if (fault.moment === 'idle') {
    await waitFor(client, 'upstream_timeout', clock, 60_000)
    return
  }
  if (fault.moment === 'silence') await waitFor(client, ': keep-alive\n\n', clock, 5_000)
  request.send(framed(framing, fault.rest) + (framing === 'chunked' ? '0\r\n\r\n' : ''))
  if (framing === 'close') request.socket.end()
}

const BODY = '{"model":"gpt-4o","stream":true,"messages":[]}'
const chat = (version: string): readonly string[] => [
  `POST /v1/chat/completions HTTP/${version}`,
  'Host: x',
  `Authorization: Bearer ${CLIENT_KEY}`,
  'Content-Type: application/json',
  `Content-Length: ${BODY.length}`,
]

async function answerOf(
  running: RunningProxy,
  version: string,
  go: (client: RawClient) => Promise<void>,
): Promise<StrictResponse> {
  const client = connect(running)
  client.send(chat(version), BODY)
  await go(client)
  if (version === '1.1') {
    // A client that misread the first answer would misread this one too, or wait for ever.
    await client.until('0\r\n\r\n')
    client.send(['GET /livez HTTP/1.1', 'Host: x', 'Connection: close'])
  }
  const { whole, rest } = readResponses(await client.closed, true)
  const [answer, next] = whole
  if (answer === undefined || rest !== '') throw new Error(`no whole answer, and "${rest}"`)
  if (version === '1.1' && (next?.body !== '{"status":"ok"}' || whole.length !== 2)) throw new Error('no next answer')
  return answer
}

for (const framing of ['chunked', 'length', 'close'] as const) {
  for (const version of ['1.1', '1.0']) {
    t.test(`upstream's end by ${framing}, an HTTP/${version} client`, async t => {
      for (const fault of FAULTS) {
        const clock = createFakeClock()
        const backend = await startRawBackend(t)
        const running = await runProxy(t, configFor([backend], { model: 'stream_usage: true', rest: NO_PROBES }), {
          clock,
        })
        const answer = await answerOf(running, version, async client => {
          await play(await backend.next(), client, framing, fault, clock)
        })
        t.equal(answer.framing, version === '1.1' ? 'chunked' : 'close', fault.name)
        t.equal(answer.headers.get('content-length'), undefined)
        t.equal(answer.headers.get('x-accel-buffering'), 'no')
        t.ok(answer.body.startsWith(OUTPUT))
        t.match(answer.body, fault.ends, fault.name)
        if (fault.holds !== undefined) t.match(answer.body, fault.holds)
        if (fault.lacks !== undefined) t.notMatch(answer.body, fault.lacks)
      }
    })
  }
}

t.test("other answers keep upstream's length, or get their own, or are chunked; and a 204 declares none", async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
  const json = '{"choices":[]}'
  const answers: readonly (readonly [string, string, StrictResponse['framing']])[] = [
    [`HTTP/1.1 200 OK\r\nContent-Length: ${json.length}\r\n\r\n${json}`, json, 'length'],
    [`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${framed('chunked', json)}0\r\n\r\n`, json, 'length'],
    ['HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', '', 'none'],
    ['HTTP/1.1 304 Not Modified\r\nContent-Length: 14\r\n\r\n', '', 'none'],
    ['HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}', '{}', 'length'],
    [`HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(100_000)}`, 'x'.repeat(100_000), 'length'],
  ]
  const body = '{"model":"gpt-4o","messages":[]}'
  const client = connect(running)
  for (const [i, [answer]] of answers.entries()) {
    const lines = chat('1.1').slice(0, -1)
    client.send(
      [...lines, `Content-Length: ${body.length}`, ...(i === answers.length - 1 ? ['Connection: close'] : [])],
      body,
    )
    const request = await backend.next()
    request.send(answer)
  }
  const { whole, rest } = readResponses(await client.closed, true)
  t.equal(rest, '')
  t.same(
    whole.map(({ body, framing }) => [body, framing]),
    answers.map(([, body, framing]) => [body, framing]),
  )
})
