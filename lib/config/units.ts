// Durations, sizes and shares as people write them, turned into milliseconds, bytes and fractions. Pure; bounds and
// messages belong to the readers.

/** What a wrong duration, size or share is answered with. */
export const DURATION_FORM = '500ms, 30s, 2m or 1h'
export const SIZE_FORM = '512KB, 64MB or 1GB'
export const PERCENT_FORM = '20%'
export const MOMENT_FORM = '2026-12-31 or 2026-12-31T18:00Z'

const MS_PER_UNIT: ReadonlyMap<string, number> = new Map([
  ['ms', 1],
  ['s', 1000],
  ['m', 60_000],
  ['h', 3_600_000],
])

// Powers of 1024, as operating systems and Azure's body limits count.
const BYTES_PER_UNIT: ReadonlyMap<string, number> = new Map([
  ['KB', 1024],
  ['MB', 1024 ** 2],
  ['GB', 1024 ** 3],
])

// Longer texts are no quantity; also keeps the digits within what a double holds.
const QUANTITY_MAX_CHARS = 20
const QUANTITY = /^(\d+(?:\.\d+)?)([A-Za-z%]+)$/

/** Milliseconds of `500ms`, `30s`, `1.5m`, `1h`, not rounded; undefined for anything else, a bare number included. */
export function parseDurationMs(text: string): number | undefined {
  return parseQuantity(text, MS_PER_UNIT)
}

/** Bytes of `512KB`, `64MB`, `1.5GB`, not rounded; undefined for anything else. */
export function parseSizeBytes(text: string): number | undefined {
  return parseQuantity(text, BYTES_PER_UNIT)
}

/** The fraction that `20%` names: 0.2; undefined for anything else. */
export function parsePercent(text: string): number | undefined {
  return parseQuantity(text, new Map([['%', 0.01]]))
}

// ISO 8601 as people write it: a date, or a date and a time of day; without a zone it is UTC.
const MOMENT = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?)(Z|[+-]\d{2}:\d{2})?)?$/i
const MS_PER_DAY = 86_400_000

/** Milliseconds of the wall clock: of a time itself, of a date its end (the next midnight, UTC). */
export function parseMomentMs(text: string): number | undefined {
  const [whole, date, time, zone = 'Z'] = MOMENT.exec(text.trim()) ?? []
  if (whole === undefined || date === undefined) return undefined
  const dayMs = Date.parse(`${date}T00:00Z`)
  // Date.parse takes the 31st of February for the 3rd of March.
  if (!Number.isFinite(dayMs) || new Date(dayMs).toISOString().slice(0, 10) !== date) return undefined
  if (time === undefined) return dayMs + MS_PER_DAY
  const ms = Date.parse(`${date}T${time}${zone.toUpperCase()}`)
  return Number.isFinite(ms) ? ms : undefined
}

function parseQuantity(text: string, factors: ReadonlyMap<string, number>): number | undefined {
  if (text.length > QUANTITY_MAX_CHARS) return undefined
  const match = QUANTITY.exec(text)
  const factor = factors.get(match?.[2] ?? '')
  if (match === null || factor === undefined) return undefined
  // 1.1 * 1000 is 1100.0000000000002: nine decimals are more than any unit here needs.
  return Number((Number(match[1]) * factor).toFixed(9))
}
