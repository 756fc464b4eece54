// Short capacity: the queue of retry.max_wait, waits that are true, the retry budget of an outage, Azure's own account
// of its limits. Then a server that is not Azure as the last tier.
import t, { type Test } from 'tap'
import { delay, silence, throttleBy } from '../../lib/simulator/faults.ts'
import type { ReceivedRequest, SimulatedResource } from '../../lib/simulator/resource.ts'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { jsonAnswer, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { requestLines, servedBy, until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const MAX_WAIT = `retry: {max_wait: 5s, max_attempts: 10}\n${NO_PROBES}`

interface Scene {
  readonly clock: FakeClock
  readonly first: SimulatedResource
  readonly second: SimulatedResource
  readonly running: RunningProxy
  /** Requests in the model's queue. */
  waiting(): number
}

/** One or two backends and a proxy, all on one clock. */
async function scene(
  t: Test,
  { rest = MAX_WAIT, lone = false, limits = {} as Readonly<Record<string, number>>, model = '', more = '' } = {},
): Promise<Scene> {
  const clock = createFakeClock()
  const first = await startResource(t, {
    name: 'first',
    clock,
    deployments: [{ name: 'gpt-4o', kind: 'chat', ...limits }],
  })
  const second = await startResource(t, { name: 'second', clock })
  const backends = [{ url: first.url, more }, ...(lone ? [] : [{ url: second.url }])]
  const running = await runProxy(t, configFor(backends, { rest, model }), { clock })
  const [pool] = running.proxy.runtime().pools
  if (pool === undefined) throw new Error('it has one model')
  return {
    clock,
    first: first.resource,
    second: second.resource,
    running,
    waiting: () => running.proxy.shared.waitQueue.waiting(pool),
  }
}

function say({ running }: Scene, content: string, signal?: AbortSignal): Promise<Response> {
  const body = { model: 'gpt-4o', messages: [{ role: 'user', content }] }
  return running.post('/v1/chat/completions', body, signal === undefined ? {} : { signal })
}

/** What the requests that arrived said, in their order. */
function said({ requests }: SimulatedResource): string[] {
  return requests.map(({ body }) => /"content":"([^"]*)"/.exec(body.toString())?.[1] ?? '')
}

t.test('a request waits for the backend that is back soonest, to the millisecond, and is served by it', async t => {
  const all = await scene(t)
  all.first.next(throttleBy({ kind: 'ms', ms: 4_000 }))
  all.second.next(throttleBy({ kind: 'ms', ms: 2_345 }))
  let settled = false
  const asked = say(all, 'one').finally(() => {
    settled = true
  })
  await until(() => all.waiting() === 1)
  all.clock.advance(2_344)
  t.equal(all.waiting(), 1)
  t.equal(settled, false)
  all.clock.advance(1)
  t.equal(all.waiting(), 0)
  t.same(await servedBy(t, [await asked]), { b2: 1 })
  t.same(said(all.second), ['one', 'one'])
  t.match((await requestLines(all.running, 1))[0], { status: 200, attempts: 3, duration_ms: 2_345 })
})

t.test('who came first is served first, also by a backend that takes one of them at a time', async t => {
  const all = await scene(t, { lone: true, limits: { provisionedPerSecond: 1 } })
  const served: string[] = []
  const names = ['zero', 'one', 'two', 'three', 'four']
  const asking: Promise<void>[] = []
  for (const [i, name] of names.entries()) {
    asking.push(
      say(all, name).then(async answer => {
        await answer.arrayBuffer()
        served.push(`${name} ${answer.status}`)
      }),
    )
    await until(() => (i === 0 ? served.length === 1 : all.waiting() === i))
  }
  for (let left = 4; left > 0; left--) {
    all.clock.advance(1_000)
    // One is served, and the others, refused again, are back in their places.
    await until(() => served.length === 6 - left && all.waiting() === left - 1)
  }
  await Promise.all(asking)
  t.same(
    served,
    names.map(name => `${name} 200`),
  )
})

t.test('a client that leaves leaves the queue, and nothing is asked for it', async t => {
  const all = await scene(t, { lone: true })
  all.first.next(throttleBy({ kind: 'ms', ms: 3_000 }))
  const leaving = new AbortController()
  const first = say(all, 'stays')
  await until(() => all.waiting() === 1)
  const second = say(all, 'leaves', leaving.signal).catch(() => 'gone')
  await until(() => all.waiting() === 2)
  const third = say(all, 'stays too')
  await until(() => all.waiting() === 3)
  leaving.abort()
  t.equal(await second, 'gone')
  await until(() => all.waiting() === 2)
  t.match((await requestLines(all.running, 1))[0], { status: 499, error: 'client_closed', attempts: 0 })
  all.clock.advance(3_000)
  t.same(await servedBy(t, await Promise.all([first, third])), { b1: 2 })
  t.same(said(all.first).sort(), ['stays', 'stays', 'stays too'])
})

t.test('a wait longer than retry.max_wait is told at once; one that is just as long is waited for', async t => {
  const all = await scene(t, { lone: true })
  all.first.next(throttleBy({ kind: 'ms', ms: 5_001 }))
  const told = await say(all, 'one')
  t.equal(told.status, 429)
  t.equal(told.headers.get('retry-after-ms'), '5001')
  t.equal(told.headers.get('retry-after'), '6')
  t.match(await told.json(), { error: { code: 'rate_limit_exceeded' } })
  all.clock.advance(1)
  const waited = say(all, 'two')
  await until(() => all.waiting() === 1)
  all.clock.advance(5_000)
  t.same(await servedBy(t, [await waited]), { b1: 1 })
})

t.test('a request waits for retry.max_wait in all, however often it is refused', async t => {
  const all = await scene(t, { lone: true })
  all.first.next(throttleBy({ kind: 'ms', ms: 3_000 }), throttleBy({ kind: 'ms', ms: 2_500 }))
  const asked = say(all, 'one')
  await until(() => all.waiting() === 1)
  all.clock.advance(3_000)
  const told = await asked
  t.equal(told.status, 429)
  t.equal(told.headers.get('retry-after-ms'), '2500')
  t.equal(all.waiting(), 0)
})

t.test('a queue of a thousand is full: the next one is told the wait at once, and the thousand are served', async t => {
  const all = await scene(t, { lone: true })
  all.first.next(throttleBy({ kind: 'ms', ms: 4_000 }))
  const waiting = [say(all, 'first')]
  await until(() => all.waiting() === 1)
  while (waiting.length < 1_000) waiting.push(say(all, 'more'))
  await until(() => all.waiting() === 1_000)
  all.clock.advance(1_500)
  const told = await say(all, 'too many')
  t.equal(told.status, 429)
  t.equal(told.headers.get('retry-after-ms'), '2500')
  t.equal(told.headers.get('retry-after'), '3')
  t.equal(all.waiting(), 1_000)
  all.clock.advance(2_500)
  t.same(await servedBy(t, await Promise.all(waiting)), { b1: 1_000 })
  t.notOk(said(all.first).includes('too many'))
})

t.test('without retry.max_wait nobody waits, and each is told what is left of the wait', async t => {
  const all = await scene(t, { rest: NO_PROBES, lone: true })
  all.first.next(throttleBy({ kind: 'ms', ms: 4_000 }))
  for (const [passedMs, ms, seconds] of [
    [0, '4000', '4'],
    [999, '3001', '4'],
    [3_000, '1', '1'],
  ] as const) {
    all.clock.advance(passedMs)
    const told = await say(all, 'one')
    await told.arrayBuffer()
    t.equal(told.status, 429)
    t.equal(told.headers.get('retry-after-ms'), ms)
    t.equal(told.headers.get('retry-after'), seconds)
    t.equal(told.headers.get('x-should-retry'), null)
  }
  t.equal(all.first.requests.length, 1, 'who said how long is not asked meanwhile')
  all.clock.advance(1)
  t.same(await servedBy(t, [await say(all, 'two')]), { b1: 1 })
})

t.test('a wait over a minute is told as a minute, with the word that retrying does not help yet', async t => {
  const all = await scene(t, { rest: NO_PROBES, lone: true })
  all.first.next(throttleBy({ kind: 'ms', ms: 60_001 }))
  for (const [ms, shouldRetry] of [
    ['60000', 'false'],
    ['60000', null],
    ['59999', null],
  ] as const) {
    const told = await say(all, 'one')
    await told.arrayBuffer()
    t.equal(told.status, 429)
    t.equal(told.headers.get('retry-after'), '60')
    t.equal(told.headers.get('retry-after-ms'), ms)
    t.equal(told.headers.get('x-should-retry'), shouldRetry)
    all.clock.advance(1)
  }
})

t.test('in a full outage no more than a fifth of the requests in flight try a second backend', async t => {
  const all = await scene(t, { rest: NO_PROBES })
  t.same(await servedBy(t, [await say(all, 'b1'), await say(all, 'b2'), await say(all, 'b1 again')]), { b1: 2, b2: 1 })
  const { health } = all.running.proxy.shared
  for (const member of all.running.proxy.runtime().pools.flatMap(({ members }) => members)) {
    health.probeFailed(member.health, 'probe_failed', 'ECONNREFUSED')
  }

  // The first is asked by all of them and then dies, at one stroke; the second answers when the clock is moved.
  all.first.always(silence())
  all.second.always(delay(1_000))
  const asked = Array.from({ length: 40 }, () => say(all, 'again'))
  await until(() => all.first.requests.length === 2 + 40)
  await all.first.close()
  await requestLines(all.running, 3 + 32)
  await until(() => all.second.requests.length === 1 + 8)
  all.clock.advance(1_000)
  const answers = await Promise.all(asked)
  t.equal(answers.filter(({ status }) => status === 200).length, 8, 'a fifth of forty')
  const refused = answers.filter(({ status }) => status === 503)
  t.equal(refused.length, 32)
  for (const answer of refused) {
    t.equal(answer.headers.get('retry-after'), '5')
    t.match(await answer.json(), { error: { code: 'no_backend' } })
  }
  t.equal(all.second.requests.length, 1 + 8)
})

t.test(
  'a deployment that says it has no request left is avoided until it has one, and never has to refuse',
  async t => {
    const all = await scene(t, { rest: NO_PROBES, limits: { requestsPerMinute: 2 } })
    const ask = async (count: number): Promise<Record<string, number>> => {
      const answers: Response[] = []
      for (let i = 0; i < count; i++) answers.push(await say(all, 'one'))
      return servedBy(t, answers)
    }
    t.same(await ask(20), { b1: 2, b2: 18 })
    all.clock.advance(29_999)
    t.same(await ask(10), { b2: 10 })
    all.clock.advance(1)
    t.same(await ask(10), { b1: 1, b2: 9 })
    t.equal(
      all.running.lines.find(({ msg }) => msg === 'backend throttled'),
      undefined,
    )
  },
)

t.test('so is one that says it has no token left', async t => {
  const all = await scene(t, { rest: NO_PROBES, limits: { tokensPerMinute: 600 } })
  const counts: Record<string, number> = {}
  for (let second = 0; second < 120; second++) {
    for (let i = 0; i < 4; i++) {
      for (const [name, count] of Object.entries(await servedBy(t, [await say(all, 'x'.repeat(400))]))) {
        counts[name] = (counts[name] ?? 0) + count
      }
    }
    all.clock.advance(1_000)
  }
  t.equal((counts.b1 ?? 0) + (counts.b2 ?? 0), 480)
  const bucket = { tokens: 600 + 2 * 600, perRequest: 116 }
  const fits = bucket.tokens / bucket.perRequest
  t.ok(Math.abs((counts.b1 ?? 0) - fits) <= 2, `it served ${counts.b1}, and ${fits} fit`)
  t.equal(
    all.running.lines.find(({ msg }) => msg === 'backend throttled'),
    undefined,
  )
})

t.test('one that says it has nothing left is asked all the same when nobody else is there', async t => {
  const all = await scene(t, { rest: NO_PROBES, lone: true, limits: { requestsPerMinute: 1 } })
  t.same(await servedBy(t, [await say(all, 'one')]), { b1: 1 })
  const told = await say(all, 'two')
  await told.arrayBuffer()
  t.equal(told.status, 429)
  t.equal(told.headers.get('retry-after-ms'), '60000')
  t.same(said(all.first), ['one', 'two'])
})

const ASKED = { stream_options: { include_usage: true } }

/** A chat stream through the proxy, with what else the body shall hold. */
async function stream({ running }: Scene, more: Readonly<Record<string, unknown>> = {}): Promise<Response> {
  const messages = [{ role: 'user', content: 'Hello' }]
  return running.post('/v1/chat/completions', { model: 'gpt-4o', stream: true, messages, ...more })
}

/** A stream's events, without what differs from one to the next. */
async function events(answer: Response): Promise<readonly string[]> {
  const text = await answer.text()
  return text
    .replace(/chatcmpl-\w+/g, 'id')
    .split('\n\n')
    .slice(0, -1)
}

const isUsage = (event: string): boolean => /"usage":\{/.test(event)

function bodyOf(request: ReceivedRequest | undefined): Readonly<Record<string, unknown>> {
  return JSON.parse(request?.body.toString() ?? 'null')
}

t.test(
  'stream_usage asks for usage in the client’s name, counts it, and takes exactly that event out again',
  async t => {
    const all = await scene(t, { lone: true, model: 'stream_usage: true' })
    const quiet = await events(await stream(all))
    t.same(bodyOf(all.first.requests[0]).stream_options, { include_usage: true })
    t.notOk(quiet.some(isUsage))
    t.equal(quiet.at(-1), 'data: [DONE]')
    const [line] = await requestLines(all.running, 1)
    t.ok(Number(line?.prompt_tokens) > 0 && Number(line?.completion_tokens) > 0, JSON.stringify(line))

    const asked = await events(await stream(all, ASKED))
    t.equal(asked.filter(isUsage).length, 1, 'a client that asked for it itself gets it')
    t.same(
      quiet,
      asked.filter(event => !isUsage(event)),
    )
  },
)

t.test('stream_usage keeps the client’s other options, and leaves alone what is no stream', async t => {
  const all = await scene(t, { lone: true, model: 'stream_usage: true' })
  await (await stream(all, { stream_options: { include_obfuscation: false } })).arrayBuffer()
  await (await stream(all, { stream_options: { include_usage: false } })).arrayBuffer()
  await (await stream(all, { stream_options: null })).arrayBuffer()
  await (await stream(all, { stream: false })).arrayBuffer()
  t.same(
    all.first.requests.map(request => bodyOf(request).stream_options),
    [{ include_obfuscation: false, include_usage: true }, { include_usage: true }, { include_usage: true }, undefined],
  )
})

t.test(
  'a backend that refuses the option is asked again without it, and that is remembered for ten minutes',
  async t => {
    const all = await scene(t, { lone: true, model: 'stream_usage: true', more: 'api_version: 2024-06-01' })
    const optionsSent = (): unknown[] => all.first.requests.map(request => bodyOf(request).stream_options)
    const wants = { include_usage: true }
    const first = await stream(all)
    t.equal(first.status, 200)
    t.equal(first.headers.get('x-proxy-attempts'), '1')
    t.equal((await events(first)).at(-1), 'data: [DONE]')
    t.same(optionsSent(), [wants, undefined])
    await (await stream(all)).arrayBuffer()
    t.same(optionsSent(), [wants, undefined, undefined])
    all.clock.advance(600_000)
    t.equal((await stream(all)).status, 200)
    t.same(optionsSent(), [wants, undefined, undefined, wants, undefined])

    const own = await stream(all, ASKED)
    t.equal(own.status, 400, 'a client that asks for it itself is told by the upstream')
    t.match(await own.json(), { error: { message: 'Unrecognized request argument supplied: stream_options' } })
  },
)

const REFUSED_BODY =
  '{"error":{"message":"Unknown parameter","type":"invalid_request_error","param":"stream_options.x"}}'
const OPTION_REFUSED = jsonAnswer(REFUSED_BODY).replace('200 OK', '400 Bad Request')
const ACCEPTED = jsonAnswer('{"object":"chat.completion","choices":[]}')
const OWN = { stream_options: { x: 1 } }
for (const { what, more, answers, status } of [
  { what: 'of a client, wrong in themselves,', more: OWN, answers: [OPTION_REFUSED, OPTION_REFUSED], status: 400 },
  { what: 'of a client, refused only with ours in them,', more: OWN, answers: [OPTION_REFUSED, ACCEPTED], status: 200 },
  { what: 'that are not the cause of a 400', more: {}, answers: [OPTION_REFUSED, OPTION_REFUSED], status: 400 },
]) {
  t.test(`stream_options ${what} do not switch usage counting off for the deployment`, async t => {
    const backend = await startRawBackend(t)
    const text = configFor([{ url: backend.url }], { rest: NO_PROBES, model: 'stream_usage: true' })
    const running = await runProxy(t, text)
    const ask = (own: Readonly<Record<string, unknown>>): Promise<Response> =>
      running.post('/v1/chat/completions', { model: 'gpt-4o', stream: true, messages: [], ...own })
    const sent: unknown[] = []
    const reply = async (bytes: string): Promise<void> => {
      const request = await backend.next()
      sent.push(JSON.parse(request.body.toString()).stream_options)
      request.send(bytes)
    }
    const asked = ask(more)
    for (const bytes of answers) await reply(bytes)
    const first = await asked
    await first.text()
    t.equal(first.status, status)

    const next = ask({})
    await reply(ACCEPTED)
    await (await next).text()
    const own = Reflect.get(more, 'stream_options')
    t.same(sent, [{ ...own, include_usage: true }, own, { include_usage: true }])
  })
}

/** Azure in front and an OpenAI-compatible server behind it, which has a path prefix and takes a Bearer token. */
async function withOpenAi(t: Test): Promise<{ azure: StartedResource; other: StartedResource; running: RunningProxy }> {
  const azure = await startResource(t, { name: 'azure' })
  const other = await startResource(t, {
    name: 'other',
    deployments: [{ name: 'deployed', kind: 'chat' }],
    keys: [],
    acceptsToken: token => token === 'sk-other',
  })
  const more = 'type: openai, deployment: deployed, priority: 2'
  const backends = [{ url: azure.url }, { url: `${other.url}/openai`, key: 'sk-other', more }]
  return { azure, other, running: await runProxy(t, configFor(backends, { rest: NO_PROBES })) }
}

t.test(
  'type: openai as the last tier: its path, its Bearer, its model, and the headers that Azure does not take',
  async t => {
    const { azure, other, running } = await withOpenAi(t)
    azure.resource.next(throttleBy({ kind: 'ms', ms: 1 }))
    const headers = { 'x-stainless-lang': 'js', 'x-stainless-retry-count': '0', 'openai-organization': 'org-1' }
    const answer = await running.chat({ headers })
    t.equal(answer.headers.get('x-proxy-backend'), 'b2')
    t.match(await answer.json(), { object: 'chat.completion' })
    const sent = other.resource.requests.at(-1)
    t.equal(sent?.url, '/openai/v1/chat/completions')
    t.match(sent?.headers, { authorization: 'Bearer sk-other', ...headers })
    t.equal(sent?.headers['api-key'], undefined)
    t.equal(bodyOf(sent).model, 'deployed')

    const refused = azure.resource.requests.at(-1)
    t.equal(refused?.headers['openai-organization'], 'org-1')
    t.equal(refused?.headers.authorization, undefined)
    t.same(
      Object.keys(refused?.headers ?? {}).filter(name => name.startsWith('x-stainless-')),
      [],
    )
    t.match((await requestLines(running, 1))[0], { backend: 'b2', spilled: true, attempts: 2 })
  },
)

t.test('type: openai: waits are read in its own form, 6m0s', async t => {
  const { azure, other, running } = await withOpenAi(t)
  azure.resource.next(throttleBy({ kind: 'ms', ms: 600_000 }))
  other.resource.next({ kind: 'fail', status: 429, family: 'model', headers: { 'x-ratelimit-reset-requests': '6m0s' } })
  const told = await running.chat()
  await told.arrayBuffer()
  t.equal(told.status, 429)
  t.same(
    running.lines.filter(({ msg }) => msg === 'backend throttled').map(({ for_ms }) => for_ms),
    [600_000, 360_000],
  )
})
