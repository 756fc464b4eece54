// Speech, transcriptions and translations. The speech is a tone whose pitch depends on the text. A transcription names
// the file's length and digest, so that a lost or changed byte shows.
import { createHash } from 'node:crypto'
import type { SimulatedResponse } from './chat.ts'
import { modelError, type WholeResponse } from './errors.ts'
import type { FormPart } from './multipart.ts'
import { countTokens, digest } from './text.ts'

type Json = Readonly<Record<string, unknown>>

const SPEECH_KNOWN = new Set(['input', 'instructions', 'model', 'response_format', 'speed', 'stream_format', 'voice'])
const SPEECH_TYPES: ReadonlyMap<string, string> = new Map([
  ['mp3', 'audio/mpeg'],
  ['opus', 'audio/opus'],
  ['aac', 'audio/aac'],
  ['flac', 'audio/flac'],
  ['wav', 'audio/wav'],
  ['pcm', 'audio/pcm'],
])
const MAX_INPUT_CHARS = 4_096
const RATE_HZ = 24_000
/** Of sound a character, so that long texts become long answers. */
const SAMPLES_PER_CHAR = 1_200

/** Why Azure refuses a speech request, if it does. */
export function checkSpeech(body: Json): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!SPEECH_KNOWN.has(name)) return modelError(400, `Unrecognized request argument supplied: ${name}`)
  }
  for (const name of ['input', 'voice'] as const) {
    if (typeof body[name] !== 'string' || body[name] === '') {
      return modelError(400, `Missing required parameter: '${name}'.`, { param: name })
    }
  }
  if (String(body.input).length > MAX_INPUT_CHARS) {
    return modelError(400, "Invalid 'input': string too long.", { param: 'input', code: 'string_above_max_length' })
  }
  const format = body.response_format
  if (format !== undefined && !(typeof format === 'string' && SPEECH_TYPES.has(format))) {
    return modelError(400, "Invalid value for 'response_format'.", { param: 'response_format' })
  }
  return undefined
}

function wav(text: string): Buffer {
  const samples = Math.min(text.length, MAX_INPUT_CHARS) * SAMPLES_PER_CHAR
  const pitchHz = 220 + (Number.parseInt(digest(text, 4), 16) % 220)
  const out = Buffer.alloc(44 + samples * 2)
  out.write('RIFF', 0, 'latin1')
  out.writeUInt32LE(36 + samples * 2, 4)
  out.write('WAVEfmt ', 8, 'latin1')
  out.writeUInt32LE(16, 16)
  out.writeUInt16LE(1, 20)
  out.writeUInt16LE(1, 22)
  out.writeUInt32LE(RATE_HZ, 24)
  out.writeUInt32LE(RATE_HZ * 2, 28)
  out.writeUInt16LE(2, 32)
  out.writeUInt16LE(16, 34)
  out.write('data', 36, 'latin1')
  out.writeUInt32LE(samples * 2, 40)
  for (let i = 0; i < samples; i++) {
    out.writeInt16LE(Math.round(8_000 * Math.sin((2 * Math.PI * pitchHz * i) / RATE_HZ)), 44 + i * 2)
  }
  return out
}

/**
 * Answers a request that checkSpeech let through; the sound is the same whatever format was asked for, only its type
 * differs.
 */
export function speech(body: Json): SimulatedResponse {
  const format = typeof body.response_format === 'string' ? body.response_format : 'mp3'
  const type = SPEECH_TYPES.get(format) ?? 'audio/mpeg'
  const sound = wav(String(body.input))
  return { kind: 'answer', answer: { status: 200, headers: { 'Content-Type': type }, body: sound, chunked: true } }
}

const FORM_KNOWN = new Set([
  'chunking_strategy',
  'include[]',
  'language',
  'model',
  'prompt',
  'response_format',
  'stream',
  'temperature',
  'timestamp_granularities[]',
])
const TEXT_FORMATS = new Set(['text', 'srt', 'vtt'])
const FORMATS = new Set(['json', 'verbose_json', ...TEXT_FORMATS])
const MAX_FILE_BYTES = 25 * 1024 * 1024

/** Why Azure refuses a transcription or translation, if it does. */
export function checkTranscription(fields: Json, parts: readonly FormPart[]): WholeResponse | undefined {
  for (const name of Object.keys(fields)) {
    if (!FORM_KNOWN.has(name)) return modelError(400, `Unknown parameter: '${name}'.`, { param: name })
  }
  const files = parts.filter(({ name, filename }) => name === 'file' && filename !== undefined)
  const [file] = files
  if (file === undefined || files.length > 1)
    return modelError(400, "Missing required parameter: 'file'.", { param: 'file' })
  if (file.body.length > MAX_FILE_BYTES) {
    return modelError(413, `Maximum content size limit (${MAX_FILE_BYTES}) exceeded.`, { type: 'server_error' })
  }
  const format = fields.response_format
  if (format !== undefined && !(typeof format === 'string' && FORMATS.has(format))) {
    return modelError(400, "Invalid value for 'response_format'.", { param: 'response_format' })
  }
  return undefined
}

/** What a transcription of these bytes says. */
export function transcriptOf(file: Buffer): string {
  return `Heard ${file.length} bytes with digest ${createHash('sha256').update(file).digest('hex')}.`
}

/** Answers a request that checkTranscription let through. */
export function transcription(fields: Json, parts: readonly FormPart[], streams: boolean): SimulatedResponse {
  const file = parts.find(({ name }) => name === 'file')?.body ?? Buffer.alloc(0)
  const text = transcriptOf(file)
  const outputTokens = countTokens(text)
  const usage = { type: 'tokens', input_tokens: 10, output_tokens: outputTokens, total_tokens: 10 + outputTokens }
  if (streams && fields.stream === 'true') {
    const event = (value: Json): string => `data: ${JSON.stringify(value)}\n\n`
    const events = text.split(/(?<= )/).map(delta => event({ type: 'transcript.text.delta', delta }))
    events.push(event({ type: 'transcript.text.done', text, usage }))
    return { kind: 'events', events, startUp: 0, terminal: 1 }
  }
  const format = typeof fields.response_format === 'string' ? fields.response_format : 'json'
  if (TEXT_FORMATS.has(format)) {
    const body = format === 'text' ? `${text}\n` : `1\n00:00:00,000 --> 00:00:01,000\n${text}\n\n`
    return { kind: 'answer', answer: { status: 200, headers: { 'Content-Type': 'text/plain; charset=utf-8' }, body } }
  }
  const more = format === 'verbose_json' ? { task: 'transcribe', language: 'english', duration: 1, segments: [] } : {}
  const body = JSON.stringify({ ...more, text, usage })
  return { kind: 'answer', answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body } }
}
