// Texts of the simulated models, and their token counts: a function of the request alone, so that two runs are the
// same.
import { createHash } from 'node:crypto'

/** Four characters a token: rough, fixed, and enough for quotas and caches to be exercised. */
const CHARS_PER_TOKEN = 4

const WORDS = [
  'the',
  'answer',
  'to',
  'your',
  'question',
  'is',
  'a',
  'simulated',
  'one',
  'and',
  'comes',
  'in',
  'small',
  'pieces',
  'so',
  'that',
  'streams',
  'can',
  'be',
  'watched',
  'while',
  'they',
  'grow',
  'until',
  'enough',
  'has',
  'been',
  'said',
] as const

/** Tokens of a text by the fixed rule; at least one for a text that is not empty. */
export function countTokens(text: string): number {
  return Math.ceil(text.length / CHARS_PER_TOKEN)
}

/** Hex digits that depend on `seed` alone. */
export function digest(seed: string, digits = 24): string {
  return createHash('sha256').update(seed).digest('hex').slice(0, digits)
}

/** A stream of numbers from 0 to 2^32 − 1 that depends on `seed` alone. */
export function numbers(seed: string): () => number {
  let state = Number.parseInt(digest(seed, 8), 16)
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state
  }
}

/** `count` pieces of text, each a word with the blank before it, as a model's deltas come. */
export function pieces(seed: string, count: number): string[] {
  const next = numbers(seed)
  return Array.from({ length: count }, (_, i) => {
    // The low bits of such a generator repeat soon; the high ones do not.
    const word = WORDS[(next() >>> 16) % WORDS.length] ?? 'so'
    return i === 0 ? word.charAt(0).toUpperCase() + word.slice(1) : ` ${word}`
  })
}
