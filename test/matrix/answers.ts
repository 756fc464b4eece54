// Requests of the fault matrix, and every byte of their sound answers: a client must get exactly these, whatever fails.

export type Dialect = 'chat' | 'responses' | 'claude'

export interface Operation {
  readonly name: string
  readonly dialect: Dialect
  /** At the proxy. */
  readonly path: string
  readonly streams: boolean
  /** @param turn for what must differ from request to request */
  request(turn: number): object
  /** Of a stream: its events before any output. */
  readonly startUp: readonly string[]
  /** Of a stream: its output and its protocol's end. */
  readonly output: readonly string[]
  /** All bytes of the answer. */
  readonly whole: string
}

export const MODEL = 'gpt-4o'

const data = (value: object): string => `data: ${JSON.stringify(value)}\n\n`
const named = (type: string, fields: object): string => `event: ${type}\n${data({ type, ...fields })}`

const chunk = (choices: readonly object[], more: object = {}): string =>
  data({ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: MODEL, choices, ...more })
const delta = (fields: object, reason: string | null = null): string =>
  chunk([{ index: 0, delta: fields, finish_reason: reason }])

const CHAT_START = [
  chunk([], { prompt_filter_results: [{ prompt_index: 0, content_filter_results: {} }] }),
  delta({ role: 'assistant', content: '' }),
]
const CHAT_OUTPUT = [
  ...['Hel', 'lo, ', 'world'].map(content => delta({ content })),
  delta({}, 'stop'),
  'data: [DONE]\n\n',
]
const CHAT_WHOLE = JSON.stringify({
  id: 'chatcmpl-1',
  object: 'chat.completion',
  created: 1,
  model: MODEL,
  choices: [{ index: 0, message: { role: 'assistant', content: 'Hello' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 5, completion_tokens: 1, total_tokens: 6 },
})

const response = (status: string, output: readonly object[]): object => ({
  id: 'resp_0123456789abcdef',
  object: 'response',
  status,
  output,
})
const SAID = {
  type: 'message',
  id: 'msg_0123456789abcdef',
  role: 'assistant',
  content: [{ type: 'output_text', text: 'Hello' }],
}
const RESPONSES_START = [
  named('response.created', { sequence_number: 0, response: response('in_progress', []) }),
  named('response.in_progress', { sequence_number: 1, response: response('in_progress', []) }),
]
const RESPONSES_OUTPUT = [
  named('response.output_text.delta', { sequence_number: 2, delta: 'Hel' }),
  named('response.output_text.delta', { sequence_number: 3, delta: 'lo' }),
  named('response.completed', { sequence_number: 4, response: response('completed', [SAID]) }),
]

const message = (content: readonly object[]): object => ({
  id: 'msg_claude',
  type: 'message',
  role: 'assistant',
  model: MODEL,
  content,
  stop_reason: null,
  usage: { input_tokens: 5, output_tokens: 1 },
})
const MESSAGES_START = [named('message_start', { message: message([]) }), named('ping', {})]
const MESSAGES_OUTPUT = [
  named('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
  named('content_block_delta', { index: 0, delta: { type: 'text_delta', text: 'Hello' } }),
  named('content_block_stop', { index: 0 }),
  named('message_delta', { delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 1 } }),
  named('message_stop', {}),
]

const asked = [{ role: 'user', content: 'Hello' }]

function whole(name: string, dialect: Dialect, path: string, request: object, answer: object | string): Operation {
  return {
    name,
    dialect,
    path,
    streams: false,
    request: () => ({ model: MODEL, ...request }),
    startUp: [],
    output: [],
    whole: typeof answer === 'string' ? answer : JSON.stringify(answer),
  }
}

function stream(
  name: string,
  dialect: Dialect,
  path: string,
  request: object,
  events: { readonly startUp: readonly string[]; readonly output: readonly string[] },
): Operation {
  const { startUp, output } = events
  return {
    ...whole(name, dialect, path, { ...request, stream: true }, [...startUp, ...output].join('')),
    streams: true,
    startUp,
    output,
  }
}

const CHAT = '/v1/chat/completions'
const RESPONSES = '/v1/responses'
const MESSAGES = '/anthropic/v1/messages'

/** Asked in turn. */
export const OPERATIONS: readonly Operation[] = [
  whole('chat', 'chat', CHAT, { messages: asked }, CHAT_WHOLE),
  stream('chat stream', 'chat', CHAT, { messages: asked }, { startUp: CHAT_START, output: CHAT_OUTPUT }),
  whole('response', 'responses', RESPONSES, { input: 'Hello' }, response('completed', [SAID])),
  stream(
    'response stream',
    'responses',
    RESPONSES,
    { input: 'Hello' },
    { startUp: RESPONSES_START, output: RESPONSES_OUTPUT },
  ),
  whole('message', 'claude', MESSAGES, { messages: asked, max_tokens: 9 }, message([{ type: 'text', text: 'Hello' }])),
  stream(
    'message stream',
    'claude',
    MESSAGES,
    { messages: asked, max_tokens: 9 },
    { startUp: MESSAGES_START, output: MESSAGES_OUTPUT },
  ),
  whole(
    'embedding',
    'chat',
    '/v1/embeddings',
    { input: 'Hello' },
    { object: 'list', data: [{ object: 'embedding', index: 0, embedding: [0.5, 0.25] }], model: MODEL },
  ),
]

/** A turn with reasoning that another resource may have encrypted: a new item each time, whose maker nobody knows. */
export const REASONING: Operation = {
  ...whole('reasoning', 'responses', RESPONSES, {}, response('completed', [SAID])),
  request: turn => ({
    model: MODEL,
    store: false,
    input: [
      { type: 'reasoning', id: `rs_${turn}`, summary: [], encrypted_content: `gAAAA-matrix-item-of-turn-${turn}` },
      { role: 'user', content: 'Go on' },
    ],
  }),
}
