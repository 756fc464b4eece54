// Chat completions as Azure answers them: compact JSON in alphabetical order, filter results everywhere, and the stream of the
// wire reference's section 5.2.
import { type Answer, modelError } from './errors.ts'
import type { PromptCache } from './prompt-cache.ts'
import { countTokens, digest, numbers, pieces } from './text.ts'

type Json = Readonly<Record<string, unknown>>

/** What an operation answers: all at once, or as events that are ready to be written. */
export type Reply =
  | { readonly kind: 'answer'; readonly answer: Answer; readonly headers?: Readonly<Record<string, string>> }
  | {
      readonly kind: 'events'
      /** Each with its final blank line. */
      readonly events: readonly string[]
      /** How many of them come before any output. */
      readonly startUp: number
      /** How many at the end are the protocol's own end. */
      readonly terminal: number
    }

export interface ChatOptions {
  /** The model's versioned name, which answers show instead of the deployment. */
  readonly model: string
  readonly apiVersion: string
  readonly createdS: number
  readonly deltas: number
  readonly filter: 'default' | 'async' | 'off'
  readonly cache: PromptCache | undefined
  readonly cutByFilter: boolean
}

const KNOWN = new Set([
  'audio',
  'data_sources',
  'frequency_penalty',
  'function_call',
  'functions',
  'logit_bias',
  'logprobs',
  'max_completion_tokens',
  'max_tokens',
  'messages',
  'metadata',
  'modalities',
  'model',
  'n',
  'parallel_tool_calls',
  'prediction',
  'presence_penalty',
  'prompt_cache_key',
  'prompt_cache_retention',
  'reasoning_effort',
  'response_format',
  'safety_identifier',
  'seed',
  'service_tier',
  'stop',
  'store',
  'stream',
  'stream_options',
  'temperature',
  'tool_choice',
  'tools',
  'top_logprobs',
  'top_p',
  'user',
  'user_security_context',
  'verbosity',
  'web_search_options',
])

const MAX_MESSAGES = 2_048
const MAX_TOOLS = 128

const SAFE = { filtered: false, severity: 'safe' } as const
const OUTPUT_FILTER = {
  hate: SAFE,
  protected_material_code: { detected: false, filtered: false },
  self_harm: SAFE,
  sexual: SAFE,
  violence: SAFE,
} as const
const PROMPT_FILTER = [
  {
    prompt_index: 0,
    content_filter_results: {
      hate: SAFE,
      jailbreak: { detected: false, filtered: false },
      self_harm: SAFE,
      sexual: SAFE,
      violence: SAFE,
    },
  },
] as const

/** Why Azure refuses the request, if it does. */
export function checkChat(body: Json, apiVersion: string): Answer | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name)) return modelError(400, `Unrecognized request argument supplied: ${name}`)
  }
  const { messages, tools, stream, stream_options: streamOptions } = body
  if (messages === undefined)
    return modelError(400, "Missing required parameter: 'messages'.", {
      param: 'messages',
      code: 'missing_required_parameter',
    })
  if (!Array.isArray(messages))
    return modelError(400, "Invalid type for 'messages': expected an array of objects.", {
      param: 'messages',
      code: 'invalid_type',
    })
  if (messages.length === 0) {
    return modelError(
      400,
      "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
      {
        param: 'messages',
        code: 'empty_array',
      },
    )
  }
  if (messages.length > MAX_MESSAGES)
    return modelError(400, "Invalid 'messages': array too long.", { param: 'messages', code: 'array_above_max_length' })
  for (const [i, message] of messages.entries()) {
    if (typeof message !== 'object' || message === null || typeof Reflect.get(message, 'role') !== 'string') {
      return modelError(400, `Missing required parameter: 'messages[${i}].role'.`, {
        param: `messages[${i}].role`,
        code: 'missing_required_parameter',
      })
    }
  }
  if (Array.isArray(tools) && tools.length > MAX_TOOLS)
    return modelError(400, "Invalid 'tools': array too long.", { param: 'tools', code: 'array_above_max_length' })
  if (streamOptions !== undefined && streamOptions !== null) {
    // Older versions do not know the option, and it needs a stream (wire reference, 1.2).
    if (/^20(22|23)-|^2024-0[1-8]/.test(apiVersion))
      return modelError(400, 'Unrecognized request argument supplied: stream_options')
    if (stream !== true) {
      return modelError(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", {
        param: 'stream_options',
      })
    }
    if (body.data_sources !== undefined)
      return modelError(400, 'Validation error: stream_options is not supported with data_sources.', {
        param: 'stream_options',
      })
  }
  if (stream !== undefined && stream !== null && typeof stream !== 'boolean') {
    return modelError(400, "Invalid type for 'stream': expected a boolean.", { param: 'stream', code: 'invalid_type' })
  }
  return undefined
}

/** The prompt as one text: what is counted and cached. Tools come first, as in Azure's cache. */
export function promptText(body: Json): string {
  return JSON.stringify([body.tools ?? [], body.instructions ?? '', body.messages ?? body.input ?? body.prompt ?? ''])
}

function usageOf(promptTokens: number, completionTokens: number, cachedTokens: number): Json {
  return {
    completion_tokens: completionTokens,
    completion_tokens_details: {
      accepted_prediction_tokens: 0,
      audio_tokens: 0,
      reasoning_tokens: 0,
      rejected_prediction_tokens: 0,
    },
    prompt_tokens: promptTokens,
    prompt_tokens_details: { audio_tokens: 0, cached_tokens: cachedTokens },
    total_tokens: promptTokens + completionTokens,
  }
}

const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`

/** Answers a request that checkChat let through. */
export function chat(body: Json, options: ChatOptions): Reply {
  const { model, createdS, deltas, filter, cache, cutByFilter } = options
  const prompt = promptText(body)
  const promptTokens = countTokens(prompt)
  const cachedTokens = Math.min(cache?.ask(prompt) ?? 0, promptTokens)
  const asked = body.max_completion_tokens ?? body.max_tokens
  const count = typeof asked === 'number' && asked > 0 ? Math.min(deltas, Math.floor(asked)) : deltas
  const words = pieces(prompt, count)
  const completionTokens = words.length
  const id = `chatcmpl-${digest(prompt)}`
  const finish = cutByFilter ? 'content_filter' : count < deltas ? 'length' : 'stop'
  const usage = usageOf(promptTokens, completionTokens, cachedTokens)
  const fingerprint = `fp_${digest(model, 10)}`
  const filtered = filter === 'off' ? {} : { content_filter_results: OUTPUT_FILTER }

  if (body.stream !== true) {
    const answer = {
      choices: [
        {
          ...filtered,
          finish_reason: finish,
          index: 0,
          logprobs: null,
          message: { annotations: [], content: words.join(''), refusal: null, role: 'assistant' },
        },
      ],
      created: createdS,
      id,
      model,
      object: 'chat.completion',
      ...(filter === 'off' ? {} : { prompt_filter_results: PROMPT_FILTER }),
      system_fingerprint: fingerprint,
      usage,
    }
    return {
      kind: 'answer',
      answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: `${JSON.stringify(answer)}\n` },
    }
  }

  const streamOptions = body.stream_options
  const wantsUsage =
    typeof streamOptions === 'object' && streamOptions !== null && Reflect.get(streamOptions, 'include_usage') === true
  const next = numbers(`obfuscation ${prompt}`)
  const padding = (): string => digest(String(next()), 1 + (next() >>> 28))
  const nullUsage = wantsUsage ? { usage: null } : {}
  const base = { created: createdS, id, model }
  const tail = { object: 'chat.completion.chunk', system_fingerprint: fingerprint, ...nullUsage }
  const chunk = (results: Json, delta: Json, reason: string | null): string =>
    event({
      choices: [
        {
          ...(filter === 'default' ? { content_filter_results: results } : {}),
          delta,
          finish_reason: reason,
          index: 0,
          logprobs: null,
        },
      ],
      ...base,
      obfuscation: padding(),
      ...tail,
    })

  const events: string[] = []
  if (filter !== 'off') {
    events.push(event({ choices: [], created: 0, id: '', model: '', object: '', prompt_filter_results: PROMPT_FILTER }))
  }
  events.push(chunk({}, { content: '', refusal: null, role: 'assistant' }, null))
  const startUp = events.length
  for (const word of words)
    events.push(chunk({ hate: SAFE, self_harm: SAFE, sexual: SAFE, violence: SAFE }, { content: word }, null))
  events.push(chunk({}, {}, finish))
  if (filter === 'async') {
    const offsets = { check_offset: 0, start_offset: 0, end_offset: words.join('').length }
    events.push(
      event({
        choices: [
          { content_filter_offsets: offsets, content_filter_results: OUTPUT_FILTER, finish_reason: null, index: 0 },
        ],
        created: 0,
        id: '',
        model: '',
        object: '',
      }),
    )
  }
  if (wantsUsage) events.push(event({ choices: [], ...base, obfuscation: padding(), ...tail, usage }))
  events.push('data: [DONE]\n\n')
  return { kind: 'events', events, startUp, terminal: 1 }
}
