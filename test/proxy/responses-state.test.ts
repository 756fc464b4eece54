// State of the Responses API lives in one resource: every request that names it gets there, or hears the truth about
// it.
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { throttleBy } from '../../lib/simulator/faults.ts'
import type { SimulatedResource } from '../../lib/simulator/resource.ts'
import { BEARER } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const REST = `health_check: {enabled: false, recovery: 30s}`

interface Stage {
  readonly clock: FakeClock
  readonly resources: readonly StartedResource[]
  /** One more proxy in front of the same resources, which knows nothing. */
  proxy(rest?: string): Promise<RunningProxy>
}

async function stage(t: Test, count = 3): Promise<Stage> {
  const clock = createFakeClock()
  const resources: StartedResource[] = []
  for (let i = 0; i < count; i++) resources.push(await startResource(t, { name: `resource ${i}`, clock, deltas: 3 }))
  const backends = resources.map(({ url }) => ({ url }))
  return { clock, resources, proxy: (rest = REST) => runProxy(t, configFor(backends, { rest }), { clock }) }
}

/** What clients keep of a response. */
interface Turn {
  readonly id: string
  readonly backend: string
}

/** Creates a response and tells its id and who made it; anything but a 200 fails the test. */
async function turn(t: Test, proxy: RunningProxy, body: Readonly<Record<string, unknown>> = {}): Promise<Turn> {
  const answer = await proxy.post('/v1/responses', { model: 'gpt-4o', input: 'Hi', ...body })
  const text = await answer.text()
  if (answer.status !== 200) t.fail(`a client got ${answer.status}: ${text}`)
  return { id: /"id": ?"(resp_\w+)"/.exec(text)?.[1] ?? '', backend: answer.headers.get('x-proxy-backend') ?? '' }
}

/** The backend's number, counted from 0. */
function indexOf({ backend }: Turn): number {
  return Number(backend.slice(1)) - 1
}

function at(resources: readonly StartedResource[], index: number): SimulatedResource {
  const found = resources[index]
  if (found === undefined) throw new Error(`there is no resource ${index}`)
  return found.resource
}

function lookups({ requests }: SimulatedResource, id = ''): number {
  return requests.filter(({ method, url }) => method === 'GET' && url.includes(`/responses/${id}`)).length
}

function posts({ requests }: SimulatedResource): number {
  return requests.filter(({ method }) => method === 'POST').length
}

/** What the resource itself says, asked without a proxy. */
function direct({ url }: StartedResource, path: string, init: RequestInit = {}): Promise<Response> {
  return fetch(`${url}/openai${path}`, {
    ...init,
    headers: { 'api-key': 'azure-key', 'content-type': 'application/json' },
  })
}

t.test(
  'a chain of a thousand turns over three resources has no error, also when the proxy restarts in its middle',
  async t => {
    const { resources, proxy } = await stage(t)
    const before = await proxy()
    // Others make sure that the chain's resource is not simply the one whose turn it is.
    const chains: Turn[] = [await turn(t, before), await turn(t, before), await turn(t, before)]
    t.same(chains.map(({ backend }) => backend).sort(), ['b1', 'b2', 'b3'])
    const homes = chains.map(({ backend }) => backend)
    let current = before
    for (let i = 1; i < 1_000; i++) {
      if (i === 500) {
        await before.proxy.shutdown(0)
        current = await proxy()
      }
      const chain = i % 25 === 0 ? 1 : i % 40 === 0 ? 2 : 0
      chains[0] = await turn(t, current, { previous_response_id: chains[0]?.id })
      if (chain !== 0) chains[chain] = await turn(t, current, { previous_response_id: chains[chain]?.id })
      if (i % 7 === 0) await turn(t, current)
      if (chains.some(({ backend }, which) => backend !== homes[which])) t.fail(`turn ${i} went elsewhere`)
    }
    t.same(
      chains.map(({ backend }) => backend),
      homes,
    )
    // While nothing is forgotten nobody is asked; after the restart each chain is looked for once.
    for (const { resource } of resources) t.equal(lookups(resource), 3)
    t.same(
      resources.flatMap(({ resource }) => resource.violations),
      [],
    )
  },
)

t.test('two proxies in front of the same resources serve one conversation in turns', async t => {
  const { proxy } = await stage(t)
  const both = [await proxy(), await proxy()]
  for (let conversation = 0; conversation < 3; conversation++) {
    const [one, other] = both
    if (one === undefined || other === undefined) throw new Error('two proxies')
    let last = await turn(t, one)
    const home = last.backend
    for (let i = 0; i < 20; i++) {
      last = await turn(t, i % 2 === 0 ? other : one, { previous_response_id: last.id, stream: i % 3 === 0 })
      if (last.backend !== home) t.fail(`turn ${i} went to ${last.backend}, not to ${home}`)
    }
    t.equal(last.backend, home)
  }
})

const READS: readonly (readonly [string, string, string])[] = [
  ['GET', 'GET', ''],
  ['the list of its inputs', 'GET', '/input_items?limit=5&order=asc'],
  ['a stream taken up again', 'GET', '?stream=true&starting_after=4'],
  ['cancel', 'POST', '/cancel'],
  ['DELETE', 'DELETE', ''],
]
for (const [what, method, tail] of READS) {
  t.test(`${what} reaches the owner from a proxy that knows nothing, and the bytes are its own`, async t => {
    const { resources, proxy } = await stage(t)
    const maker = await proxy()
    const made: Turn[] = []
    for (let i = 0; i < 3; i++) made.push(await turn(t, maker, { background: true, stream: true }))
    t.equal(new Set(made.map(({ backend }) => backend)).size, 3)
    for (const { id, backend } of made) {
      const index = indexOf({ id, backend })
      const owner = resources[index]
      if (owner === undefined) throw new Error('it has an owner')
      const fresh = await proxy()
      // Deleting twice is not the same: what it says is known from its id alone.
      const wanted =
        method === 'DELETE'
          ? `${JSON.stringify({ object: 'response.deleted', id, deleted: true }, null, 2)}\n`
          : await (await direct(owner, `/v1/responses/${id}${tail}`, { method })).text()
      const answer = await fetch(`${fresh.url}/v1/responses/${id}${tail}`, { method, headers: BEARER })
      t.equal(answer.status, 200)
      t.equal(await answer.text(), wanted)
      t.equal(answer.headers.get('x-proxy-backend'), backend)
      t.equal(answer.headers.get('x-proxy-attempts'), '1')
      for (const [i, { resource }] of resources.entries()) {
        if (i === index) continue
        const strangers = resource.requests.filter(({ url }) => url.includes(id))
        t.ok(
          strangers.every(({ method, url }) => method === 'GET' && url.endsWith(id)),
          'the others are only asked whether they hold it',
        )
      }
    }
  })
}

t.test('what was deleted is gone: asked for again it is looked for, and nobody has it', async t => {
  const { proxy } = await stage(t)
  const running = await proxy()
  const { id } = await turn(t, running)
  const url = `${running.url}/v1/responses/${id}`
  t.equal((await fetch(url, { method: 'DELETE', headers: BEARER })).status, 200)
  const again = await fetch(url, { headers: BEARER })
  t.equal(again.status, 404)
  t.match(await again.json(), { error: { message: `Response with id '${id}' not found.` } })
})

t.test('what is unknown everywhere gets the upstream’s own error', async t => {
  const { clock, resources, proxy } = await stage(t)
  const running = await proxy()
  const id = 'resp_0123456789abcdef'
  const read = await fetch(`${running.url}/v1/responses/${id}`, { headers: BEARER })
  t.equal(read.status, 404)
  const own = await direct(resources[0] ?? (await startResource(t)), `/v1/responses/${id}`)
  t.equal(await read.text(), await own.text())
  const body = { model: 'gpt-4o', input: 'Hi', previous_response_id: id }
  const follow = await running.post('/v1/responses', body)
  t.equal(follow.status, 400)
  t.match(await follow.json(), { error: { code: 'previous_response_not_found', param: 'previous_response_id' } })
  t.equal(follow.headers.get('x-proxy-attempts'), '1')
  // It is not looked for again at once, but it is in a while.
  const asked = lookups(at(resources, 2), id)
  t.equal(asked, 1)
  await (await running.post('/v1/responses', body)).text()
  t.equal(lookups(at(resources, 2), id), 1)
  clock.advance(2_000)
  await (await running.post('/v1/responses', body)).text()
  t.equal(lookups(at(resources, 2), id), 2)
})

for (const [what, previous, code] of [
  ['a number', 7, 'invalid_type'],
  ['an object', { id: 'resp_1' }, 'invalid_type'],
  ['a path', '../../models', 'previous_response_not_found'],
  ['empty', '', 'previous_response_not_found'],
  ['10 KB long', 'x'.repeat(10_000), 'previous_response_not_found'],
] as const) {
  t.test(
    `a previous_response_id that is ${what} is looked for nowhere: upstream says what is wrong with it`,
    async t => {
      const { resources, proxy } = await stage(t)
      const running = await proxy()
      const answer = await running.post('/v1/responses', {
        model: 'gpt-4o',
        input: 'Hi',
        previous_response_id: previous,
      })
      t.equal(answer.status, 400)
      t.match(await answer.json(), { error: { code } })
      const asked = resources.flatMap(({ resource }) => resource.requests.map(({ method, url }) => `${method} ${url}`))
      t.same(asked, ['POST /openai/v1/responses'])
    },
  )
}

t.test('an owner that is throttled answers 429 with its wait, nobody else is asked, and then it serves', async t => {
  const { clock, resources, proxy } = await stage(t)
  const running = await proxy()
  const made = await turn(t, running)
  const owner = at(resources, indexOf(made))
  const others = resources.map(({ resource }) => resource).filter(resource => resource !== owner)
  const follow = { previous_response_id: made.id }
  owner.next(throttleBy({ kind: 'ms', ms: 4_321 }))
  for (const [passedMs, ms, seconds] of [
    [0, '4321', '5'],
    [1_321, '3000', '3'],
  ] as const) {
    clock.advance(passedMs)
    const answer = await running.post('/v1/responses', { model: 'gpt-4o', input: 'Hi', ...follow })
    t.equal(answer.status, 429)
    t.equal(answer.headers.get('retry-after-ms'), ms)
    t.equal(answer.headers.get('retry-after'), seconds)
    t.match(await answer.json(), { error: { code: 'rate_limit_exceeded' } })
  }
  t.same(others.map(posts), [0, 0])
  t.not((await turn(t, running)).backend, made.backend, 'a new conversation begins elsewhere')
  clock.advance(3_000)
  t.equal((await turn(t, running, follow)).backend, made.backend)
})

t.test('an owner that is out is tried all the same, since nobody else can serve, and the others never', async t => {
  const { clock, resources, proxy } = await stage(t)
  const running = await proxy()
  const made = await turn(t, running)
  const owner = at(resources, indexOf(made))
  const { port } = resources[indexOf(made)] ?? { port: 0 }
  await owner.close()
  const others = resources.map(({ resource }) => resource).filter(resource => resource !== owner)
  const follow = { previous_response_id: made.id }
  for (const answer of [
    await running.post('/v1/responses', { model: 'gpt-4o', input: 'Hi', ...follow }),
    await fetch(`${running.url}/v1/responses/${made.id}`, { headers: BEARER }),
  ]) {
    t.equal(answer.status, 502, 'it was asked and is not there')
    t.match(await answer.json(), { error: { code: 'upstream_error' } })
  }
  t.same(others.map(posts), [0, 0])
  t.not((await turn(t, running)).backend, made.backend)
  await owner.listen(port)
  clock.advance(1_000)
  t.equal((await turn(t, running, follow)).backend, made.backend, 'long before its hold is over')
})

t.test(
  'when nobody that answers holds it and one cannot be asked, the client is told to come back, not that it is gone',
  async t => {
    const { resources, proxy } = await stage(t)
    const made = await turn(t, await proxy())
    await at(resources, indexOf(made)).close()
    const fresh = await proxy()
    const answer = await fresh.post('/v1/responses', { model: 'gpt-4o', input: 'Hi', previous_response_id: made.id })
    t.equal(answer.status, 503)
    t.equal(answer.headers.get('retry-after'), '5')
    t.match(await answer.json(), { error: { code: 'no_backend' } })
  },
)

t.test('an unknown owner is asked for once, however many want to know at the same time', async t => {
  const { resources, proxy } = await stage(t)
  const made = await turn(t, await proxy())
  const fresh = await proxy()
  const turns = await Promise.all(Array.from({ length: 50 }, () => turn(t, fresh, { previous_response_id: made.id })))
  t.same(new Set(turns.map(({ backend }) => backend)), new Set([made.backend]))
  t.same(
    resources.map(({ resource }) => lookups(resource, made.id)),
    [1, 1, 1],
  )
  for (const { resource } of resources) {
    const [lookup] = resource.requests.filter(({ method }) => method === 'GET')
    t.equal(lookup?.body.length, 0, 'asking costs no token')
  }
})

/** A server that keeps every question until `release`, and then says that it holds nothing. */
async function slowStranger(t: Test): Promise<{ readonly url: string; asked(): number; release(): void }> {
  const held: http.ServerResponse[] = []
  let asked = 0
  const server = http.createServer((request, response) => {
    request.resume()
    asked++
    held.push(response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const json = { 'content-type': 'application/json' }
  return {
    url: `http://127.0.0.1:${port}`,
    asked: () => asked,
    release() {
      for (const response of held.splice(0)) response.writeHead(404, json).end('{"error":{"message":"not found"}}')
    },
  }
}

t.test(
  'a thousand unknown ids at once cause 32 questions to each resource, and the rest is told to come back',
  async t => {
    const strangers = [await slowStranger(t), await slowStranger(t)]
    const running = await runProxy(t, configFor(strangers, { rest: REST }))
    const statuses: number[] = []
    const waits = new Set<string | null>()
    const asking = Array.from({ length: 1_000 }, async (_, i) => {
      const answer = await fetch(`${running.url}/v1/responses/resp_${i}`, { headers: BEARER })
      await answer.arrayBuffer()
      statuses.push(answer.status)
      if (answer.status === 503) waits.add(answer.headers.get('retry-after'))
    })
    await until(() => statuses.length === 968 && strangers.every(stranger => stranger.asked() === 32))
    t.same(new Set(statuses), new Set([503]))
    t.same(waits, new Set(['1']))
    // Those who asked are answered by the upstream itself, so each of the 32 makes one more request.
    const turning = setInterval(() => {
      for (const stranger of strangers) stranger.release()
    }, 5)
    await Promise.all(asking)
    clearInterval(turning)
    t.equal(statuses.filter(status => status === 404).length, 32)
    t.equal(
      strangers.reduce((sum, stranger) => sum + stranger.asked(), 0),
      2 * 32 + 32,
    )
  },
)

t.test('one key cannot use up the lookups of the others', async t => {
  const strangers = [await slowStranger(t), await slowStranger(t)]
  const text = configFor(strangers, { rest: REST }).replace(
    /auth: .*/,
    `auth: {keys: [{name: tester, key: ${CLIENT_KEY}}, {name: other, key: another-key-1}]}`,
  )
  const running = await runProxy(t, text)
  const statuses: number[] = []
  const read = async (id: string, headers: Readonly<Record<string, string>>): Promise<void> => {
    const answer = await fetch(`${running.url}/v1/responses/${id}`, { headers })
    await answer.arrayBuffer()
    statuses.push(answer.status)
  }
  const asking = Array.from({ length: 40 }, (_, i) => read(`resp_${i}`, BEARER))
  await until(() => statuses.length === 8 && strangers.every(stranger => stranger.asked() === 32))
  const others = [read('resp_of_the_other', { authorization: 'Bearer another-key-1' })]
  await until(() => strangers.every(stranger => stranger.asked() === 33))
  t.same(statuses, Array(8).fill(503), 'the first key has its share, and is told to come back')
  const turning = setInterval(() => {
    for (const stranger of strangers) stranger.release()
  }, 5)
  await Promise.all([...asking, ...others])
  clearInterval(turning)
  t.equal(statuses.filter(status => status === 404).length, 33)
})

const SEALED = { store: false, include: ['reasoning.encrypted_content'] }

/** A reasoning item that one resource has made, as clients send it back. */
async function sealedAt(resource: StartedResource, words = 'think'): Promise<Record<string, unknown>> {
  const body = JSON.stringify({ model: 'gpt-4o', input: words, ...SEALED })
  const answer = await direct(resource, '/v1/responses', { method: 'POST', body })
  const made: { output: Record<string, unknown>[] } = JSON.parse(await answer.text())
  const [item] = made.output
  if (item === undefined || typeof item.encrypted_content !== 'string') throw new Error('no encrypted item came')
  return item
}

function sendBack(proxy: RunningProxy, ...items: unknown[]): Promise<Response> {
  const input = [...items, { type: 'message', role: 'user', content: 'And then?' }]
  return proxy.post('/v1/responses', { model: 'gpt-4o', input, ...SEALED })
}

t.test(
  'a foreign encrypted item finds its home, however few attempts a request has, and goes there directly afterwards',
  async t => {
    const { resources, proxy } = await stage(t, 5)
    const running = await proxy(`retry: {max_attempts: 1}\n${REST}`)
    const home = resources[4]
    if (home === undefined) throw new Error('five resources')
    const item = await sealedAt(home)
    const found = await sendBack(running, item)
    t.equal(found.status, 200)
    t.equal(found.headers.get('x-proxy-backend'), 'b5')
    t.equal(found.headers.get('x-proxy-attempts'), '5')
    await found.arrayBuffer()
    for (let i = 0; i < 5; i++) {
      const again = await sendBack(running, item)
      await again.arrayBuffer()
      t.equal(again.headers.get('x-proxy-backend'), 'b5')
      t.equal(again.headers.get('x-proxy-attempts'), '1')
    }
    t.equal(
      running.lines.find(({ msg }) => String(msg).startsWith('backend ')),
      undefined,
      'nobody is blamed',
    )
    const sent = home.resource.requests.at(-1)?.body.toString() ?? ''
    t.ok(sent.includes(String(item.encrypted_content)), 'it goes on as it is')
  },
)

for (const stream of [false, true]) {
  t.test(
    `an encrypted item that came through the proxy ${stream ? 'in a stream' : 'whole'} goes home directly`,
    async t => {
      const { proxy } = await stage(t)
      const running = await proxy()
      for (let i = 0; i < 3; i++) {
        const made = await running.post('/v1/responses', { model: 'gpt-4o', input: `think ${i}`, stream, ...SEALED })
        const sealed = /"encrypted_content": ?"([^"]+)"/.exec(await made.text())?.[1]
        const back = await sendBack(running, { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: sealed })
        t.equal(back.status, 200)
        t.equal(back.headers.get('x-proxy-backend'), made.headers.get('x-proxy-backend'))
        t.equal(back.headers.get('x-proxy-attempts'), '1')
        await back.arrayBuffer()
      }
    },
  )
}

t.test('items of two homes can be read by nobody: the client gets Azure’s own error', async t => {
  const { resources, proxy } = await stage(t)
  const running = await proxy()
  const [one, other] = resources
  if (one === undefined || other === undefined) throw new Error('three resources')
  for (let i = 0; i < 2; i++) {
    const answer = await sendBack(running, await sealedAt(one), await sealedAt(other))
    t.equal(answer.status, 400)
    t.match(await answer.json(), { error: { code: 'invalid_encrypted_content' } })
    t.equal(answer.headers.get('x-proxy-attempts'), '3')
  }
})

t.test('items whose two makers are known are still taken to a third resource, which alone may read both', async t => {
  const { proxy } = await stage(t)
  const running = await proxy()
  const made = new Map<string | null, unknown>()
  while (made.size < 2) {
    const answer = await running.post('/v1/responses', { model: 'gpt-4o', input: `think ${made.size}`, ...SEALED })
    const { output }: { output: unknown[] } = JSON.parse(await answer.text())
    made.set(answer.headers.get('x-proxy-backend'), output[0])
  }
  const answer = await sendBack(running, ...made.values())
  t.equal(answer.headers.get('x-proxy-attempts'), '3')
  t.equal(answer.status, 400, 'here nobody can')
  await answer.arrayBuffer()
})

t.test('what a client gets and what it holds are the same bytes, and so is what goes up', async t => {
  const { resources, proxy } = await stage(t, 1)
  const running = await proxy()
  const first = await turn(t, running)
  const stored = await (await fetch(`${running.url}/v1/responses/${first.id}`, { headers: BEARER })).text()
  const [owner] = resources
  if (owner === undefined) throw new Error('one resource')
  t.equal(stored, await (await direct(owner, `/v1/responses/${first.id}`)).text())
  const raw = `{ "previous_response_id" : "${first.id}",\n\t"input":"é\\u00e9" , "model" : "gpt-4o" }`
  await (await running.post('/v1/responses', undefined, { body: raw })).arrayBuffer()
  t.equal(owner.resource.requests.at(-1)?.body.toString(), raw)
})
