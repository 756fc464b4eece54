// Bookkeeping of things in progress: the dense set, the deadlines, and a request's one cancellation.
import t from 'tap'
import { createDeadlines, type Deadline } from '../../lib/clock.ts'
import { createDenseSet, NO_SLOT, type Slotted } from '../../lib/dense-set.ts'
import { createCancellation } from '../../lib/request-context.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

interface Thing extends Slotted {
  readonly name: string
}

const thing = (name: string): Thing => ({ name, slot: NO_SLOT })

t.test('a bag holds what was put in and not taken out, and each thing once', t => {
  const bag = createDenseSet<Thing>()
  const [a, b, c] = [thing('a'), thing('b'), thing('c')]
  for (const item of [a, b, c]) bag.add(item)
  t.equal(bag.size(), 3)
  t.throws(() => bag.add(b))
  bag.remove(a)
  bag.remove(a)
  bag.remove(thing('never in it'))
  t.equal(bag.size(), 2)
  t.equal(a.slot, NO_SLOT)
  const names: string[] = []
  bag.visit(({ name }) => void names.push(name))
  t.strictSame(names.sort(), ['b', 'c'])
  bag.add(a)
  for (const item of [c, b, a]) bag.remove(item)
  t.equal(bag.size(), 0)
  t.end()
})

t.test(
  'whatever is put in and taken out meanwhile, a walk through a bag misses nothing and shows nothing taken out',
  t => {
    const random = seededRandom(7)
    const below = (limit: number): number => Math.floor(random() * limit)
    for (let run = 0; run < 300; run++) {
      const bag = createDenseSet<Thing>()
      const inside = new Set<Thing>()
      const add = (name: string): void => {
        const item = thing(name)
        bag.add(item)
        inside.add(item)
      }
      for (let i = below(8); i >= 0; i--) add(`first ${i}`)
      const due = new Set(inside)
      let added = 0
      bag.visit(item => {
        if (!inside.has(item)) t.fail('something that was taken out')
        due.delete(item)
        for (let i = below(3); i > 0; i--) {
          const [victim] = [...inside].slice(below(inside.size))
          if (victim === undefined) continue
          bag.remove(victim)
          inside.delete(victim)
          due.delete(victim)
        }
        if (added++ < 5 && random() < 0.4) add(`later ${added}`)
      })
      if (due.size > 0) t.fail('something was missed')
      if (bag.size() !== inside.size) t.fail('something is left behind')
    }
    t.end()
  },
)

t.test('a deadline is told once each time it passes, may be moved, and rests at Infinity', t => {
  const clock = createFakeClock(0)
  const deadlines = createDeadlines(clock)
  const told: string[] = []
  const early: Deadline = deadlines.add(100, () => void told.push(`early ${clock.nowMs()}`))
  const late = deadlines.add(200, () => void told.push(`late ${clock.nowMs()}`))
  clock.advance(99)
  t.strictSame(told, [])
  clock.advance(1_000)
  t.strictSame(told, ['early 100', 'late 200'])
  t.equal(early.dueMs, Number.POSITIVE_INFINITY)
  early.dueMs = clock.nowMs() + 50
  clock.advance(100)
  t.equal(told.length, 3, 'moved, it is told again')
  t.equal(deadlines.size(), 2)
  deadlines.remove(early)
  deadlines.remove(early)
  deadlines.remove(late)
  t.equal(deadlines.size(), 0)
  clock.advance(20)
  t.equal(clock.pending(), 0, 'nothing waits: no timer runs')
  deadlines.remove(deadlines.add(5_000, () => t.fail('removed')))
  clock.advance(10_000)
  t.equal(clock.pending(), 0)
  t.end()
})

t.test('what a deadline adds and removes as it passes is neither forgotten nor told though removed', t => {
  const clock = createFakeClock(0)
  const deadlines = createDeadlines(clock)
  const counts = new Map<string, number>()
  const tell = (name: string): void => void counts.set(name, (counts.get(name) ?? 0) + 1)
  const all: Deadline[] = []
  for (let i = 0; i < 6; i++) {
    const mine: Deadline = deadlines.add(100, () => {
      tell(`${i}`)
      deadlines.remove(mine)
      const other = all[(i + 3) % 6]
      if (other !== undefined) deadlines.remove(other)
      deadlines.add(500, () => tell(`after ${i}`))
      deadlines.add(50, () => tell(`past ${i}`))
    })
    all.push(mine)
  }
  clock.advance(100)
  const first = [...counts.keys()].filter(name => /^\d$/.test(name))
  t.equal(first.length, 3, 'of each two that remove each other one is told')
  clock.advance(500)
  for (const name of first) {
    t.strictSame([counts.get(name), counts.get(`after ${name}`), counts.get(`past ${name}`)], [1, 1, 1])
  }
  t.equal(counts.size, 9)
  t.end()
})

t.test('a cancellation stops everything once, in the order of asking, with the first reason', t => {
  const cancellation = createCancellation()
  const told: string[] = []
  for (const name of ['a', 'b', 'c']) cancellation.onCancel(reason => void told.push(`${name} ${reason}`))
  const takeBack = cancellation.onCancel(() => t.fail('taken back'))
  takeBack()
  takeBack()
  t.equal(cancellation.reason, undefined)
  cancellation.cancel('client_closed')
  cancellation.cancel('shutdown')
  t.equal(cancellation.reason, 'client_closed')
  t.strictSame(told, ['a client_closed', 'b client_closed', 'c client_closed'])
  const later = cancellation.onCancel(reason => void told.push(`late ${reason}`))
  t.equal(told.at(-1), 'late client_closed', 'who asks afterwards is told at once')
  later()
  cancellation.cancel('shutdown')
  t.equal(told.length, 4)
  t.end()
})

t.test('what is taken back while others are being stopped is not stopped', t => {
  const cancellation = createCancellation()
  const told: string[] = []
  const takeBacks: (() => void)[] = []
  cancellation.onCancel(() => {
    told.push('first')
    for (const takeBack of takeBacks) takeBack()
    cancellation.onCancel(reason => void told.push(`asked meanwhile ${reason}`))
    cancellation.cancel('client_stalled')
  })
  takeBacks.push(cancellation.onCancel(() => told.push('second')))
  const third = cancellation.onCancel(() => void told.push('third'))
  takeBacks.push(cancellation.onCancel(() => told.push('fourth')))
  cancellation.cancel('shutdown')
  third()
  t.strictSame(told, ['first', 'asked meanwhile shutdown', 'third'])
  t.end()
})

t.test('time that the process itself stood still counts against nobody', t => {
  const clock = createFakeClock()
  let nowMs = 0
  let run: () => void = () => undefined
  const deadlines = createDeadlines({
    ...clock,
    nowMs: () => nowMs,
    every(_periodMs, given) {
      run = given
      return { cancel: () => undefined }
    },
  })
  const expired: string[] = []
  deadlines.add(2_000, () => expired.push('two seconds'))
  const sweepAt = (ms: number): void => {
    nowMs = ms
    run()
  }
  sweepAt(20)
  sweepAt(40)
  // Stopped for three seconds: what came meanwhile lies unread in the sockets.
  sweepAt(3_060)
  t.same(expired, [])
  for (let ms = 3_080; ms < 5_000; ms += 20) sweepAt(ms)
  t.same(expired, [], 'it has waited for less than two seconds')
  sweepAt(5_000)
  t.same(expired, ['two seconds'])
  t.end()
})
