// The file of the usage ledger: one line a key, day and change. Each line has the whole sum, so that the largest
// counts, and a cut line costs no more than what it would have added.
import fs from 'node:fs'
import { roundedCost } from '../cost.ts'

/** Larger files are another program's: reading them would stop the start. */
const MAX_FILE_BYTES = 256 * 1024 * 1024

/** What a key has used in one day. */
export interface Sum {
  tokens: number
  cost: number
}

/** Day (`2026-11-28`) → key → sum. */
export type Days = Map<string, Map<string, Sum>>

/** The line of one sum. */
export function lineOf(day: string, key: string, { tokens, cost }: Sum): string {
  return `${JSON.stringify({ day, key, tokens, cost: roundedCost(cost) })}\n`
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

/** Reads lines into `days`; what is no line of ours, a cut one for example, is passed over. Pure but for `days`. */
function readLines(text: string, oldest: string, days: Days): void {
  for (const line of text.split('\n')) {
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch {
      continue
    }
    if (typeof value !== 'object' || value === null) continue
    const { day, key, tokens, cost }: { day?: unknown; key?: unknown; tokens?: unknown; cost?: unknown } = value
    if (typeof day !== 'string' || !/^\d{4}-\d\d-\d\d$/.test(day) || day < oldest) continue
    if (typeof key !== 'string' || !isCount(tokens) || !isCount(cost)) continue
    const keys = days.get(day) ?? new Map<string, Sum>()
    const before = keys.get(key)
    // Sums only grow; a line that was overtaken on its way to the disk must not take any of it back.
    const sum = { tokens: Math.max(tokens, before?.tokens ?? 0), cost: Math.max(cost, before?.cost ?? 0) }
    days.set(day, keys.set(key, sum))
  }
}

/** The file's side: appends in the background, one write at a time, and compacts. */
export interface LedgerFile {
  append(text: string, done: (error: Error | null) => void): void
  appendNow(text: string): void
  /** Bytes appended since it was opened or compacted. */
  grown(): number
  compact(text: string): void
}

/**
 * Opens the file, or makes it, and reads its sums into `days`.
 * @param oldest the first day of interest
 * @throws when it cannot be opened or read, or is larger than a ledger gets
 */
export function openFile(path: string, days: Days, oldest: string): LedgerFile {
  let fd = fs.openSync(path, 'a+', 0o640)
  const { size } = fs.fstatSync(fd)
  if (size > MAX_FILE_BYTES) {
    fs.closeSync(fd)
    throw new Error(`it is larger than ${MAX_FILE_BYTES} bytes: is it another program's?`)
  }
  const text = fs.readFileSync(path, 'utf8')
  readLines(text, oldest, days)
  let grownBytes = size
  // A cut line has no end: what follows must not become a part of it.
  if (text !== '' && !text.endsWith('\n')) fs.writeSync(fd, '\n')
  return {
    append(lines, done) {
      grownBytes += lines.length
      fs.appendFile(fd, lines, done)
    },
    appendNow: lines => void fs.appendFileSync(fd, lines),
    grown: () => grownBytes,
    compact(lines) {
      const fresh = fs.openSync(`${path}.new`, 'w', 0o640)
      fs.writeSync(fresh, lines)
      fs.fsyncSync(fresh)
      fs.closeSync(fresh)
      fs.renameSync(`${path}.new`, path)
      fs.closeSync(fd)
      fd = fs.openSync(path, 'a', 0o640)
      grownBytes = 0
    },
  }
}
