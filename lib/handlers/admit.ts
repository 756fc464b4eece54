// A request's way past its key's limits: refused with 429 and the truth about when to come back, or admitted and
// settled at its end.

import { type Admission, hasQuota, type QuotaName } from '../balancer/key-limits.ts'
import type { Price, Principal } from '../config/types.ts'
import { costOf } from '../cost.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import type { SharedState } from '../runtime.ts'

const UNLIMITED = (): void => undefined

function hasLimits({ limits }: Principal): boolean {
  const { requestsPerMinute, tokensPerMinute, concurrent } = limits
  return (
    requestsPerMinute !== undefined || tokensPerMinute !== undefined || concurrent !== undefined || hasQuota(limits)
  )
}

/** A day's or a month's limit, for people. */
const QUOTAS: Readonly<Record<QuotaName, (max: number) => string>> = {
  tokens_per_day: max => `${max} tokens a day`,
  tokens_per_month: max => `${max} tokens a month`,
  cost_per_month: max => `a cost of ${max} a month`,
}

/** OpenAI's way to write a wait in `x-ratelimit-reset-*`: `250ms`, `12.5s`, `1m0s`. */
export function resetText(waitMs: number): string {
  const ms = Math.max(Math.ceil(waitMs), 0)
  if (ms < 1000) return `${ms}ms`
  if (ms < 60_000) return `${Math.ceil(ms / 100) / 10}s`
  const seconds = Math.ceil(ms / 1000)
  return `${Math.floor(seconds / 60)}m${seconds % 60}s`
}

function refusalFor(key: Principal, limited: Admission & { kind: 'limited' }): Refusal {
  const { limit, max, remaining, waitMs, until } = limited
  if (limit !== 'requests' && limit !== 'tokens' && limit !== 'concurrent') {
    const message = `The key ${JSON.stringify(key.name)} has used its ${QUOTAS[limit](max)} (${limit}) on this proxy. The limit ends at ${until}.`
    // No wait: a client may be given 60 s at most, and every retry until then would be in vain.
    return { status: 429, code: 'quota_exceeded', message, pointless: true }
  }
  const what =
    limit === 'concurrent' ? `${max} requests at once` : `${max} ${limit === 'tokens' ? 'tokens' : 'requests'} a minute`
  const headers =
    limit === 'concurrent'
      ? []
      : [
          `x-ratelimit-limit-${limit}`,
          String(max),
          `x-ratelimit-remaining-${limit}`,
          String(remaining),
          `x-ratelimit-reset-${limit}`,
          resetText(waitMs),
        ]
  return {
    status: 429,
    code: 'rate_limit_exceeded',
    message: `The key ${JSON.stringify(key.name)} is limited to ${what} on this proxy.`,
    retryAfterMs: waitMs,
    headers,
  }
}

/** What a request really took, as far as its end tells; undefined: nobody counted. */
function tokensTaken({ record }: Exchange): number | undefined {
  const { promptTokens, completionTokens } = record.usage
  if (promptTokens !== undefined || completionTokens !== undefined) {
    return (promptTokens ?? 0) + (completionTokens ?? 0)
  }
  return record.status >= 400 || record.attempts === 0 ? 0 : undefined
}

/** Whether a request is let in: with the way to settle when it has ended, or the refusal. */
export type AdmissionResult =
  | { readonly kind: 'admitted'; readonly settle: () => void }
  | { readonly kind: 'refused'; readonly refusal: Refusal }

/**
 * Asks for admission, and leaves the refusal to the caller.
 * @param tokens the estimate of what the request takes
 * @param price of its model
 */
export function askAdmission(
  exchange: Exchange,
  tokens: number,
  shared: SharedState,
  price: Price | undefined,
): AdmissionResult | Promise<AdmissionResult> {
  const key = exchange.clientKey
  if (key === undefined || !hasLimits(key)) return { kind: 'admitted', settle: UNLIMITED }
  const { keyLimiter } = shared
  const answered = (admission: Admission): AdmissionResult => {
    if (admission.kind === 'unknown') {
      const message = 'The process that counts the limits of keys does not answer. Try again.'
      const refusal: Refusal = { status: 503, code: 'overloaded', message, retryAfterMs: admission.waitMs }
      return { kind: 'refused', refusal }
    }
    if (admission.kind === 'limited') {
      shared.onKeyLimited(key.name, admission.limit)
      return { kind: 'refused', refusal: refusalFor(key, admission) }
    }
    return {
      kind: 'admitted',
      settle: () => keyLimiter.settle(admission.ticket, tokensTaken(exchange), costOf(exchange.record.usage, price)),
    }
  }
  const asked = keyLimiter.admit(key.name, key.limits, tokens)
  return asked instanceof Promise ? asked.then(answered) : answered(asked)
}

/** How to settle when the request has ended; undefined: it was refused, and has its response. */
export type Admitted = (() => void) | undefined

/**
 * Asks for admission, and answers a request that is not let in.
 * @param tokens the estimate of what the request takes
 * @param price of its model
 */
export function admit(
  exchange: Exchange,
  tokens: number,
  shared: SharedState,
  price: Price | undefined,
): Admitted | Promise<Admitted> {
  const settled = (answer: AdmissionResult): Admitted => {
    if (answer.kind === 'admitted') return answer.settle
    refuse(exchange, answer.refusal)
    return undefined
  }
  const asked = askAdmission(exchange, tokens, shared, price)
  return asked instanceof Promise ? asked.then(settled) : settled(asked)
}
