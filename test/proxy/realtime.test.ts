// Realtime sessions through the proxy: opened at a backend that agrees, tunnelled untouched, ended with a reason.
import net from 'node:net'
import type { Test } from 'tap'
import t from 'tap'
import { fail, hangUp, refuseWith, throttle } from '../../lib/simulator/faults.ts'
import { BEARER, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'
import { handshakeLines, mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

function startRealtime(t: Test): Promise<StartedResource> {
  return startResource(t, { deployments: [{ name: 'gpt-4o', kind: 'realtime' }], forbidden: [CLIENT_KEY] })
}

async function start(
  t: Test,
  count = 2,
): Promise<{ readonly backends: readonly StartedResource[]; readonly proxy: RunningProxy; readonly url: string }> {
  const backends = await Promise.all(Array.from({ length: count }, () => startRealtime(t)))
  const proxy = await runProxy(t, configFor(backends))
  return { backends, proxy, url: `${proxy.url}/v1/realtime?model=gpt-4o` }
}

t.test('a session opens and events go both ways, whole, fragmented and large', async t => {
  const { backends, proxy, url } = await start(t, 1)
  const session = mustBeOpen(await openWebSocket(url, BEARER))
  t.match(await session.next(), { type: 'session.created' })
  t.equal(session.headers['x-proxy-backend'], 'b1')
  t.equal(session.headers['x-proxy-attempts'], '1')

  for (const [text, pieces] of [
    ['short', 1],
    ['in three fragments', 3],
    ['x'.repeat(300_000), 1],
  ] as const) {
    const item = { id: 'item_1', type: 'message', content: [{ type: 'input_text', text }] }
    session.send({ type: 'conversation.item.create', item }, pieces)
    t.match(await session.next(), { type: 'conversation.item.added', item })
    t.match(await session.next(), { type: 'conversation.item.done' })
  }
  t.equal(proxy.proxy.runtime().pools[0]?.members[0]?.health.inFlight, 1, 'a session is in flight while it lasts')
  t.equal(proxy.proxy.app.openStreams(), 1)
  const logged = proxy.line('request')
  session.close()
  t.match(await session.ended, { code: 1000 })
  const line = await logged
  t.match(line, { status: 101, model: 'gpt-4o', backend: 'b1', error: null, stream: true })
  t.ok(Number(line.bytes_in) > 300_000 && Number(line.bytes_out) > 300_000)
  t.same(backends[0]?.resource.violations, [])
})

t.test('every form that clients use opens a session', async t => {
  const { proxy } = await start(t, 1)
  const at = (path: string): string => `${proxy.url}${path}`
  for (const [path, headers] of [
    ['/v1/realtime?model=gpt-4o', { 'api-key': CLIENT_KEY }],
    ['/openai/v1/realtime?model=gpt-4o', BEARER],
    ['/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-4o', { 'api-key': CLIENT_KEY }],
    ['/v1/realtime?model=gpt-4o', { 'sec-websocket-protocol': `realtime, openai-insecure-api-key.${CLIENT_KEY}` }],
  ] as const) {
    const session = mustBeOpen(await openWebSocket(at(path), headers))
    t.match(await session.next(), { type: 'session.created' }, path)
    if ('sec-websocket-protocol' in headers) t.equal(session.headers['sec-websocket-protocol'], 'realtime')
    session.close()
    await session.ended
  }
})

t.test('a dated backend is asked in its own form', async t => {
  const { resource, url } = await startRealtime(t)
  const { url: proxy } = await runProxy(
    t,
    configFor([{ url, more: 'api_version: "2025-04-01-preview", deployment: gpt-4o' }]),
  )
  const session = mustBeOpen(await openWebSocket(`${proxy}/v1/realtime?model=gpt-4o`, BEARER))
  await session.next()
  t.equal(resource.requests[0]?.url, '/openai/realtime?deployment=gpt-4o&api-version=2025-04-01-preview')
  session.close()
  await session.ended
})

t.test('backends that throttle, fail or hang up are passed over until one agrees', async t => {
  for (const fault of [throttle(7), fail(503), hangUp()]) {
    const { backends, url } = await start(t)
    for (const { resource } of backends.slice(0, 1)) resource.always(fault)
    for (let i = 0; i < 2; i++) {
      const session = mustBeOpen(await openWebSocket(url, BEARER))
      t.match(await session.next(), { type: 'session.created' })
      t.equal(session.headers['x-proxy-backend'], 'b2')
      session.close()
      await session.ended
    }
    t.equal(backends[0]?.resource.requests.length, 1, 'and left alone afterwards')
  }
})

t.test('a session that no backend opens is answered with a plain HTTP error', async t => {
  const { backends, url, proxy } = await start(t)
  for (const { resource } of backends) resource.always(throttle(7))
  const throttled = await openWebSocket(url, BEARER)
  t.match(throttled, { status: 429 })
  if ('status' in throttled) {
    t.match(JSON.parse(throttled.body), { error: { code: 'rate_limit_exceeded' } })
    t.equal(throttled.headers['retry-after'], '7')
  }
  for (const [path, headers, status, code] of [
    ['/v1/realtime?model=gpt-4o', {}, 401, 'invalid_api_key'],
    ['/v1/realtime?model=other', BEARER, 404, 'model_not_found'],
    ['/v1/realtime', BEARER, 400, 'missing_model'],
    ['/v1/nothing', BEARER, 404, 'unknown_url'],
    ['/v1/realtime?model=gpt-4o', { ...BEARER, 'sec-websocket-version': '8' }, 400, 'invalid_request'],
  ] as const) {
    const refused = await openWebSocket(`${proxy.url}${path}`, headers)
    t.match(refused, { status }, code)
    if ('status' in refused) t.match(JSON.parse(refused.body), { error: { code } })
  }
})

t.test('asked for without a handshake, it says what it is', async t => {
  const { url } = await start(t, 1)
  const response = await fetch(url, { headers: BEARER })
  t.equal(response.status, 426)
  t.match(await response.json(), { error: { code: 'upgrade_required' } })
})

t.test('of two hundred sessions only those of the backend that went away end, with a reason', async t => {
  const { backends, url } = await start(t)
  const sessions = await Promise.all(
    Array.from({ length: 200 }, async () => mustBeOpen(await openWebSocket(url, BEARER))),
  )
  for (const session of sessions) await session.next()
  const mine = sessions.filter(({ headers }) => headers['x-proxy-backend'] === 'b1')
  const others = sessions.filter(({ headers }) => headers['x-proxy-backend'] === 'b2')
  t.equal(mine.length, 100)
  await backends[0]?.resource.close()
  const ends = await Promise.all(mine.map(({ ended }) => ended))
  t.ok(ends.every(end => end?.code === 1011 && end.reason !== ''))
  for (const session of others) {
    const item = { id: 'still here' }
    session.send({ type: 'conversation.item.create', item })
    t.match(await session.next(), { type: 'conversation.item.added', item })
    session.close()
    await session.ended
  }
})

t.test('a client that leaves takes its backend session along', async t => {
  const { backends, url, proxy } = await start(t, 1)
  const session = mustBeOpen(await openWebSocket(url, BEARER))
  await session.next()
  const logged = proxy.line('request')
  session.socket.destroy()
  t.match(await logged, { status: 101, error: 'client_closed' })
  while ((backends[0]?.resource.connections() ?? 0) > 0) await new Promise(resolve => setImmediate(resolve))
  t.equal(proxy.proxy.runtime().pools[0]?.members[0]?.health.inFlight, 0)
})

t.test('when the proxy goes down after its grace period, sessions are told so', async t => {
  const { url, proxy } = await start(t, 1)
  const session = mustBeOpen(await openWebSocket(url, BEARER))
  await session.next()
  const down = proxy.proxy.shutdown(10)
  t.match(await session.ended, { code: 1001 })
  await down
})

t.test('a key is never shown to a backend, nor a sub-protocol that holds one', async t => {
  const { backends, url } = await start(t, 1)
  const session = mustBeOpen(
    await openWebSocket(url, { 'sec-websocket-protocol': `realtime, openai-insecure-api-key.${CLIENT_KEY}` }),
  )
  await session.next()
  const seen = backends[0]?.resource.requests[0]
  t.notMatch(JSON.stringify(seen?.rawHeaders), CLIENT_KEY)
  t.same(backends[0]?.resource.violations, [])
  session.close()
  await session.ended
})

t.test('an ephemeral key leads back to the resource that issued it, and to nothing else', async t => {
  const { backends, proxy, url } = await start(t)
  const created = await proxy.post('/v1/realtime/client_secrets', { session: { type: 'realtime', model: 'gpt-4o' } })
  t.equal(created.status, 200)
  const { value } = (await created.json()) as { readonly value: string }
  const home = backends.findIndex(({ resource }) => resource.requests.length === 1)
  const ephemeral = { authorization: `Bearer ${value}` }

  for (let i = 0; i < 3; i++) {
    const call = await fetch(`${proxy.url}/v1/realtime/calls`, {
      method: 'POST',
      headers: { ...ephemeral, 'content-type': 'application/sdp' },
      body: 'v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n',
    })
    t.equal(call.status, 201)
    t.match(call.headers.get('location'), /calls\/rtc_/)
    t.match(await call.text(), /^v=0/)
    const session = mustBeOpen(
      await openWebSocket(url, { 'sec-websocket-protocol': `realtime, openai-insecure-api-key.${value}` }),
    )
    await session.next()
    session.close()
    await session.ended
  }
  t.equal(backends[home]?.resource.requests.length, 7)
  t.same(
    backends[1 - home]?.resource.requests.map(({ method, url: asked }) => `${method} ${asked}`),
    [],
  )
  const member = proxy.proxy.runtime().pools[0]?.members[home]
  backends[home]?.resource.next(refuseWith('wrong_key'))
  const expired = await fetch(`${proxy.url}/v1/realtime/calls`, {
    method: 'POST',
    headers: { ...ephemeral, 'content-type': 'application/sdp' },
    body: 'v=0\r\n',
  })
  t.equal(expired.status, 401)
  await expired.arrayBuffer()
  t.equal(member?.health.state.phase.kind, 'in', 'an expired key of a client is no mistake in the config')
  const elsewhere = await fetch(`${proxy.url}/v1/models`, { headers: ephemeral })
  t.equal(elsewhere.status, 401)
  await elsewhere.arrayBuffer()
})

t.test('a request that asks for another protocol is served as the plain request it also is', async t => {
  const { url } = await startResource(t)
  const { port } = await runProxy(t, configFor([{ url }]))
  const body = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
  const answer = await new Promise<string>(resolve => {
    const socket = net.connect(port, '127.0.0.1')
    let text = ''
    socket.on('data', chunk => {
      text += chunk.toString('latin1')
      if (/\r\n\r\n.*\}\s*$/s.test(text)) socket.destroy()
    })
    socket.on('close', () => resolve(text))
    // As Java's HTTP client does on plain connections.
    socket.write(
      `POST /v1/chat/completions HTTP/1.1\r\nHost: proxy\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\nAuthorization: Bearer ${CLIENT_KEY}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 10)}`,
    )
    setImmediate(() => socket.write(body.slice(10)))
  })
  t.match(answer, /^HTTP\/1\.1 200 /)
  t.match(answer, /chat\.completion/)
})

t.test(
  'a session whose backend breaks off inside a frame is cut: no close frame is written into the frame',
  async t => {
    const backend = await startRawBackend(t)
    const proxy = await runProxy(t, configFor([{ url: backend.url }], { rest: NO_PROBES }))
    const client = connect(proxy)
    client.send(handshakeLines('/v1/realtime?model=gpt-4o', CLIENT_KEY))
    const { socket } = await backend.next()
    const whole = Buffer.concat([Buffer.from([0x81, 5]), Buffer.from('whole')])
    const part = Buffer.concat([Buffer.from([0x81, 100]), Buffer.from('part')])
    // The key of the answer is the one of RFC 6455, section 1.3.
    socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n',
    )
    socket.write(Buffer.concat([whole, part]))
    await client.until('part')
    socket.destroy()
    const came = await client.closed
    t.equal(came.slice(came.indexOf('\r\n\r\n') + 4), Buffer.concat([whole, part]).toString('latin1'))
  },
)
