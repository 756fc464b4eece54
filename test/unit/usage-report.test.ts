// The report of `--usage` on log lines: sums, groups, dates, formats; broken lines, gzip, and characters on the edges
// of chunks.
import { Readable } from 'node:stream'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { costOf } from '../../lib/cost.ts'
import { MAX_LINE_BYTES, readLines } from '../../lib/usage/lines.ts'
import { printUsage } from '../../lib/usage/print.ts'
import { createUsageReport, type Dimension, type ReportOptions } from '../../lib/usage/report.ts'

const LINE = {
  time: '2026-11-03T10:00:00.000Z',
  level: 'info',
  msg: 'request',
  key: 'webshop',
  model: 'gpt-4o',
  backend: 'sweden',
  status: 200,
  prompt_tokens: 100,
  completion_tokens: 10,
  cached_tokens: 40,
  cost: 0.1,
  error: null,
}

function report(lines: readonly object[], options: Partial<ReportOptions> = {}) {
  const made = createUsageReport({ by: ['key', 'model', 'month'], ...options })
  for (const line of lines) made.add(JSON.stringify(line))
  return made
}

t.test('requests, tokens and cost are summed by key, model and month', async t => {
  const { rows } = report([
    LINE,
    { ...LINE, time: '2026-11-30T23:59:59.999Z', cost: 0.2 },
    { ...LINE, time: '2026-12-01T00:00:00.000Z' },
    { ...LINE, key: 'bot', status: 429, prompt_tokens: null, completion_tokens: null, cached_tokens: null, cost: null },
  ])
  t.same(rows(), [
    {
      group: ['bot', 'gpt-4o', '2026-11'],
      requests: 1,
      errors: 1,
      promptTokens: 0,
      cachedTokens: 0,
      completionTokens: 0,
      cost: undefined,
    },
    {
      group: ['webshop', 'gpt-4o', '2026-11'],
      requests: 2,
      errors: 0,
      promptTokens: 200,
      cachedTokens: 80,
      completionTokens: 20,
      cost: 0.3,
    },
    {
      group: ['webshop', 'gpt-4o', '2026-12'],
      requests: 1,
      errors: 0,
      promptTokens: 100,
      cachedTokens: 40,
      completionTokens: 10,
      cost: 0.1,
    },
  ])
})

t.test('any dimensions in any order group the sums', async t => {
  const lines = [LINE, { ...LINE, backend: 'eastus' }, { ...LINE, time: '2026-11-04T00:00:00Z' }]
  for (const [by, groups] of [
    [['day'], [['2026-11-03'], ['2026-11-04']]],
    [
      ['backend', 'key'],
      [
        ['eastus', 'webshop'],
        ['sweden', 'webshop'],
      ],
    ],
    [['month', 'model'], [['2026-11', 'gpt-4o']]],
  ] as const) {
    t.same(
      report(lines, { by: by as readonly Dimension[] })
        .rows()
        .map(({ group }) => group),
      groups,
    )
  }
})

t.test('both ends of a span of dates are included, in UTC', async t => {
  const lines = [
    '2026-10-31T23:59:59.999Z',
    '2026-11-01T00:00:00.000Z',
    '2026-11-30T23:59:59.999Z',
    '2026-12-01T00:00:00Z',
  ]
  const { rows } = report(
    lines.map(time => ({ ...LINE, time })),
    { from: '2026-11-01', to: '2026-11-30' },
  )
  t.match(rows(), [{ requests: 2 }])
  t.match(report([{ ...LINE, time: '2026-12-01T00:30:00+01:00' }]).rows(), [
    { group: ['webshop', 'gpt-4o', '2026-11'] },
  ])
})

t.test('a cut stream and a client that left are errors; a line without a model asked nothing', async t => {
  const { rows, broken } = report([
    { ...LINE, error: 'cut: ECONNRESET' },
    { ...LINE, status: 499, error: 'client_closed' },
    { ...LINE, model: null, path: '/health' },
    { ...LINE, msg: 'backend ejected' },
  ])
  t.match(rows(), [{ requests: 2, errors: 2 }])
  t.equal(broken(), 0)
})

t.test('broken lines are counted and cost no other line', async t => {
  const made = createUsageReport({ by: ['key'] })
  for (const line of ['{"time":"2026-11', 'plain text', '[]', 'null', '{}', '', ' ', '{"msg":"request","time":"soon"}'])
    made.add(line)
  made.add(JSON.stringify(LINE))
  t.equal(made.broken(), 6)
  t.match(made.rows(), [{ group: ['webshop'], requests: 1 }])
})

t.test('a name cannot pass for another column or for a group of its own', async t => {
  const { rows } = report(
    [
      { ...LINE, key: '__proto__' },
      { ...LINE, key: '=1+1,"x"' },
    ],
    { by: ['key'] },
  )
  t.equal(rows().length, 2)
  t.match(printUsage('csv', ['key'], rows()), /^"'=1\+1,""x""",1,/m)
  t.match(JSON.parse(printUsage('json', ['key'], rows())), [{ requests: 1 }, { key: '__proto__', requests: 1 }])
})

t.test('the formats name the same columns, and a cost that nobody knows is empty', async t => {
  const { rows } = report([LINE, { ...LINE, model: 'free', cost: null }], { by: ['model', 'day'] })
  t.equal(
    printUsage('csv', ['model', 'day'], rows()),
    [
      'model,day,requests,errors,prompt_tokens,cached_tokens,completion_tokens,cost',
      'free,2026-11-03,1,0,100,40,10,',
      'gpt-4o,2026-11-03,1,0,100,40,10,0.1',
      '',
    ].join('\r\n'),
  )
  t.same(JSON.parse(printUsage('json', ['model', 'day'], rows()))[0], {
    model: 'free',
    day: '2026-11-03',
    requests: 1,
    errors: 0,
    prompt_tokens: 100,
    cached_tokens: 40,
    completion_tokens: 10,
    cost: null,
  })
  t.equal(
    printUsage('table', ['model', 'day'], rows()),
    `model   day         requests  errors  prompt_tokens  cached_tokens  completion_tokens  cost
free    2026-11-03         1       0            100             40                 10
gpt-4o  2026-11-03         1       0            100             40                 10   0.1
total                      2       0            200             80                 20   0.1
`,
  )
})

t.test('lines are the same, however the bytes are cut, plain or gzipped', async t => {
  const text = `${JSON.stringify(LINE)}\n\n{"key":"Ümlaut 中文"}\r\nlast without an end`
  for (const bytes of [
    Buffer.from(text),
    gzipSync(text),
    Buffer.concat([gzipSync(text.slice(0, 40)), gzipSync(text.slice(40))]),
  ]) {
    for (const size of [1, 2, 7, 64, 100_000]) {
      const chunks = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      )
      const lines: string[] = []
      await readLines(Readable.from(chunks), line => lines.push(line))
      t.equal(lines.join('\n'), text, `${size} bytes at a time`)
    }
  }
  const none: string[] = []
  await readLines(Readable.from([]), line => none.push(line))
  t.same(none, [])
})

t.test('a gzip file that is cut gives its lines and then its error', async t => {
  const text = Array.from({ length: 5_000 }, (_, i) => JSON.stringify({ ...LINE, id: i * 7919 })).join('\n')
  const bytes = gzipSync(text)
  const lines: string[] = []
  await t.rejects(readLines(Readable.from([bytes.subarray(0, bytes.length / 2)]), line => lines.push(line)))
  t.ok(lines.length > 100)
})

t.test('a line without an end costs no memory', async t => {
  const chunk = Buffer.alloc(MAX_LINE_BYTES / 4, 'x')
  const lines: string[] = []
  await readLines(Readable.from([...Array(40).fill(chunk), Buffer.from('x\nnext\n')]), line => lines.push(line))
  t.same(lines, ['{', 'next'], 'counted as one broken line')
})

t.test('a cost is exact to the token, and unknown where nobody counted', async t => {
  const price = { input: 2.5, cachedInput: 1.25, output: 10 }
  const usage = { promptTokens: 1_000, completionTokens: 100, cachedTokens: 400 }
  t.equal(costOf(usage, price), 0.003)
  t.equal(costOf({ ...usage, cachedTokens: undefined }, price), 0.0035)
  t.equal(costOf({ promptTokens: 1, completionTokens: undefined, cachedTokens: undefined }, price), 0.0000025)
  t.equal(costOf({ promptTokens: undefined, completionTokens: undefined, cachedTokens: undefined }, price), undefined)
  t.equal(costOf(usage, undefined), undefined)
  t.equal(costOf({ ...usage, cachedTokens: 5_000 }, price), 0.00225, 'no more is cached than was asked')
})
