// Callers: tokens of an issuer that is up, down or has new keys; keys with addresses and an end; proxies in front.
import t, { type Test } from 'tap'
import { systemClock } from '../../lib/clock.ts'
import { createSimulatedIssuer, type SimulatedIssuer, type TokenChanges } from '../../lib/simulator/issuer.ts'
import { CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'
import { openWebSocket } from '../fixtures/websocket.ts'

const BODY = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })

interface StartedIssuer extends SimulatedIssuer {
  readonly url: string
  readonly keySetUrl: string
}

async function startIssuer(
  t: Test,
  options: Partial<Parameters<typeof createSimulatedIssuer>[0]> = {},
): Promise<StartedIssuer> {
  const issuer = createSimulatedIssuer({ clock: systemClock(), ...options })
  const { issuer: url, keySetUrl } = await issuer.listen()
  t.teardown(() => issuer.close())
  return { ...issuer, url, keySetUrl }
}

interface Stage {
  readonly issuer: StartedIssuer
  readonly backend: StartedResource
  readonly running: RunningProxy
  readonly clock: FakeClock
  /** A chat with a token; its status and the error's code and message. */
  chat(changes?: TokenChanges | string): Promise<readonly [status: number, code: unknown, message: unknown]>
}

async function errorOf(answer: Response): Promise<readonly [status: number, code: unknown, message: unknown]> {
  const body: unknown = JSON.parse(await answer.text())
  const error = typeof body === 'object' && body !== null && 'error' in body ? Object(body.error) : {}
  return [answer.status, error.code, error.message]
}

function ask(running: RunningProxy, headers: Record<string, string>, path = CHAT): Promise<Response> {
  return fetch(`${running.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: BODY,
  })
}

function configText(url: string, auth: string, server = ''): string {
  return `
auth: ${auth}
models:
  gpt-4o: {backends: [{name: b1, endpoint: "${url}", api_key: azure-key}]}
  other: {backends: [{name: b1, endpoint: "${url}", api_key: azure-key, deployment: gpt-4o}]}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s${server}}
${NO_PROBES}`
}

async function stage(t: Test, entry = '', more = ''): Promise<Stage> {
  // The clock stands still, so that nothing happens in the background that the test did not ask for.
  const clock = createFakeClock()
  const issuer = await startIssuer(t, { clock })
  const backend = await startResource(t)
  const auth = `{tokens: [{name: apps, issuer: "${issuer.url}", audience: "api://proxy"${entry}}]${more}}`
  const running = await runProxy(t, configText(backend.url, auth), { clock })
  return {
    issuer,
    backend,
    running,
    clock,
    chat: async (changes = {}) => {
      const token = typeof changes === 'string' ? changes : issuer.token(changes)
      return errorOf(await ask(running, { authorization: `Bearer ${token}` }))
    },
  }
}

t.test('a token of the issuer is as good as a key, without any key in the config, and never goes upstream', async t => {
  const { issuer, backend, running } = await stage(t)
  const token = issuer.token()
  for (const headers of [
    { authorization: `Bearer ${token}` },
    { 'api-key': token },
    { 'x-api-key': 'unused', authorization: `bearer ${token}` },
  ]) {
    const answer = await ask(running, headers)
    t.equal(answer.status, 200)
    await answer.text()
  }
  t.notOk(JSON.stringify(backend.resource.requests.map(({ headers }) => headers)).includes(token))
  await until(() => running.lines.some(({ msg }) => msg === 'request'))
  t.match(
    running.lines.find(({ msg }) => msg === 'request'),
    { key: 'apps', status: 200 },
  )
  t.notOk(JSON.stringify(running.lines).includes(token.slice(0, 40)))
})

t.test('what is wrong with a token is said, in the form of a 401, and nothing of it is repeated', async t => {
  const { chat, issuer, running, clock } = await stage(t, ', subjects: [client-app]')
  const nowS = Math.floor(clock.epochMs() / 1000)
  const cases: readonly (readonly [TokenChanges, RegExp])[] = [
    [{ claims: { exp: nowS - 61 } }, /has expired/],
    [{ claims: { aud: 'https://cognitiveservices.azure.com' } }, /another audience/],
    [{ claims: { iss: 'https://sts.windows.net/elsewhere/' } }, /issuer that is not accepted/],
    [{ signature: 'wrong' }, /signature is wrong/],
    [{ signature: 'none' }, /algorithm that is not accepted/],
    [{ signature: 'HS256' }, /algorithm that is not accepted/],
    [{ header: { kid: 'elsewhere' } }, /key that its issuer does not list/],
    [{ claims: { nbf: nowS + 3_600 } }, /not valid yet/],
    [{ claims: { exp: undefined } }, /no expiry/],
    [{ claims: { azp: 'another-app' } }, /subject is not among/],
  ]
  for (const [changes, expected] of cases) {
    const token = issuer.token(changes)
    const answer = await ask(running, { authorization: `Bearer ${token}` })
    t.equal(answer.headers.get('www-authenticate'), 'Bearer')
    const text = await answer.clone().text()
    const [status, code, message] = await errorOf(answer)
    t.strictSame([status, code], [401, 'invalid_api_key'])
    t.match(message, expected)
    for (const piece of token.split('.')) if (piece !== '') t.notOk(text.includes(piece))
    t.notOk(/elsewhere|another-app|cognitiveservices/.test(text))
  }
  t.equal((await chat())[0], 200)
})

t.test('without a key, with a wrong one and with an expired one the 401 says so in three texts', async t => {
  const backend = await startResource(t)
  const auth =
    '{keys: [{name: old, key: key-that-ended, expires: 2020-01-01}, {name: new, key: key-of-now, expires: 2999-01-01}]}'
  const running = await runProxy(t, configText(backend.url, auth))
  const texts = new Map<string, unknown>()
  for (const [what, headers] of [
    ['none', {}],
    ['wrong', { authorization: 'Bearer key-unknown' }],
    ['expired', { 'api-key': 'key-that-ended' }],
  ] as const) {
    const [status, code, message] = await errorOf(await ask(running, headers))
    t.strictSame([status, code], [401, 'invalid_api_key'], what)
    texts.set(what, message)
  }
  t.equal(new Set(texts.values()).size, 3)
  t.match(texts.get('expired'), /expired/)
  t.equal((await ask(running, { 'api-key': 'key-of-now' })).status, 200)
  t.equal((await ask(running, { 'api-key': 'key-that-ended', authorization: 'Bearer key-of-now' })).status, 200)
})

t.test('a token with rights of its own: models, limits, and no admin', async t => {
  const { issuer, running, chat } = await stage(t, ', models: [gpt-4o], limits: {requests_per_minute: 2}')
  const headers = { authorization: `Bearer ${issuer.token()}` }
  const other = await fetch(`${running.url}${CHAT}`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ model: 'other', messages: [] }),
  })
  t.strictSame((await errorOf(other)).slice(0, 2), [403, 'model_not_allowed'])
  const admin = await fetch(`${running.url}/dashboard/events`, { headers })
  t.strictSame((await errorOf(admin)).slice(0, 2), [403, 'admin_key_required'])
  t.equal((await chat())[0], 200)
  t.equal((await chat({ claims: { jti: '2' } }))[0], 200)
  t.strictSame(
    (await chat({ claims: { jti: '3' } })).slice(0, 2),
    [429, 'rate_limit_exceeded'],
    'all tokens of the entry together',
  )
})

t.test('a token may be an admin one: the live page’s data come with it', async t => {
  const { issuer, running } = await stage(t, ', admin: true')
  const leaving = new AbortController()
  const answer = await fetch(`${running.url}/dashboard/events`, {
    headers: { authorization: `Bearer ${issuer.token()}` },
    signal: leaving.signal,
  })
  t.equal(answer.status, 200)
  leaving.abort()
})

t.test(
  'keys are replaced: the new one is fetched for the first token that names it, once a minute at most',
  async t => {
    const { issuer, chat, clock } = await stage(t)
    t.equal((await chat())[0], 200)
    const old = issuer.token({ claims: { jti: 'old' } })
    t.equal((await chat(old))[0], 200)
    const before = issuer.fetches()
    issuer.rotate()
    const answers = await Promise.all(Array.from({ length: 20 }, (_, jti) => chat({ claims: { jti } })))
    t.ok(answers.every(([status]) => status === 200))
    t.equal(issuer.fetches(), before + 1)
    t.equal((await chat(old))[0], 200, 'a verified token is good until it ends')
    for (let i = 0; i < 10; i++) t.equal((await chat({ header: { kid: `invented-${i}` } }))[0], 401)
    t.equal(issuer.fetches(), before + 1)
    issuer.rotate()
    clock.advance(60_000)
    t.equal((await chat())[0], 200)
  },
)

t.test('while the issuer is down the keys that are there serve on', async t => {
  const { issuer, chat } = await stage(t)
  t.equal((await chat())[0], 200)
  for (const outage of ['hang_up', 'error', 'garbage', 'other_issuer'] as const) {
    issuer.fail(outage)
    t.equal((await chat({ claims: { jti: outage } }))[0], 200, outage)
    t.equal((await chat({ header: { kid: outage } }))[0], 401)
  }
})

t.test(
  'an issuer that is down from the start costs its clients a 503 with its wait, and key holders nothing',
  async t => {
    const clock = createFakeClock()
    const issuer = await startIssuer(t, { clock })
    issuer.fail('error')
    const backend = await startResource(t)
    const auth = `{keys: [{name: k, key: key-1}], tokens: [{name: apps, issuer: "${issuer.url}", audience: "api://proxy"}]}`
    const running = await runProxy(t, configText(backend.url, auth), { clock })
    const answer = await ask(running, { authorization: `Bearer ${issuer.token()}` })
    t.equal(answer.status, 503)
    t.match(Number(answer.headers.get('retry-after')), 1)
    t.ok(Number(answer.headers.get('retry-after-ms')) <= 1_000)
    t.match(await errorOf(answer), [503, 'no_backend', /keys of the token's issuer/])
    t.equal((await ask(running, { 'api-key': 'key-1' })).status, 200)
    t.equal((await ask(running, { 'api-key': 'key-1', authorization: `Bearer ${issuer.token()}` })).status, 200)
    const line = running.lines.find(({ level, msg }) => level === 'error' && /keys of/.test(String(msg)))
    t.match(line?.msg, /could not be fetched, there are none yet/)
    issuer.fail(undefined)
    clock.advance(1_000)
    await until(() => running.lines.some(({ msg }) => /fetched again/.test(String(msg))))
    t.equal((await ask(running, { authorization: `Bearer ${issuer.token()}` })).status, 200)
  },
)

t.test('a key set by URL, with an issuer of Entra: tokens of version 1 and 2 pass', async t => {
  const tenant = '72f988bf-86f1-41af-91ab-2d7cd011db47'
  const issuer = await startIssuer(t)
  const backend = await startResource(t)
  const entry = `{name: apps, issuer: "https://login.microsoftonline.com/${tenant}/v2.0", audience: [proxy, "api://other"], jwks: "${issuer.keySetUrl}"}`
  const running = await runProxy(t, configText(backend.url, `{tokens: [${entry}]}`))
  const status = async (claims: Record<string, unknown>): Promise<number> =>
    (await ask(running, { authorization: `Bearer ${issuer.token({ claims })}` })).status
  t.equal(await status({ iss: `https://login.microsoftonline.com/${tenant}/v2.0`, aud: 'proxy' }), 200)
  t.equal(
    await status({ iss: `https://sts.windows.net/${tenant}/`, aud: 'api://proxy', azp: undefined, appid: 'a' }),
    200,
  )
  t.equal(await status({ iss: `https://sts.windows.net/${tenant}/`, aud: 'other' }), 200)
  t.equal(await status({ iss: `https://sts.windows.net/00000000-0000-0000-0000-000000000000/`, aud: 'proxy' }), 401)
})

t.test('the key set may be a file, for machines without internet; a new one is read for an unknown key', async t => {
  const { writeFileSync } = await import('node:fs')
  const issuer = await startIssuer(t)
  const backend = await startResource(t)
  const file = `${t.testdir({ 'keys.json': issuer.keySet() })}/keys.json`
  const entry = `{name: apps, issuer: "https://issuer.example", audience: "api://proxy", jwks: "${file}"}`
  const running = await runProxy(t, configText(backend.url, `{tokens: [${entry}]}`), {
    readFile: () => issuer.keySet(),
  })
  const status = async (jti: number): Promise<number> =>
    (
      await ask(running, {
        authorization: `Bearer ${issuer.token({ claims: { iss: 'https://issuer.example', jti } })}`,
      })
    ).status
  t.equal(await status(1), 200)
  issuer.rotate()
  writeFileSync(file, issuer.keySet())
  t.equal(await status(2), 200)
  t.equal(issuer.fetches(), 0)
})

t.test('a reload takes a subject out: its token, verified before, is refused', async t => {
  const { running, chat, issuer } = await stage(t)
  t.equal((await chat())[0], 200)
  const { config } = running.proxy.runtime()
  const [entry] = config.auth.tokens
  if (entry === undefined) throw new Error('there is an entry')
  const token = issuer.token()
  t.equal((await chat(token))[0], 200)
  running.proxy.reload(
    { ...config, auth: { ...config.auth, tokens: [{ ...entry, subjects: ['another'] }] } },
    undefined,
  )
  t.equal((await chat(token))[0], 401)
})

t.test('a WebSocket handshake may bring key or token in the query, other requests may not', async t => {
  const issuer = await startIssuer(t)
  const resource = await startResource(t, { deployments: [{ name: 'gpt-realtime', kind: 'realtime' }] })
  const running = await runProxy(
    t,
    `
auth: {keys: [{name: k, key: key-1}], tokens: [{name: apps, issuer: "${issuer.url}", audience: "api://proxy"}]}
models: {gpt-realtime: {backends: [{endpoint: "${resource.url}", api_key: azure-key}]}}
server: {port: 0, host: 127.0.0.1}
${NO_PROBES}`,
  )
  const url = `${running.url}/v1/realtime?model=gpt-realtime`
  for (const query of [
    'api-key=key-1',
    'API-KEY=key-1',
    'api%2Dkey=key-1',
    `api-key=${issuer.token()}`,
    'api-key=wrong&api-key=key-1',
  ]) {
    const opened = await openWebSocket(`${url}&${query}`)
    t.ok('socket' in opened, query.slice(0, 20))
    if ('socket' in opened) opened.close()
  }
  const refused = await openWebSocket(`${url}&api-key=wrong`)
  t.equal('status' in refused && refused.status, 401)
  t.equal((await fetch(`${running.url}/v1/models?api-key=key-1`)).status, 401)
  t.notOk(JSON.stringify(resource.resource.requests.map(({ url }) => url)).includes('key'))
  await until(() => running.lines.filter(({ msg }) => msg === 'request').length >= 6)
  t.notOk(JSON.stringify(running.lines).includes('key-1'))
})

t.test('of several credentials the first that is valid counts, the subscription key’s header among them', async t => {
  const backend = await startResource(t)
  const auth = '{keys: [{name: a, key: key-a, from: [192.0.2.0/24]}, {name: b, key: key-b}]}'
  const running = await runProxy(t, configText(backend.url, auth))
  for (const headers of [
    { 'ocp-apim-subscription-key': 'key-b' },
    { 'ocp-apim-subscription-key': 'key-b', authorization: 'Bearer wrong', 'api-key': 'wrong', 'x-api-key': 'wrong' },
    { 'api-key': 'key-a', 'x-api-key': 'key-b' },
  ]) {
    t.equal((await ask(running, headers)).status, 200)
  }
  t.match(await errorOf(await ask(running, { 'api-key': 'wrong', authorization: 'Bearer key-a' })), [
    403,
    'address_not_allowed',
  ])
})

t.test('a key with addresses is refused from elsewhere with 403, which names the address', async t => {
  const backend = await startResource(t)
  const auth =
    '{keys: [{name: far, key: key-far, from: [192.0.2.0/24, "2001:db8::/32"]}, {name: here, key: key-here, from: [127.0.0.0/8]}]}'
  const running = await runProxy(t, configText(backend.url, auth))
  t.match(await errorOf(await ask(running, { 'api-key': 'key-far' })), [403, 'address_not_allowed', /127\.0\.0\.1/])
  t.equal((await ask(running, { 'api-key': 'key-here' })).status, 200)
  const spoofed = await ask(running, { 'api-key': 'key-far', 'x-forwarded-for': '192.0.2.1' })
  t.equal(spoofed.status, 403, 'nobody is trusted: the header is ignored')
})

t.test('behind trusted proxies the client’s address is the first from the right that is none of theirs', async t => {
  const backend = await startResource(t)
  const auth = '{keys: [{name: k, key: key-1, from: [203.0.113.0/24]}]}'
  const running = await runProxy(
    t,
    configText(backend.url, auth, ', trusted_proxies: [127.0.0.1, 10.0.0.0/8, "fd00::/8"]'),
  )
  for (const [header, status, client] of [
    ['203.0.113.7', 200, '203.0.113.7'],
    ['198.51.100.1, 203.0.113.7', 200, '203.0.113.7'],
    ['203.0.113.7, 10.1.2.3, fd00::1', 200, '203.0.113.7'],
    ['203.0.113.7:5123, 10.1.2.3:80', 200, '203.0.113.7'],
    ['::ffff:203.0.113.7,[fd00::1]:443', 200, '203.0.113.7'],
    ['203.0.113.7, 198.51.100.1', 403, '198.51.100.1'],
    ['203.0.113.7, unknown, 10.1.2.3', 403, '10.1.2.3'],
    ['10.9.9.9, 10.1.2.3', 403, '10.9.9.9'],
    ['', 403, '127.0.0.1'],
  ] as const) {
    const logged = running.line('request')
    const answer = await ask(running, { 'api-key': 'key-1', 'x-forwarded-for': header })
    t.equal(answer.status, status, header)
    await answer.text()
    t.equal((await logged).client, client, header)
  }
})

t.test('the placeholder key, wrong addresses, times, origins and issuers are refused with their place', t => {
  const backend = 'models: {m: {backends: [{endpoint: "https://r.openai.azure.com", api_key: k}]}}'
  const issue = async (auth: string, server = ''): Promise<string> => {
    try {
      await runProxy(t, `auth: ${auth}\n${backend}\nserver: {port: 0${server}}`)
      return 'ok'
    } catch (error) {
      return error instanceof Error ? error.message : ''
    }
  }
  const token = (more: string): string => `{tokens: [{name: t, audience: a, ${more}}]}`
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['{keys: [{name: a, key: change-me}]}', '', /auth\.keys\[0\]\.key: .*--new-key/],
    ['{keys: [{name: a, key: b, from: [10.0.0.0/33]}]}', '', /from\[0\]/],
    [
      '{keys: [{name: a, key: b, from: [nonsense]}]}',
      '',
      /auth\.keys\[0\]\.from\[0\]: must be an IP address or a range/,
    ],
    ['{keys: [{name: a, key: b, from: []}]}', '', /from: is empty/],
    ['{keys: [{name: a, key: b, expires: tomorrow}]}', '', /expires: must be a date or a time/],
    ['{keys: [{name: a, key: b, expires: 2026-02-30}]}', '', /expires: must be a date/],
    ['{keys: [{name: a, key: b}]}', ', trusted_proxies: [10.0.0.0/8, x]', /server\.trusted_proxies\[1\]/],
    ['{keys: [{name: a, key: b}]}', ', cors_origins: ["https://a.example/path"]', /server\.cors_origins\[0\]/],
    [token('issuer: "http://issuer.example"'), '', /issuer: must be an https URL/],
    [token('issuer: "https://issuer.example", jwks: "http://issuer.example/keys"'), '', /jwks: must be an https URL/],
    [token('issuer: "https://login.microsoftonline.com/common/v2.0"'), '', /issuer: must name one tenant/],
    ['{tokens: [{name: t, issuer: "https://i.example", audience: "api://x/.default"}]}', '', /audience: is a scope/],
    [token('issuer: no-url'), '', /issuer: must be an https URL/],
    [token('issuer: "https://i.example", subjects: []'), '', /subjects: is empty/],
    ['{tokens: [{name: t, issuer: "https://i.example"}]}', '', /audience: is missing/],
    ['{tokens: []}', '', /there is no key: add one \(or auth\.tokens\)/],
  ]
  return Promise.all(cases.map(async ([auth, server, expected]) => t.match(await issue(auth, server), expected, auth)))
})

t.test('ten thousand tokens are verified, and each is recognized the second time', async t => {
  const { issuer, running } = await stage(t)
  const authenticate = (token: string): unknown => running.proxy.runtime().tokenVerifier.verify(token, token.slice(-86))
  await ask(running, { authorization: `Bearer ${issuer.token()}` })
  const tokens = Array.from({ length: 10_000 }, (_, jti) => issuer.token({ claims: { jti } }))
  const began = process.cpuUsage()
  let valid = 0
  for (let round = 0; round < 2; round++)
    for (const token of tokens) if (Object(authenticate(token)).kind === 'valid') valid++
  const { user } = process.cpuUsage(began)
  t.equal(valid, 20_000)
  t.comment(`${(user / 20_000).toFixed(1)} µs of CPU a look`)
})

t.test(
  'a key that ends within a week is spoken of daily in the log, in a metric and on the status page, then refused',
  async t => {
    // The fake wall clock begins on 12 January 1970.
    const clock = createFakeClock()
    const backend = await startResource(t)
    const auth = `{keys: [
    {name: soon, key: key-soon, expires: 1970-01-15, admin: true},
    {name: soon, key: key-soon-2, expires: 1970-03-01},
    {name: later, key: key-later, expires: 1971-01-01T12:00+01:00},
    {name: over, key: key-over, expires: 1970-01-01},
    {name: never, key: key-never, admin: true}]}`
    const running = await runProxy(t, configText(backend.url, auth), { clock })
    const said = (): readonly unknown[] =>
      running.lines.filter(({ msg }) => /^client key/.test(String(msg))).map(({ msg, key, left }) => [msg, key, left])
    const first = [
      ['client key has expired', 'over', undefined],
      ['client key ends soon', 'soon', '3 days'],
    ]
    t.same(said(), first)
    clock.advance(86_400_000)
    t.same(said().slice(2), [first[0], ['client key ends soon', 'soon', '2 days']])
    const text = await (await fetch(`${running.url}/metrics`)).text()
    t.match(text, `proxy_key_expiry_timestamp_seconds{key="soon"} ${Date.UTC(1970, 0, 16) / 1000}`)
    t.match(text, `proxy_key_expiry_timestamp_seconds{key="later"} ${Date.UTC(1971, 0, 1, 11) / 1000}`)
    t.match(text, `proxy_key_expiry_timestamp_seconds{key="over"} ${Date.UTC(1970, 0, 2) / 1000}`)
    t.notMatch(text, 'proxy_key_expiry_timestamp_seconds{key="never"')

    const leaving = new AbortController()
    const events = await fetch(`${running.url}/dashboard/events`, {
      headers: { 'api-key': 'key-never' },
      signal: leaving.signal,
    })
    let page = ''
    for await (const chunk of events.body ?? []) {
      page += Buffer.from(chunk).toString()
      if (page.includes('\n\n')) break
    }
    leaving.abort()
    t.match(page, '"keys_ending":[{"key":"over","ends_ms":86400000},{"key":"soon","ends_ms":1296000000}]')

    t.equal((await ask(running, { 'api-key': 'key-soon' })).status, 200)
    clock.advance(3 * 86_400_000)
    t.match(await errorOf(await ask(running, { 'api-key': 'key-soon' })), [401, 'invalid_api_key', /expired/])
    t.equal((await fetch(`${running.url}/dashboard/events`, { headers: { 'api-key': 'key-soon' } })).status, 401)
    t.equal((await ask(running, { 'api-key': 'key-soon-2' })).status, 200)
  },
)
