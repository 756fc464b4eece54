// Problems of a config with their places: collected, bounded, sorted, free of secrets. Knows neither YAML nor the
// options.

/** Where something stands in the config: line and column from 1, the path as `models.gpt-4.backends[1].endpoint`. */
export interface Place {
  readonly line: number
  readonly column: number
  /** Empty for the file as a whole. */
  readonly path: string
}

/** One thing that is wrong: its place, and what is wrong and allowed. No secret is in any of it. */
export interface Problem extends Place {
  readonly file: string
  readonly message: string
}

/** Collects while the config is read; every reader reports here and goes on, so that all problems are seen at once. */
export interface Report {
  problem(place: Place, message: string): void
  warning(place: Place, message: string): void
  /** Tells of a text that must not be seen in any message, wherever else in the file it stands. */
  secret(text: string): void
  /** Whether there is any problem; warnings are none. */
  failed(): boolean
  /** Whether further problems are dropped: looking for more is of no use. */
  full(): boolean
  /** Sorted by place. */
  problems(): readonly Problem[]
  warnings(): readonly Problem[]
}

// A 1 MB file of nonsense has hundreds of thousands; nobody reads past the first.
const PROBLEMS_MAX = 1000

// Shorter texts are also ordinary words ("text", "8080"): hiding those would only make messages unreadable.
const HIDDEN_SECRET_MIN_CHARS = 8

// A wrong value is quoted when it is this short, or made of plain words: a pasted key is neither.
const SHOWN_MAX_CHARS = 12
const PLAIN_WORDS = /^[a-z]+(?:[-_ ][a-z]+){0,4}$/
const PLAIN_WORDS_MAX_CHARS = 24

/** An empty report on `file` (named in every problem). */
export function createReport(file: string): Report {
  const problems: Problem[] = []
  const warnings: Problem[] = []
  const secrets = new Map<number, Set<string>>()
  const note = (list: Problem[], { line, column, path }: Place, message: string) => {
    if (list.length < PROBLEMS_MAX) list.push({ file, line, column, path, message })
  }
  const hidden = (problem: Problem): Problem => {
    const path = hideSecrets(problem.path, secrets)
    return { ...problem, path, message: hideSecrets(problem.message, secrets) }
  }
  const finished = (list: readonly Problem[]) => list.map(hidden).sort(byPlace)
  return {
    problem: (place, message) => note(problems, place, message),
    warning: (place, message) => note(warnings, place, message),
    secret(text) {
      if (text.length < HIDDEN_SECRET_MIN_CHARS) return
      const alike = secrets.get(text.length) ?? new Set()
      secrets.set(text.length, alike.add(text))
    },
    failed: () => problems.length > 0,
    full: () => problems.length >= PROBLEMS_MAX,
    problems: () => finished(problems),
    warnings: () => finished(warnings),
  }
}

/** `FILE:LINE:COL path: what is wrong, and what is allowed`, one line; for `--check` and a failed reload. */
export function formatProblem(problem: Problem): string {
  const { file, line, column, path, message } = problem
  return `${file}:${line}:${column} ${path === '' ? '' : `${path}: `}${message}`
}

/** The path of `key` inside `path`; a key that is no plain word is quoted, and cut when it is long. */
export function pathTo(path: string, key: string): string {
  if (/^[A-Za-z0-9_-]{1,64}$/.test(key)) return path === '' ? key : `${path}.${key}`
  const shown = key.length > 64 ? `${key.slice(0, 63)}…` : key
  return `${path}[${JSON.stringify(shown)}]`
}

/**
 * Whether a text of the config may be quoted in a message without the risk of showing a key pasted in the wrong place.
 */
export function isShowable(text: string): boolean {
  return text.length <= SHOWN_MAX_CHARS || isPlainWords(text)
}

/** Whether a text is a few lower-case words, as keys are misspelt and no secret is made. */
export function isPlainWords(text: string): boolean {
  return text.length <= PLAIN_WORDS_MAX_CHARS && PLAIN_WORDS.test(text)
}

// The last guard: messages are built not to quote secrets, but a path may hold one that stands elsewhere as a name. By
// length and lookup: 20,000 keys in a file against each of 1,000 messages took 7 s.
function hideSecrets(text: string, byLength: ReadonlyMap<number, ReadonlySet<string>>): string {
  let shown = text
  for (const [length, secrets] of byLength) {
    for (let start = 0; start + length <= shown.length; start++) {
      const part = shown.slice(start, start + length)
      if (secrets.has(part)) shown = shown.replaceAll(part, '[secret]')
    }
  }
  return shown
}

function byPlace(a: Problem, b: Problem): number {
  return a.line - b.line || a.column - b.column || (a.path < b.path ? -1 : a.path > b.path ? 1 : 0)
}
