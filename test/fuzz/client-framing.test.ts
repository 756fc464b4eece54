// Responses by chance, through everything between an upstream's bytes and a client's. With any framing, pieces, pauses
// and faults the client reads one whole response (RFC 9112 section 6.3), or its connection is cut. FUZZ_SEED repeats a
// run, FUZZ_RUNS sets its length.
import t from 'tap'
import type { Dialect } from '../../lib/azure/operations.ts'
import { chanceFor } from '../fixtures/chance.ts'
import { eventsOf, storyOf } from '../fixtures/event-stream-reader.ts'
import { type RelayScene, relayBytes, type Step } from '../fixtures/relay-bytes.ts'
import { readResponses } from '../fixtures/strict-responses.ts'

const { runs, below, happens, pick, pieces } = chanceFor(t, 400)

const USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":5}}'
const EVENTS: Readonly<Record<Dialect, readonly [string, ...string[]]>> = {
  chat: [
    'data: {"choices":[{"delta":{"content":"Hello"}}]}',
    'data: {"choices":[{"delta":{"content":"Grüße 😀"}}],"usage":null}',
    'data: {"choices":[{"delta":{"role":"assistant"}}]}',
    'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
    USAGE,
    'data: [DONE]',
    'data: {"error":"overloaded"}',
    ': a comment',
  ],
  responses: [
    'event: response.created\ndata: {"type":"response.created"}',
    'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4}',
    'event: message\ndata: {"response":{},"type":"response.completed"}',
    'event: error\ndata: {"type":"error","message":"m"}',
    ': a comment',
  ],
  claude: [
    'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}',
    'event: content_block_start\ndata: {"type":"content_block_start","content_block":{"type":"text","text":""}}',
    'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"Hello"}}',
    'event: ping\ndata: {"type":"ping"}',
    'event: message_stop\ndata: {"type":"message_stop"}',
    'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"m"}}',
    ': a comment',
  ],
  opaque: ['data: {"type":"transcript.text.delta"}', 'data: x', ': a comment'],
}

interface Upstream {
  readonly steps: readonly Step[]
  readonly body: string
  readonly isStream: boolean
  readonly status: number
  /** Its bytes came to the end that its framing names. */
  readonly whole: boolean
}

function makeBody(dialect: Dialect, isStream: boolean): string {
  if (!isStream)
    return pick([
      '',
      '{}',
      '{"choices":[]}',
      `{"a":"${'x'.repeat(below(pick([100, 100, 1_000, 70_000, happens(0.1) ? 300_000 : 3_000])))}"}`,
    ])
  const end = pick(['\n', '\n', '\r\n', '\r'])
  let text = ''
  for (let i = below(8); i > 0; i--)
    text += pick(EVENTS[dialect]).replaceAll('\n', end) + end + (happens(0.05) ? '' : end)
  if (happens(0.6)) text += (dialect === 'chat' ? 'data: [DONE]' : EVENTS.responses[2]?.replace('\n', end)) + end + end
  if (happens(0.1)) text = text.slice(0, below(text.length + 1))
  if (happens(0.01)) text = `data: ${'y'.repeat(100_000)}${end}${end}${text}`
  return text
}

function chunked(body: Buffer): Buffer {
  const parts = pieces(body).map(piece =>
    Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n')]),
  )
  return Buffer.concat([
    ...(body.length > 20_000 ? [] : parts),
    ...(body.length > 20_000 ? [Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')] : []),
    Buffer.from('0\r\n\r\n'),
  ])
}

/** Pieces as a socket brings them; of a long body not too many. */
function reads(bytes: Buffer): Buffer[] {
  if (bytes.length < 3_000) return pieces(bytes)
  const size = 1_000 + below(60_000)
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
}

function makeUpstream({ dialect, method }: RelayScene): Upstream {
  const isStream = happens(0.7)
  const status = pick([200, 200, 200, 200, 201, 204, 304, 400, 404, 422, 500])
  const body = makeBody(dialect, isStream)
  const bytes = Buffer.from(body)
  const framing = pick(['chunked', 'length', 'close'] as const)
  const bodiless = method === 'HEAD' || status === 204 || status === 304
  const type = isStream
    ? pick(['text/event-stream', 'text/event-stream; charset=utf-8', 'Text/Event-Stream'])
    : 'application/json'
  const lines = [`HTTP/1.1 ${status} X`, `Content-Type: ${type}`, 'x-request-id: r']
  if (framing === 'length') lines.push(`Content-Length: ${bytes.length}`)
  if (framing === 'chunked') lines.push('Transfer-Encoding: chunked')
  if (happens(0.05)) lines.push('Content-Encoding: gzip')
  if (happens(0.1)) lines.push('X-Accel-Buffering: yes', 'Alt-Svc: h3', 'Connection: x-hop', 'X-Hop: 1')
  const sent = bodiless ? Buffer.alloc(0) : framing === 'chunked' ? chunked(bytes) : bytes
  const all = Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), sent])
  const steps: Step[] = []
  const cutAt = happens(0.15) ? below(all.length + 1) : all.length
  for (const piece of reads(all.subarray(0, cutAt))) {
    steps.push({ kind: 'bytes', bytes: piece })
    if (happens(0.02)) steps.push({ kind: 'time', ms: pick([100, 3_000, 16_000, 40_000]) })
  }
  const dies = cutAt < all.length
  if (dies || framing === 'close') steps.push(dies && happens(0.5) ? { kind: 'reset' } : { kind: 'end' })
  // An end by closing is an end wherever it comes; only JSON tells.
  const whole = cutAt === all.length
  return { steps, body, isStream, status, whole }
}

/** The client's events less what the proxy adds of its own. */
function withoutComments(text: string): string {
  return text.replaceAll(': keep-alive\n\n', '')
}

function check(
  scene: RelayScene,
  upstream: Upstream,
  relayed: Awaited<ReturnType<typeof relayBytes>>,
): string | undefined {
  const { result, client, cut } = relayed
  if (result === undefined) return client === '' ? undefined : 'a client of an answer that is not its own'
  const { whole, rest } = readResponses(client, true, [scene.method])
  const [answer] = whole
  if (whole.length > 1) return 'more than one answer'
  if (answer === undefined)
    return cut && result.kind !== 'complete' ? undefined : `no whole answer, and no cut: ${result.kind}`
  if (rest !== '') return `behind the answer: ${rest}`
  if (cut) return answer.framing === 'close' || result.kind !== 'complete' ? undefined : 'cut behind its end'
  for (const name of ['x-accel-redirect', 'alt-svc', 'x-hop', 'connection-x'])
    if (answer.headers.has(name)) return `${name} came through`
  const isEvents = answer.headers.get('x-accel-buffering') === 'no'
  if (isEvents && answer.headers.has('content-length')) return 'events with a length'
  if (answer.framing === 'none') return answer.body === '' ? undefined : 'a body where none may be'
  const sent = Buffer.from(upstream.body).toString('latin1')
  if (!isEvents) {
    if (result.kind === 'complete' && upstream.whole && answer.body !== sent) return 'another body'
    return sent.startsWith(answer.body) ? undefined : 'a body that was never sent'
  }
  const body = Buffer.from(withoutComments(answer.body), 'latin1').toString('utf8')
  if (scene.dialect === 'opaque') return undefined
  const story = storyOf(scene.dialect, eventsOf(body))
  const isEmptyRead = !scene.isCreate && eventsOf(body).every(({ data }) => data === undefined)
  if (result.kind === 'complete' && !story.ended && !isEmptyRead) return 'complete without an end'
  const ownError =
    scene.dialect === 'claude' ? /event: error\ndata: [^\n]*\n\n$/ : /"code":"upstream_(error|timeout)"[^\n]*\}\n\n$/
  if (result.kind !== 'complete' && !ownError.test(body)) return 'broken off without a word'
  if (scene.dropUsageEvent && scene.dialect === 'chat' && eventsOf(body).some(({ data }) => data === USAGE.slice(6)))
    return 'usage is left'
  return undefined
}

t.test('a client reads one whole answer, or is cut off', async t => {
  const seen = new Map<string, number>()
  for (let run = 0; run < runs; run++) {
    const scene: RelayScene = {
      dialect: pick<Dialect>(['chat', 'chat', 'responses', 'claude', 'opaque']),
      version: pick(['1.1', '1.1', '1.0']),
      method: happens(0.03) ? 'HEAD' : 'POST',
      isCreate: happens(0.9),
      dropUsageEvent: happens(0.5),
      slow: happens(0.2),
    }
    const upstream = makeUpstream(scene)
    let problem: string | undefined
    let shown = ''
    try {
      const relayed = await relayBytes(scene, upstream.steps)
      shown = relayed.client.slice(-2_000)
      problem = check(scene, upstream, relayed)
      const what = relayed.result?.kind ?? 'failed over'
      seen.set(what, (seen.get(what) ?? 0) + 1)
    } catch (error) {
      problem = String(error)
    }
    if (problem !== undefined) {
      const steps = upstream.steps.map(step =>
        step.kind === 'bytes' ? step.bytes.toString('latin1').slice(0, 2_000) : step,
      )
      t.fail(`${problem}: ${JSON.stringify({ run, scene, steps, shown }, null, 1)}`)
      break
    }
  }
  t.comment([...seen].map(([what, count]) => `${what}: ${count}`).join(', '))
  t.ok((seen.get('complete') ?? 0) > 0 && (seen.get('cut') ?? 0) > 0)
})
