// A request's way through the backends of its model: tiers, trials, what is left when nothing is available, and waiting
// for it.
import t from 'tap'
import type { Blame, Lease } from '../../lib/balancer/health.ts'
import { createOwners } from '../../lib/balancer/owners.ts'
import type { Picker, PickerOptions, PickResult } from '../../lib/balancer/pool.ts'
import { createTestPool, type PoolUnderTest, RECOVERY_MS } from '../fixtures/pools.ts'

const BROKEN: Blame = { kind: 'failed', suspect: 'no', timeout: false, reason: 'connection_lost', detail: 'ECONNRESET' }
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

/** One request that is served by the first backend. */
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
    scene.healthRegistry.lease(scene.member(name).health).release(blame)
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
  for (const waitMs of [9_000, 4_000, 6_000]) {
    const pick = picker.pick()
    leaseOf(pick).release(throttledFor(waitMs))
    if (pick.kind === 'lease') picker.throttled(pick.member)
  }
  t.same(picker.pick(), { kind: 'throttled', waitMs: 4_000, isFull: false }, 'tried or not, they are sound')
  t.same(
    scene.pool.picker({}).pick(),
    { kind: 'throttled', waitMs: 4_000, isFull: false },
    'nobody is asked to no purpose',
  )
  scene.clock.advance(4_000)
  t.equal(serve(scene), 'b2')
  t.end()
})

t.test('a backend that was never asked, because the attempts are used up, is neither throttled nor full', t => {
  const { pool } = createTestPool(['', '', ''])
  const picker = pool.picker({})
  for (let i = 0; i < 2; i++) leaseOf(picker.pick()).release(NONE)
  t.equal(picker.soonest(), undefined)
  t.end()
})

t.test('who was tried and throttled may be tried again once its wait has passed', t => {
  const scene = createTestPool(['', ''])
  const picker = scene.pool.picker({})
  const first = picker.pick()
  leaseOf(first).release(throttledFor(2_000))
  if (first.kind === 'lease') picker.throttled(first.member)
  leaseOf(picker.pick()).release(NONE)
  picker.retryThrottled(false)
  t.equal(nameOf(picker.pick()), 'throttled')
  scene.clock.advance(2_000)
  picker.retryThrottled(false)
  t.equal(nameOf(picker.pick()), 'b1', 'but not who failed otherwise')
  t.equal(nameOf(picker.pick()), 'exhausted')
  t.end()
})

t.test('when all are out, failed ones are tried all the same, the one seen healthy last first', t => {
  const scene = createTestPool(['', 'priority: 2', ''])
  takeOut(scene, ['b3', 'b2', 'b1'])
  t.same(scene.pool.counts(), { healthy: 0, total: 3 })
  t.same(wayOf(scene.pool.picker({})), ['b1', 'b3', 'b2', 'exhausted'], 'none was ever seen: in the order of the tiers')
  scene.healthRegistry.lease(scene.member('b2').health).answered()
  scene.clock.advance(1)
  scene.healthRegistry.lease(scene.member('b3').health).answered()
  takeOut(scene, ['b3', 'b2'])
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
  t.match(scene.changes.at(-2), { kind: 'restored', by: 'request' })
  t.match(scene.changes.at(-1), { kind: 'model_up' })
  t.end()
})

t.test('beside a throttled one, which is sound, failed ones are not tried', t => {
  const scene = createTestPool(['', ''])
  takeOut(scene, ['b1'], throttledFor(60_000))
  takeOut(scene, ['b2'])
  t.same(wayOf(scene.pool.picker({})), ['throttled'])
  takeOut(scene, ['b1'])
  t.same(wayOf(scene.pool.picker({})), ['b2', 'exhausted'], 'out and throttled: it is not asked before its time')
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
  scene.healthRegistry.noteHeadroom(scene.member('b1').health, nothing, 5_000)
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

t.test('what is bound to one resource goes nowhere else, and is tried there though it is out', t => {
  const scene = createTestPool(['', ''])
  const bound = (): Picker => scene.pool.picker({ resources: new Set(['https://r1.openai.azure.com']) })
  t.same(wayOf(bound()), ['b1', 'exhausted'])
  takeOut(scene, ['b1'])
  t.same(wayOf(bound()), ['b1', 'exhausted'], 'nobody else can serve it, and waiting protects nobody')
  const held = Array.from({ length: 4 }, () => bound().pick())
  t.same(held.map(nameOf), ['b1', 'b1', 'b1', 'over_budget'], 'within the retry budget')
  const throttled = createTestPool(['', ''])
  takeOut(throttled, ['b1'], throttledFor(8_000))
  const picker = throttled.pool.picker({ resources: new Set(['https://r1.openai.azure.com']) })
  t.same(picker.pick(), { kind: 'throttled', waitMs: 7_000, isFull: false })
  t.end()
})

t.test('a full one is passed over like a throttled one, and does not take a failed one with it', t => {
  const scene = createTestPool(['max_in_flight: 2', 'max_in_flight: 1, priority: 2'])
  const held = Array.from({ length: 4 }, () => scene.pool.picker({}).pick())
  t.same(held.map(nameOf), ['b1', 'b1', 'b2', 'throttled'])
  t.same(held[3], { kind: 'throttled', waitMs: 1_000, isFull: true })
  const [first, second] = held
  if (first !== undefined) leaseOf(first).release({ kind: 'healthy' })
  t.equal(serve(scene), 'b1')
  if (second !== undefined) leaseOf(second).release(BROKEN)
  t.same(scene.pool.picker({}).pick(), { kind: 'throttled', waitMs: 1_000, isFull: true }, 'b2 is only full')
  t.end()
})

t.test('the last backend that is in stays in after one suspect failure, and goes after five in a row', t => {
  const suspect: Blame = { kind: 'failed', reason: 'server_error', detail: '500', suspect: 'out', timeout: false }
  const scene = createTestPool(['', ''])
  takeOut(scene, ['b1'])
  for (let i = 1; i < 5; i++) {
    takeOut(scene, ['b2'], suspect)
    t.same(scene.pool.counts(), { healthy: 1, total: 2 }, `${i}`)
  }
  takeOut(scene, ['b2'], suspect)
  t.same(scene.pool.counts(), { healthy: 0, total: 2 })
  t.same(
    scene.changes.map(({ kind }) => kind),
    ['ejected', 'ejected', 'model_down'],
  )
  scene.healthRegistry.restore(scene.member('b1').health)
  t.match(scene.changes.at(-1), { kind: 'model_up', model: 'gpt-4o' })
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
