// Event streams by chance, in pieces of any size. The watcher takes each for what a slow reader makes of the whole
// text, and calls bytes whole events only where they are. FUZZ_SEED repeats a run, FUZZ_RUNS sets its length.
import t from 'tap'
import type { Dialect } from '../../lib/azure/operations.ts'
import { watchEventStream } from '../../lib/forward/sse-watcher.ts'
import { chanceFor } from '../fixtures/chance.ts'
import { eventsOf, storyOf } from '../fixtures/event-stream-reader.ts'

const { runs, below, happens, pick, pieces } = chanceFor(t, 3_000)

const TYPES = [
  ...[
    'response.created',
    'response.in_progress',
    'response.output_text.delta',
    'response.completed',
    'response.incomplete',
  ],
  ...[
    'response.failed',
    'response.cancelled',
    'error',
    'ping',
    'keepalive',
    'message',
    'message_stop',
    'message_start',
    'content_block_start',
    'content_block_delta',
    'response.error_like',
    '',
  ],
] as const

const WORDS = [
  'error',
  '[DONE]',
  'response.completed',
  'choices',
  'x',
  'Grüße 😀',
  '\\n',
  '',
  'data: [DONE]',
  '{"error":1}',
] as const

function scalar(): unknown {
  return pick([null, true, 0, 7, 'error', '', 'stop', { message: 'm' }, {}, [], [1], pick(WORDS)])
}

function object(): Record<string, unknown> {
  const members: [string, unknown][] = []
  for (let i = below(5); i > 0; i--) {
    const name = pick([
      'type',
      'error',
      'object',
      'message',
      'code',
      'statusCode',
      'detail',
      'errors',
      'choices',
      'response',
      'delta',
      'id',
      'usage',
      'content_block',
    ])
    const value =
      name === 'type'
        ? pick(TYPES)
        : name === 'choices'
          ? Array.from({ length: below(3) }, () =>
              pick<unknown>([
                {},
                { delta: { content: pick(WORDS) } },
                { delta: {} },
                { delta: { role: 'assistant' } },
                { finish_reason: scalar() },
                { text: pick(WORDS) },
                1,
              ]),
            )
          : name === 'response'
            ? { error: scalar(), status: 'completed' }
            : scalar()
    members.push([name, value])
  }
  return Object.fromEntries(members)
}

function dataText(): string {
  const kind = below(12)
  if (kind === 0) return pick(['[DONE]', ' [DONE]', '[DONE] ', '[done]', '[DONE]x'])
  if (kind === 1) return pick(WORDS)
  if (kind === 2) return JSON.stringify(object()).slice(0, below(30))
  return JSON.stringify(object(), undefined, happens(0.15) ? 1 : undefined)
}

function lines(): string[] {
  const data = happens(0.1) ? dataText().replace(/\}$/, `,"long":"${LONG}"}`).replace('{,', '{') : dataText()
  const blank = pick(['', ' ', ' ', ' ', '  '])
  const all = data.split('\n').map(line => `data:${blank}${line}`)
  if (happens(0.4)) all[happens(0.5) ? 'push' : 'unshift'](`event:${pick(['', ' '])}${pick(TYPES)}`)
  if (happens(0.15))
    all.push(
      pick(['id: 7', 'retry: 100', ': a comment', ':', 'data', 'data:', 'event', 'error', 'nonsense', 'datax: 1']),
    )
  if (happens(0.03)) all.push(`error: ${dataText().split('\n')[0]}`)
  if (happens(0.05)) all.splice(below(all.length), 1)
  return all
}

/** Some events are long: their beginnings are looked at first. */
const LONG = 'x'.repeat(1_100)

function make(): string {
  let text = happens(0.1) ? '\uFEFF' : ''
  const usual = pick(['\n', '\n', '\r\n', '\r'])
  const end = (): string => (happens(0.02) ? pick(['\n', '\r\n', '\r']) : usual)
  for (let i = below(7); i > 0; i--) {
    if (happens(0.1)) text += `: comment${end()}${happens(0.5) ? end() : ''}`
    for (const line of lines()) text += line + end()
    if (!happens(0.03)) text += end()
    if (happens(0.05)) text += end()
  }
  if (happens(0.2)) text = text.slice(0, below(text.length + 1))
  return text
}

/** As servers send them: one event a piece, or a few. */
function eventByEvent(bytes: Buffer): Buffer[] {
  const events = bytes.toString('latin1').split(happens(0.5) ? /(?<=\n\r?\n)/ : /(?<=\n\r?\n)(?=data)/)
  return events.map(event => Buffer.from(event, 'latin1'))
}

t.test('a stream is taken for what a slow reader of the whole makes of it, wherever it is cut', t => {
  for (let run = 0; run < runs; run++) {
    const dialect = pick<Dialect>(['chat', 'chat', 'responses', 'responses', 'claude', 'opaque'])
    const bytes = Buffer.from(make())
    const text = bytes.toString('utf8')
    const watcher = watchEventStream(dialect)
    let seen = 0
    let whole = 0
    for (const piece of happens(0.3) ? eventByEvent(bytes) : pieces(bytes)) {
      const of = watcher.push(piece)
      if (of > 0) whole = seen + of
      seen += piece.length
      if (
        of > 0 &&
        !/(?:^|[\r\n])(?:\r\n|\n|\r)$/.test(bytes.toString('latin1', 0, whole).replace(/^\xEF\xBB\xBF/, ''))
      ) {
        t.fail(`not whole at ${whole}: ${JSON.stringify({ dialect, text })}`)
      }
    }
    watcher.finish()
    const story = { phase: watcher.phase().kind, ended: watcher.ended(), failed: watcher.lastError() !== undefined }
    const expected = storyOf(dialect, eventsOf(text))
    if (JSON.stringify(story) !== JSON.stringify(expected)) {
      t.same(story, expected, JSON.stringify({ dialect, text }))
      break
    }
  }
  t.pass(`${runs} streams`)
  t.end()
})
