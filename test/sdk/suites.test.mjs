// Official SDKs, with their own retries off so that a single lost call shows: openai-node, Anthropic's, Vercel's AI SDK.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import Anthropic from '@anthropic-ai/sdk'
import { generateText, jsonSchema, streamText, tool } from 'ai'
import OpenAI, { AzureOpenAI } from 'openai'
import { ResponsesWS } from 'openai/resources/responses/ws'

const { PROXY_URL = '', PROXY_KEY = '', PROXY_MODE = '' } = process.env
const IS_DEMO = PROXY_MODE === 'demo'
/** The demo's backends take their time. */
const TIMES = IS_DEMO ? 2 : 12
/** Where faults come and go, through several of their rounds. */
const AT_LEAST_MS = IS_DEMO ? 0 : 5_000
const messages = [{ role: 'user', content: 'Hello' }]
const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
}
const TOOL = { name: 'weather', description: 'Weather of a city', parameters: SCHEMA }

async function repeat(run) {
  const untilMs = performance.now() + AT_LEAST_MS
  for (let i = 0; i < TIMES || performance.now() < untilMs; i++) await run(i)
}

const clients = {
  'OpenAI on /v1': new OpenAI({ baseURL: `${PROXY_URL}/v1`, apiKey: PROXY_KEY, maxRetries: 0 }),
  'OpenAI on /openai/v1': new OpenAI({ baseURL: `${PROXY_URL}/openai/v1`, apiKey: PROXY_KEY, maxRetries: 0 }),
  AzureOpenAI: new AzureOpenAI({
    endpoint: PROXY_URL,
    apiKey: PROXY_KEY,
    apiVersion: '2025-04-01-preview',
    maxRetries: 0,
  }),
}

for (const [name, client] of Object.entries(clients)) {
  test(`${name}: chat, streams, tools, structured outputs`, () =>
    repeat(async () => {
      const chat = await client.chat.completions.create({ model: 'gpt-4o', messages })
      assert.ok(chat.choices[0]?.message.content)
      let text = ''
      const stream = await client.chat.completions.create({ model: 'gpt-4o', messages, stream: true })
      for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? ''
      assert.ok(text)
      const tools = [{ type: 'function', function: TOOL }]
      const called = await client.chat.completions.create({ model: 'gpt-4o', messages, tools, tool_choice: 'required' })
      assert.equal(called.choices[0]?.message.tool_calls?.[0]?.function.name, 'weather')
      const parsed = await client.chat.completions.parse({
        model: 'gpt-4o',
        messages,
        response_format: { type: 'json_schema', json_schema: { name: 'place', schema: SCHEMA, strict: true } },
      })
      assert.equal(JSON.parse(parsed.choices[0].message.content).city, 'x')
      const { data } = await client.embeddings.create({ model: 'text-embedding-3-small', input: 'Hello' })
      assert.ok(data[0]?.embedding.length)
    }))

  test(`${name}: responses, chained, stored, streamed`, async () => {
    let previous
    await repeat(async () => {
      // The owner of a chain may fail; a client's own retries are what it would need in front of Azure too.
      const patient = client.withOptions({ maxRetries: 2 })
      const more = previous === undefined ? {} : { previous_response_id: previous }
      const response = await patient.responses.create({ model: 'gpt-4o', input: 'Hello', ...more })
      previous = response.id
      assert.equal((await patient.responses.retrieve(response.id)).id, response.id)
      let text = ''
      for await (const event of await client.responses.create({ model: 'gpt-4o', input: 'Hi', stream: true })) {
        if (event.type === 'response.output_text.delta') text += event.delta
      }
      assert.ok(text)
    })
  })
}

/** So many turns of one session, each naming the one before. */
async function socketTurns(count) {
  const socket = new ResponsesWS(clients['OpenAI on /v1'])
  const turns = []
  await new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('event', event => {
      if (event.type !== 'response.completed') return
      turns.push(event.response.id)
      if (turns.length === count) resolve()
      else ask(event.response.id)
    })
    const ask = previous =>
      socket.send({
        type: 'response.create',
        model: 'gpt-4o',
        input: 'Hi',
        store: false,
        ...(previous === undefined ? {} : { previous_response_id: previous }),
      })
    ask(undefined)
  })
  socket.close()
  assert.equal(new Set(turns).size, count)
}

// What only the socket's resource holds nobody else can go on with: where resources fail, a session has one turn.
test('openai-node: Responses over WebSocket', () => repeat(() => socketTurns(IS_DEMO ? 3 : 1)))

test('openai-node: decisions', async () => {
  const client = clients['OpenAI on /v1']
  const questions = [{ type: 'predicate', name: 'refund', instructions: 'Is a refund asked for?' }]
  await repeat(async () => {
    const { answers } = await client.decisions.create({ model: 'gpt-6-luna', input: 'Money back!', questions })
    assert.equal(answers[0]?.name, 'refund')
  })
})

test('Anthropic: messages, streams, tools, counting, errors', async () => {
  for (const baseURL of [PROXY_URL, `${PROXY_URL}/anthropic`]) {
    const client = new Anthropic({ baseURL, apiKey: PROXY_KEY, maxRetries: 0 })
    const body = { model: 'claude-sonnet-5', max_tokens: 100, messages }
    await repeat(async () => {
      assert.equal((await client.messages.create(body)).stop_reason, 'end_turn')
      const final = await client.messages.stream(body).finalMessage()
      assert.ok(final.usage.input_tokens > 0)
      assert.equal(final.content[0]?.type, 'text')
      const tools = [{ name: 'weather', input_schema: SCHEMA }]
      const called = await client.messages.create({ ...body, tools, tool_choice: { type: 'any' } })
      assert.equal(called.content.at(-1)?.type, 'tool_use')
      assert.ok((await client.messages.countTokens({ model: body.model, messages })).input_tokens > 0)
    })
    await assert.rejects(client.messages.create({ ...body, model: 'nope' }), Anthropic.NotFoundError)
    const stranger = new Anthropic({ baseURL, apiKey: 'nobody', maxRetries: 0 })
    await assert.rejects(stranger.messages.create(body), Anthropic.AuthenticationError)
  }
})

test('AI SDK: text, streams, tools over several steps, items referred to', async () => {
  const openai = createOpenAI({ baseURL: `${PROXY_URL}/v1`, apiKey: PROXY_KEY })
  const weather = tool({ description: 'Weather', inputSchema: jsonSchema(SCHEMA), execute: async () => 'sun' })
  await repeat(async () => {
    for (const model of [openai.chat('gpt-4o'), openai.responses('gpt-4o')]) {
      assert.ok((await generateText({ model, prompt: 'Hello', maxRetries: 2 })).text)
      let text = ''
      for await (const part of streamText({ model, prompt: 'Hello', maxRetries: 2 }).textStream) text += part
      assert.ok(text)
    }
    const model = openai.responses('gpt-4o')
    const first = await generateText({
      model,
      prompt: 'Weather?',
      tools: { weather },
      toolChoice: 'required',
      maxRetries: 2,
    })
    const history = [
      { role: 'user', content: 'Weather?' },
      ...first.response.messages,
      { role: 'user', content: 'And?' },
    ]
    assert.ok((await generateText({ model, messages: history, tools: { weather }, maxRetries: 2 })).text)
  })
})
