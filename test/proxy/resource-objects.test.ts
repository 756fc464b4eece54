// Objects of one resource: conversations find it by themselves, files, batches and their like by a backend's name or by
// what was seen made.
import t, { type Test } from 'tap'
import { throttle } from '../../lib/simulator/faults.ts'
import { dig } from '../fixtures/dig.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const KEYS = `auth: {keys: [{name: tester, key: ${CLIENT_KEY}}, {name: other, key: other-key-1}, {name: narrow, key: narrow-key-1, models: [small]}]}`

async function stage(
  t: Test,
): Promise<{ readonly backends: readonly StartedResource[]; readonly proxy: RunningProxy }> {
  const backends = await Promise.all(['a', 'b', 'c'].map(name => startResource(t, { name, deltas: 2 })))
  const [, , last] = backends
  const small = `  small: {backends: [{name: s1, endpoint: "${last?.url}", api_key: azure-key, deployment: gpt-4o}]}\nserver:`
  const config = configFor(backends, { rest: 'health_check: {enabled: false}' })
    .replace(/^auth:.*$/m, KEYS)
    .replace('server:', small)
  return { backends, proxy: await runProxy(t, config) }
}

async function call(
  { url }: RunningProxy,
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<{ readonly status: number; readonly value: unknown; readonly backend: string | null }> {
  const answer = await fetch(`${url}${path}`, {
    method,
    ...(body === undefined ? {} : { body: body instanceof FormData ? body : JSON.stringify(body) }),
    headers: {
      authorization: `Bearer ${CLIENT_KEY}`,
      ...(body === undefined || body instanceof FormData ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
  })
  const text = await answer.text()
  const isJson = answer.headers.get('content-type')?.includes('json') === true
  return {
    status: answer.status,
    value: isJson ? JSON.parse(text) : text,
    backend: answer.headers.get('x-proxy-backend'),
  }
}

t.test('a conversation is made where most models are served, and lives there', async t => {
  const { proxy } = await stage(t)
  const made = await call(proxy, 'POST', '/v1/conversations', { items: [{ role: 'user', content: 'Hello' }] })
  t.equal(made.status, 200)
  t.equal(made.backend, 'b3', 'the only resource of both models')
  const id = String(dig(made.value, 'id'))
  t.equal((await call(proxy, 'GET', `/openai/v1/conversations/${id}`)).status, 200)
  const turn = await call(proxy, 'POST', '/v1/responses', { model: 'gpt-4o', input: 'Hi', conversation: id })
  t.match(turn, { status: 200, backend: 'b3' })
  const items = await call(proxy, 'GET', `/v1/conversations/${id}/items?limit=10&order=asc`)
  t.match(dig(items.value, 'data'), { length: 4 })
  const added = await call(proxy, 'POST', `/v1/conversations/${id}/items`, { items: [{ role: 'user', content: 'x' }] })
  const item = String(dig(added.value, 'data.0.id'))
  t.equal((await call(proxy, 'GET', `/v1/conversations/${id}/items/${item}`)).status, 200)
  t.equal((await call(proxy, 'DELETE', `/v1/conversations/${id}/items/${item}`)).status, 200)
  for (const method of ['GET', 'POST', 'DELETE']) {
    const foreign = { authorization: 'Bearer other-key-1' }
    t.match(await call(proxy, method, `/v1/conversations/${id}`, method === 'POST' ? {} : undefined, foreign), {
      status: 404,
      value: { error: { code: 'response_not_found' } },
    })
  }
  t.equal((await call(proxy, 'POST', `/v1/conversations/${id}`, { metadata: { a: 'b' } })).status, 200)
  t.equal((await call(proxy, 'DELETE', `/v1/conversations/${id}`)).status, 200)
  t.equal((await call(proxy, 'GET', `/v1/conversations/${id}`)).status, 404)
  t.equal((await call(proxy, 'PUT', `/v1/conversations/${id}`)).status, 405)
})

t.test('a conversation that the proxy has not seen made is found', async t => {
  const { proxy, backends } = await stage(t)
  const answer = await fetch(`${backends[1]?.url}/openai/v1/conversations`, {
    method: 'POST',
    headers: { 'api-key': 'azure-key', 'content-type': 'application/json' },
    body: '{}',
  })
  const { id } = Object(await answer.json())
  t.match(await call(proxy, 'GET', `/v1/conversations/${id}`), { status: 200, backend: 'b2' })
  t.match(await call(proxy, 'GET', '/v1/conversations/conv_none'), {
    status: 404,
    value: { error: { message: /not found/ } },
  })
})

t.test('files and batches need a backend’s name until the proxy has seen them made', async t => {
  const { proxy, backends } = await stage(t)
  const form = new FormData()
  form.set('file', new Blob(['{"x":1}']), 'batch.jsonl')
  form.set('purpose', 'batch')
  t.match(await call(proxy, 'POST', '/v1/files', form), {
    status: 404,
    value: { error: { code: 'unknown_url', message: /x-proxy-backend/ } },
  })
  const named = { 'x-proxy-backend': 'b2' }
  const file = await call(proxy, 'POST', '/v1/files', form, named)
  t.match(file, { status: 200, backend: 'b2' })
  const id = String(dig(file.value, 'id'))
  t.match(await call(proxy, 'GET', `/v1/files/${id}`), { status: 200, backend: 'b2' })
  t.equal((await call(proxy, 'GET', `/openai/v1/files/${id}/content`)).value, '{"x":1}')
  const batch = await call(proxy, 'POST', '/v1/batches?x-proxy-backend=b2', { input_file_id: id })
  t.match(batch, { status: 201, backend: 'b2' })
  t.equal((await call(proxy, 'POST', `/v1/batches/${dig(batch.value, 'id')}/cancel`)).status, 200)
  t.equal((await call(proxy, 'POST', '/v1/batches', { input_file_id: id }, { 'x-proxy-backend': 'b1' })).status, 404)
  t.equal((await call(proxy, 'GET', '/v1/files', undefined, named)).status, 200)
  t.equal((await call(proxy, 'POST', '/v1/evals', {}, { ...named, 'aoai-evals': 'preview' })).status, 200)
  t.equal((await call(proxy, 'GET', '/v1/chat/completions', undefined, named)).status, 200)
  t.equal((await call(proxy, 'GET', '/v1/chat/completions')).status, 405)
  const received = backends[1]?.resource.requests ?? []
  t.ok(
    received.every(({ headers, url }) => headers['x-proxy-backend'] === undefined && !url.includes('x-proxy-backend')),
  )
  t.equal((await call(proxy, 'DELETE', `/v1/files/${id}`)).status, 200)
  t.equal((await call(proxy, 'GET', `/v1/files/${id}`)).status, 404)
  backends[1]?.resource.always(throttle(7))
})

t.test('a key reaches only backends of its models, and not what another key has made', async t => {
  const { proxy } = await stage(t)
  const form = new FormData()
  form.set('file', new Blob(['x']), 'x.txt')
  form.set('purpose', 'assistants')
  const narrow = { authorization: 'Bearer narrow-key-1' }
  t.match(await call(proxy, 'POST', '/v1/files', form, { ...narrow, 'x-proxy-backend': 'b1' }), {
    status: 404,
    value: { error: { code: 'unknown_url' } },
  })
  t.equal((await call(proxy, 'POST', '/v1/files', form, { ...narrow, 'x-proxy-backend': 's1' })).status, 200)
  const mine = await call(proxy, 'POST', '/v1/files', form, { 'x-proxy-backend': 'b3' })
  const id = String(dig(mine.value, 'id'))
  t.match(id, /^assistant-/)
  t.equal((await call(proxy, 'GET', `/v1/files/${id}`, undefined, narrow)).status, 404)
  t.equal((await call(proxy, 'GET', `/v1/files/${id}`)).status, 200)
})

async function upload(proxy: RunningProxy, backend: string, headers: Record<string, string> = {}): Promise<string> {
  const form = new FormData()
  form.set('file', new Blob(['x']), 'x.txt')
  form.set('purpose', 'user_data')
  const made = await call(proxy, 'POST', '/v1/files', form, { 'x-proxy-backend': backend, ...headers })
  return String(dig(made.value, 'id'))
}

const withFile = (id: string) => ({
  model: 'gpt-4o',
  input: [{ role: 'user', content: [{ type: 'input_file', file_id: id }] }],
})

t.test('a request that names a file, a vector store or a container goes to the resource that made it', async t => {
  const { proxy } = await stage(t)
  const file = await upload(proxy, 'b2')
  const made = async (path: string, body: object): Promise<string> =>
    String(dig((await call(proxy, 'POST', path, body, { 'x-proxy-backend': 'b3' })).value, 'id'))
  const store = await made('/v1/vector_stores', { name: 's' })
  const container = await made('/v1/containers', { name: 'c' })
  const ask = { model: 'gpt-4o', input: 'Hi' }
  for (const [backend, path, body] of [
    ['b2', '/v1/responses', withFile(file)],
    [
      'b2',
      '/v1/responses',
      { ...ask, tools: [{ type: 'code_interpreter', container: { type: 'auto', file_ids: [file] } }] },
    ],
    [
      'b2',
      '/v1/chat/completions',
      { model: 'gpt-4o', messages: [{ role: 'user', content: [{ type: 'file', file: { file_id: file } }] }] },
    ],
    ['b3', '/v1/responses', { ...ask, tools: [{ type: 'file_search', vector_store_ids: [store] }] }],
    ['b3', '/v1/responses', { ...ask, tools: [{ type: 'code_interpreter', container }] }],
  ] as const) {
    for (let i = 0; i < 4; i++) t.match(await call(proxy, 'POST', path, body), { status: 200, backend })
  }
  t.match(await call(proxy, 'POST', '/v1/responses', withFile('file-nobodys')), {
    status: 404,
    value: { error: { message: 'No such File object: file-nobodys' } },
  })
})

t.test(
  'a batch, a vector store or a job goes where the file is that its body names, without a backend’s name',
  async t => {
    const { proxy } = await stage(t)
    const file = await upload(proxy, 'b2')
    for (const [path, body] of [
      ['/v1/batches', { input_file_id: file, endpoint: '/v1/chat/completions' }],
      ['/v1/fine_tuning/jobs', { training_file: file, model: 'gpt-4o' }],
      ['/v1/vector_stores', { file_ids: [file] }],
    ] as const) {
      const made = await call(proxy, 'POST', path, body)
      t.match(made, { backend: 'b2' }, path)
      t.ok(made.status < 300, path)
    }
    t.match(await call(proxy, 'POST', '/v1/batches', { input_file_id: 'file-unknown' }), {
      status: 404,
      value: { error: { code: 'unknown_url', message: /x-proxy-backend/ } },
    })
  },
)

t.test('another key’s file is not there, however its name is spelt and wherever it stands', async t => {
  const { proxy } = await stage(t)
  const file = await upload(proxy, 'b2')
  const other = { authorization: 'Bearer other-key-1', 'content-type': 'application/json' }
  const refused = { status: 404, value: { error: { code: 'response_not_found' } } }
  t.match(await call(proxy, 'POST', '/v1/responses', withFile(file), other), refused)
  t.match(await call(proxy, 'POST', '/v1/batches', { input_file_id: file }, other), refused)
  t.match(
    await call(proxy, 'POST', '/v1/batches', { input_file_id: file }, { ...other, 'x-proxy-backend': 'b2' }),
    refused,
    'nor with the name of its backend',
  )
  const spelt = JSON.stringify(withFile(file))
    .replace('file_id', 'file\\u005fid')
    .replace(file, file.replace('f', '\\u0066'))
  const answer = await fetch(`${proxy.url}/v1/responses`, { method: 'POST', headers: other, body: spelt })
  t.equal(answer.status, 404)
  t.match(await answer.json(), { error: { code: 'response_not_found', param: 'file_id' } })
  t.match(await call(proxy, 'POST', '/v1/responses', withFile(file)), { status: 200, backend: 'b2' })
})
