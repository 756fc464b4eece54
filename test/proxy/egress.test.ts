// The only way out is a proxy: chat, streams, realtime, probes and tokens go through it, and what it refuses is named
// as its own. Names end in .test, which no resolver knows: what arrives can only have come through the proxy. covers:
// lib/http1/egress.ts, lib/http1/dial.ts, lib/config/egress.ts, lib/server/network.ts
import t, { type Test } from 'tap'
import { createTokenAuthorizers } from '../../lib/azure/entra.ts'
import { createExchange } from '../../lib/azure/entra-http.ts'
import { systemClock } from '../../lib/clock.ts'
import { createTransport } from '../../lib/http1/send.ts'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { type ForwardProxy, startForwardProxy } from '../fixtures/forward-proxy.ts'
import { createSimulatedIdentity } from '../fixtures/identity.ts'
import { jsonAnswer, type RawBackend, startRawBackend } from '../fixtures/raw-backend.ts'
import { CLIENT_KEY, configFor, type RunningProxy, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const NO_PROBES = 'health_check: {enabled: false, recovery: 60s}'
const CERTIFICATE = makeCertificate('backend', { names: ['one.test', 'two.test'] })
const FILES: Readonly<Record<string, string>> = { '/ca.pem': CERTIFICATE.cert, '/key.pem': CERTIFICATE.key }
const readFile = (path: string): string => {
  const text = FILES[path]
  if (text === undefined) throw new Error('no such file')
  return text
}

/** Two https backends with names that only the proxy knows. */
async function behindProxy(
  t: Test,
  { user = '', rest = NO_PROBES, wants }: { user?: string; rest?: string; wants?: string } = {},
): Promise<{ backends: readonly RawBackend[]; out: ForwardProxy; running: RunningProxy }> {
  const backends = [
    await startRawBackend(t, { certificate: CERTIFICATE }),
    await startRawBackend(t, { certificate: CERTIFICATE }),
  ]
  const names = { 'one.test:443': backends[0]?.port ?? 0, 'two.test:443': backends[1]?.port ?? 0 }
  const out = await startForwardProxy(t, wants === undefined ? { names } : { names, wants })
  const proxy = out.url.replace('http://', `http://${user}`)
  const text = configFor([{ url: 'https://one.test' }, { url: 'https://two.test' }], {
    rest: `${rest}\negress: {proxy: "${proxy}", ca: /ca.pem}`,
  })
  return { backends, out, running: await runProxy(t, text, { readFile }) }
}

/** Answers every request to a backend. */
function answering(backend: RawBackend | undefined, answer = jsonAnswer('{"object":"chat.completion"}')): void {
  const serve = async (): Promise<void> => {
    for (;;) (await backend?.next())?.send(answer)
  }
  serve()
}

t.test('https goes through a tunnel of the proxy, which is kept for the next request', async t => {
  const { backends, out, running } = await behindProxy(t)
  for (const backend of backends) answering(backend)
  for (let i = 0; i < 6; i++) t.equal((await running.chat()).status, 200)
  t.strictSame([...out.asked].sort(), ['CONNECT one.test:443', 'CONNECT two.test:443'])
  t.notMatch(backends[0]?.requests[0]?.head, /proxy-/i, 'the backend sees nothing of the proxy')
})

t.test('the URL names user and password, %-escaped; the log does not show them', async t => {
  const { backends, out, running } = await behindProxy(t, { user: 'me:p%40ss%3Aword@', wants: 'me:p@ss:word' })
  for (const backend of backends) answering(backend)
  t.equal((await running.chat()).status, 200)
  t.equal(out.proofs[0], `Basic ${Buffer.from('me:p@ss:word').toString('base64')}`)
  await out.stop()
  running.proxy.shared.transport.retire(running.proxy.runtime().config.models[0]?.backends[0]?.endpoint ?? never())
  for (const text of ['p@ss', 'p%40ss', Buffer.from('me:p@ss:word').toString('base64')]) {
    t.notOk(JSON.stringify(running.lines).includes(text))
  }
})

function never(): never {
  throw new Error('there is one')
}

t.test('plain http goes to the proxy in the absolute form, over kept connections', async t => {
  const { url, port, resource } = await startResource(t)
  const out = await startForwardProxy(t, { names: { 'plain.test:80': port }, wants: 'a:b' })
  const proxy = out.url.replace('http://', 'http://a:b@')
  const text = configFor([{ url: 'http://plain.test' }], { rest: `${NO_PROBES}\negress: {proxy: "${proxy}"}` })
  const running = await runProxy(t, text)
  t.ok(url)
  for (let i = 0; i < 3; i++) t.equal((await running.chat()).status, 200)
  const streamed = await running.chat({ stream: true })
  t.match(await streamed.text(), /data: \[DONE\]\n\n$/)
  t.match(out.asked[0], /^POST http:\/\/plain\.test\/openai\//)
  t.equal(running.proxy.shared.transport.sockets().free, 1, 'one connection to the proxy served all')
  t.equal(resource.requests[0]?.headers['proxy-authorization'], undefined)
})

t.test('realtime goes through a tunnel, also to a plain endpoint', async t => {
  const { port } = await startResource(t, { deployments: [{ name: 'gpt-4o', kind: 'realtime' }] })
  const out = await startForwardProxy(t, { names: { 'plain.test:80': port } })
  const text = configFor([{ url: 'http://plain.test' }], { rest: `${NO_PROBES}\negress: {proxy: "${out.url}"}` })
  const running = await runProxy(t, text)
  const opened = await openWebSocket(`${running.url}/v1/realtime?model=gpt-4o`, {
    authorization: `Bearer ${CLIENT_KEY}`,
  })
  const session = mustBeOpen(opened)
  t.equal((await session.next()).type, 'session.created')
  session.close()
  await session.ended
  t.strictSame(out.asked, ['CONNECT plain.test:80'])
})

t.test('a proxy that is spoken to over TLS is verified like a backend', async t => {
  const { port } = await startResource(t)
  const out = await startForwardProxy(t, { names: { 'plain.test:80': port }, certificate: CERTIFICATE })
  const trusted = configFor([{ url: 'http://plain.test' }], {
    rest: `${NO_PROBES}\negress: {proxy: "${out.url}", ca: /ca.pem}`,
  })
  t.equal((await (await runProxy(t, trusted, { readFile })).chat()).status, 200)
  const strange = configFor([{ url: 'http://plain.test' }], { rest: `${NO_PROBES}\negress: {proxy: "${out.url}"}` })
  const running = await runProxy(t, strange)
  t.equal((await running.chat()).status, 502)
  t.match(running.lines.find(({ msg }) => msg === 'egress proxy fails')?.detail, /spoken to over TLS: .*egress\.ca/)
})

t.test('probes go the same way', async t => {
  const { backends, out, running } = await behindProxy(t)
  for (const backend of backends) answering(backend, jsonAnswer('{"object":"list","data":[]}'))
  await running.proxy.probe()
  t.ok(out.asked.includes('CONNECT one.test:443') && out.asked.includes('CONNECT two.test:443'))
  t.match(backends[0]?.requests[0]?.head, /^GET \/openai\/.*models/)
})

t.test('tokens of Entra are fetched through it; those of the platform never', async t => {
  const clock = systemClock()
  const identity = createSimulatedIdentity({
    clock,
    tenantId: 'tenant-1',
    apps: [{ clientId: 'app-1', secret: 'a-secret', acceptsAssertion: () => false }],
    managedIdentities: ['system'],
    identityHeader: 'proof',
  })
  const { url, port } = await identity.listen()
  t.teardown(() => identity.close())
  const out = await startForwardProxy(t, { names: { 'login.test:80': port } })
  const { egress } = readConfig(configFor([{ url: 'https://one.test' }], { rest: `egress: {proxy: "${out.url}"}` }))
  const transport = createTransport(clock)
  t.teardown(() => transport.close())
  const authorizers = createTokenAuthorizers({
    clock,
    random: () => 0,
    env: {},
    readFile: async () => '',
    onProblem: () => undefined,
    imdsUrl: url,
    exchange: createExchange(transport, () => egress),
  })
  t.teardown(() => authorizers.close())
  const scope = 'https://cognitiveservices.azure.com/.default'
  const platform = await authorizers({ kind: 'managed_identity', clientId: undefined, scope }).authorize()
  t.equal(platform.kind, 'header')
  t.strictSame(out.asked, [])
  // A secret never goes over plain http to another machine; so the way is seen by what the refusal is about.
  const exchange = createExchange(transport, () => egress)
  const request = {
    method: 'GET',
    url: new URL('http://login.test/x'),
    headers: {},
    body: '',
    connectMs: 5_000,
  } as const
  t.equal((await exchange(request, new AbortController().signal)).kind, 'response')
  t.strictSame(out.asked, ['GET http://login.test/x'])
})

const REFUSALS: readonly (readonly [string, Parameters<ForwardProxy['be']>[0] | 'stop', RegExp])[] = [
  ['wants a password', { kind: 'refuse', status: 407 }, /wants a user name and password \(407\)/],
  ['answers with a login page', { kind: 'refuse', status: 302, html: '<html>log in</html>' }, /login page \(302\)/],
  ['says 200 with a page', { kind: 'refuse', status: 200, html: '<html>log in</html>' }, /with a web page/],
  ['speaks something else', { kind: 'garbage' }, /does not answer .* in HTTP/],
  ['hangs up', { kind: 'hang_up' }, /hung up on CONNECT/],
  ['is gone', 'stop', /refuses connections/],
]
for (const [what, mood, words] of REFUSALS) {
  t.test(`a proxy that ${what} is one line in the log, and no backend's fault`, async t => {
    const { out, running } = await behindProxy(t)
    if (mood === 'stop') await out.stop()
    else out.be(mood)
    const answered = await running.chat()
    t.ok([502, 503].includes(answered.status), `${answered.status}`)
    await running.chat()
    const said = running.lines.filter(({ level }) => level === 'warn' || level === 'error')
    t.equal(said.filter(({ msg }) => msg === 'egress proxy fails').length, 1)
    t.match(
      said.find(({ msg }) => msg === 'egress proxy fails'),
      { reason: 'egress_refused', proxy: out.url },
    )
    t.match(String(said.find(({ msg }) => msg === 'egress proxy fails')?.detail), words)
    t.strictSame(
      said.filter(({ msg }) => /^backend /.test(String(msg))),
      [],
      'no line of a backend',
    )
    const gone = running.lines.filter(({ msg, reason }) => msg === 'backend ejected' && reason === 'egress_refused')
    t.strictSame(
      gone.map(({ level }) => level),
      ['debug', 'debug'],
      'both are out, which is worth a line to who looks for it',
    )
  })
}

t.test('a proxy that is silent to everybody is silent itself; one that waits for a host is not', async t => {
  const rest = `${NO_PROBES}\nretry: {connect_timeout: 100ms}`
  const { backends, out, running } = await behindProxy(t, { rest })
  out.be({ kind: 'silence' })
  await running.chat()
  t.match(running.lines.find(({ msg }) => msg === 'egress proxy fails')?.detail, /says nothing to CONNECT/)
  out.be({ kind: 'serve' })
  for (const backend of backends) answering(backend)
  await until(() => running.lines.some(({ msg }) => msg === 'egress proxy fails'))
})

t.test('a host that the proxy refuses concerns that host alone', async t => {
  const { backends, out, running } = await behindProxy(t)
  for (const backend of backends) answering(backend)
  for (const [host, status] of [
    ['one.test:443', 403],
    ['two.test:443', 503],
  ] as const) {
    out.be({ kind: 'refuse', status, html: '<html>no</html>' }, host)
  }
  out.be({ kind: 'serve' }, 'two.test:443')
  for (let i = 0; i < 4; i++) t.equal((await running.chat()).status, 200)
  t.strictSame(
    running.lines.filter(({ msg }) => msg === 'egress proxy fails'),
    [],
  )
  const line = running.lines.find(({ msg }) => /^backend ejected/.test(String(msg)))
  t.match(line, { backend: 'b1', reason: 'egress_refused', level: 'error' })
  t.match(String(line?.detail), /refuses CONNECT one\.test:443 \(403\): its rules must allow this host/)
})

t.test('while the proxy is dead, a backend with another way serves', async t => {
  const { url } = await startResource(t)
  const out = await startForwardProxy(t)
  await out.stop()
  const text = configFor(
    [{ url: 'https://one.test' }, { url: 'https://two.test' }, { url, more: 'priority: 2, proxy: none' }],
    { rest: `${NO_PROBES}\nretry: {max_attempts: 1}\negress: {proxy: "${out.url}"}` },
  )
  const running = await runProxy(t, text)
  const answered = await running.chat()
  t.equal(answered.status, 200)
  t.equal(answered.headers.get('x-proxy-backend'), 'b3')
})

t.test('a proxy that works again is found out while another way serves, probes or not', async t => {
  const { url, port } = await startResource(t)
  const out = await startForwardProxy(t, { names: { 'one.test:80': port, 'two.test:80': port } })
  const clock = createFakeClock()
  const text = configFor(
    [{ url: 'http://one.test' }, { url: 'http://two.test' }, { url, more: 'priority: 2, proxy: none' }],
    { rest: `health_check: {enabled: false, recovery: 30s}\negress: {proxy: "${out.url}"}` },
  )
  const running = await runProxy(t, text, { clock })
  const served = async (): Promise<string | null> => {
    const response = await running.chat()
    await response.arrayBuffer()
    return response.headers.get('x-proxy-backend')
  }
  out.be({ kind: 'refuse', status: 407 })
  for (let i = 0; i < 3; i++) t.equal(await served(), 'b3')
  out.be({ kind: 'serve' })
  clock.advance(29_000)
  t.equal(await served(), 'b3')
  t.equal(out.asked.length, 1, 'it is left alone as long as a backend would be')
  clock.advance(2_000)
  t.not(await served(), 'b3')
  t.not(await served(), 'b3')
  t.same(
    running.lines.map(({ msg }) => msg).filter(msg => /^egress/.test(String(msg))),
    ['egress proxy fails', 'egress proxy works again'],
  )
})

t.test('a proxy that works again is one line, and its backends get their trial at once', async t => {
  const { backends, out, running } = await behindProxy(t)
  for (const backend of backends) answering(backend)
  out.be({ kind: 'refuse', status: 407 })
  await running.chat()
  out.be({ kind: 'serve' })
  // All are out: they are tried all the same.
  t.equal((await running.chat()).status, 200)
  t.equal(running.lines.filter(({ msg }) => msg === 'egress proxy works again').length, 1)
  await (await running.chat()).arrayBuffer()
  await (await running.chat()).arrayBuffer()
  t.strictSame(
    running.lines.filter(({ msg, level }) => /^backend /.test(String(msg)) && level !== 'debug'),
    [],
    'their coming back is no news either',
  )
})

t.test("a backend's own proxy wins over egress.no_proxy, and loopback goes straight unless it says so", async t => {
  const { url, port } = await startResource(t)
  const [general, own] = [
    await startForwardProxy(t, { names: { 'plain.test:80': port } }),
    await startForwardProxy(t, { names: { 'plain.test:80': port } }),
  ]
  const text = configFor(
    [
      { url },
      { url: 'http://plain.test', more: `proxy: "${own.url}", priority: 2` },
      { url: `${url}/`, more: `proxy: "${own.url}", priority: 3, key: x`.replace(', key: x', '') },
    ],
    { rest: `${NO_PROBES}\negress: {proxy: "${general.url}", no_proxy: [plain.test]}` },
  )
  const running = await runProxy(t, text)
  const routes = running.proxy.runtime().config.models[0]?.backends.map(({ endpoint }) => endpoint.route?.proxy?.url)
  t.strictSame(routes, [undefined, own.url, own.url])
  const ids = new Set(running.proxy.runtime().pools[0]?.members.map(({ health }) => health.id))
  t.equal(ids.size, 3, 'one deployment by two ways is two: one may be out while the other is not')
  t.strictSame(general.asked, [])
})
