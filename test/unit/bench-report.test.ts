// The report of the benchmark: medians, ratios, verdicts, and what changed between two runs. And which cores it uses.
import t from 'tap'
import { comparison } from '../bench/comparison.ts'
import { divide } from '../bench/cores.ts'
import { type Goal, goalOf, inWords, type Judged, verdict } from '../bench/goals.ts'
import type { Figures } from '../bench/measure.ts'
import { type Sample, summarize, table } from '../bench/report.ts'
import type { TargetName } from '../bench/targets.ts'
import { smallerShare, speedUp } from '../bench/two-workers.ts'

const sample = (scenario: string, round: number, target: TargetName, figures: Figures): Sample => ({
  scenario,
  round,
  target,
  figures,
})

/** Cells of the table's line about this figure. */
function lineOf(text: string, measure: string): readonly string[] {
  const line = text.split('\n').find(each => each.includes(`| ${measure} `)) ?? ''
  return line
    .split('|')
    .slice(1, -1)
    .map(cell => cell.trim())
}

t.test('a ratio is the median of the rounds, each against its own yardstick: drift of the machine falls out', t => {
  const cpu = (round: number, target: TargetName, us: number): Sample =>
    sample('C', round, target, { cpu_us_per_request: us })
  const rows = summarize([
    ...[cpu(1, 'nginx', 10), cpu(1, 'haproxy', 20), cpu(1, 'proxy', 20)],
    ...[cpu(2, 'nginx', 100), cpu(2, 'haproxy', 100), cpu(2, 'proxy', 200)],
    ...[cpu(3, 'nginx', 20), cpu(3, 'haproxy', 80), cpu(3, 'proxy', 80)],
  ])
  t.strictSame(rows, [
    {
      scenario: 'C',
      metric: 'cpu_us_per_request',
      medians: { nginx: 20, haproxy: 80, proxy: 80 },
      ratios: { nginx: 2, haproxy: 1 },
    },
  ])
  t.end()
})

t.test('a latency is also told as what it adds to going direct in the same round', t => {
  const rows = summarize([
    sample('A', 1, 'direct', { p50_us: 50 }),
    sample('A', 1, 'nginx', { p50_us: 110 }),
    sample('A', 1, 'proxy', { p50_us: 230 }),
  ])
  const added = rows.find(({ metric }) => metric === 'added_p50_us')
  t.strictSame(added?.medians, { nginx: 60, proxy: 180 })
  t.strictSame(added?.ratios, { nginx: 3 })
  t.end()
})

t.test('what was not measured is left out, and no figure is made of it', t => {
  const rows = summarize([
    sample('A', 1, 'direct', { cpu_us_per_request: Number.NaN }),
    sample('A', 1, 'nginx', { cpu_us_per_request: 0 }),
    sample('A', 1, 'proxy', { cpu_us_per_request: 100 }),
  ])
  t.strictSame(rows[0]?.medians, { nginx: 0, proxy: 100 })
  t.strictSame(rows[0]?.ratios, {})
  t.equal(lineOf(table(rows), 'cpu us per request').at(-1), '', 'without its yardstick a goal is not judged')
  t.end()
})

const own = (proxy: number): Judged => ({ medians: { proxy }, ratios: {} })
const against = (ratios: Judged['ratios']): Judged => ({ medians: { proxy: 1 }, ratios })

t.test('a goal is a bound from above or from below, and reaching it exactly is reaching it', t => {
  const most: Goal = { limit: 'at most', aims: [{ goal: 60, stretch: 40 }] }
  const least: Goal = { limit: 'at least', aims: [{ goal: 1.7, stretch: 1.9 }] }
  for (const [goal, value, expected] of [
    [most, 61, 'missed'],
    [most, 60, 'reached'],
    [most, 41, 'reached'],
    [most, 40, 'stretch reached'],
    [most, 0, 'stretch reached'],
    [least, 1.69, 'missed'],
    [least, 1.7, 'reached'],
    [least, 1.89, 'reached'],
    [least, 1.9, 'stretch reached'],
    [least, 3, 'stretch reached'],
  ] as const) {
    t.equal(verdict(goal, own(value)), expected, `${inWords(goal, 'goal')}: ${value}`)
  }
  t.equal(inWords(least, 'stretch'), '≥ 1.9')
  t.end()
})

t.test('large bodies reach their goal against either yardstick; a missing one leaves the question open', t => {
  const goal = goalOf('C', 'cpu_us_per_request')
  if (goal === undefined) throw new Error('C has no goal')
  t.equal(inWords(goal, 'goal'), '≤ 2 × nginx or ≤ 1 × haproxy')
  t.equal(inWords(goal, 'stretch'), '≤ 1.5 × nginx')
  for (const [ratios, expected] of [
    [{ nginx: 2.1, haproxy: 1.1 }, 'missed'],
    [{ nginx: 2.1, haproxy: 1 }, 'reached'],
    [{ nginx: 2, haproxy: 9 }, 'reached'],
    [{ nginx: 1.5, haproxy: 9 }, 'stretch reached'],
    [{ nginx: 2.1 }, 'open'],
    [{ nginx: 2 }, 'reached'],
    [{ haproxy: 1.1 }, 'open'],
    [{ haproxy: 0.9 }, 'reached'],
    [{}, undefined],
  ] as const) {
    t.equal(verdict(goal, against(ratios)), expected, JSON.stringify(ratios))
  }
  t.end()
})

t.test('the table has both ratios, the goal in words and the verdict', t => {
  const text = table(
    summarize([
      sample('C', 1, 'nginx', { cpu_us_per_request: 3_000 }),
      sample('C', 1, 'haproxy', { cpu_us_per_request: 7_000 }),
      sample('C', 1, 'proxy', { cpu_us_per_request: 6_300 }),
      sample('G', 1, 'bare', { first_answer_ms: 50 }),
      sample('G', 1, 'proxy', { first_answer_ms: 60 }),
      sample('W', 1, 'proxy', { projected_speed_up: 1.8 }),
    ]),
  )
  t.strictSame(lineOf(text, 'cpu us per request').slice(11), [
    ...['2.10 ×', '0.90 ×', '', '', '', '≤ 2 × nginx or ≤ 1 × haproxy', '≤ 1.5 × nginx', 'reached'],
  ])
  t.strictSame(lineOf(text, 'first answer ms').slice(11), [
    '1.20 × bare',
    '',
    '',
    '',
    '',
    '≤ 1.3 × bare',
    '≤ 1 × bare',
    'reached',
  ])
  t.strictSame(lineOf(text, 'projected speed up').slice(11), ['', '', '', '', '', '≥ 1.7', '≥ 1.9', 'reached'])
  t.end()
})

t.test(
  'a comparison says whether a change is for the better, whichever way that is, and what became of the goal',
  t => {
    const run = (nginxUs: number, proxyUs: number, streamKb: number, speedUp: number): readonly Sample[] => [
      sample('A', 1, 'nginx', { cpu_us_per_request: nginxUs }),
      sample('A', 1, 'proxy', { cpu_us_per_request: proxyUs, requests_per_s: 1e6 / proxyUs }),
      sample('F', 1, 'proxy', { memory_kb_per_stream: streamKb }),
      sample('W', 1, 'proxy', { projected_speed_up: speedUp }),
    ]
    const text = comparison(run(10, 50, 50, 1.6), run(20, 80, 51, 1.8))

    // The machine has become slower, the proxy less so than nginx.
    t.strictSame(lineOf(text, 'cpu us per request').slice(2), [
      ...['50.0', '80.0', '+60.0 %', '5.00', '4.00', '-20.0 %', 'better', 'missed → reached'],
    ])
    t.strictSame(lineOf(text, 'projected speed up').slice(2), [
      ...['1.60', '1.80', '+12.5 %', '–', '–', '', 'better', 'missed → reached'],
    ])
    t.strictSame(lineOf(text, 'memory kb per stream').slice(-2), ['same', 'reached'], 'within what runs differ by')
    t.strictSame(lineOf(text, 'requests per s').slice(-2), ['', ''], 'no goal, no judgement')

    const back = comparison(run(20, 80, 51, 1.8), run(10, 50, 62, 1.6))
    t.strictSame(lineOf(back, 'cpu us per request').slice(-2), ['worse', 'reached → missed'])
    t.strictSame(lineOf(back, 'projected speed up').slice(-2), ['worse', 'reached → missed'])
    t.strictSame(lineOf(back, 'memory kb per stream').slice(-2), ['worse', 'reached → missed'])
    t.end()
  },
)

t.test('a figure that the older run lacks is shown without a change', t => {
  const text = comparison([], [sample('W', 1, 'proxy', { projected_speed_up: 1.8 })])
  t.strictSame(lineOf(text, 'projected speed up').slice(2), ['–', '1.80', '', '–', '–', '', '', 'reached'])
  t.end()
})

t.test('the measured processes get their cores alone where as many are left for the rest; otherwise all share', t => {
  t.strictSame(divide([0], 1), { measured: [0], rest: [0], apart: false })
  t.strictSame(divide([4, 6], 1), { measured: [4], rest: [6], apart: true })
  t.strictSame(divide([0, 1, 2, 3], 1), { measured: [0], rest: [1, 2, 3], apart: true })
  t.strictSame(divide([0, 1], 2), { measured: [0, 1], rest: [0, 1], apart: false })
  t.strictSame(divide([0, 1, 2], 2), { measured: [0, 1], rest: [0, 1], apart: false })
  t.strictSame(divide([0, 1, 2, 3], 2), { measured: [0, 1], rest: [2, 3], apart: true })
  t.end()
})

t.test('two workers are measured where they have their cores alone, and otherwise projected from CPU time', t => {
  const one = { cpuUs: 1_000_000, requests: 10_000, elapsedS: 1 }
  const two = { cpuUs: 2_500_000, requests: 20_000, elapsedS: 1.25 }
  t.strictSame(speedUp(one, two, true), { speed_up: 1.6 })
  // 100 µs a request have become 125.
  t.strictSame(speedUp(one, two, false), { projected_speed_up: 1.6 })
  t.strictSame(speedUp(one, { ...two, elapsedS: 1 }, true), { speed_up: 2 }, 'measured: time counts')
  t.strictSame(speedUp(one, { ...two, elapsedS: 1 }, false), { projected_speed_up: 1.6 }, 'projected: it does not')
  t.equal(smallerShare([3, 1]), 0.25)
  t.equal(smallerShare([2, 2]), 0.5)
  t.strictSame(smallerShare([1]), Number.NaN, 'one worker has no other')
  t.end()
})
