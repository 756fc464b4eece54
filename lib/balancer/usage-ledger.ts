// The sums of keys with a limit of a day or a month, kept in a small file that survives restarts. It has one line a
// key, day and change, each with the whole sum. So the largest counts, and a cut line costs half a second of counting.
// One owner: alone or the primary.
import type { Clock } from '../clock.ts'
import { roundedCost } from '../cost.ts'
import { type Days, type LedgerFile, lineOf, openFile, type Sum } from './usage-file.ts'

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
/** Days that are kept for people to read: this month and the last. */
const KEPT_DAYS = 62
const DAY_MS = 86_400_000

function dayOf(epochMs: number): string {
  return new Date(epochMs).toISOString().slice(0, 10)
}

function errorText(error: unknown): string {
  return error instanceof Error ? error.message : 'unknown error'
}

/** The sums in memory: they count, whether or not the file takes them. */
interface UsageSums {
  readonly days: Days
  /** The first day that is kept. */
  oldest(): string
  /** The sum of a key in a day, zero at first, to be added to. */
  of(day: string, key: string): Sum
  used(name: string, today: string): UsedSoFar
  forgetOld(): void
}

function createUsageSums(clock: Clock): UsageSums {
  const days: Days = new Map()
  const oldest = (): string => dayOf(clock.epochMs() - KEPT_DAYS * DAY_MS)
  return {
    days,
    oldest,
    of(day, key) {
      const keys = days.get(day) ?? new Map<string, Sum>()
      days.set(day, keys)
      const sum = keys.get(key) ?? { tokens: 0, cost: 0 }
      keys.set(key, sum)
      return sum
    },
    used(name, today) {
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
    forgetOld() {
      const first = oldest()
      for (const day of days.keys()) if (day < first) days.delete(day)
    },
  }
}

/** The lines of every sum: a file that is written anew. */
function allLines(days: Days): string {
  return [...days].flatMap(([day, keys]) => [...keys].map(([key, sum]) => lineOf(day, key, sum))).join('')
}

/** Day and key of sums that changed, under both as one text. */
type ChangedSums = ReadonlyMap<string, readonly [day: string, key: string]>

function linesOf(changed: ChangedSums, sums: UsageSums): string {
  return [...changed.values()].map(([day, key]) => lineOf(day, key, sums.of(day, key))).join('')
}

/** Brings changed sums to the file: in the background, one write at a time, again after a failure. */
interface LedgerWriter {
  /** The sum of this key and day has changed. */
  changed(day: string, key: string): void
  /** Writes what is not written yet, before it returns. */
  close(): void
}

function createLedgerWriter(
  file: LedgerFile,
  sums: UsageSums,
  { clock, onProblem }: Pick<UsageLedgerOptions, 'clock' | 'onProblem'>,
): LedgerWriter {
  /** Sums that are not in the file yet, as day and key. */
  let dirty = new Map<string, readonly [day: string, key: string]>()
  /** Those that a write in progress takes there. */
  let sent: ChangedSums = new Map()
  let scheduled = false
  let writing = false
  let failing = false

  const failed = (error: unknown): void => {
    if (!failing) onProblem(`the usage file cannot be written: ${errorText(error)}`, 'failing')
    failing = true
  }
  const compact = (): void => {
    sums.forgetOld()
    file.compact(allLines(sums.days))
    dirty = new Map()
  }

  const schedule = (delayMs: number): void => {
    if (scheduled || writing) return
    scheduled = true
    clock.after(delayMs, () => {
      scheduled = false
      flush()
    })
  }
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
  const flush = (): void => {
    if (writing || dirty.size === 0) return
    try {
      if (file.grown() > COMPACT_BYTES) {
        compact()
        written(null)
        return
      }
    } catch (error) {
      failed(error)
    }
    writing = true
    sent = dirty
    dirty = new Map()
    file.append(linesOf(sent, sums), written)
  }

  return {
    changed(day, key) {
      dirty.set(`${day} ${key}`, [day, key])
      schedule(FLUSH_MS)
    },
    close() {
      const left = new Map([...sent, ...dirty])
      if (left.size === 0) return
      try {
        file.appendNow(linesOf(left, sums))
        dirty = new Map()
      } catch (error) {
        failed(error)
      }
    },
  }
}

export function createUsageLedger({ clock, file: path, onProblem }: UsageLedgerOptions): UsageLedger {
  const sums = createUsageSums(clock)
  let writer: LedgerWriter | undefined
  let opened = false

  const open = (): string | undefined => {
    if (opened || path === undefined) return undefined
    opened = true
    try {
      writer = createLedgerWriter(openFile(path, sums.days, sums.oldest()), sums, { clock, onProblem })
      return undefined
    } catch (error) {
      return `the usage file ${path} cannot be used: ${errorText(error)}`
    }
  }
  const ready = (): void => {
    const problem = open()
    if (problem !== undefined) onProblem(problem, 'failing')
  }

  return {
    open,
    used(name) {
      ready()
      return sums.used(name, dayOf(clock.epochMs()))
    },
    add(name, tokens, cost) {
      ready()
      if (tokens <= 0 && cost <= 0) return
      const day = dayOf(clock.epochMs())
      // A new day: the one before the last month is no longer needed.
      if (!sums.days.has(day)) sums.forgetOld()
      const sum = sums.of(day, name)
      sum.tokens += tokens
      sum.cost += cost
      writer?.changed(day, name)
    },
    close: () => writer?.close(),
  }
}
