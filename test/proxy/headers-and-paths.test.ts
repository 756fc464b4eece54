// Headers, paths and bodies between a client and a backend, and under which URLs (azure/README.md 11).
import type http from 'node:http'
import t from 'tap'
import { CHAT, NO_PROBES, oneBackend } from '../fixtures/backends-and-proxy.ts'
import { startHeldBackend } from '../fixtures/held-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'

const BODY = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
const BEARER = `Authorization: Bearer ${CLIENT_KEY}`

function ask(running: RunningProxy, headers: Record<string, string>, body = BODY): Promise<Response> {
  return fetch(`${running.url}${CHAT}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  })
}

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
  t.match(await idFor(undefined), UUID)
  for (const id of ['x'.repeat(129), 'two words', '{"a":1}', '<b>', 'caf\u00e9', '[31m']) t.match(await idFor(id), UUID)
})

t.test('an id that the upstream gave is the one the client gets', async t => {
  const { running } = await oneBackend(t)
  const logged = running.line('request')
  const response = await running.chat({ headers: { 'x-request-id': 'mine' } })
  t.equal(response.headers.get('x-request-id'), response.headers.get('apim-request-id'))
  t.match(await logged, { id: 'mine', upstream_id: response.headers.get('apim-request-id') })
})

t.test('a traceparent is passed on and logged, and logged only when it is one', async t => {
  const { backend, running } = await oneBackend(t)
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
  t.equal(held.body, BODY)

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

/** What openai-node sends with every request (azure/README.md 11.2). */
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
  const azure = await oneBackend(t)
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
  const { backend, running } = await oneBackend(t)
  const chatter = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`x-custom-${i}`, 'x']))
  const meant = { 'x-ms-client-request-id': 'a', 'openai-organization': 'b', traceparent: 'c' }
  t.equal((await running.chat({ headers: { ...chatter, ...meant } })).status, 200)
  const names = customNames(backend.resource.requests.at(-1))
  t.equal(names.length, 10)
  for (const name of Object.keys(meant)) t.ok(names.includes(name), name)
  t.strictSame(backend.resource.violations, [])
})

t.test('every path that an SDK makes reaches its operation, with final slashes and doubled ones', async t => {
  const { backend, running } = await oneBackend(t, {
    change: text =>
      text
        .replace('models:\n', `models:\n  embed:\n    backends: [{endpoint: "BACKEND", api_key: azure-key}]\n`)
        .replace('BACKEND', /endpoint: "(http[^"]*)"/.exec(text)?.[1] ?? ''),
  })
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
  const { backend, running } = await oneBackend(t)
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
  const { backend, running } = await oneBackend(t, {
    change: text => text.replace('api_key: azure-key', 'api_key: azure-key, api_version: "2024-10-21"'),
  })
  const odd =
    ' {\n"model" : "gpt-4o",\t"messages":[{"role":"user","content":"\\u00e9 \ud83d\ude00 é"}] , "n":1.0e0 }\r\n'
  t.equal((await ask(running, { 'api-key': CLIENT_KEY }, odd)).status, 200)
  const request = backend.resource.requests.at(-1)
  t.equal(request?.url, '/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21')
  t.equal(request?.body.toString(), odd)
})
