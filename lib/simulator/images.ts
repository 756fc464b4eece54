// Image generation and edits: a small picture that depends on the prompt alone, in base64, whole or with partial images
// first.
import { deflateSync } from 'node:zlib'
import type { SimulatedResponse } from './chat.ts'
import { modelError, type WholeResponse } from './errors.ts'
import type { FormPart } from './multipart.ts'
import { countTokens, numbers } from './text.ts'

type Json = Readonly<Record<string, unknown>>

const KNOWN = new Set([
  'background',
  'image',
  'images',
  'input_fidelity',
  'mask',
  'model',
  'moderation',
  'n',
  'output_compression',
  'output_format',
  'partial_images',
  'prompt',
  'quality',
  'response_format',
  'size',
  'stream',
  'style',
  'user',
])
const MAX_IMAGES = 10
const MAX_PARTIAL = 3
const SIDE = 16

/** CRC-32 as PNG wants it (PNG specification, annex D), bit by bit: the pictures are small. */
function crc(bytes: Buffer): number {
  let remainder = 0xffffffff
  for (const byte of bytes) {
    remainder ^= byte
    for (let bit = 0; bit < 8; bit++) remainder = (remainder >>> 1) ^ (remainder & 1 ? 0xedb88320 : 0)
  }
  return (remainder ^ 0xffffffff) >>> 0
}

function pngChunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const out = Buffer.alloc(body.length + 8)
  out.writeUInt32BE(data.length, 0)
  body.copy(out, 4)
  out.writeUInt32BE(crc(body), body.length + 4)
  return out
}

/** A picture of SIDE × SIDE pixels in colours that the seed decides. */
function png(seed: string): Buffer {
  const next = numbers(seed)
  const rows = Buffer.alloc(SIDE * (1 + SIDE * 3))
  for (let y = 0; y < SIDE; y++) {
    for (let x = 1; x <= SIDE * 3; x++) rows[y * (1 + SIDE * 3) + x] = next() >>> 24
  }
  const head = Buffer.alloc(13)
  head.writeUInt32BE(SIDE, 0)
  head.writeUInt32BE(SIDE, 4)
  head[8] = 8
  head[9] = 2
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    pngChunk('IHDR', head),
    pngChunk('IDAT', deflateSync(rows)),
    pngChunk('IEND', Buffer.alloc(0)),
  ])
}

function numberOf(value: unknown): number {
  return typeof value === 'number' ? value : typeof value === 'string' ? Number(value) : Number.NaN
}

/**
 * Why Azure refuses the request, if it does.
 * @param files the form's files; undefined for a JSON body
 */
export function checkImages(
  body: Json,
  edit: boolean,
  files: readonly FormPart[] | undefined,
): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name.replace(/\[\]$/, ''))) return modelError(400, `Unknown parameter: '${name}'.`, { param: name })
  }
  if (typeof body.prompt !== 'string' || body.prompt === '') {
    return modelError(400, "Missing required parameter: 'prompt'.", {
      param: 'prompt',
      code: 'missing_required_parameter',
    })
  }
  const n = body.n === undefined ? 1 : numberOf(body.n)
  if (!Number.isInteger(n) || n < 1 || n > MAX_IMAGES) return modelError(400, "Invalid value for 'n'.", { param: 'n' })
  const partial = body.partial_images === undefined ? 0 : numberOf(body.partial_images)
  if (!(partial >= 0 && partial <= MAX_PARTIAL)) {
    return modelError(400, "Invalid value for 'partial_images'.", { param: 'partial_images' })
  }
  if (!edit) return undefined
  const images = files?.filter(({ name }) => name === 'image' || name === 'image[]') ?? []
  if (images.length === 0 && body.images === undefined && body.image === undefined) {
    return modelError(400, "Missing required parameter: 'image'.", { param: 'image' })
  }
  return undefined
}

/** Answers a request that checkImages let through. */
export function images(body: Json, edit: boolean, createdS: number): SimulatedResponse {
  const prompt = String(body.prompt)
  const n = body.n === undefined ? 1 : numberOf(body.n)
  const inputTokens = countTokens(prompt)
  const outputTokens = 272 * n
  const usage = {
    input_tokens: inputTokens,
    input_tokens_details: { image_tokens: 0, text_tokens: inputTokens },
    output_tokens: outputTokens,
    total_tokens: inputTokens + outputTokens,
  }
  if (body.stream !== true && body.stream !== 'true') {
    const data = Array.from({ length: n }, (_, i) => ({ b64_json: png(`${prompt} ${i}`).toString('base64') }))
    const answer = { created: createdS, background: 'opaque', data, output_format: 'png', size: '1024x1024', usage }
    return {
      kind: 'answer',
      answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(answer) },
    }
  }
  const family = edit ? 'image_edit' : 'image_generation'
  const event = (type: string, fields: Json): string =>
    `event: ${type}\ndata: ${JSON.stringify({ type, created_at: createdS, ...fields })}\n\n`
  const partial = body.partial_images === undefined ? 0 : numberOf(body.partial_images)
  const events = Array.from({ length: partial }, (_, i) =>
    event(`${family}.partial_image`, {
      partial_image_index: i,
      b64_json: png(`${prompt} partial ${i}`).toString('base64'),
    }),
  )
  events.push(event(`${family}.completed`, { b64_json: png(`${prompt} 0`).toString('base64'), usage }))
  return { kind: 'events', events, startUp: 0, terminal: 1 }
}
