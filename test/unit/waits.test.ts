// Waits that a 429 asks for: every form of every header, their order, and what is no wait at all.
import t from 'tap'
import {
  DEFAULT_THROTTLE_MS,
  exhaustedForMs,
  type HeaderValues,
  MAX_WAIT_MS,
  namedWaitMs,
  rateLimitSignals,
  throttleWaitMs,
} from '../../lib/azure/waits.ts'

/** Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples. */
const NOW = 784_111_777_000
const DAY_MS = 86_400_000

const wait = (headers: HeaderValues): number => throttleWaitMs(headers, NOW)

t.test('a 429 that names no wait asks for ten seconds', t => {
  t.equal(DEFAULT_THROTTLE_MS, 10_000)
  t.equal(wait({}), 10_000)
  t.equal(wait({ 'retry-after': '' }), 10_000)
  t.equal(wait({ 'retry-after': '   ' }), 10_000)
  t.equal(wait({ date: 'Sun, 06 Nov 1994 08:49:37 GMT' }), 10_000)
  t.end()
})

t.test('the headers count in the order retry-after-ms, Retry-After, resets of requests, resets of tokens', t => {
  const all = {
    'retry-after-ms': '1',
    'retry-after': '2',
    'x-ratelimit-reset-requests': '3',
    'x-ratelimit-reset-tokens': '4',
  }
  const names = ['retry-after-ms', 'retry-after', 'x-ratelimit-reset-requests', 'x-ratelimit-reset-tokens'] as const
  const waits = [1, 2_000, 3, 4]
  for (const [from, expected] of waits.entries()) {
    const left = Object.fromEntries(names.slice(from).map(name => [name, all[name]]))
    t.equal(wait(left), expected, `${names[from]} comes first of ${Object.keys(left).length}`)
    // One that cannot be read is as if it were not there: the next one counts.
    const broken = { ...left, [names[from] ?? '']: 'soon' }
    t.equal(wait(broken), waits[from + 1] ?? 10_000, `an unreadable ${names[from]} gives way to the next`)
  }
  t.end()
})

t.test('retry-after-ms is in milliseconds, with a fraction if need be', t => {
  t.equal(wait({ 'retry-after-ms': '1500' }), 1_500)
  t.equal(wait({ 'retry-after-ms': '0.5' }), 0.5)
  t.equal(wait({ 'retry-after-ms': ' 20 ' }), 20)
  t.equal(wait({ 'retry-after-ms': '0' }), 0)
  t.end()
})

t.test('Retry-After is in seconds, with a fraction if need be', t => {
  t.equal(wait({ 'retry-after': '7' }), 7_000)
  t.equal(wait({ 'retry-after': '0' }), 0)
  t.equal(wait({ 'retry-after': '0.25' }), 250)
  t.equal(wait({ 'retry-after': '007' }), 7_000)
  t.end()
})

t.test('Retry-After may be a date in each of the three forms of HTTP, wherever this machine stands', t => {
  const zone = process.env.TZ
  t.teardown(() => {
    if (zone === undefined) delete process.env.TZ
    else process.env.TZ = zone
  })
  for (const here of ['UTC', 'America/New_York', 'Asia/Tokyo']) {
    process.env.TZ = here
    t.equal(wait({ 'retry-after': 'Sun, 06 Nov 1994 08:50:07 GMT' }), 30_000, `the fixed form in ${here}`)
    t.equal(wait({ 'retry-after': 'Sunday, 06-Nov-94 08:50:07 GMT' }), 30_000, `RFC 850 in ${here}`)
    t.equal(wait({ 'retry-after': 'Sun Nov  6 08:50:07 1994' }), 30_000, `asctime in ${here}`)
  }
  t.end()
})

t.test('a date that has passed asks for no wait', t => {
  t.equal(wait({ 'retry-after': 'Sun, 06 Nov 1994 08:49:37 GMT' }), 0)
  t.equal(wait({ 'retry-after': 'Sat, 05 Nov 1994 08:49:37 GMT' }), 0)
  t.end()
})

t.test('no answer is believed further than a day ahead', t => {
  t.equal(MAX_WAIT_MS, DAY_MS)
  t.equal(wait({ 'retry-after': '86400' }), DAY_MS)
  t.equal(wait({ 'retry-after': '86401' }), DAY_MS)
  t.equal(wait({ 'retry-after': '999999999999' }), DAY_MS)
  t.equal(wait({ 'retry-after-ms': '999999999999' }), DAY_MS)
  t.equal(wait({ 'retry-after': 'Fri, 31 Dec 1999 23:59:59 GMT' }), DAY_MS)
  t.equal(wait({ 'x-ratelimit-reset-tokens': '99999h' }), DAY_MS)
  t.end()
})

const GARBAGE = [
  'soon',
  '-1',
  '-0',
  '+5',
  '1e3',
  '0x10',
  'NaN',
  'Infinity',
  '1,5',
  '5, 10',
  '5s',
  'about 5',
  '10 seconds',
  '1.',
  '.5',
  '1234567890123',
  '٣',
  '1994-11-06T08:50:07Z',
  'Sun, 99 Xyz 1994 08:50:07 GMT',
  '\u0000',
  '🕐',
  'x'.repeat(10_000),
]

t.test('what is no number and no date is no wait', t => {
  for (const text of GARBAGE) {
    t.equal(namedWaitMs({ 'retry-after': text }, NOW), undefined, `Retry-After: ${JSON.stringify(text.slice(0, 40))}`)
  }
  for (const text of GARBAGE) {
    t.equal(
      namedWaitMs({ 'retry-after-ms': text }, NOW),
      undefined,
      `retry-after-ms: ${JSON.stringify(text.slice(0, 40))}`,
    )
  }
  for (const text of GARBAGE.filter(text => text !== '5s')) {
    t.equal(
      wait({ 'x-ratelimit-reset-requests': text }),
      10_000,
      `x-ratelimit-reset-requests: ${JSON.stringify(text.slice(0, 40))}`,
    )
  }
  t.equal(namedWaitMs({ 'retry-after': '2027' }, NOW), 2_027_000, 'a bare year is a number of seconds')
  t.end()
})

t.test('a header that came twice counts by its first value', t => {
  t.equal(wait({ 'retry-after-ms': ['5', '9'] }), 5)
  t.equal(wait({ 'retry-after-ms': [] }), 10_000)
  t.end()
})

t.test("the resets are Azure's bare milliseconds or OpenAI's durations", t => {
  const forms: readonly (readonly [string, number])[] = [
    ['1500', 1_500],
    ['0', 0],
    ['17ms', 17],
    ['0.5ms', 0.5],
    ['1s', 1_000],
    ['1.5s', 1_500],
    ['6m0s', 360_000],
    ['6m', 360_000],
    ['1m30.25s', 90_250],
    ['1h', 3_600_000],
    ['1h2m3s4ms', 3_723_004],
    ['2s500ms', 2_500],
  ]
  for (const [text, expected] of forms) {
    t.equal(wait({ 'x-ratelimit-reset-requests': text }), expected, `requests: ${text}`)
    t.equal(wait({ 'x-ratelimit-reset-tokens': text }), expected, `tokens: ${text}`)
    t.equal(namedWaitMs({ 'x-ratelimit-reset-requests': text }, NOW), undefined, 'a reset is not a named wait')
  }
  for (const text of ['6s0m', '1m1m', 'm', 's', 'h', '1 s', '-1s', '1d']) {
    t.equal(wait({ 'x-ratelimit-reset-tokens': text }), 10_000, `no duration: ${text}`)
  }
  t.end()
})

t.test('of two resets the one counts whose remainder is used up; in doubt that of the requests', t => {
  const resets = { 'x-ratelimit-reset-requests': '1s', 'x-ratelimit-reset-tokens': '6s' }
  const left = (requests: string, tokens: string): HeaderValues => ({
    ...resets,
    'x-ratelimit-remaining-requests': requests,
    'x-ratelimit-remaining-tokens': tokens,
  })
  t.equal(wait(resets), 1_000)
  t.equal(wait(left('5', '0')), 6_000)
  t.equal(wait(left('5', '-20')), 6_000)
  t.equal(wait(left('0', '500')), 1_000)
  t.equal(wait(left('0', '0')), 1_000)
  t.equal(wait(left('5', '500')), 1_000)
  t.end()
})

t.test("the rate-limit headers are read as Azure's own account; a remainder may be negative", t => {
  t.same(
    rateLimitSignals({
      'x-ratelimit-remaining-requests': '99',
      'x-ratelimit-remaining-tokens': '-3',
      'x-ratelimit-limit-requests': '100',
      'x-ratelimit-limit-tokens': '10000',
      'x-ratelimit-reset-requests': '600',
      'x-ratelimit-reset-tokens': '6m0s',
    }),
    {
      remainingRequests: 99,
      remainingTokens: -3,
      limitRequests: 100,
      limitTokens: 10_000,
      resetRequestsMs: 600,
      resetTokensMs: 360_000,
    },
  )
  const nothing = rateLimitSignals({ 'x-ratelimit-remaining-requests': '1.5', 'x-ratelimit-limit-tokens': 'many' })
  t.same(
    Object.values(nothing),
    Array.from({ length: 6 }, () => undefined),
  )
  t.end()
})

const NOTHING_SAID = rateLimitSignals({})

t.test('a deployment with something left is not exhausted, nor is one that says nothing', t => {
  t.equal(exhaustedForMs(NOTHING_SAID), 0)
  t.equal(exhaustedForMs({ ...NOTHING_SAID, remainingRequests: 1, resetRequestsMs: 60_000 }), 0)
  t.equal(exhaustedForMs({ ...NOTHING_SAID, remainingRequests: 1, remainingTokens: 1 }), 0)
  t.end()
})

t.test('an exhausted one is so until the first unit has grown back, never longer than a minute', t => {
  const spent = { ...NOTHING_SAID, remainingRequests: 0, limitRequests: 100, resetRequestsMs: 60_000 }
  t.equal(exhaustedForMs(spent), 600, 'one hundredth of the minute in which all hundred come back')
  t.equal(exhaustedForMs({ ...spent, remainingRequests: -25, limitRequests: 75 }), 26 * 600, 'a debt is paid first')
  t.equal(exhaustedForMs({ ...spent, resetRequestsMs: undefined }), 600, 'without a reset a minute is assumed')
  t.equal(exhaustedForMs({ ...spent, limitRequests: undefined, resetRequestsMs: 5_000 }), 5_000)
  t.equal(exhaustedForMs({ ...spent, limitRequests: undefined, resetRequestsMs: 500_000 }), 60_000)
  t.equal(exhaustedForMs({ ...spent, limitRequests: 1, resetRequestsMs: 3_600_000 }), 60_000)
  t.equal(
    exhaustedForMs({ ...spent, remainingTokens: 0, limitTokens: 2, resetTokensMs: 40_000 }),
    20_000,
    'of the two the one that is back later decides',
  )
  t.end()
})
