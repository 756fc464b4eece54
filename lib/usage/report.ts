// Sums of log lines by key, model, backend, day or month: what `--usage` prints. Pure.
import { roundedCost } from '../cost.ts'

/** What sums may be split by, named as the columns. */
export const DIMENSIONS = ['key', 'model', 'backend', 'day', 'month'] as const
export type Dimension = (typeof DIMENSIONS)[number]

/**
 * Groups at once: a year of days for hundreds of keys and models. More are a wrong `--by`, and would fill the memory.
 */
export const MAX_GROUPS = 500_000

/** Stands where a request had no key (authentication off) or reached no backend. */
const NONE = 'none'

export interface UsageRow {
  /** In the order of `--by`. */
  readonly group: readonly string[]
  readonly requests: number
  /** Requests refused, failed, cut, or left by their client. */
  readonly errors: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  /** undefined: no request of this group had a price. */
  readonly cost: number | undefined
}

export interface ReportOptions {
  readonly by: readonly Dimension[]
  /** UTC dates as `2026-11-01`, both included. */
  readonly from?: string
  readonly to?: string
}

export interface UsageReport {
  /** Takes one line of a log. */
  add(line: string): void
  /** Sorted by their groups. */
  rows(): readonly UsageRow[]
  /** Lines that are no JSON object with a time and a message: cut ones, or another program's. */
  broken(): number
  /** Requests that no group was left for. */
  dropped(): number
}

interface Sums {
  requests: number
  errors: number
  promptTokens: number
  cachedTokens: number
  completionTokens: number
  cost: number | undefined
}

/** A line as it may be: anybody can write one. */
interface Line {
  readonly msg?: unknown
  readonly time?: unknown
  readonly key?: unknown
  readonly model?: unknown
  readonly backend?: unknown
  readonly status?: unknown
  readonly error?: unknown
  readonly prompt_tokens?: unknown
  readonly cached_tokens?: unknown
  readonly completion_tokens?: unknown
  readonly cost?: unknown
}

function parse(text: string): Line | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined
  } catch {
    return undefined
  }
}

function amount(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0
}

function named(value: unknown): string {
  return typeof value === 'string' && value !== '' ? value : NONE
}

const UTC_TIME = /^(\d{4}-\d\d-\d\d)T[\d:.]+Z$/

/** The UTC day of a log line's time; undefined where it is no time. */
function dayOf(time: unknown): string | undefined {
  if (typeof time !== 'string') return undefined
  const utc = UTC_TIME.exec(time)?.[1]
  if (utc !== undefined) return utc
  // A shipper may have rewritten it in its own zone.
  const epochMs = Date.parse(time)
  return Number.isNaN(epochMs) ? undefined : new Date(epochMs).toISOString().slice(0, 10)
}

function groupValue(dimension: Dimension, { key, model, backend }: Line, day: string): string {
  switch (dimension) {
    case 'key':
      return named(key)
    case 'model':
      return named(model)
    case 'backend':
      return named(backend)
    case 'day':
      return day
    case 'month':
      return day.slice(0, 7)
  }
}

/**
 * Begins an empty report. Counts the lines of requests that named a model; others asked nothing of a backend.
 * @param by at least one dimension
 */
export function createUsageReport({ by, from = '', to = '9999-12-31' }: ReportOptions): UsageReport {
  const groups = new Map<string, { readonly group: readonly string[]; readonly sums: Sums }>()
  let broken = 0
  let dropped = 0

  const sumsOf = (group: readonly string[]): Sums | undefined => {
    const id = group.join('\n')
    const found = groups.get(id)
    if (found !== undefined) return found.sums
    if (groups.size >= MAX_GROUPS) return undefined
    const sums = { requests: 0, errors: 0, promptTokens: 0, cachedTokens: 0, completionTokens: 0, cost: undefined }
    groups.set(id, { group, sums })
    return sums
  }

  return {
    add(text) {
      if (text.trim() === '') return
      const line = parse(text)
      const day = dayOf(line?.time)
      if (line === undefined || day === undefined || typeof line.msg !== 'string') {
        broken++
        return
      }
      if (line.msg !== 'request' || typeof line.model !== 'string' || day < from || day > to) return
      const sums = sumsOf(by.map(dimension => groupValue(dimension, line, day)))
      if (sums === undefined) {
        dropped++
        return
      }
      sums.requests++
      if (amount(line.status) >= 400 || typeof line.error === 'string') sums.errors++
      sums.promptTokens += amount(line.prompt_tokens)
      sums.cachedTokens += amount(line.cached_tokens)
      sums.completionTokens += amount(line.completion_tokens)
      if (typeof line.cost === 'number') sums.cost = (sums.cost ?? 0) + amount(line.cost)
    },
    rows: () =>
      [...groups.values()]
        .map(({ group, sums }) => ({
          group,
          ...sums,
          cost: sums.cost === undefined ? undefined : roundedCost(sums.cost),
        }))
        .sort((a, b) => compare(a.group, b.group)),
    broken: () => broken,
    dropped: () => dropped,
  }
}

function compare(a: readonly string[], b: readonly string[]): number {
  for (const [i, text] of a.entries()) {
    const other = b[i] ?? ''
    if (text !== other) return text < other ? -1 : 1
  }
  return 0
}
