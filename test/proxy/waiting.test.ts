// `retry.max_wait` as one queue of permits. No request waits behind one that waits for something else. A freed backend
// wakes exactly as many as it can take, and a throttle that is over is tried carefully.
import { createServer } from 'node:http'
import t, { type Test } from 'tap'
import { delay, fail, throttleBy } from '../../lib/simulator/faults.ts'
import { NO_PROBES, twoBackends } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { configFor, type RunningProxy, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { servedBy, until } from '../fixtures/settle.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const WAITS = `retry: {max_wait: 90s}\n${NO_PROBES}`

function waiting({ proxy }: RunningProxy): number {
  const [pool] = proxy.runtime().pools
  return pool === undefined ? 0 : proxy.shared.waitQueue.waiting(pool)
}

const OK = '{"id":"c","object":"chat.completion","choices":[]}'

/** Admits so many a second, and answers 429 with these headers otherwise. */
async function bucket(
  t: Test,
  clock: FakeClock,
  perSecond: number,
  names: (waitMs: number) => Readonly<Record<string, string>>,
): Promise<{ url: string; asked: () => number }> {
  let asked = 0
  let second = -1
  let admitted = 0
  const server = createServer((request, response) => {
    asked++
    request.resume()
    const now = Math.floor(clock.nowMs() / 1_000)
    if (now !== second) {
      second = now
      admitted = 0
    }
    const isFull = admitted >= perSecond
    if (!isFull) admitted++
    response.writeHead(isFull ? 429 : 200, {
      'content-type': 'application/json',
      ...(isFull ? names((now + 1) * 1_000 - clock.nowMs()) : {}),
    })
    response.end(isFull ? '{"error":{"code":"429","message":"full"}}' : OK)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  return { url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`, asked: () => asked }
}

/** Forty at once are forty asked; a herd that woke at every throttle would ask some hundreds more. */
const MOST_ASKED = 100

for (const { what, names, stepMs } of [
  { what: 'Retry-After', names: () => ({ 'retry-after': '1' }), stepMs: 1_000 },
  { what: 'retry-after-ms', names: (ms: number) => ({ 'retry-after-ms': String(ms) }), stepMs: 1_000 },
  { what: 'nothing', names: () => ({}), stepMs: 10_000 },
]) {
  t.test(
    `forty at once at five a second are served for a hundred asked at most, where a 429 names ${what}`,
    async t => {
      const clock = createFakeClock()
      const { url, asked } = await bucket(t, clock, 5, names)
      const running = await runProxy(t, configFor([{ url }], { rest: WAITS }), { clock })
      let done = 0
      const answers = Array.from({ length: 40 }, async () => {
        const answer = await running.chat()
        done++
        return answer
      })
      await until(() => done + waiting(running) === 40)
      t.equal(done, 5)
      for (let second = 1; done < 40 && second < 20; second++) {
        clock.advance(stepMs)
        // A request that was woken is served, or refused and back in its place.
        await until(() => done >= Math.min(5 + 5 * second, 40))
        await until(() => done + waiting(running) === 40)
      }
      t.same(await servedBy(t, await Promise.all(answers)), { b1: 40 })
      t.ok(asked() <= MOST_ASKED, `${asked()} asked`)
    },
  )
}

t.test('whoever can be served at once is not queued behind one who waits for something else', async t => {
  const clock = createFakeClock()
  const { first, running } = await twoBackends(t, { clock, rest: WAITS, backends: [{}, {}] })
  const made = await running.post('/v1/responses', { model: 'gpt-4o', input: 'Hi' })
  const { id } = (await made.json()) as { readonly id: string }
  const owner = made.headers.get('x-proxy-backend') ?? ''
  const ownerIndex = owner === 'b1' ? 0 : 1
  const [pool] = running.proxy.runtime().pools
  const member = pool?.members[ownerIndex]
  if (member === undefined) throw new Error('it has two backends')
  running.proxy.shared.health.lease(member.health).release({ kind: 'throttled', waitMs: 6_000 })
  const bound = running.post('/v1/responses', { model: 'gpt-4o', input: 'more', previous_response_id: id })
  await until(() => waiting(running) === 1)
  const other = ownerIndex === 0 ? 'b2' : 'b1'
  t.same(await servedBy(t, [await running.chat(), await running.chat(), await running.chat()]), { [other]: 3 })
  t.equal(waiting(running), 1)
  clock.advance(6_000)
  t.same(await servedBy(t, [await bound]), { [owner]: 1 })
  t.ok(first.resource.requests.length > 0)
})

t.test('a backend that comes back wakes the one who waits for another', async t => {
  const clock = createFakeClock()
  const { running } = await twoBackends(t, { clock, rest: WAITS, backends: [{}, {}] })
  const { health } = running.proxy.shared
  const [c, d] = running.proxy.runtime().pools[0]?.members ?? []
  if (c === undefined || d === undefined) throw new Error('it has two backends')
  health.lease(c.health).release({ kind: 'throttled', waitMs: 8_000 })
  health.probeFailed(d.health, 'probe_failed', 'ECONNREFUSED')
  const asked = running.chat()
  await until(() => waiting(running) === 1)
  health.probePassed(d.health, clock.nowMs())
  t.same(await servedBy(t, [await asked]), { b2: 1 })
})

t.test('a full backend takes the next one the moment it has a place, in the order of arrival', async t => {
  const clock = createFakeClock()
  const resource = await startResource(t, { name: 'small', clock })
  const text = configFor([{ url: resource.url, more: 'max_in_flight: 2' }], { rest: WAITS })
  const running = await runProxy(t, text, { clock })
  resource.resource.always(delay(1_000))
  const order: number[] = []
  const asked: Promise<void>[] = []
  for (let i = 0; i < 6; i++) {
    asked.push(
      running.chat().then(async answer => {
        await answer.text()
        order.push(i)
        t.equal(answer.status, 200)
      }),
    )
    await until(() => resource.resource.requests.length + waiting(running) === i + 1)
  }
  t.equal(resource.resource.requests.length, 2, 'two at once')
  for (let round = 1; round <= 3; round++) {
    clock.advance(1_000)
    await until(
      () => order.length === 2 * round && (round === 3 || resource.resource.requests.length === 2 * round + 2),
    )
  }
  await Promise.all(asked)
  t.same(order.slice(0, 2).sort(), [0, 1])
  t.same(order.slice(2, 4).sort(), [2, 3])
  t.same(order.slice(4).sort(), [4, 5])
})

t.test('without max_wait a full backend is a 429 that says one second', async (t: Test) => {
  const clock = createFakeClock()
  const resource = await startResource(t, { name: 'small', clock })
  const running = await runProxy(t, configFor([{ url: resource.url, more: 'max_in_flight: 1' }], { rest: NO_PROBES }), {
    clock,
  })
  resource.resource.next(delay(1_000))
  const held = running.chat()
  await until(() => resource.resource.requests.length === 1)
  const told = await running.chat()
  t.equal(told.status, 429)
  t.equal(told.headers.get('retry-after'), '1')
  t.match(await told.json(), { error: { code: 'rate_limit_exceeded' } })
  clock.advance(1_000)
  t.same(await servedBy(t, [await held]), { b1: 1 })
})

t.test('an answer that is better than none is not given while somebody is merely throttled', async t => {
  const clock = createFakeClock()
  const { first, second, running } = await twoBackends(t, { clock, rest: WAITS })
  first.resource.next(throttleBy({ kind: 'ms', ms: 3_000 }))
  second.resource.next(fail(503, 'model'))
  const asked = running.chat()
  await until(() => waiting(running) === 1)
  clock.advance(3_000)
  t.same(await servedBy(t, [await asked]), { b1: 1 })
})

t.test('a backend that a reload brings serves those who wait for another, and each is asked once', async t => {
  const clock = createFakeClock()
  const { first, second, running } = await twoBackends(t, { clock })
  const before = [{ url: first.url, name: 'b1' }]
  running.proxy.reload(readConfig(configFor(before, { rest: WAITS })), undefined)
  first.resource.always(throttleBy({ kind: 'ms', ms: 60_000 }))
  const asked = [running.chat(), running.chat(), running.chat()]
  await until(() => waiting(running) === 3)
  const askedFirst = first.resource.requests.length
  const after = [...before, { url: second.url, name: 'b2', more: 'priority: 2' }]
  running.proxy.reload(readConfig(configFor(after, { rest: WAITS })), undefined)
  t.same(await servedBy(t, await Promise.all(asked)), { b2: 3 })
  t.equal(first.resource.requests.length, askedFirst)
  t.equal(waiting(running), 0)
})

t.test('a reload that takes the backend away that is waited for leads to the one that is there now', async t => {
  const clock = createFakeClock()
  const { first, second, running } = await twoBackends(t, { clock })
  running.proxy.reload(readConfig(configFor([{ url: first.url, name: 'b1' }], { rest: WAITS })), undefined)
  first.resource.always(throttleBy({ kind: 'ms', ms: 60_000 }))
  const asked = [running.chat(), running.chat()]
  await until(() => waiting(running) === 2)
  running.proxy.reload(readConfig(configFor([{ url: second.url, name: 'b2' }], { rest: WAITS })), undefined)
  t.same(await servedBy(t, await Promise.all(asked)), { b2: 2 })
})

t.test('a limit that a reload raises lets those in who wait, in their order', async t => {
  const clock = createFakeClock()
  const resource = await startResource(t, { name: 'small', clock })
  const limited = (limit: number): string =>
    configFor([{ url: resource.url, more: `max_in_flight: ${limit}` }], { rest: WAITS })
  const running = await runProxy(t, limited(1), { clock })
  resource.resource.always(delay(1_000))
  const asked: Promise<Response>[] = []
  for (let i = 0; i < 5; i++) {
    asked.push(running.chat())
    await until(() => resource.resource.requests.length + waiting(running) === i + 1)
  }
  running.proxy.reload(readConfig(limited(3)), undefined)
  await until(() => resource.resource.requests.length === 3)
  t.equal(waiting(running), 2)
  clock.advance(1_000)
  await until(() => resource.resource.requests.length === 5)
  clock.advance(1_000)
  t.same(await servedBy(t, await Promise.all(asked)), { b1: 5 })
})

t.test('those who wait for a model that a reload takes away wait on for what it had', async t => {
  const clock = createFakeClock()
  const { first, second, running } = await twoBackends(t, { clock })
  running.proxy.reload(readConfig(configFor([{ url: first.url, name: 'b1' }], { rest: WAITS })), undefined)
  first.resource.next(throttleBy({ kind: 'ms', ms: 2_000 }))
  const asked = running.chat()
  await until(() => waiting(running) === 1)
  const other = configFor([{ url: second.url }], { rest: WAITS }).replace('gpt-4o:', 'another:')
  running.proxy.reload(readConfig(other), undefined)
  t.equal((await running.chat()).status, 404)
  clock.advance(2_000)
  t.same(await servedBy(t, [await asked]), { b1: 1 })
})
