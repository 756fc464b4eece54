// The Responses API with its state, which lives in one resource: create, stream, read, resume, delete, cancel, list inputs; and
// reasoning that only its maker can decrypt (wire reference, sections 1.4, 1.5, 4.3, 5.3).
import { createHmac } from 'node:crypto'
import { promptText, type Reply } from './chat.ts'
import { type Answer, modelError } from './errors.ts'
import type { PromptCache } from './prompt-cache.ts'
import { countTokens, digest, pieces } from './text.ts'

type Json = Readonly<Record<string, unknown>>

/** Responses kept per resource; the oldest is forgotten, as if its 30 days were over. */
const MAX_STORED = 10_000

interface Stored {
  readonly response: Json
  readonly input: readonly Json[]
  /** The events of its stream, kept when it was made with stream and background. */
  readonly events: readonly string[] | undefined
}

export interface ResponsesOptions {
  readonly createdS: number
  readonly deltas: number
  readonly cache: PromptCache | undefined
}

export interface ResponseStore {
  check(body: Json): Answer | undefined
  create(body: Json, options: ResponsesOptions): Reply
  read(id: string): Reply
  /** @param startingAfter the last sequence number the client has seen */
  resume(id: string, startingAfter: number): Reply
  remove(id: string): Reply
  cancel(id: string): Reply
  inputItems(id: string, query: URLSearchParams): Reply
  size(): number
}

const KNOWN = new Set([
  'background',
  'context_management',
  'conversation',
  'include',
  'input',
  'instructions',
  'max_output_tokens',
  'max_tool_calls',
  'metadata',
  'model',
  'parallel_tool_calls',
  'previous_response_id',
  'prompt',
  'prompt_cache_key',
  'prompt_cache_retention',
  'reasoning',
  'safety_identifier',
  'service_tier',
  'store',
  'stream',
  'stream_options',
  'temperature',
  'text',
  'tool_choice',
  'tools',
  'top_logprobs',
  'top_p',
  'truncation',
  'user',
])

const pretty = (value: unknown, status = 200): Reply => ({
  kind: 'answer',
  answer: { status, headers: { 'Content-Type': 'application/json' }, body: `${JSON.stringify(value, null, 2)}\n` },
})

const refused = (answer: Answer): Reply => ({ kind: 'answer', answer })

function unknownResponse(id: string): Answer {
  return modelError(404, `Response with id '${id}' not found.`)
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function inputItemsOf(input: unknown): readonly Json[] {
  if (Array.isArray(input)) return input.filter(isObject)
  if (typeof input !== 'string') return []
  return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }]
}

/**
 * @param secret what this resource encrypts reasoning with: another resource has another one
 */
export function createResponseStore(secret: string): ResponseStore {
  const stored = new Map<string, Stored>()
  let made = 0

  const seal = (text: string): string => {
    const mac = createHmac('sha256', secret).update(text).digest('base64url')
    return `gAAAAA${Buffer.from(text).toString('base64url')}.${mac}`
  }
  const opens = (sealed: string): boolean => {
    const text = Buffer.from(sealed.slice(6).split('.')[0] ?? '', 'base64url').toString()
    return seal(text) === sealed
  }

  const checkState = (body: Json): Answer | undefined => {
    const previous = body.previous_response_id
    if (previous !== undefined && previous !== null) {
      if (typeof previous !== 'string') {
        return modelError(400, "Invalid type for 'previous_response_id': expected a string.", {
          param: 'previous_response_id',
          code: 'invalid_type',
        })
      }
      if (!stored.has(previous)) {
        return modelError(400, `Previous response with id '${previous}' not found.`, {
          param: 'previous_response_id',
          code: 'previous_response_not_found',
        })
      }
    }
    for (const item of inputItemsOf(body.input)) {
      const sealed = item.encrypted_content
      if (typeof sealed === 'string' && !opens(sealed)) {
        const shown = `${sealed.slice(0, 4)}…${sealed.slice(-3)}`
        return modelError(
          400,
          `The encrypted content ${shown} could not be verified. Reason: Encrypted content could not be decrypted or parsed.`,
          { code: 'invalid_encrypted_content' },
        )
      }
    }
    return undefined
  }

  const remember = (id: string, entry: Stored): void => {
    stored.set(id, entry)
    const oldest = stored.keys().next()
    if (stored.size > MAX_STORED && oldest.done !== true) stored.delete(oldest.value)
  }

  return {
    size: () => stored.size,
    check(body) {
      for (const name of Object.keys(body)) {
        if (!KNOWN.has(name))
          return modelError(400, `Unknown parameter: '${name}'.`, { param: name, code: 'unknown_parameter' })
      }
      const { input, background, store } = body
      if (input === undefined && body.prompt === undefined) {
        return modelError(400, "Missing required parameter: 'input'.", {
          param: 'input',
          code: 'missing_required_parameter',
        })
      }
      if (typeof input !== 'string' && !Array.isArray(input) && input !== undefined) {
        return modelError(400, "Invalid type for 'input': expected one of an array of objects or string.", {
          param: 'input',
          code: 'invalid_type',
        })
      }
      if (background === true && store === false)
        return modelError(400, "Background mode requires 'store' to be true.", { param: 'store' })
      return checkState(body)
    },
    create(body, { createdS, deltas, cache }) {
      made++
      const previous = typeof body.previous_response_id === 'string' ? stored.get(body.previous_response_id) : undefined
      const prompt = `${previous === undefined ? '' : JSON.stringify(previous.input)}${promptText(body)}`
      const promptTokens = countTokens(prompt)
      const cachedTokens = Math.min(cache?.ask(prompt) ?? 0, promptTokens)
      const seed = digest(`${secret} ${made} ${prompt}`, 40)
      const id = `resp_${seed}`
      const words = pieces(prompt, deltas)
      const text = words.join('')
      const include = Array.isArray(body.include) ? body.include : []
      const reasoning = {
        id: `rs_${seed}`,
        type: 'reasoning',
        summary: [],
        ...(include.includes('reasoning.encrypted_content') ? { encrypted_content: seal(`thoughts on ${seed}`) } : {}),
      }
      const part = { type: 'output_text', annotations: [], logprobs: [], text }
      const message = { id: `msg_${seed}`, type: 'message', status: 'completed', role: 'assistant', content: [part] }
      const common = {
        id,
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
        prompt_cache_key: body.prompt_cache_key ?? null,
        reasoning: { effort: 'medium', summary: null },
        service_tier: 'default',
        store: body.store !== false,
        temperature: 1,
        text: { format: { type: 'text' } },
        tool_choice: 'auto',
        tools: body.tools ?? [],
        top_p: 1,
        truncation: 'disabled',
        user: null,
        metadata: body.metadata ?? {},
      }
      const filters = [
        {
          blocked: false,
          source_type: 'prompt',
          content_filter_raw: [],
          content_filter_results: { jailbreak: { detected: false, filtered: false } },
          content_filter_offsets: { start_offset: 0, end_offset: prompt.length, check_offset: 0 },
        },
      ]
      const usage = {
        input_tokens: promptTokens,
        input_tokens_details: { cached_tokens: cachedTokens },
        output_tokens: words.length,
        output_tokens_details: { reasoning_tokens: 0 },
        total_tokens: promptTokens + words.length,
      }
      const begun = { ...common, status: 'in_progress', output: [], usage: null }
      const done = {
        ...common,
        status: 'completed',
        completed_at: createdS + 1,
        content_filters: filters,
        output: [reasoning, message],
        usage,
      }

      let sequence = 0
      const event = (type: string, fields: Json): string =>
        `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence++, ...fields })}\n\n`
      const at = { item_id: message.id, output_index: 1, content_index: 0 }
      const events =
        body.stream === true
          ? [
              event('response.created', { response: begun }),
              event('response.in_progress', { response: begun }),
              event('response.output_item.added', { output_index: 0, item: { ...reasoning, summary: [] } }),
              event('response.output_item.done', { output_index: 0, item: reasoning }),
              event('response.output_item.added', {
                output_index: 1,
                item: { ...message, status: 'in_progress', content: [] },
              }),
              event('response.content_part.added', { ...at, part: { ...part, text: '' } }),
              ...words.map(word =>
                event('response.output_text.delta', { ...at, delta: word, obfuscation: digest(word, 8) }),
              ),
              event('response.output_text.done', { ...at, text }),
              event('response.content_part.done', { ...at, part }),
              event('response.output_item.done', { output_index: 1, item: message }),
              event('response.completed', { response: done }),
            ]
          : undefined
      if (body.store !== false) {
        const input = [...(previous?.input ?? []), ...inputItemsOf(body.input), message].map((item: Json, i) => ({
          ...item,
          id: item.id ?? `item_${digest(`${seed} ${i}`, 12)}`,
        }))
        remember(id, { response: done, input, events: body.background === true ? events : undefined })
      }
      return events === undefined ? pretty(done) : { kind: 'events', events, startUp: 2, terminal: 1 }
    },
    read(id) {
      const entry = stored.get(id)
      return entry === undefined ? refused(unknownResponse(id)) : pretty(entry.response)
    },
    resume(id, startingAfter) {
      const entry = stored.get(id)
      if (entry === undefined) return refused(unknownResponse(id))
      if (entry.events === undefined) {
        return refused(
          modelError(
            400,
            'This response cannot be streamed because it was not created with background=true and stream=true.',
          ),
        )
      }
      return { kind: 'events', events: entry.events.slice(startingAfter + 1), startUp: 0, terminal: 1 }
    },
    remove(id) {
      if (!stored.delete(id)) return refused(unknownResponse(id))
      return pretty({ object: 'response.deleted', id, deleted: true })
    },
    cancel(id) {
      const entry = stored.get(id)
      if (entry === undefined) return refused(unknownResponse(id))
      if (entry.response.background !== true)
        return refused(modelError(400, 'Only responses created with background=true can be cancelled.'))
      return pretty(entry.response)
    },
    inputItems(id, query) {
      const entry = stored.get(id)
      if (entry === undefined) return refused(unknownResponse(id))
      const limit = Math.min(Math.max(Number(query.get('limit') ?? 20), 1), 100)
      const ordered = query.get('order') === 'asc' ? entry.input : [...entry.input].reverse()
      const data = ordered.slice(0, limit)
      return pretty({
        object: 'list',
        data,
        first_id: data[0]?.id ?? null,
        last_id: data.at(-1)?.id ?? null,
        has_more: ordered.length > data.length,
      })
    },
  }
}
