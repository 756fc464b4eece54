// Stored state belongs to the name of the key that made it: every route that names an id, with every kind of foreign
// key.
import t, { type Test } from 'tap'
import { systemClock } from '../../lib/clock.ts'
import { createSimulatedIssuer } from '../../lib/simulator/issuer.ts'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { dig } from '../fixtures/dig.ts'
import { type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, type OpenSocket, openWebSocket } from '../fixtures/websocket.ts'

interface Stage {
  readonly proxy: RunningProxy
  readonly resources: readonly StartedResource[]
  /** What each kind of caller sends; alice made the response. */
  readonly callers: Readonly<Record<string, string>>
  ask(caller: string, method: string, path: string, body?: unknown): Promise<Response>
  /** A response that alice made. */
  make(): Promise<string>
}

async function stage(t: Test, more = ''): Promise<Stage> {
  const issuer = createSimulatedIssuer({ clock: systemClock() })
  const { issuer: url } = await issuer.listen()
  t.teardown(() => issuer.close())
  const resources = [await startResource(t, { name: 'r1' }), await startResource(t, { name: 'r2' })]
  const backends = resources.map((resource, i) => `{name: b${i + 1}, endpoint: "${resource.url}", api_key: azure-key}`)
  const proxy = await runProxy(
    t,
    `
auth:
  keys:
    - {name: alice, key: key-alice}
    - {name: alice, key: key-alice-rotated}
    - {name: bob, key: key-bob}
    - {name: admin, key: key-admin, admin: true}
    - {name: limited, key: key-limited, models: [gpt-4o], limits: {requests_per_minute: 1000}}
  tokens: [{name: apps, issuer: "${url}", audience: "api://proxy"}]
${more}
models:
  gpt-4o: {backends: [${backends.join(', ')}]}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
${NO_PROBES}`,
  )
  const callers = {
    alice: 'key-alice',
    rotated: 'key-alice-rotated',
    bob: 'key-bob',
    admin: 'key-admin',
    limited: 'key-limited',
    token: issuer.token(),
  }
  const ask: Stage['ask'] = (caller, method, path, body) =>
    fetch(`${proxy.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${Reflect.get(callers, caller)}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
  return {
    proxy,
    resources,
    callers,
    ask,
    async make() {
      const answer = await ask('alice', 'POST', '/v1/responses', { model: 'gpt-4o', input: 'Hi' })
      t.equal(answer.status, 200)
      const { id } = (await answer.json()) as { readonly id: string }
      return id
    },
  }
}

/** The requests that each resource has seen. */
function asked(resources: readonly StartedResource[]): readonly (readonly string[])[] {
  return resources.map(({ resource }) => resource.requests.map(({ method, url }) => `${method} ${url}`))
}

/** Every way to name a stored response, in every form of URL and body. */
const WAYS: readonly (readonly [
  what: string,
  method: string,
  path: (id: string) => string,
  body?: (id: string) => unknown,
])[] = [
  ['read', 'GET', id => `/v1/responses/${id}`],
  ['read as a stream', 'GET', id => `/v1/responses/${id}?stream=true`],
  ['read with includes', 'GET', id => `/v1/responses/${id}?include[]=file_search_call.results`],
  ['delete', 'DELETE', id => `/v1/responses/${id}`],
  ['cancel', 'POST', id => `/v1/responses/${id}/cancel`],
  ['list its inputs', 'GET', id => `/v1/responses/${id}/input_items`],
  ['list its inputs, paged', 'GET', id => `/v1/responses/${id}/input_items?limit=1&order=asc`],
  ['an escaped id', 'GET', id => `/v1/responses/${id.replace('_', '%5F')}`],
  ['a final slash', 'GET', id => `/v1/responses/${id}/`],
  ['doubled slashes', 'GET', id => `//v1//responses//${id}`],
  ['Azure, v1', 'GET', id => `/openai/v1/responses/${id}?api-version=preview`],
  ['Azure, dated', 'DELETE', id => `/openai/responses/${id}?api-version=2025-04-01-preview`],
  [
    'below a deployment',
    'GET',
    id => `/openai/deployments/gpt-4o/responses/${id}/input_items?api-version=2025-04-01-preview`,
  ],
  ['continue', 'POST', () => '/v1/responses', id => ({ model: 'gpt-4o', input: 'On', previous_response_id: id })],
  [
    'continue as a stream',
    'POST',
    () => '/v1/responses',
    id => ({ model: 'gpt-4o', input: 'On', stream: true, previous_response_id: id }),
  ],
  [
    'continue, Azure',
    'POST',
    () => '/openai/responses?api-version=2025-04-01-preview',
    id => ({ model: 'gpt-4o', input: 'On', previous_response_id: id }),
  ],
  [
    'continue, escaped in JSON',
    'POST',
    () => '/v1/responses',
    id => `{"model":"gpt-4o","input":"On","previous\\u005fresponse_id":"${id.replace('r', '\\u0072')}"}`,
  ],
  [
    'continue, named first of two',
    'POST',
    () => '/v1/responses',
    id => `{"model":"gpt-4o","previous_response_id":"${id}","previous_response_id":"resp_none","input":"On"}`,
  ],
  ['compact', 'POST', () => '/v1/responses/compact', id => ({ model: 'gpt-4o', previous_response_id: id })],
  ['count', 'POST', () => '/v1/responses/input_tokens', id => ({ model: 'gpt-4o', previous_response_id: id })],
]

for (const foreign of ['bob', 'admin', 'limited', 'token'] as const) {
  t.test(`to ${foreign} a response of alice is not there, whichever route names it`, async t => {
    const { ask, make, proxy, resources } = await stage(t)
    const id = await make()
    const before = asked(resources)
    for (const [what, method, path, body] of WAYS) {
      const answer = await ask(foreign, method, path(id), body?.(id))
      const text = await answer.text()
      t.equal(answer.status, 404, what)
      t.match(JSON.parse(text), { error: { code: 'response_not_found', type: 'invalid_request_error' } }, what)
      t.notOk(text.includes('alice'), what)
    }
    t.same(asked(resources), before, 'no backend was asked')
    await until(() => proxy.lines.filter(({ error }) => error === 'response_not_found').length === WAYS.length)
    const names = proxy.lines
      .filter(({ error }) => error === 'response_not_found')
      .map(({ key, made_by }) => [key, made_by])
    t.same(
      names,
      WAYS.map(() => [foreign === 'token' ? 'apps' : foreign, 'alice']),
    )
    t.equal((await ask('alice', 'GET', `/v1/responses/${id}`)).status, 200, 'it is still there for its maker')
  })
}

/** Ways that a sound request of the maker can go, in an order that deletes last. */
const SOUND = ['read', 'list its inputs', 'Azure, v1', 'continue', 'delete']

for (const [who, what, more] of [
  ['alice', 'its maker', ''],
  ['rotated', 'another key of the same name', ''],
  ['bob', 'every key with shared_responses', '  shared_responses: true'],
] as const) {
  t.test(`a stored response is there for ${what}`, async t => {
    const { ask, make } = await stage(t, more)
    const id = await make()
    for (const [name, method, path, body] of WAYS.filter(([name]) => SOUND.includes(name)).sort(
      ([a], [b]) => SOUND.indexOf(a) - SOUND.indexOf(b),
    )) {
      const answer = await ask(who, method, path(id), body?.(id))
      await answer.arrayBuffer()
      t.equal(answer.status, 200, name)
    }
  })
}

t.test('an unknown maker passes, and using a response does not make a key its maker', async t => {
  const { ask, make, proxy } = await stage(t)
  const id = await make()
  proxy.proxy.shared.owners.forget(id)
  t.equal((await ask('bob', 'GET', `/v1/responses/${id}`)).status, 200)
  t.equal(
    (await ask('bob', 'POST', '/v1/responses', { model: 'gpt-4o', input: 'x', previous_response_id: id })).status,
    200,
  )
  t.equal(proxy.proxy.shared.owners.makerOf(id), undefined)
  t.equal((await ask('alice', 'GET', `/v1/responses/${id}`)).status, 200)
})

t.test('what bob continues from a shared response is his own', async t => {
  const { ask, make, proxy } = await stage(t)
  const id = await make()
  proxy.proxy.shared.owners.forget(id)
  const answer = await ask('bob', 'POST', '/v1/responses', { model: 'gpt-4o', input: 'x', previous_response_id: id })
  const { id: next } = (await answer.json()) as { readonly id: string }
  t.equal((await ask('alice', 'GET', `/v1/responses/${next}`)).status, 404)
  t.equal((await ask('bob', 'GET', `/v1/responses/${next}`)).status, 200)
})

t.test('a streamed response belongs to its maker as soon as its first event is out', async t => {
  const { ask, proxy } = await stage(t)
  const answer = await ask('token', 'POST', '/v1/responses', { model: 'gpt-4o', input: 'x', stream: true })
  const id = /"id": ?"(resp_\w+)"/.exec(await answer.text())?.[1] ?? ''
  t.equal(proxy.proxy.shared.owners.makerOf(id), 'apps')
  t.equal((await ask('bob', 'DELETE', `/v1/responses/${id}`)).status, 404)
  t.equal((await ask('token', 'DELETE', `/v1/responses/${id}`)).status, 200)
})

t.test('with authentication off nothing belongs to anybody', async t => {
  const resource = await startResource(t)
  const proxy = await runProxy(
    t,
    `
auth: {enabled: false}
models: {gpt-4o: {backends: [{endpoint: "${resource.url}", api_key: azure-key}]}}
server: {port: 0, host: 127.0.0.1}
${NO_PROBES}`,
  )
  const made = await proxy.post(
    '/v1/responses',
    { model: 'gpt-4o', input: 'x' },
    { headers: { authorization: 'Bearer a' } },
  )
  const { id } = (await made.json()) as { readonly id: string }
  t.equal((await fetch(`${proxy.url}/v1/responses/${id}`, { headers: { authorization: 'Bearer b' } })).status, 200)
})

interface Minted {
  readonly proxy: RunningProxy
  readonly backend: StartedResource
  readonly secret: string
  open(query: string): Promise<string>
}

/** An ephemeral key that a key with few rights has minted. */
async function mint(t: Test): Promise<Minted> {
  const backend = await startResource(t, {
    deployments: [
      { name: 'cheap', kind: 'realtime' },
      { name: 'dear', kind: 'realtime' },
    ],
  })
  const proxy = await runProxy(
    t,
    `
auth: {keys: [{name: few, key: key-few, models: [cheap], limits: {concurrent: 1}}, {name: all, key: key-all}]}
models:
  cheap: {backends: [{endpoint: "${backend.url}", api_key: azure-key}]}
  dear: {backends: [{endpoint: "${backend.url}", api_key: azure-key}]}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
${NO_PROBES}`,
  )
  const minted = await fetch(`${proxy.url}/v1/realtime/client_secrets`, {
    method: 'POST',
    headers: { 'api-key': 'key-few', 'content-type': 'application/json' },
    body: JSON.stringify({ session: { type: 'realtime', model: 'cheap' } }),
  })
  t.equal(minted.status, 200)
  const { value: secret } = (await minted.json()) as { readonly value: string }
  return {
    proxy,
    backend,
    secret,
    async open(query) {
      const opened = await openWebSocket(`${proxy.url}/v1/realtime${query}`, { authorization: `Bearer ${secret}` })
      if (!('socket' in opened)) return String(opened.status)
      t.teardown(() => opened.socket.destroy())
      return '101'
    },
  }
}

t.test('an ephemeral key has the models of the key that minted it, however the model is spelt', async t => {
  const { open, proxy, backend, secret } = await mint(t)
  for (const query of [
    '?model=dear',
    '?m%6fdel=dear',
    '?deployment=dear',
    '?d%65ployment=dear',
    '?model=cheap&model=dear',
    '?model=cheap&m%6Fdel=dear',
    '?MODEL=dear',
    '?model[]=dear',
    '?model=d%65ar',
  ]) {
    const status = await open(query)
    const reached = backend.resource.requests.filter(({ method }) => method === 'GET').at(-1)?.url ?? ''
    t.notOk(/dear/.test(decodeURIComponent(reached)), `${query}: ${reached}`)
    if (status === '101') t.match(reached, /cheap/)
  }
  const call = await fetch(`${proxy.url}/v1/realtime/calls?model=dear`, {
    method: 'POST',
    headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/sdp' },
    body: 'v=0\r\n',
  })
  t.equal(call.status, 403)
  for (const [query, model] of [
    ['', 'dear'],
    ['?model=cheap', 'dear'],
    ['?model=dear', 'cheap'],
    ['?m%6fdel=dear', 'cheap'],
  ] as const) {
    const form = new FormData()
    form.set('sdp', 'v=0\r\n')
    form.set('session', JSON.stringify({ type: 'realtime', model }))
    const before = backend.resource.requests.length
    const answer = await fetch(`${proxy.url}/v1/realtime/calls${query}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${secret}` },
      body: form,
    })
    await answer.arrayBuffer()
    const reached = backend.resource.requests.slice(before).map(({ url, body }) => url + body)
    t.notOk(/dear/.test(decodeURIComponent(reached.join(' '))), `${query} ${model}: ${answer.status}`)
  }
})

t.test('an ephemeral key uses the limits of the key that minted it, and shows its name in the log', async t => {
  const { open, proxy } = await mint(t)
  t.equal(await open('?model=cheap'), '101')
  t.equal(await open('?model=cheap'), '429')
  t.equal(await open('?model=dear'), '403')
  await until(() => proxy.lines.some(({ status }) => status === 429))
  t.match(
    proxy.lines.find(({ status }) => status === 429),
    { key: 'few', path: '/v1/realtime' },
  )
})

t.test('an ephemeral key ends with the key that minted it', async t => {
  const { open, proxy } = await mint(t)
  const { config } = proxy.proxy.runtime()
  const without = config.auth.keys.filter(({ name }) => name !== 'few')
  proxy.proxy.reload({ ...config, auth: { ...config.auth, keys: without } }, undefined)
  t.equal(await open('?model=cheap'), '401')
})

t.test('items and conversations are owned alike: in no form does a request of another key reach them', async t => {
  const { ask, proxy, resources } = await stage(t)
  const made = await ask('alice', 'POST', '/v1/responses', { model: 'gpt-4o', input: 'Hi' })
  const { output } = (await made.json()) as { readonly output: readonly { readonly id: string }[] }
  const item = output.find(({ id }) => id.startsWith('msg_'))?.id ?? ''
  const { owners } = proxy.proxy.shared
  owners.learn('conv_of_alice', proxy.proxy.runtime().pools[0]?.members[0]?.resourceId ?? '', 'alice')
  const before = asked(resources)
  const turn = (more: object): object => ({ model: 'gpt-4o', input: 'On', ...more })
  for (const [param, body] of [
    ['input', turn({ input: [{ type: 'item_reference', id: item }] })],
    ['input', turn({ input: [{ id: item }] })],
    ['input', turn({ input: [{ id: item, type: null }] })],
    ['input', turn({ input: [...Array(300).fill({ type: 'item_reference', id: 'msg_of_nobody' }), { id: item }] })],
    ['input', turn({ input: [{ type: 'item_reference', id: item, pad: 'x'.repeat(20_000) }] })],
    ['input', `{"model":"gpt-4o","input":[{"t\\u0079pe":"item\\u005freference","\\u0069d":"${item}"}]}`],
    ['input', `{"model":"gpt-4o","input":[{"type":"item_reference","id":"${item}","id":"msg_x"}]}`],
    ['input', `{"model":"gpt-4o","input":[{"id":"${item}"}],"input":[]}`],
    [
      'input',
      `{"model":"gpt-4o","input":[{"type":"reasoning","id":"${item}","summary":[],"pad":"${'\\n'.repeat(999)}"}]}`,
    ],
    ['conversation', turn({ conversation: 'conv_of_alice' })],
    ['conversation', turn({ conversation: { id: 'conv_of_alice' } })],
    ['conversation', '{"model":"gpt-4o","conversation":"conv_of_alice","conversation":null,"input":"On"}'],
  ] as const) {
    const answer = await ask('bob', 'POST', '/v1/responses', body)
    t.equal(answer.status, 404)
    t.match(await answer.json(), { error: { code: 'response_not_found', param } })
  }
  t.same(asked(resources), before)
  const own = await ask('alice', 'POST', '/v1/responses', turn({ input: [{ type: 'item_reference', id: item }] }))
  t.equal(own.status, 200)
})

t.test('what is made over a WebSocket is owned too, and what another key made is not there over one', async t => {
  const { ask, callers, make, proxy } = await stage(t)
  const open = async (caller: string): Promise<OpenSocket> =>
    mustBeOpen(
      await openWebSocket(`${proxy.url}/v1/responses`, { authorization: `Bearer ${Reflect.get(callers, caller)}` }),
    )
  const end = async (socket: OpenSocket, more: object = {}): Promise<Readonly<Record<string, unknown>>> => {
    socket.send({ type: 'response.create', model: 'gpt-4o', input: 'Hi', ...more })
    for (;;) {
      const event = await socket.next()
      if (event.type === 'response.completed' || event.type === 'error') return event
    }
  }
  const alice = await open('alice')
  const bob = await open('bob')
  const id = String(dig(await end(alice), 'response.id'))
  t.match(id, /^resp_/)
  t.equal((await ask('bob', 'GET', `/v1/responses/${id}`)).status, 404)
  t.equal((await ask('bob', 'DELETE', `/v1/responses/${id}`)).status, 404)
  t.match(await end(bob, { previous_response_id: id }), {
    type: 'error',
    status: 404,
    error: { code: 'response_not_found' },
  })
  t.match(await end(bob, { previous_response_id: await make() }), { error: { code: 'response_not_found' } })
  t.match(await end(bob), { type: 'response.completed' }, 'the session goes on')
  t.equal((await ask('rotated', 'GET', `/v1/responses/${id}`)).status, 200)
  alice.close()
  bob.close()
})

t.test(
  'every route of a conversation and its items, and of what lives in one resource, knows only its maker',
  async t => {
    const { ask, make, proxy, resources } = await stage(t)
    const item = (text: string): object => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] })
    const made = await ask('alice', 'POST', '/v1/conversations', { items: [item('secret')] })
    t.equal(made.status, 200)
    const conversation = String(dig(await made.json(), 'id'))
    const added = await ask('alice', 'POST', `/v1/conversations/${conversation}/items`, { items: [item('more')] })
    const member = String(dig(await added.json(), 'data.0.id'))
    t.match([conversation, member], [/^conv_/, /^msg_/])
    const response = await ask('alice', 'GET', `/v1/responses/${await make()}`)
    const output = (await response.json()) as { readonly output: readonly { readonly id: string }[] }
    const answered = output.output.find(({ id }) => id.startsWith('msg_'))?.id
    const own = String(dig(await (await ask('bob', 'POST', '/v1/conversations', {})).json(), 'id'))
    const store = await fetch(`${proxy.url}/v1/vector_stores`, {
      method: 'POST',
      headers: { authorization: 'Bearer key-alice', 'x-proxy-backend': 'b1', 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'of alice' }),
    })
    const storeId = String(dig(await store.json(), 'id'))

    const before = asked(resources)
    const reference = { items: [{ type: 'item_reference', id: answered }] }
    for (const [method, path, body] of [
      ['GET', `/v1/conversations/${conversation}`],
      ['POST', `/v1/conversations/${conversation}`, { metadata: { a: 'b' } }],
      ['DELETE', `/v1/conversations/${conversation}`],
      ['GET', `/v1/conversations/${conversation}/items`],
      ['GET', `/v1/conversations/${conversation}/items?limit=1&include[]=x`],
      ['POST', `/v1/conversations/${conversation}/items`, { items: [item('mine')] }],
      ['GET', `/v1/conversations/${conversation}/items/${member}`],
      ['DELETE', `/v1/conversations/${conversation}/items/${member}`],
      ['GET', `/openai/v1/conversations/${conversation}?api-version=preview`],
      ['GET', `/v1/conversations/${conversation.replace('_', '%5F')}/items`],
      ['GET', `/v1/conversations/${own}/items/${member}`],
      ['POST', `/v1/conversations/${own}/items`, reference],
      ['POST', '/v1/conversations', reference],
      ['GET', `/v1/vector_stores/${storeId}?x-proxy-backend=b1`],
      ['GET', `/v1/vector_stores/${storeId}/files`],
      ['POST', `/v1/vector_stores/${storeId}`, { name: 'mine' }],
      ['DELETE', `/v1/vector_stores/${storeId}`],
    ] as const) {
      const answer = await ask('bob', method, path, body)
      const text = await answer.text()
      t.equal(answer.status, 404, `${method} ${path}`)
      t.match(JSON.parse(text), { error: { code: 'response_not_found' } }, `${method} ${path}`)
    }
    t.same(asked(resources), before, 'no backend was asked')
    t.equal(store.status, 200)
    for (const [method, path] of [
      ['GET', `/v1/conversations/${conversation}/items/${member}`],
      ['GET', `/v1/conversations/${conversation}/items`],
      ['DELETE', `/v1/conversations/${conversation}`],
    ] as const)
      t.equal((await ask('rotated', method, path)).status, 200, `${method} ${path}`)
  },
)
