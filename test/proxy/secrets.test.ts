// No secret of the config in anything the proxy says: traffic of every kind, then every output is searched for every
// secret.
import { createHash } from 'node:crypto'
import http from 'node:http'
import net from 'node:net'
import t, { type Test } from 'tap'
import { errorEvent, fail, garbage, hangUp, refuseWith, throttle } from '../../lib/simulator/faults.ts'
import { type RunningProxy, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { openWebSocket } from '../fixtures/websocket.ts'

// Each distinctive, so that a hit can be nothing else.
const CLIENT = 'ck-plain-7Qm2vX9sLw4'
const ADMIN = 'ck-admin-3Rt8bN6yHd1'
const HASHED = 'ck-hashed-5Fk0pZ2cJg7'
const ROTATED = 'ck-rotated-1Wq6dM8uEa3'
const BACKEND = 'bk-sound-9Ye4rT7iOs2'
const WRONG = 'bk-wrong-2Uj5hG8xBv6'
const REFUSED = 'bk-refused-4Ln1kS3mPz0'
const ECHOED = 'bk-echoed-8Ct6wQ2fDy9'
const ROTATED_BACKEND = 'bk-rotated-6Vb3nK5jRe1'
/** Not in the config: somebody's own, which is as little the log's business. */
const STRANGER = 'sk-stranger-0Xa7zI4oUl5'
const CLIENT_SECRETS = [CLIENT, ADMIN, HASHED, ROTATED]
/** In force while there is traffic; the rotated ones come with the reload at its end. */
const IN_FORCE = [CLIENT, ADMIN, HASHED, BACKEND, WRONG, REFUSED, ECHOED]
const SECRETS = [...CLIENT_SECRETS, BACKEND, WRONG, REFUSED, ECHOED, ROTATED_BACKEND]

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

/** Everything that was said to a client: status line, headers and body, with or without an error. */
interface Said {
  readonly what: string
  readonly text: string
}

/** A gateway that shows in its error what key it was given, in body and headers, as careless ones do. */
async function startEchoing(t: Test): Promise<string> {
  const server = http.createServer((request, response) => {
    const key = String(request.headers['api-key'] ?? request.headers.authorization ?? '')
    request.resume().on('end', () => {
      response.writeHead(401, { 'content-type': 'application/json', 'api-key': key, authorization: key })
      response.end(
        JSON.stringify({ error: { code: 'invalid_api_key', message: `Incorrect API key provided: ${key}` } }),
      )
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`
}

/** A port on which nobody listens. */
async function closedPort(): Promise<number> {
  const server = net.createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise(resolve => server.close(resolve))
  return typeof address === 'object' && address !== null ? address.port : 0
}

async function start(t: Test) {
  const sound = await startResource(t, {
    keys: [BACKEND, ROTATED_BACKEND],
    forbidden: [...CLIENT_SECRETS, STRANGER],
    deployments: [
      { name: 'gpt-4o', kind: 'chat' },
      { name: 'live', kind: 'realtime' },
    ],
  })
  const wrong = await startResource(t, { keys: ['another'], forbidden: [...CLIENT_SECRETS, STRANGER] })
  const echoing = await startEchoing(t)
  const refusing = `http://127.0.0.1:${await closedPort()}`
  const text = (clientKey: string, backendKey: string): string => `
auth:
  keys:
    - {name: plain, key: ${clientKey}, models: [gpt-4o, live, echoed, wrong, refused, all]}
    - {name: admin, key: ${ADMIN}, admin: true}
    - {name: hashed, key_sha256: ${sha256(HASHED)}}
models:
  gpt-4o: {backends: [{name: sound, endpoint: "${sound.url}", api_key: ${backendKey}}]}
  live: {backends: [{name: live, endpoint: "${sound.url}", api_key: ${backendKey}}]}
  wrong: {backends: [{name: wrong, endpoint: "${wrong.url}", api_key: ${WRONG}}]}
  refused: {backends: [{name: refusing, endpoint: "${refusing}", api_key: ${REFUSED}}]}
  echoed: {backends: [{name: echoing, endpoint: "${echoing}", api_key: ${ECHOED}}, {name: openai, endpoint: "${echoing}/o", type: openai, api_key: ${ECHOED}}]}
  hidden: {backends: [{name: hidden, endpoint: "${sound.url}", deployment: gpt-4o, api_key: ${backendKey}}]}
  all:
    backends:
      - {name: all-echoing, endpoint: "${echoing}", api_key: ${ECHOED}}
      - {name: all-refusing, endpoint: "${refusing}", api_key: ${REFUSED}}
      - {name: all-wrong, endpoint: "${wrong.url}", deployment: gpt-4o, api_key: ${WRONG}}
server: {port: 0, host: 127.0.0.1, max_body: 512KB}
retry: {timeout: 2s, connect_timeout: 2s, first_output_timeout: 2s}
health_check: {enabled: false, recovery: 1s}
`
  const running = await runProxy(t, text(CLIENT, BACKEND))
  return { sound, wrong, running, text }
}

/** Sends bytes as they are, and takes down all that comes back until the connection ends. */
function raw(running: RunningProxy, bytes: string): Promise<string> {
  return new Promise(resolve => {
    let read = ''
    const socket = net.connect(running.port, '127.0.0.1', () => socket.write(bytes, 'latin1'))
    socket.on('data', chunk => {
      read += chunk.toString('latin1')
    })
    socket.on('error', () => undefined).on('close', () => resolve(read))
  })
}

const chatBody = (model: string, stream = false): string =>
  JSON.stringify({ model, stream, messages: [{ role: 'user', content: 'Hello' }] })

/** Requests of every kind, the odd ones too; what each was answered. */
async function traffic(running: RunningProxy): Promise<Said[]> {
  const said: Said[] = []
  const note = async (what: string, response: Response): Promise<void> => {
    const headers = [...response.headers].map(pair => pair.join(': ')).join('\n')
    said.push({ what, text: `${response.status}\n${headers}\n${await response.text().catch(() => '')}` })
  }
  const post = async (what: string, path: string, headers: Record<string, string>, body: string): Promise<void> =>
    note(
      what,
      await fetch(`${running.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body,
      }),
    )
  const bearer = { authorization: `Bearer ${CLIENT}` }
  const chat = '/v1/chat/completions'

  for (const model of ['gpt-4o', 'wrong', 'refused', 'echoed', 'all', 'hidden', 'nobody', CLIENT, BACKEND]) {
    await post(`plain ${model}`, chat, bearer, chatBody(model))
    await post(`stream ${model}`, chat, bearer, chatBody(model, true))
    await note(`model ${model}`, await fetch(`${running.url}/v1/models/${model}`, { headers: bearer }))
    await post(
      `deployment ${model}`,
      `/openai/deployments/${model}/chat/completions?api-version=1`,
      bearer,
      chatBody('x'),
    )
  }
  await post('hashed key', chat, { 'x-api-key': HASHED }, chatBody('hidden'))
  await post('two keys', chat, { 'api-key': CLIENT, ...bearer }, chatBody('gpt-4o'))
  await post('a backend key for a client key', chat, { 'api-key': BACKEND }, chatBody('gpt-4o'))
  await post('a wrong key', chat, { authorization: `Bearer ${STRANGER}` }, chatBody('gpt-4o'))
  await post('a wrong scheme', chat, { authorization: `Basic ${CLIENT}` }, chatBody('gpt-4o'))
  await post('a key in the wrong header', chat, { cookie: `key=${CLIENT}`, 'ocp-apim-subscription-key': CLIENT }, '{}')
  await post('no JSON', chat, bearer, `{"model": ${CLIENT}`)
  await post('no model', chat, bearer, JSON.stringify({ key: CLIENT }))
  await post('a long body', chat, bearer, `${CLIENT}${'x'.repeat(600_000)}`)
  await post('a broken form', '/v1/images/edits', { ...bearer, 'content-type': 'multipart/form-data' }, CLIENT)
  for (const secret of [CLIENT, BACKEND, ECHOED]) {
    await post('a key as request id', chat, { ...bearer, 'x-request-id': secret }, chatBody('gpt-4o'))
  }
  for (const secret of IN_FORCE) {
    await post('a key in the query', `${chat}?api-key=${secret}&subscription-key=${secret}`, bearer, chatBody('gpt-4o'))
    await post('a key in the path', `/v1/${secret}/chat`, bearer, '{}')
    await note('a key as path', await fetch(`${running.url}/${secret}`))
    await note('a key as a response id', await fetch(`${running.url}/v1/responses/${secret}`, { headers: bearer }))
    await note(
      'an escaped key',
      await fetch(`${running.url}/v1/x/${secret.replaceAll('-', '%2D')}`, { headers: bearer }),
    )
    await note('a key for a page', await fetch(`${running.url}/dashboard/${secret}?key=${secret}`))
    await note('a wrong method', await fetch(`${running.url}${chat}?key=${secret}`, { headers: bearer }))
  }
  const open = await openWebSocket(`${running.url}/v1/realtime?model=live&api-key=${CLIENT}`, {
    'sec-websocket-protocol': `realtime, openai-insecure-api-key.${CLIENT}`,
  })
  if ('status' in open) throw new Error(`refused with ${open.status}`)
  said.push({ what: 'a session', text: JSON.stringify(open.headers) })
  open.close()
  await open.ended
  for (const model of ['echoed', 'refused', 'wrong']) {
    const refused = await openWebSocket(`${running.url}/v1/realtime?model=${model}`, bearer)
    if (!('status' in refused)) throw new Error('no session was expected')
    said.push({ what: `a session of ${model}`, text: `${JSON.stringify(refused.headers)}\n${refused.body}` })
  }
  for (const [what, head] of [
    ['a huge header', `GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${CLIENT}${'x'.repeat(40_000)}`],
    ['no HTTP', `${CLIENT} ${BACKEND}`],
    ['no Host', `GET /${CLIENT} HTTP/1.1\r\nAuthorization: Bearer ${CLIENT}\r\nConnection: close`],
    ['a broken header', `GET /v1/models HTTP/1.1\r\nHost: x\r\nBad ${CLIENT}: 1\r\nConnection: close`],
    ['CONNECT', `CONNECT ${CLIENT}:443 HTTP/1.1\r\nHost: ${CLIENT}`],
    ['an odd expectation', `GET /v1/models HTTP/1.1\r\nHost: x\r\nExpect: ${CLIENT}\r\nConnection: close`],
    ['an absolute URL with a password', `GET http://u:${CLIENT}@x/v1/x HTTP/1.1\r\nHost: x\r\nConnection: close`],
  ] as const) {
    said.push({ what, text: await raw(running, `${head}\r\n\r\n`) })
  }
  return said
}

/** The first event of the dashboard's data. */
async function dashboardSnapshot({ url }: RunningProxy): Promise<string> {
  const leave = new AbortController()
  const response = await fetch(`${url}/dashboard/events`, {
    headers: { authorization: `Bearer ${ADMIN}` },
    signal: leave.signal,
  })
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += new TextDecoder().decode(chunk)
    if (text.includes('\n\n') && text.includes('"requests"')) break
  }
  leave.abort()
  return text
}

/** Every output of the proxy that is not an answer to an API request. */
async function outputs(running: RunningProxy): Promise<Said[]> {
  const page = async (path: string): Promise<string> => (await fetch(`${running.url}${path}`)).text()
  return [
    { what: '/metrics', text: await page('/metrics') },
    { what: '/health', text: await page('/health') },
    { what: '/dashboard', text: await page('/dashboard') },
    { what: '/dashboard/events', text: await dashboardSnapshot(running) },
    ...running.lines.map(line => ({ what: `log "${line.msg}"`, text: JSON.stringify(line) })),
  ]
}

/** Where a secret, or its digest, can be read, as it is or as a URL or base64 would spell it. */
function leaks(said: readonly Said[]): string[] {
  const found: string[] = []
  for (const secret of [...SECRETS, STRANGER]) {
    const forms = [secret, secret.replaceAll('-', '%2D'), Buffer.from(secret).toString('base64'), sha256(secret)]
    for (const { what, text } of said) {
      if (forms.some(form => text.includes(form))) found.push(`${secret} in ${what}: ${text.slice(0, 300)}`)
    }
  }
  return [...new Set(found)]
}

t.test('after traffic of every kind no secret is in a log line, a metric, a page, an answer or a header', async t => {
  const { sound, wrong, running, text } = await start(t)
  const said = await traffic(running)
  for (const fault of [
    fail(500),
    fail(503, 'html'),
    garbage(),
    hangUp(),
    refuseWith('wrong_key'),
    errorEvent('chat', 3),
    throttle(1),
  ]) {
    sound.resource.next(fault)
    const answer = await running.chat({ stream: true, headers: { authorization: `Bearer ${CLIENT}` } })
    said.push({ what: `fault ${fault.kind}`, text: await answer.text().catch(() => '') })
    running.proxy.runtime().pools.forEach(pool => {
      for (const { health } of pool.members) running.proxy.shared.health.restore(health)
    })
  }
  running.proxy.reload(readConfig(text(ROTATED, ROTATED_BACKEND)), undefined)
  await running.chat({ headers: { authorization: `Bearer ${ROTATED}` } })
  await running.chat({ headers: { authorization: `Bearer ${CLIENT}` } })

  const seen = [...said, ...(await outputs(running))]
  t.ok(running.lines.length > 100, 'there was much to say')
  for (const msg of [
    'request',
    'attempt',
    'config change',
    'backend ejected: check its credentials and deployment in the config',
  ])
    t.ok(
      running.lines.some(line => line.msg === msg),
      `among it "${msg}"`,
    )
  t.ok(seen.some(({ what, text: shown }) => what === '/dashboard/events' && shown.includes('"requests"')))
  t.strictSame(leaks(seen), [])
  t.strictSame([...sound.resource.violations, ...wrong.resource.violations], [], 'no backend was shown a client key')
})

t.test('backends get their own key and no client key, whichever way the client sent it', async t => {
  const { sound, running } = await start(t)
  for (const headers of [
    { authorization: `Bearer ${CLIENT}` },
    { 'api-key': CLIENT },
    { 'x-api-key': CLIENT },
    { 'x-api-key': CLIENT, 'x-other-gateway-key': CLIENT, 'x-other-authorization': `Bearer ${CLIENT}` },
    { authorization: `Bearer ${CLIENT}`, 'api-key': CLIENT, 'x-api-key': STRANGER },
    { authorization: `Bearer ${STRANGER}`, 'api-key': CLIENT, cookie: CLIENT, 'ocp-apim-subscription-key': CLIENT },
  ]) {
    const response = await fetch(`${running.url}/v1/chat/completions?api-key=${CLIENT}&Subscription-Key=${CLIENT}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: chatBody('gpt-4o'),
    })
    t.equal(response.status, 200)
    const request = sound.resource.requests.at(-1)
    t.equal(request?.headers['api-key'], BACKEND)
    const whole = `${request?.url} ${request?.rawHeaders.join(' ')} ${request?.body.toString()}`
    t.notOk(CLIENT_SECRETS.some(secret => whole.includes(secret)))
    t.notOk(whole.includes(STRANGER))
  }
  t.strictSame(sound.resource.violations, [])
})

t.test('an ephemeral key reaches the resource that issued it, and no log, metric or page', async t => {
  const { sound, running } = await start(t)
  const issued = await fetch(`${running.url}/v1/realtime/client_secrets`, {
    method: 'POST',
    headers: { authorization: `Bearer ${CLIENT}`, 'content-type': 'application/json' },
    body: JSON.stringify({ session: { type: 'realtime', model: 'live' } }),
  })
  t.equal(issued.status, 200)
  const { value } = Object(await issued.json())
  t.match(value, /^ek_/)
  const opened = await openWebSocket(`${running.url}/v1/realtime?model=live`, { authorization: `Bearer ${value}` })
  if ('status' in opened) throw new Error(`refused with ${opened.status}`)
  opened.close()
  await opened.ended
  t.equal(sound.resource.requests.at(-1)?.headers.authorization, `Bearer ${value}`)
  for (const path of [`/v1/${value}`, `/v1/models/${value}`, `/v1/chat/completions?key=${value}`]) {
    const refused = await fetch(`${running.url}${path}`, { headers: { authorization: `Bearer ${value}` } })
    t.ok(refused.status >= 400)
  }
  const seen = await outputs(running)
  t.strictSame(
    seen.filter(({ text }) => text.includes(String(value))).map(({ what, text }) => `${what}: ${text}`),
    [],
  )
})
