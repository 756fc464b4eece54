// Permits of a deployment for the requests that wait, after a throttle: its capacity is not known then. They grow as in
// TCP's slow start (RFC 5681 section 3.1), up to a threshold as there: the most that two throttles in a row have shown.
// Now and then one request more looks whether the limit has risen. Time is an argument.

/** Permits that a success after a throttle adds. */
const STEP = 2
/** After a 429 whose wait is none (`Retry-After: 0`) waiting requests do not ask again sooner: it would be a loop. */
const LEAST_WAIT_MS = 100
/** A renewed window begins with one request; the others follow on its answer, or when no refusal came for so long. */
const PILOT_MS = 250
/** A limit that has risen is looked for after so many windows without a throttle … */
const GROW_WINDOWS = 2.5
/** … but not sooner, since each look costs a refused request where the limit is still the same, … */
const GROW_LEAST_MS = 5_000
/** … and not later, however long the windows. */
const GROW_MOST_MS = 30_000
/** What an older throttle has shown is not believed any more: Azure counts by the minute at most. */
const MEMORY_MS = 60_000

const NEVER = Number.POSITIVE_INFINITY

/** The permits of one deployment, from its first throttle on. A class: one for each, and asked with every pick. */
export class Ramp {
  /** Requests that may be let through: one, and two more for each success. */
  private permits = 1
  /** Throttled; the next request begins a window. */
  private closed = true
  /** No request is let through sooner. */
  private untilMs = 0
  private throttledMs = Number.NEGATIVE_INFINITY
  /** The longest wait that was named since the window was closed. */
  private waitMs = 0
  /** Requests so far; each has its number. */
  private count = 0
  /** The last request before the window: from a throttle's end, or the renewal after it, to the next one. */
  private windowAfter = 0
  private windowMs = 0
  /** Requests of the window that were refused. */
  private refused = 0
  /** The last request before the round: the successes after it count. */
  private roundAfter = 0
  /** What the last window that a throttle ended has admitted. */
  private admitted: number | undefined
  /** The most that a window is given. */
  private most = NEVER
  /** From one window's beginning to the next, while no throttle comes between. */
  private periodMs = NEVER
  private renewsMs = NEVER
  private growsMs = NEVER
  private pilotMs = Number.NEGATIVE_INFINITY

  /** @param waitMs how long the throttle lasts @param turn the number of the request that was refused; 0: another's */
  throttled(nowMs: number, waitMs: number, turn: number): void {
    if (turn > this.windowAfter) this.refused++
    if (!this.closed && nowMs - this.throttledMs > MEMORY_MS) this.forgetAll()
    this.waitMs = this.closed ? Math.max(this.waitMs, waitMs) : waitMs
    this.closed = true
    this.permits = 1
    this.throttledMs = nowMs
    this.untilMs = waitMs < 1 ? nowMs + LEAST_WAIT_MS : nowMs
  }

  /** A request begins. @returns its number */
  begin(nowMs: number): number {
    if (this.closed) this.open(nowMs)
    else if (nowMs >= this.renewsMs) this.renew(nowMs)
    else if (this.isSpent() && this.mayGrow(nowMs)) this.grow()
    this.permits = Math.max(this.permits - 1, 0)
    return ++this.count
  }

  /** A request was answered, and not refused. */
  succeeded(turn: number): void {
    if (this.closed || turn <= this.roundAfter) return
    this.permits += STEP
    this.pilotMs = Number.NEGATIVE_INFINITY
  }

  /** A request ended without an answer: its permit goes to the next one. */
  unanswered(turn: number): void {
    if (turn <= this.roundAfter) return
    this.permits = Math.max(this.permits, 1)
    this.pilotMs = Number.NEGATIVE_INFINITY
  }

  /** An operator has restored the deployment: nothing is held back. */
  reset(): void {
    this.forgetAll()
    this.closed = false
    this.permits = NEVER
    this.untilMs = 0
    this.pilotMs = Number.NEGATIVE_INFINITY
  }

  /**
   * Whether one more may be let through, once the throttle is over.
   * @param inFlight requests at the deployment
   * @param isLast it waits no longer: a refusal is worse than what earlier windows make likely
   */
  allows(nowMs: number, inFlight: number, isLast = false): boolean {
    if (nowMs < this.untilMs) return false
    if (this.closed) return true
    // With nothing in flight no answer can come that brings a permit.
    if (this.permits < 1 && inFlight > 0) return false
    if (isLast) return true
    if (nowMs < this.pilotMs) return false
    return !this.isSpent() || nowMs >= this.renewsMs || this.mayGrow(nowMs)
  }

  /** The soonest time at which `allows` may change by itself; Infinity: not before something happens. */
  changesMs(nowMs: number): number {
    let soonestMs = NEVER
    for (const ms of [this.untilMs, this.pilotMs]) if (ms > nowMs && ms < soonestMs) soonestMs = ms
    if (this.closed || !this.isSpent()) return soonestMs
    for (const ms of [this.renewsMs, this.growsMs]) if (ms > nowMs && ms < soonestMs) soonestMs = ms
    return soonestMs
  }

  /** The window has had its most. */
  private isSpent(): boolean {
    return this.count - this.windowAfter >= this.most
  }

  /**
   * Whether a look beyond the most is due: right behind it, so that a refusal's wait ends with the window and costs no
   * time. In a window that is long, also in its middle.
   */
  private mayGrow(nowMs: number): boolean {
    return nowMs >= this.growsMs && (this.windowMs >= this.growsMs || this.periodMs > GROW_MOST_MS)
  }

  private forgetAll(): void {
    this.windowAfter = this.count
    this.refused = 0
    this.admitted = undefined
    this.most = NEVER
    this.periodMs = NEVER
    this.renewsMs = NEVER
    this.growsMs = NEVER
  }

  private beginWindow(nowMs: number): void {
    this.windowAfter = this.count
    this.windowMs = nowMs
    this.refused = 0
    this.renewsMs = nowMs + this.periodMs
  }

  /** The first request after a throttle: the window before it has shown how many are admitted in which time. */
  private open(nowMs: number): void {
    const admitted = this.count - this.windowAfter - this.refused
    if (admitted > 0) {
      // Of one throttle alone chance may be the cause; of two the greater number counts.
      this.most = this.admitted === undefined ? NEVER : Math.max(this.admitted, admitted)
      this.admitted = admitted
      // Where demand was low the time says nothing, but the wait that was named does.
      this.periodMs = Math.min(nowMs - this.windowMs, 2 * this.waitMs)
    }
    this.closed = false
    this.roundAfter = this.count
    this.pilotMs = Number.NEGATIVE_INFINITY
    this.beginWindow(nowMs)
    const patienceMs = Math.min(Math.max(GROW_WINDOWS * this.periodMs, GROW_LEAST_MS), GROW_MOST_MS)
    this.growsMs = this.throttledMs + patienceMs
  }

  /** A window is over without a throttle. */
  private renew(nowMs: number): void {
    this.beginWindow(nowMs)
    if (this.most !== NEVER) this.pilotMs = nowMs + PILOT_MS
  }

  /** The limit may have risen: one more than is known, and on from there. */
  private grow(): void {
    this.most = NEVER
    this.permits = 1
    this.roundAfter = this.count
  }
}
