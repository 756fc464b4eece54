// Reads a response's token usage from the bytes that pass. The last few kilobytes are enough: usage stands at the end
// of a JSON body and of a stream. Nothing is held back for it.
import { NO_USAGE, type Usage } from '../request-context.ts'

/**
 * Usage stands within this much of the end, also when a Responses object closes with its metadata (16 × 576
 * characters).
 */
export const TAIL_BYTES = 16 * 1024
/**
 * A chat stream ends with its usage event and `[DONE]`, a few hundred bytes; open streams by the thousand keep this
 * much each.
 */
export const CHAT_TAIL_BYTES = 2 * 1024
/** A usage object has a few hundred characters. */
const MAX_USAGE_BYTES = 4 * 1024
/** Occurrences looked at from the end: an embedding of the word elsewhere is rare, a flood of them is no response. */
const MAX_TRIES = 16

/** Keeps a copy of a response's last bytes: references would keep whole socket reads in memory for a few bytes each. */
export interface Tail {
  push(chunk: Buffer): void
  bytes(): Buffer
}

/** @param maxBytes how much of the end is kept */
export function createTail(maxBytes: number = TAIL_BYTES): Tail {
  let ring: Buffer | undefined
  let next = 0
  let full = false
  return {
    push(chunk) {
      // Its own memory: a piece of Node's pool would keep 8 KB there for each open stream or two.
      ring ??= Buffer.allocUnsafeSlow(maxBytes)
      const last = chunk.length > maxBytes ? chunk.subarray(chunk.length - maxBytes) : chunk
      const room = maxBytes - next
      if (last.length <= room) ring.set(last, next)
      else {
        last.copy(ring, next, 0, room)
        last.copy(ring, 0, room)
      }
      if (next + last.length >= maxBytes) full = true
      next = (next + last.length) % maxBytes
    },
    bytes() {
      if (ring === undefined) return Buffer.alloc(0)
      return full ? Buffer.concat([ring.subarray(next), ring.subarray(0, next)]) : ring.subarray(0, next)
    },
  }
}

function count(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined
}

/** What may stand in a usage object: the names of chat and embeddings, and those of Responses. */
interface WireUsage {
  readonly prompt_tokens?: unknown
  readonly input_tokens?: unknown
  readonly completion_tokens?: unknown
  readonly output_tokens?: unknown
  readonly prompt_tokens_details?: unknown
  readonly input_tokens_details?: unknown
  readonly cached_tokens?: unknown
  readonly cache_creation_input_tokens?: unknown
  readonly cache_read_input_tokens?: unknown
}

function isObject(value: unknown): value is WireUsage {
  return typeof value === 'object' && value !== null
}

/** The JSON text of the object that starts at `start`, or undefined where it does not end within the limit. */
function objectAt(bytes: Buffer, start: number): string | undefined {
  let depth = 0
  let inString = false
  const stop = Math.min(bytes.length, start + MAX_USAGE_BYTES)
  for (let i = start; i < stop; i++) {
    const byte = bytes[i]
    if (inString) {
      if (byte === 0x5c) i++
      else if (byte === 0x22) inString = false
    } else if (byte === 0x22) inString = true
    else if (byte === 0x7b) depth++
    else if (byte === 0x7d && --depth === 0) return bytes.toString('utf8', start, i + 1)
  }
  return undefined
}

function toUsage(text: string): Usage | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (!isObject(value)) return undefined
  const promptTokens = count(value.prompt_tokens) ?? count(value.input_tokens)
  const completionTokens = count(value.completion_tokens) ?? count(value.output_tokens)
  if (promptTokens === undefined && completionTokens === undefined) return undefined
  // Claude's `input_tokens` leave out what was read from the cache and what was written to it (azure/README.md 13.3).
  const cacheRead = count(value.cache_read_input_tokens)
  const cacheWritten = count(value.cache_creation_input_tokens)
  if (cacheRead !== undefined || cacheWritten !== undefined) {
    const prompt = (promptTokens ?? 0) + (cacheRead ?? 0) + (cacheWritten ?? 0)
    return { promptTokens: prompt, completionTokens, cachedTokens: cacheRead }
  }
  const details = value.prompt_tokens_details ?? value.input_tokens_details
  return { promptTokens, completionTokens, cachedTokens: isObject(details) ? count(details.cached_tokens) : undefined }
}

/** The name of a usage object, as bytes: a text would be made into bytes for each search. */
const USAGE = Buffer.from('"usage"')

/** The usage object behind the word at `at`, if there is one. */
function usageAt(bytes: Buffer, at: number): Usage | undefined {
  let next = at + USAGE.length
  while (next < bytes.length && (bytes[next] === 0x20 || bytes[next] === 0x3a || bytes[next] === 0x0a)) next++
  const text = bytes[next] === 0x7b ? objectAt(bytes, next) : undefined
  return text === undefined ? undefined : toUsage(text)
}

/**
 * The last `"usage": {…}` in these bytes, of chat, embeddings (`prompt_tokens`) or Responses (`input_tokens`).
 * Quotes inside JSON strings are escaped, so text that talks of usage is not mistaken for it.
 */
export function readUsage(bytes: Buffer): Usage {
  let from = bytes.length
  for (let tries = 0; tries < MAX_TRIES && from >= 0; tries++) {
    const at = bytes.lastIndexOf(USAGE, from)
    if (at === -1) break
    from = at - 1
    const usage = usageAt(bytes, at)
    if (usage !== undefined) return usage
  }
  return NO_USAGE
}

/** The first usage in these bytes: Claude's streams tell the prompt's tokens with their first event. */
export function readFirstUsage(bytes: Buffer): Usage {
  const at = bytes.indexOf(USAGE)
  return (at === -1 ? undefined : usageAt(bytes, at)) ?? NO_USAGE
}

/** Usage that a stream reports in two parts: what its end leaves out was in its start. */
export function joinUsage(start: Usage, end: Usage): Usage {
  return {
    promptTokens: end.promptTokens ?? start.promptTokens,
    completionTokens: end.completionTokens ?? start.completionTokens,
    cachedTokens: end.cachedTokens ?? start.cachedTokens,
  }
}
