// The proxy as its clients see it (contract, section 4; wire reference, section 11): keys, errors, limits and headers.
import http from 'node:http'
import net from 'node:net'
import t, { type Test } from 'tap'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { startHeldBackend } from '../fixtures/held-backend.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const NO_PROBES = 'health_check: {enabled: false, recovery: 60s}'
const CHAT = '/v1/chat/completions'
const BODY = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
const BEARER = `Authorization: Bearer ${CLIENT_KEY}`

interface Ready {
  readonly backend: StartedResource
  readonly running: RunningProxy
}

async function start(t: Test, change: (text: string) => string = text => text): Promise<Ready> {
  const backend = await startResource(t, { forbidden: [CLIENT_KEY] })
  const running = await runProxy(t, change(configFor([{ url: backend.url }], { rest: NO_PROBES })))
  return { backend, running }
}

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

/** A connection of its own, for what no HTTP client would send. */
function connect({ port }: RunningProxy) {
  const socket = net.connect(port, '127.0.0.1')
  let read = ''
  let arrived: () => void = () => undefined
  socket.on('error', () => undefined)
  socket.on('data', chunk => {
    read += chunk.toString('latin1')
    arrived()
  })
  const closed = new Promise<string>(resolve => socket.once('close', () => resolve(read)))
  return {
    socket,
    /** All that came, once the proxy has closed the connection. */
    closed,
    send: (lines: readonly string[], body = ''): boolean => socket.write(`${lines.join('\r\n')}\r\n\r\n${body}`),
    async until(text: string): Promise<string> {
      while (!read.includes(text)) await new Promise<void>(resolve => (arrived = resolve))
      return read
    },
  }
}

t.test('a client key comes as Bearer, as api-key or as x-api-key, alone or beside another', async t => {
  const { backend, running } = await start(t)
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

t.test('no key and a wrong key are a 401 that names the scheme, and reach no backend', async t => {
  const { backend, running } = await start(t)
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
  const { backend, running } = await start(t, text => text.replace(/auth: .*/, 'auth: {enabled: false}'))
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
})

t.test('a URL that means nothing is a 404 that says so, a wrong method a 405 with what is allowed', async t => {
  const { running } = await start(t)
  const headers = { 'api-key': CLIENT_KEY }
  const asked = (method: string, path: string): Promise<Response> => fetch(`${running.url}${path}`, { method, headers })
  for (const path of [
    '/',
    '/v2/models',
    '/v1',
    '/v1/nothing',
    '/health/x',
    '/openai/deployments',
    '/openai/deployments//x',
  ])
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
  const { backend, running } = await start(t)
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
  t.equal(backend.resource.requests.length, 0)
})

t.test('bytes that are no proper request are answered in the same form, and the connection ends', async t => {
  const { running } = await start(t)
  for (const [what, lines, status] of [
    ['no HTTP', ['this is no HTTP'], 400],
    ['no Host', ['GET /v1/models HTTP/1.1', BEARER], 400],
    ['two lengths', [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 3', 'Content-Length: 4'], 400],
    [
      'a length and chunks',
      [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 3', 'Transfer-Encoding: chunked'],
      400,
    ],
    ['another expectation', [`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, 'Content-Length: 3', 'Expect: tea'], 417],
    ['too large a head', ['GET /v1/models HTTP/1.1', 'Host: x', `X-Long: ${'x'.repeat(40_000)}`], 431],
  ] as const) {
    const odd = connect(running)
    odd.send(lines)
    const [head = '', body = ''] = (await odd.closed).split('\r\n\r\n')
    t.match(head, new RegExp(`^HTTP/1\\.1 ${status} `), what)
    t.match(head, /connection: close/i)
    t.match(errorIn(body), { message: String, type: 'invalid_request_error', code: String })
  }
  t.equal((await running.chat()).status, 200, 'the proxy goes on')
})

t.test('a head of ordinary size, with a long token in it, is taken', async t => {
  const { running } = await start(t)
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
  while (running.proxy.parts.bodyBudget.heldBytes() === 0) await new Promise(resolve => setImmediate(resolve))
  clock.advance(29_000)
  t.equal(running.proxy.app.inFlight(), 1, 'a slow client has its time')
  clock.advance(2_000)
  await stalled.until('"request_timeout"')
  clock.advance(3_000)
  t.match(await stalled.closed, /HTTP\/1\.1 408 [\s\S]*connection: close[\s\S]*"code":"request_timeout"/i)
  t.equal(running.proxy.parts.bodyBudget.heldBytes(), 0)
  t.equal(backend.resource.requests.length, 0)
})

t.test('a declared length over the limit is refused before a byte of the body is asked for', async t => {
  const { running } = await start(t, text => text.replace('server: {', 'server: {max_body: 1KB, '))
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
  const { running } = await start(t, text => text.replace('server: {', 'server: {max_body: 1KB, '))
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
  t.equal(running.proxy.parts.bodyBudget.heldBytes(), 0)

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
  const { running } = await start(t, text => text.replace('server: {', 'server: {max_body: 1KB, '))
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
  const { running } = await start(t)
  for (const path of ['/health', '/livez']) {
    const head = await fetch(`${running.url}${path}`, { method: 'HEAD' })
    t.equal(head.status, 200)
    t.equal(await head.text(), '')
    const whole = await fetch(`${running.url}${path}`)
    t.equal(whole.headers.get('content-type'), head.headers.get('content-type'))
    t.match(await whole.json(), { status: 'ok' })
  }
})

t.test('a request id is taken over when it is safe to show, and made otherwise', async t => {
  const backend = await startHeldBackend(t)
  const running = await runProxy(t, configFor([{ url: backend.url }], { rest: NO_PROBES }))
  const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
  const idFor = async (sent: string | undefined): Promise<string> => {
    const logged = running.line('request')
    const asked = running.chat(sent === undefined ? {} : { headers: { 'x-request-id': sent } })
    const held = await backend.next()
    held.response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
    const response = await asked
    await response.text()
    const id = response.headers.get('x-request-id') ?? ''
    t.equal((await logged).id, id, 'log and answer name the same')
    return id
  }
  for (const id of ['abc', 'trace:1/2.3+4=@-_', 'x'.repeat(128)]) t.equal(await idFor(id), id)
  const made = await Promise.resolve(idFor(undefined))
  t.match(made, UUID)
  for (const id of ['x'.repeat(129), 'two words', '{"a":1}', '<b>', 'caf\u00e9', '\u001b[31m'.slice(1)])
    t.match(await idFor(id), UUID)
})

t.test('an id that the upstream gave is the one the client gets', async t => {
  const { running } = await start(t)
  const logged = running.line('request')
  const response = await running.chat({ headers: { 'x-request-id': 'mine' } })
  t.equal(response.headers.get('x-request-id'), response.headers.get('apim-request-id'))
  t.match(await logged, { id: 'mine', upstream_id: response.headers.get('apim-request-id') })
})

t.test('a traceparent is passed on and logged, and logged only when it is one', async t => {
  const { backend, running } = await start(t)
  const sound = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
  for (const [sent, kept] of [
    [sound, sound],
    ['00-nonsense', undefined],
  ] as const) {
    const logged = running.line('request')
    await running.chat({ headers: { traceparent: sent } })
    t.equal((await logged).traceparent, kept)
    t.equal(backend.resource.requests.at(-1)?.headers.traceparent, sent)
  }
})

t.test('headers of one connection stop here, in both directions', async t => {
  const backend = await startHeldBackend(t)
  const running = await runProxy(t, configFor([{ url: backend.url }], { rest: NO_PROBES }))
  const client = connect(running)
  client.send(
    [
      `POST ${CHAT} HTTP/1.1`,
      'Host: proxy.example',
      BEARER,
      'Content-Type: application/json',
      `Content-Length: ${BODY.length}`,
      'Connection: keep-alive, X-Hop, TE',
      'Keep-Alive: timeout=5',
      'X-Hop: of this connection',
      'TE: trailers',
      'Proxy-Authorization: Basic dTpw',
      'Accept-Encoding: gzip',
      'X-Forwarded-For: 10.0.0.1',
      'Cookie: a=b',
      'X-Stays: of the request',
      'X-MS-Meaning: passes',
      'OpenAI-Beta: passes',
    ],
    BODY,
  )
  const held = await backend.next()
  const { headers } = held.request
  for (const name of ['x-hop', 'te', 'proxy-authorization', 'x-forwarded-for', 'cookie', 'authorization'])
    t.equal(headers[name], undefined, `${name} stays here`)
  t.equal(headers['x-stays'], 'of the request')
  t.equal(headers['x-ms-meaning'], 'passes')
  t.equal(headers['openai-beta'], 'passes')
  t.equal(headers['accept-encoding'], 'identity')
  t.equal(`http://${headers.host}`, backend.url)
  t.equal(held.body.length, BODY.length - 'gpt-4o'.length + 'gpt-4o'.length, 'the body is as long as it was')

  held.response
    .writeHead(200, [
      ...['content-type', 'application/json', 'content-length', '2'],
      ...['connection', 'X-Hop', 'x-hop', 'of that connection', 'keep-alive', 'timeout=999'],
      ...[
        'proxy-authenticate',
        'Basic',
        'api-key',
        'echoed',
        'x-ms-region',
        'East US',
        'set-cookie',
        'a=1',
        'set-cookie',
        'b=2',
      ],
    ])
    .end('{}')
  const answer = (await client.until('\r\n\r\n')).toLowerCase()
  for (const text of ['x-hop', 'timeout=999', 'proxy-authenticate', 'api-key'])
    t.notOk(answer.includes(text), `${text} stays here`)
  t.match(answer, 'x-ms-region: east us')
  t.match(answer, /set-cookie: a=1\r\nset-cookie: b=2/)
  t.match(answer, 'x-proxy-backend: b1')
  t.match(answer, 'x-proxy-attempts: 1')
  client.socket.destroy()
})

/** What openai-node sends with every request (wire reference, 11.2). */
const STAINLESS = Object.fromEntries(
  [
    'retry-count',
    'lang',
    'package-version',
    'os',
    'arch',
    'runtime',
    'runtime-version',
    'timeout',
    'helper-method',
    'x',
  ].map(name => [`x-stainless-${name}`, '1']),
)

function customNames(request: { readonly headers: http.IncomingHttpHeaders } | undefined): string[] {
  return Object.keys(request?.headers ?? {}).filter(name => /^(x-|openai-|traceparent)/.test(name))
}

t.test('what SDKs say of themselves stays here for Azure, and passes to OpenAI-compatible servers', async t => {
  const azure = await start(t)
  t.equal((await azure.running.chat({ headers: STAINLESS })).status, 200)
  t.strictSame(customNames(azure.backend.resource.requests.at(-1)), [])
  t.strictSame(azure.backend.resource.violations, [])

  const open = await startHeldBackend(t)
  const running = await runProxy(t, configFor([{ url: open.url, more: 'type: openai' }], { rest: NO_PROBES }))
  const asked = running.chat({ headers: STAINLESS })
  const held = await open.next()
  held.response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  t.equal((await asked).status, 200)
  t.strictSame(customNames(held.request).sort(), Object.keys(STAINLESS).sort())
  t.equal(held.request.headers.authorization, 'Bearer azure-key')
})

t.test('Azure gets at most ten custom headers, those that mean something to it first', async t => {
  const { backend, running } = await start(t)
  const chatter = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`x-custom-${i}`, 'x']))
  const meant = { 'x-ms-client-request-id': 'a', 'openai-organization': 'b', traceparent: 'c' }
  t.equal((await running.chat({ headers: { ...chatter, ...meant } })).status, 200)
  const names = customNames(backend.resource.requests.at(-1))
  t.equal(names.length, 10)
  for (const name of Object.keys(meant)) t.ok(names.includes(name), name)
  t.strictSame(backend.resource.violations, [])
})

t.test('every path that an SDK makes reaches its operation, with final slashes and doubled ones', async t => {
  const { backend, running } = await start(t, text =>
    text
      .replace('models:\n', `models:\n  embed:\n    backends: [{endpoint: "BACKEND", api_key: azure-key}]\n`)
      .replace('BACKEND', /endpoint: "(http[^"]*)"/.exec(text)?.[1] ?? ''),
  )
  const chat = JSON.parse(BODY)
  const unrelated = { ...chat, model: 'whatever the client was set up with' }
  const embed = { model: 'embed', input: 'Hello' }
  const respond = { model: 'gpt-4o', input: 'Hello' }
  const VERSION = 'api-version=2024-10-21'
  for (const [path, body, upstream] of [
    ['/v1/chat/completions', chat, 'chat/completions'],
    ['/v1/chat/completions/', chat, 'chat/completions'],
    ['/v1/embeddings', embed, 'embeddings'],
    ['/v1/responses', respond, 'responses'],
    ['/openai/v1/chat/completions', chat, 'chat/completions'],
    ['/openai/v1/responses?api-version=v1', respond, 'responses'],
    [`/openai/deployments/gpt-4o/chat/completions?${VERSION}`, unrelated, 'chat/completions'],
    [`/openai/deployments/gpt-4o/chat/completions/?${VERSION}`, chat, 'chat/completions'],
    [`//openai/deployments/gpt-4o/chat/completions?${VERSION}`, unrelated, 'chat/completions'],
    [`//openai//deployments/gpt-4o//chat/completions?${VERSION}`, chat, 'chat/completions'],
    [`/openai/deployments/embed/embeddings?${VERSION}`, { input: 'Hello' }, 'embeddings'],
    [`/openai/deployments/gpt-4o/responses?${VERSION}`, respond, 'responses'],
    ['/openai/responses?api-version=2025-04-01-preview', respond, 'responses'],
    ['/openai/responses', respond, 'responses'],
    ['/openai/chat/completions', chat, 'chat/completions'],
    [`${running.url}/v1/chat/completions`, chat, 'chat/completions'],
  ] as const) {
    const text = JSON.stringify(body)
    const client = connect(running)
    const head = [`POST ${path} HTTP/1.1`, 'Host: x', `api-key: ${CLIENT_KEY}`, 'Content-Type: application/json']
    client.send([...head, `Content-Length: ${text.length}`, 'Connection: close'], text)
    t.match(await client.closed, /^HTTP\/1\.1 200 OK/, path)
    const request = backend.resource.requests.at(-1)
    t.equal(request?.url, `/openai/v1/${upstream}`, 'under the form and the version of the backend')
    const expected = upstream === 'embeddings' ? 'embed' : 'gpt-4o'
    t.equal(JSON.parse(request?.body.toString() ?? '').model, expected, 'with the deployment as its model')
  }
  t.strictSame(backend.resource.violations, [])
})

t.test('what curl sends by default is served: a form content type, and an expectation', async t => {
  const { backend, running } = await start(t)
  const response = await ask(running, { 'api-key': CLIENT_KEY, 'content-type': 'application/x-www-form-urlencoded' })
  t.equal(response.status, 200)
  const client = connect(running)
  client.send([`POST ${CHAT} HTTP/1.1`, 'Host: x', BEARER, `Content-Length: ${BODY.length}`, 'Expect: 100-continue'])
  await client.until('HTTP/1.1 100 Continue\r\n\r\n')
  client.socket.write(BODY)
  await client.until('"chat.completion"')
  client.socket.destroy()
  t.strictSame(
    backend.resource.requests.map(({ headers }) => headers['content-type']),
    ['application/json', 'application/json'],
  )
  t.strictSame(backend.resource.violations, [])
})

t.test('the body goes upstream byte for byte where the URL names the deployment', async t => {
  const { backend, running } = await start(t, text =>
    text.replace('api_key: azure-key', 'api_key: azure-key, api_version: "2024-10-21"'),
  )
  const odd =
    ' {\n"model" : "gpt-4o",\t"messages":[{"role":"user","content":"\\u00e9 \ud83d\ude00 é"}] , "n":1.0e0 }\r\n'
  t.equal((await ask(running, { 'api-key': CLIENT_KEY }, odd)).status, 200)
  const request = backend.resource.requests.at(-1)
  t.equal(request?.url, '/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21')
  t.equal(request?.body.toString(), odd)
})
