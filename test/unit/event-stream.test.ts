// An event stream watched as it passes: start-up, output, its end, an error; and what is read from its last bytes.
import t from 'tap'
import type { Dialect } from '../../lib/azure/operations.ts'
import { streamErrorEvent } from '../../lib/forward/sse-error.ts'
import { type EventStreamWatcher, watchEventStream } from '../../lib/forward/sse-watcher.ts'
import { createTail, readUsage } from '../../lib/forward/usage.ts'
import { NO_USAGE } from '../../lib/request-context.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

const data = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
const typed = (type: string, more: object = {}): string => `event: ${type}\n${data({ type, ...more })}`
const delta = (part: object, more: object = {}): string => data({ choices: [{ index: 0, delta: part, ...more }] })
const DONE = 'data: [DONE]\n\n'
const FILTER = data({ choices: [], prompt_filter_results: [{ prompt_index: 0 }] })
const ROLE = delta({ role: 'assistant', content: '', refusal: null }, { finish_reason: null })

function watch(dialect: Dialect, text: string): EventStreamWatcher {
  const watcher = watchEventStream(dialect)
  watcher.push(Buffer.from(text))
  return watcher
}

const phaseOf = (dialect: Dialect, text: string): string => watch(dialect, text).phase().kind

t.test('chat: prompt filter results, the role and empty deltas are only the start-up', t => {
  const startups = [
    '',
    FILTER,
    ROLE,
    FILTER + ROLE,
    delta({}),
    delta({ content: '' }),
    delta({ content: null, tool_calls: [] }),
    data({ choices: [{ index: 0, delta: null, content_filter_results: {} }] }),
    ': a comment\n\n',
    'retry: 100\nid: 7\n\n',
    'data: {"choices":[{"delta":{"content":"unfinished"',
  ]
  for (const text of startups) t.equal(phaseOf('chat', text), 'starting', text)
  t.end()
})

t.test('chat: anything a client could use is output', t => {
  const outputs = [
    delta({ content: 'H' }),
    delta({ content: ' ' }),
    delta({ refusal: 'No.' }),
    delta({ reasoning_content: 'Hm' }),
    delta({ tool_calls: [{ index: 0 }] }),
    delta({ function_call: { name: 'f' } }),
    delta({}, { finish_reason: 'stop' }),
    data({ choices: [{ index: 0, text: 'completions' }] }),
    data({ something: 'unknown' }),
    'data: no JSON at all\n\n',
    data({ choices: [{ delta: {} }, { delta: { content: 'the second choice' } }] }),
  ]
  for (const text of outputs) {
    t.equal(phaseOf('chat', text), 'output', text)
    t.equal(phaseOf('chat', FILTER + ROLE + text), 'output')
  }
  t.equal(phaseOf('chat', delta({ content: 'H' }) + delta({ content: '' })), 'output', 'and it stays output')
  t.end()
})

t.test('chat: only [DONE] is its end', t => {
  const whole = watch('chat', FILTER + ROLE + delta({ content: 'H' }) + delta({}, { finish_reason: 'stop' }))
  t.equal(whole.ended(), false, 'a finish reason is not the end: usage may follow')
  whole.push(Buffer.from(DONE))
  t.equal(whole.ended(), true)
  t.equal(whole.lastError(), undefined)
  t.equal(whole.events(), 3, 'up to the first output')
  t.equal(watch('chat', 'data:[DONE]\n\n').ended(), true, 'without the blank too')
  t.equal(watch('chat', delta({ content: 'data: [DONE]\n\n' })).ended(), false, 'not where the model says it')
  t.equal(watch('chat', 'data: [DONE]').ended(), false, 'nor a line that is not whole')
  t.equal(watch('chat', ': [DONE]\n\n').ended(), false, 'nor a comment')
  t.end()
})

const ERROR = { message: 'The server had an error.', type: 'server_error', param: null, code: 'server_error' }

t.test('chat: an error event is an error before output, and only the end behind it', t => {
  const early = watch('chat', FILTER + ROLE + data({ error: ERROR }))
  t.match(early.phase(), { kind: 'error', error: { code: 'server_error', message: 'The server had an error.' } })
  t.equal(early.ended(), true)
  const late = watch('chat', delta({ content: 'H' }) + data({ error: ERROR }))
  t.equal(late.phase().kind, 'output')
  t.match(late.lastError(), { code: 'server_error' })
  t.equal(late.ended(), true)
  const named = watch('chat', `event: error\n${data({ error: ERROR })}`)
  t.equal(named.phase().kind, 'error')
  t.equal(phaseOf('chat', delta({ content: '{"error":1}' })), 'output', 'a model may talk of errors')
  t.end()
})

t.test('responses: created, in_progress and keepalive are only the start-up, however long they are', t => {
  const long = typed('response.created', { response: { id: 'resp_1', instructions: 'x'.repeat(200_000) } })
  const text = long + typed('response.in_progress') + typed('keepalive')
  t.equal(phaseOf('responses', text), 'starting')
  t.equal(watch('responses', text).events(), 3)
  for (const type of [
    'response.queued',
    'response.output_item.added',
    'response.output_text.delta',
    'response.new_kind',
  ]) {
    t.equal(phaseOf('responses', text + typed(type)), 'output', type)
  }
  t.end()
})

t.test('responses: completed, incomplete and failed are its ends; an error event too', t => {
  const start = typed('response.created') + typed('response.output_text.delta', { delta: 'H' })
  t.equal(watch('responses', start).ended(), false)
  t.equal(watch('responses', start + typed('response.output_text.done')).ended(), false)
  for (const type of ['response.completed', 'response.incomplete', 'response.cancelled']) {
    const watcher = watch('responses', start + typed(type))
    t.equal(watcher.ended(), true, type)
    t.equal(watcher.lastError(), undefined)
  }
  const failed = watch(
    'responses',
    start + typed('response.failed', { response: { error: { code: 'server_error', message: 'm' } } }),
  )
  t.equal(failed.ended(), true)
  t.match(failed.lastError(), { code: 'server_error', message: 'm' })
  t.equal(watch('responses', DONE).ended(), false, '[DONE] means nothing here')
  t.end()
})

t.test('responses: an error right after the start is an error, in its flat form and in its nested one', t => {
  const start = typed('response.created') + typed('response.in_progress')
  const flat = watch('responses', start + typed('error', { code: 'rate_limit_exceeded', message: 'm', param: null }))
  t.match(flat.phase(), { kind: 'error', error: { code: 'rate_limit_exceeded' } })
  const nested = watch('responses', start + typed('error', { error: { code: 'too_many_requests', message: 'm' } }))
  t.match(nested.phase(), { kind: 'error', error: { code: 'too_many_requests' } })
  const failed = watch(
    'responses',
    start + typed('response.failed', { response: { error: { code: 'server_error', message: 'm' } } }),
  )
  t.match(failed.phase(), { kind: 'error', error: { code: 'server_error' } })
  t.end()
})

t.test('responses: the type in the data counts where a gateway drops the event line', t => {
  t.equal(phaseOf('responses', data({ type: 'response.created' })), 'starting')
  t.equal(phaseOf('responses', data({ type: 'response.output_text.delta' })), 'output')
  t.equal(watch('responses', data({ type: 'response.completed' })).ended(), true)
  t.end()
})

t.test('a stream of unknown protocol has output at once and never claims its end', t => {
  t.equal(phaseOf('opaque', ''), 'starting')
  const watcher = watch('opaque', `data: x\n\n${DONE}`)
  t.equal(watcher.phase().kind, 'output')
  t.equal(watcher.ended(), false)
  t.end()
})

t.test('a stream is read alike whatever ends its lines, with a byte order mark and with comments between', t => {
  const chat = FILTER + ROLE + delta({ content: 'H' }) + DONE
  const responses = typed('response.created') + typed('response.output_text.delta') + typed('response.completed')
  for (const [dialect, text] of [
    ['chat', chat],
    ['responses', responses],
  ] as const) {
    for (const end of ['\n', '\r\n', '\r']) {
      for (const before of ['', '\uFEFF', ': hello\n\n', '\uFEFF: hello\n', '\n\n']) {
        const watcher = watch(dialect, (before + text).replaceAll('\n', end))
        t.equal(watcher.phase().kind, 'output', JSON.stringify([dialect, end, before]))
        t.equal(watcher.ended(), true)
        t.equal(watcher.lastError(), undefined)
      }
    }
  }
  t.end()
})

t.test('[DONE] is the end with blanks before and behind it, as it is for clients', t => {
  for (const line of [
    'data:[DONE]',
    'data:  [DONE]',
    'data: [DONE] ',
    'data:[DONE]\t',
    'id: 1\ndata: [DONE]\nevent: x',
  ]) {
    t.equal(watch('chat', `${delta({ content: 'H' })}${line}\n\n`).ended(), true, line)
  }
  t.end()
})

t.test('responses: the type counts wherever it stands, in any order of lines, with `event: message` written out', t => {
  const response = { id: 'resp_1', status: 'completed', output: [{ type: 'message', error: null }] }
  const json = JSON.stringify({ response, type: 'response.completed' })
  for (const event of [
    `data: ${json}\n\n`,
    `event: message\ndata: ${json}\n\n`,
    `data: ${json}\nevent: message\n\n`,
    `data: ${json}\nevent: response.completed\nid: 4\n\n`,
    `event: response.completed\ndata: ${JSON.stringify({ response })}\n\n`,
    `data: {"response": {"id": "resp_1"},\ndata: "type" : "response.completed"}\n\n`,
    `event: response.output_text.delta\ndata: {"type":"response.completed"}\n\n`,
  ]) {
    for (const start of ['', typed('response.created'), typed('response.output_text.delta', { delta: 'H' })]) {
      const watcher = watch('responses', start + event)
      t.equal(watcher.ended(), true, event)
      t.equal(watcher.lastError(), undefined)
    }
  }
  t.equal(phaseOf('responses', `data: {"response":{},"type":"response.created"}\n\n`), 'starting')
  t.end()
})

t.test('a writer that escapes letters in its types is understood behind output too', t => {
  const escaped = (type: string): string => type.replaceAll('e', '\\u0065').replaceAll('.', '\\u002E')
  const typed = (type: string): string => `data: {"type":"${escaped(type)}","delta":"H"}\n\n`
  const talk = typed('response.created') + typed('response.output_text.delta')
  t.equal(watch('responses', talk).ended(), false)
  t.equal(watch('responses', talk + typed('response.completed')).ended(), true)
  t.equal(watch('responses', talk + typed('error')).lastError() !== undefined, true)
  const claude = watch('claude', typed('message_start') + typed('content_block_delta'))
  claude.push(Buffer.from(typed('message_stop')))
  t.equal(claude.ended(), true)
  t.end()
})

const PINGS = [
  'event: ping\ndata: {}\n\n',
  'event: ping\ndata: {"type": "ping"}\n\n',
  'data: {"type":"ping"}\n\n',
  'event: keepalive\ndata: {"a":1}\n\n',
  'event: heartbeat\ndata: now\n\n',
  'data: {}\n\n',
]

const ERROR_FORMS = [
  'event: error\ndata: {"message":"overloaded","code":"x"}\n\n',
  'data: {"message":"overloaded"}\nevent: error\n\n',
  'event: error\ndata: overloaded\n\n',
  'event: error\ndata: "overloaded"\n\n',
  'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n',
  'data: {"id":"x","object":"chat.completion.chunk","error":{"message":"overloaded"}}\n\n',
  'data: {\ndata:  "error": {"message": "overloaded"}\ndata: }\n\n',
  'data: {"error":"overloaded"}\n\n',
  'data: {"error":"overloaded","error_type":"overloaded"}\n\n',
  'data: {"error":true,"message":"overloaded"}\n\n',
  'data: {"type":"error","message":"overloaded"}\n\n',
  'data: {"type":"error","error":{"message":"overloaded"}}\n\n',
  'data: {"object":"error","message":"overloaded","code":50001}\n\n',
  'data: {"statusCode":500,"message":"overloaded"}\n\n',
  'data: {"code":"server_error","message":"overloaded"}\n\n',
  'error: {"code":500,"message":"overloaded"}\n\n',
  'data: {"errors":[{"message":"overloaded","code":500}]}\n\n',
  'data: {"detail":"overloaded"}\n\n',
  'event: Error\ndata: {"message":"overloaded"}\n\n',
  'event: ERROR\ndata: overloaded\n\n',
]
/** Those that hold the word as it is searched for behind output. */
const LATE_ERROR_FORMS = ERROR_FORMS.filter(form => form.includes('error'))

for (const dialect of ['chat', 'responses', 'opaque'] as const) {
  t.test(`${dialect}: a named ping is no output, and an error behind it is still an early one`, t => {
    for (const ping of PINGS) {
      t.equal(phaseOf(dialect, ping), 'starting', ping)
      t.equal(phaseOf(dialect, `${ping}data: {"error":{"message":"m"}}\n\n`), 'error', ping)
    }
    t.end()
  })

  t.test(`${dialect}: an error is one in all common forms before output`, t => {
    for (const form of ERROR_FORMS) {
      const watcher = watch(dialect, form)
      t.match(watcher.phase(), { kind: 'error', error: { message: 'overloaded' } }, form)
      t.equal(watcher.ended(), true)
      t.match(watcher.lastError(), { message: 'overloaded' })
    }
    for (const form of ['data: {"error":null,"choices":[]}\n\n', 'data: {"error":"","choices":[]}\n\n']) {
      t.not(phaseOf(dialect, form), 'error', form)
    }
    t.end()
  })
}

t.test('behind output an error in these forms is an end, wherever it is cut', t => {
  const output = { chat: delta({ content: 'H' }), responses: typed('response.output_text.delta', { delta: 'H' }) }
  for (const dialect of ['chat', 'responses'] as const) {
    for (const form of LATE_ERROR_FORMS) {
      for (let cut = 0; cut < form.length; cut++) {
        const watcher = watch(dialect, output[dialect] + form.slice(0, cut))
        watcher.push(Buffer.from(form.slice(cut)))
        if (!watcher.ended() || watcher.lastError()?.message !== 'overloaded') t.fail(`${dialect} ${cut} ${form}`)
      }
    }
    const talk = output[dialect] + data({ delta: 'error [DONE] response.completed', choices: [] })
    t.equal(watch(dialect, talk).ended(), false, 'not where the model says such words')
  }
  t.end()
})

t.test('the end of the bytes makes a whole event of a last one without its blank line, and of a part nothing', t => {
  const finished = (dialect: Dialect, text: string): EventStreamWatcher => {
    const watcher = watch(dialect, text)
    watcher.finish()
    return watcher
  }
  t.equal(finished('chat', `${delta({ content: 'H' })}data: [DONE]`).ended(), true)
  t.equal(finished('chat', delta({ content: 'H' }).trimEnd()).phase().kind, 'output')
  t.equal(finished('chat', delta({ content: 'H' }).slice(0, -9)).phase().kind, 'starting')
  t.equal(finished('responses', 'event: response.completed\ndata: {"type":"response.comp').ended(), false)
  t.equal(finished('responses', 'event: error\ndata: {"mess').ended(), false)
  t.equal(finished('chat', 'event: error').phase().kind, 'starting')
  t.end()
})

t.test('it is said how many bytes belong to whole events', t => {
  const watcher = watchEventStream('chat')
  t.equal(watcher.push(Buffer.from('data: {}\n')), 0)
  t.equal(watcher.push(Buffer.from('\ndata: {')), 1)
  t.equal(watcher.push(Buffer.from('}\n\ndata: {}\n\nda')), 3 + 'data: {}\n\n'.length)
  t.equal(watcher.push(Buffer.from('ta: {}\r\n\r\n')), 'ta: {}\r\n\r\n'.length)
  t.equal(watcher.push(Buffer.alloc(0)), 0)
  t.end()
})

const STREAMS: readonly (readonly [string, Dialect, string])[] = [
  [
    'a chat stream',
    'chat',
    FILTER + ROLE + delta({ content: 'Grüße 😀' }) + delta({}, { finish_reason: 'stop' }) + DONE,
  ],
  ['a chat stream with an early error', 'chat', FILTER + data({ error: ERROR })],
  ['a chat stream with a late error', 'chat', ROLE + delta({ content: 'H' }) + data({ error: ERROR })],
  ['a chat stream that stops', 'chat', ROLE + delta({ content: 'H' })],
  [
    'a responses stream',
    'responses',
    typed('response.created', { response: { id: 'resp_1', instructions: 'y'.repeat(150) } }) +
      typed('response.output_text.delta', { delta: 'H' }) +
      typed('response.completed', { response: {} }),
  ],
  [
    'a responses stream that fails',
    'responses',
    typed('response.created') + typed('error', { code: 'x', message: 'm' }),
  ],
]

const seenIn = (watcher: EventStreamWatcher): unknown => ({
  phase: watcher.phase(),
  ended: watcher.ended(),
  error: watcher.lastError(),
  events: watcher.events(),
})

for (const [what, dialect, lf] of STREAMS) {
  t.test(`${what} is seen alike wherever its bytes are cut, with LF and with CRLF`, t => {
    const expected = seenIn(watch(dialect, lf))
    for (const text of [lf, lf.replaceAll('\n', '\r\n')]) {
      const bytes = Buffer.from(text)
      t.same(seenIn(watch(dialect, text)), expected)
      const bad: number[] = []
      for (let cut = 0; cut <= bytes.length; cut++) {
        const watcher = watchEventStream(dialect)
        const whole = watcher.push(bytes.subarray(0, cut))
        // What is said to be whole ends with an empty line, or is nothing.
        const before = bytes.toString('latin1', 0, whole)
        if (whole !== 0 && !/\r?\n\r?\n$/.test(before)) bad.push(cut)
        watcher.push(bytes.subarray(cut))
        if (JSON.stringify(seenIn(watcher)) !== JSON.stringify(expected)) bad.push(cut)
      }
      t.same(bad, [], 'every cut in two')
      const single = watchEventStream(dialect)
      for (const byte of bytes) single.push(Buffer.of(byte))
      t.same(seenIn(single), expected, 'byte by byte')
    }
    const random = seededRandom(17)
    const bytes = Buffer.from(lf)
    for (let run = 0; run < 200; run++) {
      const watcher = watchEventStream(dialect)
      for (let at = 0; at < bytes.length; ) {
        const length = 1 + Math.floor(random() * 90)
        watcher.push(bytes.subarray(at, at + length))
        at += length
      }
      t.strictSame(seenIn(watcher), expected)
    }
    t.end()
  })
}

t.test('a line beyond 4 MiB is content, and is not kept', t => {
  const watcher = watchEventStream('chat')
  watcher.push(Buffer.from('data: {"choices":[{"delta":{"content":"'))
  const piece = Buffer.alloc(1024 * 1024, 0x61)
  for (let i = 0; i < 6; i++) watcher.push(piece)
  watcher.push(Buffer.from('"}}]}\n\n'))
  t.equal(watcher.phase().kind, 'output')
  watcher.push(Buffer.from(DONE))
  t.equal(watcher.ended(), true, 'and what follows is read again')
  t.end()
})

// What it cost.

const CHAT_USAGE = {
  prompt_tokens: 12,
  completion_tokens: 34,
  total_tokens: 46,
  prompt_tokens_details: { cached_tokens: 8 },
}
const RESPONSES_USAGE = {
  input_tokens: 12,
  input_tokens_details: { cached_tokens: 8 },
  output_tokens: 34,
  output_tokens_details: {},
}
const READ = { promptTokens: 12, completionTokens: 34, cachedTokens: 8 }

t.test('usage is read from answers and from the last events of streams', t => {
  const texts = [
    JSON.stringify({ id: 'x', choices: [], usage: CHAT_USAGE }),
    JSON.stringify({ id: 'x', choices: [], usage: CHAT_USAGE }, null, 2),
    delta({ content: 'H' }) + data({ choices: [], usage: CHAT_USAGE }) + DONE,
    JSON.stringify({ id: 'resp_1', usage: RESPONSES_USAGE, metadata: { a: 'b'.repeat(9_000) } }),
    typed('response.completed', { response: { usage: RESPONSES_USAGE } }),
  ]
  for (const text of texts) t.same(readUsage(Buffer.from(text)), READ, text.slice(0, 60))
  t.same(readUsage(Buffer.from(JSON.stringify({ usage: { prompt_tokens: 5, total_tokens: 5 } }))), {
    promptTokens: 5,
    completionTokens: undefined,
    cachedTokens: undefined,
  })
  t.end()
})

t.test('text that talks of usage is not mistaken for it, and the last usage counts', t => {
  const said = JSON.stringify({ usage: { prompt_tokens: 999 } })
  t.same(readUsage(Buffer.from(JSON.stringify({ usage: CHAT_USAGE, content: said }))), READ)
  t.same(readUsage(Buffer.from(data({ usage: null }) + data({ usage: CHAT_USAGE }) + data({ usage: null }))), READ)
  for (const text of [
    '',
    '{}',
    '"usage"',
    '"usage":',
    '"usage":{',
    '"usage":{}',
    '"usage":{"prompt_tokens":-1}',
    '"usage":{"prompt_tokens":"5"}',
  ]) {
    t.same(readUsage(Buffer.from(text)), NO_USAGE, text)
  }
  t.same(readUsage(Buffer.from('"usage":{'.repeat(2_000))), NO_USAGE, 'a flood of it costs no more than a few looks')
  t.end()
})

t.test('of an answer as it passes the last 16 KiB are kept, however it is cut', t => {
  const bytes = Buffer.from(Array.from({ length: 20_000 }, (_, i) => String(i)).join(' '))
  for (const size of [1, 7, 1_000, 16_384, 40_000, bytes.length]) {
    const tail = createTail()
    for (let at = 0; at < bytes.length; at += size) tail.push(bytes.subarray(at, at + size))
    const kept = tail.bytes()
    t.ok(kept.length >= 16_384 && kept.length <= 2 * 16_384 + size, `${kept.length} kept of pieces of ${size}`)
    t.ok(kept.equals(bytes.subarray(bytes.length - kept.length)))
  }
  t.end()
})

// The error event of a stream that cannot be finished.

const TROUBLE = { code: 'upstream_error', message: 'The backend broke off: "so" it is.' } as const

t.test('a chat stream that breaks off ends with an error event and without [DONE]', t => {
  const event = String(streamErrorEvent('chat', TROUBLE, Buffer.alloc(0)))
  t.notMatch(event, 'DONE')
  const watcher = watch('chat', delta({ content: 'H' }) + event)
  t.match(watcher.lastError(), { code: 'upstream_error', type: 'server_error', message: TROUBLE.message })
  t.end()
})

t.test('a responses stream that breaks off ends with an error event in both forms, numbered on', t => {
  const tail = Buffer.from(
    typed('response.created', { sequence_number: 0 }) + typed('response.output_text.delta', { sequence_number: 41 }),
  )
  const event = String(streamErrorEvent('responses', TROUBLE, tail))
  t.match(event, /^event: error\ndata: .*\n\n$/)
  t.same(JSON.parse(event.slice('event: error\ndata: '.length)), {
    type: 'error',
    sequence_number: 42,
    code: 'upstream_error',
    message: TROUBLE.message,
    param: null,
    error: { message: TROUBLE.message, type: 'server_error', param: null, code: 'upstream_error' },
  })
  t.match(String(streamErrorEvent('responses', TROUBLE, Buffer.alloc(0))), '"sequence_number":0')
  t.match(watch('responses', event).lastError(), { code: 'upstream_error' })
  t.end()
})

t.test('where the protocol has no error event there is none: the connection is cut', t => {
  t.equal(streamErrorEvent('opaque', TROUBLE, Buffer.alloc(0)), undefined)
  t.end()
})
