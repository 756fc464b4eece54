// The proxy as its clients see it: keys, rights, errors and limits.
import http from 'node:http'
import t from 'tap'
import { CHAT, NO_PROBES, oneBackend } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { jsonAnswer, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const BODY = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
const BEARER = `Authorization: Bearer ${CLIENT_KEY}`

interface ErrorBody {
  readonly message?: unknown
  readonly type?: unknown
  readonly param?: unknown
  readonly code?: unknown
}

function errorIn(text: string): ErrorBody {
  const body: unknown = JSON.parse(text)
  return typeof body === 'object' && body !== null && 'error' in body ? Object(body.error) : {}
}

async function refusal(response: Response): Promise<readonly [number, unknown]> {
  return [response.status, errorIn(await response.text()).code]
}

function ask(running: RunningProxy, headers: Record<string, string>, body = BODY): Promise<Response> {
  return fetch(`${running.url}${CHAT}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  })
}

t.test('a client key comes as Bearer, as api-key or as x-api-key, alone or beside another', async t => {
  const { backend, running } = await oneBackend(t)
  for (const headers of [
    { authorization: `Bearer ${CLIENT_KEY}` },
    { authorization: `bearer   ${CLIENT_KEY}` },
    { 'api-key': CLIENT_KEY },
    { 'x-api-key': CLIENT_KEY },
    { 'api-key': CLIENT_KEY, authorization: `Bearer ${CLIENT_KEY}` },
    { 'api-key': 'unused', authorization: `Bearer ${CLIENT_KEY}` },
    { 'api-key': CLIENT_KEY, authorization: 'Bearer unused' },
    { 'x-api-key': CLIENT_KEY, authorization: 'Basic dTpw' },
  ]) {
    t.equal((await ask(running, headers)).status, 200, JSON.stringify(headers))
  }
  t.strictSame(backend.resource.violations, [])
})

t.test('pasted keys count without the blanks around them, and beyond ASCII in UTF-8', async t => {
  const backend = await startRawBackend(t)
  const text = configFor([{ url: backend.url, key: '"“azure-key” "' }], { rest: NO_PROBES }).replace(
    CLIENT_KEY,
    '" “pasted-key” "',
  )
  const running = await runProxy(t, text)
  const client = connect(running)
  const key = Buffer.from('“pasted-key”').toString('latin1')
  client.socket.write(
    `POST ${CHAT} HTTP/1.1\r\nHost: x\r\napi-key: ${key}\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`,
    'latin1',
  )
  const { head, send } = await backend.next()
  t.match(Buffer.from(head, 'latin1').toString(), /\r\napi-key: “azure-key”(\r\n|$)/)
  send(jsonAnswer())
  await client.until('}')
  client.socket.destroy()
  const wrong = await ask(running, { 'api-key': 'pasted-key' })
  t.same(await refusal(wrong), [401, 'invalid_api_key'])
})

t.test('no key and a wrong key are a 401 that names the scheme, and reach no backend', async t => {
  const { backend, running } = await oneBackend(t)
  const cases: Record<string, string>[] = [
    {},
    { authorization: 'Bearer wrong' },
    { authorization: 'Bearer ' },
    { authorization: CLIENT_KEY },
    { authorization: `Basic ${CLIENT_KEY}` },
    { 'api-key': `${CLIENT_KEY}x` },
    { 'api-key': CLIENT_KEY.toUpperCase() },
    { 'x-api-key': '' },
    { 'api-key': 'x'.repeat(10_000) },
  ]
  for (const headers of cases) {
    const response = await ask(running, headers)
    t.equal(response.headers.get('www-authenticate'), 'Bearer')
    t.equal(response.headers.get('content-type'), 'application/json')
    t.equal(response.status, 401)
    t.match(errorIn(await response.text()), { message: String, type: 'invalid_request_error', code: 'invalid_api_key' })
  }
  t.equal((await fetch(`${running.url}/v1/models`)).status, 401)
  t.equal(backend.resource.requests.length, 0)
  t.match(
    running.lines.find(({ msg }) => msg === 'request'),
    { key: null, status: 401, error: 'invalid_api_key' },
  )
})

t.test('with authentication off nobody needs a key, and one that is sent stays here all the same', async t => {
  const { backend, running } = await oneBackend(t, {
    change: text => text.replace(/auth: .*/, 'auth: {enabled: false}'),
  })
  t.equal((await ask(running, {})).status, 200)
  t.equal((await ask(running, { 'api-key': CLIENT_KEY })).status, 200)
  t.strictSame(backend.resource.violations, [])
})

t.test('a key sees and uses the models it may, and no others', async t => {
  const { url } = await startResource(t)
  const running = await runProxy(
    t,
    `
auth: {keys: [{name: all, key: key-of-all}, {name: few, key: key-of-few, models: [gpt-4o]}]}
models:
  gpt-4o: {aliases: [default], backends: [{endpoint: "${url}", api_key: azure-key}]}
  org/other: {backends: [{endpoint: "${url}", api_key: azure-key, deployment: gpt-4o}]}
server: {port: 0, host: 127.0.0.1}
${NO_PROBES}`,
  )
  const get = async (path: string, key: string): Promise<Response> =>
    fetch(`${running.url}${path}`, { headers: { 'api-key': key } })
  const listed = async (path: string, key: string): Promise<unknown> => {
    const { object, data } = Object(await (await get(path, key)).json())
    t.equal(object, 'list')
    return Array.isArray(data) ? data.map(model => model.id) : data
  }
  for (const path of ['/v1/models', '/openai/models?api-version=2024-10-21', '/openai/v1/models', '/v1/models/']) {
    t.strictSame(await listed(path, 'key-of-all'), ['gpt-4o', 'default', 'org/other'])
    t.strictSame(await listed(path, 'key-of-few'), ['gpt-4o', 'default'])
  }
  t.match(await (await get('/v1/models/default', 'key-of-few')).json(), {
    id: 'default',
    object: 'model',
    owned_by: String,
  })
  t.match(await (await get('/v1/models/org/other', 'key-of-all')).json(), { id: 'org/other' })
  t.match(await (await get('/v1/models/org%2Fother', 'key-of-all')).json(), { id: 'org/other' })
  t.strictSame(await refusal(await get('/v1/models/org/other', 'key-of-few')), [403, 'model_not_allowed'])
  t.strictSame(await refusal(await get('/v1/models/nothing', 'key-of-few')), [404, 'model_not_found'])

  const chat = async (model: string, key: string): Promise<readonly [number, unknown]> => {
    const response = await ask(running, { 'api-key': key }, JSON.stringify({ model, messages: [] }))
    return response.ok ? [response.status, undefined] : refusal(response)
  }
  const messages = [{ role: 'user', content: 'Hello' }]
  const served = await ask(running, { 'api-key': 'key-of-few' }, JSON.stringify({ model: 'default', messages }))
  t.equal(served.status, 200)
  t.strictSame(await chat('org/other', 'key-of-few'), [403, 'model_not_allowed'])
  t.strictSame(await chat('nothing', 'key-of-few'), [404, 'model_not_found'])

  const told = async (model: string, key: string): Promise<string> =>
    (await ask(running, { 'api-key': key }, JSON.stringify({ model, messages: [] }))).text()
  t.match(
    await told('gpt4o', 'key-of-few'),
    /Did you mean \\"gpt-4o\\"\? This key may use \\"gpt-4o\\" \(GET \/v1\/models\)/,
  )
  t.match(await told('org/other', 'key-of-few'), /may not use the model .* This key may use \\"gpt-4o\\"/)
  t.notMatch(await told('org/othr', 'key-of-few'), 'org/other', 'a name that the key may not use is not suggested')
  t.match(await told('org/othr', 'key-of-all'), /Did you mean \\"org\/other\\"/)
})

t.test('a URL that means nothing is a 404 that says so, a wrong method a 405 with what is allowed', async t => {
  const { running } = await oneBackend(t)
  const headers = { 'api-key': CLIENT_KEY }
  const asked = (method: string, path: string): Promise<Response> => fetch(`${running.url}${path}`, { method, headers })
  for (const path of ['/v2/models', '/v1', '/v1/nothing', '/health/x', '/openai/deployments', '/openai/deployments//x'])
    t.strictSame(await refusal(await asked('GET', path)), [404, 'unknown_url'], path)
  const files = errorIn(await (await asked('GET', '/v1/files')).text())
  t.match(files, { code: 'unknown_url', message: /one Azure OpenAI resource/ })
  for (const [method, path, allow] of [
    ['GET', CHAT, 'POST'],
    ['PUT', '/v1/embeddings', 'POST'],
    ['DELETE', '/openai/deployments/gpt-4o/chat/completions', 'POST'],
    ['POST', '/v1/models', 'GET, HEAD'],
    ['PATCH', '/v1/responses/resp_1', 'GET, DELETE'],
    ['GET', '/v1/responses/resp_1/cancel', 'POST'],
    ['POST', '/health', 'GET, HEAD'],
    ['DELETE', '/metrics', 'GET, HEAD'],
  ] as const) {
    const response = await asked(method, path)
    t.equal(response.headers.get('allow'), allow, `${method} ${path}`)
    t.strictSame(await refusal(response), [405, 'method_not_allowed'])
  }
  const forward = connect(running)
  forward.send(['CONNECT example.com:443 HTTP/1.1', 'Host: example.com:443'])
  t.match(await forward.closed, /^HTTP\/1\.1 405 [\s\S]*"method_not_allowed"/)
})

t.test('a body that is no JSON object, or names no model, is a 400 and reaches no backend', async t => {
  const { backend, running } = await oneBackend(t)
  const key = { 'api-key': CLIENT_KEY }
  for (const body of [
    '',
    ' ',
    '[]',
    '"text"',
    'null',
    '{',
    '{"model":"gpt-4o"',
    '{"model":"gpt-4o"} x',
    '{model:1}',
    '\u0000',
  ])
    t.strictSame(await refusal(await ask(running, key, body)), [400, 'invalid_json'], JSON.stringify(body))
  for (const body of ['{}', '{"model":1}', '{"model":null}', '{"model":["gpt-4o"]}', '{"x":{"model":"gpt-4o"}}']) {
    const response = await ask(running, key, body)
    t.equal(response.status, 400)
    t.match(errorIn(await response.text()), { code: 'missing_model', param: 'model' }, body)
  }
  const long = await ask(running, key, JSON.stringify({ model: 'x'.repeat(5000) }))
  t.equal(long.status, 404)
  t.match(errorIn(await long.text()), { code: 'model_not_found', message: /a name of 5000 bytes/ })
  t.equal(backend.resource.requests.length, 0)
})

t.test('bytes that are no proper request are answered in the same form, and the connection ends', async t => {
  const { running } = await oneBackend(t)
  for (const [what, lines, status, rest = ''] of [
    ['no HTTP', ['this is no HTTP'], 400],
    ['no Host', ['GET /v1/models HTTP/1.1', BEARER], 400],
    ['two lengths', [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 3', 'Content-Length: 4'], 400],
    [
      'a length and chunks',
      [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 3', 'Transfer-Encoding: chunked'],
      400,
    ],
    [
      'a coding that is unknown',
      [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Transfer-Encoding: identity'],
      400,
      '{}',
    ],
    ['a coding behind another', [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Transfer-Encoding: gzip'], 400, '{}'],
    ['no key, and chunks that are none', [`POST ${CHAT} HTTP/1.1`, 'Host: x', 'Transfer-Encoding: chunked'], 401, 'zz'],
    ['no version', ['GET /health'], 400],
    ['another expectation', [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 3', 'Expect: tea'], 417],
    ['too large a head', ['GET /v1/models HTTP/1.1', 'Host: x', `X-Long: ${'x'.repeat(40_000)}`], 431],
  ] as const) {
    const odd = connect(running)
    odd.send(lines, rest)
    const [head = '', body = ''] = (await odd.closed).split('\r\n\r\n')
    t.match(head, new RegExp(`^HTTP/1\\.1 ${status} `), what)
    t.match(head, /connection: close/i)
    t.match(errorIn(body), { message: String, type: 'invalid_request_error', code: String })
  }
  t.equal((await running.chat()).status, 200, 'the proxy goes on')
})

t.test('a head of ordinary size, with a long token in it, is taken', async t => {
  const { running } = await oneBackend(t)
  const response = await ask(running, { 'api-key': CLIENT_KEY, 'user-agent': 'x'.repeat(20_000) })
  t.equal(response.status, 200)
})

t.test('a body that stops coming is a 408, and nothing of it is kept', async t => {
  const clock = createFakeClock()
  const backend = await startResource(t)
  const running = await runProxy(t, configFor([{ url: backend.url }], { rest: NO_PROBES }), { clock })
  const stalled = connect(running)
  stalled.send([`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 500', 'Expect: 100-continue'])
  await stalled.until('100 Continue')
  stalled.socket.write('{"model":"gpt-4o",')
  while (running.proxy.shared.bodyBudget.heldBytes() === 0) await new Promise(resolve => setImmediate(resolve))
  clock.advance(29_000)
  t.equal(running.proxy.app.inFlight(), 1, 'a slow client has its time')
  clock.advance(2_000)
  await stalled.until('"request_timeout"')
  clock.advance(3_000)
  t.match(await stalled.closed, /HTTP\/1\.1 408 [\s\S]*connection: close[\s\S]*"code":"request_timeout"/i)
  t.equal(running.proxy.shared.bodyBudget.heldBytes(), 0)
  t.equal(backend.resource.requests.length, 0)
})

t.test('a declared length over the limit is refused before a byte of the body is asked for', async t => {
  const { running } = await oneBackend(t, { change: text => text.replace('server: {', 'server: {max_body: 1KB, ') })
  const declared = connect(running)
  declared.send([`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 5000', 'Expect: 100-continue'])
  await declared.until('"request_too_large"')
  declared.socket.end()
  const text = await declared.closed
  t.match(text, /^HTTP\/1\.1 413 /)
  t.match(text, /connection: close/i)
  t.notOk(text.includes('100 Continue'))
})

t.test('a body without a length is refused at the byte that is too many, and one that fits is taken', async t => {
  const { running } = await oneBackend(t, { change: text => text.replace('server: {', 'server: {max_body: 1KB, ') })
  const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`
  const head = [
    `POST ${CHAT} HTTP/1.1`,
    'Host: x',
    BEARER,
    'Content-Type: application/json',
    'Transfer-Encoding: chunked',
  ]
  const long = connect(running)
  long.send([...head, 'Expect: 100-continue'])
  await long.until('100 Continue')
  long.socket.write(chunk('x'.repeat(1_000)))
  long.socket.write(chunk('y'.repeat(25)))
  await long.until('"request_too_large"')
  long.socket.end()
  t.match(await long.closed, /HTTP\/1\.1 413 [\s\S]*connection: close/i)
  t.equal(running.proxy.shared.bodyBudget.heldBytes(), 0)

  const fits = connect(running)
  fits.send([...head, 'Expect: 100-continue'])
  await fits.until('100 Continue')
  const body = BODY.replace('Hello', 'x'.repeat(1_024 - BODY.length + 'Hello'.length))
  t.equal(body.length, 1_024)
  fits.socket.write(`${chunk(body)}0\r\n\r\n`)
  t.match(await fits.until('"chat.completion"'), /HTTP\/1\.1 200 OK/)
  fits.socket.destroy()
})

t.test('a client that reads its 413 late, still sending, finds it: the connection is not reset under it', async t => {
  const { running } = await oneBackend(t, { change: text => text.replace('server: {', 'server: {max_body: 1KB, ') })
  const status = await new Promise<number | undefined>((resolve, reject) => {
    const request = http.request(`${running.url}${CHAT}`, {
      method: 'POST',
      agent: false,
      headers: { 'api-key': CLIENT_KEY, 'content-length': 3_000_000 },
    })
    request.on('error', reject).on('response', response => resolve(response.resume().statusCode))
    request.end('x'.repeat(3_000_000))
  })
  t.equal(status, 413)
})

t.test('HEAD on health and livez gives the head of the answer alone', async t => {
  const { running } = await oneBackend(t)
  for (const path of ['/health', '/livez']) {
    const head = await fetch(`${running.url}${path}`, { method: 'HEAD' })
    t.equal(head.status, 200)
    t.equal(await head.text(), '')
    const whole = await fetch(`${running.url}${path}`)
    t.equal(whole.headers.get('content-type'), head.headers.get('content-type'))
    t.match(await whole.json(), { status: 'ok' })
  }
})
