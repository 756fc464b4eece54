// The sums of days and months in their file: over restarts, cut writes, midnight, full disks and months of growth.
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { createKeyUsage } from '../../lib/balancer/key-limits.ts'
import { createUsageLedger, type UsageLedger } from '../../lib/balancer/usage-ledger.ts'
import { createHandClock, type HandClock } from '../fixtures/hand-clock.ts'

const HOUR_MS = 3_600_000
const NONE = { requestsPerMinute: undefined, tokensPerMinute: undefined, concurrent: undefined }

function stage(t: Test): { clock: HandClock; file: string; problems: string[]; open(): UsageLedger } {
  const clock = createHandClock()
  const file = path.join(t.testdir(), 'usage.jsonl')
  const problems: string[] = []
  return {
    clock,
    file,
    problems,
    open: () => createUsageLedger({ clock, file, onProblem: message => problems.push(message) }),
  }
}

/** Moves the clock to the beginning of the next UTC day. */
function midnight(clock: HandClock): void {
  clock.advance(24 * HOUR_MS - (clock.epochMs() % (24 * HOUR_MS)))
}

t.test('sums are the same after a restart', async t => {
  const { open, file } = stage(t)
  const first = open()
  first.add('webshop', 100, 0.25)
  first.add('webshop', 23, 0.05)
  first.add('bot', 7, 0)
  first.close()
  const second = open()
  t.same(second.used('webshop'), { tokensToday: 123, tokensThisMonth: 123, costThisMonth: 0.3 })
  t.same(second.used('bot'), { tokensToday: 7, tokensThisMonth: 7, costThisMonth: 0 })
  t.same(second.used('nobody'), { tokensToday: 0, tokensThisMonth: 0, costThisMonth: 0 })
  t.equal(fs.readFileSync(file, 'utf8').trim().split('\n').length, 2, 'one line a key and day')
})

t.test('a crash costs half a second of counting at most', async t => {
  const { open, clock } = stage(t)
  const ledger = open()
  ledger.add('webshop', 100, 1)
  clock.advance(500)
  await new Promise(resolve => setImmediate(resolve))
  const written = (): number => open().used('webshop').tokensToday
  // The write is in the background: waited for, not timed.
  while (written() !== 100) await new Promise(resolve => setImmediate(resolve))
  ledger.add('webshop', 50, 1)
  t.equal(written(), 100, 'the process dies here')
})

t.test('a write cut at any byte loses that write alone, and the next one is whole', async t => {
  const { open, file } = stage(t)
  const ledger = open()
  ledger.add('webshop', 100, 1)
  ledger.close()
  const whole = fs.readFileSync(file)
  const more = Buffer.from('{"day":"2026-11-28","key":"webshop","tokens":150,"cost":1.5}\n')
  for (let cut = 0; cut < more.length; cut++) {
    fs.writeFileSync(file, Buffer.concat([whole, more.subarray(0, cut)]))
    const after = open()
    t.ok(after.used('webshop').tokensToday >= 100, `cut after ${cut} bytes`)
    after.add('webshop', 11, 0)
    const { tokensToday } = after.used('webshop')
    after.close()
    t.equal(open().used('webshop').tokensToday, tokensToday)
  }
})

t.test('days and months end at midnight UTC', async t => {
  const { open, clock } = stage(t)
  const ledger = open()
  midnight(clock)
  ledger.add('webshop', 100, 1)
  midnight(clock)
  t.match(ledger.used('webshop'), { tokensToday: 0, tokensThisMonth: 100, costThisMonth: 1 })
  for (let day = 0; day < 31; day++) midnight(clock)
  t.same(ledger.used('webshop'), { tokensToday: 0, tokensThisMonth: 0, costThisMonth: 0 })
})

t.test('the file is compacted, keeps every sum of this month, and forgets the year before', async t => {
  const { open, clock, file } = stage(t)
  fs.writeFileSync(file, '{"day":"2020-01-01","key":"webshop","tokens":5,"cost":1}\n'.repeat(25_000))
  const ledger = open()
  ledger.add('webshop', 100, 1)
  clock.advance(500)
  t.ok(fs.statSync(file).size < 200, 'written anew')
  ledger.add('webshop', 1, 0)
  ledger.close()
  t.equal(open().used('webshop').tokensThisMonth, 101)
})

t.test('what cannot be written is said once and counted on in memory', async t => {
  const { clock, file, problems } = stage(t)
  const folder = path.join(path.dirname(file), 'missing', 'usage.jsonl')
  const ledger = createUsageLedger({ clock, file: folder, onProblem: message => problems.push(message) })
  t.match(ledger.open(), /usage file .* cannot be used/)
  ledger.add('webshop', 5, 0)
  ledger.add('webshop', 5, 0)
  t.equal(ledger.used('webshop').tokensToday, 10)
  t.same(problems, [])
  ledger.close()
})

t.test('a key is admitted while the sum of what was really used is below its limit', async t => {
  const { open, clock } = stage(t)
  const usage = createKeyUsage(clock, open())
  const limits = { ...NONE, tokensPerDay: 100, tokensPerMonth: 250, costPerMonth: 10 }
  const take = (tokens: number | undefined, cost = 0, estimate = 1) => {
    const admission = usage.admit('webshop', limits, estimate)
    if (admission.kind === 'admitted') usage.settle(admission.ticket, tokens, cost)
    return admission
  }
  midnight(clock)
  t.match(take(99), { kind: 'admitted' })
  t.match(take(500, 0, 900), { kind: 'admitted' }, 'below is below, however much it then takes')
  t.match(take(0), { kind: 'limited', limit: 'tokens_per_month', max: 250 }, 'the longer limit is the one that is told')
  clock.advance(32 * 24 * HOUR_MS)
  t.match(take(undefined, 0, 100), { kind: 'admitted' }, 'uncounted: the estimate stands')
  const limited = take(0)
  t.match(limited, { kind: 'limited', limit: 'tokens_per_day', until: /T00:00:00Z$/ })
  t.equal(
    limited.kind === 'limited' && Date.parse(limited.until ?? '') - clock.epochMs(),
    limited.kind === 'limited' && limited.waitMs,
  )
  midnight(clock)
  t.match(take(1, 10), { kind: 'admitted' }, 'a new day')
  t.match(take(0), { kind: 'limited', limit: 'cost_per_month', max: 10 })
})
