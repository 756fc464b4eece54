// The simulated resource, asked without a proxy: as strict as Azure, and able to serve real agents.
import t, { type Test } from 'tap'
import { closeTurn, denyItem, errorEvent, fail, turnError } from '../../lib/simulator/faults.ts'
import { dig } from '../fixtures/dig.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const SCHEMA = {
  type: 'object',
  properties: {
    name: { type: 'string' },
    kind: { enum: ['b', 'a'] },
    parts: { type: 'array', items: { $ref: '#/$defs/part' } },
    maybe: { anyOf: [{ type: 'null' }, { type: 'integer', minimum: 3 }] },
  },
  $defs: { part: { type: 'object', properties: { on: { type: 'boolean' }, at: { type: 'string', format: 'date' } } } },
}
const INSTANCE = { name: 'x', kind: 'b', parts: [{ on: true, at: '2026-01-02' }], maybe: 3 }
const TOOL = { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } }

interface Asked {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly value: unknown
}

async function ask({ url }: StartedResource, path: string, body?: unknown, init: RequestInit = {}): Promise<Asked> {
  const response = await fetch(`${url}${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...init,
    headers: { 'api-key': 'azure-key', 'content-type': 'application/json', ...init.headers },
  })
  const text = await response.text()
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {}
  return { status: response.status, headers: response.headers, text, value }
}

function start(t: Test, name = 'simulated'): Promise<StartedResource> {
  return startResource(t, {
    name,
    deployments: [
      { name: 'gpt-4o', kind: 'chat' },
      { name: 'luna', kind: 'decision' },
      { name: 'sonnet', kind: 'claude' },
    ],
  })
}

t.test('a schema gets an instance of it, a forced tool a call', async t => {
  const resource = await start(t)
  const messages = [{ role: 'user', content: 'Hi' }]
  const format = { type: 'json_schema', json_schema: { name: 'n', schema: SCHEMA } }
  const chat = await ask(resource, '/openai/v1/chat/completions', {
    model: 'gpt-4o',
    messages,
    response_format: format,
  })
  t.same(JSON.parse(String(dig(chat.value, 'choices.0.message.content'))), INSTANCE)
  const tools = [{ type: 'function', function: TOOL }]
  const called = await ask(resource, '/openai/v1/chat/completions', {
    model: 'gpt-4o',
    messages,
    tools,
    tool_choice: 'required',
  })
  t.match(dig(called.value, 'choices.0'), {
    finish_reason: 'tool_calls',
    message: { content: null, tool_calls: [{ function: { name: 'weather', arguments: '{"city":"x"}' } }] },
  })
  const streamed = await ask(resource, '/openai/v1/chat/completions', {
    model: 'gpt-4o',
    messages,
    tools,
    tool_choice: { type: 'function', function: { name: 'weather' } },
    stream: true,
  })
  t.match(streamed.text, /"tool_calls":\[\{"index":0,"id":"call_/)
  const text = { format: { type: 'json_schema', name: 'n', schema: SCHEMA } }
  const response = await ask(resource, '/openai/v1/responses', { model: 'gpt-4o', input: 'Hi', text })
  t.same(JSON.parse(String(dig(response.value, 'output.1.content.0.text'))), INSTANCE)
  const call = await ask(resource, '/openai/v1/responses', {
    model: 'gpt-4o',
    input: 'Hi',
    tools: [{ type: 'function', ...TOOL }],
    tool_choice: 'required',
    client_metadata: { session_id: 's' },
  })
  t.match(dig(call.value, 'output.1'), { type: 'function_call', name: 'weather', arguments: '{"city":"x"}' })
})

t.test('items, conversations and encrypted content are known where they were made, and nowhere else', async t => {
  const [home, other] = [await start(t, 'home'), await start(t, 'other')]
  const make = (resource: StartedResource, body: object): Promise<Asked> =>
    ask(resource, '/openai/v1/responses', { model: 'gpt-4o', ...body })
  const made = await make(home, { input: 'Hi', include: ['reasoning.encrypted_content'] })
  const reasoning = Object(dig(made.value, 'output.0'))
  const reference = [{ type: 'item_reference', id: reasoning.id }]
  t.equal((await make(home, { input: reference })).status, 200)
  t.match(await make(other, { input: reference }), {
    status: 400,
    value: { error: { message: `Item with id '${reasoning.id}' not found.`, param: 'input' } },
  })
  t.match(
    dig((await make(other, { input: reference, store: false })).value, 'error.message'),
    /Items are not persisted/,
  )
  t.match(dig((await make(home, { input: [{ type: 'item_reference' }] })).value, 'error.message'), /'input\[0\]\.id'/)
  home.resource.next(denyItem())
  t.equal((await make(home, { input: reference })).status, 400, 'now and then the owner denies it')
  t.equal((await make(home, { input: reference })).status, 200)
  t.equal(dig((await make(other, { input: [reasoning] })).value, 'error.code'), 'invalid_encrypted_content')
  t.match(dig((await make(home, { input: [{ ...reasoning, metadata: {} }] })).value, 'error.code'), 'unknown_parameter')

  const conversation = await ask(home, '/openai/v1/conversations', { items: [{ role: 'user', content: 'Hello' }] })
  const id = String(dig(conversation.value, 'id'))
  t.match(id, /^conv_/)
  t.equal(dig((await make(home, { input: 'Hi', conversation: { id } })).value, 'conversation.id'), id)
  const items = await ask(home, `/openai/v1/conversations/${id}/items?order=asc`)
  t.match(dig(items.value, 'data'), { length: 4 })
  t.equal((await make(other, { input: 'Hi', conversation: id })).status, 404)
  t.match((await ask(home, `/openai/v1/conversations/${id}`, undefined, { method: 'DELETE' })).value, { deleted: true })
})

t.test('decisions are answered in the order of their questions, by their own model only', async t => {
  const resource = await start(t)
  const questions = [
    { type: 'predicate', name: 'refund', instructions: 'Is a refund asked for?' },
    { type: 'choice', name: 'team', choices: [{ value: 'billing' }, { value: 'tech' }] },
  ]
  const answer = await ask(resource, '/openai/v1/decisions', { model: 'luna', input: 'x', questions })
  t.match(dig(answer.value, 'answers'), [
    { type: 'predicate', name: 'refund' },
    { type: 'choice', choice: 'billing' },
  ])
  t.equal(dig(answer.value, 'id'), undefined)
  const chat = await ask(resource, '/openai/v1/decisions', { model: 'gpt-4o', input: 'x', questions })
  t.match(chat, { status: 400, value: { error: { code: 'OperationNotSupported' } } })
})

t.test('Claude speaks its own dialect, and nothing else is served to it', async t => {
  const resource = await start(t)
  const body = { model: 'sonnet', max_tokens: 100, messages: [{ role: 'user', content: 'Hi' }] }
  const version = { 'anthropic-version': '2023-06-01' }
  const make = (more: object = {}, headers: Record<string, string> = version): Promise<Asked> =>
    ask(resource, '/anthropic/v1/messages', { ...body, ...more }, { headers })
  t.match((await make()).value, { type: 'message', stop_reason: 'end_turn', content: [{ type: 'text' }] })
  t.match((await make({}, {})).value, { type: 'error', error: { message: /anthropic-version/ } })
  t.match(dig((await make({ stream_options: {} })).value, 'error.message'), /Extra inputs/)
  const { text } = await make({ stream: true })
  t.match(text, /^event: message_start\n/)
  t.match(text, /event: ping\n/)
  t.match(text, /event: message_stop\ndata: \{"type":"message_stop"\}\n\n$/)
  t.match((await ask(resource, '/anthropic/v1/messages/count_tokens', body, { headers: version })).value, {
    input_tokens: Number,
  })
  t.equal(dig((await ask(resource, '/anthropic/v1/models')).value, 'error.code'), 'api_not_supported')
  const chat = { model: 'sonnet', messages: body.messages }
  t.equal(dig((await ask(resource, '/openai/v1/chat/completions', chat)).value, 'error.code'), 'api_not_supported')
  resource.resource.next(fail(529, 'claude'), errorEvent('claude', 3))
  t.match(await make(), { status: 529, value: { error: { type: 'overloaded_error' } } })
  t.match((await make({ stream: true })).text, /event: error\n.*overloaded_error/)
})

t.test('files and batches live in the resource that they were sent to', async t => {
  const [home, other] = [await start(t, 'home'), await start(t, 'other')]
  const form = new FormData()
  form.set('file', new Blob(['{}']), 'batch.jsonl')
  form.set('purpose', 'batch')
  const upload = { method: 'POST', body: form, headers: { 'api-key': 'azure-key' } }
  const made = await fetch(`${home.url}/openai/v1/files`, upload)
  const { id } = Object(await made.json())
  t.equal((await ask(home, `/openai/v1/files/${id}/content`)).text, '{}')
  t.equal((await ask(home, '/openai/v1/batches', { input_file_id: id })).status, 201)
  t.equal((await ask(other, '/openai/v1/batches', { input_file_id: id })).status, 404)
  t.equal((await ask(home, '/openai/v1/evals', {})).status, 400, 'evals want their header')
})

t.test(
  'Responses over WebSocket: turns in order, the latest response remembered, errors with their status',
  async t => {
    const clock = createFakeClock()
    const { resource, url } = await startResource(t, { clock, deltas: 3, socketLifeMs: 60_000 })
    const open = async (): Promise<ReturnType<typeof mustBeOpen>> =>
      mustBeOpen(await openWebSocket(`${url}/openai/v1/responses`, { authorization: 'Bearer azure-key' }))
    const socket = await open()
    const turn = async (more: object): Promise<unknown> => {
      socket.send({ type: 'response.create', model: 'gpt-4o', input: 'Hi', store: false, ...more })
      for (;;) {
        const event = await socket.next()
        if (event.type === 'response.completed' || event.type === 'error') return event
      }
    }
    const warm = await turn({ generate: false })
    t.same(dig(warm, 'response.output'), [])
    const second = await turn({ previous_response_id: dig(warm, 'response.id') })
    t.match(second, { type: 'response.completed', response: { output: [{}, { type: 'message' }] } })
    t.match(await turn({ previous_response_id: dig(warm, 'response.id') }), {
      type: 'error',
      status: 400,
      error: { code: 'previous_response_not_found' },
    })
    resource.nextTurn(turnError(503, 'server_error', { 'retry-after': '2' }))
    t.match(await turn({}), { status: 503, headers: { 'retry-after': '2' } })
    clock.advance(60_000)
    t.match(await turn({}), { status: 400, error: { code: 'websocket_connection_limit_reached' } })
    const last = await open()
    resource.nextTurn(closeTurn(1012, 2))
    last.send({ type: 'response.create', model: 'gpt-4o', input: 'Hi' })
    t.match(await last.ended, { code: 1012 })
    socket.close()
    await socket.ended
  },
)
