// Responses over WebSocket: the handshake on the URL of POST /v1/responses, and the choice of a backend by the first
// message. Turns are admitted, limited and logged like requests; a session ends in many ways.
import t, { type Test } from 'tap'
import {
  closeTurn,
  cutTurn,
  fail,
  hangUp,
  refuseWith,
  throttle,
  turnError,
  turnMessage,
} from '../../lib/simulator/faults.ts'
import { dig } from '../fixtures/dig.ts'
import { CLIENT_KEY, configFor, type RunningProxy, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, type OpenSocket, openWebSocket } from '../fixtures/websocket.ts'

const KEY = { authorization: `Bearer ${CLIENT_KEY}` }
type Event = Readonly<Record<string, unknown>>

const NO_PROBES = 'health_check: {enabled: false}'

interface Stage {
  readonly backends: readonly StartedResource[]
  readonly proxy: RunningProxy
  open(headers?: Record<string, string>): Promise<OpenSocket>
}

async function stage(t: Test, count = 2, { more = '', model = '', rest = NO_PROBES } = {}): Promise<Stage> {
  const backends = await Promise.all(
    Array.from({ length: count }, (_, i) =>
      startResource(t, { name: `resource ${i}`, deltas: 3, forbidden: [CLIENT_KEY] }),
    ),
  )
  const proxy = await runProxy(
    t,
    configFor(
      backends.map(({ url }) => ({ url, more })),
      { model, rest },
    ),
  )
  const open = async (headers = KEY): Promise<OpenSocket> =>
    mustBeOpen(await openWebSocket(`${proxy.url}/v1/responses`, headers))
  return { backends, proxy, open }
}

/** Asks for a turn, and tells its events up to the last one. */
async function turn(socket: OpenSocket, more: object = {}, pieces = 1): Promise<readonly Event[]> {
  socket.send({ type: 'response.create', model: 'gpt-4o', input: 'Hi', ...more }, pieces)
  const events: Event[] = []
  for (;;) {
    const event = await socket.next()
    events.push(event)
    if (event.type === 'response.completed' || event.type === 'error') return events
  }
}

async function last(socket: OpenSocket, more: object = {}): Promise<Event> {
  return (await turn(socket, more)).at(-1) ?? {}
}

function idOf(event: Event): string {
  return String(dig(event, 'response.id'))
}

t.test('a handshake that no backend could take is 426, on which Codex goes on by HTTP at once', async t => {
  const { proxy } = await stage(t, 1, { more: 'api_version: "2025-04-01-preview"' })
  for (const path of ['/v1/responses', '/openai/v1/responses', '/openai/responses?api-version=2025-04-01-preview']) {
    const refused = await openWebSocket(`${proxy.url}${path}`, KEY)
    t.match(refused, { status: 426 }, path)
    if ('status' in refused) t.match(JSON.parse(refused.body), { error: { code: 'upgrade_required' } })
  }
})

t.test('without a handshake the URL takes POST only, and a broken one is said to be broken', async t => {
  const { proxy } = await stage(t, 1)
  const answer = await fetch(`${proxy.url}/v1/responses`, { headers: KEY })
  t.equal(answer.status, 405)
  t.equal(answer.headers.get('allow'), 'POST')
  const broken = await openWebSocket(`${proxy.url}/v1/responses`, { ...KEY, 'sec-websocket-version': '8' })
  t.match(broken, { status: 400 })
  t.match(await openWebSocket(`${proxy.url}/v1/responses`, { authorization: 'Bearer nobody' }), { status: 401 })
})

t.test('turns run as on the backend: warm-up, chain without storage, whole, fragmented and large', async t => {
  const { backends, proxy, open } = await stage(t, 2, { more: 'deployment: gpt-4o' })
  const socket = await open()
  const warm = await last(socket, { generate: false, store: false })
  t.same(dig(warm, 'response.output'), [])
  const events = await turn(socket, { previous_response_id: idOf(warm), store: false })
  t.same(
    events.map(({ type }) => type).filter(type => type !== 'response.output_text.delta'),
    [
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.output_item.done',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ],
  )
  const large = await turn(
    socket,
    { previous_response_id: idOf(events.at(-1) ?? {}), instructions: 'x'.repeat(300_000) },
    7,
  )
  t.equal(dig(large.at(-1), 'response.instructions'), 'x'.repeat(300_000))
  t.equal(
    proxy.proxy.runtime().pools[0]?.members.reduce((sum, { health }) => sum + health.inFlight, 0),
    0,
  )
  const logged = proxy.lines.filter(({ msg }) => msg === 'request')
  t.equal(logged.length, 3, 'one line a turn, none for the handshake')
  t.match(logged[1], { status: 200, model: 'gpt-4o', path: '/v1/responses', stream: true, attempts: 1, error: null })
  t.ok(Number(logged[1]?.prompt_tokens) > 0)
  t.equal(logged[1]?.completion_tokens, 3)
  socket.close()
  await socket.ended
  t.same(
    backends.flatMap(({ resource }) => resource.violations),
    [],
  )
})

t.test('the model becomes the deployment in every turn, whichever URL form was used', async t => {
  const { url, resource } = await startResource(t, { deployments: [{ name: 'dep-1', kind: 'chat' }], deltas: 2 })
  const proxy = await runProxy(t, configFor([{ url, more: 'deployment: dep-1' }], { rest: NO_PROBES }))
  for (const path of ['/v1/responses', '/openai/v1/responses', '/openai/responses?api-version=2025-04-01-preview']) {
    const socket = mustBeOpen(await openWebSocket(`${proxy.url}${path}`, { 'api-key': CLIENT_KEY }))
    for (let i = 0; i < 2; i++) t.equal(dig(await last(socket), 'response.model'), 'dep-1')
    socket.close()
    await socket.ended
  }
  t.equal(resource.requests.at(-1)?.url, '/openai/v1/responses')
})

t.test('a backend that fails the handshake is passed over', async t => {
  for (const fault of [throttle(7), fail(503), hangUp(), refuseWith('wrong_key'), fail(405, 'front')]) {
    const { backends, open } = await stage(t)
    backends[0]?.resource.always(fault)
    for (let i = 0; i < 2; i++) {
      const socket = await open()
      t.equal((await last(socket)).type, 'response.completed')
      socket.close()
      await socket.ended
    }
    t.equal(backends[0]?.resource.requests.length, 1, 'and left alone afterwards')
  }
})

t.test('an error before any output of the first turn moves it to another backend, unseen', async t => {
  for (const fault of [
    turnError(429, 'rate_limit_exceeded', { 'retry-after': '9' }),
    turnError(503, 'server_error'),
    turnError(undefined, 'server_error'),
    turnMessage({ error: { message: 'overloaded' } }),
    turnMessage({ error: 'overloaded' }),
    turnMessage({ detail: 'Internal Server Error' }),
    turnMessage({ statusCode: 500, message: 'Internal server error' }),
    closeTurn(1011, 1),
    cutTurn(2),
  ]) {
    const { backends, open, proxy } = await stage(t)
    for (const { resource } of backends.slice(0, 1)) resource.nextTurn(fault)
    const socket = await open()
    const events = await turn(socket)
    t.equal(events.filter(({ type }) => type === 'response.created').length, 1, JSON.stringify(fault))
    t.equal(events.at(-1)?.type, 'response.completed')
    t.match(
      proxy.lines.find(({ msg }) => msg === 'request'),
      { attempts: 2, status: 200, backend: 'b2' },
    )
    socket.close()
    await socket.ended
  }
})

t.test('refusals are error messages with their status and wait, and the session goes on', async t => {
  const { url } = await startResource(t, { deltas: 2 })
  const config = configFor([{ url }], { rest: NO_PROBES })
    .replace(
      `{name: tester, key: ${CLIENT_KEY}}`,
      `{name: tester, key: ${CLIENT_KEY}, limits: {requests_per_minute: 3}}`,
    )
    .replace('server:', `  other: {backends: [{endpoint: "${url}", api_key: azure-key, deployment: gpt-4o}]}\nserver:`)
  const proxy = await runProxy(t, config)
  const socket = mustBeOpen(await openWebSocket(`${proxy.url}/v1/responses`, KEY))
  socket.send([1])
  t.match(await socket.next(), { type: 'error', status: 400, error: { code: 'invalid_json' } })
  t.match(await last(socket, { model: 'nope' }), { type: 'error', status: 404, error: { code: 'model_not_found' } })
  t.match(await last(socket, { model: undefined }), { type: 'error', status: 400, error: { code: 'missing_model' } })
  socket.send({ type: 'response.processed', response_id: 'resp_1' })
  t.equal((await last(socket)).type, 'response.completed')
  t.match(await last(socket, { model: 'other' }), { status: 400, error: { code: 'invalid_request', param: 'model' } })
  t.match(await last(socket, { input: 3 }), { status: 400, error: { code: 'invalid_type' } }, 'upstream’s own')
  t.equal((await last(socket)).type, 'response.completed')
  const limited = await last(socket)
  t.match(limited, { type: 'error', status: 429, error: { code: 'rate_limit_exceeded' } })
  t.ok(Number(dig(limited, 'headers.retry-after-ms')) > 0)
  socket.close()
  await socket.ended
})

t.test('an owner that is throttled is waited for, and another resource’s state needs a new session', async t => {
  const { backends, open } = await stage(t)
  const [one, two] = [await open(), await open()]
  const [first, second] = [await last(one), await last(two)]
  t.match(await last(one, { previous_response_id: idOf(second) }), {
    status: 400,
    error: { code: 'previous_response_not_found' },
  })
  t.equal((await last(one, { previous_response_id: idOf(first) })).type, 'response.completed')
  const three = await open()
  t.equal((await last(three, { previous_response_id: idOf(second) })).type, 'response.completed')
  backends[1]?.resource.always(throttle(7))
  const four = await open()
  t.match(await last(four, { previous_response_id: idOf(second) }), {
    status: 429,
    headers: { 'retry-after': '7' },
  })
  for (const socket of [one, two, three, four]) {
    socket.close()
    await socket.ended
  }
})

/** An encrypted reasoning item of a turn on a session of its own. */
async function sealedBy(socket: OpenSocket): Promise<unknown> {
  const made = await last(socket, { store: false, include: ['reasoning.encrypted_content'] })
  const output = dig(made, 'response.output')
  return Array.isArray(output) ? output.find(item => dig(item, 'type') === 'reasoning') : undefined
}

t.test('reasoning of another resource after a warm-up needs a new session, as Codex does when it resumes', async t => {
  const { open } = await stage(t)
  const [one, two] = [await open(), await open()]
  const sealed = await sealedBy(one)
  const warm = await last(two, { generate: false, store: false })
  const input = [sealed, { role: 'user', content: 'And?' }]
  t.match(await last(two, { previous_response_id: idOf(warm), store: false, input }), {
    status: 400,
    error: { code: 'previous_response_not_found' },
  })
  const three = await open()
  t.equal((await last(three, { store: false, input })).type, 'response.completed', 'sent whole it finds its resource')
  t.equal((await last(two, { store: false })).type, 'response.completed', 'and the other session goes on')
  for (const socket of [one, two, three]) {
    socket.close()
    await socket.ended
  }
})

t.test(
  'reasoning of a resource that fails is left out where that is wanted, and the turn goes on elsewhere',
  async t => {
    for (const [model, end] of [
      ['strip_foreign_reasoning: true', 'response.completed'],
      ['', 'error'],
    ] as const) {
      const { backends, proxy } = await stage(t, 2, { model })
      const open = async (): Promise<OpenSocket> => mustBeOpen(await openWebSocket(`${proxy.url}/v1/responses`, KEY))
      const one = await open()
      const input = [await sealedBy(one), { role: 'user', content: 'And?' }]
      backends[0]?.resource.nextTurn(turnError(503, 'server_error'))
      const two = await open()
      t.equal((await last(two, { store: false, input })).type, end, model)
      for (const socket of [one, two]) {
        socket.close()
        await socket.ended
      }
    }
  },
)

t.test('so does reasoning whose maker the proxy has not seen', async t => {
  const { backends, open } = await stage(t)
  const direct = mustBeOpen(
    await openWebSocket(`${backends[0]?.url}/openai/v1/responses`, { authorization: 'Bearer azure-key' }),
  )
  const input = [await sealedBy(direct), { role: 'user', content: 'And?' }]
  const sockets = [await open(), await open()]
  const ends: unknown[] = []
  for (const socket of sockets) {
    const warm = await last(socket, { generate: false, store: false })
    const answer = await last(socket, { previous_response_id: idOf(warm), store: false, input })
    ends.push(dig(answer, 'error.code') ?? answer.type)
  }
  t.same(ends.sort(), ['previous_response_not_found', 'response.completed'], 'one of the two is at its maker')
  for (const socket of [direct, ...sockets]) {
    socket.close()
    await socket.ended
  }
})

t.test(
  'when all backends refuse the handshake the session ends with a reason, and 426 follows; HTTP goes on',
  async t => {
    const { backends, proxy, open } = await stage(t)
    for (const { resource } of backends) resource.always(refuseWith('resource_not_found'))
    const socket = await open()
    t.match(await last(socket), { type: 'error' })
    t.match(await socket.ended, { code: 1011 })
    t.match(await openWebSocket(`${proxy.url}/v1/responses`, KEY), { status: 426 })
    for (const { resource } of backends) resource.clear()
    const answer = await proxy.post('/v1/responses', { model: 'gpt-4o', input: 'Hi' })
    t.equal(answer.status, 200)
    await answer.text()
  },
)

t.test('an error that names no status gets one, for Codex ignores it without', async t => {
  const { backends, open } = await stage(t, 1)
  const socket = await open()
  await last(socket)
  backends[0]?.resource.nextTurn(turnError(undefined, 'rate_limit_exceeded'))
  t.match(await last(socket), { type: 'error', status: 429, error: { code: 'rate_limit_exceeded' } })
  backends[0]?.resource.nextTurn(turnMessage({ detail: 'Internal Server Error' }))
  t.match(await last(socket), { type: 'error', status: 503, error: { message: 'Internal Server Error' } })
  t.match(await last(socket), { type: 'response.completed' })
  socket.close()
  await socket.ended
})

t.test('of two hundred sessions only those of the backend that went away end, with a reason', async t => {
  const { backends, open } = await stage(t)
  const sessions = await Promise.all(Array.from({ length: 200 }, () => open()))
  const homes: string[] = []
  for (const socket of sessions) homes.push(idOf(await last(socket)))
  const [gone] = backends
  const stored = new Set(
    await Promise.all(
      homes.map(async id => {
        const found = await fetch(`${gone?.url}/openai/v1/responses/${id}`, { headers: { 'api-key': 'azure-key' } })
        await found.text()
        return found.status === 200 ? id : ''
      }),
    ),
  )
  const mine = sessions.filter((_, i) => stored.has(homes[i] ?? ''))
  t.equal(mine.length, 100)
  await gone?.resource.close()
  const ends = await Promise.all(mine.map(({ ended }) => ended))
  t.ok(ends.every(end => end?.code === 1011 && end.reason !== ''))
  for (const socket of sessions) {
    if (mine.includes(socket)) continue
    t.equal((await last(socket)).type, 'response.completed')
    socket.close()
    await socket.ended
  }

  // It is back: what those that ended had stored is where it was, and new sessions go on with it.
  await gone?.resource.listen(Number(new URL(gone.url).port))
  const goOn = async (id: string): Promise<unknown> => {
    const socket = await open()
    const { type } = await last(socket, { previous_response_id: id })
    socket.close()
    await socket.ended
    return type
  }
  const [one = '', ...others] = homes.filter(id => stored.has(id))
  t.equal(await goOn(one), 'response.completed', 'the first proves that it is')
  t.same(new Set(await Promise.all(others.map(goOn))), new Set(['response.completed']))
})

t.test('a session that is open when its key and its backend are taken out of the config goes on', async t => {
  const { backends, proxy, open } = await stage(t)
  const sessions = [await open(), await open()]
  const firsts: string[] = []
  for (const socket of sessions) firsts.push(idOf(await last(socket)))
  const unused = await open()
  const [, stays] = backends
  const text = configFor(stays === undefined ? [] : [stays], { rest: NO_PROBES }).replaceAll(
    CLIENT_KEY,
    'another-key-1',
  )
  proxy.proxy.reload(readConfig(text), undefined)
  t.match(await openWebSocket(`${proxy.url}/v1/responses`, KEY), { status: 401 }, 'the key opens no new one')
  for (const [i, socket] of sessions.entries()) {
    t.equal((await last(socket, { previous_response_id: firsts[i] })).type, 'response.completed')
    socket.close()
    t.match(await socket.ended, { code: 1000 })
  }
  t.equal((await last(unused)).type, 'response.completed', 'nor does one end that had asked for nothing yet')
  unused.close()
  await unused.ended
})

t.test('a drain ends idle sessions at once and busy ones after their turn, with a reason', async t => {
  const backend = await startResource(t, { deltas: 4, eventDelayMs: 30 })
  const proxy = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
  const open = async (): Promise<OpenSocket> => mustBeOpen(await openWebSocket(`${proxy.url}/v1/responses`, KEY))
  const [idle, busy] = [await open(), await open()]
  await last(idle)
  const answer = turn(busy)
  await until(() => backend.resource.requests.length === 2)
  await until(() => proxy.proxy.runtime().pools[0]?.members[0]?.health.inFlight === 1)
  const stopped = proxy.proxy.shutdown(10_000)
  t.match(await idle.ended, { code: 1001 })
  t.equal((await answer).at(-1)?.type, 'response.completed')
  t.match(await busy.ended, { code: 1001 })
  await stopped
})

t.test('a client that leaves takes its turn and its backend session along', async t => {
  const backend = await startResource(t, { deltas: 50, eventDelayMs: 50 })
  const proxy = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
  const socket = mustBeOpen(await openWebSocket(`${proxy.url}/v1/responses`, KEY))
  const logged = proxy.line('request')
  socket.send({ type: 'response.create', model: 'gpt-4o', input: 'Hi' })
  await socket.next()
  socket.socket.destroy()
  t.match(await logged, { error: 'client_closed' })
  await until(() => backend.resource.connections() === 0)
})

t.test('a client that breaks the protocol is told with which code it ends', async t => {
  const { proxy } = await stage(t, 1, { rest: `${NO_PROBES}\nretry: {max_attempts: 2}` })
  for (const [bytes, code] of [
    [Buffer.from([0x81, 0x02, 0x7b, 0x7d]), 1002],
    [Buffer.from([0x82, 0x80, 1, 2, 3, 4]), 1003],
    [Buffer.from([0xc1, 0x80, 1, 2, 3, 4]), 1002],
  ] as const) {
    const socket = mustBeOpen(await openWebSocket(`${proxy.url}/v1/responses`, KEY))
    socket.socket.write(bytes)
    t.match(await socket.ended, { code })
  }
})
