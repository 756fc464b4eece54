// Counts of the live status page: rolling windows, percentiles, the last requests and changes, and several processes as
// one.
import t from 'tap'
import type { BackendState, RequestEntry, StatusView } from '../../lib/dashboard/entries.ts'
import { addHistogram, BUCKETS, bucketOf, percentile } from '../../lib/dashboard/histogram.ts'
import { mergeSnapshots } from '../../lib/dashboard/merge.ts'
import { createStatus, MAX_BACKENDS, MAX_CHANGES, MAX_REQUESTS, type Status } from '../../lib/dashboard/status.ts'
import { viewOf } from '../../lib/dashboard/view.ts'
import { STEP_MS, STEPS } from '../../lib/dashboard/window.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'

const BACKEND_STATE: BackendState = {
  model: 'gpt-4o',
  backend: 'b1',
  deployment: 0,
  tier: 1,
  weight: 1,
  state: 'healthy',
  reason: null,
  detail: null,
  since_ms: null,
  until_ms: null,
  in_flight: 0,
  headroom: null,
  asked: true,
  lacks: [],
  lack_advice: null,
  lack_todo: null,
  advice: null,
  todo: null,
}

const REQUEST: RequestEntry = {
  time_ms: 0,
  id: 'r',
  key: 'k',
  client: '10.1.2.3',
  method: 'POST',
  path: '/v1/chat/completions',
  model: 'gpt-4o',
  backend: 'b1',
  status: 200,
  attempts: 1,
  duration_ms: 10,
  ttfb_ms: 5,
  prompt_tokens: 100,
  completion_tokens: 20,
  cached_tokens: 60,
  stream: false,
  error: null,
}

function made(
  clock: FakeClock = createFakeClock(0),
  healthRegistry: readonly BackendState[] = [BACKEND_STATE],
  source = 'one',
): { readonly status: Status; readonly clock: FakeClock; view(): StatusView } {
  const status = createStatus({ clock, source, states: () => healthRegistry })
  return { status, clock, view: () => viewOf(status.snapshot()) }
}

const SERVED = { model: 'gpt-4o', backend: 'b1', outcome: 'served', ttfbMs: 100 } as const

t.test('histogram', t => {
  t.test('every duration has a bucket, longer ones never a lower one', t => {
    const buckets: number[] = []
    for (let ms = 0; ms < 1_000_000; ms = ms * 1.01 + 0.1) buckets.push(bucketOf(ms))
    t.same(
      buckets,
      buckets.toSorted((x, y) => x - y),
    )
    t.same([buckets[0], buckets.at(-1)], [0, BUCKETS - 1])
    t.equal(new Set(buckets).size, BUCKETS, 'none is left out')
    t.equal(bucketOf(Number.NaN), 0)
    t.equal(bucketOf(Number.POSITIVE_INFINITY), BUCKETS - 1)
    t.end()
  })

  t.test('a percentile is within one bucket of the exact one', t => {
    const durations = Array.from({ length: 1_000 }, (_, i) => 2 ** (1 + (i / 1_000) * 17))
    const histogram: Record<number, number> = {}
    for (const ms of durations) addHistogram(histogram, { [bucketOf(ms)]: 1 })
    for (const share of [0.01, 0.5, 0.95, 1]) {
      const exact = durations[Math.max(Math.ceil(1_000 * share) - 1, 0)] ?? Number.NaN
      const found = percentile(histogram, share) ?? Number.NaN
      t.ok(found / exact > 0.84 && found / exact < 1.19, `${share}: ${found} for ${exact}`)
    }
    t.end()
  })

  t.test('of nothing there is no percentile', t => {
    t.equal(percentile({}, 0.5), null)
    t.end()
  })
  t.end()
})

t.test('figures', t => {
  t.test('requests a second are over the last minute and what has begun of the next step', t => {
    const { status, clock, view } = made()
    clock.advance(20 * STEP_MS)
    for (let s = 0; s < 65; s++) {
      clock.advance(1_000)
      status.attemptDone(SERVED)
      status.attemptDone(SERVED)
    }
    t.equal(view().backends[0]?.requests_per_s, 2)
    clock.advance(2 * 60_000)
    t.equal(view().backends[0]?.requests_per_s, 0)
    t.end()
  })

  t.test('the first request of a new process is not a storm', t => {
    const { status, clock, view } = made()
    clock.advance(3)
    status.attemptDone(SERVED)
    t.equal(view().totals.requests_per_s, 0.1)
    t.end()
  })

  t.test('failures are errors, throttling is told apart, what the client ended is neither', t => {
    const { status, view } = made()
    for (const outcome of [
      'failed',
      'timeout',
      'misconfigured',
      'cut',
      'throttled',
      'cancelled',
      'unsupported',
    ] as const) {
      status.attemptDone({ ...SERVED, outcome, ttfbMs: undefined })
    }
    status.attemptDone(SERVED)
    t.match(view().backends[0], { error_share: 0.5, throttled_share: 0.125 })
    t.end()
  })

  t.test('the first byte has a median and a 95th percentile, of the attempts that had one', t => {
    const { status, view } = made()
    for (let i = 0; i < 90; i++) status.attemptDone(SERVED)
    for (let i = 0; i < 10; i++) status.attemptDone({ ...SERVED, ttfbMs: 4_000 })
    status.attemptDone({ ...SERVED, outcome: 'failed', ttfbMs: undefined })
    const row = view().backends[0]
    t.ok(Math.abs((row?.ttfb_p50_ms ?? 0) - 100) < 20, `${row?.ttfb_p50_ms}`)
    t.ok(Math.abs((row?.ttfb_p95_ms ?? 0) - 4_000) < 760, `${row?.ttfb_p95_ms}`)
    t.end()
  })

  t.test('tokens are a minute’s, the cached ones a share of the prompt’s', t => {
    const { status, clock, view } = made()
    clock.advance(6 * STEP_MS)
    status.requestDone(REQUEST)
    status.requestDone({ ...REQUEST, prompt_tokens: null, completion_tokens: null, cached_tokens: null })
    t.match(view().backends[0], { tokens_per_min: 120, cached_share: 0.6 })
    status.requestDone({ ...REQUEST, completion_tokens: null, cached_tokens: null })
    t.match(
      view().backends[0],
      { tokens_per_min: 220, cached_share: 0.6 },
      'one that says nothing of a cache is no miss',
    )
    t.end()
  })

  t.test('where nothing happened there are no shares, rather than zeros', t => {
    t.match(made().view().totals, {
      requests_per_s: 0,
      error_share: null,
      throttled_share: null,
      ttfb_p50_ms: null,
      ttfb_p95_ms: null,
      cached_share: null,
    })
    t.end()
  })

  t.test('requests in flight of a deployment that two models share are counted once in the total', t => {
    const { view } = made(createFakeClock(0), [
      { ...BACKEND_STATE, in_flight: 3 },
      { ...BACKEND_STATE, model: 'other', in_flight: 3 },
      { ...BACKEND_STATE, backend: 'b2', deployment: 1, in_flight: 2 },
    ])
    t.equal(view().totals.in_flight, 5)
    t.end()
  })
  t.end()
})

t.test('history', t => {
  t.test('a quarter of an hour in steps, the newest last; older ones are gone', t => {
    const { status, clock, view } = made()
    status.attemptDone({ ...SERVED, outcome: 'failed', ttfbMs: undefined })
    t.equal(view().backends[0]?.history.requests.at(-1), 1)
    t.equal(view().backends[0]?.history.errors.at(-1), 1)
    clock.advance((STEPS - 1) * STEP_MS)
    status.attemptDone(SERVED)
    const { requests, errors, ttfb_p50_ms } = view().backends[0]?.history ?? {
      requests: [],
      errors: [],
      ttfb_p50_ms: [],
    }
    t.equal(requests.length, STEPS)
    t.same([requests[0], requests[1], requests.at(-1)], [1, 0, 1])
    t.same([errors[0], errors.at(-1)], [1, 0])
    t.same([ttfb_p50_ms[0], ttfb_p50_ms.at(-1) !== null], [null, true])
    clock.advance(STEP_MS)
    t.equal(view().backends[0]?.history.requests[0], 0, 'the oldest has left')
    clock.advance(STEPS * STEP_MS)
    t.equal(
      view().totals.history.requests.reduce((a, b) => a + b, 0),
      0,
    )
    t.end()
  })

  t.test('a snapshot does not change after it was given', t => {
    const { status } = made()
    status.attemptDone(SERVED)
    const snapshot = status.snapshot()
    const before = JSON.stringify(snapshot)
    status.attemptDone(SERVED)
    status.requestDone(REQUEST)
    t.equal(JSON.stringify(snapshot), before)
    t.end()
  })

  t.test('a tick gives the newest steps alone', t => {
    const { status } = made()
    status.attemptDone(SERVED)
    t.same(viewOf(status.snapshot(), 3).backends[0]?.history.requests, [0, 0, 1])
    t.end()
  })
  t.end()
})

t.test('the last requests and changes are kept, the newest first, never more than the limit', t => {
  const { status } = made()
  for (let i = 1; i <= MAX_REQUESTS + 7; i++) status.requestDone({ ...REQUEST, id: `r${i}` })
  const change = { time_ms: 1, model: 'm', backend: 'b', reason: null, detail: null, until_ms: null, by: null }
  for (let i = 1; i <= MAX_CHANGES + 3; i++) status.stateChanged({ ...change, kind: 'restored', time_ms: i })
  const { requests, changes, finished } = status.snapshot()
  t.equal(requests.length, MAX_REQUESTS)
  t.same([requests[0]?.id, requests.at(-1)?.id], [`r${MAX_REQUESTS + 7}`, 'r8'])
  t.same([changes.length, changes[0]?.time_ms, changes.at(-1)?.time_ms], [MAX_CHANGES, MAX_CHANGES + 3, 4])
  t.same(finished, { one: MAX_REQUESTS + 7 })
  t.end()
})

t.test('names that no config has take no more room than the limit, and none from those that it has', t => {
  const { status, view } = made()
  status.attemptDone(SERVED)
  for (let i = 0; i < 2 * MAX_BACKENDS + 10; i++) status.attemptDone({ ...SERVED, backend: `hostile${i}` })
  status.attemptDone(SERVED)
  const { backends } = view()
  t.equal(backends.length, 1)
  t.equal(backends[0]?.history.requests.at(-1), 2)
  t.end()
})

t.test('several processes', t => {
  const headroom = { remaining_requests: 5, limit_requests: 10, remaining_tokens: null, limit_tokens: null, at_ms: 100 }

  t.test('counts, percentiles and requests in flight are added up', t => {
    const clock = createFakeClock(0)
    const one = made(clock, [{ ...BACKEND_STATE, in_flight: 2, headroom }], 'one')
    const two = made(
      clock,
      [{ ...BACKEND_STATE, in_flight: 3, headroom: { ...headroom, remaining_requests: 4, at_ms: 200 } }],
      'two',
    )
    for (let i = 0; i < 60; i++) one.status.attemptDone(SERVED)
    for (let i = 0; i < 40; i++) two.status.attemptDone({ ...SERVED, ttfbMs: 2_000 })
    one.status.requestDone({ ...REQUEST, id: 'a', time_ms: 1 })
    two.status.requestDone({ ...REQUEST, id: 'b', time_ms: 2 })
    one.status.requestDone({ ...REQUEST, id: 'c', time_ms: 3 })
    const merged = mergeSnapshots([one.status.snapshot(), two.status.snapshot()])
    t.same(
      merged.requests.map(({ id }) => id),
      ['c', 'b', 'a'],
    )
    t.same(merged.finished, { one: 2, two: 1 })
    const row = viewOf(merged).backends[0]
    t.match(row, { in_flight: 5, requests_per_s: 10, cached_share: 0.6, headroom: { remaining_requests: 4 } })
    t.ok((row?.ttfb_p50_ms ?? 0) < 200 && (row?.ttfb_p95_ms ?? 0) > 1_500)
    t.end()
  })

  t.test('one that is a step late is added where it belongs', t => {
    const clock = createFakeClock(0)
    const one = made(clock, [BACKEND_STATE], 'one')
    const two = made(clock, [BACKEND_STATE], 'two')
    one.status.attemptDone(SERVED)
    two.status.attemptDone(SERVED)
    const late = one.status.snapshot()
    clock.advance(STEP_MS)
    two.status.attemptDone(SERVED)
    const requests = viewOf(mergeSnapshots([late, two.status.snapshot()])).backends[0]?.history.requests
    t.same(requests?.slice(-2), [2, 1])
    t.end()
  })

  t.test('of two words on one backend the graver counts, of equals the longer', t => {
    const clock = createFakeClock(0)
    const stateOf = (...healthRegistry: readonly Partial<BackendState>[]): unknown => {
      const [first, ...rest] = healthRegistry.map((health, i) =>
        made(clock, [{ ...BACKEND_STATE, ...health }], `p${i}`).status.snapshot(),
      )
      if (first === undefined) return undefined
      const row = mergeSnapshots([first, ...rest]).backends[0]
      return [row?.state, row?.until_ms]
    }
    t.same(stateOf({}, { state: 'throttled', until_ms: 7 }), ['throttled', 7])
    t.same(stateOf({ state: 'ejected', until_ms: 9 }, { state: 'throttled', until_ms: 70 }), ['ejected', 9])
    t.same(stateOf({ state: 'ejected', until_ms: 9 }, { state: 'ejected', until_ms: null }), ['ejected', null])
    t.same(stateOf({ state: 'throttled', until_ms: 9 }, { state: 'trial' }, {}), ['trial', null])
    t.end()
  })

  t.test('a change that several see in the same moment is one', t => {
    const change = { model: 'm', backend: 'b', detail: null, until_ms: null, by: null } as const
    const out = { ...change, kind: 'ejected', reason: 'server_error' } as const
    const back = { ...change, kind: 'restored', reason: null } as const
    const snapshots = ['one', 'two', 'three'].map((source, i) => {
      const { status } = made(createFakeClock(0), [BACKEND_STATE], source)
      status.stateChanged({ ...out, time_ms: 100 + i })
      status.stateChanged({ ...back, time_ms: 200 + i })
      if (source === 'two') status.stateChanged({ ...out, time_ms: 5_000 })
      return status.snapshot()
    })
    const [first, ...rest] = snapshots
    if (first === undefined) throw new Error('unreachable')
    t.same(
      mergeSnapshots([first, ...rest]).changes.map(({ kind, time_ms }) => [kind, time_ms]),
      [
        ['ejected', 5_000],
        ['restored', 200],
        ['ejected', 100],
      ],
    )
    t.end()
  })

  t.test('no more than the limits come out', t => {
    const clock = createFakeClock(0)
    const snapshots = ['a', 'b', 'c'].map(source => {
      const { status } = made(clock, [BACKEND_STATE], source)
      for (let i = 0; i < MAX_REQUESTS; i++) status.requestDone({ ...REQUEST, time_ms: i })
      return status.snapshot()
    })
    const [first, ...rest] = snapshots
    if (first === undefined) throw new Error('unreachable')
    const { requests } = mergeSnapshots([first, ...rest])
    t.equal(requests.length, MAX_REQUESTS)
    t.equal(requests.at(-1)?.time_ms, MAX_REQUESTS - Math.ceil(MAX_REQUESTS / 3))
    t.end()
  })
  t.end()
})
