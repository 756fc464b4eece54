// Paid capacity first: what a provisioned tier admits it serves, and only the rest spills; weights and least_busy over
// sockets.
import t, { type Test } from 'tap'
import { throttleBy } from '../../lib/simulator/faults.ts'
import { NO_PROBES, twoBackends } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { requestLines, servedBy, until } from '../fixtures/settle.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const TICK_MS = 40

interface Tiers {
  readonly clock: FakeClock
  readonly paid: StartedResource
  readonly spill: StartedResource
  readonly running: RunningProxy
}

/** A provisioned deployment as the first tier and one billed by use below it; one clock for all of them. */
async function tiers(t: Test, perSecond: number): Promise<Tiers> {
  const clock = createFakeClock()
  const { first, second, running } = await twoBackends(t, {
    clock,
    resources: [{ deployments: [{ name: 'gpt-4o', kind: 'chat', provisionedPerSecond: perSecond }] }],
    backends: [{ name: 'ptu' }, { name: 'paygo', more: 'priority: 2' }],
  })
  return { clock, paid: first, spill: second, running }
}

interface Served {
  readonly atMs: number
  readonly backend: string | null
  readonly attempts: string | null
}

/** Sends a request every 40 ms of virtual time, 25 a second, for so long. */
async function drive(t: Test, { clock, running }: Tiers, seconds: number): Promise<readonly Served[]> {
  const served: Served[] = []
  const beganMs = clock.nowMs()
  while (clock.nowMs() - beganMs < seconds * 1_000) {
    const answer = await running.chat()
    await answer.arrayBuffer()
    if (answer.status !== 200) t.fail(`a client got ${answer.status}`)
    served.push({
      atMs: clock.nowMs() - beganMs,
      backend: answer.headers.get('x-proxy-backend'),
      attempts: answer.headers.get('x-proxy-attempts'),
    })
    clock.advance(TICK_MS)
  }
  return served
}

function countOf(served: readonly Served[], backend: string): number {
  return served.filter(one => one.backend === backend).length
}

async function spilledTotal({ running }: Tiers): Promise<number> {
  const text = await (await fetch(`${running.url}/metrics`)).text()
  return Number(/^proxy_spilled_total\{model="gpt-4o"\} (\d+)$/m.exec(text)?.[1] ?? 0)
}

t.test(
  'a provisioned tier that admits ten a second serves ten a second for a minute, and only the rest spills',
  async t => {
    const all = await tiers(t, 10)
    const served = await drive(t, all, 60)
    t.equal(served.length, 1_500)

    // It takes one second's worth at once, and from then on what it works off.
    const first = countOf(served, 'ptu')
    t.ok(Math.abs(first - (10 + 600)) <= 1, `served first: ${first}`)
    for (let second = 1; second < 60; second++) {
      const count = countOf(
        served.filter(({ atMs }) => Math.floor(atMs / 1_000) === second),
        'ptu',
      )
      if (Math.abs(count - 10) > 1) t.fail(`in second ${second} it served ${count}`)
    }
    t.equal(countOf(served, 'paygo'), 1_500 - first)

    // Only a request that finds it full costs a second attempt; while its named wait lasts the others go below at once.
    const refused = served.filter(({ attempts }) => attempts === '2').length
    t.equal(all.paid.resource.requests.length <= 1_000, true)
    t.ok(refused <= first, `refused: ${refused}`)

    const lines = await requestLines(all.running, 1_500)
    t.same(
      lines.map(({ spilled = false }) => spilled),
      served.map(({ backend }) => backend === 'paygo'),
      'the log says of each request whether it spilled',
    )
    t.equal(await spilledTotal(all), 1_500 - first)
    t.same([...all.paid.resource.violations, ...all.spill.resource.violations], [])
  },
)

t.test('what a provisioned tier serves follows its size while that changes', async t => {
  const all = await tiers(t, 10)
  const at10 = countOf(await drive(t, all, 20), 'ptu')
  all.paid.resource.resize('gpt-4o', { provisionedPerSecond: 20 })
  const at20 = countOf(await drive(t, all, 20), 'ptu')
  all.paid.resource.resize('gpt-4o', { provisionedPerSecond: 5 })
  const at5 = countOf(await drive(t, all, 20), 'ptu')
  // Full at 10, it has room for ten more when it grows; full at 20 and shrunk to 5, fifteen have to drain off first.
  t.ok(Math.abs(at10 - (10 + 200)) <= 1, `10 a second: ${at10}`)
  t.ok(Math.abs(at20 - (10 + 400)) <= 1, `20 a second: ${at20}`)
  t.ok(Math.abs(at5 - (100 - 15)) <= 1, `5 a second: ${at5}`)
  t.equal(await spilledTotal(all), 1_500 - at10 - at20 - at5)
})

t.test('what a provisioned tier has room for never spills', async t => {
  const all = await tiers(t, 25)
  const served = await drive(t, all, 20)
  t.equal(countOf(served, 'ptu'), 500)
  t.equal(all.spill.resource.requests.length, 0)
  t.equal(await spilledTotal(all), 0)
})

t.test('a burst at once fills the tier, and exactly the rest goes below', async t => {
  const all = await tiers(t, 10)
  const answers = await Promise.all(Array.from({ length: 40 }, () => all.running.chat()))
  t.same(await servedBy(t, answers), { ptu: 10, paygo: 30 })
  t.equal(await spilledTotal(all), 30)
})

t.test('the first request after the named wait goes to the first tier again, to the millisecond', async t => {
  const all = await tiers(t, 1_000)
  const ask = async (): Promise<string | null> => {
    const answer = await all.running.chat()
    await answer.arrayBuffer()
    return answer.headers.get('x-proxy-backend')
  }
  for (const waitMs of [1, 137, 1_234, 61_000]) {
    all.paid.resource.next(throttleBy({ kind: 'provisioned', ms: waitMs }))
    t.equal(await ask(), 'paygo', `${waitMs} ms: the one that is refused`)
    all.clock.advance(waitMs - 1)
    t.equal(await ask(), 'paygo', `${waitMs} ms: a millisecond before`)
    all.clock.advance(1)
    t.equal(await ask(), 'ptu', `${waitMs} ms: then`)
  }
})

t.test('three tiers are used in their order, and only those above that are full are passed over', async t => {
  const clock = createFakeClock()
  const [one, two, three] = [
    await startResource(t, { name: 'one', clock }),
    await startResource(t, { name: 'two', clock }),
    await startResource(t, { name: 'three', clock }),
  ]
  const running = await runProxy(
    t,
    configFor(
      [
        { url: three.url, name: 'third', more: 'priority: 9' },
        { url: one.url, name: 'first' },
        { url: two.url, name: 'second', more: 'priority: 4' },
      ],
      { rest: NO_PROBES },
    ),
    { clock },
  )
  const ask = async (): Promise<string | null> => {
    const answer = await running.chat()
    await answer.arrayBuffer()
    return answer.headers.get('x-proxy-backend')
  }
  t.equal(await ask(), 'first')
  one.resource.next(throttleBy({ kind: 'both', ms: 5_000 }))
  two.resource.next(throttleBy({ kind: 'both', ms: 3_000 }))
  t.equal(await ask(), 'third')
  clock.advance(3_000)
  t.equal(await ask(), 'second')
  clock.advance(2_000)
  t.equal(await ask(), 'first')
})

t.test('weights hold exactly, one after another and all at once', async t => {
  const resources = await Promise.all(['a', 'b', 'c'].map(name => startResource(t, { name })))
  const weights = [5, 3, 2]
  const running = await runProxy(t, configFor(resources.map(({ url }, i) => ({ url, more: `weight: ${weights[i]}` }))))
  const inTurn: Response[] = []
  for (let i = 0; i < 100; i++) inTurn.push(await running.chat())
  t.same(await servedBy(t, inTurn), { b1: 50, b2: 30, b3: 20 })
  const atOnce = await Promise.all(Array.from({ length: 100 }, () => running.chat()))
  t.same(await servedBy(t, atOnce), { b1: 50, b2: 30, b3: 20 })
})

t.test(
  'those who are left share exactly by their weights while one is throttled, and again when it is back',
  async t => {
    const clock = createFakeClock()
    const resources = await Promise.all(['a', 'b', 'c'].map(name => startResource(t, { name, clock })))
    const weights = [5, 3, 2]
    const running = await runProxy(
      t,
      configFor(
        resources.map(({ url }, i) => ({ url, more: `weight: ${weights[i]}` })),
        { rest: NO_PROBES },
      ),
      { clock },
    )
    const ask = async (count: number): Promise<Record<string, number>> =>
      servedBy(t, await Promise.all(Array.from({ length: count }, () => running.chat())))
    t.same(await ask(10), { b1: 5, b2: 3, b3: 2 })
    resources[0]?.resource.next(throttleBy({ kind: 'ms', ms: 9_000 }))
    // The refused one goes on to another: from then on two share.
    await ask(1)
    const two = await ask(100)
    t.equal(two.b1, undefined)
    t.ok(Math.abs((two.b2 ?? 0) - 60) <= 1 && Math.abs((two.b3 ?? 0) - 40) <= 1, JSON.stringify(two))
    clock.advance(9_000)
    const three = await ask(100)
    t.ok(Math.abs((three.b1 ?? 0) - 50) <= 1, JSON.stringify(three))
    t.ok(Math.abs((three.b2 ?? 0) - 30) <= 2 && Math.abs((three.b3 ?? 0) - 20) <= 2, JSON.stringify(three))
  },
)

/** Backends that answer only when the clock is moved. */
async function slowOnes(t: Test, clock: FakeClock, count: number): Promise<readonly StartedResource[]> {
  return Promise.all(
    Array.from({ length: count }, (_, i) => startResource(t, { name: `slow ${i}`, clock, firstDelayMs: 1_000 })),
  )
}

t.test('least_busy spreads slow answers by weight', async t => {
  const clock = createFakeClock()
  const slow = await slowOnes(t, clock, 3)
  const weights = [1, 1, 2]
  const running = await runProxy(
    t,
    configFor(
      slow.map(({ url }, i) => ({ url, more: `weight: ${weights[i]}` })),
      { model: 'balance: least_busy', rest: NO_PROBES },
    ),
    { clock },
  )
  const asked = Array.from({ length: 40 }, () => running.chat())
  await until(() => slow.reduce((sum, { resource }) => sum + resource.requests.length, 0) === 40)
  t.same(
    slow.map(({ resource }) => resource.requests.length),
    [10, 10, 20],
  )
  clock.advance(1_000)
  t.same(await servedBy(t, await Promise.all(asked)), { b1: 10, b2: 10, b3: 20 })
})

for (const [balance, expected] of [
  ['least_busy', { b2: 20 }],
  ['round_robin', { b1: 10, b2: 10 }],
] as const) {
  t.test(
    `${balance}: beside one that holds a slow answer, twenty quick requests go ${JSON.stringify(expected)}`,
    async t => {
      const clock = createFakeClock()
      const model = `balance: ${balance}`
      const { first, running } = await twoBackends(t, { clock, model, backends: [{}, {}] })
      first.resource.next({ kind: 'delay', ms: 500 })
      const held = running.chat()
      await until(() => first.resource.requests.length === 1)
      if (balance === 'round_robin') await servedBy(t, [await running.chat()])
      const quick: Response[] = []
      for (let i = 0; i < 20; i++) quick.push(await running.chat())
      t.same(await servedBy(t, quick), expected)
      clock.advance(500)
      t.same(await servedBy(t, [await held]), { b1: 1 })
    },
  )
}
