// Figures counted under their labels: found again, bounded, and read as a plain state that can be merged.
import t from 'tap'
import { createMetrics, mergeMetrics, renderMetrics } from '../../lib/metrics.ts'

const MAX_SERIES = 10_000

t.test('the same labels are the same series; another order or another family is another one', t => {
  const metrics = createMetrics()
  metrics.counters('proxy_attempts_total').of('east', 'served').add(2)
  metrics.counters('proxy_attempts_total').of('east', 'served').add(1)
  metrics.counters('proxy_attempts_total').of('served', 'east').add(5)
  metrics.counters('proxy_failovers_total').of('east').add(7)
  t.match(metrics.read(), {
    proxy_attempts_total: { 'east\u0000served': 3, 'served\u0000east': 5 },
    proxy_failovers_total: { east: 7 },
  })
  t.end()
})

t.test('a family without labels has one series', t => {
  const metrics = createMetrics()
  const reloads = metrics.counters('proxy_config_reloads_total')
  t.same(metrics.read().proxy_config_reloads_total, {}, 'none before it is counted')
  reloads.of().add(1)
  reloads.of().add(1)
  t.same(metrics.read().proxy_config_reloads_total, { '': 2 })
  t.end()
})

t.test('one reload counts once, however many workers follow it; requests of all are added', t => {
  const states = [3, 3, 1].map(count => {
    const metrics = createMetrics()
    metrics.counters('proxy_config_reloads_total').of().add(count)
    metrics.counters('proxy_failovers_total').of('m').add(count)
    return metrics.read()
  })
  const merged = mergeMetrics(states)
  t.same(merged.proxy_config_reloads_total, { '': 3 }, 'a worker that began later has seen fewer')
  t.same(merged.proxy_failovers_total, { m: 7 })
  t.end()
})

t.test('a duration counts in the first bucket whose bound it does not exceed', t => {
  const metrics = createMetrics()
  const durations = metrics.histograms('proxy_request_duration_seconds').of('m')
  for (const seconds of [0.1, 0.11, 600, 601]) durations.observe(seconds)
  const text = renderMetrics(metrics.read())
  for (const line of [
    'proxy_request_duration_seconds_bucket{model="m",le="0.1"} 1',
    'proxy_request_duration_seconds_bucket{model="m",le="0.25"} 2',
    'proxy_request_duration_seconds_bucket{model="m",le="600"} 3',
    'proxy_request_duration_seconds_bucket{model="m",le="+Inf"} 4',
    'proxy_request_duration_seconds_sum{model="m"} 1201.21',
    'proxy_request_duration_seconds_count{model="m"} 4',
  ]) {
    t.ok(text.split('\n').includes(line), line)
  }
  t.end()
})

t.test('gauges are looked up anew at each reading, counters stay', t => {
  const metrics = createMetrics()
  let backend = 'old'
  metrics.counters('proxy_spilled_total').of('m').add(1)
  metrics.onRead(() => metrics.set('proxy_backend_up', ['m', backend], 1))
  t.match(metrics.read(), { proxy_backend_up: { 'm\u0000old': 1 } })
  backend = 'new'
  t.same(metrics.read().proxy_backend_up, { 'm\u0000new': 1 })
  t.same(metrics.read().proxy_spilled_total, { m: 1 })
  t.end()
})

t.test('a reading does not change after it was given', t => {
  const metrics = createMetrics()
  const duration = metrics.histograms('proxy_request_duration_seconds').of('m')
  duration.observe(1)
  const state = metrics.read()
  const before = JSON.stringify(state)
  duration.observe(1)
  t.equal(JSON.stringify(state), before)
  t.end()
})

t.test('beyond the limit of a family the rest is counted as other, what was there goes on', t => {
  const metrics = createMetrics()
  const attempts = metrics.counters('proxy_attempts_total')
  for (let i = 0; i < MAX_SERIES + 10; i++) attempts.of(`b${i}`, 'served').add(1)
  attempts.of('b0', 'served').add(1)
  const series = metrics.read().proxy_attempts_total ?? {}
  t.equal(Object.keys(series).length, MAX_SERIES + 1)
  t.equal(series['other\u0000other'], 10)
  t.equal(series['b0\u0000served'], 2)
  t.end()
})

t.test('the states of several processes are added up, bucket by bucket', t => {
  const states = [1, 2].map(amount => {
    const metrics = createMetrics()
    metrics.counters('proxy_spilled_total').of('m').add(amount)
    metrics.histograms('proxy_request_duration_seconds').of('m').observe(amount)
    return metrics.read()
  })
  const text = renderMetrics(mergeMetrics(states))
  t.ok(text.includes('proxy_spilled_total{model="m"} 3\n'))
  t.ok(text.includes('proxy_request_duration_seconds_sum{model="m"} 3\n'))
  t.ok(text.includes('proxy_request_duration_seconds_bucket{model="m",le="1"} 1\n'))
  t.end()
})

t.test('sums are the same in whatever order the processes are added: no counter falls by a bit', t => {
  const states = [0.1, 0.2, 0.3, 1.001, 2.505].map(seconds => {
    const metrics = createMetrics()
    metrics.histograms('proxy_request_duration_seconds').of('m').observe(seconds)
    metrics
      .counters('proxy_cost_total')
      .of('m', 'k')
      .add(seconds / 1000)
    return metrics.read()
  })
  const forth = renderMetrics(mergeMetrics(states))
  t.equal(renderMetrics(mergeMetrics([...states].reverse())), forth)
  t.match(forth, 'proxy_request_duration_seconds_sum{model="m"} 4.106\n')
  t.match(forth, 'proxy_cost_total{model="m",key="k"} 0.004106\n')
  t.end()
})
