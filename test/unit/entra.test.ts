// Requests of each Entra identity, the meaning of responses, and when a token is fetched again: decisions, on a clock
// that the test moves.
import t, { type Test } from 'tap'
import type { Authorization } from '../../lib/azure/credentials.ts'
import {
  type HttpResponse,
  IMDS_URL,
  maySendPlainly,
  readTokenResponse,
  serviceFrom,
  type TokenCredential,
  type TokenResult,
  tokenRequest,
} from '../../lib/azure/entra-requests.ts'
import { backOffMs, createTokenKeeper, refreshAfterMs, type TokenChange } from '../../lib/azure/entra-token.ts'
import { Secret } from '../../lib/config/secret.ts'
import { createHandClock, type HandClock } from '../fixtures/hand-clock.ts'

const SCOPE = 'https://cognitiveservices.azure.com/.default'
const SECRET: TokenCredential = {
  kind: 'client_secret',
  tenantId: 'tenant-1',
  clientId: 'app-1',
  clientSecret: new Secret('s3cret&+ ='),
  authority: 'https://login.microsoftonline.com',
  scope: SCOPE,
}
const WORKLOAD: TokenCredential = {
  kind: 'workload_identity',
  tenantId: 'tenant-1',
  clientId: 'app-1',
  tokenFile: '/tokens/federated',
  authority: 'https://login.microsoftonline.us',
  scope: SCOPE,
}
const MANAGED: TokenCredential = { kind: 'managed_identity', clientId: undefined, scope: SCOPE }
const PLATFORM = { imdsUrl: IMDS_URL, service: undefined }

t.test('a client secret is sent as a form, with everything in it escaped', async t => {
  const { method, url, headers, body } = tokenRequest(SECRET, PLATFORM, '')
  t.equal(method, 'POST')
  t.equal(url.href, 'https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token')
  t.equal(headers['content-type'], 'application/x-www-form-urlencoded')
  t.same(Object.fromEntries(new URLSearchParams(body)), {
    grant_type: 'client_credentials',
    client_id: 'app-1',
    client_secret: 's3cret&+ =',
    scope: SCOPE,
  })
})

t.test('a tenant cannot lead to another path', async t => {
  const { url } = tokenRequest({ ...SECRET, tenantId: '../x?y' }, PLATFORM, '')
  t.equal(url.pathname, '/..%2Fx%3Fy/oauth2/v2.0/token')
  t.equal(url.search, '')
})

t.test('a workload identity sends its federated token instead of a secret', async t => {
  const { url, body } = tokenRequest(WORKLOAD, PLATFORM, 'header.payload.signature')
  t.equal(url.href, 'https://login.microsoftonline.us/tenant-1/oauth2/v2.0/token')
  t.same(Object.fromEntries(new URLSearchParams(body)), {
    grant_type: 'client_credentials',
    client_id: 'app-1',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: 'header.payload.signature',
    scope: SCOPE,
  })
})

t.test('a managed identity asks the metadata service, for the scope without /.default', async t => {
  const { method, url, headers, body } = tokenRequest(MANAGED, PLATFORM, '')
  t.equal(method, 'GET')
  t.equal(url.origin + url.pathname, 'http://169.254.169.254/metadata/identity/oauth2/token')
  t.same(Object.fromEntries(url.searchParams), {
    'api-version': '2018-02-01',
    resource: 'https://cognitiveservices.azure.com',
  })
  t.same(headers, { metadata: 'true' })
  t.equal(body, '')
})

t.test(
  'a managed identity asks App Service where its environment names it, and keeps the query it came with',
  async t => {
    const service = serviceFrom({ IDENTITY_ENDPOINT: 'http://localhost:4141/msi/token?a=b', IDENTITY_HEADER: 'proof' })
    const { url, headers } = tokenRequest({ ...MANAGED, clientId: 'mine' }, { imdsUrl: IMDS_URL, service }, '')
    t.equal(url.origin + url.pathname, 'http://localhost:4141/msi/token')
    t.same(Object.fromEntries(url.searchParams), {
      a: 'b',
      'api-version': '2019-08-01',
      resource: 'https://cognitiveservices.azure.com',
      client_id: 'mine',
    })
    t.same(headers, { 'x-identity-header': 'proof' })
  },
)

for (const [what, env] of [
  ['the header is missing', { IDENTITY_ENDPOINT: 'http://localhost:1/x' }],
  ['the endpoint is missing', { IDENTITY_HEADER: 'proof' }],
  ['the endpoint is empty', { IDENTITY_ENDPOINT: '', IDENTITY_HEADER: 'proof' }],
  ['the endpoint is no URL', { IDENTITY_ENDPOINT: 'http://', IDENTITY_HEADER: 'proof' }],
  ['the endpoint is a file', { IDENTITY_ENDPOINT: 'file:///etc/passwd', IDENTITY_HEADER: 'proof' }],
  ['the header would break the request', { IDENTITY_ENDPOINT: 'http://localhost:1/x', IDENTITY_HEADER: 'a\r\nb: c' }],
] as const) {
  t.test(`the environment names no platform endpoint when ${what}`, async t => {
    t.equal(serviceFrom(env), undefined)
  })
}

t.test('secrets go over plain http to this machine alone', async t => {
  for (const url of ['http://127.0.0.1:1/', 'http://localhost/', 'http://[::1]:80/'])
    t.ok(maySendPlainly(SECRET, new URL(url)), url)
  for (const url of ['http://10.0.0.1/', 'http://login.microsoftonline.com/', 'http://localhost.evil.test/'])
    t.notOk(maySendPlainly(SECRET, new URL(url)), url)
  t.ok(maySendPlainly(MANAGED, new URL(IMDS_URL)))
})

const EPOCH_MS = 1_767_225_600_000
function answer(value: unknown, status = 200, headers: HttpResponse['headers'] = {}): HttpResponse {
  return { status, headers, body: typeof value === 'string' ? value : JSON.stringify(value) }
}
const read = (credential: TokenCredential, given: HttpResponse): TokenResult =>
  readTokenResponse(credential, given, EPOCH_MS)

for (const [what, value, livesMs] of [
  ['expires_in as a number', { expires_in: 3599 }, 3_599_000],
  ['expires_in as a string', { expires_in: '86399' }, 86_399_000],
  ['expires_on alone', { expires_on: '1767229200' }, 3_600_000],
  ['both: the relative one, whatever this clock says', { expires_in: '60', expires_on: '1' }, 60_000],
  ['an expires_in that is no number: the absolute one', { expires_in: 'soon', expires_on: '1767225660' }, 60_000],
  ['more than a day: a day', { expires_in: 1e9 }, 86_400_000],
] as const) {
  t.test(`a token's life is read from ${what}`, async t => {
    const given = read(MANAGED, answer({ access_token: 'a.b-c_d~+/=', token_type: 'Bearer', ...value }))
    t.same(given, { kind: 'token', token: 'a.b-c_d~+/=', livesMs })
  })
}

const TOKEN = { access_token: 'token', expires_in: 3600 }
for (const [what, given, reason] of [
  ['no JSON', answer('<html>'), 'Entra answered 200 without a token'],
  ['JSON that is no object', answer('[1]'), 'Entra answered 200 without a token'],
  ['no token', answer({ expires_in: 1 }), 'Entra answered 200 without a token'],
  ['a line break', answer({ ...TOKEN, access_token: 'a\r\nb: c' }), 'Entra gave a token that cannot stand in a header'],
  ['an empty token', answer({ ...TOKEN, access_token: '' }), 'Entra gave a token that cannot stand in a header'],
  [
    'a huge token',
    answer({ ...TOKEN, access_token: 'x'.repeat(16_385) }),
    'Entra gave a token that cannot stand in a header',
  ],
  ['another kind of token', answer({ ...TOKEN, token_type: 'pop' }), 'Entra gave a token that is no Bearer token'],
  ['no lifetime', answer({ access_token: 'x' }), 'Entra gave a token without saying how long it lives'],
  [
    'a past life',
    answer({ access_token: 'x', expires_on: '1767225000' }),
    "Entra gave a token that is already over: is this machine's clock right?",
  ],
  ['a redirect', answer('', 302, { location: 'http://evil.test' }), 'Entra answered 302, which no token endpoint does'],
] as const) {
  t.test(`an answer with ${what} is no token, and is called what it is`, async t => {
    t.same(read(SECRET, given), { kind: 'failed', reason, waitMs: undefined })
  })
}

const REFUSAL = {
  error: 'invalid_client',
  error_description: 'AADSTS7000215: Invalid client secret provided: s3cret&+ =. Trace ID: 1',
  error_codes: [7000215],
}
for (const [what, credential, given, reason] of [
  ['a wrong secret', SECRET, answer(REFUSAL, 401), 'Entra refused the client secret (AADSTS7000215, invalid_client)'],
  [
    'the number in the text alone',
    SECRET,
    answer({ ...REFUSAL, error_codes: undefined }, 401),
    'Entra refused the client secret (AADSTS7000215, invalid_client)',
  ],
  [
    'a wrong assertion',
    WORKLOAD,
    answer({ error: 'invalid_client', error_codes: [700213] }, 401),
    'Entra refused the workload identity (AADSTS700213, invalid_client)',
  ],
  ['no JSON', SECRET, answer('nope', 403), 'Entra refused the client secret (403)'],
  [
    'codes that are something else',
    SECRET,
    answer({ error: 'x y\nz', error_codes: ['a'] }, 400),
    'Entra refused the client secret (400)',
  ],
  [
    'a missing identity',
    MANAGED,
    answer({ error: 'invalid_request', error_description: 'Identity not found' }, 400),
    'the managed identity endpoint refused a token (invalid_request): is the identity assigned here?',
  ],
  ['an outage', SECRET, answer('', 503), 'Entra is failing (503)'],
  ['a metadata service that restarts', MANAGED, answer('', 410), 'the managed identity endpoint is failing (410)'],
  [
    'a metadata service that is not there yet',
    MANAGED,
    answer('', 404),
    'the managed identity endpoint is failing (404)',
  ],
  ['throttling', MANAGED, answer('', 429), 'the managed identity endpoint is throttling (429)'],
] as const) {
  t.test(`of ${what} the codes are said and nothing else of the answer`, async t => {
    const isPermanent = [400, 401, 403].includes(given.status)
    t.same(
      read(credential, given),
      { kind: 'failed', reason, waitMs: undefined, ...(isPermanent ? { permanent: true } : {}) },
      'and whether it takes another config',
    )
  })
}

t.test('a failing answer may say how long to stay away', async t => {
  t.match(read(SECRET, answer('', 429, { 'retry-after': '7' })), { kind: 'failed', waitMs: 7_000 })
  t.match(read(SECRET, answer('', 503, { 'retry-after': new Date(EPOCH_MS + 9_000).toUTCString() })), { waitMs: 9_000 })
})

t.test('a token is refreshed five minutes before its end, a short one at its half, a long one at its half', async t => {
  const latest = (): number => 0
  t.equal(refreshAfterMs(3_600_000, latest), 3_300_000)
  t.equal(refreshAfterMs(60_000, latest), 30_000)
  t.equal(refreshAfterMs(86_400_000, latest), 43_200_000)
  t.equal(
    refreshAfterMs(3_600_000, () => 0.5),
    2_970_000,
    'earlier by chance',
  )
})

t.test('back-off doubles from one second to sixty, and a named wait is kept and never cut short', async t => {
  const none = (): number => 0
  t.same(
    [1, 2, 3, 6, 7, 8, 5_000].map(failures => backOffMs(failures, undefined, none)),
    [1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000],
  )
  t.equal(
    backOffMs(1, undefined, () => 0.5),
    900,
  )
  t.equal(backOffMs(1, 7_000, none), 7_000)
  t.equal(
    backOffMs(1, 7_000, () => 0.5),
    7_700,
  )
  t.equal(backOffMs(7, 7_000, none), 60_000)
  t.equal(backOffMs(1, 86_400_000, none), 300_000)
})

interface Keeping {
  readonly clock: HandClock
  readonly changes: TokenChange[]
  /** Fetches that nobody has answered yet. */
  readonly open: ((answer: TokenResult | Error) => void)[]
  readonly fetches: () => number
  readonly closing: AbortController
  authorize(): Authorization | Promise<Authorization>
  refused?(authorization: Authorization): void
  rest(): void
  /** Answers the oldest open fetch and waits until that is taken in. */
  reply(answer: TokenResult | Error): Promise<void>
  token(name: string, livesMs?: number): Promise<void>
  failure(reason?: string, waitMs?: number): Promise<void>
}

function keep(): Keeping {
  const clock = createHandClock()
  const changes: TokenChange[] = []
  const open: Keeping['open'] = []
  const closing = new AbortController()
  let fetches = 0
  const keeper = createTokenKeeper({
    clock,
    random: () => 0,
    closing: closing.signal,
    onChange: change => changes.push(change),
    fetch: () => {
      fetches++
      return new Promise((resolve, reject) =>
        open.push(given => (given instanceof Error ? reject(given) : resolve(given))),
      )
    },
  })
  const reply = async (given: TokenResult | Error): Promise<void> => {
    open.shift()?.(given)
    await settled()
  }
  return {
    clock,
    changes,
    open,
    closing,
    fetches: () => fetches,
    ...keeper,
    reply,
    token: (token, livesMs = 3_600_000) => reply({ kind: 'token', token, livesMs }),
    failure: (reason = 'Entra is failing (503)', waitMs) => reply({ kind: 'failed', reason, waitMs }),
  }
}

/** Lets everything run that waits for nothing but its turn. */
function settled(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}

const bearer = (token: string) => ({ kind: 'header', name: 'authorization', value: `Bearer ${token}` })

async function kept(t: Test, livesMs?: number): Promise<Keeping> {
  const keeping = keep()
  const first = keeping.authorize()
  await keeping.token('one', livesMs)
  t.same(await first, bearer('one'))
  return keeping
}

t.test('nothing is fetched before somebody asks, and then once for all who ask', async t => {
  const keeping = keep()
  keeping.clock.advance(3_600_000)
  t.equal(keeping.fetches(), 0)
  const all = Array.from({ length: 50 }, () => keeping.authorize())
  t.ok(all.every(given => given instanceof Promise))
  await keeping.token('one')
  for (const given of await Promise.all(all)) t.same(given, bearer('one'))
  t.equal(keeping.fetches(), 1)
})

t.test('a token that is there is given at once, the very same object each time', async t => {
  const keeping = await kept(t)
  const given = keeping.authorize()
  t.notOk(given instanceof Promise)
  t.equal(keeping.authorize(), given)
  t.equal(keeping.fetches(), 1)
})

t.test('a used token is refreshed by the timer five minutes before its end, and nobody waits', async t => {
  const keeping = await kept(t)
  keeping.authorize()
  keeping.clock.advance(3_299_000)
  t.equal(keeping.fetches(), 1)
  keeping.clock.advance(1_000)
  t.equal(keeping.fetches(), 2)
  t.same(keeping.authorize(), bearer('one'), 'while the new one is fetched')
  await keeping.token('two')
  t.same(keeping.authorize(), bearer('two'))
})

t.test('of a token that a backend has refused one request fetches the next, and all others wait for it', async t => {
  const keeping = await kept(t)
  const given = keeping.authorize()
  if (given instanceof Promise) throw new Error('it is there')
  keeping.refused?.(given)
  const all = Array.from({ length: 50 }, () => keeping.authorize())
  t.ok(all.every(next => next instanceof Promise))
  t.equal(keeping.fetches(), 2)
  await keeping.token('two')
  for (const next of await Promise.all(all)) t.same(next, bearer('two'))
  t.same(keeping.authorize(), bearer('two'))
})

t.test('where no timer fires, the request that finds refreshing due sets it off and goes on', async t => {
  const keeping = await kept(t)
  keeping.rest()
  t.equal(keeping.clock.timers(), 0)
  keeping.clock.advance(3_300_000)
  t.equal(keeping.fetches(), 1)
  t.same(keeping.authorize(), bearer('one'))
  t.equal(keeping.fetches(), 2)
  t.same(keeping.authorize(), bearer('one'))
  t.equal(keeping.fetches(), 2, 'once')
  await keeping.token('two')
  t.same(keeping.authorize(), bearer('two'))
})

t.test('an identity that nobody uses any more is not refreshed for ever', async t => {
  const keeping = await kept(t)
  keeping.clock.advance(86_400_000)
  t.equal(keeping.fetches(), 1)
  t.equal(keeping.clock.timers(), 0)
  const again = keeping.authorize()
  await keeping.token('two')
  t.same(await again, bearer('two'))
})

t.test('a failing refresh is not seen while the token lives, and is tried again with growing waits', async t => {
  const keeping = await kept(t)
  keeping.authorize()
  keeping.clock.advance(3_300_000)
  const began: number[] = []
  for (let second = 0; second < 290; second++) {
    const before = keeping.fetches()
    if (keeping.open.length > 0) await keeping.failure()
    t.same(keeping.authorize(), bearer('one'))
    keeping.clock.advance(1_000)
    if (keeping.fetches() > before) began.push(second + 1)
  }
  t.same(began, [1, 3, 7, 15, 31, 63, 123, 183, 243])
  t.same(keeping.changes, [{ kind: 'failing', reason: 'Entra is failing (503)', leftMs: 298_000 }], 'said once')
  keeping.clock.advance(20_000)
  t.match(keeping.authorize(), { kind: 'unavailable', reason: 'Entra is failing (503)' }, 'it has ended')
})

t.test('working again is said once, and the waits begin anew', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  await keeping.failure()
  t.match(await first, { kind: 'unavailable', reason: 'Entra is failing (503)' })
  t.match(keeping.changes, [{ kind: 'failing', leftMs: 0 }])
  keeping.clock.advance(1_000)
  const second = keeping.authorize()
  await keeping.token('one', 60_000)
  t.same(await second, bearer('one'))
  t.same(keeping.changes.slice(1), [{ kind: 'working' }])
  keeping.authorize()
  keeping.clock.advance(30_000)
  await keeping.failure()
  keeping.authorize()
  keeping.clock.advance(1_000)
  t.equal(keeping.fetches(), 4)
})

t.test('while the endpoint is left alone everybody is told at once, and is not queued', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  await keeping.failure('Entra is throttling (429)', 20_000)
  await first
  for (let i = 0; i < 19; i++) {
    t.match(keeping.authorize(), { kind: 'unavailable', reason: 'Entra is throttling (429)' })
    keeping.clock.advance(1_000)
  }
  t.equal(keeping.fetches(), 1)
  keeping.clock.advance(1_000)
  t.equal(keeping.fetches(), 2, 'the timer tries again')
  t.match(keeping.authorize(), { kind: 'unavailable', reason: 'Entra is throttling (429)' }, 'and nobody waits for it')
  await keeping.token('one')
  t.same(keeping.authorize(), bearer('one'))
})

t.test('after a failure that nobody asked about since, the next request tries and waits for it', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  await keeping.failure()
  await first
  keeping.clock.advance(600_000)
  t.equal(keeping.fetches(), 1)
  const next = keeping.authorize()
  t.ok(next instanceof Promise)
  await keeping.token('one')
  t.same(await next, bearer('one'))
})

t.test('a fetch that takes over ten seconds has failed, and what it brings later is not taken', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  keeping.clock.advance(10_000)
  t.match(await first, { kind: 'unavailable', reason: 'fetching it took longer than 10 s' })
  await keeping.token('late')
  t.match(keeping.authorize(), { kind: 'unavailable' })
})

t.test('a fetch that throws has failed and shows nothing of the error', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  await keeping.reply(new Error('with a s3cret'))
  t.match(await first, { kind: 'unavailable', reason: 'fetching it went wrong' })
})

t.test('a machine that slept does not trust a token that ended meanwhile', async t => {
  const keeping = await kept(t)
  keeping.clock.stepWall(3_599_000)
  const next = keeping.authorize()
  t.ok(next instanceof Promise)
  await keeping.token('two')
  t.same(await next, bearer('two'))
})

t.test('a wall clock that is set back does not stretch a token’s life', async t => {
  const keeping = await kept(t)
  keeping.clock.stepWall(-86_400_000)
  keeping.clock.advance(3_598_001)
  t.ok(keeping.authorize() instanceof Promise)
})

t.test('a token that took long to come counts its life from the asking', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  keeping.clock.advance(9_000)
  await keeping.token('one', 12_000)
  await first
  keeping.rest()
  t.same(keeping.authorize(), bearer('one'))
  keeping.clock.advance(1_000)
  await keeping.failure()
  t.match(keeping.authorize(), { kind: 'unavailable' })
})

t.test('closing tells those who wait, begins nothing more and leaves no timer', async t => {
  const keeping = keep()
  const first = keeping.authorize()
  keeping.closing.abort()
  t.match(await first, { kind: 'unavailable', reason: 'the proxy is stopping' })
  t.match(keeping.authorize(), { kind: 'unavailable', reason: 'the proxy is stopping' })
  t.equal(keeping.fetches(), 1)
  t.equal(keeping.clock.timers(), 0)
  t.same(keeping.changes, [], 'that is no failure')
})

t.test('after closing, a token that is there serves until its end', async t => {
  const keeping = await kept(t)
  keeping.closing.abort()
  keeping.clock.advance(3_400_000)
  t.same(keeping.authorize(), bearer('one'))
  keeping.clock.advance(200_000)
  t.match(keeping.authorize(), { kind: 'unavailable' })
  t.equal(keeping.fetches(), 1)
})
