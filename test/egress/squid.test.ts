// The only way out is squid, as Debian packages it: names that no resolver knows, a password, rules, its death and its
// return. `.ci/run` installs it; where it cannot be installed these tests say so and are left out. covers:
// lib/http1/egress.ts, lib/http1/dial.ts, lib/commands/probe.ts
import t, { type Test } from 'tap'
import { createTokenAuthorizers } from '../../lib/azure/entra.ts'
import { createExchange } from '../../lib/azure/entra-http.ts'
import { systemClock } from '../../lib/clock.ts'
import { createTransport } from '../../lib/http1/send.ts'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createSimulatedIdentity } from '../fixtures/identity.ts'
import { CLIENT_KEY, configFor, type RunningProxy, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { ask, CHAT, runToEnd, startProxy } from '../fixtures/spawn-proxy.ts'
import { type Squid, squidPath, startSquid, startTlsFront } from '../fixtures/squid.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const CERTIFICATE = makeCertificate('inside', { names: ['one.test', 'two.test', 'live.test', 'login.test'] })
const NO_PROBES = 'health_check: {enabled: false, recovery: 60s}'
const readFile = (): string => CERTIFICATE.cert
const options = squidPath() === undefined ? { skip: 'squid is not installed (the package "squid")' } : {}

interface Inside {
  readonly squid: Squid
  /** Ports behind TLS, by name. */
  readonly ports: Readonly<Record<'one' | 'two' | 'live', number>>
}

/** Two chat resources and one for realtime, with names that squid alone knows. */
async function inside(
  t: Test,
  more: { user?: readonly [string, string]; forbidden?: readonly string[] } = {},
): Promise<Inside> {
  const [one, two] = [await startResource(t), await startResource(t)]
  const live = await startResource(t, { deployments: [{ name: 'gpt-live', kind: 'realtime' }] })
  const front = (port: number): Promise<number> => startTlsFront(t, port, CERTIFICATE)
  const ports = { one: await front(one.port), two: await front(two.port), live: await front(live.port) }
  const squid = await startSquid(t, { names: ['one.test', 'two.test', 'live.test', 'login.test'], ...more })
  return { squid, ports }
}

const modelsOf = ({ ports }: Inside): string => `
models:
  gpt-4o:
    backends:
      - {name: one, endpoint: "https://one.test:${ports.one}", api_key: azure-key}
      - {name: two, endpoint: "https://two.test:${ports.two}", api_key: azure-key}
  gpt-live:
    backends: [{name: live, endpoint: "https://live.test:${ports.live}", api_key: azure-key}]
auth: {keys: [{name: tester, key: ${CLIENT_KEY}}]}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
`

function running(t: Test, world: Inside, { user = '', rest = NO_PROBES } = {}): Promise<RunningProxy> {
  const proxy = world.squid.url.replace('http://', `http://${user}`)
  return runProxy(t, `${modelsOf(world)}egress: {proxy: "${proxy}", ca: /ca.pem}\n${rest}\n`, { readFile })
}

t.test('chat, streams, realtime and probes go through squid, with its password', options, async t => {
  const world = await inside(t, { user: ['gateway', 'p@ss word'] })
  const proxy = await running(t, world, { user: 'gateway:p%40ss%20word@' })
  const answered = await proxy.chat()
  t.equal(answered.status, 200)
  t.match(await answered.json(), { object: 'chat.completion' })
  t.match(await (await proxy.chat({ stream: true })).text(), /data: \[DONE\]\n\n$/)
  const opened = await openWebSocket(`${proxy.url}/v1/realtime?model=gpt-live`, {
    authorization: `Bearer ${CLIENT_KEY}`,
  })
  const session = mustBeOpen(opened)
  t.equal((await session.next()).type, 'session.created')
  session.close()
  await session.ended
  await proxy.proxy.probe()
  t.strictSame(
    proxy.lines.filter(({ level }) => level === 'warn' || level === 'error'),
    [],
  )

  const wrong = await running(t, world, { user: 'gateway:wrong@' })
  t.equal((await wrong.chat()).status >= 500, true)
  const lines = wrong.lines.filter(({ msg }) => msg === 'egress proxy fails')
  t.equal(lines.length, 1)
  t.match(String(lines[0]?.detail), /does not accept the user name and password of its URL \(407\)/)
})

t.test('Entra tokens come through squid', options, async t => {
  const clock = systemClock()
  const identity = createSimulatedIdentity({
    clock,
    tenantId: 'tenant-1',
    apps: [{ clientId: 'app-1', secret: 'a-secret', acceptsAssertion: () => false }],
    managedIdentities: [],
    identityHeader: 'proof',
  })
  const { port } = await identity.listen()
  t.teardown(() => identity.close())
  const front = await startTlsFront(t, port, CERTIFICATE)
  const squid = await startSquid(t, { names: ['login.test'] })
  const authority = `https://login.test:${front}`
  const text = configFor([], { rest: `egress: {proxy: "${squid.url}", ca: /ca.pem}` }).replace(
    'backends:\n',
    `backends:\n      - {endpoint: "https://one.test", entra: {tenant_id: tenant-1, client_id: app-1, client_secret: a-secret, authority: "${authority}"}}\n`,
  )
  const config = readConfig(text, readFile)
  const credential = config.models[0]?.backends[0]?.credential
  if (credential === undefined) throw new Error('no credential')
  const transport = createTransport(clock)
  const authorizers = createTokenAuthorizers({
    clock,
    random: () => 0,
    env: {},
    readFile: async () => '',
    onProblem: () => undefined,
    exchange: createExchange(transport, () => config.egress),
  })
  t.teardown(() => {
    authorizers.close()
    transport.close()
  })
  t.match(await authorizers(credential).authorize(), { kind: 'header', name: 'authorization' })
})

t.test('a thousand streams through squid, a hundred at a time, cost no error', options, async t => {
  const world = await inside(t)
  const proxy = await running(t, world, { rest: `${NO_PROBES}\nlogging: {level: warn}` })
  let left = 1_000
  let whole = 0
  const client = async (): Promise<void> => {
    while (left-- > 0) {
      const answered = await proxy.chat({ stream: true })
      const text = await answered.text()
      if (answered.status === 200 && text.endsWith('data: [DONE]\n\n')) whole++
    }
  }
  await Promise.all(Array.from({ length: 100 }, client))
  t.equal(whole, 1_000)
  t.strictSame(
    proxy.lines.filter(({ level }) => level === 'warn' || level === 'error'),
    [],
  )
})

t.test('squid dies: one line, not one a backend; it comes back: one line, and all serve again', options, async t => {
  const world = await inside(t)
  const proxy = await running(t, world)
  t.equal((await proxy.chat()).status, 200)
  await world.squid.kill()
  await until(() => proxy.proxy.shared.transport.sockets().free === 0)
  for (let i = 0; i < 5; i++) t.ok((await proxy.chat()).status >= 500)
  const loud = (): readonly unknown[] =>
    proxy.lines
      .filter(({ level, msg }) => (level === 'warn' || level === 'error') && !/^(model|request$)/.test(String(msg)))
      .map(({ msg, reason }) => [msg, reason])
  t.strictSame(loud(), [['egress proxy fails', 'egress_refused']])
  await world.squid.start()
  for (let i = 0; i < 4; i++) t.equal((await proxy.chat()).status, 200)
  t.equal(proxy.lines.filter(({ msg }) => msg === 'egress proxy works again').length, 1)
  t.strictSame(loud().length, 1)
})

t.test('a host that squid’s rules refuse is out alone', options, async t => {
  const world = await inside(t, { forbidden: ['one.test'] })
  const proxy = await running(t, world)
  for (let i = 0; i < 4; i++) {
    const answered = await proxy.chat()
    t.equal(answered.status, 200)
    t.equal(answered.headers.get('x-proxy-backend'), 'two')
  }
  const line = proxy.lines.find(({ msg }) => /^backend ejected/.test(String(msg)))
  t.match(line, { backend: 'one', reason: 'egress_refused' })
  t.match(String(line?.detail), /refuses CONNECT one\.test:\d+ \(403\)/)
})

t.test('the program itself takes the proxy from the environment, for requests and for --probe', options, async t => {
  const world = await inside(t)
  const files = { 'ca.pem': CERTIFICATE.cert }
  const env = { HTTPS_PROXY: world.squid.url, NO_PROXY: 'unrelated.example', NODE_EXTRA_CA_CERTS: 'ca.pem' }
  const config = `${modelsOf(world)}egress: {ca: ca.pem}\n`
  const program = await startProxy(t, config, { files, env })
  t.equal((await ask(program.port, { body: CHAT })).status, 200)
  const probe = await runToEnd(t, ['--probe'], { files: { ...files, 'config.yaml': config }, env })
  t.match(probe.stdout, / one .* yes +yes .*ok\n/)
  t.match(
    probe.stdout,
    /1 of 3 backends is not well; by the proxy http:\/\/127\.0\.0\.1:\d+: operation_not_supported \(live\)\.$/,
  )
  await world.squid.kill()
  const dead = await runToEnd(t, ['--probe', '--json'], { files: { ...files, 'config.yaml': config }, env })
  t.equal(dead.code, 1)
  const found: readonly { readonly reason?: string }[] = JSON.parse(dead.stdout)
  t.ok(found.every(({ reason }) => reason === 'egress_refused'))
})
