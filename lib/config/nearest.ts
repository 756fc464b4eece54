// The known word that a misspelt one most likely meant. Pure.

// No option is longer; comparing more would be work for nothing.
const WORD_MAX_CHARS = 64

/**
 * The word of `known` nearest to `word`, or undefined when none is near. `api-key`, `apiKey` and `API_KEY` are
 * `api_key` to it; otherwise one edit (insert, remove, replace, swap neighbours) in three letters is near, at most
 * three.
 */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  if (word.length > WORD_MAX_CHARS) return undefined
  const bare = plain(word)
  let best: string | undefined
  let bestEdits = Number.POSITIVE_INFINITY
  for (const candidate of known) {
    const bareCandidate = plain(candidate)
    const allowed = Math.min(3, Math.floor(Math.max(bare.length, bareCandidate.length) / 3))
    const edits = editDistance(bare, bareCandidate)
    if (edits <= allowed && edits < bestEdits) {
      best = candidate
      bestEdits = edits
    }
  }
  return best
}

/** Whether two words differ in case, hyphens and underscores alone. */
export function isSameWord(a: string, b: string): boolean {
  return plain(a) === plain(b)
}

/** Case, hyphens and underscores make no difference: `baseURL`, `base-url` and `base_url` are one word. */
export function plain(word: string): string {
  return word.toLowerCase().replaceAll(/[-_ ]/g, '')
}

/** Edits (insert, remove, replace, swap neighbours) between two words: optimal string alignment. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, column) => column)
  for (let row = 1; row <= a.length; row++) {
    const current = [row]
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1]
      let edits = Math.min(
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
      )
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]
      if (swapped) edits = Math.min(edits, (beforeLast[column - 2] ?? 0) + 1)
      current.push(edits)
    }
    beforeLast = last
    last = current
  }
  return last[b.length] ?? 0
}
