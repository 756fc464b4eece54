// One identity's token: fetched once at a time, refreshed ahead of its end, kept while it lives. After a failed fetch
// the endpoint is left alone for a while. How it is fetched is handed in; this file knows no HTTP.
import { afterRunning, type Clock, type Random, type Timer } from '../clock.ts'
import type { Authorization, Authorizer } from './credentials.ts'
import type { TokenResult } from './entra-requests.ts'

export interface TokenKeeperOptions {
  readonly clock: Clock
  readonly random: Random
  /** Makes one fetch; ends soon once the signal is aborted. May reject. */
  readonly fetch: (signal: AbortSignal) => Promise<TokenResult>
  /** Called when fetching begins to fail and when it works again, not in between. */
  readonly onChange: (change: TokenChange) => void
  /** Once aborted, fetches end and none begins; a token that is there still serves until its end. */
  readonly closing: AbortSignal
}

export type TokenChange =
  /** @property leftMs how long the present token still serves; 0: requests fail now */
  { readonly kind: 'failing'; readonly reason: string; readonly leftMs: number } | { readonly kind: 'working' }

export interface TokenKeeper extends Authorizer {
  /** Cancels its timer until somebody asks again: for an identity that may have left the config. */
  rest(): void
}

/** A whole fetch, with the federated file's reading: longer, and a request waits better at another backend. */
export const FETCH_TIMEOUT_MS = 10_000
/** First wait after a failure; doubles up to the longest. */
const FIRST_BACK_OFF_MS = 1_000
const LONGEST_BACK_OFF_MS = 60_000
/** A named wait beyond this is not waited for: no token endpoint needs more, and an operator may have mended it. */
const LONGEST_NAMED_WAIT_MS = 300_000
/** Waits and refreshes are spread by this share, so that many proxies do not ask in step. */
const JITTER = 0.2
/** Refreshed this long before the end, as Azure's own SDKs do (azure/README.md 2.5), or at half of a shorter life. */
const LEAD_MS = 300_000
/** Longer lives are refreshed at their half (azure/README.md 2.5). */
const LONG_LIFE_MS = 7_200_000
/** In its last moments a token might end on its way. */
const LAST_MOMENT_MS = 2_000

/** When to refresh a token that lives for `livesMs`, counted from the fetch; up to a fifth earlier by chance. */
export function refreshAfterMs(livesMs: number, random: Random): number {
  const latest = livesMs > LONG_LIFE_MS ? livesMs / 2 : livesMs - Math.min(LEAD_MS, livesMs / 2)
  return Math.round(latest * (1 - JITTER * random()))
}

/** How long to leave the endpoint alone after so many failures in a row, of which the last may have named a wait. */
export function backOffMs(failures: number, namedMs: number | undefined, random: Random): number {
  const doubled = Math.min(FIRST_BACK_OFF_MS * 2 ** Math.min(failures - 1, 16), LONGEST_BACK_OFF_MS)
  const named = Math.min(namedMs ?? 0, LONGEST_NAMED_WAIT_MS) * (1 + JITTER * random())
  return Math.round(Math.max(doubled * (1 - JITTER * random()), named))
}

interface Held {
  readonly authorization: Authorization
  readonly refreshAtMs: number
  readonly endsAtMs: number
  /** The same by the wall clock: the monotonic one stands still while a machine is suspended. */
  readonly endsAtEpochMs: number
}

interface Failure {
  readonly reason: string
  readonly permanent: boolean
  readonly count: number
  readonly retryAtMs: number
}

interface Fetch {
  readonly settled: Promise<Authorization>
  /** Set off by a timer after a failure: nobody waits for it. */
  readonly background: boolean
}

const STOPPING: Authorization = Object.freeze({
  kind: 'unavailable',
  reason: 'the proxy is stopping',
  waitMs: FIRST_BACK_OFF_MS,
  permanent: false,
})
/**
 * A backend that refuses one token after the other is asked with new ones at longer and longer intervals, until this
 * has passed.
 */
const REFUSALS_FORGOTTEN_MS = 600_000

function failed(reason: string): TokenResult {
  return { kind: 'failed', reason, waitMs: undefined }
}

/** A token that was asked for at `beganMs`, by the wall clock at `beganEpochMs`: its life counts from there. */
function heldFrom(token: string, livesMs: number, beganMs: number, beganEpochMs: number, random: Random): Held {
  return {
    authorization: Object.freeze({ kind: 'header', name: 'authorization', value: `Bearer ${token}` }),
    refreshAtMs: beganMs + refreshAfterMs(livesMs, random),
    endsAtMs: beganMs + livesMs,
    endsAtEpochMs: beganEpochMs + livesMs,
  }
}

/** How long the held token still serves, by the clock that leaves it less. */
function leftMsOf(held: Held | undefined, clock: Clock): number {
  return held === undefined ? 0 : Math.min(held.endsAtMs - clock.nowMs(), held.endsAtEpochMs - clock.epochMs())
}

/** What a request gets that finds no token, and none on its way. */
function unavailable(failure: Failure | undefined, nowMs: number): Authorization {
  if (failure === undefined) return STOPPING
  const { reason, permanent, retryAtMs } = failure
  return { kind: 'unavailable', reason, permanent, waitMs: Math.max(Math.ceil(retryAtMs - nowMs), 1) }
}

/** Makes one fetch, which fails when it takes too long, when it rejects, or when the proxy stops. */
async function fetchInTime({ clock, fetch, closing }: TokenKeeperOptions): Promise<TokenResult> {
  const ending = new AbortController()
  const late = new Promise<TokenResult>(resolve => {
    ending.signal.addEventListener('abort', () =>
      resolve(failed(`fetching it took longer than ${FETCH_TIMEOUT_MS / 1000} s`)),
    )
  })
  const end = (): void => ending.abort()
  const timeout = afterRunning(clock, FETCH_TIMEOUT_MS, end)
  closing.addEventListener('abort', end)
  const result = await Promise.race([fetch(ending.signal), late]).catch(() => failed('fetching it went wrong'))
  timeout.cancel()
  closing.removeEventListener('abort', end)
  return result
}

/** Refusals of held tokens by backends, and when a refused token may be replaced by another. */
interface Refusals {
  mayReplace(nowMs: number): boolean
  /** The refused token is replaced now: the more refusals in a row, the later the next one may be. */
  replaced(nowMs: number): void
}

function createRefusals(random: Random): Refusals {
  let count = 0
  let lastMs = Number.NEGATIVE_INFINITY
  let mayReplaceAtMs = Number.NEGATIVE_INFINITY
  return {
    mayReplace: nowMs => nowMs >= mayReplaceAtMs,
    replaced(nowMs) {
      count = nowMs - lastMs < REFUSALS_FORGOTTEN_MS ? count + 1 : 1
      lastMs = nowMs
      mayReplaceAtMs = nowMs + backOffMs(count, undefined, random)
    },
  }
}

/** The state of one identity: its token, the fetch in progress, the failures since the last token. */
class Keeper {
  private readonly options: TokenKeeperOptions
  private readonly refusals: Refusals
  private held: Held | undefined
  private failure: Failure | undefined
  private underWay: Fetch | undefined
  private timer: Timer | undefined
  private askedSinceFetch = false
  /** The held token was refused by a backend. */
  private isRefused = false

  constructor(options: TokenKeeperOptions) {
    this.options = options
    this.refusals = createRefusals(options.random)
  }

  refused(authorization: Authorization): void {
    if (authorization === this.held?.authorization) this.isRefused = true
  }

  authorize(): Authorization | Promise<Authorization> {
    const { held, failure, underWay, refusals } = this
    const { clock, closing } = this.options
    this.askedSinceFetch = true
    const nowMs = clock.nowMs()
    const mayBegin = underWay === undefined && !closing.aborted && nowMs >= (failure?.retryAtMs ?? 0)
    if (held !== undefined && leftMsOf(held, clock) > LAST_MOMENT_MS) {
      if (this.isRefused) {
        // Everybody waits for the next one, since the refused one would only be refused once more.
        if (underWay !== undefined && !underWay.background) return underWay.settled
        if (mayBegin && refusals.mayReplace(nowMs)) {
          // The refused token still serves if no other can be had.
          refusals.replaced(nowMs)
          return this.begin(false)
        }
      }
      // Not left to the timer alone: it may have been set before the machine slept, or not at all.
      if (mayBegin && nowMs >= held.refreshAtMs) this.begin(false)
      return held.authorization
    }
    if (mayBegin) return this.begin(false)
    if (underWay !== undefined && !underWay.background) return underWay.settled
    return unavailable(failure, clock.nowMs())
  }

  rest(): void {
    this.timer?.cancel()
    this.timer = undefined
  }

  private begin(background: boolean): Promise<Authorization> {
    this.askedSinceFetch = false
    const settled = this.fetchOnce().finally(() => {
      this.underWay = undefined
    })
    this.underWay = { settled, background: background && this.failure !== undefined }
    return settled
  }

  private async fetchOnce(): Promise<Authorization> {
    const { clock, random, closing } = this.options
    const beganMs = clock.nowMs()
    const beganEpochMs = clock.epochMs()
    const result = await fetchInTime(this.options)
    if (closing.aborted) return STOPPING
    return result.kind === 'token'
      ? this.take(heldFrom(result.token, result.livesMs, beganMs, beganEpochMs, random))
      : this.fail(result.reason, result.waitMs, result.permanent === true)
  }

  private take(held: Held): Authorization {
    this.held = held
    this.isRefused = false
    const recovered = this.failure !== undefined
    this.failure = undefined
    this.schedule(held.refreshAtMs)
    if (recovered) this.options.onChange({ kind: 'working' })
    return held.authorization
  }

  private fail(reason: string, waitMs: number | undefined, permanent: boolean): Authorization {
    const { held, failure: before } = this
    const { clock, random, onChange } = this.options
    const count = (before?.count ?? 0) + 1
    const failure = { reason, permanent, count, retryAtMs: clock.nowMs() + backOffMs(count, waitMs, random) }
    this.failure = failure
    this.schedule(failure.retryAtMs)
    const leftMs = (): number => leftMsOf(held, clock)
    if (before === undefined) onChange({ kind: 'failing', reason, leftMs: Math.max(leftMs() - LAST_MOMENT_MS, 0) })
    return leftMs() > LAST_MOMENT_MS && held !== undefined ? held.authorization : unavailable(failure, clock.nowMs())
  }

  private schedule(atMs: number): void {
    const { clock, closing } = this.options
    this.rest()
    if (closing.aborted) return
    this.timer = clock.after(Math.max(atMs - clock.nowMs(), 0), () => {
      this.timer = undefined
      // Nobody asked for it since: the next who does sets a fetch off.
      if (this.askedSinceFetch && this.underWay === undefined && !closing.aborted) this.begin(true)
    })
  }
}

/** Keeps one identity's token. Nothing is fetched before the first request asks. */
export function createTokenKeeper(options: TokenKeeperOptions): TokenKeeper {
  const keeper = new Keeper(options)
  return {
    authorize: () => keeper.authorize(),
    refused: authorization => keeper.refused(authorization),
    rest: () => keeper.rest(),
  }
}
