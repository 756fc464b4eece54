// The meaning of every outcome of an attempt for the client and for the backend, against the
// simulator.
import t from 'tap'
import {
  cutAfter,
  cutBytes,
  endWithoutTerminal,
  errorEvent,
  type Fault,
  fail,
  garbage,
  hangUp,
  headersThenSilence,
  merge,
  refuseWith,
  resetAfterHeaders,
  silence,
  staleSocket,
  throttle,
  throttleBy,
  trickle,
  wrongLength,
} from '../../lib/simulator/faults.ts'
import { NO_PROBES, type TwoBackends, twoBackends } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { jsonAnswer, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const QUICK = `retry: {timeout: 400ms, connect_timeout: 400ms, first_output_timeout: 400ms, stream_hold: 150ms, idle_timeout: 400ms}
health_check: {enabled: false, recovery: 60s}`

function ejected({ running }: TwoBackends): unknown {
  return running.lines.find(({ msg }) => String(msg).startsWith('backend ejected'))?.reason
}

function throttledFor({ running }: TwoBackends): unknown {
  return running.lines.find(({ msg }) => msg === 'backend throttled')?.for_ms
}

interface Row {
  readonly what: string
  readonly fault: Fault
  readonly reason?: string
  readonly throttledMs?: number
}

const FAILOVERS: readonly Row[] = [
  { what: 'a reset before the headers', fault: hangUp(), reason: 'connection_lost' },
  { what: 'silence', fault: silence(), reason: 'header_timeout' },
  { what: 'bytes that are no HTTP', fault: garbage(), reason: 'protocol_error' },
  { what: 'a 500', fault: fail(500), reason: 'server_error' },
  { what: 'a 502 with HTML', fault: fail(502, 'html'), reason: 'server_error' },
  { what: 'a 503 with an empty body', fault: fail(503, 'empty'), reason: 'server_error' },
  { what: 'a 504 of the gateway', fault: fail(504, 'gateway'), reason: 'server_error' },
  { what: 'a 408', fault: refuseWith('timeout') },
  { what: 'a 401', fault: refuseWith('wrong_key'), reason: 'credentials_refused' },
  { what: 'a 403 of a network rule', fault: refuseWith('network_rule'), reason: 'network_refused' },
  { what: 'a 404 DeploymentNotFound', fault: refuseWith('deployment_not_found'), reason: 'deployment_missing' },
  { what: 'a 404 Resource not found', fault: refuseWith('resource_not_found') },
  { what: 'a 400 about the api-version', fault: refuseWith('version') },
  { what: 'a 429 with Retry-After', fault: throttle(7), throttledMs: 7_000 },
  {
    what: 'a 429 with both headers, of which the exact one counts',
    fault: throttleBy({ kind: 'both', ms: 1_234 }),
    throttledMs: 1_234,
  },
  { what: 'a 429 with milliseconds alone', fault: throttleBy({ kind: 'ms', ms: 345 }), throttledMs: 345 },
  { what: 'a 429 that names no wait', fault: throttleBy({ kind: 'none' }), throttledMs: 10_000 },
  { what: 'a 429 for a day', fault: throttle(86_400), throttledMs: 86_400_000 },
  {
    what: 'a 429 with x-ratelimit-reset-requests',
    fault: throttleBy({ kind: 'reset_requests', ms: 1_500 }),
    throttledMs: 1_500,
  },
  { what: 'a reset behind the headers', fault: resetAfterHeaders(), reason: 'connection_lost' },
  { what: 'headers and then silence', fault: headersThenSilence(), reason: 'idle_timeout' },
  { what: 'a short answer cut in its middle', fault: cutBytes(100), reason: 'connection_lost' },
  { what: 'an answer shorter than it said', fault: wrongLength(10), reason: 'connection_lost' },
]

for (const { what, fault, reason, throttledMs } of FAILOVERS) {
  t.test(`${what} costs the client nothing`, async t => {
    const both = await twoBackends(t, { rest: QUICK })
    both.first.resource.next(fault)
    const answer = await both.running.chat()
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('x-proxy-backend'), 'b2')
    t.equal(answer.headers.get('x-proxy-attempts'), '2')
    t.match(await answer.json(), { object: 'chat.completion' })
    t.equal(ejected(both), reason)
    t.equal(throttledFor(both), throttledMs)
    // Out or throttled: the next request does not ask it. Neither: it is asked again.
    const next = await both.running.chat()
    await next.text()
    const asksFirstAgain =
      reason === undefined && throttledMs === undefined && fault.kind === 'named' && fault.error === 'timeout'
    t.equal(next.headers.get('x-proxy-backend'), asksFirstAgain ? 'b1' : 'b2')
    t.same(both.second.resource.violations, [])
  })
}

t.test('a refused connection costs the client nothing', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  await both.first.resource.close()
  const answer = await both.running.chat()
  t.equal(answer.status, 200)
  t.equal(ejected(both), 'connect_failed')
})

t.test('a kept-alive socket found dead is tried once more on a fresh one, and nobody is blamed', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  await (await both.running.chat()).text()
  both.first.resource.next(staleSocket())
  const answer = await both.running.chat()
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('x-proxy-backend'), 'b1')
  t.equal(answer.headers.get('x-proxy-attempts'), '1')
  t.equal(ejected(both), undefined)
})

for (const { afterMs, isStale } of [
  { afterMs: 1_000, isStale: true },
  { afterMs: 1_001, isStale: false },
]) {
  const meaning = isStale ? 'was closed before: asked again' : 'has lost a request: the next backend'
  t.test(`a used connection that dies ${afterMs} ms after sending ${meaning}`, async t => {
    const clock = createFakeClock()
    const backend = await startRawBackend(t)
    const second = await startResource(t, { name: 'second', clock })
    const text = configFor([{ url: backend.url }, { url: second.url, more: 'priority: 2' }], { rest: NO_PROBES })
    const running = await runProxy(t, text, { clock })
    const sound = jsonAnswer('{"object":"chat.completion","choices":[]}')
    const before = running.chat()
    ;(await backend.next()).send(sound)
    await (await before).text()

    const asked = running.chat()
    const request = await backend.next()
    t.equal(request.connection, 0, 'the connection was used before')
    clock.advance(afterMs)
    request.socket.resetAndDestroy()
    if (isStale) (await backend.next()).send(sound)
    const answer = await asked
    await answer.text()
    t.equal(answer.status, 200)
    t.equal(answer.headers.get('x-proxy-backend'), isStale ? 'b1' : 'b2')
    t.equal(answer.headers.get('x-proxy-attempts'), isStale ? '1' : '2')
    t.equal(backend.requests.length, isStale ? 3 : 2)
    const out = running.lines.find(({ msg }) => String(msg).startsWith('backend ejected'))
    t.equal(out?.reason, isStale ? undefined : 'connection_lost')
  })
}

const MISDIRECTED = fail(421, 'empty')
for (const { what, used, faults, maxAttempts = 4, reused, backend, attempts } of [
  {
    what: 'on a used connection is asked once more on a fresh one',
    used: true,
    faults: [MISDIRECTED],
    reused: [true, false],
    backend: 'b1',
    attempts: '2',
  },
  {
    what: 'on a fresh connection moves on',
    used: false,
    faults: [MISDIRECTED],
    reused: [false],
    backend: 'b2',
    attempts: '2',
  },
  {
    what: 'on a used and then on a fresh connection moves on',
    used: true,
    faults: [MISDIRECTED, MISDIRECTED],
    reused: [true, false],
    backend: 'b2',
    attempts: '3',
  },
  {
    what: 'on a used connection counts: with two attempts in all the next backend is not asked',
    used: true,
    faults: [MISDIRECTED, MISDIRECTED],
    maxAttempts: 2,
    reused: [true, false],
    backend: null,
    attempts: '2',
  },
  {
    what: 'on a used connection is the last one where one attempt is all',
    used: true,
    faults: [MISDIRECTED],
    maxAttempts: 1,
    reused: [true],
    backend: null,
    attempts: '1',
  },
]) {
  t.test(`a 421 ${what}, and nobody is blamed`, async t => {
    const both = await twoBackends(t, { rest: `retry: {max_attempts: ${maxAttempts}}\n${NO_PROBES}` })
    if (used) await (await both.running.chat()).text()
    const { requests } = both.first.resource
    const before = requests.length
    both.first.resource.next(...faults)
    const answer = await both.running.chat()
    await answer.text()
    t.equal(answer.status === 200, backend !== null)
    if (backend !== null) t.equal(answer.headers.get('x-proxy-backend'), backend)
    t.equal(answer.headers.get('x-proxy-attempts'), attempts)
    t.same(
      requests.slice(before).map(request => request.reused),
      reused,
    )
    t.equal(both.second.resource.requests.length, backend === 'b2' ? 1 : 0)
    t.equal(ejected(both), undefined)
  })
}

t.test('attempts used up while another backend is sound: the client gets the last answer, no 429', async t => {
  const both = await twoBackends(t, { rest: `retry: {max_attempts: 1}\n${NO_PROBES}` })
  both.first.resource.next(fail(503, 'model'))
  const answer = await both.running.chat()
  await answer.text()
  t.equal(answer.status, 503)
  t.equal(answer.headers.get('x-proxy-backend'), 'b1')
})

const SERVED: readonly (readonly [string, Fault, number])[] = [
  ['a content filter', refuseWith('content_filter'), 400],
  ['a 409', fail(409, 'model'), 409],
  ['a 413', fail(413, 'model'), 413],
  ['a 415', fail(415, 'model'), 415],
  ['a 422', fail(422, 'model'), 422],
]
for (const [what, fault, status] of SERVED) {
  t.test(`${what} is the client's own and is not retried`, async t => {
    const both = await twoBackends(t, { rest: QUICK })
    both.first.resource.next(fault)
    const answer = await both.running.chat()
    t.equal(answer.status, status)
    t.equal(answer.headers.get('x-proxy-attempts'), '1')
    t.equal(both.second.resource.requests.length, 0)
    t.equal(ejected(both), undefined)
  })
}

interface StreamRow {
  readonly what: string
  readonly fault: Fault
  readonly reason?: string
  readonly throttledMs?: number
}

const EARLY: readonly StreamRow[] = [
  { what: 'a reset before its first event', fault: resetAfterHeaders(), reason: 'connection_lost' },
  { what: 'a cut after its start-up events', fault: cutAfter(2), reason: 'connection_lost' },
  { what: 'a cut in the middle of its first output', fault: cutAfter(2, true), reason: 'connection_lost' },
  { what: 'a clean end after its start-up events', fault: endWithoutTerminal(2), reason: 'connection_lost' },
]

for (const api of ['chat', 'responses'] as const) {
  const ask = (running: RunningProxy): Promise<Response> =>
    api === 'chat'
      ? running.chat({ stream: true })
      : running.post('/v1/responses', { model: 'gpt-4o', stream: true, input: 'Hello' })
  const isWhole = (text: string): boolean =>
    api === 'chat' ? text.endsWith('data: [DONE]\n\n') : /event: response\.completed\ndata: .*\n\n$/.test(text)

  const rows: readonly StreamRow[] = [
    ...EARLY,
    ...(api === 'chat'
      ? [
          { what: 'an error chunk before output', fault: errorEvent('chat', 2), reason: 'stream_error' },
          { what: 'an error chunk and [DONE]', fault: errorEvent('chat', 1, { done: true }), reason: 'stream_error' },
        ]
      : [
          {
            what: 'a throttle event with Retry-After on the 200',
            fault: errorEvent('nested_throttle', 2, { retryAfterS: 3 }),
            throttledMs: 3_000,
          },
          { what: 'a throttle event as the very first', fault: errorEvent('nested_throttle', 0), throttledMs: 10_000 },
          { what: 'a flat error event', fault: errorEvent('flat', 1), reason: 'stream_error' },
          { what: 'response.failed alone', fault: errorEvent('failed_alone', 1), reason: 'stream_error' },
          {
            what: 'a missing deployment after the 200',
            fault: errorEvent('nested_missing_deployment', 0),
            reason: 'deployment_missing',
          },
        ]),
  ]
  for (const { what, fault, reason, throttledMs } of rows) {
    t.test(`${api}: ${what} fails over, and the client sees one whole stream`, async t => {
      const both = await twoBackends(t, { rest: QUICK })
      both.first.resource.next(fault)
      const answer = await ask(both.running)
      const text = await answer.text()
      t.equal(answer.status, 200)
      t.equal(answer.headers.get('x-proxy-backend'), 'b2')
      t.ok(isWhole(text), text.slice(-200))
      t.equal(ejected(both), reason)
      t.equal(throttledFor(both), throttledMs)
    })
  }

  for (const [what, fault] of [
    ['cut after output', cutAfter(8)],
    ['cut in the middle of an event', cutAfter(8, true)],
    ['ended cleanly without its end', endWithoutTerminal(8)],
  ] as const) {
    t.test(`${api}: a stream ${what} ends with an error event and never looks whole`, async t => {
      const both = await twoBackends(t, { rest: QUICK })
      both.first.resource.next(fault)
      const answer = await ask(both.running)
      const text = await answer.text()
      t.equal(answer.status, 200)
      t.notOk(isWhole(text))
      t.notMatch(text, '[DONE]')
      const last = text.trimEnd().split('\n\n').at(-1) ?? ''
      const data: unknown = JSON.parse(last.slice(last.indexOf('data: ') + 6))
      t.match(data, { error: { code: 'upstream_error' } })
      if (api === 'responses') t.match(data, { type: 'error', code: 'upstream_error', sequence_number: 8 })
      t.equal(both.second.resource.requests.length, 0, 'no second chance after output')
    })
  }

  for (const [what, fault] of [
    ['byte by byte', trickle(1)],
    ['in sevens', trickle(7)],
    ['all at once', merge()],
  ] as const) {
    t.test(`${api}: a stream that comes ${what} reaches the client byte for byte`, async t => {
      const both = await twoBackends(t, { rest: QUICK })
      both.second.resource.always(merge())
      both.first.resource.next(fault)
      const odd = await (await ask(both.running)).text()
      const plain = await (await ask(both.running)).text()
      const strip = (text: string): string =>
        text.replace(/[0-9a-f]{24,}/g, 'id').replace(/"(created|created_at|completed_at)":\d+/g, '"t"')
      t.equal(strip(odd), strip(plain))
      t.ok(isWhole(odd))
    })
  }
}

t.test('when every backend is throttled the client is told when the soonest is back', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  both.first.resource.next(throttle(9))
  both.second.resource.next(throttle(4))
  const answer = await both.running.chat()
  t.equal(answer.status, 429)
  t.match(await answer.json(), { error: { code: 'rate_limit_exceeded' } })
  const waitMs = Number(answer.headers.get('retry-after-ms'))
  t.ok(waitMs > 3_000 && waitMs <= 4_000, String(waitMs))
  t.equal(answer.headers.get('retry-after'), '4')
})

t.test('a wait over a minute is told as a minute, and retrying as pointless', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  both.first.resource.next(throttle(86_400))
  both.second.resource.next(throttle(86_400))
  const answer = await both.running.chat()
  await answer.text()
  t.equal(answer.headers.get('retry-after'), '60')
  t.equal(answer.headers.get('x-should-retry'), 'false')
})

t.test('the answer of the last attempt is the client’s, with its body', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  both.first.resource.next(hangUp())
  both.second.resource.next(fail(500))
  const answer = await both.running.chat()
  t.equal(answer.status, 500)
  t.match(await answer.json(), { error: { type: 'server_error', code: null } })
  t.equal(answer.headers.get('x-proxy-attempts'), '2')
})

t.test('when nobody can be reached the client gets 502, when nobody answers in time 504', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  both.first.resource.next(hangUp(), silence())
  both.second.resource.next(hangUp(), silence())
  const unreachable = await both.running.chat()
  t.match(await unreachable.json(), { error: { code: 'upstream_error' } })
  t.equal(unreachable.status, 502)
  const late = await both.running.chat()
  t.match(await late.json(), { error: { code: 'upstream_timeout' } })
  t.equal(late.status, 504)
})

t.test('wrong credentials everywhere are our mistake: 502, and retrying is pointless', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  both.first.resource.next(refuseWith('wrong_key'))
  both.second.resource.next(refuseWith('deployment_not_found'))
  const answer = await both.running.chat()
  t.equal(answer.status, 502)
  t.equal(answer.headers.get('x-should-retry'), 'false')
  t.match(await answer.json(), { error: { code: 'upstream_error' } })
})

t.test('a request that is itself the trouble takes nobody out', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  both.first.resource.next(fail(500))
  both.second.resource.next(fail(500))
  await (await both.running.chat()).text()
  const health = await fetch(`${both.running.url}/health`)
  t.match(await health.json(), { status: 'ok', models: { 'gpt-4o': { healthy: 2, total: 2 } } })
})

t.test('when a client leaves, the upstream request is aborted at once and nobody is blamed', async t => {
  const both = await twoBackends(t, { rest: QUICK })
  const slow = await startResource(t, { name: 'slow', eventDelayMs: 50, deltas: 200 })
  const running = await runProxy(t, configFor([{ url: slow.url }], { rest: QUICK }))
  const controller = new AbortController()
  const answer = await running.chat({ stream: true, signal: controller.signal })
  const reader = answer.body?.getReader()
  await reader?.read()
  const logged = running.line('request')
  controller.abort()
  await reader?.read().catch(() => undefined)
  t.match(await logged, { status: 499, error: 'client_closed' })
  while (slow.resource.requests[0]?.aborted !== true) await new Promise(resolve => setImmediate(resolve))
  t.equal(ejected({ ...both, running }), undefined)
})

for (const [what, fault] of [
  ['resets', hangUp()],
  ['answers 500', fail(500)],
  ['answers 503', fail(503)],
  ['throttles', throttle(1)],
  ['dies before its first output', cutAfter(2)],
] as const) {
  t.test(`two thousand requests over two backends, one of which ${what}, show no error to any client`, async t => {
    const rest = 'health_check: {enabled: false, recovery: 50ms}'
    const { first: bad, second: good, running } = await twoBackends(t, { rest, backends: [{}, {}] })
    bad.resource.always(fault)
    let errors = 0
    const client = async (): Promise<void> => {
      for (let i = 0; i < 100; i++) {
        const answer = await running.chat({ stream: i % 2 === 0 })
        const text = await answer.text()
        if (answer.status !== 200 || !(text.endsWith('[DONE]\n\n') || text.endsWith('}\n'))) errors++
      }
    }
    await Promise.all(Array.from({ length: 20 }, client))
    t.equal(errors, 0)
    t.ok(bad.resource.requests.length > 0, 'the bad one was asked')
    t.same([...bad.resource.violations, ...good.resource.violations], [])
  })
}
