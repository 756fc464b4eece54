// Virtual time for a whole world: a heap of what is to happen, and a loop that jumps from one event to the next.
// Between two events everything that node has queued (ticks, microtasks) runs out, so that the order never depends on
// the machine.
import type { Clock, Timer } from '../../lib/clock.ts'

/**
 * A process of the world. While it stands still its events wait: timers come first when it goes on, as in libuv's loop.
 */
export interface Host {
  readonly name: string
  frozenUntilMs: number
  /** Every time that it stood still. */
  readonly pauses: { readonly fromMs: number; readonly untilMs: number }[]
  /** It was killed: what it still had to do does not happen. */
  gone: boolean
  /** Timers that are set and have neither fired nor been cancelled. */
  timers: number
  /** What the rest of the world notices of its death: its connections. */
  readonly deaths: Set<() => void>
}

export function createHost(name: string): Host {
  return { name, frozenUntilMs: 0, pauses: [], gone: false, timers: 0, deaths: new Set() }
}

/** How long a process stood still in a span of time. */
export function pausedMs({ pauses }: Host, fromMs: number, toMs: number): number {
  return pauses.reduce((sum, pause) => {
    const ms = Math.min(pause.untilMs, toMs) - Math.max(pause.fromMs, fromMs)
    return sum + Math.max(ms, 0)
  }, 0)
}

export interface EngineHooks {
  /**
   * The time of the next event has come; it has not happened yet.
   * @param host the process that it happens in; undefined: it may concern any
   */
  before(host: Host | undefined): void
  /** Everything that an event caused has run out. */
  settled(): void
}

export interface Engine {
  nowMs(): number
  /** The wall clock. */
  epochMs(): number
  /**
   * Runs something at a time, or now where that has passed. Events of one time run in the order in which they were put
   * in.
   */
  at(atMs: number, run: () => void, host?: Host): void
  /**
   * As `at`, for what happens among clients, backends and on the wire: no process hears of it before an event of its
   * own. Several of these run in one turn of node's loop.
   */
  outside(atMs: number, run: () => void): void
  /** The clock of one process. */
  clockOf(host: Host): Clock
  /** Runs all events up to a time, which may become sooner meanwhile. */
  run(untilMs: () => number, hooks: EngineHooks): Promise<void>
  /** Events that have run so far. */
  steps(): number
}

interface Entry {
  atMs: number
  /** 0: a timer that fell due while its process stood still. */
  rank: 0 | 1
  readonly seq: number
  readonly kind: 'event' | 'timer' | 'outside'
  readonly host: Host | undefined
  cancelled: boolean
  readonly run: () => void
}

/** The wall clock's reading at virtual time 0: a fixed date. */
const EPOCH_MS = Date.UTC(2026, 0, 1)
/** Turns of node's loop that are asked for together: one by one they cost five times as much. */
const TURNS = 32

function isBefore(a: Entry, b: Entry): boolean {
  if (a.atMs !== b.atMs) return a.atMs < b.atMs
  if (a.rank !== b.rank) return a.rank < b.rank
  return a.seq < b.seq
}

/** A binary heap, soonest first. */
function createHeap(): { push(entry: Entry): void; pop(): Entry | undefined; peek(): Entry | undefined } {
  const heap: Entry[] = []
  return {
    peek: () => heap[0],
    push(entry) {
      let at = heap.length
      heap.push(entry)
      while (at > 0) {
        const up = (at - 1) >> 1
        const parent = heap[up]
        if (parent === undefined || !isBefore(entry, parent)) break
        heap[at] = parent
        at = up
      }
      heap[at] = entry
    },
    pop() {
      const top = heap[0]
      const last = heap.pop()
      if (top === undefined || last === undefined || heap.length === 0) return top
      let at = 0
      for (;;) {
        const left = heap[2 * at + 1]
        const right = heap[2 * at + 2]
        if (left === undefined) break
        const [child, index] = right !== undefined && isBefore(right, left) ? [right, 2 * at + 2] : [left, 2 * at + 1]
        if (!isBefore(child, last)) break
        heap[at] = child
        at = index
      }
      heap[at] = last
      return top
    },
  }
}

export function createEngine(): Engine {
  const heap = createHeap()
  let nowMs = 0
  let seq = 0
  let steps = 0

  const put = (atMs: number, run: () => void, host: Host | undefined, kind: Entry['kind']): Entry => {
    const entry: Entry = { atMs: Math.max(atMs, nowMs), rank: 1, seq: seq++, kind, host, cancelled: false, run }
    heap.push(entry)
    return entry
  }

  /** The next event that may run now; those of a process that stands still are put off to its awakening. */
  const next = (untilMs: number): Entry | undefined => {
    for (let entry = heap.peek(); entry !== undefined && entry.atMs <= untilMs; entry = heap.peek()) {
      heap.pop()
      const { host } = entry
      if (entry.cancelled || host?.gone === true) continue
      if (host !== undefined && host.frozenUntilMs > entry.atMs) {
        entry.atMs = host.frozenUntilMs
        if (entry.kind === 'timer') entry.rank = 0
        heap.push(entry)
        continue
      }
      return entry
    }
    return undefined
  }

  const timer = (host: Host, delayMs: number, periodMs: number | undefined, run: () => void): Timer => {
    let current: Entry
    let over = false
    const end = (): void => {
      if (over) return
      over = true
      host.timers--
      current.cancelled = true
    }
    const fire = (): void => {
      if (periodMs === undefined) end()
      // As node does it: from when it ran, so that periods that were slept through are not made up for.
      else current = put(nowMs + periodMs, fire, host, 'timer')
      run()
    }
    host.timers++
    current = put(nowMs + delayMs, fire, host, 'timer')
    return { cancel: end }
  }

  return {
    nowMs: () => nowMs,
    epochMs: () => EPOCH_MS + nowMs,
    steps: () => steps,
    at: (atMs, run, host) => void put(atMs, run, host, 'event'),
    outside: (atMs, run) => void put(atMs, run, undefined, 'outside'),
    clockOf: host => ({
      nowMs: () => nowMs,
      epochMs: () => EPOCH_MS + nowMs,
      after: (delayMs, run) => timer(host, Math.max(delayMs, 0), undefined, run),
      every: (periodMs, run) => timer(host, Math.max(periodMs, 1), Math.max(periodMs, 1), run),
    }),
    run(untilMs, { before, settled }) {
      return new Promise((resolve, reject) => {
        let asked = 0
        let over = false
        const turn = (): void => {
          asked--
          if (over) return
          try {
            settled()
            for (let isOutside = true; isOutside; ) {
              const entry = next(untilMs())
              if (entry === undefined) {
                over = true
                nowMs = Math.max(untilMs(), nowMs)
                resolve()
                return
              }
              nowMs = entry.atMs
              steps++
              isOutside = entry.kind === 'outside'
              if (!isOutside) before(entry.host)
              entry.run()
            }
          } catch (error) {
            over = true
            reject(error)
            return
          }
          if (asked === 0) ask()
        }
        const ask = (): void => {
          for (; asked < TURNS; asked++) setImmediate(turn)
        }
        ask()
      })
    },
  }
}
