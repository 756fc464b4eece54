// One number for the beginning of a prompt: requests whose prompts begin alike get the same one. Reads bytes, parses
// nothing.
import { viewBytes } from './chunk-list.ts'
import { lastMember } from './edit.ts'
import type { ScannedObject } from './json-scan.ts'

/** Azure caches from 1,024 tokens on, about 4 KB of text; what is shorter cannot be cached (azure/README.md 7.4). */
export const PROMPT_PREFIX_BYTES = 4096

/** In the order in which they make up the prompt: tools come first. */
const PROMPT_MEMBERS = ['tools', 'instructions', 'messages', 'input', 'prompt'] as const

/** FNV-1a over bytes, 32 bits, going on from `hash`. */
function hashBytes(hash: number, bytes: Buffer): number {
  let h = hash
  for (let i = 0; i < bytes.length; i++) h = Math.imul(h ^ (bytes[i] ?? 0), 0x01000193)
  return h
}

const START = 0x811c9dc5

/**
 * The 32-bit hash of a request's `prompt_cache_key` where it has one (of any length: only its first 4 KB count), else
 * of the first 4 KB of its prompt.
 * @param scan of exactly these chunks, with those names among the wanted
 * @returns undefined where the prompt is too short for a cache to matter
 */
export function promptHash(chunks: readonly Buffer[], scan: ScannedObject): number | undefined {
  const key = lastMember(scan.members, 'prompt_cache_key')
  let hash = START
  if (key?.kind === 'string' && key.end - key.start > 2) {
    const end = Math.min(key.end, key.start + PROMPT_PREFIX_BYTES)
    for (const view of viewBytes(chunks, key.start, end)) hash = hashBytes(hash, view)
    return hash >>> 0
  }
  let left = PROMPT_PREFIX_BYTES
  for (const name of PROMPT_MEMBERS) {
    const member = lastMember(scan.members, name)
    if (member === undefined || left === 0) continue
    const end = Math.min(member.end, member.start + left)
    for (const view of viewBytes(chunks, member.start, end)) hash = hashBytes(hash, view)
    left -= end - member.start
  }
  return left > 0 ? undefined : hash >>> 0
}
