// Embeddings as Azure answers them: pretty-printed; numbers or base64 of little-endian float32s (azure/README.md 4.2).
import type { SimulatedResponse } from './chat.ts'
import { modelError, type WholeResponse } from './errors.ts'
import { countTokens, numbers } from './text.ts'

type Json = Readonly<Record<string, unknown>>

const DEFAULT_DIMENSIONS = 1_536
const MAX_INPUTS = 2_048
const KNOWN = new Set(['dimensions', 'encoding_format', 'input', 'input_type', 'model', 'user'])

function inputsOf(input: unknown): readonly unknown[] {
  if (!Array.isArray(input)) return [input]
  // A list of numbers is one input of tokens; a list of anything else is a list of inputs.
  return input.length > 0 && typeof input[0] === 'number' ? [input] : input
}

/** Why Azure refuses the request, if it does. */
export function checkEmbeddings(body: Json): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name)) return modelError(400, `Unrecognized request argument supplied: ${name}`)
  }
  const { input, encoding_format: format } = body
  if (input === undefined || input === null)
    return modelError(400, "Missing required parameter: 'input'.", { param: 'input' })
  const inputs = inputsOf(input)
  if (inputs.length === 0 || inputs.length > MAX_INPUTS || inputs.some(item => item === '')) {
    return modelError(400, "Invalid 'input'.", { param: 'input' })
  }
  if (format !== undefined && format !== 'float' && format !== 'base64') {
    return modelError(400, `'${String(format)}' is not one of ['float', 'base64'] - 'encoding_format'`, {
      param: 'encoding_format',
    })
  }
  return undefined
}

function vector(seed: string, dimensions: number): Float32Array {
  const next = numbers(seed)
  const values = Float32Array.from({ length: dimensions }, () => next() / 2 ** 32 - 0.5)
  const norm = Math.hypot(...values)
  return values.map(value => value / norm)
}

/** Answers a request that checkEmbeddings let through. */
export function embeddings(body: Json, model: string): SimulatedResponse {
  const inputs = inputsOf(body.input)
  const dimensions = typeof body.dimensions === 'number' ? body.dimensions : DEFAULT_DIMENSIONS
  let tokens = 0
  const data = inputs.map((input, index) => {
    const text = JSON.stringify(input)
    tokens += Array.isArray(input) ? input.length : countTokens(text)
    const values = vector(text, dimensions)
    const bytes = Buffer.alloc(values.length * 4)
    for (const [i, value] of values.entries()) bytes.writeFloatLE(value, i * 4)
    const embedding = body.encoding_format === 'base64' ? bytes.toString('base64') : [...values]
    return { object: 'embedding', index, embedding }
  })
  const answer = { object: 'list', data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } }
  const text = `${JSON.stringify(answer, null, 2)}\n`
  return { kind: 'answer', answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: text } }
}
