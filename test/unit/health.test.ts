// A deployment out, throttled, on trial or back, and the events that make it so.
import t, { type Test } from 'tap'
import {
  type BackendHealth,
  type Blame,
  createHealthRegistry,
  type HealthChange,
  type HealthRegistry,
  isAvailable,
  isEjected,
} from '../../lib/balancer/health.ts'
import { troubleOf } from '../../lib/balancer/health-state.ts'
import type { Member } from '../../lib/balancer/pool.ts'
import { createProbes, type ProbeVerdict } from '../../lib/balancer/probes.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { createTestPool } from '../fixtures/pools.ts'

const RECOVERY_MS = 30_000
const HEALTHY: Blame = { kind: 'healthy' }
const BROKEN = {
  kind: 'failed',
  suspect: 'no',
  timeout: false,
  reason: 'connection_lost',
  detail: 'ECONNRESET',
} as const
const FAILED_500 = { kind: 'failed', suspect: 'no', timeout: false, reason: 'server_error', detail: '500' } as const
const SLOW: Blame = {
  kind: 'failed',
  suspect: 'no',
  timeout: true,
  reason: 'header_timeout',
  detail: 'none in 2000 ms',
}

interface Scene {
  readonly clock: FakeClock
  readonly healthRegistry: HealthRegistry
  readonly health: BackendHealth
  readonly changes: HealthChange[]
  /** One whole attempt, begun and ended now. */
  attempt(blame: Blame): void
  available(): boolean
  out(): boolean
}

function scene(): Scene {
  const clock = createFakeClock()
  const healthRegistry = createHealthRegistry({ clock, recoveryMs: () => RECOVERY_MS })
  const health = healthRegistry.of('d1')
  const changes: HealthChange[] = []
  healthRegistry.onChange(change => changes.push(change))
  return {
    clock,
    healthRegistry,
    health,
    changes,
    attempt: blame => healthRegistry.lease(health).release(blame),
    available: () => isAvailable(health, clock.nowMs()),
    out: () => isEjected(health, clock.nowMs()),
  }
}

const kinds = (changes: readonly HealthChange[]): readonly string[] => changes.map(({ kind }) => kind)

t.test('a new deployment is available, and asking for it again gives the same health', t => {
  const { healthRegistry, health, available, out } = scene()
  t.equal(available(), true)
  t.equal(out(), false)
  t.equal(healthRegistry.of('d1'), health)
  t.not(healthRegistry.of('d2'), health)
  t.end()
})

t.test('a lease counts as in flight until it is given back, which happens once', t => {
  const { healthRegistry, health } = scene()
  const one = healthRegistry.lease(health)
  const two = healthRegistry.lease(health)
  t.equal(health.inFlight, 2)
  one.release(HEALTHY)
  t.equal(health.inFlight, 1)
  t.throws(() => one.release(HEALTHY), /d1 released twice/)
  t.equal(health.inFlight, 1)
  two.release({ kind: 'none' })
  t.equal(health.inFlight, 0)
  t.end()
})

t.test('a failed one is out for the recovery time, to the millisecond', t => {
  const { clock, attempt, available, out, health } = scene()
  attempt(BROKEN)
  t.match(troubleOf(health.state), { reason: 'connection_lost', detail: 'ECONNRESET', named: false })
  clock.advance(RECOVERY_MS - 1)
  t.equal(out(), true)
  t.equal(available(), false)
  clock.advance(1)
  t.equal(out(), false)
  t.equal(available(), true)
  t.end()
})

t.test('a Retry-After of its own takes the place of the recovery time, be it longer or shorter', t => {
  for (const holdMs of [100, 90_000]) {
    const { clock, attempt, available } = scene()
    attempt({ ...FAILED_500, holdMs })
    clock.advance(holdMs - 1)
    t.equal(available(), false, `${holdMs} ms`)
    clock.advance(1)
    t.equal(available(), true)
  }
  t.end()
})

t.test('who comes back is given one request first; its success returns it in full', t => {
  const { clock, healthRegistry, health, attempt, available, changes } = scene()
  attempt(BROKEN)
  clock.advance(RECOVERY_MS)
  const trial = healthRegistry.lease(health)
  t.equal(available(), false, 'nobody else while it is on trial')
  trial.answered()
  t.equal(available(), true, 'its headers are enough: the stream behind them may take minutes')
  t.match(changes.at(-1), { kind: 'restored', by: 'trial' })
  trial.release(HEALTHY)
  t.same(kinds(changes), ['ejected', 'restored'], 'said once')
  t.equal(health.state.phase.kind, 'in')
  t.end()
})

t.test('a trial that fails begins a new hold; one that says nothing lets the next one try', t => {
  const { clock, healthRegistry, health, attempt, available, changes } = scene()
  attempt(BROKEN)
  clock.advance(RECOVERY_MS)
  attempt(FAILED_500)
  t.equal(available(), false)
  clock.advance(RECOVERY_MS - 1)
  t.equal(available(), false)
  clock.advance(1)
  t.equal(available(), true)
  const trial = healthRegistry.lease(health)
  trial.release({ kind: 'none' })
  t.equal(available(), true, 'the client went away: nothing is known')
  t.same(kinds(changes), ['ejected', 'ejected'])
  t.end()
})

t.test('stragglers of the same trouble do not stretch the hold, and are not said again', t => {
  const { clock, healthRegistry, health, changes } = scene()
  const leases = Array.from({ length: 5 }, () => healthRegistry.lease(health))
  for (const lease of leases) {
    lease.release(BROKEN)
    clock.advance(1_000)
  }
  clock.advance(RECOVERY_MS - 5_000)
  t.equal(isAvailable(health, clock.nowMs()), true, 'thirty seconds after the first')
  t.same(kinds(changes), ['ejected'])
  t.end()
})

t.test('a straggler to whom the server names a longer time does stretch it', t => {
  const { clock, healthRegistry, health, available } = scene()
  const one = healthRegistry.lease(health)
  const two = healthRegistry.lease(health)
  one.release(BROKEN)
  two.release({ ...FAILED_500, holdMs: 60_000 })
  clock.advance(59_999)
  t.equal(available(), false)
  clock.advance(1)
  t.equal(available(), true)
  t.end()
})

t.test('a straggler that succeeds does not excuse a later failure', t => {
  const { healthRegistry, health, attempt, available } = scene()
  const early = healthRegistry.lease(health)
  attempt(BROKEN)
  early.release(HEALTHY)
  t.equal(available(), false)
  t.end()
})

t.test('trouble that goes on keeps the time when it began, by which the longest rested is found', t => {
  const { clock, healthRegistry, health } = scene()
  healthRegistry.probeFailed(health, 'probe_failed', 'ECONNREFUSED')
  const since = clock.nowMs()
  clock.advance(10_000)
  healthRegistry.probeFailed(health, 'probe_failed', 'ECONNREFUSED')
  t.match(troubleOf(health.state), { sinceMs: since, failedMs: since + 10_000, untilMs: since + 10_000 + RECOVERY_MS })
  t.end()
})

t.test('a timeout blames only who answered nobody else since that attempt began', t => {
  const silent = scene()
  const lost = silent.healthRegistry.lease(silent.health)
  silent.clock.advance(2_000)
  lost.release(SLOW)
  t.equal(silent.available(), false)

  const busy = scene()
  const slow = busy.healthRegistry.lease(busy.health)
  busy.clock.advance(1_000)
  busy.attempt(HEALTHY)
  busy.clock.advance(1_000)
  slow.release(SLOW)
  t.equal(busy.available(), true, 'it answered somebody else meanwhile')

  const before = scene()
  before.attempt(HEALTHY)
  before.clock.advance(1)
  const later = before.healthRegistry.lease(before.health)
  before.clock.advance(2_000)
  later.release(SLOW)
  t.equal(before.available(), false, 'an answer before the attempt is none')

  const throttling = scene()
  const waiting = throttling.healthRegistry.lease(throttling.health)
  throttling.clock.advance(1)
  throttling.attempt({ kind: 'throttled', waitMs: 10 })
  throttling.clock.advance(1_000)
  waiting.release(SLOW)
  t.equal(throttling.available(), true, 'a 429 is an answer too')
  t.end()
})

t.test('a throttled one is left alone for its wait, and is not out', t => {
  const { clock, attempt, available, out, changes } = scene()
  attempt({ kind: 'throttled', waitMs: 5_000 })
  t.equal(available(), false)
  t.equal(out(), false)
  clock.advance(4_999)
  t.equal(available(), false)
  clock.advance(1)
  t.equal(available(), true)
  t.match(changes, [{ kind: 'throttled', waitMs: 5_000 }])
  t.end()
})

t.test('a later longer wait extends it, a shorter one never cuts it, and it is said once', t => {
  const { clock, attempt, available, changes } = scene()
  attempt({ kind: 'throttled', waitMs: 10_000 })
  clock.advance(1_000)
  attempt({ kind: 'throttled', waitMs: 2_000 })
  clock.advance(8_999)
  t.equal(available(), false, 'the first wait goes on')
  attempt({ kind: 'throttled', waitMs: 5_000 })
  clock.advance(4_999)
  t.equal(available(), false)
  clock.advance(1)
  t.equal(available(), true)
  t.same(kinds(changes), ['throttled'])
  attempt({ kind: 'throttled', waitMs: 1 })
  t.same(kinds(changes), ['throttled', 'throttled'], 'a new one is said anew')
  t.end()
})

t.test('a wait of nothing throttles nobody', t => {
  const { attempt, available, changes } = scene()
  attempt({ kind: 'throttled', waitMs: 0 })
  t.equal(available(), true)
  t.same(changes, [])
  t.end()
})

t.test('a throttled answer on trial shows that it lives', t => {
  const { clock, attempt, health, available, changes } = scene()
  attempt(BROKEN)
  clock.advance(RECOVERY_MS)
  attempt({ kind: 'throttled', waitMs: 1_000 })
  t.equal(health.state.phase.kind, 'in')
  t.equal(available(), false)
  t.same(kinds(changes), ['ejected', 'restored', 'throttled'])
  t.end()
})

t.test('who says of itself that nothing is left is avoided for a while, and stays available', t => {
  const { clock, healthRegistry, health, available } = scene()
  const left = { remainingRequests: 0, remainingTokens: 5, limitRequests: 100, limitTokens: 1_000 }
  healthRegistry.noteHeadroom(health, left, 600)
  t.same(health.headroom, { ...left, atMs: clock.nowMs() })
  t.equal(health.exhaustedUntilMs, clock.nowMs() + 600)
  t.equal(available(), true)
  healthRegistry.noteHeadroom(health, { ...left, remainingRequests: 1 }, 0)
  t.equal(health.exhaustedUntilMs <= clock.nowMs(), true, 'the newest word counts')
  t.end()
})

t.test('a failing probe takes out, a passing one brings back what a probe took out', t => {
  const { clock, healthRegistry, health, available, changes } = scene()
  healthRegistry.probeFailed(health, 'probe_failed', 'ECONNREFUSED')
  t.equal(available(), false)
  clock.advance(5_000)
  healthRegistry.probePassed(health, clock.nowMs())
  t.equal(available(), true)
  t.match(changes, [{ kind: 'ejected' }, { kind: 'restored', by: 'probe' }])
  t.end()
})

t.test('a pass that was asked for before the failure excuses nothing', t => {
  const { clock, healthRegistry, health, attempt, available } = scene()
  const askedAtMs = clock.nowMs()
  clock.advance(10)
  attempt(BROKEN)
  healthRegistry.probePassed(health, askedAtMs)
  t.equal(available(), false)
  t.end()
})

t.test('after a failed request a passing probe ends the hold, and one request decides', t => {
  const { clock, healthRegistry, health, attempt, available } = scene()
  attempt(BROKEN)
  clock.advance(1_000)
  healthRegistry.probePassed(health, clock.nowMs())
  t.equal(available(), true)
  healthRegistry.lease(health)
  t.equal(available(), false, 'on trial')
  t.end()
})

const KEPT: readonly (readonly [string, (scene: Scene) => void])[] = [
  ['a time that the server named', ({ attempt }) => attempt({ ...FAILED_500, holdMs: 20_000 })],
  [
    'a missing deployment, of which the model list says nothing',
    ({ attempt }) =>
      attempt({ kind: 'failed', suspect: 'no', timeout: false, reason: 'deployment_missing', detail: '404' }),
  ],
  ["an operator's hand", ({ healthRegistry, health }) => healthRegistry.eject(health, undefined)],
]
for (const [what, takeOut] of KEPT) {
  t.test(`a passing probe does not shorten ${what}`, t => {
    const given = scene()
    takeOut(given)
    given.clock.advance(1_000)
    given.healthRegistry.probePassed(given.health, given.clock.nowMs())
    t.equal(given.available(), false)
    t.end()
  })
}

t.test("an operator's hold is ended by its own trial alone, not by a request that began before", t => {
  const { clock, healthRegistry, health, available } = scene()
  const straggler = healthRegistry.lease(health)
  healthRegistry.eject(health, 1_000)
  clock.advance(1_000)
  const trial = healthRegistry.lease(health)
  straggler.release(HEALTHY)
  t.equal(available(), false, 'still on trial')
  trial.release(HEALTHY)
  t.equal(available(), true)
  t.end()
})

t.test('an operator ejects for a time or until restored, and restores anything', t => {
  const { clock, healthRegistry, health, attempt, available, changes } = scene()
  healthRegistry.eject(health, 1_000)
  clock.advance(1_000)
  t.equal(available(), true)
  healthRegistry.eject(health, undefined)
  clock.advance(1e9)
  t.equal(available(), false)
  attempt({ kind: 'throttled', waitMs: 60_000 })
  healthRegistry.restore(health)
  t.equal(available(), true, 'the throttle is lifted too')
  t.match(changes.at(-1), { kind: 'restored', by: 'hand' })
  t.end()
})

t.test('an answer of one that was asked because nobody else was left returns it, unless an operator took it out', t => {
  const failed = scene()
  failed.attempt(BROKEN)
  failed.attempt(HEALTHY)
  t.equal(failed.available(), true)
  t.match(failed.changes.at(-1), { kind: 'restored', by: 'request' })
  const byHand = scene()
  byHand.healthRegistry.eject(byHand.health, 60_000)
  byHand.attempt(HEALTHY)
  t.equal(byHand.available(), false)
  byHand.clock.advance(60_000)
  byHand.attempt(HEALTHY)
  t.match(byHand.changes.at(-1), { kind: 'restored', by: 'trial' }, 'its time over, it comes back as all do')
  t.end()
})

t.test('a deployment that leaves the config is forgotten, and its last lease harms nobody', t => {
  const { healthRegistry, health } = scene()
  const lease = healthRegistry.lease(health)
  healthRegistry.setModels([{ name: 'other', members: [healthRegistry.of('d2')] }])
  const fresh = healthRegistry.of('d1')
  t.not(fresh, health)
  lease.release({ kind: 'none' })
  t.equal(health.inFlight, 0)
  t.equal(fresh.inFlight, 0)
  t.end()
})

t.test('what fails at a deployment that left the config and came back meanwhile is news to nobody', t => {
  const { clock, healthRegistry, health, changes } = scene()
  const versions: string[] = []
  healthRegistry.onVersion(({ id }) => versions.push(id))
  const other = healthRegistry.of('d2')
  const lease = healthRegistry.lease(health)
  healthRegistry.setModels([{ name: 'm', members: [other] }])
  const fresh = healthRegistry.of('d1')
  healthRegistry.setModels([{ name: 'm', members: [fresh, other] }])
  lease.release(BROKEN)
  t.same(changes, [], 'no line says that it is out')
  t.same(versions, [], 'and no other worker believes it')
  t.equal(isAvailable(fresh, clock.nowMs()), true)
  t.equal(isEjected(health, clock.nowMs()), true, 'requests of the old config avoid it all the same')
  t.end()
})

t.test('who listens no longer is told no more', t => {
  const { healthRegistry, attempt } = scene()
  let told = 0
  const stop = healthRegistry.onChange(() => told++)
  attempt(BROKEN)
  stop()
  healthRegistry.restore(healthRegistry.of('d1'))
  t.equal(told, 1)
  t.end()
})

// Probes: whom they ask, and what their answers do.

function probing(t: Test, verdicts: Readonly<Record<string, ProbeVerdict>>, sameResource = false) {
  const scene = createTestPool(['', '', ''], { sameResource })
  const asked: string[] = []
  let enabled = true
  const probes = createProbes({
    clock: scene.clock,
    random: () => 0.5,
    health: scene.healthRegistry,
    members: () => scene.pool.members,
    settings: () => ({ enabled, intervalMs: 30_000 }),
    ask(member: Member) {
      asked.push(member.backend.name)
      return Promise.resolve(verdicts[member.backend.name] ?? { kind: 'alive' })
    },
  })
  t.teardown(() => probes.stop())
  return { ...scene, probes, asked, disable: () => (enabled = false) }
}

const DEAD: ProbeVerdict = { kind: 'out', reason: 'probe_failed', detail: 'ECONNREFUSED', timeout: false }

t.test('each resource is asked once a round, however many deployments it has', async t => {
  const apart = probing(t, {})
  await apart.probes.round()
  t.same(apart.asked, ['b1', 'b2', 'b3'])
  const shared = probing(t, { b1: DEAD }, true)
  await shared.probes.round()
  t.same(shared.asked, ['b1'])
  t.same(shared.pool.counts(), { healthy: 0, total: 3 }, 'its answer counts for all of them')
})

t.test('a failing probe takes its backends out alone; an answer that says nothing moves nobody', async t => {
  const { probes, pool, member, clock } = probing(t, { b1: DEAD, b2: { kind: 'unknown' } })
  await probes.round()
  t.same(pool.counts(), { healthy: 2, total: 3 })
  t.equal(isEjected(member('b1').health, clock.nowMs()), true)
})

t.test('busy is not dead: a probe that timed out blames nobody who answered meanwhile', async t => {
  const { healthRegistry, member, pool, clock } = createTestPool(['', ''])
  const probes = createProbes({
    clock,
    random: () => 0.5,
    health: healthRegistry,
    members: () => pool.members,
    settings: () => ({ enabled: true, intervalMs: 30_000 }),
    ask(asked) {
      clock.advance(5_000)
      if (asked.backend.name === 'b1') healthRegistry.lease(asked.health).release(HEALTHY)
      return Promise.resolve({ kind: 'out', reason: 'probe_failed', detail: 'none in 5000 ms', timeout: true })
    },
  })
  await probes.round()
  t.equal(isEjected(member('b1').health, clock.nowMs()), false)
  t.equal(isEjected(member('b2').health, clock.nowMs()), true)
})

t.test('rounds follow each other by the interval, and stop when told', async t => {
  const { probes, clock, asked, disable } = probing(t, {})
  const settled = async (): Promise<void> => {
    // A round is over some microtasks later, and only then the next one is set.
    await new Promise(resolve => setImmediate(resolve))
  }
  probes.start()
  probes.start()
  t.equal(clock.pending(), 1, 'starting twice is starting once')
  clock.advance(0)
  t.equal(asked.length, 0, 'spread over the round, not all in one moment')
  clock.advance(1_000)
  await settled()
  t.equal(asked.length, 3, 'the first round is right after the start')
  clock.advance(28_000)
  await settled()
  t.equal(asked.length, 3)
  clock.advance(2_000)
  await settled()
  t.equal(asked.length, 6)
  disable()
  clock.advance(30_000)
  await settled()
  t.equal(asked.length, 6, 'switched off by a reload, it asks nobody')
  probes.stop()
  clock.advance(300_000)
  await settled()
  t.equal(clock.pending(), 0)
})
