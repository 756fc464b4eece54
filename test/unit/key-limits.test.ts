// Limits of a client key: in a minute, and at once.
import t from 'tap'
import { createKeyUsage, estimateTokens } from '../../lib/balancer/key-limits.ts'
import { resetText } from '../../lib/handlers/admit.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

const NONE = { requestsPerMinute: undefined, tokensPerMinute: undefined, concurrent: undefined }

function admitted(admission: ReturnType<ReturnType<typeof createKeyUsage>['admit']>): number {
  if (admission.kind !== 'admitted') throw new Error(`limited by ${admission.limit}`)
  return admission.ticket
}

t.test('in no minute, wherever it begins, are more requests admitted than the limit', async t => {
  const clock = createFakeClock()
  const usage = createKeyUsage(clock)
  const limits = { ...NONE, requestsPerMinute: 30 }
  const admittedAt: number[] = []
  for (let i = 0; i < 20_000; i++) {
    clock.advance((i * 7919) % 37)
    const admission = usage.admit('team', limits, 0)
    if (admission.kind === 'admitted') {
      usage.settle(admission.ticket, 0)
      admittedAt.push(clock.nowMs())
    }
  }
  const worst = Math.max(...admittedAt.map((at, i) => admittedAt.slice(i).findIndex(later => later - at >= 60_000)))
  t.equal(worst, 30, 'a full minute always holds 30, and never one more')
  t.equal(usage.open(), 0)
})

t.test('the wait that is told is the wait until one more is admitted', async t => {
  const clock = createFakeClock()
  const usage = createKeyUsage(clock)
  const limits = { ...NONE, requestsPerMinute: 2 }
  usage.admit('team', limits, 0)
  clock.advance(10_000)
  usage.admit('team', limits, 0)
  clock.advance(5_000)
  t.match(usage.admit('team', limits, 0), { kind: 'limited', limit: 'requests', max: 2, remaining: 0, waitMs: 45_000 })
  clock.advance(44_999)
  t.equal(usage.admit('team', limits, 0).kind, 'limited')
  clock.advance(1)
  t.equal(usage.admit('team', limits, 0).kind, 'admitted')
})

t.test('tokens are reserved by estimate and put right at the end', async t => {
  const clock = createFakeClock()
  const usage = createKeyUsage(clock)
  const limits = { ...NONE, tokensPerMinute: 1_000 }
  const first = admitted(usage.admit('team', limits, 900))
  t.match(usage.admit('team', limits, 200), { kind: 'limited', limit: 'tokens', remaining: 100 })
  usage.settle(first, 300)
  const second = admitted(usage.admit('team', limits, 700))
  usage.settle(second, undefined)
  t.match(
    usage.admit('team', limits, 1),
    { limit: 'tokens', remaining: 0 },
    'an end without a count keeps its estimate',
  )
})

t.test('what a long answer took beyond its estimate counts in the minute it ended in', async t => {
  const clock = createFakeClock()
  const usage = createKeyUsage(clock)
  const limits = { ...NONE, tokensPerMinute: 1_000 }
  const ticket = admitted(usage.admit('team', limits, 100))
  clock.advance(300_000)
  usage.settle(ticket, 1_100)
  t.match(usage.admit('team', limits, 1), { kind: 'limited', waitMs: 60_000 })
})

t.test('a request larger than the whole limit passes when nothing else has used it', async t => {
  const usage = createKeyUsage(createFakeClock())
  const limits = { ...NONE, tokensPerMinute: 100 }
  t.equal(usage.admit('team', limits, 5_000).kind, 'admitted')
  t.equal(usage.admit('team', limits, 1).kind, 'limited')
})

t.test('requests at once are limited, and a place is free again when one ends', async t => {
  const usage = createKeyUsage(createFakeClock())
  const limits = { ...NONE, concurrent: 2 }
  const first = admitted(usage.admit('team', limits, 0))
  usage.admit('team', limits, 0)
  t.match(usage.admit('team', limits, 0), { kind: 'limited', limit: 'concurrent' })
  t.equal(usage.admit('other', limits, 0).kind, 'admitted', 'keys do not share')
  usage.settle(first, 0)
  usage.settle(first, 0)
  t.equal(usage.admit('team', limits, 0).kind, 'admitted')
  t.equal(usage.admit('team', limits, 0).kind, 'limited', 'settling twice gives nothing back twice')
})

t.test('an estimate grows with the body, but an image is no book', async t => {
  t.equal(estimateTokens(4_000, undefined), 1_000)
  t.equal(estimateTokens(4_000, 500), 1_500)
  t.equal(estimateTokens(64 * 1024 * 1024, undefined), 32_768)
})

t.test('resets are written as OpenAI writes them', async t => {
  t.same([250, 999.5, 12_500, 60_000, 90_000].map(resetText), ['250ms', '1s', '12.5s', '1m0s', '1m30s'])
})
