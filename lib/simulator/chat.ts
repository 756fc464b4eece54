// Chat completions as Azure answers them: compact JSON in alphabetical order, filter results everywhere, and the stream
// (azure/README.md 5.2).
import type { WholeResponse } from './errors.ts'
import type { PromptCache } from './prompt-cache.ts'
import { type Output, outputOf, piecesOf } from './structured.ts'
import { countTokens, digest, numbers, pieces } from './text.ts'

type Json = Readonly<Record<string, unknown>>

/** What an operation answers: all at once, or as events that are ready to be written. */
export type SimulatedResponse =
  | { readonly kind: 'answer'; readonly answer: WholeResponse; readonly headers?: Readonly<Record<string, string>> }
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

/** The deltas of an answer in order, and what they add up to as a message. */
interface Said {
  readonly deltas: readonly Json[]
  readonly message: Json
  readonly finish: string
}

function said(output: Output, words: readonly string[], seed: string, finish: string): Said {
  if (output.kind !== 'call') {
    const deltas = output.kind === 'json' ? piecesOf(output.text) : words
    return { deltas: deltas.map(content => ({ content })), message: { content: deltas.join('') }, finish }
  }
  const { name, arguments: whole, legacy, named } = output
  const parts = piecesOf(whole)
  if (legacy) {
    return {
      deltas: [
        { function_call: { name, arguments: '' } },
        ...parts.map(part => ({ function_call: { arguments: part } })),
      ],
      message: { content: null, function_call: { name, arguments: whole } },
      finish: 'stop',
    }
  }
  const id = `call_${digest(seed)}`
  return {
    deltas: [
      { tool_calls: [{ index: 0, id, type: 'function', function: { name, arguments: '' } }] },
      ...parts.map(part => ({ tool_calls: [{ index: 0, function: { arguments: part } }] })),
    ],
    message: { content: null, tool_calls: [{ id, type: 'function', function: { name, arguments: whole } }] },
    // A call that the request names ends with `stop`, as OpenAI's does.
    finish: named ? 'stop' : 'tool_calls',
  }
}

/** Answers a request that checkChat let through. */
export function chat(body: Json, options: ChatOptions): SimulatedResponse {
  const { model, createdS, deltas, filter, cache, cutByFilter } = options
  const prompt = promptText(body)
  const promptTokens = countTokens(prompt)
  const cachedTokens = Math.min(cache?.ask(prompt) ?? 0, promptTokens)
  const asked = body.max_completion_tokens ?? body.max_tokens
  const count = typeof asked === 'number' && asked > 0 ? Math.min(deltas, Math.floor(asked)) : deltas
  const words = pieces(prompt, count)
  const id = `chatcmpl-${digest(prompt)}`
  const output = outputOf(body, Array.isArray(body.messages) ? body.messages : [])
  const answer = said(output, words, id, cutByFilter ? 'content_filter' : count < deltas ? 'length' : 'stop')
  const usage = usageOf(promptTokens, answer.deltas.length, cachedTokens)
  const common: Common = {
    id,
    created: createdS,
    model,
    filter,
    fingerprint: `fp_${digest(model, 10)}`,
    usage,
  }
  return body.stream === true ? streamed(body, prompt, answer, common) : whole(answer, common)
}

interface Common {
  readonly id: string
  readonly created: number
  readonly model: string
  readonly filter: ChatOptions['filter']
  readonly fingerprint: string
  readonly usage: Json
}

function whole(
  { message, finish }: Said,
  { id, created, model, filter, fingerprint, usage }: Common,
): SimulatedResponse {
  const filtered = filter === 'off' ? {} : { content_filter_results: OUTPUT_FILTER }
  const answer = {
    choices: [
      {
        ...filtered,
        finish_reason: finish,
        index: 0,
        logprobs: null,
        message: { annotations: [], refusal: null, role: 'assistant', ...message },
      },
    ],
    created,
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

function streamed(
  body: Json,
  prompt: string,
  { deltas, message, finish }: Said,
  { id, created, model, filter, fingerprint, usage }: Common,
): SimulatedResponse {
  const streamOptions = body.stream_options
  const wantsUsage =
    typeof streamOptions === 'object' && streamOptions !== null && Reflect.get(streamOptions, 'include_usage') === true
  const next = numbers(`obfuscation ${prompt}`)
  const padding = (): string => digest(String(next()), 1 + (next() >>> 28))
  const nullUsage = wantsUsage ? { usage: null } : {}
  const base = { created, id, model }
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
  const opening = typeof message.content === 'string' ? '' : null
  events.push(chunk({}, { content: opening, refusal: null, role: 'assistant' }, null))
  const startUp = events.length
  for (const delta of deltas)
    events.push(chunk({ hate: SAFE, self_harm: SAFE, sexual: SAFE, violence: SAFE }, delta, null))
  events.push(chunk({}, {}, finish))
  if (filter === 'async') {
    const length = typeof message.content === 'string' ? message.content.length : 0
    const offsets = { check_offset: 0, start_offset: 0, end_offset: length }
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
