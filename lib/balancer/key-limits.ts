// Limits of a client key, a minute and at once (`auth.keys[].limits`). The only owner of that state: an admission is
// asked for once a request and settled once, with the tokens it really took. Knows no HTTP.
import type { Clock } from '../clock.ts'
import type { ClientKeyLimits } from '../config/types.ts'
import type { UsageLedger, UsedSoFar } from './usage-ledger.ts'

export type QuotaName = 'tokens_per_day' | 'tokens_per_month' | 'cost_per_month'
export type LimitName = 'requests' | 'tokens' | 'concurrent' | QuotaName

export type Admission =
  | { readonly kind: 'admitted'; readonly ticket: number }
  | {
      readonly kind: 'limited'
      readonly limit: LimitName
      readonly max: number
      readonly remaining: number
      /** How soon a request of this size is admitted, as far as is known now. */
      readonly waitMs: number
      /** Of a day's or a month's limit: when it ends, as `2026-12-01T00:00:00Z`. */
      readonly until?: string
    }
  /** The counters cannot be asked now (a worker whose primary does not answer): neither admitted nor over a limit. */
  | { readonly kind: 'unknown'; readonly waitMs: number }

/** What a key has used now. */
export interface KeyUsed extends UsedSoFar {
  readonly requestsInMinute: number
  readonly tokensInMinute: number
  readonly inFlight: number
}

/** The counters behind an admission; in a worker they live in the primary, so the result may take a moment. */
export interface KeyLimiter {
  /** @param tokens what the request is estimated to take */
  admit(name: string, limits: ClientKeyLimits, tokens: number): Admission | Promise<Admission>
  /**
   * Once, when the request has ended.
   * @param tokens what it took; undefined: not known, the estimate stands
   * @param cost what it cost; undefined: not known, or the model has no price
   */
  settle(ticket: number, tokens: number | undefined, cost?: number): void
  /** Instead of settling: the request was not served, and counts as none. */
  cancel(ticket: number): void
  /** What keys have used, by name; undefined: the counters cannot be asked now. */
  used(
    names: readonly string[],
  ): Readonly<Record<string, KeyUsed>> | Promise<Readonly<Record<string, KeyUsed>> | undefined>
}

const WINDOW_MS = 60_000
/**
 * Uses within this are counted as one, as of the latest: at most 600 entries a key, and never one too many admitted.
 */
const GRAIN_MS = 100
/** When a place among those in flight becomes free is not known; clients look again after this. */
const CONCURRENT_WAIT_MS = 1_000

interface Use {
  firstMs: number
  lastMs: number
  requests: number
  tokens: number
}

interface Account {
  /** Ascending by time, none older than the window. */
  uses: Use[]
  inFlight: number
}

interface Ticket {
  /** The key's name where a day or a month is counted too. */
  readonly quotaOf: string | undefined
  readonly account: Account
  readonly use: Use
  /** Reserved in the minute. */
  readonly tokens: number
  readonly estimate: number
}

export interface KeyUsage extends KeyLimiter {
  admit(name: string, limits: ClientKeyLimits, tokens: number): Exclude<Admission, { readonly kind: 'unknown' }>
  used(names: readonly string[]): Readonly<Record<string, KeyUsed>>
  /** Admissions not settled yet. */
  open(): number
}

function sum(uses: readonly Use[], of: 'requests' | 'tokens'): number {
  let total = 0
  for (const use of uses) total += use[of]
  return total
}

/** How long until enough has left the window that `wanted` more fits under `max`. */
function waitFor(uses: readonly Use[], of: 'requests' | 'tokens', wanted: number, max: number, nowMs: number): number {
  let over = sum(uses, of) + wanted - max
  for (const use of uses) {
    if (over <= 0) break
    over -= use[of]
    if (over <= 0) return use.lastMs + WINDOW_MS - nowMs
  }
  return WINDOW_MS
}

const NOTHING_USED: UsedSoFar = { tokensToday: 0, tokensThisMonth: 0, costThisMonth: 0 }

type Limited = Admission & { readonly kind: 'limited' }

/** Whether a key has a limit of a day or a month, so that its sums are kept. */
export function hasQuota({ tokensPerDay, tokensPerMonth, costPerMonth }: ClientKeyLimits): boolean {
  return tokensPerDay !== undefined || tokensPerMonth !== undefined || costPerMonth !== undefined
}

/**
 * The limit of a day or a month that is used up, the longest-lasting one first.
 * @param epochMs now: days and months are UTC's
 */
function usedUp(limits: ClientKeyLimits, used: UsedSoFar, epochMs: number): Limited | undefined {
  const now = new Date(epochMs)
  const [year, month, day] = [now.getUTCFullYear(), now.getUTCMonth(), now.getUTCDate()]
  const [nextMonth, nextDay] = [Date.UTC(year, month + 1), Date.UTC(year, month, day + 1)]
  const over = (limit: QuotaName, max: number | undefined, sum: number, endMs: number): Limited | undefined =>
    max === undefined || sum < max
      ? undefined
      : {
          kind: 'limited',
          limit,
          max,
          remaining: 0,
          waitMs: endMs - epochMs,
          until: new Date(endMs).toISOString().replace('.000Z', 'Z'),
        }
  return (
    over('cost_per_month', limits.costPerMonth, used.costThisMonth, nextMonth) ??
    over('tokens_per_month', limits.tokensPerMonth, used.tokensThisMonth, nextMonth) ??
    over('tokens_per_day', limits.tokensPerDay, used.tokensToday, nextDay)
  )
}

/** Drops what has left the window. */
function expire(account: Account, nowMs: number): void {
  const fresh = account.uses.findIndex(use => use.lastMs + WINDOW_MS > nowMs)
  if (fresh === -1) account.uses = []
  else if (fresh > 0) account.uses.splice(0, fresh)
}

/** The entry that a use of now belongs to. */
function useNow(account: Account, nowMs: number): Use {
  const last = account.uses.at(-1)
  if (last !== undefined && nowMs - last.firstMs < GRAIN_MS) {
    last.lastMs = nowMs
    return last
  }
  const made: Use = { firstMs: nowMs, lastMs: nowMs, requests: 0, tokens: 0 }
  account.uses.push(made)
  return made
}

/** The limit of a minute, or of requests at once, that is reached. */
function reached(
  { uses, inFlight }: Account,
  limits: ClientKeyLimits,
  tokens: number,
  nowMs: number,
): Limited | undefined {
  const { requestsPerMinute, tokensPerMinute, concurrent } = limits
  if (concurrent !== undefined && inFlight >= concurrent) {
    return { kind: 'limited', limit: 'concurrent', max: concurrent, remaining: 0, waitMs: CONCURRENT_WAIT_MS }
  }
  if (requestsPerMinute !== undefined && sum(uses, 'requests') >= requestsPerMinute) {
    const waitMs = waitFor(uses, 'requests', 1, requestsPerMinute, nowMs)
    return { kind: 'limited', limit: 'requests', max: requestsPerMinute, remaining: 0, waitMs }
  }
  if (tokensPerMinute === undefined) return undefined
  const used = sum(uses, 'tokens')
  if (used + tokens <= tokensPerMinute) return undefined
  const waitMs = waitFor(uses, 'tokens', tokens, tokensPerMinute, nowMs)
  const remaining = Math.max(tokensPerMinute - used, 0)
  return { kind: 'limited', limit: 'tokens', max: tokensPerMinute, remaining, waitMs }
}

/**
 * Counts uses of keys in a sliding minute: in no minute, wherever it begins, more than the limit is admitted. Tokens
 * are reserved by estimate and put right when the request ends. An account is forgotten when nothing is in its window.
 * @param ledger the sums of days and months; left out: none are counted
 */
export function createKeyUsage(clock: Clock, ledger?: UsageLedger): KeyUsage {
  const accounts = new Map<string, Account>()
  const tickets = new Map<number, Ticket>()
  let nextTicket = 1

  const accountOf = (name: string): Account => {
    const found = accounts.get(name)
    if (found !== undefined) return found
    const made: Account = { uses: [], inFlight: 0 }
    accounts.set(name, made)
    return made
  }

  const settle = (id: number, took: number | undefined, cost = 0): void => {
    const ticket = tickets.get(id)
    if (ticket === undefined) return
    tickets.delete(id)
    const { account, use, tokens, estimate, quotaOf } = ticket
    if (quotaOf !== undefined) ledger?.add(quotaOf, took ?? estimate, cost)
    const nowMs = clock.nowMs()
    account.inFlight--
    expire(account, nowMs)
    if (took !== undefined) {
      const more = took - tokens
      if (account.uses.includes(use)) use.tokens += more
      // A long response outlives the minute it was admitted in: what it took beyond its estimate counts as of now.
      else if (more > 0) useNow(account, nowMs).tokens += more
    }
    if (account.inFlight > 0 || account.uses.length > 0) return
    for (const [name, known] of accounts) if (known === account) accounts.delete(name)
  }

  return {
    admit(name, limits, estimate) {
      const nowMs = clock.nowMs()
      const quota = ledger !== undefined && hasQuota(limits) ? ledger : undefined
      const exceeded = quota && usedUp(limits, quota.used(name), clock.epochMs())
      if (exceeded !== undefined) return exceeded
      const account = accountOf(name)
      expire(account, nowMs)
      // A request larger than the whole limit passes when nothing else has used it: else it never would.
      const tokens = Math.min(estimate, limits.tokensPerMinute ?? estimate)
      const refused = reached(account, limits, tokens, nowMs)
      if (refused !== undefined) return refused
      const use = useNow(account, nowMs)
      use.requests++
      use.tokens += tokens
      account.inFlight++
      const ticket = nextTicket++
      tickets.set(ticket, { account, use, tokens, estimate, quotaOf: quota === undefined ? undefined : name })
      return { kind: 'admitted', ticket }
    },
    settle,
    cancel(id) {
      const ticket = tickets.get(id)
      if (ticket === undefined) return
      if (ticket.account.uses.includes(ticket.use)) ticket.use.requests--
      settle(id, 0)
    },
    used(names) {
      const nowMs = clock.nowMs()
      return Object.fromEntries(
        names.map(name => {
          const account = accounts.get(name)
          if (account !== undefined) expire(account, nowMs)
          const { uses, inFlight } = account ?? { uses: [], inFlight: 0 }
          const sums = ledger?.used(name) ?? NOTHING_USED
          return [
            name,
            { ...sums, requestsInMinute: sum(uses, 'requests'), tokensInMinute: sum(uses, 'tokens'), inFlight },
          ]
        }),
      )
    },
    open: () => tickets.size,
  }
}

/** Bytes of English JSON a token has on average (OpenAI's rule of thumb); settled by the real count afterwards. */
const BYTES_PER_TOKEN = 4
/** Base64 images are megabytes of body and about a thousand tokens: above this a body's length says nothing. */
const MAX_PROMPT_ESTIMATE = 32_768

/**
 * What a request will take, in tokens, before anyone has counted.
 * @param maxOutput the output limit that the request names; undefined: none
 */
export function estimateTokens(bodyBytes: number, maxOutput: number | undefined): number {
  return Math.min(Math.ceil(bodyBytes / BYTES_PER_TOKEN), MAX_PROMPT_ESTIMATE) + (maxOutput ?? 0)
}
