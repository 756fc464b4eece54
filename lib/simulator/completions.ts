// The older text completions as Azure answers them.
import type { SimulatedResponse } from './chat.ts'
import { modelError, type WholeResponse } from './errors.ts'
import { countTokens, digest, pieces } from './text.ts'

type Json = Readonly<Record<string, unknown>>

const KNOWN = new Set([
  'best_of',
  'echo',
  'frequency_penalty',
  'logit_bias',
  'logprobs',
  'max_tokens',
  'model',
  'n',
  'presence_penalty',
  'prompt',
  'seed',
  'stop',
  'stream',
  'stream_options',
  'suffix',
  'temperature',
  'top_p',
  'user',
])

/** Why Azure refuses the request, if it does. */
export function checkCompletion(body: Json): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name)) return modelError(400, `Unrecognized request argument supplied: ${name}`)
  }
  if (typeof body.prompt !== 'string' && !Array.isArray(body.prompt)) {
    return modelError(400, "Missing required parameter: 'prompt'.", { param: 'prompt' })
  }
  return undefined
}

/** Answers a request that checkCompletion let through. */
export function completion(body: Json, model: string, createdS: number, deltas: number): SimulatedResponse {
  const prompt = JSON.stringify(body.prompt)
  const words = pieces(prompt, typeof body.max_tokens === 'number' ? Math.min(deltas, body.max_tokens) : deltas)
  const base = { id: `cmpl-${digest(prompt)}`, object: 'text_completion', created: createdS, model }
  const promptTokens = countTokens(prompt)
  const usage = {
    completion_tokens: words.length,
    prompt_tokens: promptTokens,
    total_tokens: promptTokens + words.length,
  }
  const choice = (text: string, reason: string | null): Json => ({
    content_filter_results: {},
    finish_reason: reason,
    index: 0,
    logprobs: null,
    text,
  })
  if (body.stream !== true) {
    const answer = { choices: [choice(words.join(''), 'stop')], ...base, usage }
    return {
      kind: 'answer',
      answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: `${JSON.stringify(answer)}\n` },
    }
  }
  const options = body.stream_options
  const wantsUsage = typeof options === 'object' && options !== null && Reflect.get(options, 'include_usage') === true
  const event = (value: unknown): string => `data: ${JSON.stringify(value)}\n\n`
  const events = words.map((word, i) =>
    event({ choices: [choice(word, i === words.length - 1 ? 'stop' : null)], ...base }),
  )
  if (wantsUsage) events.push(event({ choices: [], ...base, usage }))
  events.push('data: [DONE]\n\n')
  return { kind: 'events', events, startUp: 0, terminal: 1 }
}
