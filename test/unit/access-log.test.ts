// The line of a request: joined without an object in between, and byte for byte what JSON.stringify would make.
import t from 'tap'
import { createLog, type LogLevel } from '../../lib/log.ts'
import { createRecord, type FinishedRequest, type RequestRecord } from '../../lib/request-context.ts'
import { createAccessLog } from '../../lib/server/access-log.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

function logged(format: 'json' | 'text', level: LogLevel, finished: readonly FinishedRequest[]): readonly string[] {
  const lines: string[] = []
  const log = createLog({
    clock: createFakeClock(),
    level: () => level,
    format: () => format,
    write: line => lines.push(line),
  })
  const logFinished = createAccessLog(log)
  for (const each of finished) logFinished(each)
  return lines
}

function finishedWith(record: Partial<RequestRecord>, rest: Partial<FinishedRequest> = {}): FinishedRequest {
  return {
    id: 'req-1',
    method: 'POST',
    path: '/v1/chat/completions',
    client: '10.0.0.1',
    traceparent: undefined,
    durationMs: 812.44,
    cost: undefined,
    record: { ...createRecord(), status: 200, ...record },
    ...rest,
  }
}

const tenth = (ms: number | undefined): number | null => (ms === undefined ? null : Math.round(ms * 10) / 10)

/** The documented fields, in their order (deploy/reference.md, "The log line"). */
function documented({ id, method, path, client, traceparent, durationMs, cost, record }: FinishedRequest): object {
  const { usage } = record
  return {
    id,
    key: record.key ?? null,
    method,
    path,
    model: record.model ?? null,
    backend: record.backend ?? null,
    status: record.status,
    attempts: record.attempts,
    duration_ms: tenth(durationMs),
    ttfb_ms: tenth(record.ttfbMs),
    bytes_in: record.bytesIn,
    bytes_out: record.bytesOut,
    stream: record.stream,
    prompt_tokens: usage.promptTokens ?? null,
    completion_tokens: usage.completionTokens ?? null,
    cached_tokens: usage.cachedTokens ?? null,
    cost: cost ?? null,
    client: client ?? null,
    error: record.error ?? null,
    made_by: record.madeBy,
    spilled: record.servedByLowerTier ? true : undefined,
    spilled_over: record.azureSpillover,
    upstream_id: record.upstreamId,
    traceparent,
  }
}

const HOSTILE = [
  '',
  'plain',
  'a"b',
  'a\\b',
  'a\nb',
  '\u2028',
  '\u007f',
  'ü漢😀',
  '\ud800',
  '\u0000',
  '__proto__',
  undefined,
]

t.test('every field of every request is byte for byte what JSON.stringify makes of it', async t => {
  const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)
  const random = seededRandom(seed)
  const oneOf = <T>(values: readonly T[]): T | undefined => values[Math.floor(random() * values.length)]
  const text = (): string | undefined => oneOf(HOSTILE)
  const whole = (): number => Math.floor(10 ** (random() * 12))
  const figure = (): number | undefined => oneOf([undefined, 0, whole(), random() * 10 ** (random() * 9)])
  const requests = Array.from({ length: 500 }, () =>
    finishedWith(
      {
        key: text(),
        model: text(),
        backend: text(),
        status: oneOf([0, 101, 200, 400, 499, 503]) ?? 0,
        attempts: whole(),
        ttfbMs: figure(),
        bytesIn: whole(),
        bytesOut: whole(),
        stream: random() < 0.5,
        usage: { promptTokens: figure(), completionTokens: figure(), cachedTokens: figure() },
        servedByLowerTier: random() < 0.5,
        upstreamId: text(),
        azureSpillover: text(),
        error: text(),
        madeBy: text(),
      },
      {
        id: text() ?? 'id',
        method: text() ?? 'POST',
        path: text() ?? '/',
        client: text(),
        traceparent: text(),
        durationMs: random() * 10 ** (random() * 9),
        cost: figure(),
      },
    ),
  )
  const lines = logged('json', 'info', requests)
  t.equal(lines.length, requests.length)
  for (const [i, request] of requests.entries()) {
    const level = request.record.status >= 500 ? 'warn' : 'info'
    const expected = JSON.stringify({
      time: '1970-01-12T13:46:41.000Z',
      level,
      msg: 'request',
      ...documented(request),
    })
    if (lines[i] !== expected) t.equal(lines[i], expected, `FUZZ_SEED=${seed}`)
  }
})

t.test('for people the same request is short, and what a client wrote stays text', async t => {
  const [line] = logged('text', 'info', [
    finishedWith({ key: 'a', model: 'gpt-4o', backend: 'sweden', attempts: 2, error: 'cut: \u001b[31m' }),
  ])
  t.match(line, /INFO {2}200 {4}812 ms {2}gpt-4o → sweden {2}×2 {2}a {2}POST \/v1\/chat\/completions/)
  t.notMatch(line, /\u001b/)
})

t.test('looks at the proxy itself are logged at debug unless they fail; requests of models never so', async t => {
  const probe = finishedWith({}, { method: 'GET', path: '/health' })
  t.equal(logged('json', 'info', [probe]).length, 0)
  t.match(logged('json', 'debug', [probe]), [/"level":"debug"/])
  t.match(logged('json', 'info', [finishedWith({ status: 503 }, { method: 'GET', path: '/health' })]), [
    /"level":"warn"/,
  ])
  t.match(logged('json', 'info', [finishedWith({}, { method: 'POST', path: '/health' })]), [/"level":"info"/])
  t.equal(logged('json', 'warn', [finishedWith({ model: 'gpt-4o' })]).length, 0)
})

t.test('more names than are remembered cost nothing but their being made again', async t => {
  const names = Array.from({ length: 2_500 }, (_, i) => `model-${i}`)
  const lines = logged(
    'json',
    'info',
    [...names, ...names].map(model => finishedWith({ model })),
  )
  t.same(
    lines.map(line => JSON.parse(line).model),
    [...names, ...names],
  )
})
