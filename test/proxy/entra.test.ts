// Backends that take Entra tokens, from the config's text to the token endpoint and back, over real sockets. Time for
// tokens is moved by the test; the proxy's own runs.
import { createServer, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { Authorization, TokenAuthorizerFactory } from '../../lib/azure/credentials.ts'
import { createTokenAuthorizers, type TokenAuthorizersOptions } from '../../lib/azure/entra.ts'
import { isAvailable } from '../../lib/balancer/health.ts'
import { Secret } from '../../lib/config/secret.ts'
import type { Credential } from '../../lib/config/types.ts'
import { refuseWith } from '../../lib/simulator/faults.ts'
import { createHandClock, type HandClock } from '../fixtures/hand-clock.ts'
import { createSimulatedIdentity, type SimulatedIdentity } from '../fixtures/identity.ts'
import { type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const AUDIENCE = 'https://cognitiveservices.azure.com'
const SCOPE = `${AUDIENCE}/.default`
const SECRET = 'very-s3cret-client-secret'
const ASSERTION = 'head.very-s3cret-assertion.sign'
const PROOF = 'very-s3cret-identity-header'

interface Identity {
  readonly identity: SimulatedIdentity
  readonly url: string
  readonly port: number
  readonly clock: HandClock
  /** What was said of failing and working again. */
  readonly said: string[]
  readonly authorizers: TokenAuthorizerFactory & { close(): void }
}

async function startIdentity(t: Test, options: Partial<TokenAuthorizersOptions> = {}): Promise<Identity> {
  const clock = createHandClock()
  const identity = createSimulatedIdentity({
    clock,
    tenantId: 'tenant-1',
    apps: [{ clientId: 'app-1', secret: SECRET, acceptsAssertion: text => text === ASSERTION }],
    managedIdentities: ['system', 'user-assigned'],
    identityHeader: PROOF,
  })
  const { url, port } = await identity.listen()
  t.teardown(() => identity.close())
  const said: string[] = []
  const authorizers = createTokenAuthorizers({
    clock,
    random: () => 0,
    env: {},
    readFile: async () => `${ASSERTION}\n`,
    onProblem: (message, state) => said.push(`${state}: ${message}`),
    imdsUrl: url,
    ...options,
  })
  t.teardown(() => authorizers.close())
  return { identity, url, port, clock, said, authorizers }
}

function clientSecret(authority: string, secret = SECRET, scope = SCOPE): Credential {
  const clientSecret = new Secret(secret)
  return { kind: 'client_secret', tenantId: 'tenant-1', clientId: 'app-1', clientSecret, authority, scope }
}
function workload(authority: string): Credential {
  return {
    kind: 'workload_identity',
    tenantId: 'tenant-1',
    clientId: 'app-1',
    tokenFile: '/f',
    authority,
    scope: SCOPE,
  }
}
function managed(clientId?: string): Credential {
  return { kind: 'managed_identity', clientId, scope: SCOPE }
}

/** A listener that takes connections and says nothing. */
async function listenSilently(): Promise<{
  readonly port: number
  readonly connected: Promise<void>
  close(): Promise<void>
}> {
  const sockets: Socket[] = []
  const server = createServer()
  const connected = new Promise<void>(resolve => {
    server.on('connection', socket => {
      sockets.push(socket.on('error', () => undefined))
      resolve()
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    connected,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
  }
}

async function ask({ authorizers }: Identity, credential: Credential): Promise<Authorization> {
  return authorizers(credential).authorize()
}

const MODES: readonly (readonly [string, (identity: Identity) => Credential, 'service' | undefined])[] = [
  ['a client secret', ({ url }) => clientSecret(url), undefined],
  ['a federated assertion', ({ url }) => workload(url), undefined],
  ['the metadata service', () => managed(), undefined],
  ['the metadata service, for a user-assigned identity', () => managed('user-assigned'), undefined],
  ['the endpoint of App Service', () => managed(), 'service'],
  ['the endpoint of App Service, for a user-assigned identity', () => managed('user-assigned'), 'service'],
]
for (const [what, credential, service] of MODES) {
  t.test(`${what} gives a token that Azure takes`, async t => {
    const plain = await startIdentity(t)
    const env = { IDENTITY_ENDPOINT: `${plain.url}/msi/token`, IDENTITY_HEADER: PROOF }
    // Where the environment names an endpoint the metadata service is not asked: it is not even there.
    const authorizers = createTokenAuthorizers({
      clock: plain.clock,
      random: () => 0,
      readFile: async () => ASSERTION,
      onProblem: message => plain.said.push(message),
      ...(service === undefined ? { env: {}, imdsUrl: plain.url } : { env, imdsUrl: 'http://127.0.0.1:1' }),
    })
    const given = await ask({ ...plain, authorizers }, credential(plain))
    t.match(given, { kind: 'header', name: 'authorization', value: /^Bearer simulated\./ })
    t.ok(given.kind === 'header' && plain.identity.accepts(given.value.slice('Bearer '.length), AUDIENCE))
    t.same(plain.said, [])
    authorizers.close()
    t.equal(plain.clock.timers(), 0)
  })
}

t.test('a federated token is read anew for each fetch', async t => {
  const files = ['old', ASSERTION]
  const identity = await startIdentity(t, { readFile: async () => files.shift() ?? 'too often' })
  const refused = await ask(identity, workload(identity.url))
  t.match(refused, {
    kind: 'unavailable',
    reason: 'Entra refused the workload identity (AADSTS700213, invalid_client)',
  })
  identity.clock.advance(1_000)
  t.match(await ask(identity, workload(identity.url)), { kind: 'header' })
})

for (const [what, readFile, reason] of [
  [
    'is missing',
    () => Promise.reject(Object.assign(new Error('/f'), { code: 'ENOENT' })),
    'the federated token file cannot be read (ENOENT)',
  ],
  ['is empty', async () => ' \n', 'the federated token file is empty'],
  ['is something else', async () => 'x'.repeat(20_000), 'the federated token file holds no token'],
] as const) {
  t.test(`a federated token file that ${what} is said, and nobody is asked`, async t => {
    const identity = await startIdentity(t, { readFile })
    t.match(await ask(identity, workload(identity.url)), { kind: 'unavailable', reason })
    t.equal(identity.identity.fetches(), 0)
  })
}

for (const [what, credential, reason] of [
  [
    'a wrong secret',
    (url: string) => clientSecret(url, 'wr0ng'),
    'Entra refused the client secret (AADSTS7000215, invalid_client)',
  ],
  [
    'a wrong scope',
    (url: string) => clientSecret(url, SECRET, 'https://other.test/.default'),
    'Entra refused the client secret (AADSTS70011, invalid_scope)',
  ],
  [
    'an identity that is not assigned',
    () => managed('nobody'),
    'the managed identity endpoint refused a token (invalid_request): is the identity assigned here?',
  ],
] as const) {
  t.test(`${what} is said with its codes`, async t => {
    const identity = await startIdentity(t)
    t.match(await ask(identity, credential(identity.url)), { kind: 'unavailable', reason })
    t.equal(identity.said.length, 1)
  })
}

t.test('a token endpoint that goes wrong on the wire has failed, and is named', async t => {
  const identity = await startIdentity(t)
  const { host } = new URL(identity.url)
  const tries = [
    { fault: { kind: 'hang_up' }, reason: `Entra at ${host} does not answer (ECONNRESET)` },
    {
      fault: { kind: 'answer', status: 200, body: 'x'.repeat(70_000) },
      reason: `Entra at ${host} does not answer (oversized response)`,
    },
    {
      fault: { kind: 'answer', status: 200, headers: { 'content-length': '100' }, body: '{}' },
      reason: `Entra at ${host} does not answer (ECONNRESET)`,
    },
    {
      fault: { kind: 'answer', status: 307, headers: { location: '/elsewhere' } },
      reason: 'Entra answered 307, which no token endpoint does',
    },
  ] as const
  for (const { fault, reason } of tries) {
    identity.identity.next(fault)
    t.match(await ask(identity, clientSecret(identity.url)), { kind: 'unavailable', reason })
    identity.clock.advance(60_000)
  }
  t.match(await ask(identity, clientSecret(identity.url)), { kind: 'header' })
  t.equal(identity.said.length, 2, identity.said.join('\n'))
})

t.test('a token endpoint that is silent is given up after ten seconds', async t => {
  const identity = await startIdentity(t)
  identity.identity.next({ kind: 'silence' })
  const fetched = identity.identity.fetched()
  const given = ask(identity, clientSecret(identity.url))
  await fetched
  identity.clock.advance(10_000)
  t.match(await given, { kind: 'unavailable', reason: 'fetching it took longer than 10 s' })
})

t.test('where there is no metadata service the reason is plain', async t => {
  const { port, close } = await listenSilently()
  await close()
  const identity = await startIdentity(t, { imdsUrl: `http://127.0.0.1:${port}` })
  t.match(await ask(identity, managed()), {
    kind: 'unavailable',
    reason: `the managed identity endpoint at 127.0.0.1:${port} does not answer (ECONNREFUSED): does this run on Azure, with an identity assigned?`,
  })
})

t.test('connecting is given up sooner than answering', async t => {
  // A handshake that does not get on is the one connect that hangs on every machine alike.
  const { port, connected, close } = await listenSilently()
  t.teardown(close)
  const identity = await startIdentity(t, { imdsUrl: `https://127.0.0.1:${port}` })
  const given = ask(identity, managed())
  await connected
  identity.clock.advance(2_000)
  t.match(await given, { kind: 'unavailable', reason: /does not answer \(no connection within 2 s\)/ })
})

t.test('an authority over plain http that is not this machine never sees the secret', async t => {
  const identity = await startIdentity(t)
  t.match(await ask(identity, clientSecret(`http://entra.test:${identity.port}`)), {
    kind: 'unavailable',
    reason: 'the authority is plain http: the secret is not sent',
  })
})

t.test('one token per identity and scope, whoever asks', async t => {
  const identity = await startIdentity(t)
  const { authorizers, url } = identity
  t.equal(authorizers(clientSecret(url)), authorizers(clientSecret(url)), 'also after a reload')
  t.not(authorizers(clientSecret(url)), authorizers(clientSecret(url, SECRET, 'https://ai.azure.com/.default')))
  t.not(authorizers(managed()), authorizers(managed('user-assigned')))
})

t.test('reloads with ever new secrets do not pile up, and an old authorizer still works', async t => {
  const identity = await startIdentity(t)
  const old = identity.authorizers(clientSecret(identity.url))
  await old.authorize()
  t.equal(identity.clock.timers(), 1)
  for (let i = 0; i < 256; i++) identity.authorizers(clientSecret(identity.url, `other-${i}`))
  t.equal(identity.clock.timers(), 0, 'it is not refreshed for nobody')
  t.not(identity.authorizers(clientSecret(identity.url)), old)
  t.match(await old.authorize(), { kind: 'header' })
})

t.test('closing lets go of a fetch that hangs', async t => {
  const identity = await startIdentity(t)
  identity.identity.next({ kind: 'silence' })
  const fetched = identity.identity.fetched()
  const given = ask(identity, clientSecret(identity.url))
  await fetched
  identity.authorizers.close()
  t.match(await given, { kind: 'unavailable', reason: 'the proxy is stopping' })
  t.equal(identity.clock.timers(), 0)
})

interface Setting extends Identity {
  readonly resource: StartedResource
  readonly running: RunningProxy
}

function entraText(authority: string, secret: string, scope: string): string {
  return `entra: {tenant_id: tenant-1, client_id: app-1, client_secret: ${secret}, authority: "${authority}", scope: "${scope}"}`
}

/**
 * A proxy whose backend `b1` takes tokens alone; `also` adds a second one with a key, asked when the first cannot be.
 */
async function serve(t: Test, { also = '', secret = SECRET, scope = SCOPE, recovery = '50ms' } = {}): Promise<Setting> {
  const identity = await startIdentity(t)
  const resource = await startResource(t, {
    keys: [],
    acceptsToken: token => identity.identity.accepts(token, AUDIENCE),
    forbidden: [SECRET, 'client-key-1'],
  })
  const text = `
auth: {keys: [{name: tester, key: client-key-1}]}
models:
  gpt-4o:
    backends:
      - {name: b1, endpoint: "${resource.url}", ${entraText(identity.url, secret, scope)}}
${also}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
health_check: {enabled: false, recovery: ${recovery}}
`
  const running = await runProxy(t, text, { tokenAuthorizer: identity.authorizers })
  t.teardown(() => {
    const shown = [...running.lines.map(line => JSON.stringify(line)), ...identity.said].join('\n')
    const secrets = [SECRET, ...identity.identity.tokens]
    // A teardown may not assert; a secret in the log must fail the test all the same.
    if (secrets.some(text => shown.includes(text))) throw new Error(`a secret was shown: ${shown}`)
    if (resource.resource.violations.length > 0) throw new Error(resource.resource.violations.join('\n'))
  })
  return { ...identity, resource, running }
}

async function status(answer: Promise<Response>): Promise<number> {
  const given = await answer
  await given.text()
  return given.status
}

t.test('a request goes out with the token as Bearer, and with no key', async t => {
  const { running, resource, identity } = await serve(t)
  t.equal(await status(running.chat()), 200)
  const [request] = resource.resource.requests
  t.equal(request?.headers.authorization, `Bearer ${identity.tokens[0]}`)
  t.equal(request?.headers['api-key'], undefined)
})

t.test('a hundred requests at once cost one fetch', async t => {
  const { running, identity } = await serve(t)
  identity.next({ kind: 'hold' })
  const fetched = identity.fetched()
  const all = Array.from({ length: 100 }, () => status(running.chat()))
  await fetched
  while (running.proxy.app.inFlight() < 100) await new Promise(resolve => setImmediate(resolve))
  identity.release()
  t.ok((await Promise.all(all)).every(each => each === 200))
  t.equal(identity.fetches(), 1)
})

t.test('a client that leaves does not wait for the token, and those who stay get it', async t => {
  const { running, identity, resource } = await serve(t)
  identity.next({ kind: 'hold' })
  const fetched = identity.fetched()
  const controller = new AbortController()
  const leaving = running.chat({ signal: controller.signal }).catch(() => undefined)
  const staying = status(running.chat())
  await fetched
  while (running.proxy.app.inFlight() < 2) await new Promise(resolve => setImmediate(resolve))
  const logged = running.line('request')
  controller.abort()
  t.match(await logged, { status: 499, error: 'client_closed' })
  await leaving
  identity.release()
  t.equal(await staying, 200)
  t.equal(identity.fetches(), 1)
  t.equal(resource.resource.requests.length, 1)
  t.equal(
    running.lines.find(({ msg }) => String(msg).startsWith('backend ejected')),
    undefined,
    'nobody is blamed',
  )
})

t.test('a drain does not wait for a token endpoint that hangs', async t => {
  const { running, identity } = await serve(t)
  identity.next({ kind: 'hold' })
  const fetched = identity.fetched()
  const given = running.chat()
  await fetched
  await running.proxy.shutdown(0)
  t.equal((await given).status, 503)
  t.equal(running.proxy.app.inFlight(), 0)
})

t.test('a token is refreshed ahead of its end, and the new one is used', async t => {
  const { running, resource, identity, clock } = await serve(t)
  t.equal(await status(running.chat()), 200)
  t.equal(await status(running.chat()), 200)
  const fetched = identity.fetched()
  clock.advance(3_299_000)
  await fetched
  // The refresh was set off by the clock alone; which request is the first to see it depends on the sockets.
  do t.equal(await status(running.chat()), 200)
  while (resource.resource.requests.at(-1)?.headers.authorization !== `Bearer ${identity.tokens[1]}`)
  t.equal(identity.fetches(), 2)
})

t.test('while a token lives, a token endpoint that fails is seen by no client', async t => {
  const { running, identity, clock, said } = await serve(t)
  t.equal(await status(running.chat()), 200)
  identity.always({ kind: 'answer', status: 503 })
  clock.advance(3_299_000)
  for (let i = 0; i < 40; i++) {
    t.equal(await status(running.chat()), 200)
    clock.advance(5_000)
  }
  t.ok(identity.fetches() > 2, 'it was asked again and again')
  t.same(said, [
    'failing: an Entra token for the client secret of app app-1 could not be fetched, the present one serves for 5 more min: Entra is failing (503)',
  ])
})

t.test('an expired token is not sent', async t => {
  const { running, identity, clock, resource } = await serve(t)
  t.equal(await status(running.chat()), 200)
  clock.advance(86_400_000)
  t.equal(await status(running.chat()), 200)
  t.equal(identity.fetches(), 2)
  t.equal(resource.resource.requests.length, 2, 'no 401 in between')
})

t.test('without a token the client hears 502 and the log says why; the resource is not asked', async t => {
  const { running, identity, resource, said } = await serve(t, { secret: 'wr0ng' })
  const answer = await running.chat()
  t.equal(answer.status, 502)
  t.match(await answer.json(), { error: { code: 'upstream_error', message: /credentials/ } })
  t.equal(identity.fetches(), 1)
  t.equal(resource.resource.requests.length, 0)
  t.match(
    running.lines.find(({ msg }) => String(msg).startsWith('backend ejected')),
    {
      level: 'error',
      reason: 'credential_unavailable',
      detail: 'Entra refused the client secret (AADSTS7000215, invalid_client)',
    },
  )
  t.same(said, [
    'failing: an Entra token for the client secret of app app-1 could not be fetched, there is none: Entra refused the client secret (AADSTS7000215, invalid_client)',
  ])
})

t.test('without a token, another backend with a key serves and no client sees an error', async t => {
  const other = await startResource(t, { name: 'other' })
  const also = `      - {name: b2, endpoint: "${other.url}", api_key: azure-key, priority: 2}`
  const { running, identity } = await serve(t, { also })
  identity.always({ kind: 'hang_up' })
  for (let i = 0; i < 20; i++) {
    const answer = await running.chat()
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('x-proxy-backend'), 'b2')
    await answer.text()
  }
  t.equal(identity.fetches(), 1, 'the endpoint is left alone, however many ask')
})

for (const hiccup of [500, 503, 429, 410, 404]) {
  t.test(`a token endpoint that says ${hiccup} is 503 with its wait, and nothing about the config`, async t => {
    const { running, identity, clock, resource } = await serve(t)
    identity.next({ kind: 'answer', status: hiccup })
    // Its second try within the second finds the endpoint left alone: the clock of the tokens stands still.
    const answer = await running.chat()
    t.equal(answer.status, 503)
    t.match(await answer.json(), { error: { code: 'no_backend', message: /token/ } })
    t.equal(answer.headers.get('x-should-retry'), null)
    t.equal(answer.headers.get('retry-after'), '1')
    t.equal(resource.resource.requests.length, 0)
    clock.advance(1_000)
    await until(() => identity.tokens.length === 1)
    t.equal(await status(running.chat()), 200, 'once the endpoint is back, so is the backend')
  })
}

t.test('a token endpoint that fails once costs the first request a second, and nobody an error', async t => {
  const { running, identity, clock } = await serve(t)
  identity.next({ kind: 'answer', status: 503 })
  const fetched = identity.fetched()
  const asked = status(running.chat())
  await fetched
  await until(() => running.lines.some(({ reason }) => reason === 'credential_unavailable'))
  clock.advance(1_000)
  t.equal(await asked, 200)
  t.equal(identity.fetches(), 2)
})

t.test(
  'a backend without a token rests for as long as the token endpoint is left alone, not for its recovery',
  async t => {
    const other = await startResource(t, { name: 'other' })
    const also = `      - {name: b2, endpoint: "${other.url}", api_key: azure-key, priority: 2}`
    const { running, identity, clock } = await serve(t, { also, recovery: '60s' })
    identity.next({ kind: 'answer', status: 503 })
    const first = await running.chat()
    await first.text()
    t.equal(first.headers.get('x-proxy-backend'), 'b2')
    t.match(
      running.lines.find(({ reason }) => reason === 'credential_unavailable'),
      { for_ms: 1_000 },
    )
    clock.advance(60_000)
    const [member] = running.proxy.runtime().pools[0]?.members ?? []
    if (member === undefined) throw new Error('it has a first backend')
    await until(() => isAvailable(member.health, running.proxy.shared.clock.nowMs()))
    const back = await running.chat()
    await back.text()
    t.equal(back.headers.get('x-proxy-backend'), 'b1')
  },
)

t.test('a token that arrives ends the hold of every backend of that identity, whatever is left of it', async t => {
  const { identity, url, clock, authorizers } = await startIdentity(t)
  const resource = await startResource(t, { keys: [], acceptsToken: token => identity.accepts(token, AUDIENCE) })
  const entra = entraText(url, SECRET, SCOPE)
  const text = `
auth: {keys: [{name: tester, key: client-key-1}]}
models:
  gpt-4o: {backends: [{name: b1, endpoint: "${resource.url}", ${entra}}]}
  gpt-4.1: {backends: [{name: b2, endpoint: "${resource.url}", deployment: other, ${entra}}]}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
health_check: {enabled: false}
`
  const running = await runProxy(t, text, { tokenAuthorizer: authorizers })
  identity.always({ kind: 'answer', status: 503, headers: { 'retry-after': '120' } })
  for (const model of ['gpt-4o', 'gpt-4.1']) t.equal(await status(running.chat({ model })), 503)
  const held = running.lines.filter(({ reason }) => reason === 'credential_unavailable')
  t.same(
    held.map(line => line.for_ms),
    [120_000, 120_000],
  )
  identity.clear()
  // The time of the tokens alone goes on: by the proxy's own clock both holds have nearly two minutes left.
  clock.advance(120_000)
  await until(() => running.lines.filter(({ by }) => by === 'token').length === 2)
  const members = running.proxy.runtime().pools.flatMap(pool => pool.members)
  t.ok(members.every(({ health }) => health.state.phase.kind === 'in'))
  t.equal(await status(running.chat()), 200)
  t.equal(identity.tokens.length, 1)
})

t.test('a token that the backend refuses is replaced with the next request, and not again at once', async t => {
  const { running, identity, clock, resource } = await serve(t)
  t.equal(await status(running.chat()), 200)
  resource.resource.next(refuseWith('wrong_key'))
  t.equal(await status(running.chat()), 502)
  t.equal(await status(running.chat()), 200)
  t.equal(identity.fetches(), 2)
  t.equal(resource.resource.requests.at(-1)?.headers.authorization, `Bearer ${identity.tokens[1]}`)
  for (let i = 0; i < 5; i++) {
    resource.resource.next(refuseWith('wrong_key'))
    await status(running.chat())
    await status(running.chat())
  }
  t.equal(identity.fetches(), 2, 'a role that is missing is not mended by tokens')
  clock.advance(1_000)
  t.equal(await status(running.chat()), 200)
  t.equal(identity.fetches(), 3)
})

t.test('a token for another audience is refused by the resource, and that is a mistake in the config', async t => {
  const { running, resource, said } = await serve(t, { scope: 'https://ai.azure.com/.default' })
  for (let i = 0; i < 5; i++) t.equal(await status(running.chat()), 502)
  t.equal(resource.resource.requests.length, 5)
  t.same(said, [], 'Entra gave it')
  t.match(
    running.lines.find(({ msg }) => String(msg).startsWith('backend ejected')),
    { level: 'error', reason: 'credentials_refused' },
  )
})

for (const [what, token] of [
  ['was never given', () => 'made-up'],
  [
    'has ended',
    ({ identity, clock }: Setting) => {
      clock.advance(3_600_000)
      return identity.tokens[0]
    },
  ],
] as const) {
  t.test(`the simulated resource refuses a token that ${what}, as Azure does`, async t => {
    const setting = await serve(t)
    t.equal(await status(setting.running.chat()), 200)
    const given = await fetch(`${setting.resource.url}/openai/v1/models`, {
      headers: { authorization: `Bearer ${token(setting)}` },
    })
    t.equal(given.status, 401)
    t.match(await given.json(), { statusCode: 401, message: /^Unauthorized\. Access token is missing, invalid/ })
  })
}
