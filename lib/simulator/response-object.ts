// A response as Azure makes it: its items, the object that holds them, and the events of its stream (azure/README.md
// 4.3 and 5.3).

import { type Output, piecesOf } from './structured.ts'
import { digest } from './text.ts'

type Json = Readonly<Record<string, unknown>>

/** What a response is made from. */
export interface ResponseParts {
  readonly body: Json
  /** Hex digits that no other response has. */
  readonly seed: string
  readonly createdS: number
  readonly promptChars: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly output: Output
  /** What it says where nothing else is fixed. */
  readonly words: readonly string[]
  /** Encrypts reasoning so that only this resource can read it. */
  readonly seal: (text: string) => string
  /** A warm-up: an id, and nothing said. */
  readonly silent: boolean
}

/** A response in both of its forms. */
export interface MadeResponse {
  readonly id: string
  readonly response: Json
  readonly items: readonly Json[]
  /** Its stream, event by event, each with its final blank line. */
  readonly events: readonly string[]
  /** How many of them come before any output. */
  readonly startUp: number
}

type Emit = (type: string, fields: Json) => string

function commonFields({ body, seed, createdS }: ResponseParts): Json {
  return {
    id: `resp_${seed}`,
    object: 'response',
    created_at: createdS,
    background: body.background === true,
    error: null,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    model: body.model,
    parallel_tool_calls: true,
    previous_response_id: body.previous_response_id ?? null,
    ...(body.conversation === undefined ? {} : { conversation: conversationOf(body.conversation) }),
    prompt_cache_key: body.prompt_cache_key ?? null,
    reasoning: { effort: 'medium', summary: null },
    service_tier: 'default',
    store: body.store !== false,
    temperature: 1,
    text: body.text ?? { format: { type: 'text' } },
    tool_choice: body.tool_choice ?? 'auto',
    tools: body.tools ?? [],
    top_p: 1,
    truncation: 'disabled',
    user: null,
    metadata: body.metadata ?? {},
  }
}

/** A response shows its conversation as an object, in whichever form the request named it. */
function conversationOf(given: unknown): unknown {
  return typeof given === 'string' ? { id: given } : given
}

function callEvents(emit: Emit, item: Json, whole: string): string[] {
  const at = { item_id: item.id, output_index: 1 }
  return [
    emit('response.output_item.added', { output_index: 1, item: { ...item, status: 'in_progress', arguments: '' } }),
    ...piecesOf(whole).map(delta =>
      emit('response.function_call_arguments.delta', { ...at, delta, obfuscation: digest(delta, 8) }),
    ),
    emit('response.function_call_arguments.done', { ...at, name: item.name, arguments: whole }),
    emit('response.output_item.done', { output_index: 1, item }),
  ]
}

function messageEvents(emit: Emit, message: Json, part: Json, deltas: readonly string[]): string[] {
  const at = { item_id: message.id, output_index: 1, content_index: 0 }
  return [
    emit('response.output_item.added', { output_index: 1, item: { ...message, status: 'in_progress', content: [] } }),
    emit('response.content_part.added', { ...at, part: { ...part, text: '' } }),
    ...deltas.map(delta =>
      emit('response.output_text.delta', { ...at, delta, logprobs: [], obfuscation: digest(delta, 8) }),
    ),
    emit('response.output_text.done', { ...at, text: part.text, logprobs: [] }),
    emit('response.content_part.done', { ...at, part }),
    emit('response.output_item.done', { output_index: 1, item: message }),
  ]
}

/** Makes a response that is whole at once, and the events that lead to it. */
export function makeResponse(parts: ResponseParts): MadeResponse {
  const { body, seed, createdS, output, words, seal, silent } = parts
  const include: readonly unknown[] = Array.isArray(body.include) ? body.include : []
  const reasoning = {
    id: `rs_${seed}`,
    type: 'reasoning',
    summary: [],
    ...(include.includes('reasoning.encrypted_content') ? { encrypted_content: seal(`thoughts on ${seed}`) } : {}),
  }
  const deltas = output.kind === 'json' ? piecesOf(output.text) : words
  const part = { type: 'output_text', annotations: [], logprobs: [], text: deltas.join('') }
  const spoken: Json =
    output.kind === 'call'
      ? {
          id: `fc_${seed}`,
          type: 'function_call',
          status: 'completed',
          call_id: `call_${seed.slice(0, 24)}`,
          name: output.name,
          arguments: output.arguments,
        }
      : { id: `msg_${seed}`, type: 'message', status: 'completed', role: 'assistant', content: [part] }
  const items = silent ? [] : [reasoning, spoken]
  const outputTokens = silent ? 0 : deltas.length
  const common = commonFields(parts)
  const done = {
    ...common,
    status: 'completed',
    completed_at: createdS + 1,
    content_filters: [
      {
        blocked: false,
        source_type: 'prompt',
        content_filter_raw: [],
        content_filter_results: { jailbreak: { detected: false, filtered: false } },
        content_filter_offsets: { start_offset: 0, end_offset: parts.promptChars, check_offset: 0 },
      },
    ],
    output: items,
    usage: {
      input_tokens: parts.promptTokens,
      input_tokens_details: { cached_tokens: parts.cachedTokens },
      output_tokens: outputTokens,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: parts.promptTokens + outputTokens,
    },
  }
  const begun = { ...common, status: 'in_progress', output: [], usage: null }
  let sequence = 0
  const emit: Emit = (type, fields) =>
    `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence++, ...fields })}\n\n`
  const opening = [emit('response.created', { response: begun }), emit('response.in_progress', { response: begun })]
  const middle = silent
    ? []
    : [
        emit('response.output_item.added', { output_index: 0, item: { ...reasoning, summary: [] } }),
        emit('response.output_item.done', { output_index: 0, item: reasoning }),
        ...(output.kind === 'call'
          ? callEvents(emit, spoken, output.arguments)
          : messageEvents(emit, spoken, part, deltas)),
      ]
  return {
    id: `resp_${seed}`,
    response: done,
    items,
    events: [...opening, ...middle, emit('response.completed', { response: done })],
    startUp: opening.length,
  }
}
