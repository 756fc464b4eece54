// The state machine of a deployment's health, on its own: every order of events, and what must hold in each.
import t from 'tap'
import { createHealthRegistry, isAvailable, isEjected, type Lease } from '../../lib/balancer/health.ts'
import { transition } from '../../lib/balancer/health-machine.ts'
import {
  type HealthEvent,
  type HealthState,
  LONG_HOLD_MS,
  NEW_STATE,
  phaseAt,
  SUSPECT_ROW,
  troubleOf,
} from '../../lib/balancer/health-state.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

const SETTINGS = { recoveryMs: 30_000, probeTrustMs: 76_000 }
const NEVER = Number.POSITIVE_INFINITY

/** What can happen next, in words; each is one event of a world with one deployment. */
const WORDS = [
  'lease',
  'answer',
  'fail',
  'suspect',
  'mark',
  'busy',
  'withdraw',
  'give back',
  'probe ok',
  'probe bad',
  'probe unsure',
  'mend',
  'eject',
  'restore',
  'wait',
] as const
type Word = (typeof WORDS)[number]

interface World {
  readonly state: HealthState
  readonly nowMs: number
  /** Leases that are held: number, and the sequence at which each began. */
  readonly held: readonly { readonly lease: number; readonly since: number }[]
  /** The last lease whose suspect failure was reported. */
  readonly blamed: number
  readonly leases: number
}

function apply(world: World, event: HealthEvent): World {
  return { ...world, state: transition(world.state, event, world.nowMs, SETTINGS) }
}

/** Ends the oldest lease as a registry does: what it met, then that it is over. */
function end(world: World, event: (from: { lease: number; since: number }) => HealthEvent | undefined): World {
  const [oldest, ...held] = world.held
  if (oldest === undefined) return world
  const met = event(oldest)
  const after = met === undefined ? world : apply(world, met)
  return { ...apply(after, { kind: 'released', lease: oldest.lease }), held }
}

function next(world: World, word: Word): World {
  switch (word) {
    case 'lease': {
      const lease = world.leases + 1
      const leased = apply(world, { kind: 'leased', lease })
      return { ...leased, leases: lease, held: [...world.held, { lease, since: leased.state.sequence }] }
    }
    case 'answer':
      return end(world, from => ({ kind: 'answered', ...from }))
    case 'fail':
    case 'suspect':
    case 'mark': {
      const suspect = word === 'fail' ? 'no' : word === 'mark' ? 'mark' : 'out'
      const blamed = word !== 'suspect' ? world.blamed : (world.held[0]?.lease ?? world.blamed)
      const what = { reason: 'server_error', detail: '500', holdMs: undefined, silentSinceMs: NEVER } as const
      return { ...end(world, from => ({ kind: 'failed', ...from, ...what, suspect })), blamed }
    }
    case 'busy':
      return end(world, from => ({ kind: 'throttled', ...from, waitMs: 86_400_000 }))
    case 'withdraw':
      return apply(world, { kind: 'withdrawn', lease: world.blamed })
    case 'give back':
      return end(world, () => undefined)
    case 'probe ok':
      return apply(world, { kind: 'probe_passed', askedMs: world.nowMs })
    case 'probe bad':
      return apply(world, { kind: 'probe_failed', reason: 'probe_failed', detail: '', silentSinceMs: NEVER })
    case 'probe unsure':
      return apply(world, { kind: 'probe_unknown', askedMs: world.nowMs })
    case 'mend':
      return apply(world, { kind: 'mended', reason: 'server_error' })
    case 'eject':
      return apply(world, { kind: 'hand_ejected', holdMs: undefined, atEpochMs: world.nowMs })
    case 'restore':
      return apply(world, { kind: 'hand_restored', atEpochMs: world.nowMs })
    case 'wait':
      return { ...world, nowMs: world.nowMs + 40_000 }
  }
}

/** What must hold in every world that can be reached; a text says what does not. */
function broken(before: World, word: Word, world: World): string | undefined {
  const { state, nowMs, held } = world
  const { phase } = state
  if (phase.kind === 'trial' && !held.some(({ lease }) => lease === phase.lease))
    return 'on trial for a lease that is over'
  if (state.throttle.trial !== 0 && !held.some(({ lease }) => lease === state.throttle.trial)) return 'asks for ever'
  if (word === 'restore' && phase.kind !== 'in') return 'not restored'
  if (word === 'eject' && phaseAt(state, nowMs) !== 'held') return 'not ejected'
  if (state.sequence < before.state.sequence || state.version < before.state.version) return 'went back'
  if (word === 'withdraw' && before.state.phase.kind === 'in' && phase.kind !== 'in') return 'taken out by a withdrawal'
  // Left alone, with probes that pass, it takes requests again: nothing is out for ever but by an operator.
  const trouble = troubleOf(state)
  if (trouble === undefined || trouble.seenBy === 'hand') return undefined
  let later = { ...world, nowMs: nowMs + 200_000 }
  while (later.held.length > 0) later = next(later, 'give back')
  if (phaseAt(later.state, later.nowMs) !== 'due') return 'out for ever'
  later = next({ ...later, nowMs: later.nowMs + LONG_HOLD_MS }, 'lease')
  if (later.state.phase.kind !== 'trial') return 'no trial'
  return phaseAt(next(later, 'answer').state, later.nowMs) === 'in' ? undefined : 'its trial does not bring it back'
}

t.test('every order of up to seven events keeps what must hold', t => {
  const start: World = { state: NEW_STATE, nowMs: 1_000, held: [], blamed: 0, leases: 0 }
  // Worlds that do not differ go on alike: each is followed once.
  const keyOf = ({ state, nowMs, held, blamed }: World): string => {
    const at = (ms: number): number => (Number.isFinite(ms) ? ms - nowMs : ms)
    const { phase, throttle } = state
    const first = held[0]?.lease ?? 0
    const trouble = troubleOf(state)
    return JSON.stringify([
      phase.kind,
      phase.kind === 'trial' ? phase.lease - first : 0,
      trouble && {
        ...trouble,
        before: trouble.before && {
          ...trouble.before,
          sinceMs: 0,
          failedMs: at(trouble.before.failedMs),
          untilMs: at(trouble.before.untilMs),
          dueAtMs: at(trouble.before.dueAtMs),
          failedSequence: 0,
          provisional: trouble.before.provisional.map(lease => lease - first),
        },
        sinceMs: 0,
        failedMs: at(trouble.failedMs),
        untilMs: at(trouble.untilMs),
        dueAtMs: at(trouble.dueAtMs),
        failedSequence: held.map(({ since }) => since >= trouble.failedSequence),
        provisional: trouble.provisional.map(lease => [lease === blamed, lease - first]),
      },
      {
        ...throttle,
        untilMs: at(throttle.untilMs),
        dueAtMs: at(throttle.dueAtMs),
        trial: throttle.trial - first,
        epoch: 0,
      },
      Math.min(state.marks, SUSPECT_ROW),
      state.probeOverruled,
      held.length,
    ])
  }
  let worlds: readonly World[] = [start]
  let transitions = 0
  const wrong: string[] = []
  const ways = new Map<World, string>([[start, '']])
  for (let depth = 1; depth <= 7; depth++) {
    const seen = new Map<string, World>()
    for (const world of worlds) {
      for (const word of WORDS) {
        const after = next(world, word)
        transitions++
        const way = `${ways.get(world) ?? ''}${word}, `
        const fault = broken(world, word, after)
        if (fault !== undefined && wrong.length < 10) wrong.push(`${fault}: ${way}`)
        const key = keyOf(after)
        if (seen.has(key)) continue
        seen.set(key, after)
        ways.set(after, way)
      }
    }
    worlds = [...seen.values()]
  }
  t.same(wrong, [])
  t.ok(transitions > 30_000, `${transitions} transitions`)
  t.end()
})

function scene(writer = 1, clock = createFakeClock()) {
  const registry = createHealthRegistry({ clock, recoveryMs: () => 30_000, probeTrustMs: () => 76_000, writer })
  const health = registry.of('d1')
  const fail = (lease: Lease, suspect: 'no' | 'out' | 'mark' = 'out', holdMs?: number): void =>
    lease.release({
      kind: 'failed',
      reason: 'server_error',
      detail: '500',
      suspect,
      timeout: false,
      ...(holdMs === undefined ? {} : { holdMs }),
    })
  return {
    clock,
    registry,
    health,
    fail,
    lease: () => registry.lease(health),
    available: () => isAvailable(health, clock.nowMs()),
  }
}

t.test('a probe that passes while the trial is in flight changes nothing: the trial brings it back', t => {
  const { clock, registry, lease, fail, available } = scene()
  fail(lease())
  clock.advance(30_000)
  const trial = lease()
  t.equal(trial.isTrial, true)
  registry.probePassed(registry.of('d1'), clock.nowMs())
  t.equal(available(), false, 'one trial only')
  clock.advance(1_500)
  trial.answered()
  t.equal(available(), true)
  trial.release({ kind: 'none' })
  t.end()
})

t.test('a trial that brings nothing gives its place back, whatever came between', t => {
  for (const between of ['nothing', 'probe ok', 'probe bad', 'peer', 'eject and restore'] as const) {
    const { clock, registry, health, lease, fail, available } = scene()
    fail(lease())
    clock.advance(30_000)
    const trial = lease()
    if (between === 'probe ok') registry.probePassed(health, clock.nowMs())
    else if (between === 'probe bad') registry.probeFailed(health, 'probe_failed', 'ECONNREFUSED')
    else if (between === 'peer') {
      const peer = scene(2, clock)
      peer.registry.adopt(registry.snapshot())
      peer.fail(peer.lease(), 'no')
      registry.adopt(peer.registry.snapshot())
    } else if (between === 'eject and restore') {
      registry.eject(health, undefined)
      registry.restore(health)
    }
    trial.release({ kind: 'none' })
    clock.advance(77_000)
    t.equal(available(), true, between)
  }
  t.end()
})

t.test('while probes fail no user is the probe; one that passes makes the trial due', t => {
  const { clock, registry, health, lease, fail, available } = scene()
  fail(lease())
  for (let round = 0; round < 10; round++) {
    registry.probeFailed(health, 'probe_failed', 'ECONNREFUSED')
    clock.advance(35_000)
    t.equal(available(), false, `${round}`)
  }
  registry.probePassed(health, clock.nowMs())
  t.equal(available(), true)
  t.equal(lease().isTrial, true, 'what requests saw fail, a request brings back')
  t.end()
})

t.test('when whoever probes is gone, the last word of a probe does not hold for ever', t => {
  const { clock, registry, health, available } = scene()
  registry.probeFailed(health, 'probe_failed', 'ECONNREFUSED')
  clock.advance(75_999)
  t.equal(available(), false)
  clock.advance(1)
  t.equal(available(), true)
  t.end()
})

t.test('requests that are answered while probes fail outweigh the probes, until one passes', t => {
  const { clock, registry, health, lease, available } = scene()
  registry.probeFailed(health, 'probe_failed', '500 to a probe')
  clock.advance(1)
  lease().release({ kind: 'healthy' })
  t.equal(available(), true)
  registry.probeFailed(health, 'probe_failed', '500 to a probe')
  t.equal(available(), true, 'an outage of the probes is none of the service')
  registry.probePassed(health, clock.nowMs())
  registry.probeFailed(health, 'probe_failed', '500 to a probe')
  t.equal(available(), false)
  t.end()
})

t.test('blame that is withdrawn brings the first one back, unless it failed for another request meanwhile', t => {
  const alone = scene()
  const poison = alone.lease()
  alone.fail(poison)
  t.equal(alone.available(), false)
  poison.withdraw()
  t.equal(alone.available(), true)

  const twice = scene()
  const [one, other] = [twice.lease(), twice.lease()]
  twice.fail(one)
  twice.fail(other, 'no')
  one.withdraw()
  t.equal(twice.available(), false, 'the other one may not have caused it')

  const both = scene()
  const [first, second] = [both.lease(), both.lease()]
  both.fail(first)
  both.fail(second)
  first.withdraw()
  t.equal(both.available(), false)
  second.withdraw()
  t.equal(both.available(), true, 'each was withdrawn')

  const onTrial = scene()
  onTrial.fail(onTrial.lease(), 'no')
  onTrial.clock.advance(30_000)
  const trial = onTrial.lease()
  onTrial.fail(trial)
  t.equal(onTrial.available(), false)
  trial.withdraw()
  t.equal(onTrial.available(), true, 'due again: the next request decides')
  t.equal(onTrial.lease().isTrial, true)
  t.end()
})

t.test('five requests in a row with suspect trouble put a deployment out, a success between begins anew', t => {
  const row = scene()
  for (let i = 1; i < SUSPECT_ROW; i++) row.fail(row.lease(), 'mark')
  t.equal(row.available(), true)
  row.fail(row.lease(), 'mark')
  t.equal(row.available(), false)

  const broken = scene()
  for (let i = 1; i < SUSPECT_ROW; i++) broken.fail(broken.lease(), 'mark')
  broken.lease().release({ kind: 'healthy' })
  for (let i = 1; i < SUSPECT_ROW; i++) broken.fail(broken.lease(), 'mark')
  t.equal(broken.available(), true)

  const fifth = scene()
  for (let i = 1; i < SUSPECT_ROW; i++) fifth.fail(fifth.lease(), 'mark')
  const last = fifth.lease()
  fifth.fail(last)
  last.withdraw()
  t.equal(fifth.available(), false, 'the blame of the fifth stands')
  t.end()
})

t.test('a hold or a wait that a server named for a day gets one trial every five minutes', t => {
  const held = scene()
  held.fail(held.lease(), 'no', 86_400_000)
  held.clock.advance(LONG_HOLD_MS - 1)
  t.equal(held.available(), false)
  held.clock.advance(1)
  const trial = held.lease()
  t.equal(held.available(), false)
  held.fail(trial, 'no')
  held.clock.advance(60_000)
  t.equal(held.available(), false, 'a failure that names no time does not cut the day')
  held.clock.advance(LONG_HOLD_MS - 60_000)
  held.lease().release({ kind: 'healthy' })
  t.equal(held.available(), true)

  const throttled = scene()
  throttled.lease().release({ kind: 'throttled', waitMs: 86_400_000 })
  throttled.clock.advance(LONG_HOLD_MS)
  t.equal(throttled.available(), true)
  const asked = throttled.lease()
  t.equal(throttled.available(), false, 'one')
  asked.release({ kind: 'throttled', waitMs: 86_100_000 })
  throttled.clock.advance(LONG_HOLD_MS)
  throttled.lease().release({ kind: 'healthy' })
  t.equal(throttled.available(), true, 'it takes requests again: the wait is over')
  t.end()
})

// Several processes.

t.test('two processes end in the same state, whatever the order of their news', t => {
  const clock = createFakeClock()
  const [a, b] = [scene(1, clock), scene(2, clock)]
  a.fail(a.lease(), 'no', 600_000)
  b.fail(b.lease(), 'no')
  const [fromA, fromB] = [a.registry.snapshot(), b.registry.snapshot()]
  a.registry.adopt(fromB)
  b.registry.adopt(fromA)
  a.registry.adopt(fromB)
  t.same(a.registry.snapshot(), b.registry.snapshot())
  t.match(JSON.parse(JSON.stringify(fromA)), fromA, 'plain JSON')
  t.end()
})

t.test("an operator's word is stronger than what any process sees at the same time, and holds in a new one", t => {
  const clock = createFakeClock()
  const [a, b, fresh] = [scene(1, clock), scene(2, clock), scene(3, clock)]
  a.registry.eject(a.health, undefined)
  for (let i = 0; i < 3; i++) b.fail(b.lease(), 'no')
  const fromB = b.registry.snapshot()
  b.registry.adopt(a.registry.snapshot())
  a.registry.adopt(fromB)
  clock.advance(1e9)
  for (const { health } of [a, b]) t.equal(troubleOf(health.state)?.reason, 'by_hand')
  fresh.registry.adopt(b.registry.snapshot())
  t.equal(isEjected(fresh.health, clock.nowMs()), true)
  fresh.registry.restore(fresh.health)
  a.registry.adopt(fresh.registry.snapshot())
  t.equal(a.available(), true)
  t.end()
})

t.test('a longer wait that a peer was given counts, and lifting one is news too', t => {
  const clock = createFakeClock()
  const [a, b] = [scene(1, clock), scene(2, clock)]
  a.lease().release({ kind: 'throttled', waitMs: 1_000 })
  b.registry.adopt(a.registry.snapshot())
  a.lease().release({ kind: 'throttled', waitMs: 60_000 })
  b.registry.adopt(a.registry.snapshot())
  clock.advance(59_999)
  t.equal(b.available(), false)
  const late = a.registry.snapshot()
  a.registry.restore(a.health)
  b.registry.adopt(a.registry.snapshot())
  t.equal(b.available(), true)
  b.registry.adopt(late)
  t.equal(b.available(), true, 'older news does not bring it back')
  t.end()
})

t.test('a trial of another process is left alone, and is not believed for ever if that process dies', t => {
  const clock = createFakeClock()
  const [a, b] = [scene(1, clock), scene(2, clock)]
  a.fail(a.lease(), 'no')
  b.registry.adopt(a.registry.snapshot())
  clock.advance(30_000)
  a.lease()
  b.registry.adopt(a.registry.snapshot())
  t.equal(b.available(), false)
  clock.advance(30_000)
  t.equal(b.available(), true)
  t.end()
})

t.test('a timeout that another process saw blames nobody who has answered here since', t => {
  const clock = createFakeClock()
  const [a, b] = [scene(1, clock), scene(2, clock)]
  const slow = a.lease()
  clock.advance(1_000)
  b.lease().release({ kind: 'healthy' })
  clock.advance(1_000)
  slow.release({ kind: 'failed', reason: 'header_timeout', detail: 'no headers', suspect: 'out', timeout: true })
  b.registry.adopt(a.registry.snapshot())
  t.equal(b.available(), true)
  a.registry.adopt(b.registry.snapshot())
  t.equal(a.available(), true, 'and says so')
  t.end()
})

t.test("an operator's later word holds in all processes, however soon it followed and wherever it was said", t => {
  const clock = createFakeClock()
  const [one, other] = [scene(1, clock), scene(2, clock)]
  one.registry.eject(one.health, undefined)
  const ejected = one.registry.snapshot()
  clock.advance(10)
  // It has not heard of the first word yet.
  other.registry.restore(other.health)
  const restored = other.registry.snapshot()
  clock.advance(10)
  other.registry.adopt(ejected)
  one.registry.adopt(restored)
  for (const { health } of [one, other]) t.equal(health.state.phase.kind, 'in')
  // A wall clock that was set back does not make a later word an earlier one.
  other.registry.adopt([{ ...restored[0], hand: clock.epochMs() + 60_000 } as (typeof restored)[0]])
  other.registry.eject(other.health, undefined)
  t.ok(other.health.state.hand > clock.epochMs() + 60_000)
  one.registry.adopt(other.registry.snapshot())
  t.equal(isEjected(one.health, clock.nowMs()), true)
  t.end()
})
