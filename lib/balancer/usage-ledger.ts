// The sums of keys with a limit of a day or a month, kept in a small file that survives restarts: one line a key, day and change,
// each with the whole sum, so the largest counts and a cut line costs half a second of counting. One owner: alone or the primary.
import fs from 'node:fs'
import type { Clock } from '../clock.ts'
import { roundedCost } from '../cost.ts'

/** What a key has used in the UTC day and month of now. */
export interface UsedSoFar {
  readonly tokensToday: number
  readonly tokensThisMonth: number
  readonly costThisMonth: number
}

export interface UsageLedger {
  /** Reads the file now instead of at the first use. @returns why it cannot be used; undefined when it can */
  open(): string | undefined
  used(name: string): UsedSoFar
  /** @param cost in the currency of the prices; 0 where nobody counted */
  add(name: string, tokens: number, cost: number): void
  /** Writes what is not written yet, before it returns: the process is about to end. */
  close(): void
}

export interface UsageLedgerOptions {
  readonly clock: Clock
  /** Path of the file; undefined: nothing is kept. */
  readonly file: string | undefined
  /** Says once that the file cannot be written, and once that it can be again. */
  onProblem(message: string, state: 'failing' | 'recovered'): void
}

/** How much counting a crash of the machine or a SIGKILL may cost. */
const FLUSH_MS = 500
/** Pause after a failed write: a full disk is not emptied at once. */
const RETRY_MS = 5_000
/** The file is written anew, one line a key and day, when it has grown by this much. */
const COMPACT_BYTES = 1024 * 1024
/** Larger files are another program's: reading them would stop the start. */
const MAX_FILE_BYTES = 256 * 1024 * 1024
/** Days that are kept for people to read: this month and the last. */
const KEPT_DAYS = 62
const DAY_MS = 86_400_000

interface Sum {
  tokens: number
  cost: number
}

/** Day (`2026-11-28`) → key → sum. */
type Days = Map<string, Map<string, Sum>>

function dayOf(epochMs: number): string {
  return new Date(epochMs).toISOString().slice(0, 10)
}

function lineOf(day: string, key: string, { tokens, cost }: Sum): string {
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
interface LedgerFile {
  append(text: string, done: (error: Error | null) => void): void
  appendNow(text: string): void
  /** Bytes appended since it was opened or compacted. */
  grown(): number
  compact(text: string): void
}

function openFile(path: string, days: Days, oldest: string): LedgerFile {
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

export function createUsageLedger({ clock, file: path, onProblem }: UsageLedgerOptions): UsageLedger {
  const days: Days = new Map()
  /** Sums that are not in the file yet, as day and key. */
  let dirty = new Map<string, readonly [day: string, key: string]>()
  /** Those that a write in progress takes there. */
  let sent: typeof dirty = new Map()
  let file: LedgerFile | undefined
  let opened = false
  let scheduled = false
  let writing = false
  let failing = false

  const oldest = (): string => dayOf(clock.epochMs() - KEPT_DAYS * DAY_MS)
  const failed = (error: unknown): void => {
    if (!failing) onProblem(`the usage file cannot be written: ${errorText(error)}`, 'failing')
    failing = true
  }
  const errorText = (error: unknown): string => (error instanceof Error ? error.message : 'unknown error')

  const open = (): string | undefined => {
    if (opened || path === undefined) return undefined
    opened = true
    try {
      file = openFile(path, days, oldest())
      return undefined
    } catch (error) {
      return `the usage file ${path} cannot be used: ${errorText(error)}`
    }
  }
  const ready = (): void => {
    const problem = open()
    if (problem !== undefined) onProblem(problem, 'failing')
  }

  const sumOf = (day: string, key: string): Sum => {
    const keys = days.get(day) ?? new Map<string, Sum>()
    days.set(day, keys)
    const sum = keys.get(key) ?? { tokens: 0, cost: 0 }
    keys.set(key, sum)
    return sum
  }
  const linesOf = (sums: typeof dirty): string =>
    [...sums.values()].map(([day, key]) => lineOf(day, key, sumOf(day, key))).join('')
  const forgetOld = (): void => {
    const first = oldest()
    for (const day of days.keys()) if (day < first) days.delete(day)
  }
  const compact = (target: LedgerFile): void => {
    forgetOld()
    target.compact([...days].flatMap(([day, keys]) => [...keys].map(([key, sum]) => lineOf(day, key, sum))).join(''))
    dirty = new Map()
  }

  const schedule = (delayMs: number): void => {
    if (scheduled || writing || file === undefined) return
    scheduled = true
    clock.after(delayMs, () => {
      scheduled = false
      flush()
    })
  }
  const flush = (): void => {
    if (file === undefined || writing || dirty.size === 0) return
    const written = (error: Error | null): void => {
      writing = false
      if (error !== null) {
        // Whole sums: a line that did get through may well be written again.
        dirty = new Map([...sent, ...dirty])
        sent = new Map()
        failed(error)
        schedule(RETRY_MS)
        return
      }
      if (failing) onProblem('the usage file is written again', 'recovered')
      failing = false
      sent = new Map()
      if (dirty.size > 0) schedule(FLUSH_MS)
    }
    try {
      if (file.grown() > COMPACT_BYTES) {
        compact(file)
        written(null)
        return
      }
    } catch (error) {
      failed(error)
    }
    writing = true
    sent = dirty
    dirty = new Map()
    file.append(linesOf(sent), written)
  }

  return {
    open,
    used(name) {
      ready()
      const today = dayOf(clock.epochMs())
      const month = today.slice(0, 7)
      let [tokensToday, tokensThisMonth, costThisMonth] = [0, 0, 0]
      for (const [day, keys] of days) {
        const sum = day.startsWith(month) ? keys.get(name) : undefined
        if (sum === undefined) continue
        tokensThisMonth += sum.tokens
        costThisMonth += sum.cost
        if (day === today) tokensToday = sum.tokens
      }
      return { tokensToday, tokensThisMonth, costThisMonth: roundedCost(costThisMonth) }
    },
    add(name, tokens, cost) {
      ready()
      if (tokens <= 0 && cost <= 0) return
      const day = dayOf(clock.epochMs())
      // A new day: the one before the last month is no longer needed.
      if (!days.has(day)) forgetOld()
      const sum = sumOf(day, name)
      sum.tokens += tokens
      sum.cost += cost
      if (path === undefined) return
      dirty.set(`${day} ${name}`, [day, name])
      schedule(FLUSH_MS)
    },
    close() {
      const left = new Map([...sent, ...dirty])
      if (file === undefined || left.size === 0) return
      try {
        file.appendNow(linesOf(left))
        dirty = new Map()
      } catch (error) {
        failed(error)
      }
    },
  }
}
