// Durations, sizes and shares as people write them, turned into milliseconds, bytes and fractions. Pure; bounds and
// messages belong to the bricks.

/** What a wrong duration, size or share is answered with. */
export const DURATION_FORM = '500ms, 30s, 2m or 1h'
export const SIZE_FORM = '512KB, 64MB or 1GB'
export const PERCENT_FORM = '20%'

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

function parseQuantity(text: string, factors: ReadonlyMap<string, number>): number | undefined {
  if (text.length > QUANTITY_MAX_CHARS) return undefined
  const match = QUANTITY.exec(text)
  const factor = factors.get(match?.[2] ?? '')
  if (match === null || factor === undefined) return undefined
  // 1.1 * 1000 is 1100.0000000000002: nine decimals are more than any unit here needs.
  return Number((Number(match[1]) * factor).toFixed(9))
}
