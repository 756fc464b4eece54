// The waits that throttled and failing responses name. Pure.

/** Header values by lower-case name, as node:http gives them. */
export type HeaderValues = Readonly<Record<string, string | string[] | undefined>>

/** No response is believed further than a day ahead: a daily quota is the longest limit Azure names (86,400 s). */
export const MAX_WAIT_MS = 86_400_000

/** The wait of a 429 that names none (lib/README.md, "Outcomes of an attempt"). */
export const DEFAULT_THROTTLE_MS = 10_000

function single(headers: HeaderValues, name: string): string | undefined {
  const value = headers[name]
  const text = Array.isArray(value) ? value[0] : value
  const trimmed = text?.trim()
  return trimmed === '' ? undefined : trimmed
}

function bounded(waitMs: number): number {
  return Math.min(Math.max(waitMs, 0), MAX_WAIT_MS)
}

/** A small integer's digits; longer numbers are rare and go the slow way. */
const MAX_DIGITS = 9

/**
 * A number of a few digits, which is what nearly every response brings: six of them cost 0.3 µs less than with
 * patterns.
 */
function ofDigits(text: string): number | undefined {
  const { length } = text
  if (length === 0 || length > MAX_DIGITS) return undefined
  let value = 0
  for (let i = 0; i < length; i++) {
    const digit = text.charCodeAt(i) - 0x30
    if (digit < 0 || digit > 9) return undefined
    value = value * 10 + digit
  }
  return value
}

const DECIMAL = /^\d{1,12}(\.\d{1,9})?$/

function decimal(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  return ofDigits(text) ?? (DECIMAL.test(text) ? Number(text) : undefined)
}

// RFC 9110 section 5.6.7: the fixed form, and the two old ones that have to be understood still. Date.parse alone would
// take "about 5" for a day in May 2001, which is a wait of nothing.
const HTTP_DATE = /^[A-Za-z]{3,9},? [A-Za-z\d -]{6,11} \d{2}:\d{2}:\d{2}(?: \d{4})?( GMT| UTC)?$/

function retryAfterMs(text: string | undefined, epochMs: number): number | undefined {
  if (text === undefined) return undefined
  const seconds = decimal(text)
  if (seconds !== undefined) return bounded(seconds * 1000)
  const date = HTTP_DATE.exec(text)
  if (date === null) return undefined
  // asctime names no zone and means GMT, where Date.parse would take the machine's own.
  const at = Date.parse(date[1] === undefined ? `${text} GMT` : text)
  return Number.isNaN(at) ? undefined : bounded(at - epochMs)
}

const DURATION = /^(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?$/

/** Azure gives bare milliseconds, OpenAI durations such as `6m0s` or `17ms` (azure/README.md 7.1). */
function resetMs(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const bare = decimal(text)
  if (bare !== undefined) return bounded(bare)
  const shared = DURATION.exec(text)
  if (shared === null || text === '') return undefined
  const [, hours, minutes, seconds, ms] = shared
  return bounded(
    Number(hours ?? 0) * 3_600_000 + Number(minutes ?? 0) * 60_000 + Number(seconds ?? 0) * 1000 + Number(ms ?? 0),
  )
}

/**
 * The wait that `retry-after-ms` or `Retry-After` (seconds or a date, RFC 9110 section 10.2.3) names, in milliseconds.
 * @param epochMs the wall clock, for dates
 * @returns undefined where neither is there and readable
 */
export function namedWaitMs(headers: HeaderValues, epochMs: number): number | undefined {
  const exact = decimal(single(headers, 'retry-after-ms'))
  if (exact !== undefined) return bounded(exact)
  return retryAfterMs(single(headers, 'retry-after'), epochMs)
}

/**
 * How long a 429 asks to be left alone, in milliseconds: `retry-after-ms`, `Retry-After`, then the rate-limit resets
 * (the one whose remainder is used up first, else requests before tokens), else ten seconds.
 * @param epochMs the wall clock, for dates
 */
export function throttleWaitMs(headers: HeaderValues, epochMs: number): number {
  const named = namedWaitMs(headers, epochMs)
  if (named !== undefined) return named
  const requests = resetMs(single(headers, 'x-ratelimit-reset-requests'))
  const tokens = resetMs(single(headers, 'x-ratelimit-reset-tokens'))
  if (requests !== undefined && tokens !== undefined) {
    const { remainingRequests, remainingTokens } = rateLimitSignals(headers)
    const onlyTokensSpent = (remainingTokens ?? 1) <= 0 && (remainingRequests ?? 0) > 0
    return onlyTokensSpent ? tokens : requests
  }
  return requests ?? tokens ?? DEFAULT_THROTTLE_MS
}

export interface RateLimitSignals {
  readonly remainingRequests: number | undefined
  readonly remainingTokens: number | undefined
  readonly limitRequests: number | undefined
  readonly limitTokens: number | undefined
  /** When the bucket is full again, from now; see resetMs. */
  readonly resetRequestsMs: number | undefined
  readonly resetTokensMs: number | undefined
}

function integer(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  return ofDigits(text) ?? (/^-?\d{1,15}$/.test(text) ? Number(text) : undefined)
}

/** Azure's own account of what a deployment has left (azure/README.md 7.1); the remainder may be negative. */
export function rateLimitSignals(headers: HeaderValues): RateLimitSignals {
  return {
    remainingRequests: integer(single(headers, 'x-ratelimit-remaining-requests')),
    remainingTokens: integer(single(headers, 'x-ratelimit-remaining-tokens')),
    limitRequests: integer(single(headers, 'x-ratelimit-limit-requests')),
    limitTokens: integer(single(headers, 'x-ratelimit-limit-tokens')),
    resetRequestsMs: resetMs(single(headers, 'x-ratelimit-reset-requests')),
    resetTokensMs: resetMs(single(headers, 'x-ratelimit-reset-tokens')),
  }
}

/** One pass of Azure's rate windows: what is used up now is back within it (azure/README.md 7.1). */
const RENEWAL_PERIOD_MS = 60_000

function regrowsMs(remaining: number | undefined, limit: number | undefined, resetMs: number | undefined): number {
  if (remaining === undefined || remaining > 0) return 0
  const used = limit === undefined ? undefined : limit - remaining
  if (used === undefined || used <= 0) return Math.min(resetMs ?? 0, RENEWAL_PERIOD_MS)
  // `reset` says when the bucket is full again; one unit is back after its share of that time.
  const perUnitMs = (resetMs ?? RENEWAL_PERIOD_MS * (used / (limit ?? used))) / used
  return Math.min((1 - remaining) * perUnitMs, RENEWAL_PERIOD_MS)
}

/**
 * For how long a deployment that reports no request or token left will have none, in milliseconds. That is until the
 * first one has grown back. 0 when something is left or nothing is reported.
 */
export function exhaustedForMs(signals: RateLimitSignals): number {
  return Math.max(
    regrowsMs(signals.remainingRequests, signals.limitRequests, signals.resetRequestsMs),
    regrowsMs(signals.remainingTokens, signals.limitTokens, signals.resetTokensMs),
  )
}
