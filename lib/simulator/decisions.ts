// Decisions: questions about a text, answered with probabilities; never streamed, nothing stays behind (azure/README.md
// 13.2).
import type { SimulatedResponse } from './chat.ts'
import { modelError, type WholeResponse } from './errors.ts'
import { countTokens, digest } from './text.ts'

type Json = Readonly<Record<string, unknown>>

const KNOWN = new Set(['input', 'model', 'prompt_cache_key', 'questions', 'safety_identifier'])
const MAX_QUESTIONS = 200
const MIN_CHOICES = 2
const MAX_CHOICES = 255
const MAX_LEVELS = 10

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function questionsOf(body: Json): readonly Json[] {
  return Array.isArray(body.questions) ? body.questions.filter(isObject) : []
}

function optionsOf({ type, choices, levels }: Json): readonly Json[] {
  const listed: unknown = type === 'choice' ? choices : levels
  return Array.isArray(listed) ? listed.filter(isObject) : []
}

function checkQuestion(question: Json, i: number): WholeResponse | undefined {
  const { type } = question
  if (type === 'predicate') return undefined
  if (type !== 'choice' && type !== 'score') {
    return modelError(400, `Invalid value for 'questions[${i}].type'.`, { param: `questions[${i}].type` })
  }
  const count = optionsOf(question).length
  const most = type === 'choice' ? MAX_CHOICES : MAX_LEVELS
  if (count >= MIN_CHOICES && count <= most) return undefined
  const param = `questions[${i}].${type === 'choice' ? 'choices' : 'levels'}`
  return modelError(400, `Invalid '${param}': expected ${MIN_CHOICES} to ${most} entries.`, { param })
}

/** Why Azure refuses the request, if it does. */
export function checkDecision(body: Json): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name))
      return modelError(400, `Unknown parameter: '${name}'.`, { param: name, code: 'unknown_parameter' })
  }
  for (const param of ['input', 'questions'] as const) {
    if (body[param] === undefined) {
      const code = 'missing_required_parameter'
      return modelError(400, `Missing required parameter: '${param}'.`, { param, code })
    }
  }
  const questions = questionsOf(body)
  if (questions.length === 0 || questions.length > MAX_QUESTIONS) {
    return modelError(400, `Invalid 'questions': expected 1 to ${MAX_QUESTIONS}.`, { param: 'questions' })
  }
  for (const [i, question] of questions.entries()) {
    const refusal = checkQuestion(question, i)
    if (refusal !== undefined) return refusal
  }
  return undefined
}

/** A share from 0.5 to 0.99 that depends on the text alone. */
function likelihood(seed: string): number {
  return 0.5 + (Number.parseInt(digest(seed, 4), 16) % 50) / 100
}

function answer(question: Json, input: string): Json {
  const { type, name = null } = question
  const first = likelihood(`${input} ${JSON.stringify(question)}`)
  if (type === 'predicate') return { type, name, probability: first }
  const options = optionsOf(question)
  const rest = (1 - first) / Math.max(options.length - 1, 1)
  if (type === 'choice') {
    const probabilities = options.map(({ value }, i) => ({ value, probability: i === 0 ? first : rest }))
    return { type, name, choice: options[0]?.value, confidence: first, probabilities }
  }
  const probabilities = options.map(({ label }, value) => ({ label, value, probability: value === 0 ? first : rest }))
  const score = probabilities.reduce((sum, { value, probability }) => sum + value * probability, 0)
  return { type, name, score, confidence: first, probabilities }
}

/** Answers a request that checkDecision let through; without an id, so that nothing can be asked for later. */
export function decide(body: Json, model: string): SimulatedResponse {
  const input = JSON.stringify(body.input)
  const tokens = countTokens(`${input}${JSON.stringify(body.questions)}`)
  const value = {
    model,
    answers: questionsOf(body).map(question => answer(question, input)),
    usage: {
      input_tokens: tokens,
      input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
      output_tokens: 0,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: tokens,
    },
  }
  const headers = { 'Content-Type': 'application/json' }
  return { kind: 'answer', answer: { status: 200, headers, body: JSON.stringify(value) } }
}
