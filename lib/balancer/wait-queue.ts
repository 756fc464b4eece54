// The queue of requests that wait for capacity (retry.max_wait): one queue of permits per model. Capacity that appears
// is handed out at once, in the order of arrival, to the first request that can use it. A request that leaves the queue
// has its lease.
import type { Clock, Timer } from '../clock.ts'
import type { HealthRegistry } from './health.ts'
import type { Outlook, Picker, PickResult, Pool } from './pool.ts'

/** Requests waiting per model; beyond it a 429 is the honest response. */
export const MAX_WAITING = 1_000

/** What ends a wait early. */
export interface Leaving {
  onCancel(stop: () => void): () => void
}

/** A request that waits, maybe not for the first time: it keeps its place. */
export interface Waiting {
  readonly pool: Pool
  readonly picker: Picker
  readonly leaving: Leaving
  /** Monotonic: what is not there by then is not waited for. */
  readonly untilMs: number
  /** Monotonic: when the request arrived, which is its place. */
  readonly beganMs: number
  /** Orders requests that arrived at the same time: a number of `nextPlace`. */
  readonly place: number
}

/**
 * What a wait brings: a lease, or the pick that shows that waiting on is of no use; `left`: the client did not wait.
 */
export type WaitResult = PickResult | { readonly kind: 'left' } | { readonly kind: 'queue_full' }

export interface WaitQueue {
  /** The number of a request that arrives, greater than those before. */
  nextPlace(): number
  /** Waits for a lease. */
  wait(waiting: Waiting): Promise<WaitResult>
  /** Gives what is free to those who wait: for a newcomer, before it picks for itself. */
  serve(pool: Pool): void
  /** Requests of the model that wait. */
  waiting(pool: Pick<Pool, 'model'>): number
  /** A reload: requests of a model that is still there wait for what its pool has now. */
  moveTo(pools: readonly Pool[]): void
}

interface Waiter {
  readonly given: Waiting
  readonly leave: (result: WaitResult) => void
}

/** The requests of one model that wait, in the order of arrival. */
interface Line {
  readonly model: string
  readonly waiters: Waiter[]
  /** The pool that all of them wait for, that of the newest config which has the model. */
  pool: Pool
  /** A reload came between: some may wait longer than others. */
  isMixed: boolean
  /** The letters of the outlook at the last round: asking again brings nothing while they stay. */
  seen: string
  isServing: boolean
  timer: Timer | undefined
  timerMs: number
}

/** Whether there is something to wait for within so many milliseconds. A full backend may have a place at any time. */
export function isWorthWaiting(pick: PickResult, leftMs: number): boolean {
  if (pick.kind !== 'throttled') return false
  return pick.isFull ? leftMs > 0 : pick.waitMs <= leftMs
}

/** Asks for one waiter; what it gets, or that it had better not wait on, ends its wait. */
function look({ given, leave }: Waiter, nowMs: number): void {
  given.picker.retryThrottled(given.untilMs <= nowMs)
  const pick = given.picker.pick()
  if (!isWorthWaiting(pick, given.untilMs - nowMs)) leave(pick)
}

function isBefore(a: Waiting, b: Waiting): boolean {
  return a.beganMs === b.beganMs ? a.place < b.place : a.beganMs < b.beganMs
}

/** Puts a waiter at its place: one that arrived earlier stands in front, however late it came to wait. */
function insert({ waiters }: Line, waiter: Waiter): void {
  let at = waiters.length
  for (; at > 0; at--) {
    const other = waiters[at - 1]
    if (other === undefined || isBefore(other.given, waiter.given)) break
  }
  waiters.splice(at, 0, waiter)
}

/** Whether asking can bring a waiter anything that it could not before. */
function isNews(line: Line, { letters }: Outlook): boolean {
  return line.isMixed || letters !== line.seen
}

/** Whether a backend went out or came back since the last round: a waiter may have nothing left to wait for. */
function isOutNews({ seen, isMixed }: Line, { letters }: Outlook): boolean {
  return isMixed || seen.length !== letters.length || [...letters].some((is, i) => (is === 'x') !== (seen[i] === 'x'))
}

/** One round: asks for the waiters in their order, as long as a backend has room. */
function round(line: Line, outlook: Outlook, nowMs: number): void {
  const all = isOutNews(line, outlook)
  for (const waiter of [...line.waiters]) {
    if (!all && !line.pool.outlook().letters.includes('o')) break
    look(waiter, nowMs)
  }
}

/** The soonest end of a wait: that of the first in line, since all wait equally long, unless a reload came between. */
function firstUntilMs({ waiters, isMixed }: Line): number {
  if (!isMixed) return waiters[0]?.given.untilMs ?? Number.POSITIVE_INFINITY
  return Math.min(...waiters.map(({ given }) => given.untilMs))
}

/** Ends the waits whose time is over, and those that no backend's return will be in time for. */
function dismissLate(line: Line, { roomMs }: Outlook, nowMs: number): void {
  const isLate = (untilMs: number): boolean => untilMs <= nowMs || untilMs < roomMs
  if (!isLate(firstUntilMs(line))) return
  for (const waiter of line.waiters.filter(({ given }) => isLate(given.untilMs))) look(waiter, nowMs)
}

/** Sets the line's timer to the soonest moment at which something changes by itself, or a waiter's time is over. */
function schedule(line: Line, clock: Clock, { changesMs }: Outlook, serve: (line: Line) => void): void {
  const atMs = Math.min(changesMs, firstUntilMs(line))
  if (line.timer !== undefined && line.timerMs === atMs) return
  line.timer?.cancel()
  line.timer = undefined
  line.timerMs = atMs
  if (line.waiters.length > 0) {
    line.timer = clock.after(Math.ceil(atMs - clock.nowMs()), () => {
      line.timer = undefined
      serve(line)
    })
  }
}

/** Serves a line: rounds, until one brings nothing. A lease that is taken in a round is news as well. */
function createLineServer(clock: Clock): (line: Line) => void {
  const serveRounds = (line: Line): void => {
    const nowMs = clock.nowMs()
    let outlook = line.pool.outlook()
    // Each further round needs a waiter that left in the one before.
    for (let before = Number.POSITIVE_INFINITY; before > line.waiters.length && isNews(line, outlook); ) {
      before = line.waiters.length
      round(line, outlook, nowMs)
      line.seen = outlook.letters
      outlook = line.pool.outlook()
    }
    line.seen = outlook.letters
    dismissLate(line, outlook, nowMs)
  }
  const serve = (line: Line): void => {
    if (line.isServing) return
    line.isServing = true
    try {
      serveRounds(line)
    } finally {
      line.isServing = false
      schedule(line, clock, line.pool.outlook(), serve)
    }
  }
  return serve
}

/** Leads a line to the pool of another config. @returns whether the model is still there */
function moveLine(line: Line, pool: Pool | undefined): boolean {
  if (pool === undefined) return false
  line.pool = pool
  line.isMixed = true
  for (const { given } of line.waiters) pool.adopt(given.picker)
  return true
}

function newLine(pool: Pool): Line {
  const { letters } = pool.outlook()
  return {
    model: pool.model.name,
    waiters: [],
    pool,
    isMixed: false,
    seen: letters,
    isServing: false,
    timer: undefined,
    timerMs: 0,
  }
}

/**
 * @param health tells of a slot, a hold that ended, a response after a throttle; listened to while somebody waits
 */
export function createWaitQueue(clock: Clock, health: Pick<HealthRegistry, 'onCapacity'>): WaitQueue {
  const lines = new Map<string, Line>()
  const serve = createLineServer(clock)
  /** Of the newest config, by model. */
  let current: ReadonlyMap<string, Pool> = new Map()
  let lastPlace = 0
  let stopListening: (() => void) | undefined

  const onCapacity = (): void => {
    for (const line of lines.values()) serve(line)
  }

  const add = (line: Line, waiter: Waiter): void => {
    const { pool } = line
    // A request that has come before a reload asks the pool of its own config until it waits.
    if (waiter.given.pool !== pool) {
      line.isMixed = true
      pool.adopt(waiter.given.picker)
    }
    insert(line, waiter)
    lines.set(line.model, line)
    stopListening ??= health.onCapacity(onCapacity)
    // What it has tried in vain before may be tried again now.
    if (pool.outlook().letters.includes('o')) line.seen = ''
    serve(line)
  }

  const remove = (line: Line, waiter: Waiter): void => {
    const at = line.waiters.indexOf(waiter)
    if (at !== -1) line.waiters.splice(at, 1)
    if (line.waiters.length > 0) return
    line.timer?.cancel()
    if (lines.get(line.model) === line) lines.delete(line.model)
    if (lines.size > 0) return
    stopListening?.()
    stopListening = undefined
  }

  return {
    nextPlace: () => ++lastPlace,
    wait(given) {
      const model = given.pool.model.name
      const pool = current.get(model) ?? given.pool
      const line = lines.get(model) ?? newLine(pool)
      if (line.waiters.length >= MAX_WAITING) return Promise.resolve({ kind: 'queue_full' })
      return new Promise(resolve => {
        let left = false
        const leave = (result: WaitResult): void => {
          if (left) return
          left = true
          remove(line, waiter)
          stopWatching()
          resolve(result)
        }
        const waiter: Waiter = { given, leave }
        let stopWatching: () => void = () => undefined
        stopWatching = given.leaving.onCancel(() => leave({ kind: 'left' }))
        // A request that was cancelled before takes no place: nobody would take it back again.
        if (!left) add(line, waiter)
      })
    },
    serve({ model }) {
      const line = lines.get(model.name)
      if (line !== undefined) serve(line)
    },
    waiting: ({ model }) => lines.get(model.name)?.waiters.length ?? 0,
    moveTo(pools) {
      current = new Map(pools.map(pool => [pool.model.name, pool]))
      for (const line of [...lines.values()]) if (moveLine(line, current.get(line.model))) serve(line)
    },
  }
}
