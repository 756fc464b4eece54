// The form of a log line; and that a slow, full or vanished target costs lines, which are counted, and never a request.
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { createLog, type LogFields, type LogLevel } from '../../lib/log.ts'
import { createLogOutput } from '../../lib/log-output.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

const FLUSH_MS = 10_000

function lineOf(format: 'json' | 'text', msg: string, fields: LogFields = {}): string {
  const lines: string[] = []
  const log = createLog({
    clock: createFakeClock(),
    level: () => 'debug',
    format: () => format,
    write: line => lines.push(line),
  })
  log.warn(msg, fields)
  return lines.join('\n')
}

t.test('a JSON line says time, level and msg first; undefined fields are left out, null ones shown', t => {
  t.equal(
    lineOf('json', 'request', { status: 200, stream: false, model: undefined, error: null }),
    '{"time":"1970-01-12T13:46:41.000Z","level":"warn","msg":"request","status":200,"stream":false,"error":null}',
  )
  t.end()
})

const AWKWARD: readonly (string | number | boolean | null | undefined)[] = [
  ...[
    '',
    ' ',
    '"',
    '\\',
    '\\"',
    'a"b',
    '/',
    '</script>',
    '\u007f',
    '\u0080',
    '\u2028',
    '\u2029',
    '\ufeff',
    'ü',
    '漢字',
    '😀',
  ],
  ...['\ud83d', '\ude00', '\ude00\ud83d', 'a\ud800b', '\ud800\ud800\udc00', '\uffff', '\b\t\n\v\f\r', '__proto__'],
  ...Array.from({ length: 0x21 }, (_, code) => `a${String.fromCharCode(code)}b`),
  ...[0, -0, 1, -1, 7, 200, 2 ** 31, 2 ** 53, 1e20, 1e21, -1e21, 1e-7, 5e-324, Number.MAX_VALUE],
  ...[0.1, 0.5, 9.9, 12.3, -12.3, 0.05, 12.34, 1 / 3, 99_999_999.9, 100_000_000.1, 123_456_789_012.3, 0.1 + 0.2],
  ...[Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, true, false, null, undefined],
]

t.test('a JSON line is byte for byte what JSON.stringify makes of its fields', t => {
  const start = { time: '1970-01-12T13:46:41.000Z', level: 'warn' } as const
  for (const value of AWKWARD) {
    t.equal(lineOf('json', 'x', { a: value, 'b"': 1 }), JSON.stringify({ ...start, msg: 'x', a: value, 'b"': 1 }))
  }
  for (const msg of AWKWARD) {
    if (typeof msg === 'string') t.equal(lineOf('json', msg), JSON.stringify({ ...start, msg }))
  }
  const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)
  const random = seededRandom(seed)
  const unit = (): string => String.fromCharCode(Math.floor(random() ** 4 * 0x10000))
  for (let run = 0; run < 500; run++) {
    const number = Math.round((random() - 0.2) * 10 ** (random() * 17)) / 10 ** Math.floor(random() * 4)
    const text = Array.from({ length: random() * 12 }, unit).join('')
    const fields = { text, number, more: AWKWARD[Math.floor(random() * AWKWARD.length)] }
    const [line, expected] = [lineOf('json', text, fields), JSON.stringify({ ...start, msg: text, ...fields })]
    if (line !== expected) t.equal(line, expected, `FUZZ_SEED=${seed}`)
  }
  t.end()
})

t.test('the time is that of the wall clock, to the millisecond, wherever it jumps', t => {
  let epochMs = 0
  const lines: string[] = []
  const log = createLog({
    clock: { ...createFakeClock(), epochMs: () => epochMs },
    level: () => 'info',
    format: () => 'json',
    write: line => lines.push(line),
  })
  const noon = Date.UTC(2026, 1, 28, 12)
  const times = [
    noon,
    noon + 1,
    noon + 45,
    noon + 999,
    noon + 1_000,
    noon + 59_999.9,
    noon - 1,
    0,
    9,
    99,
    951_782_399_999,
  ]
  for (const each of times) {
    epochMs = each
    log.info('x')
    t.equal(JSON.parse(lines.at(-1) ?? '').time, new Date(each).toISOString())
  }
  t.end()
})

t.test('a text line is short, quotes what is not plain, and leaves nothing out that is there', t => {
  t.equal(
    lineOf('text', 'request', { status: 200, path: '/v1/models', client: 'a b', model: undefined, error: null }),
    '13:46:41.000 WARN  request status=200 path=/v1/models client="a b"',
  )
  t.end()
})

const REQUEST: LogFields = {
  id: 'req-1',
  key: 'webshop',
  method: 'POST',
  path: '/v1/chat/completions',
  model: 'gpt-4o',
  backend: 'sweden',
  status: 200,
  attempts: 2,
  duration_ms: 812.4,
  ttfb_ms: 300,
  bytes_in: 10,
  bytes_out: 20,
  stream: true,
  prompt_tokens: 100,
  completion_tokens: 20,
  cached_tokens: 0,
  cost: 0.5,
  client: '10.0.0.1',
  error: null,
}

t.test('a request as text says what people look for first, and its id last', async t => {
  t.equal(
    lineOf('text', 'request', REQUEST),
    '13:46:41.000 WARN  200    812 ms  gpt-4o → sweden  ×2  webshop  POST /v1/chat/completions  100+20 tokens cost=0.5 client=10.0.0.1 id=req-1',
  )
  t.match(
    lineOf('text', 'request', { ...REQUEST, status: 502, backend: null, error: 'upstream_error' }),
    /502 {4}812 ms {2}gpt-4o → - .* upstream_error /,
  )
})

t.test('a terminal gets colours, and nothing of a client can colour it', async t => {
  const lines: string[] = []
  const log = createLog({
    clock: createFakeClock(),
    level: () => 'debug',
    format: () => 'text',
    write: line => lines.push(line),
    colour: true,
  })
  log.info('request', { ...REQUEST, status: 503, path: '/\u001b[32m' })
  log.error('backend ejected', { reason: 'server_error' })
  t.match(lines[0], /\u001b\[31m503\u001b\[0m/)
  t.notMatch(lines[0], /\/\u001b\[32m/)
  t.match(lines[1], /\u001b\[31mERROR\u001b\[0m backend ejected reason=server_error/)
})

t.test("a client's text never becomes a line or a terminal command of its own", t => {
  for (const hostile of ['a\nb', 'a\r\nb', '\u001b[31mred', 'a\u2028b', '\u009b31m', '\u0000']) {
    for (const format of ['json', 'text'] as const) {
      const line = lineOf(format, 'request', { path: hostile })
      t.equal(line.includes('\n'), false)
      if (format === 'text') t.notMatch(line, /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/)
      else t.equal(JSON.parse(line).path, hostile)
    }
  }
  t.end()
})

t.test('the level is asked for every line, so that a reload changes it', t => {
  const lines: string[] = []
  let level: LogLevel = 'info'
  const log = createLog({
    clock: createFakeClock(),
    level: () => level,
    format: () => 'json',
    write: line => lines.push(line),
  })
  const all = (): readonly string[] => {
    lines.length = 0
    for (const each of ['debug', 'info', 'warn', 'error'] as const) log[each]('x')
    return lines.map(line => JSON.parse(line).level)
  }
  t.same(all(), ['info', 'warn', 'error'])
  level = 'error'
  t.same(all(), ['error'])
  level = 'debug'
  t.same(all(), ['debug', 'info', 'warn', 'error'])
  t.end()
})

// Where lines go.

function logFile(t: Test): string {
  return path.join(t.testdir({}), 'proxy.log')
}

const linesIn = (file: string): readonly string[] => fs.readFileSync(file, 'utf8').split('\n').slice(0, -1)

t.test('lines come out whole and in order, also in many batches', async t => {
  for (const maxBatch of [undefined, 10, 4_000]) {
    const file = logFile(t)
    const output = createLogOutput({ kind: 'file', path: file }, maxBatch)
    const lines = Array.from({ length: 1_500 }, (_, i) => `line ${i} ü ${(i % 3 === 0 ? '漢' : 'x').repeat(i % 150)}`)
    for (const line of lines) output.write(line)
    await output.flush(FLUSH_MS)
    t.same(linesIn(file), lines)
    t.equal(output.dropped(), 0)
  }
})

t.test('a file is appended to, and reopened under its name for logrotate, without losing a line', async t => {
  const file = logFile(t)
  fs.writeFileSync(file, 'from before\n')
  const output = createLogOutput({ kind: 'file', path: file })
  output.write('one')
  await output.flush(FLUSH_MS)
  fs.renameSync(file, `${file}.1`)
  output.write('still the old file')
  await output.flush(FLUSH_MS)
  output.reopen()
  output.write('the new file')
  await output.flush(FLUSH_MS)
  t.same(linesIn(`${file}.1`), ['from before', 'one', 'still the old file'])
  t.same(linesIn(file), ['the new file'])
})

t.test('a file that cannot be reopened goes on being written under its old name', async t => {
  const folder = path.join(t.testdir({ logs: {} }), 'logs')
  const output = createLogOutput({ kind: 'file', path: path.join(folder, 'proxy.log') })
  fs.renameSync(folder, `${folder}-gone`)
  output.reopen()
  output.write('kept')
  await output.flush(FLUSH_MS)
  t.same(linesIn(path.join(`${folder}-gone`, 'proxy.log')), ['kept'])
})

t.test('what cannot be opened at the start is an error at the start', t => {
  t.throws(() => createLogOutput({ kind: 'file', path: path.join(t.testdir({}), 'no', 'such', 'folder') }), {
    code: 'ENOENT',
  })
  t.end()
})

t.test('what waits is bounded: lines beyond it are dropped and counted', async t => {
  const file = logFile(t)
  const output = createLogOutput({ kind: 'file', path: file })
  const line = 'x'.repeat(1024 * 1024 - 1)
  for (let i = 0; i < 6; i++) output.write(line)
  t.equal(output.dropped(), 2, 'four mebibytes wait')
  await output.flush(FLUSH_MS)
  t.equal(linesIn(file).length, 4)
  output.write('room again')
  await output.flush(FLUSH_MS)
  t.equal(linesIn(file).at(-1), 'room again')
  t.equal(output.dropped(), 2)
})

t.test('after a write that a full disk cut off, the next line begins as a line of its own', async t => {
  for (const [cuts, expected] of [
    [[5], 1],
    [[5, 0, 3], 2],
    [[0], 0],
    [[7, 1, 0], 1],
  ] as const) {
    const file = `${t.testdir({})}/log`
    const waiting: number[] = [...cuts]
    const output = createLogOutput(
      { kind: 'file', path: file },
      undefined,
      (fd, bytes, offset, length, position, done) => {
        const room = waiting.shift()
        if (room === undefined) return fs.write(fd, bytes, offset, length, position, done)
        const full = Object.assign(new Error('full'), { code: 'ENOSPC' })
        if (room === 0) return done(full, 0)
        // As the system does it: what there is room for is written, and the next try fails.
        waiting.unshift(0)
        fs.write(fd, bytes, offset, room, position, done)
      },
    )
    const lines = [...cuts.keys(), 'last'].map(i => JSON.stringify({ line: `number ${i}` }))
    for (const line of lines) {
      output.write(line)
      await output.flush(60_000)
    }
    const written = fs.readFileSync(file, 'utf8').split('\n')
    t.equal(written.at(-2), lines.at(-1), `${cuts}`)
    t.equal(written.filter(line => line !== '' && line !== lines.at(-1)).length, expected, 'torn pieces stand alone')
    t.equal(output.dropped(), lines.length - 1)
  }
})

t.test('a descriptor that is gone costs lines, every one of them counted, and nothing else', async t => {
  const file = logFile(t)
  // Opened for reading: every write to it fails as to a closed one.
  const fd = fs.openSync(file, 'a+')
  fs.closeSync(fd)
  const readOnly = fs.openSync(file, 'r')
  t.teardown(() => fs.closeSync(readOnly))
  const output = createLogOutput({ kind: 'fd', fd: readOnly }, 10)
  for (let i = 0; i < 5; i++) output.write(`line ${i}`)
  await output.flush(FLUSH_MS)
  output.write('one more')
  await output.flush(FLUSH_MS)
  t.equal(output.dropped(), 6)
})

t.test('flush ends at once when nothing waits', async t => {
  const output = createLogOutput({ kind: 'file', path: logFile(t) })
  await output.flush(FLUSH_MS)
  t.equal(output.dropped(), 0)
})
