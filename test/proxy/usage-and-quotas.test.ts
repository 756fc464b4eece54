// The use of requests: the log's sums against the backend's own count, cost, and limits of days and months.
import path from 'node:path'
import t, { type Test } from 'tap'
import { createUsageLedger, type UsageLedger } from '../../lib/balancer/usage-ledger.ts'
import { systemClock } from '../../lib/clock.ts'
import { FAULT_HEADER, fail } from '../../lib/simulator/faults.ts'
import { createUsageReport } from '../../lib/usage/report.ts'
import { startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const PRICE = 'price: {input: 2.5, cached_input: 1.25, output: 10}'

function ledgerOf(file: string): UsageLedger {
  return createUsageLedger({
    clock: systemClock(),
    file,
    onProblem(message) {
      throw new Error(message)
    },
  })
}

function quotaConfig(url: string, limits: string, model = PRICE): string {
  return configFor([{ url }], { model: `${model}\n    stream_usage: true` }).replace(
    /auth: .*/,
    `auth: {keys: [{name: tester, key: client-key-1, limits: {${limits}}}, {name: other, key: client-key-2}]}`,
  )
}

/** The sums of all request lines of a proxy. */
function sumsOf({ lines }: RunningProxy) {
  const report = createUsageReport({ by: ['key'] })
  for (const line of lines) report.add(JSON.stringify(line))
  return report.rows()
}

interface Counted {
  readonly prompt_tokens: number
  readonly completion_tokens?: number
  readonly prompt_tokens_details?: { readonly cached_tokens: number }
}

function body(i: number, more: object): Record<string, unknown> {
  const content = `Request ${i}: ${'tell me more about it. '.repeat(i % 17)}`
  return { model: 'gpt-4o', messages: [{ role: 'user', content }], ...more }
}

t.test('the sums of --usage are the backend’s own count, to the token', async t => {
  const { resource, url } = await startResource(t, { deltas: 9, faultHeader: true })
  // The backend's own count for a body: a second backend of the same kind, asked directly.
  const { url: direct } = await startResource(t, { deltas: 9, faultHeader: true })
  const spare = await startResource(t, { deltas: 9, faultHeader: true })
  const proxy = await runProxy(
    t,
    configFor([{ url }, { url: spare.url, more: 'priority: 2' }], { model: `${PRICE}\n    stream_usage: true` }),
  )
  const expected = { requests: 0, prompt: 0, completion: 0, cached: 0 }
  for (let i = 0; i < 60; i++) {
    const stream = i % 2 === 0
    const asksUsage = i % 4 === 0
    const aborts = i % 15 === 14 || i % 10 === 6
    if (i % 7 === 3 && !aborts) resource.next(fail(503))
    const more = { ...(stream ? { stream } : {}), ...(asksUsage ? { stream_options: { include_usage: true } } : {}) }
    const given = body(i, more)
    expected.requests++
    const done = proxy.line('request')
    if (aborts) {
      // Before its first byte: nobody counts what was never answered.
      const reached = (): number => resource.requests.length + spare.resource.requests.length
      const before = reached()
      const controller = new AbortController()
      const asked = proxy.post('/v1/chat/completions', given, {
        signal: controller.signal,
        headers: { [FAULT_HEADER]: 'silence' },
      })
      await until(() => reached() > before)
      controller.abort()
      await t.rejects(asked)
      t.match(await done, { status: 499, prompt_tokens: null, cost: null })
      continue
    }
    const answer = await proxy.post('/v1/chat/completions', given)
    t.equal(answer.status, 200)
    await answer.text()
    await done
    const counted = await fetch(`${direct}/openai/v1/chat/completions`, {
      method: 'POST',
      headers: { 'api-key': 'azure-key', 'content-type': 'application/json' },
      body: JSON.stringify(body(i, {})),
    })
    const { usage }: { usage: Counted } = JSON.parse(await counted.text())
    expected.prompt += usage.prompt_tokens
    expected.completion += usage.completion_tokens ?? 0
    expected.cached += usage.prompt_tokens_details?.cached_tokens ?? 0
  }
  const [row] = sumsOf(proxy).filter(({ group }) => group[0] === 'tester')
  t.equal(row?.promptTokens, expected.prompt)
  t.equal(row?.completionTokens, expected.completion)
  t.equal(row?.requests, expected.requests)
  const metrics = await (await fetch(`${proxy.url}/metrics`)).text()
  t.match(
    metrics,
    new RegExp(`^proxy_tokens_total\\{model="gpt-4o",key="tester",kind="prompt"\\} ${expected.prompt}$`, 'm'),
  )
  const cost = Number(/^proxy_cost_total\{model="gpt-4o",key="tester"\} (.*)$/m.exec(metrics)?.[1])
  t.ok(Math.abs(cost - (row?.cost ?? 0)) < 1e-6, 'log and metrics agree on the cost')
})

/** What an answer says of its usage, as its client reads it. */
function usageIn(text: string): { readonly prompt: number; readonly completion: number; readonly cached: number } {
  const sum = { prompt: 0, completion: 0, cached: 0 }
  // The last word on each counts: a stream of Claude corrects its first one.
  for (const [, json = '{}'] of text.matchAll(/"usage":\s*(\{(?:[^{}]|\{[^{}]*\})*\})/g)) {
    const usage: Readonly<Record<string, unknown>> = JSON.parse(json)
    const number = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined)
    const details = Object(usage.prompt_tokens_details ?? usage.input_tokens_details ?? {})
    const read = number(usage.cache_read_input_tokens)
    const fresh = number(usage.prompt_tokens) ?? number(usage.input_tokens)
    if (fresh !== undefined) sum.prompt = fresh + (read ?? 0) + (number(usage.cache_creation_input_tokens) ?? 0)
    sum.completion = number(usage.completion_tokens) ?? number(usage.output_tokens) ?? sum.completion
    sum.cached = number(details.cached_tokens) ?? read ?? sum.cached
  }
  return sum
}

function audio(stream: boolean): FormData {
  const form = new FormData()
  form.set('model', 'transcribe')
  form.set('file', new Blob(['RIFF....WAVEfmt ']), 'a.wav')
  if (stream) form.set('stream', 'true')
  return form
}

t.test('every operation is counted as its answers say, plain and streamed', async t => {
  const kinds = ['chat', 'embeddings', 'completion', 'image', 'transcription', 'decision', 'claude'] as const
  const { url } = await startResource(t, {
    promptCache: true,
    deployments: kinds.map(kind => ({ name: kind === 'transcription' ? 'transcribe' : kind, kind })),
  })
  const models = kinds.map(kind => (kind === 'transcription' ? 'transcribe' : kind))
  const proxy = await runProxy(
    t,
    `auth: {keys: [{name: tester, key: client-key-1}]}
models:
${models.map(name => `  ${name}: {price: {input: 2, output: 8}, backends: [{name: b, endpoint: "${url}", api_key: azure-key}]}`).join('\n')}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
health_check: {enabled: false}`,
  )
  const long = 'A sentence that is repeated until the cache of prompts takes it. '.repeat(120)
  const messages = [{ role: 'user', content: long }]
  const claude = { model: 'claude', max_tokens: 50, messages }
  const asked: readonly (readonly [path: string, body: object])[] = [
    ['/v1/chat/completions', { model: 'chat', messages }],
    ['/v1/chat/completions', { model: 'chat', messages, stream: true, stream_options: { include_usage: true } }],
    ['/v1/responses', { model: 'chat', input: long }],
    ['/v1/responses', { model: 'chat', input: long, stream: true }],
    ['/v1/embeddings', { model: 'embeddings', input: ['one', 'two and three'] }],
    ['/v1/completions', { model: 'completion', prompt: 'Once upon a time' }],
    ['/v1/completions', { model: 'completion', prompt: 'Once', stream: true, stream_options: { include_usage: true } }],
    ['/v1/images/generations', { model: 'image', prompt: 'a house' }],
    ['/v1/audio/transcriptions', audio(false)],
    ['/v1/audio/transcriptions', audio(true)],
    [
      '/v1/decisions',
      { model: 'decision', input: 'Is it late?', questions: [{ type: 'predicate', question: 'late?' }] },
    ],
    ['/anthropic/v1/messages', claude],
    ['/anthropic/v1/messages', { ...claude, stream: true }],
    ['/anthropic/v1/messages/count_tokens', { model: 'claude', messages }],
  ]
  const total = { requests: 0, prompt: 0, completion: 0, cached: 0 }
  for (const [path, given] of asked) {
    const isForm = given instanceof FormData
    const done = proxy.line('request')
    const answer = await fetch(`${proxy.url}${path}`, {
      method: 'POST',
      headers: {
        authorization: 'Bearer client-key-1',
        'anthropic-version': '2023-06-01',
        ...(isForm ? {} : { 'content-type': 'application/json' }),
      },
      body: isForm ? given : JSON.stringify(given),
    })
    const text = await answer.text()
    t.equal(answer.status, 200, `${path}: ${text.slice(0, 200)}`)
    const said = usageIn(text)
    const line = await done
    const counted = {
      prompt: line.prompt_tokens ?? 0,
      completion: line.completion_tokens ?? 0,
      cached: line.cached_tokens ?? 0,
    }
    t.same(counted, said, `${path} ${JSON.stringify(given).slice(-60)}`)
    total.requests++
    total.prompt += said.prompt
    total.completion += said.completion
    total.cached += said.cached
  }
  const [row] = sumsOf(proxy)
  t.match(row, {
    requests: total.requests,
    promptTokens: total.prompt,
    completionTokens: total.completion,
    cachedTokens: total.cached,
  })
  t.ok(total.cached > 0, 'the cache of prompts was met')
})

t.test('a client that leaves a stream after its usage has come is counted', async t => {
  const backend = await startRawBackend(t)
  const proxy = await runProxy(t, configFor([{ url: backend.url }], { model: PRICE }))
  const controller = new AbortController()
  const asked = proxy.post(
    '/v1/chat/completions',
    { ...body(1, {}), stream: true, stream_options: { include_usage: true } },
    { signal: controller.signal },
  )
  const request = await backend.next()
  const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
  request.send('HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n')
  const events =
    event({ choices: [{ index: 0, delta: { content: 'Hi' } }] }) +
    event({ choices: [], usage: { prompt_tokens: 1_000_000, completion_tokens: 100_000, total_tokens: 1_100_000 } })
  request.send(`${events.length.toString(16)}\r\n${events}\r\n`)
  const reader = (await asked).body?.getReader()
  let seen = ''
  while (!seen.includes('total_tokens')) seen += Buffer.from((await reader?.read())?.value ?? []).toString()
  const line = proxy.line('request')
  controller.abort()
  t.match(await line, { status: 499, prompt_tokens: 1_000_000, completion_tokens: 100_000, cost: 3.5 })
})

t.test('a stored response that is read again is not counted again', async t => {
  const { url } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url }], { model: PRICE }))
  const made = await proxy.post('/v1/responses', { model: 'gpt-4o', input: 'Hello' })
  const { id }: { id: string } = JSON.parse(await made.text())
  const [first] = sumsOf(proxy)
  const read = proxy.line('request')
  const again = await fetch(`${proxy.url}/v1/responses/${id}`, { headers: { authorization: 'Bearer client-key-1' } })
  t.equal(again.status, 200)
  await again.text()
  t.match(await read, { method: 'GET', prompt_tokens: null, cost: null })
  t.equal(sumsOf(proxy)[0]?.promptTokens, first?.promptTokens)
})

async function refusal(t: Test, answer: Response): Promise<string> {
  t.equal(answer.status, 429)
  t.equal(answer.headers.get('x-should-retry'), 'false')
  const { error }: { error: { code: string; type: string; message: string } } = JSON.parse(await answer.text())
  t.match(error, { code: 'quota_exceeded', type: 'rate_limit_error' })
  return error.message
}

t.test('a key that has used its tokens of the day is refused until midnight, others are not', async t => {
  const { url, resource } = await startResource(t)
  const ledger = ledgerOf(path.join(t.testdir(), 'usage.jsonl'))
  const proxy = await runProxy(t, quotaConfig(url, 'tokens_per_day: 30'), { ledger })
  let served = 0
  let answer = await proxy.chat({ stream: true })
  for (; answer.status === 200; answer = await proxy.chat({ stream: true })) {
    served++
    await answer.text()
    // The sum is known when the request has ended, a moment after its last byte.
    await until(() => proxy.lines.filter(({ msg }) => msg === 'request').length === served)
  }
  const message = await refusal(t, answer)
  t.match(message, /"tester" has used its 30 tokens a day \(tokens_per_day\).* ends at \d{4}-\d\d-\d\dT00:00:00Z/)
  const used = ledger.used('tester').tokensToday
  t.ok(used >= 30 && used < 30 + used / served + 1, `used ${used} in ${served}`)
  t.equal(resource.requests.length, served, 'what is refused goes nowhere')
  const other = await proxy.chat({ headers: { authorization: 'Bearer client-key-2' } })
  t.equal(other.status, 200)
  await other.text()
  const metrics = await (await fetch(`${proxy.url}/metrics`)).text()
  t.match(metrics, /^proxy_key_limited_total\{key="tester",limit="tokens_per_day"\} 1$/m)
})

t.test('what was used of a month is known after a restart', async t => {
  const { url } = await startResource(t)
  const file = path.join(t.testdir(), 'usage.jsonl')
  const text = quotaConfig(url, 'cost_per_month: 0.000001')
  const ledger = ledgerOf(file)
  const first = await runProxy(t, text, { ledger })
  const done = first.line('request')
  await (await first.chat()).text()
  t.ok(Number((await done).cost) > 0.000001)
  ledger.close()
  const second = await runProxy(t, text, { ledger: ledgerOf(file) })
  t.match(await refusal(t, await second.chat()), /a cost of 0\.000001 a month/)
})
