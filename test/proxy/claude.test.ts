// Claude deployments of Foundry and other operations that are passed through: bytes, keys, streams, failover, errors in
// their own shape.
import t, { type Test } from 'tap'
import { cutAfter, endWithoutTerminal, errorEvent, fail, throttle } from '../../lib/simulator/faults.ts'
import { dig } from '../fixtures/dig.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const VERSION = { 'anthropic-version': '2023-06-01', 'anthropic-beta': 'a-1,b-2' }
const BODY = { model: 'gpt-4o', max_tokens: 99, messages: [{ role: 'user', content: 'Hi' }] }

const NO_PROBES = 'health_check: {enabled: false}'

interface Stage {
  readonly backends: readonly StartedResource[]
  readonly proxy: RunningProxy
  ask(more?: object, path?: string, headers?: Record<string, string>): Promise<Response>
}

async function stage(t: Test, { more = 'deployment: sonnet', rest = NO_PROBES } = {}): Promise<Stage> {
  const backends = await Promise.all(
    ['one', 'two'].map(name =>
      startResource(t, {
        name,
        deltas: 4,
        promptCache: true,
        forbidden: [CLIENT_KEY],
        deployments: [
          { name: 'sonnet', kind: 'claude' },
          { name: 'luna', kind: 'decision' },
        ],
      }),
    ),
  )
  const proxy = await runProxy(
    t,
    configFor(
      backends.map(({ url }) => ({ url, more })),
      { rest },
    ),
  )
  const ask: Stage['ask'] = (extra = {}, path = '/anthropic/v1/messages', headers = VERSION) =>
    proxy.post(path, { ...BODY, ...extra }, { headers })
  return { backends, proxy, ask }
}

t.test('a message goes through untouched but for the model, with the key as x-api-key', async t => {
  const { backends, ask, proxy } = await stage(t)
  for (const path of ['/anthropic/v1/messages?beta=true', '/v1/messages', '/anthropic/v1/messages/count_tokens']) {
    const answer = await ask({ metadata: { user_id: 'u' } }, path)
    t.equal(answer.status, 200, path)
    const value = await answer.json()
    t.ok(dig(value, 'input_tokens') ?? dig(value, 'usage.input_tokens'))
  }
  const received = backends.flatMap(({ resource }) => resource.requests).filter(({ method }) => method === 'POST')
  t.same(received.map(({ url }) => url).sort(), [
    '/anthropic/v1/messages',
    '/anthropic/v1/messages/count_tokens',
    '/anthropic/v1/messages?beta=true',
  ])
  for (const { headers, body } of received) {
    t.match(headers, { 'x-api-key': 'azure-key', ...VERSION })
    t.equal(headers['api-key'], undefined)
    t.equal(String(body), JSON.stringify({ ...BODY, metadata: { user_id: 'u' } }).replace('gpt-4o', 'sonnet'))
  }
  t.same(
    backends.flatMap(({ resource }) => resource.violations),
    [],
  )
  const missing = await ask({}, '/v1/messages', {})
  t.match(
    await missing.json(),
    { type: 'error', error: { message: /anthropic-version/ } },
    'upstream says what is wrong',
  )
  t.ok(proxy.lines.every(({ status }) => status !== 502))
})

t.test('usage counts what was read from the cache as part of the prompt, in both forms', async t => {
  const { ask, proxy } = await stage(t)
  const system = 'All that the model has to know. '.repeat(400)
  for (const stream of [false, true, false, true]) await (await ask({ system, stream })).text()
  const lines = proxy.lines.filter(({ msg }) => msg === 'request')
  const prompts = new Set(lines.map(({ prompt_tokens }) => prompt_tokens))
  t.equal(prompts.size, 1, 'the same prompt, the same count, whether cached or not')
  t.ok(lines.slice(2).every(({ cached_tokens }) => Number(cached_tokens) > 1_000))
  t.ok(lines.every(({ completion_tokens }) => completion_tokens === 4))
  t.match(lines[1], { stream: true, model: 'gpt-4o' })
})

t.test('what fails before any output goes to another backend, unseen', async t => {
  for (const fault of [
    throttle(7),
    fail(429, 'claude', { 'retry-after': '9' }),
    fail(529, 'claude'),
    fail(500, 'claude'),
    errorEvent('claude', 0),
    errorEvent('claude', 3),
    errorEvent('claude_throttle', 2),
    cutAfter(2),
  ]) {
    const { backends, ask } = await stage(t)
    backends[0]?.resource.next(fault)
    const answer = await ask({ stream: true })
    t.equal(answer.status, 200, JSON.stringify(fault))
    t.equal(answer.headers.get('x-proxy-attempts'), '2')
    const text = await answer.text()
    t.equal(text.match(/event: message_start\n/g)?.length, 1)
    t.match(text, /event: message_stop\ndata: \{"type":"message_stop"\}\n\n$/)
    t.notMatch(text, /event: error/)
  }
})

t.test('a stream that breaks off after output says so in Anthropic’s form', async t => {
  for (const fault of [cutAfter(5), endWithoutTerminal(6)]) {
    const { backends, ask } = await stage(t)
    for (const { resource } of backends) resource.always(fault)
    const text = await (await ask({ stream: true })).text()
    t.match(text, /event: error\ndata: \{"type":"error","error":\{"type":"api_error","message":".+"\}\}\n\n$/)
    t.notMatch(text, /message_stop/)
  }
})

t.test('the proxy’s own errors have Anthropic’s shape there, and OpenAI’s elsewhere', async t => {
  const { ask, proxy, backends } = await stage(t)
  for (const [path, more, headers, status, type] of [
    ['/anthropic/v1/messages', {}, { authorization: 'Bearer nobody' }, 401, 'authentication_error'],
    ['/v1/messages', { model: 'nope' }, {}, 404, 'not_found_error'],
    ['/v1/messages', { model: undefined }, {}, 400, 'invalid_request_error'],
    ['/anthropic/v1/nothing', {}, {}, 404, 'not_found_error'],
  ] as const) {
    const answer = await ask(more, path, { ...VERSION, ...headers })
    t.equal(answer.status, status)
    t.match(await answer.json(), { type: 'error', error: { type, message: String }, request_id: String })
  }
  for (const { resource } of backends) resource.always(throttle(7))
  const throttled = await ask()
  t.equal(throttled.status, 429)
  t.equal(throttled.headers.get('retry-after'), '7')
  t.match(await throttled.json(), { error: { type: 'rate_limit_error' } })
  t.match(await (await proxy.post('/v1/embeddings', { model: 'nope' })).json(), { error: { code: 'model_not_found' } })
})

t.test('an OpenAI-compatible server has messages at /v1/messages', async t => {
  const { url, resource } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url, more: 'type: openai' }], { rest: NO_PROBES }))
  await (await proxy.post('/anthropic/v1/messages', BODY, { headers: VERSION })).text()
  t.match(resource.requests[0], {
    url: '/v1/messages',
    headers: { authorization: 'Bearer azure-key', 'x-api-key': 'azure-key' },
  })
})

t.test('decisions go to the v1 form, and backends of another kind are passed over', async t => {
  const questions = [{ type: 'predicate', name: 'refund' }]
  for (const version of ['', ', api_version: "2024-10-21"']) {
    const { proxy, backends } = await stage(t, { more: `deployment: luna${version}` })
    for (const path of ['/v1/decisions', '/openai/v1/decisions']) {
      const answer = await proxy.post(path, { model: 'gpt-4o', input: 'x', questions })
      t.equal(answer.status, 200)
      t.match(await answer.json(), { answers: [{ name: 'refund', probability: Number }] })
    }
    t.ok(backends.every(({ resource }) => resource.requests.every(({ url }) => url === '/openai/v1/decisions')))
  }
  const bad = await (await stage(t)).proxy.post('/v1/decisions', { input: 'x', questions })
  t.match(await bad.json(), { error: { code: 'missing_model' } })
})

t.test('operations that the config adds are routed by their model, in the v1 form', async t => {
  const { url, resource } = await startResource(t)
  const config = configFor([{ url, more: 'deployment: dep' }], { rest: NO_PROBES }).replace(
    'shutdown_grace: 1s',
    'shutdown_grace: 1s, extra_operations: [rerank, team/thing]',
  )
  const proxy = await runProxy(t, config)
  for (const path of ['/v1/rerank', '/openai/v1/team/thing']) {
    await (await proxy.post(path, { model: 'gpt-4o', query: 'x' })).text()
  }
  t.same(
    resource.requests.map(({ url: asked, body }) => [asked, String(body)]),
    [
      ['/openai/v1/rerank', '{"model":"dep","query":"x"}'],
      ['/openai/v1/team/thing', '{"model":"dep","query":"x"}'],
    ],
  )
  t.match(await (await proxy.post('/v1/other', { model: 'gpt-4o' })).json(), { error: { code: 'unknown_url' } })
})
