// The queue of requests that wait for capacity (retry.max_wait): one queue of permits per model. Capacity that appears
// is handed out at once, in the order of arrival, to the first request that can use it. A request that leaves the queue
// has its lease.
import type { Clock, Timer } from '../clock.ts'
import type { HealthRegistry } from './health.ts'
import type { Picker, PickResult, Pool } from './pool.ts'

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
  /** Its place in the order of arrival, kept over several waits; 0: it has not waited yet. Written by the queue. */
  readonly ticket: { place: number }
}

/**
 * What a wait brings: a lease, or the pick that shows that waiting on is of no use; `left`: the client did not wait.
 */
export type WaitResult = PickResult | { readonly kind: 'left' } | { readonly kind: 'queue_full' }

export interface WaitQueue {
  /** Waits for a lease. @param waitMs the soonest that capacity can appear by itself */
  wait(waiting: Waiting, waitMs: number): Promise<WaitResult>
  /** Gives what is free to those who wait: for a newcomer, before it picks for itself. */
  serve(pool: Pool): void
  /** Requests of the model that wait. */
  waiting(pool: Pick<Pool, 'model'>): number
}

interface Waiter {
  readonly given: Waiting
  /** Monotonic: when to look again whatever happens. */
  lookAtMs: number
  readonly leave: (result: WaitResult) => void
}

/** The requests of one model that wait, in the order of arrival. */
interface Line {
  readonly model: string
  readonly waiters: Waiter[]
  timer: Timer | undefined
  timerMs: number
}

/** Whether there is something to wait for within so many milliseconds. A full backend may have a place at any time. */
export function isWorthWaiting(pick: PickResult, leftMs: number): boolean {
  if (pick.kind !== 'throttled') return false
  return pick.isFull ? leftMs > 0 : pick.waitMs <= leftMs
}

/** Whether asking for this waiter can bring something: its time has come, a backend has room, or none is busy. */
function isDue({ given: { pool }, lookAtMs }: Waiter, nowMs: number): boolean {
  return lookAtMs <= nowMs || pool.hasRoom() || !pool.hasBusy()
}

/** Asks for one waiter; what it gets, or that it had better not wait on, ends its wait. */
function look(waiter: Waiter, nowMs: number): void {
  const { given, leave } = waiter
  given.picker.retryThrottled()
  const pick = given.picker.pick()
  if (!isWorthWaiting(pick, given.untilMs - nowMs)) leave(pick)
  else if (pick.kind === 'throttled') waiter.lookAtMs = Math.min(nowMs + pick.waitMs, given.untilMs)
}

/** Puts a waiter at its place: one that met another 429 stands in front of those that came later. */
function insert({ waiters }: Line, waiter: Waiter): void {
  const { place } = waiter.given.ticket
  const at = waiters.findIndex(other => other.given.ticket.place > place)
  waiters.splice(at === -1 ? waiters.length : at, 0, waiter)
}

/** Sets the line's timer to the soonest moment at which one of its waiters wants to be looked at. */
function schedule(line: Line, clock: Clock, serve: (line: Line) => void): void {
  let atMs = Number.POSITIVE_INFINITY
  for (const { lookAtMs } of line.waiters) atMs = Math.min(atMs, lookAtMs)
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

interface LineServer {
  isServing(): boolean
  /** Looks at all waiters of a line for which asking can bring something. */
  serve(line: Line): void
}

/** Serves one line at a time: a lease that is taken meanwhile is news too, and looked at once the round is over. */
function createLineServer(clock: Clock): LineServer {
  let serving = false
  let again = false
  const serve = (line: Line): void => {
    if (serving) {
      again = true
      return
    }
    serving = true
    do {
      again = false
      const nowMs = clock.nowMs()
      for (const waiter of [...line.waiters]) {
        if (isDue(waiter, nowMs)) look(waiter, nowMs)
      }
    } while (again && line.waiters.some(({ given }) => given.pool.hasRoom()))
    serving = false
    schedule(line, clock, serve)
  }
  return { isServing: () => serving, serve }
}

/**
 * @param health tells of a slot, a hold that ended, a response after a throttle; listened to while somebody waits
 */
export function createWaitQueue(clock: Clock, health: Pick<HealthRegistry, 'onCapacity'>): WaitQueue {
  const lines = new Map<string, Line>()
  const { isServing, serve } = createLineServer(clock)
  let nextPlace = 1
  let stopListening: (() => void) | undefined

  const onCapacity = (): void => {
    for (const line of lines.values()) {
      const [first] = line.waiters
      // Most news is of a response that changes nothing for those who wait.
      if (first !== undefined && (isServing() || first.given.pool.hasRoom() || !first.given.pool.hasBusy())) serve(line)
    }
  }

  const add = (line: Line, waiter: Waiter): void => {
    const { ticket } = waiter.given
    if (ticket.place === 0) ticket.place = nextPlace++
    insert(line, waiter)
    lines.set(line.model, line)
    stopListening ??= health.onCapacity(onCapacity)
    schedule(line, clock, serve)
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
    wait(given, waitMs) {
      const model = given.pool.model.name
      const line = lines.get(model) ?? { model, waiters: [], timer: undefined, timerMs: 0 }
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
        const waiter: Waiter = { given, lookAtMs: Math.min(clock.nowMs() + waitMs, given.untilMs), leave }
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
  }
}
