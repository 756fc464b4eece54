// Azure's prompt cache, one per deployment: identical beginnings of at least 1,024 tokens, in steps of 128, forgotten
// after minutes of idleness (azure/README.md 7.4).
import { createHash } from 'node:crypto'
import type { Clock } from '../clock.ts'

const MIN_TOKENS = 1024
const STEP_TOKENS = 128
const CHARS_PER_TOKEN = 4
const IDLE_MS = 5 * 60_000
/** Prefixes remembered per deployment. */
const MAX_PREFIXES = 20_000

export interface PromptCache {
  /** The tokens of the prompt that were cached; its prefixes are from now on. */
  ask(prompt: string): number
}

export function createPromptCache(clock: Clock): PromptCache {
  const usedMs = new Map<string, number>()
  return {
    ask(prompt) {
      const nowMs = clock.nowMs()
      const hash = createHash('sha256')
      let cached = 0
      let read = 0
      for (let tokens = MIN_TOKENS; tokens * CHARS_PER_TOKEN <= prompt.length; tokens += STEP_TOKENS) {
        hash.update(prompt.slice(read, tokens * CHARS_PER_TOKEN))
        read = tokens * CHARS_PER_TOKEN
        const prefix = hash.copy().digest('base64')
        const lastMs = usedMs.get(prefix)
        if (lastMs !== undefined && nowMs - lastMs <= IDLE_MS) cached = tokens
        usedMs.delete(prefix)
        usedMs.set(prefix, nowMs)
      }
      while (usedMs.size > MAX_PREFIXES) {
        const oldest = usedMs.keys().next()
        if (oldest.done === true) break
        usedMs.delete(oldest.value)
      }
      return cached
    },
  }
}
