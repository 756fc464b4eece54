// A usage report as a table for people, as CSV (RFC 4180) or as JSON. Pure.
import type { Dimension, UsageRow } from './report.ts'

export const FORMATS = ['table', 'csv', 'json'] as const
export type UsageFormat = (typeof FORMATS)[number]

const FIGURES = ['requests', 'errors', 'prompt_tokens', 'cached_tokens', 'completion_tokens', 'cost'] as const

function figuresOf(row: UsageRow): readonly (number | undefined)[] {
  return [row.requests, row.errors, row.promptTokens, row.cachedTokens, row.completionTokens, row.cost]
}

/** A number without an exponent, which spreadsheets and awk read differently. */
function plain(value: number | undefined): string {
  if (value === undefined) return ''
  return Number.isInteger(value) ? String(value) : value.toFixed(9).replace(/0+$/, '').replace(/\.$/, '')
}

/** RFC 4180; a name that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP advises. */
function csvField(text: string): string {
  const safe = /^[=+@\t-]/.test(text) ? `'${text}` : text
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

function csv(by: readonly Dimension[], rows: readonly UsageRow[]): string {
  const lines = [[...by, ...FIGURES], ...rows.map(row => [...row.group.map(csvField), ...figuresOf(row).map(plain)])]
  return `${lines.map(cells => cells.join(',')).join('\r\n')}\r\n`
}

function json(by: readonly Dimension[], rows: readonly UsageRow[]): string {
  const objects = rows.map(row => ({
    ...Object.fromEntries(by.map((dimension, i) => [dimension, row.group[i] ?? ''] as const)),
    ...Object.fromEntries(figuresOf(row).map((value, i) => [FIGURES[i] ?? '', value ?? null] as const)),
  }))
  return `${JSON.stringify(objects, null, 2)}\n`
}

function total(rows: readonly UsageRow[]): readonly (number | undefined)[] {
  return FIGURES.map((_, i) => {
    const values = rows.flatMap(row => figuresOf(row)[i] ?? [])
    return values.length === 0 ? undefined : values.reduce((sum, value) => sum + value, 0)
  })
}

/** Control characters could draw over other lines of a terminal. */
function visible(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?')
}

function table(by: readonly Dimension[], rows: readonly UsageRow[]): string {
  const body = rows.map(row => [...row.group.map(visible), ...figuresOf(row).map(plain)])
  const sum = [...by.map((_, i) => (i === 0 ? 'total' : '')), ...total(rows).map(plain)]
  const lines = [[...by, ...FIGURES], ...body, ...(rows.length > 1 ? [sum] : [])]
  // Not Math.max(...): a report may have more rows than a call may have arguments.
  const widths = [...by, ...FIGURES].map((_, column) =>
    lines.reduce((w, line) => Math.max(w, (line[column] ?? '').length), 0),
  )
  const text = lines.map(line =>
    line
      .map((cell, column) => {
        const width = widths[column] ?? 0
        return column < by.length ? cell.padEnd(width) : cell.padStart(width)
      })
      .join('  ')
      .trimEnd(),
  )
  return `${text.join('\n')}\n`
}

/** The whole report, ending in a line break. */
export function printUsage(format: UsageFormat, by: readonly Dimension[], rows: readonly UsageRow[]): string {
  if (format === 'csv') return csv(by, rows)
  return format === 'json' ? json(by, rows) : table(by, rows)
}
