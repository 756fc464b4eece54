// Answers with a good status that are none: web pages whatever their content type says, and error objects however they
// come. Sound answers that begin like them pass.
import t, { type Test } from 'tap'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { jsonAnswer, type RawBackend, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'

const SOUND = '{"object":"chat.completion","choices":[]}'
const ERROR = '{"error":{"message":"overloaded","type":"server_error","param":null,"code":null}}'

interface Scene {
  readonly first: RawBackend
  readonly second: RawBackend
  readonly running: RunningProxy
}

/** Two backends, of which the second is asked only where the first fails; it answers soundly. */
async function scene(t: Test, clock = createFakeClock()): Promise<Scene> {
  const first = await startRawBackend(t)
  const second = await startRawBackend(t)
  const text = configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest: NO_PROBES })
  void second.next().then(request => request.send(jsonAnswer(SOUND)))
  return { first, second, running: await runProxy(t, text, { clock }) }
}

function stateOfFirst({ running }: Scene): unknown {
  const line = running.lines.find(({ msg }) => /^backend (ejected|throttled)/.test(String(msg)))
  return line?.reason ?? line?.msg
}

type Framing = 'length' | 'chunks' | 'slow end' | 'byte by byte' | 'close'

/** Writes a response in one of the ways in which its end is marked, with a pause of the event loop between pieces. */
async function write(
  { socket, send }: Awaited<ReturnType<RawBackend['next']>>,
  head: string,
  body: string,
  how: Framing,
) {
  const chunk = (text: string): string => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
  const pause = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 5))
  if (how === 'length') return send(`${head}content-length: ${body.length}\r\n\r\n${body}`)
  if (how === 'chunks') return send(`${head}transfer-encoding: chunked\r\n\r\n${chunk(body)}0\r\n\r\n`)
  if (how === 'close') {
    send(`${head}connection: close\r\n\r\n${body.slice(0, 9)}`)
    await pause()
    return void socket.end(body.slice(9))
  }
  send(`${head}transfer-encoding: chunked\r\n\r\n`)
  for (const piece of how === 'slow end' ? [body] : body) {
    await pause()
    send(chunk(piece))
  }
  await pause()
  send('0\r\n\r\n')
}

const FRAMINGS: readonly Framing[] = ['length', 'chunks', 'slow end', 'byte by byte', 'close']
const head = (type: string): string => `HTTP/1.1 200 OK\r\n${type === '' ? '' : `content-type: ${type}\r\n`}`

for (const [what, type, body, state] of [
  ['an error object', 'application/json', ERROR, 'stream_error'],
  ['an error text', 'application/json', '{"error":"overloaded"}', 'stream_error'],
  ['an error without a content type', '', ERROR, 'stream_error'],
  ['an error of API Management', 'application/json', '{"statusCode":500,"message":"Internal"}', 'stream_error'],
  ['an error of Claude', 'application/json', '{"type":"error","error":{"type":"overloaded_error"}}', 'stream_error'],
  ['an error of vLLM', 'application/json', '{"object":"error","message":"boom","type":"x","code":500}', 'stream_error'],
  ['an error of FastAPI', 'application/json', '{"detail":"Internal Server Error"}', 'stream_error'],
  ['errors in a list', 'application/json', '{"errors":[{"message":"boom","code":500}]}', 'stream_error'],
  ['a throttle', 'application/json', '{"error":{"code":"429","message":"slow down"}}', 'backend throttled'],
  ['a wrong key', 'application/json', '{"error":{"code":"401","message":"Access denied"}}', 'credentials_refused'],
  ['a page', 'text/html; charset=utf-8', '<p>sign in</p>', 'not_an_api'],
  ['a page of XHTML', 'application/xhtml+xml', '<?xml version="1.0"?>', 'not_an_api'],
  ['a page without a content type', '', '<!DOCTYPE html><title>Sign in</title>', 'not_an_api'],
  ['a page that is called JSON', 'application/json', '<html><body>Sign in</body></html>', 'not_an_api'],
  ['a page that is called text', 'text/plain', '<HTML lang="en"><body>Sign in</body></html>', 'not_an_api'],
] as const) {
  t.test(`${what} with 200 fails over, however it comes`, async t => {
    for (const how of FRAMINGS) {
      for (const stream of [false, true]) {
        const it = await scene(t)
        const asked = it.running.chat({ stream })
        await write(await it.first.next(), head(type), body, how)
        const answer = await asked
        t.equal(answer.status, 200, `${how} ${stream}`)
        t.equal(await answer.text(), SOUND)
        t.equal(answer.headers.get('x-proxy-attempts'), '2')
        t.equal(stateOfFirst(it), state, `${how} ${stream}`)
      }
    }
  })
}

t.test('an error that the request has caused, with 200, is the client’s', async t => {
  const body = '{"error":{"message":"no","type":"invalid_request_error","param":"messages","code":null}}'
  for (const how of FRAMINGS) {
    for (const type of ['application/json', '']) {
      const it = await scene(t)
      const asked = it.running.chat({ stream: true })
      await write(await it.first.next(), head(type), body, how)
      const answer = await asked
      t.equal(answer.headers.get('x-proxy-backend'), 'b1')
      t.equal(await answer.text(), body, how)
      t.equal(stateOfFirst(it), undefined)
    }
  }
})

t.test('an answer that begins like an error passes byte for byte, and is not waited for', async t => {
  const clock = createFakeClock()
  for (const body of [
    '{"error":null,"object":"chat.completion","choices":[]}',
    '{"object":"chat.completion","choices":[],"error":{"message":"not alone"}}',
    '{"type":"x"}',
    `{"error":{"message":"${'x'.repeat(20_000)}"}}`,
  ]) {
    for (const how of FRAMINGS) {
      if (how === 'byte by byte' && body.length > 1_000) continue
      const it = await scene(t, clock)
      const asked = it.running.chat()
      await write(await it.first.next(), head('application/json'), body, how)
      t.equal(await (await asked).text(), body)
      t.equal(stateOfFirst(it), undefined)
    }
  }
  const it = await scene(t, clock)
  const asked = it.running.chat()
  const request = await it.first.next()
  request.send(`${head('application/json')}transfer-encoding: chunked\r\n\r\n9\r\n{"error":\r\n`)
  let got: Response | undefined
  void asked.then(answer => (got = answer))
  for (let ms = 0; got === undefined; ms += 500) {
    if (ms > 20_000) throw new Error('waited for longer than five seconds')
    clock.advance(500)
    await new Promise(resolve => setTimeout(resolve, 1))
  }
  request.send('5\r\nnull}\r\n0\r\n\r\n')
  t.equal(await got.text(), '{"error":null}')
})
