// Worker processes without processes: what the primary decides, keeps and answers, and how workers end up with the
// same.
import t from 'tap'
import { type BackendHealth, createHealthRegistry } from '../../lib/balancer/health.ts'
import { troubleOf } from '../../lib/balancer/health-state.ts'
import { createOwners } from '../../lib/balancer/owners.ts'
import { createUnsupportedOperations } from '../../lib/balancer/unsupported.ts'
import { createUsageLedger } from '../../lib/balancer/usage-ledger.ts'
import { createWarmPlaces } from '../../lib/balancer/warm-places.ts'
import { createLog } from '../../lib/log.ts'
import { type MetricsState, mergeMetrics } from '../../lib/metrics.ts'
import { createEgressNews } from '../../lib/workers/egress-news.ts'
import { COUNT_MS, createGathering, ROUND_MS } from '../../lib/workers/gathering.ts'
import type { PrimaryCall, ProcessState, StateUpdate, ToWorker } from '../../lib/workers/messages.ts'
import { createPeers, PATIENCE_MS } from '../../lib/workers/peers.ts'
import { createPrimaryServices } from '../../lib/workers/primary-services.ts'
import { createSharedMemory } from '../../lib/workers/shared-memory.ts'
import { replicateState } from '../../lib/workers/sharing.ts'
import { createStateLines } from '../../lib/workers/state-lines.ts'
import {
  decide,
  type Effect,
  FIRST_PAUSE_MS,
  HEALTHY_MS,
  INITIAL,
  MAX_PAUSE_MS,
  type Supervision,
  type SupervisionEvent,
} from '../../lib/workers/supervision.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

/** Runs events from a state on. @returns the last state, and what each event led to */
function run(events: readonly SupervisionEvent[], from: Supervision = INITIAL) {
  let state = from
  const effects: (readonly Effect[])[] = []
  for (const event of events) {
    const decision = decide(state, event)
    state = decision.next
    effects.push(decision.effects)
  }
  return { state, effects, last: effects.at(-1) ?? [] }
}

const forked = (id: number, atMs = 0): SupervisionEvent => ({ kind: 'forked', id, atMs })
const awake = (id: number): SupervisionEvent => ({ kind: 'awake', id })
const ready = (id: number): SupervisionEvent => ({ kind: 'ready', id, port: 3000 })
const exited = (id: number, atMs = 0): SupervisionEvent => ({ kind: 'exited', id, code: 1, signal: null, atMs })
const cannot: SupervisionEvent = { kind: 'cannot_listen', id: 1, message: 'port 3000 is in use' }
const TWO: readonly SupervisionEvent[] = [
  { kind: 'begin', workers: 2 },
  forked(1),
  forked(2),
  awake(1),
  awake(2),
  ready(1),
  ready(2),
]

t.test('the supervisor decides', async t => {
  t.test('the start is over when the first worker listens; it alone probes', async t => {
    const { effects } = run(TWO)
    t.same(effects[0], [{ kind: 'fork' }, { kind: 'fork' }])
    t.same(effects[3], [{ kind: 'send_start', id: 1 }])
    t.same(effects[5], [
      { kind: 'listening', port: 3000 },
      { kind: 'send_lead', id: 1 },
    ])
    t.same(effects[6], [])
  })

  t.test('a start where none can listen has failed; a replacement that cannot listen ends nothing', async t => {
    const start = run([{ kind: 'begin', workers: 2 }, forked(1), forked(2), awake(1), cannot, cannot])
    t.same(start.effects[4], [{ kind: 'failed', message: 'port 3000 is in use' }])
    t.same(start.last, [], 'and is said once')
    t.equal(start.state.phase, 'ending')

    const later = run([...TWO, exited(1), { kind: 'pause_over' }, forked(3), awake(3), { ...cannot, id: 3 }])
    t.same(later.last, [{ kind: 'log_cannot_listen', id: 3, message: 'port 3000 is in use' }])
    t.equal(later.state.phase, 'serving')
    const again = run([exited(3)], later.state)
    t.match(again.last[2], { kind: 'fork_after' }, 'it is tried again')
  })

  t.test('the death of all workers, whenever it comes, is followed by as many starts', async t => {
    for (const count of [2, 3, 4, 5, 6, 7]) {
      const before = run(TWO.slice(0, count + 1)).state
      const ids = [...before.workers.keys()]
      const { effects, state } = run(
        ids.map(id => exited(id)),
        before,
      )
      t.equal(state.workers.size, 0)
      t.equal(effects.flat().filter(({ kind }) => kind === 'fork_after').length, ids.length, `after ${count} events`)
      t.notOk(effects.flat().some(({ kind }) => kind === 'all_gone' || kind === 'failed'))
      t.same(run([{ kind: 'pause_over' }], state).last, [{ kind: 'fork' }])
    }
  })

  t.test('the pause doubles while workers die young, up to half a minute; one that lived begins anew', async t => {
    let { state } = run(TWO)
    const waits: number[] = []
    for (let id = 2; id < 12; id++) {
      const decision = decide(state, exited(id))
      for (const effect of decision.effects) if (effect.kind === 'fork_after') waits.push(effect.waitMs)
      state = run([forked(id + 1), awake(id + 1), ready(id + 1)], decision.next).state
    }
    t.same(waits.slice(0, 3), [FIRST_PAUSE_MS, FIRST_PAUSE_MS * 2, FIRST_PAUSE_MS * 4], 'listening is no cure')
    t.equal(waits.at(-1), MAX_PAUSE_MS)
    const old = run([exited(12, HEALTHY_MS)], state)
    t.match(old.last[2], { kind: 'fork_after', waitMs: 0 })
    t.equal(old.state.pauseMs, FIRST_PAUSE_MS)
  })

  t.test('when the worker that probes dies, another one does', async t => {
    const { last, state } = run([...TWO, exited(1)])
    t.same(last.at(-1), { kind: 'send_lead', id: 2 })
    t.equal(state.leader, 2)
    const none = run([exited(2)], state)
    t.same(
      none.last.filter(({ kind }) => kind === 'send_lead'),
      [],
    )
    const next = run([{ kind: 'pause_over' }, forked(3), awake(3), ready(3)], none.state)
    t.same(next.last, [{ kind: 'send_lead', id: 3 }])
  })

  t.test('a stop reaches those that sleep when they wake, kills what is late, and starts nobody', async t => {
    const { state, last } = run([...TWO.slice(0, 4), { kind: 'stop' }])
    t.same(last, [{ kind: 'send_shutdown', id: 1 }])
    t.same(run([awake(2)], state).last, [{ kind: 'send_shutdown', id: 2 }])
    t.same(run([{ kind: 'pause_over' }], state).last, [])
    t.same(run([{ kind: 'grace_over' }], state).last, [
      { kind: 'kill', id: 1 },
      { kind: 'kill', id: 2 },
    ])
    t.same(run([exited(1), exited(2)], state).effects, [
      [{ kind: 'bury', id: 1 }],
      [{ kind: 'bury', id: 2 }, { kind: 'all_gone' }],
    ])
    t.same(run([{ kind: 'stop' }]).last, [{ kind: 'all_gone' }], 'with none there it is over at once')
  })
})

const REQUESTS = 'proxy_requests_total'
const counted = (requests: number, remaining?: readonly [value: number, atMs: number]): ProcessState => {
  const metrics: MetricsState = {
    [REQUESTS]: { m: requests },
    proxy_open_streams: { '': 1 },
    ...(remaining === undefined ? {} : { proxy_backend_remaining_requests: { b: remaining } }),
  }
  return { metrics, status: null }
}
const total = (states: readonly ProcessState[]): unknown =>
  mergeMetrics(states.map(({ metrics }) => metrics))[REQUESTS]?.m

t.test('figures of all workers', async t => {
  const clock = createFakeClock()
  const alive = new Set([1, 2])
  const asked: (readonly [worker: number, round: number])[] = []
  const gathering = createGathering({
    clock,
    workers: () => alive,
    ask: (worker, round) => asked.push([worker, round]),
  })
  const results: (readonly ProcessState[])[] = []
  const gather = (): void => gathering.gather(states => results.push(states))

  gather()
  gather()
  gather()
  const first = [
    [1, 1],
    [2, 1],
  ] as const
  t.same(asked, first)
  gathering.counted(1, 1, counted(50))
  gathering.counted(2, 1, counted(50))
  t.same(results.map(total), [100], 'who asks later gets no older figures')
  t.equal(asked.length, 2, 'and rounds are a tenth of a second apart')
  clock.advance(ROUND_MS)
  t.equal(asked.length, 4, 'two who ask meanwhile share one')
  gathering.counted(1, 2, counted(60))
  t.equal(results.length, 1)
  clock.advance(COUNT_MS)
  t.same(results.map(total), [100, 110, 110], 'one that is slow is shown by its last state')

  alive.delete(2)
  gathering.ended(2)
  gather()
  clock.advance(ROUND_MS)
  gathering.counted(1, 3, counted(61))
  t.equal(total(results[3] ?? []), 111, 'one that has ended leaves its counters')
  t.same(
    mergeMetrics((results[3] ?? []).map(({ metrics }) => metrics)).proxy_open_streams,
    { '': 1 },
    'and none of its gauges',
  )

  gathering.counted(1, null, counted(70))
  alive.delete(1)
  gathering.ended(1)
  alive.add(3)
  gather()
  clock.advance(ROUND_MS)
  gathering.counted(3, 4, counted(1))
  t.equal(total(results[4] ?? []), 121, 'what a worker said unasked is not lost with it, and all may die')
})

t.test('what a backend said last is shown, whichever worker it was said to', async t => {
  const states = [counted(0, [1, 5_000]), counted(0, [900, 7_000]), counted(0)]
  const merged = mergeMetrics(states.map(({ metrics }) => metrics))
  t.same(merged.proxy_backend_remaining_requests, { b: [900, 7_000] })
})

const LIMITS = { requestsPerMinute: undefined, tokensPerMinute: undefined, concurrent: 1 }

t.test('limits of keys, counted in the primary', async t => {
  const clock = createFakeClock()
  const toWorker: ToWorker[] = []
  const ledger = createUsageLedger({ clock, file: undefined, onProblem: () => undefined })
  const services = createPrimaryServices(clock, (_worker, message) => void toWorker.push(message), ledger)
  services.welcome(1)
  const toPrimary: PrimaryCall[] = []
  const peers = createPeers(clock, call => void toPrimary.push(call))
  const deliver = (): void => {
    for (const call of toPrimary.splice(0)) services.answer(1, call)
    for (const message of toWorker.splice(0)) {
      if (message.kind === 'admission' || message.kind === 'gathered') peers.onResult(message)
    }
    for (const call of toPrimary.splice(0)) services.answer(1, call)
  }

  t.test('a primary that does not answer in time is neither a yes nor a limit; its late yes is given back', async t => {
    const limits = { ...LIMITS, requestsPerMinute: 3 }
    for (let i = 0; i < 5; i++) {
      const asked = peers.keyLimiter.admit('k', limits, 10)
      // In every other round the answer is on its way when the worker gives up.
      if (i % 2 === 0) for (const call of toPrimary.splice(0)) services.answer(1, call)
      clock.advance(PATIENCE_MS)
      t.match(await asked, { kind: 'unknown', waitMs: 1_000 })
      for (const call of toPrimary.splice(0)) services.answer(1, call)
      t.equal(toWorker.length, i % 2 === 0 ? 1 : 0, 'a question that nobody waits for takes no place')
      deliver()
    }
    const next = peers.keyLimiter.admit('k', limits, 10)
    deliver()
    t.match(await next, { kind: 'admitted' }, 'neither the place nor the requests of the minute are lost')
  })

  t.test('a worker that stood still takes what the primary said meanwhile', async t => {
    const asked = peers.keyLimiter.admit('paused', LIMITS, 10)
    for (const call of toPrimary.splice(0)) services.answer(1, call)
    clock.standStill(2 * PATIENCE_MS)
    // Timers run before what lies unread.
    clock.advance(0)
    deliver()
    t.match(await asked, { kind: 'admitted' })
  })

  t.test('what a dead worker held is given back', async t => {
    services.welcome(2)
    services.answer(2, {
      kind: 'admit',
      question: 1,
      name: 'other',
      limits: LIMITS,
      tokens: 1,
      askedEpochMs: clock.epochMs(),
    })
    services.bury(2)
    toWorker.splice(0)
    services.answer(1, {
      kind: 'admit',
      question: 2,
      name: 'other',
      limits: LIMITS,
      tokens: 1,
      askedEpochMs: clock.epochMs(),
    })
    t.match(toWorker, [{ kind: 'admission', admission: { kind: 'admitted' } }])
  })

  t.test('figures that cannot be had are not replaced by a part of them', async t => {
    const asked = peers.askAll()
    clock.advance(PATIENCE_MS)
    t.equal(await asked, undefined)
  })
})

/** Some workers over one primary's memory; messages travel on the test's order. */
function workers(count: number) {
  const clock = createFakeClock()
  const memory = createSharedMemory()
  const made: ReturnType<typeof startOne>[] = []
  const startOne = (writer: number) => {
    const health = createHealthRegistry({ clock, recoveryMs: () => 30_000, writer })
    const owners = createOwners()
    const sent: StateUpdate[] = []
    const changes: string[] = []
    const backend = health.of('b')
    const warmPlaces = createWarmPlaces(clock)
    const unsupported = createUnsupportedOperations(clock)
    const sharing = replicateState({ clock, health, owners, warmPlaces, unsupported }, items => sent.push(...items))
    health.onChange(({ kind }) => changes.push(kind))
    unsupported.onChange(({ forMs }) => changes.push(`avoided for ${forMs}`))
    return { health, owners, warmPlaces, unsupported, backend, sharing, sent, changes }
  }
  const start = () => {
    const worker = startOne(made.length + 1)
    worker.sharing.applyUpdates(memory.snapshot())
    made.push(worker)
    return worker
  }
  for (let i = 0; i < count; i++) start()
  return {
    clock,
    all: made,
    start,
    memory,
    /** Carries what has been said, in this order of workers. */
    deliver(order: readonly number[] = made.map((_, i) => i)) {
      clock.advance(20)
      for (const i of order) {
        const items = made[i]?.sent.splice(0) ?? []
        memory.take(items)
        for (const [at, other] of made.entries()) if (at !== i) other.sharing.applyUpdates(items)
      }
    },
  }
}

t.test('what one worker learns all know, and say once', async t => {
  const { all, deliver, clock } = workers(3)
  const [one, two, three] = all
  if (one === undefined || two === undefined || three === undefined) throw new Error('three workers')
  one.health.probeFailed(one.backend, 'probe_failed', 'ECONNREFUSED')
  deliver()
  t.same(
    all.map(({ backend }) => troubleOf(backend.state)?.reason),
    ['probe_failed', 'probe_failed', 'probe_failed'],
  )
  t.same(
    all.map(({ changes }) => changes),
    [['ejected'], [], []],
    'one shared probe failure is one line',
  )
  t.same(
    all.map(({ sent }) => sent.length),
    [0, 0, 0],
    'nobody sends back what it was sent',
  )

  clock.advance(1_000)
  two.health.restore(two.backend)
  deliver()
  t.same(
    all.map(({ backend }) => troubleOf(backend.state)),
    [undefined, undefined, undefined],
  )
})

const detailOf = (worker: { readonly backend: BackendHealth } | undefined): string | undefined =>
  worker && troubleOf(worker.backend.state)?.detail

t.test('two that learn at once end with the same, in whatever order they hear of each other', async t => {
  for (const order of [
    [0, 1],
    [1, 0],
  ]) {
    const { all, deliver } = workers(2)
    for (const [i, { health, backend }] of all.entries()) {
      health.lease(backend).release({
        kind: 'failed',
        suspect: 'no',
        timeout: false,
        reason: 'server_error',
        detail: `${i}`,
        holdMs: 60_000 * (i + 1),
      })
    }
    deliver(order)
    t.equal(detailOf(all[0]), detailOf(all[1]), `order ${order}`)
  }
})

t.test('a new worker begins with all that is known, as old as it is by then', async t => {
  const { all, deliver, start, clock } = workers(1)
  const [one] = all
  if (one === undefined) throw new Error('one worker')
  one.health.eject(one.backend, undefined)
  one.owners.learn('resp_1', 'resource-1', 'alice')
  one.owners.learn('resp_2', 'resource-1')
  one.owners.forget('resp_2')
  deliver()
  clock.advance(3_600_000)
  const late = start()
  t.match(troubleOf(late.backend.state), { reason: 'by_hand', untilMs: Number.POSITIVE_INFINITY })
  t.equal(clock.nowMs() - (troubleOf(late.backend.state)?.sinceMs ?? 0), 3_600_020)
  t.equal(late.owners.of('resp_1'), 'resource-1')
  t.equal(late.owners.makerOf('resp_1'), 'alice', 'with the key that made it')
  t.equal(late.owners.of('resp_2'), undefined)

  one.health.restore(one.backend)
  deliver()
  t.equal(troubleOf(late.backend.state), undefined, 'and follows from there')
})

t.test('what a deployment does not offer all workers know, and say once', async t => {
  const { all, deliver, clock, start } = workers(2)
  const [one, two] = all
  if (one === undefined || two === undefined) throw new Error('two workers')
  const lack = { deployment: 'b', what: 'responses', apiVersion: 'v1' }
  one.unsupported.note(lack, { wrong: 'path' })
  deliver()
  t.equal(two.unsupported.has(lack), true)
  t.equal(start().unsupported.has(lack), true, 'one that starts later too')
  clock.advance(10_000)
  t.equal(two.unsupported.has(lack), false)
  two.unsupported.note(lack, { wrong: 'path' })
  deliver()
  clock.advance(30_000)
  t.equal(one.unsupported.has(lack), true)
  one.unsupported.answered(lack)
  deliver()
  for (const worker of all) t.equal(worker.unsupported.has(lack), false, 'one response ends it for all')
  t.same(
    all.map(({ changes }) => changes),
    [['avoided for 10000', 'avoided for 0'], ['avoided for 60000'], []],
    'the second time is longer, whoever saw the first',
  )
})

t.test('a proxy that several workers see fail and work again is one line each time', async t => {
  const lines: string[] = []
  const news = createEgressNews(({ kind, proxy }) => lines.push(`${proxy} ${kind}`))
  const failing = (proxy: string) => ({ kind: 'failing', proxy, words: 'refuses' }) as const
  const working = (proxy: string) => ({ kind: 'working', proxy, words: '' }) as const
  for (const worker of [1, 2, 3]) news.take(worker, failing('a'))
  news.take(2, failing('b'))
  for (const worker of [3, 1]) news.take(worker, working('a'))
  news.take(3, failing('a'))
  news.take(2, working('a'))
  t.same(lines, ['a failing', 'b failing', 'a working', 'a failing', 'a working'])
  lines.length = 0
  news.forget(2)
  news.take(1, working('b'))
  t.same(lines, [], 'what a dead worker alone knew is forgotten')
  news.take(1, failing('b'))
  t.same(lines, ['b failing'])
})

t.test('a change that several workers see in the same moment is one line', async t => {
  const clock = createFakeClock()
  const said: string[] = []
  const log = createLog({
    clock,
    level: () => 'info',
    format: () => 'json',
    write: line => said.push(JSON.parse(line).msg),
  })
  const { take, reset } = createStateLines(clock, log)
  const line = (msg: string, topic: string, state: string, forMs?: number): void =>
    take({ level: 'info', msg, fields: {}, topic, state, ...(forMs === undefined ? {} : { forMs }) })
  for (const _worker of [1, 2]) line('a out', 'a', 'out server_error')
  for (const _worker of [1, 2]) line('b out', 'b', 'out server_error')
  line('a out by its key', 'a', 'out credentials_refused')
  for (const _worker of [1, 2]) line('a in', 'a', 'in')
  line('a out', 'a', 'out server_error')
  t.same(said.splice(0), ['a out', 'b out', 'a out by its key', 'a in', 'a out'])
  for (const _worker of [1, 2]) line('a throttled', 'throttle of a', 'throttled', 10_000)
  clock.advance(10_000)
  line('a throttled', 'throttle of a', 'throttled', 10_000)
  t.same(said.splice(0), ['a throttled', 'a throttled'], 'a throttle that is over may come again')
  reset()
  line('a out', 'a', 'out server_error')
  t.same(said, ['a out'], 'behind a reload a name may be another thing')
})

t.test('a conversation is warm at the same backend for all workers, and for one that starts later', async t => {
  const { all, deliver, start, clock } = workers(2)
  const [one, two] = all
  if (one === undefined || two === undefined) throw new Error('two workers')
  one.warmPlaces.use(7, 111)
  deliver()
  t.equal(two.warmPlaces.of(7)?.seed, 111)
  two.warmPlaces.use(7, 222)
  deliver()
  t.equal(one.warmPlaces.of(7)?.seed, 222, 'it moved')
  t.equal(start().warmPlaces.of(7)?.seed, 222)

  clock.advance(30_000)
  two.warmPlaces.use(7, 222)
  t.same(two.sent, [], 'that it goes on is no news')
  clock.advance(30_000)
  two.warmPlaces.use(7, 222)
  deliver()
  clock.advance(299_000)
  t.equal(one.warmPlaces.of(7)?.seed, 222, 'once a minute it is: others must not take it for cold')
})

t.test('of news that comes twice or late the newest stays', async t => {
  const { all, deliver, memory } = workers(2)
  const [one, two] = all
  if (one === undefined || two === undefined) throw new Error('two workers')
  one.health.eject(one.backend, undefined)
  deliver()
  const old = memory.snapshot()
  two.health.restore(two.backend)
  deliver()
  for (const worker of all) worker.sharing.applyUpdates(old)
  t.same(
    all.map(({ backend }) => troubleOf(backend.state)),
    [undefined, undefined],
  )
})

t.test("an operator's word is sent the moment it is said; what requests see travels in batches", t => {
  const { all, clock } = workers(1)
  const [worker] = all
  if (worker === undefined) throw new Error('there is one worker')
  worker.health.lease(worker.backend).release({ kind: 'throttled', waitMs: 5_000 })
  t.same(worker.sent, [])
  worker.health.eject(worker.backend, undefined)
  t.match(worker.sent, [{ kind: 'health', state: { phase: 'held', throttle: { epoch: 0 } } }])
  clock.advance(1_000)
  worker.health.restore(worker.backend)
  t.match(worker.sent.at(-1), { kind: 'health', state: { phase: 'in' } })
  t.end()
})
