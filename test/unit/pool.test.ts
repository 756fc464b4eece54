// A request's way through the backends of its model: tiers, trials, what is left when nothing is available, and waiting for it.
import t from 'tap'
import type { Blame, Lease } from '../../lib/balancer/health.ts'
import { createOwners } from '../../lib/balancer/owners.ts'
import type { Picker, PickerOptions, PickResult } from '../../lib/balancer/pool.ts'
import { createWaitQueue, MAX_WAITING } from '../../lib/balancer/wait-queue.ts'
import { createCancellation } from '../../lib/request-context.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { createTestPool, type PoolUnderTest, RECOVERY_MS } from '../fixtures/pools.ts'

const BROKEN: Blame = { kind: 'ejected', reason: 'connection_lost', detail: 'ECONNRESET' }
const NONE: Blame = { kind: 'none' }
const throttledFor = (waitMs: number): Blame => ({ kind: 'throttled', waitMs })

/** What a turn gave, as `b1`, or as the kind of what stands in the way. */
const nameOf = (pick: PickResult): string => (pick.kind === 'lease' ? pick.member.backend.name : pick.kind)

function leaseOf(pick: PickResult): Lease {
  if (pick.kind !== 'lease') throw new Error(`no lease but ${pick.kind}`)
  return pick.lease
}

/** Asks one turn until it gives no more; every attempt ends with this blame. */
function wayOf(picker: Picker, blame: Blame = NONE): readonly string[] {
  const way: string[] = []
  for (;;) {
    const pick = picker.pick()
    way.push(nameOf(pick))
    if (pick.kind !== 'lease') return way
    pick.lease.release(blame)
  }
}

/** One request that is served by whoever comes first. */
function serve({ pool }: PoolUnderTest, options: PickerOptions = {}): string {
  const picker = pool.picker(options)
  const pick = picker.pick()
  if (pick.kind === 'lease') pick.lease.release({ kind: 'healthy' })
  picker.end()
  return nameOf(pick)
}

/** Takes these out, in this order, a second apart. */
function takeOut(scene: PoolUnderTest, names: readonly string[], blame: Blame = BROKEN): void {
  for (const name of names) {
    scene.standings.lease(scene.member(name).health).release(blame)
    scene.clock.advance(1_000)
  }
}

t.test('a request tries each backend at most once', t => {
  const { pool } = createTestPool(['', '', ''])
  t.same(wayOf(pool.picker({})), ['b1', 'b2', 'b3', 'exhausted'])
  t.end()
})

t.test('priority 1 is used first, and the next tier takes what the tiers above cannot', t => {
  const scene = createTestPool(['priority: 2', 'priority: 1', 'priority: 1', 'priority: 7'])
  t.same(wayOf(scene.pool.picker({})), ['b2', 'b3', 'b1', 'b4', 'exhausted'])
  t.same([serve(scene), serve(scene)].sort(), ['b2', 'b3'])
  takeOut(scene, ['b2'])
  t.equal(serve(scene), 'b3')
  takeOut(scene, ['b3'], throttledFor(60_000))
  const servedByLowerTier = scene.pool.picker({}).pick()
  t.match(servedByLowerTier, { kind: 'lease', servedByLowerTier: true, failOpen: false })
  t.equal(nameOf(servedByLowerTier), 'b1')
  t.end()
})

t.test('weights share a tier, and only within it', t => {
  const scene = createTestPool(['weight: 3', 'weight: 1', 'weight: 100, priority: 2'])
  const taken = Array.from({ length: 8 }, () => serve(scene))
  t.equal(taken.filter(name => name === 'b1').length, 6)
  t.equal(taken.filter(name => name === 'b2').length, 2)
  t.end()
})

t.test('a model balances as its config says', t => {
  const busy = createTestPool(['', ''], { model: 'balance: least_busy' })
  const held = leaseOf(busy.pool.picker({}).pick())
  t.same([serve(busy), serve(busy)], ['b2', 'b2'])
  held.release(NONE)
  const cached = createTestPool(['', '', ''], { model: 'balance: prompt_cache' })
  const homes = Array.from({ length: 5 }, () => serve(cached, { promptHash: 12_345 }))
  t.equal(new Set(homes).size, 1)
  t.end()
})

t.test('who comes back is given one request first, and the others go elsewhere meanwhile', t => {
  const scene = createTestPool(['', 'priority: 2'])
  takeOut(scene, ['b1'])
  scene.clock.advance(RECOVERY_MS)
  const trial = scene.pool.picker({}).pick()
  t.equal(nameOf(trial), 'b1')
  t.equal(serve(scene), 'b2')
  leaseOf(trial).answered()
  t.equal(serve(scene), 'b1')
  leaseOf(trial).release(NONE)
  t.end()
})

t.test('when every backend is throttled, the request is told when the soonest is back', t => {
  const scene = createTestPool(['', '', ''])
  const picker = scene.pool.picker({})
  for (const waitMs of [9_000, 4_000, 6_000]) leaseOf(picker.pick()).release(throttledFor(waitMs))
  t.equal(picker.soonestMs(), 4_000)
  t.same(picker.pick(), { kind: 'exhausted' }, 'each was tried')
  t.same(scene.pool.picker({}).pick(), { kind: 'throttled', waitMs: 4_000 }, 'nobody is asked to no purpose')
  scene.clock.advance(4_000)
  t.equal(serve(scene), 'b2')
  t.end()
})

t.test('who was tried and throttled may be tried again once its wait has passed', t => {
  const scene = createTestPool(['', ''])
  const picker = scene.pool.picker({})
  leaseOf(picker.pick()).release(throttledFor(2_000))
  leaseOf(picker.pick()).release(NONE)
  picker.retryThrottled()
  t.equal(nameOf(picker.pick()), 'exhausted')
  scene.clock.advance(2_000)
  picker.retryThrottled()
  t.equal(nameOf(picker.pick()), 'b1', 'but not who failed otherwise')
  t.equal(nameOf(picker.pick()), 'exhausted')
  t.end()
})

t.test('when all are out, failed ones are tried all the same, the longest rested first', t => {
  const scene = createTestPool(['', 'priority: 2', ''])
  takeOut(scene, ['b3', 'b2', 'b1'])
  t.same(scene.pool.counts(), { healthy: 0, total: 3 })
  const picker = scene.pool.picker({})
  const first = picker.pick()
  t.match(first, { kind: 'lease', failOpen: true })
  t.equal(nameOf(first), 'b3')
  t.same(wayOf(picker), ['b2', 'b1', 'exhausted'])
  t.end()
})

t.test('a failed one that answers all the same is back', t => {
  const scene = createTestPool(['', ''])
  takeOut(scene, ['b1', 'b2'])
  t.equal(serve(scene), 'b1')
  t.same(scene.pool.counts(), { healthy: 1, total: 2 })
  t.match(scene.changes.at(-1), { kind: 'restored', by: 'request' })
  t.end()
})

t.test('of failed and throttled ones the failed are tried, and never the throttled', t => {
  const scene = createTestPool(['', ''])
  takeOut(scene, ['b1'], throttledFor(60_000))
  takeOut(scene, ['b2'])
  t.same(wayOf(scene.pool.picker({})), ['b2', 'throttled'])
  t.end()
})

t.test(
  'in an outage further tries in flight keep to their share of the requests in flight, and to three at least',
  t => {
    const scene = createTestPool(['', ''], { retryBudget: 0.2 })
    takeOut(scene, ['b1', 'b2'])
    const turns = Array.from({ length: 30 }, () => scene.pool.picker({}))
    const firstTries = turns.map(picker => picker.pick())
    t.ok(
      firstTries.every(({ kind }) => kind === 'lease'),
      'the first try of each is free',
    )
    const further = turns.map(picker => picker.pick())
    t.equal(further.filter(({ kind }) => kind === 'lease').length, 6, 'a fifth of thirty')
    t.equal(further.filter(({ kind }) => kind === 'over_budget').length, 24)
    for (const pick of further.slice(0, 2)) leaseOf(pick).release(NONE)
    const after = turns.slice(6).map(picker => picker.pick())
    t.equal(after.filter(({ kind }) => kind === 'lease').length, 2, 'who gives back makes room')
    for (const picker of turns) picker.end()

    const few = createTestPool(['', ''], { retryBudget: 0 })
    takeOut(few, ['b1', 'b2'])
    const others = Array.from({ length: 5 }, () => few.pool.picker({}))
    for (const picker of others) picker.pick()
    t.equal(others.map(picker => picker.pick()).filter(({ kind }) => kind === 'lease').length, 3)
    t.end()
  },
)

t.test('while any backend is available a failover is never refused', t => {
  const scene = createTestPool(['', '', ''], { retryBudget: 0 })
  const turns = Array.from({ length: 50 }, () => scene.pool.picker({}))
  for (const picker of turns) leaseOf(picker.pick())
  takeOut(scene, ['b1', 'b2'])
  for (const picker of turns) t.not(picker.pick().kind, 'over_budget')
  t.end()
})

t.test('a request that ends twice is counted once', t => {
  const scene = createTestPool(['', ''], { retryBudget: 0.5 })
  takeOut(scene, ['b1', 'b2'])
  const gone = scene.pool.picker({})
  for (let i = 0; i < 20; i++) gone.end()
  const turns = Array.from({ length: 20 }, () => scene.pool.picker({}))
  for (const picker of turns) picker.pick()
  t.equal(turns.map(picker => picker.pick()).filter(({ kind }) => kind === 'lease').length, 10)
  t.end()
})

t.test('who says that nothing is left is asked after the others, of its own tier and the next', t => {
  const scene = createTestPool(['', 'priority: 2'])
  const nothing = { remainingRequests: 0, remainingTokens: 0, limitRequests: 1, limitTokens: 1 }
  scene.standings.noteHeadroom(scene.member('b1').health, nothing, 5_000)
  t.same(wayOf(scene.pool.picker({})), ['b2', 'b1', 'exhausted'])
  scene.clock.advance(5_000)
  t.equal(serve(scene), 'b1')
  t.end()
})

t.test('who is known not to offer the operation is asked last', t => {
  const { pool } = createTestPool(['', 'priority: 2', 'priority: 3'])
  const picker = pool.picker({ avoid: ({ backend }) => backend.name === 'b1' })
  t.same(wayOf(picker), ['b2', 'b3', 'b1', 'exhausted'])
  t.end()
})

t.test('what is bound to one resource goes nowhere else, and waits for it while the others are sound', t => {
  const scene = createTestPool(['', ''])
  const bound = (): Picker => scene.pool.picker({ allow: ({ backend }) => backend.name === 'b1' })
  t.same(wayOf(bound()), ['b1', 'exhausted'])
  t.equal(bound().soonestBackMs(), 0)
  takeOut(scene, ['b1'])
  t.same(wayOf(bound()), ['exhausted'])
  t.equal(bound().soonestBackMs(), RECOVERY_MS - 1_000)
  takeOut(scene, ['b2'])
  t.same(wayOf(bound()), ['b1', 'exhausted'], 'in an outage of all it is tried all the same')
  const throttled = createTestPool(['', ''])
  takeOut(throttled, ['b1'], throttledFor(8_000))
  const picker = throttled.pool.picker({ allow: ({ backend }) => backend.name === 'b1' })
  t.same(picker.pick(), { kind: 'throttled', waitMs: 7_000 })
  t.equal(picker.soonestBackMs(), 7_000)
  t.end()
})

t.test('a resource that does not hold the state is done with, all its deployments', t => {
  const apart = createTestPool(['', '']).pool.picker({})
  apart.skipResource('https://r1.openai.azure.com')
  t.same(wayOf(apart), ['b2', 'exhausted'])
  const shared = createTestPool(['', ''], { sameResource: true }).pool.picker({})
  shared.skipResource('https://r0.openai.azure.com')
  t.same(wayOf(shared), ['exhausted'])
  t.end()
})

t.test('throttled backends count as healthy, those on trial too', t => {
  const scene = createTestPool(['', '', ''])
  takeOut(scene, ['b1'], throttledFor(60_000))
  takeOut(scene, ['b2'])
  t.same(scene.pool.counts(), { healthy: 2, total: 3 })
  scene.clock.advance(RECOVERY_MS)
  t.same(scene.pool.counts(), { healthy: 3, total: 3 })
  t.end()
})

// Waiting for a throttled backend.

function queueing() {
  const clock = createFakeClock()
  const { pool } = createTestPool([''])
  const queue = createWaitQueue(clock)
  const done: string[] = []
  const wait = (name: string, waitMs: number, leaving = createCancellation()): Promise<void> =>
    queue.wait(pool, waitMs, leaving).then(turnCame => {
      done.push(turnCame ? name : `${name} left`)
    })
  return { clock, pool, queue, done, wait, settled: () => new Promise(resolve => setImmediate(resolve)) }
}

t.test('those who wait are woken in the order in which they came, when the soonest is back', async t => {
  const { clock, pool, queue, done, wait, settled } = queueing()
  for (const [name, ms] of [
    ['a', 500],
    ['b', 300],
    ['c', 900],
  ] as const)
    wait(name, ms)
  t.equal(queue.waiting(pool), 3)
  clock.advance(299)
  await settled()
  t.same(done, [])
  clock.advance(1)
  await settled()
  t.same(done, ['a', 'b', 'c'])
  t.equal(queue.waiting(pool), 0)
  t.equal(clock.pending(), 0)
})

t.test('who was woken for nothing keeps the place in front of those who came later', async t => {
  const { clock, done, wait, settled } = queueing()
  const first = createCancellation()
  const second = createCancellation()
  wait('a', 100, first)
  wait('b', 100, second)
  clock.advance(100)
  await settled()
  wait('late', 100)
  wait('b again', 100, second)
  wait('a again', 100, first)
  clock.advance(100)
  await settled()
  t.same(done, ['a', 'b', 'a again', 'b again', 'late'])
})

t.test('a client that goes away leaves the line at once, and nothing of it stays', async t => {
  const { clock, pool, queue, done, wait, settled } = queueing()
  const leaving = createCancellation()
  wait('a', 100)
  wait('b', 100, leaving)
  leaving.cancel('client_closed')
  await settled()
  t.same(done, ['b left'])
  t.equal(queue.waiting(pool), 1)
  clock.advance(100)
  await settled()
  t.same(done, ['b left', 'a'])
  const alone = createCancellation()
  wait('c', 100, alone)
  alone.cancel('client_closed')
  await settled()
  t.equal(clock.pending(), 0, 'its timer is cancelled')
  await wait('d', 100, alone)
  t.same(done.slice(2), ['c left', 'd left'], 'who is gone already does not even begin to wait')
  t.equal(clock.pending(), 0)
  wait('e', 100)
  await wait('f', 50, alone)
  t.equal(queue.waiting(pool), 1, 'nor take a place')
  clock.advance(50)
  await settled()
  t.same(done.slice(4), ['f left'], 'nor wake anybody')
})

t.test('who comes while others wait goes to the end of the line; where nobody waits it goes on', async t => {
  const { clock, pool, queue, done, wait, settled } = queueing()
  await queue.takePlace(pool, createCancellation())
  wait('a', 100)
  queue.takePlace(pool, createCancellation()).then(() => done.push('newcomer'))
  await settled()
  t.same(done, [])
  clock.advance(100)
  await settled()
  t.same(done, ['a', 'newcomer'])
})

t.test('the line is bounded, and pools do not wait for each other', async t => {
  const { clock, pool, queue, wait, done } = queueing()
  t.equal(MAX_WAITING, 1_000)
  for (let i = 0; i < MAX_WAITING; i++) wait(`${i}`, 1_000)
  t.equal(await queue.wait(pool, 1_000, createCancellation()), false)
  t.equal(queue.waiting(pool), MAX_WAITING)
  const other = createTestPool(['']).pool
  const elsewhere = queue.wait(other, 10, createCancellation())
  clock.advance(10)
  t.equal(await elsewhere, true)
  t.equal(done.length, 0)
})

// Who holds what.

t.test('an owner is known until it is forgotten', t => {
  const owners = createOwners()
  t.equal(owners.of('resp_1'), undefined)
  owners.learn('resp_1', 'r1')
  t.equal(owners.of('resp_1'), 'r1')
  owners.learn('resp_1', 'r2')
  t.equal(owners.of('resp_1'), 'r2')
  owners.forget('resp_1')
  t.equal(owners.of('resp_1'), undefined)
  t.equal(owners.size(), 0)
  t.end()
})

t.test('owners are bounded: the least recently used is forgotten first', t => {
  const owners = createOwners(3)
  for (const id of ['a', 'b', 'c']) owners.learn(id, 'r')
  owners.of('a')
  owners.learn('b', 'r')
  owners.learn('d', 'r')
  t.same(
    ['a', 'b', 'c', 'd'].map(id => owners.of(id) !== undefined),
    [true, true, false, true],
  )
  for (let i = 0; i < 1_000; i++) owners.learn(`id ${i}`, 'r')
  t.equal(owners.size(), 3)
  t.end()
})

t.test('what is learnt or forgotten is told once, so that workers do not echo it for ever', t => {
  const owners = createOwners(2)
  const told: unknown[] = []
  owners.onLearn((id, owned) => told.push([id, owned?.resourceId, owned?.maker]))
  owners.learn('a', 'r1')
  owners.learn('a', 'r1')
  owners.learn('a', 'r2')
  owners.forget('a')
  owners.forget('a')
  t.same(told, [
    ['a', 'r1', undefined],
    ['a', 'r2', undefined],
    ['a', undefined, undefined],
  ])
  t.end()
})

t.test('the maker of stored state is who made it, whoever uses or claims it later', t => {
  const owners = createOwners()
  const told: unknown[] = []
  owners.onLearn((id, owned) => told.push([id, owned?.resourceId, owned?.maker]))
  owners.learn('a', 'r1')
  t.equal(owners.makerOf('a'), undefined, 'not known after a restart')
  owners.learn('a', 'r1', 'alice')
  owners.learn('a', 'r1')
  owners.learn('a', 'r1', 'alice')
  t.equal(owners.makerOf('a'), 'alice')
  owners.learn('a', 'r2', 'mallory')
  t.equal(owners.makerOf('a'), 'alice')
  t.equal(owners.of('a'), 'r1', 'what another key claims moves nothing')
  owners.learn('a', 'r2')
  t.equal(owners.of('a'), 'r2')
  t.equal(owners.makerOf('a'), 'alice', 'it stays when the state is found elsewhere')
  owners.forget('a')
  t.equal(owners.makerOf('a'), undefined)
  t.same(told, [
    ['a', 'r1', undefined],
    ['a', 'r1', 'alice'],
    ['a', 'r2', 'alice'],
    ['a', undefined, undefined],
  ])
  t.end()
})
