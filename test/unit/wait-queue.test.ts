// Requests that wait for capacity: what wakes them, in which order, and how many.
import t from 'tap'
import type { Lease } from '../../lib/balancer/health.ts'
import type { PickerOptions } from '../../lib/balancer/pool.ts'
import type { WaitResult } from '../../lib/balancer/wait-queue.ts'
import { createTestPool, type PoolUnderTest, RECOVERY_MS } from '../fixtures/pools.ts'

const HEALTHY = { kind: 'healthy' } as const
const BROKEN = {
  kind: 'failed',
  suspect: 'no',
  timeout: false,
  reason: 'deployment_missing',
  detail: '404',
} as const
const throttledFor = (waitMs: number) => ({ kind: 'throttled', waitMs }) as const

interface Asked {
  /** `b1`, or why it waits no longer; undefined: it waits. */
  result: string | undefined
  lease: Lease | undefined
  leave(): void
}

/** Requests that ask as the retry loop does. */
function asking({ pool, queue, clock }: PoolUnderTest, maxWaitMs = 60_000) {
  const nameOf = (pick: WaitResult): string => (pick.kind === 'lease' ? pick.member.backend.name : pick.kind)
  return (options: PickerOptions = {}, arrival = { beganMs: clock.nowMs(), place: queue.nextPlace() }): Asked => {
    const picker = pool.picker(options)
    let left: () => void = () => undefined
    const asked: Asked = { result: undefined, lease: undefined, leave: () => left() }
    const take = (pick: WaitResult): void => {
      asked.result = nameOf(pick)
      if (pick.kind === 'lease') asked.lease = pick.lease
    }
    if (queue.waiting(pool) > 0) queue.serve(pool)
    const pick = picker.pick()
    if (pick.kind !== 'throttled') take(pick)
    else {
      const leaving = {
        onCancel(stop: () => void) {
          left = stop
          return () => undefined
        },
      }
      void queue.wait({ pool, picker, leaving, untilMs: arrival.beganMs + maxWaitMs, ...arrival }).then(take)
    }
    return asked
  }
}

const settle = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

function throttle(scene: PoolUnderTest, name: string, waitMs: number): void {
  scene.healthRegistry.lease(scene.member(name).health).release(throttledFor(waitMs))
}

t.test('a hold that ends while somebody waits for a throttle wakes him', async t => {
  const scene = createTestPool(['', ''])
  const ask = asking(scene)
  scene.healthRegistry.lease(scene.member('b2').health).release(BROKEN)
  throttle(scene, 'b1', 50_000)
  const asked = ask()
  scene.clock.advance(RECOVERY_MS - 1)
  await settle()
  t.equal(asked.result, undefined)
  scene.clock.advance(1)
  await settle()
  t.equal(asked.result, 'b2')
  t.equal(scene.clock.pending(), 0)
})

t.test('a throttle that is over sooner than was thought at the last look wakes the first, not a newcomer', async t => {
  const scene = createTestPool(['max_in_flight: 1'])
  const ask = asking(scene)
  throttle(scene, 'b1', 1_000)
  const first = ask()
  const second = ask()
  scene.clock.advance(1_000)
  await settle()
  t.equal(first.result, 'b1')
  first.lease?.release(throttledFor(500))
  await settle()
  t.equal(second.result, undefined)
  scene.clock.advance(499)
  const newcomer = ask()
  scene.clock.advance(1)
  await settle()
  t.equal(second.result, 'b1')
  t.equal(newcomer.result, undefined)
  second.lease?.release(HEALTHY)
  await settle()
  t.equal(newcomer.result, 'b1')
})

t.test('who arrived first is served first, also if it came to wait later', async t => {
  const scene = createTestPool([''])
  const ask = asking(scene)
  throttle(scene, 'b1', 1_000)
  const early = { beganMs: scene.clock.nowMs(), place: scene.queue.nextPlace() }
  scene.clock.advance(1)
  const late = ask()
  scene.clock.advance(1)
  // It was in flight elsewhere until now.
  const first = ask({}, early)
  scene.clock.advance(998)
  await settle()
  t.equal(first.result, 'b1')
  t.equal(late.result, undefined)
  first.lease?.release(HEALTHY)
  await settle()
  t.equal(late.result, 'b1')
})

t.test("after a peer's throttle one is let through, and two more for each success", async t => {
  const scene = createTestPool([''])
  const ask = asking(scene)
  const { health } = scene.member('b1')
  const under = scene.healthRegistry.lease(health)
  const [state] = scene.healthRegistry.snapshot(health)
  if (state === undefined) throw new Error('it has one backend')
  const untilMs = scene.clock.epochMs() + 2_000
  scene.healthRegistry.adopt([{ ...state, throttle: { ...state.throttle, untilMs, dueAtMs: untilMs } }])
  const waiting = Array.from({ length: 8 }, () => ask())
  scene.clock.advance(1_000)
  // It began before the throttle: it says nothing of the time after it.
  under.release(HEALTHY)
  scene.clock.advance(1_000)
  await settle()
  const through = (): Asked[] => waiting.filter(({ result }) => result === 'b1')
  t.equal(through().length, 1)
  waiting[0]?.lease?.release(HEALTHY)
  await settle()
  t.equal(through().length, 3)
  waiting[1]?.lease?.release(HEALTHY)
  waiting[2]?.lease?.release(HEALTHY)
  await settle()
  t.equal(through().length, 7)
})

t.test('whose wait is over is let through to a backend that only its former throttles hold back', async t => {
  const scene = createTestPool([''])
  const ask = asking(scene, 3_000)
  // Windows of half a second that admitted two requests each: no more is expected of the next ones.
  for (let window = 0; window < 3; window++) {
    const first = ask()
    await settle()
    first.lease?.release(HEALTHY)
    throttle(scene, 'b1', 500)
    const waits = ask()
    scene.clock.advance(500)
    await settle()
    t.equal(waits.result, 'b1')
    waits.lease?.release(HEALTHY)
  }
  throttle(scene, 'b1', 500)
  const line = Array.from({ length: 20 }, () => ask())
  const answered = new Set<Lease>()
  for (let ms = 0; ms < 3_000; ms += 10) {
    for (const { lease } of line) {
      if (lease === undefined || answered.has(lease)) continue
      answered.add(lease)
      lease.release(HEALTHY)
    }
    scene.clock.advance(10)
    await settle()
  }
  t.same(
    line.map(({ result }) => result),
    line.map(() => 'b1'),
  )
})

t.test('with nothing in flight one is let through, whatever came of the one before', async t => {
  for (const end of ['success in time of a peer’s throttle', 'no answer', 'failure'] as const) {
    const scene = createTestPool(['', ''])
    const ask = asking(scene)
    throttle(scene, 'b1', 1_000)
    throttle(scene, 'b2', 90_000)
    const [first, second] = [ask(), ask()]
    scene.clock.advance(1_000)
    await settle()
    t.equal(first.result, 'b1')
    t.equal(second.result, undefined)
    if (end === 'no answer') first.lease?.release({ kind: 'none' })
    else if (end === 'failure') {
      first.lease?.release({ ...BROKEN, suspect: 'mark' })
    } else {
      const { health } = scene.member('b1')
      const [state] = scene.healthRegistry.snapshot(health)
      if (state === undefined) throw new Error('it has a state')
      const untilMs = scene.clock.epochMs() + 3_000
      scene.healthRegistry.adopt([{ ...state, throttle: { ...state.throttle, untilMs, dueAtMs: untilMs } }])
      scene.clock.advance(500)
      first.lease?.release(HEALTHY)
      scene.clock.advance(2_500)
    }
    await settle()
    t.equal(second.result, 'b1', end)
  }
})

t.test('a throttle that is stretched beyond what is waited for is told at once', async t => {
  const scene = createTestPool([''])
  const ask = asking(scene, 10_000)
  const under = scene.healthRegistry.lease(scene.member('b1').health)
  throttle(scene, 'b1', 8_000)
  const asked = ask()
  under.release(throttledFor(30_000))
  await settle()
  t.equal(asked.result, 'throttled')
  t.equal(scene.clock.pending(), 0)
})

t.test('who waits for a resource that goes out is let go at once, and the others wait on', async t => {
  const scene = createTestPool(['', ''])
  const ask = asking(scene)
  throttle(scene, 'b1', 5_000)
  throttle(scene, 'b2', 9_000)
  const bound = ask({ resources: new Set([scene.member('b2').resourceId]) })
  const any = ask()
  scene.healthRegistry.probeFailed(scene.member('b2').health, 'probe_failed', 'ECONNREFUSED')
  await settle()
  t.equal(bound.result, 'exhausted', 'out and throttled')
  t.equal(any.result, undefined)
  scene.clock.advance(5_000)
  await settle()
  t.equal(any.result, 'b1')
})

t.test('a backend that names no wait is not asked over and over', async t => {
  const scene = createTestPool([''])
  const ask = asking(scene)
  throttle(scene, 'b1', 1_000)
  const [asked, next] = [ask(), ask()]
  scene.clock.advance(1_000)
  await settle()
  asked.lease?.release(throttledFor(0))
  await settle()
  t.equal(next.result, undefined)
  scene.clock.advance(100)
  await settle()
  t.equal(next.result, 'b1')
})

t.test('an operator who restores a throttled backend holds nobody back', async t => {
  const scene = createTestPool([''])
  const ask = asking(scene)
  throttle(scene, 'b1', 50_000)
  const waiting = Array.from({ length: 10 }, () => ask())
  scene.healthRegistry.restore(scene.member('b1').health)
  await settle()
  t.ok(waiting.every(({ result }) => result === 'b1'))
  t.equal(scene.queue.waiting(scene.pool), 0)
})

t.test('who leaves takes no timer and no listener with him', async t => {
  const scene = createTestPool([''])
  const ask = asking(scene)
  throttle(scene, 'b1', 50_000)
  const waiting = Array.from({ length: 3 }, () => ask())
  t.equal(scene.clock.pending(), 1, 'one clock for all of them')
  for (const asked of waiting) asked.leave()
  await settle()
  t.same(
    waiting.map(({ result }) => result),
    ['left', 'left', 'left'],
  )
  t.equal(scene.clock.pending(), 0)
})
