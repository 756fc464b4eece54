// The simulation itself: it repeats itself to the byte, it is green over a few worlds, and its mutants still apply. The
// many worlds are `make simulate-faults`.
import t from 'tap'
import { strayMutants } from './mutants.ts'
import { drawPlan, type PlanEvent, type RequestEvent, type WorldPlan } from './plan.ts'
import { createConfigMaker } from './processes.ts'
import { runWorld } from './world.ts'

const configOf = createConfigMaker()
// Some seconds; minutes on a machine that is busy otherwise.
t.setTimeout(800_000)

t.test('the same seed gives the same trace, to the byte', async t => {
  t.setTimeout(800_000)
  const different: number[] = []
  for (let seed = 1; seed <= 100; seed++) {
    const first = await runWorld(drawPlan(seed), { configOf, traced: true })
    const second = await runWorld(drawPlan(seed), { configOf, traced: true })
    if (first.hash !== second.hash || first.trace.length < 20) different.push(seed)
  }
  t.same(different, [])
})

t.test('no world of these violates an invariant', async t => {
  t.setTimeout(800_000)
  for (let seed = 1_000_001; seed <= 1_000_060; seed++) {
    const { violations } = await runWorld(drawPlan(seed), { configOf, traced: false })
    t.same(violations, [], `seed ${seed}`)
  }
})

t.test(
  'a client that stops reading while the last of its answer waits for it is given up after idle_timeout',
  async t => {
    const plan = drawPlan(20_353)
    const request = {
      kind: 'request',
      atMs: 4_000,
      id: 'q0',
      key: 'hostile',
      form: 'chat',
      connection: 0,
      process: 0,
      // 300 KB: more than fits into its window, less than the proxy holds for it.
      poison: { kind: 'oversized_error' },
      about: undefined,
      leavesAfterMs: undefined,
      stallMs: 60_000,
      effort: 1,
      pieces: 1,
    } as const
    const { violations, trace } = await runWorld({ ...plan, events: [request] }, { configOf, traced: true })
    t.same(violations, [])
    const line = trace.find(text => text.includes('"msg":"request","id":"q0"'))
    t.match(line, /"error":"client_stalled"/)
  },
)

/** One sound backend, one process, nothing that was drawn; and what a test adds. */
function plainPlan(events: readonly PlanEvent[]): WorldPlan {
  const plan = drawPlan(21)
  return {
    ...plan,
    processes: 1,
    settings: { ...plan.settings, probes: false, maxWaitMs: 0, timeoutMs: 4_000, idleTimeoutMs: 3_000 },
    backends: plan.backends.slice(0, 1).map(backend => ({ ...backend, serviceMs: 300, bucket: undefined })),
    events,
    calmMs: 20_000,
  }
}

const REQUEST: RequestEvent = {
  kind: 'request',
  atMs: 1_000,
  id: 'q0',
  key: 'good',
  form: 'chat',
  connection: 0,
  process: 0,
  poison: undefined,
  about: undefined,
  leavesAfterMs: undefined,
  stallMs: undefined,
  effort: 1,
  pieces: 1,
}

t.test('what a client reads while this process stands still is no stall', async t => {
  const events: readonly PlanEvent[] = [
    { ...REQUEST, form: 'stream', pieces: 8, stallMs: 1_500 },
    { kind: 'freeze', atMs: 1_700, forMs: 3_500, process: 0 },
  ]
  const { violations, trace } = await runWorld(plainPlan(events), { configOf, traced: true })
  t.same(violations, [])
  t.match(
    trace.find(text => text.includes('"msg":"request","id":"q0"')),
    /"status":200,.*"error":null/,
  )
})

t.test('a kept connection that ends while this process stands still puts nobody out', async t => {
  const events: readonly PlanEvent[] = [
    REQUEST,
    { ...REQUEST, id: 'q1', atMs: 2_000 },
    { kind: 'freeze', atMs: 2_100, forMs: 3_500, process: 0 },
    { kind: 'trouble', atMs: 2_200, forMs: 50, backend: 0, scope: 'all', trouble: { kind: 'moved' } },
  ]
  const { violations, trace } = await runWorld(plainPlan(events), { configOf, traced: true })
  t.same(violations, [])
  t.notOk(trace.some(text => text.includes('backend ejected')))
  t.match(
    trace.find(text => text.includes('"msg":"request","id":"q1"')),
    /"status":200,/,
  )
})

t.test('every mutant still has its place in the sources', t => {
  t.same(strayMutants(), [])
  t.end()
})
