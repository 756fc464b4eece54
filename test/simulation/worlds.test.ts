// Worlds written out one by one: outages that once showed a fault, with little else in them.
import t, { type Test } from 'tap'
import { type BackendPlan, drawPlan, type PlanEvent, type RequestEvent, type WorldPlan } from './plan.ts'
import { createConfigMaker } from './processes.ts'
import { runWorld } from './world.ts'

const configOf = createConfigMaker()
t.setTimeout(800_000)

function backend(index: number, more: Partial<BackendPlan> = {}): BackendPlan {
  return {
    name: `b${index}`,
    host: `r${index}.test`,
    deployment: `d${index}`,
    apiVersion: 'v1',
    weight: 1,
    priority: 1,
    serviceMs: 250,
    maxInFlight: undefined,
    bucket: undefined,
    ...more,
  }
}

function chat(index: number, atMs: number, more: Partial<RequestEvent> = {}): RequestEvent {
  return {
    kind: 'request',
    atMs,
    id: `q${index}`,
    key: 'good',
    form: 'chat',
    connection: 1_000 + index,
    process: 0,
    poison: undefined,
    about: undefined,
    leavesAfterMs: undefined,
    stallMs: undefined,
    effort: 1,
    pieces: 1,
    ...more,
  }
}

/** A world with these backends in which nothing happens but this. */
function world(
  backends: readonly BackendPlan[],
  events: readonly PlanEvent[],
  more: Partial<Pick<WorldPlan, 'processes'>> & { readonly maxWaitMs?: number; readonly maxAttempts?: number } = {},
): WorldPlan {
  const drawn = drawPlan(1)
  const { processes = 1, maxWaitMs = 0, maxAttempts = 3 } = more
  const settings = { ...drawn.settings, balance: 'round_robin', maxWaitMs, maxAttempts, probes: false } as const
  const calmMs = Math.max(...events.map(({ atMs }) => atMs)) + 1
  return { ...drawn, processes, messageMs: 30, settings, backends, events, calmMs }
}

/** The statuses that its clients got, by the request's id. */
async function statuses(t: Test, plan: WorldPlan): Promise<ReadonlyMap<string, number>> {
  const { violations, trace } = await runWorld(plan, { configOf, traced: true })
  t.same(violations, [])
  const found = trace.flatMap(line => {
    const [, id, status] = / (q\d+) whole (\d+) from /.exec(line) ?? []
    return id === undefined ? [] : [[id, Number(status)] as const]
  })
  return new Map(found)
}

t.test("an operator's later word holds in all processes, though the first had not been heard of", async t => {
  for (const laterMs of [1, 11, 60]) {
    const events: readonly PlanEvent[] = [
      { kind: 'eject', atMs: 1_201, backend: 1, process: 1 },
      { kind: 'restore', atMs: 1_201 + laterMs, backend: 1, process: 0 },
    ]
    await statuses(t, world([backend(0), backend(1)], events, { processes: 2 }))
  }
})

t.test("an operator's word outlives the process that it was said to", async t => {
  const events: readonly PlanEvent[] = [
    { kind: 'eject', atMs: 1_201, backend: 1, process: 0 },
    { kind: 'restore', atMs: 1_301, backend: 1, process: 1 },
    { kind: 'kill', atMs: 1_310, process: 1 },
  ]
  await statuses(t, world([backend(0), backend(1)], events, { processes: 2 }))
})

t.test('several workers whose one deployment admits one a second: nobody waits while it is idle', async t => {
  const admits = { perSecond: 1, burst: 1, form: 'retry-after-ms' } as const
  const requests = Array.from({ length: 24 }, (_, i) => chat(i, 1_000 + 130 * i, { process: i % 2 }))
  const got = await statuses(t, world([backend(0, { bucket: admits })], requests, { processes: 2, maxWaitMs: 12_000 }))
  t.ok([...got.values()].filter(status => status === 200).length >= 10, JSON.stringify([...got]))
})

t.test('a process that stands still while it connects blames nobody for that time', async t => {
  for (const atMs of [1_001, 1_002, 1_003, 1_004]) {
    const freeze = { kind: 'freeze', atMs, forMs: 3_000, process: 0 } as const
    const plan = world([backend(0, { serviceMs: 20 })], [chat(0, 1_000), freeze])
    t.same([...(await statuses(t, plan)).values()], [200])
    const { trace } = await runWorld(plan, { configOf, traced: true })
    t.same(
      trace.filter(line => line.includes('backend ejected')),
      [],
    )
  }
})

t.test('a hold that ends while requests wait for a throttle of another backend', async t => {
  const missing = { kind: 'status', status: 404, form: 'deployment_missing', wait: undefined } as const
  const throttles = { kind: 'status', status: 429, form: 'azure', wait: { form: 'retry-after-ms', ms: 9_000 } } as const
  const events: readonly PlanEvent[] = [
    { kind: 'trouble', atMs: 1_000, forMs: 500, backend: 0, scope: 'requests', trouble: missing },
    { kind: 'trouble', atMs: 1_000, forMs: 500, backend: 1, scope: 'requests', trouble: throttles },
    ...[0, 1, 2, 3].map(i => chat(i, 1_100 + i)),
  ]
  const got = await statuses(t, world([backend(0), backend(1)], events, { maxWaitMs: 12_000 }))
  t.same([...got.values()], [200, 200, 200, 200])
})

t.test('a wait that ends while a backend is only held back says when to come again: it is not out', async t => {
  const admits = { perSecond: 1, burst: 1, form: 'retry-after' } as const
  const pool = [backend(0, { serviceMs: 272, bucket: admits })]
  const events: readonly PlanEvent[] = [
    // Its answer has not begun when the wait ends.
    {
      kind: 'trouble',
      atMs: 6_000,
      forMs: 2_000,
      backend: 0,
      scope: 'requests',
      trouble: { kind: 'slow', moreMs: 600 },
    },
    chat(0, 349, { form: 'stream', pieces: 3 }),
    chat(1, 836, { form: 'stream' }),
    chat(2, 1_479),
    chat(3, 3_169, { form: 'create' }),
    chat(4, 3_591),
    chat(5, 4_523, { form: 'stream', pieces: 5 }),
    chat(6, 4_525, { form: 'stream', pieces: 3 }),
  ]
  const got = await statuses(t, world(pool, events, { maxWaitMs: 2_000, maxAttempts: 2 }))
  t.same([...got.values()].sort(), [200, 200, 200, 200, 200, 200, 429])
})

t.test('attempts used up on two backends while a third was never asked: the last answer, not a 429', async t => {
  const poison = { kind: 'status', status: 503, form: 'azure', wait: undefined } as const
  const events = [chat(0, 1_000, { key: 'hostile', poison })]
  const got = await statuses(t, world([backend(0), backend(1), backend(2)], events, { maxAttempts: 2 }))
  t.same([...got.values()], [503])
})
