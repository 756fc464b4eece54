// The common beginning of prompts as one number: requests of one conversation get the same one. Reads bytes, parses
// nothing but the beginning of a message list.
import type { IncomingHttpHeaders } from 'node:http'
import { arrayElements } from './array-elements.ts'
import { sliceBytes, viewBytes } from './chunk-list.ts'
import { lastMember } from './edit.ts'
import type { JsonMember, ScannedObject } from './json-scan.ts'

/** Azure caches from 1,024 tokens on, about 4 KB of text; what is shorter cannot be cached (azure/README.md 7.4). */
export const PROMPT_PREFIX_BYTES = 4096
/**
 * Of the first user message, where the first 4 KB are an application's own and the same for all of its conversations.
 */
const USER_MESSAGE_BYTES = 1024

/** In the order in which they make up the prompt: tools come first. */
const PROMPT_MEMBERS = ['tools', 'instructions', 'system', 'messages', 'input', 'prompt'] as const

/**
 * Headers by which clients name a conversation: opencode, Bifrost and LiteLLM clients, Codex, Claude Code
 * (azure/README.md 13.5).
 */
const SESSION_HEADERS = [
  'x-session-affinity',
  'x-session-id',
  'session_id',
  'session-id',
  'x-claude-code-session-id',
] as const
/** Longer values name no session. */
const MAX_SESSION_CHARS = 1024

/** How far into a message list the first user message is looked for, in bytes and in messages. */
const MAX_LOOK_BYTES = 256 * 1024
const MAX_LOOK_MESSAGES = 16
const USER_ROLE = /"role"\s*:\s*"user"/

/** FNV-1a over bytes, 32 bits, going on from `hash`. */
function hashBytes(hash: number, bytes: Buffer): number {
  let h = hash
  for (let i = 0; i < bytes.length; i++) h = Math.imul(h ^ (bytes[i] ?? 0), 0x01000193)
  return h
}

const START = 0x811c9dc5

function hashRange(hash: number, chunks: readonly Buffer[], start: number, end: number): number {
  let h = hash
  for (const view of viewBytes(chunks, start, end)) h = hashBytes(h, view)
  return h
}

/** The session that a header names; of several headers the first of the list. */
function sessionIn(headers: IncomingHttpHeaders): string | undefined {
  for (const name of SESSION_HEADERS) {
    const value = headers[name]
    const text = Array.isArray(value) ? value[0] : value
    if (text !== undefined && text !== '' && text.length <= MAX_SESSION_CHARS) return text
  }
  return undefined
}

/** Where the first user message begins and ends; undefined where there is none near the beginning. */
function firstUserMessage(chunks: readonly Buffer[], scan: ScannedObject): { start: number; end: number } | undefined {
  const list: JsonMember | undefined = lastMember(scan.members, 'messages') ?? lastMember(scan.members, 'input')
  if (list?.kind === 'string') return list
  if (list?.kind !== 'array') return undefined
  const bytes = sliceBytes(chunks, list.start, list.end, MAX_LOOK_BYTES)
  const elements = arrayElements(bytes, MAX_LOOK_MESSAGES)
  // One that goes on beyond what was looked at is not in the list.
  const behind = elements.at(-1)?.end ?? 0
  const all = [...elements, { start: behind + 1, end: bytes.length }]
  const found = all.find(({ start, end }) => {
    // The role stands at either end of a message.
    const head = bytes.toString('latin1', start, Math.min(end, start + 512))
    return USER_ROLE.test(head) || USER_ROLE.test(bytes.toString('latin1', Math.max(start, end - 512), end))
  })
  return found === undefined ? undefined : { start: list.start + found.start, end: list.start + found.end }
}

/**
 * The 32-bit hash of what a request shares with its conversation: its `prompt_cache_key`, else the session that a
 * header names, both of any length. Without either: the first 4 KB of its prompt, and the first 1 KB of the first user
 * message where that stands behind them.
 * @param scan of exactly these chunks, with those names among the wanted
 * @returns undefined where the prompt is too short for a cache to matter
 */
export function promptHash(
  chunks: readonly Buffer[],
  scan: ScannedObject,
  headers: IncomingHttpHeaders,
): number | undefined {
  const key = lastMember(scan.members, 'prompt_cache_key')
  if (key?.kind === 'string' && key.end - key.start > 2) {
    return hashRange(START, chunks, key.start, Math.min(key.end, key.start + PROMPT_PREFIX_BYTES)) >>> 0
  }
  const session = sessionIn(headers)
  if (session !== undefined) return hashBytes(START, Buffer.from(session)) >>> 0
  let hash = START
  let left = PROMPT_PREFIX_BYTES
  let lastEnd = 0
  for (const name of PROMPT_MEMBERS) {
    const member = lastMember(scan.members, name)
    if (member === undefined || left === 0) continue
    const end = Math.min(member.end, member.start + left)
    hash = hashRange(hash, chunks, member.start, end)
    left -= end - member.start
    lastEnd = end
    // The members before the messages have used it up: the messages come behind, wherever they stand in the body.
    if (left === 0 && (name === 'tools' || name === 'instructions' || name === 'system')) lastEnd = 0
  }
  if (left > 0) return undefined
  const user = firstUserMessage(chunks, scan)
  if (user === undefined) return hash >>> 0
  const userEnd = Math.min(user.end, user.start + USER_MESSAGE_BYTES)
  // Already among the first 4 KB, and not just its first few bytes.
  if (lastEnd >= userEnd) return hash >>> 0
  return hashRange(hash, chunks, user.start, userEnd) >>> 0
}
