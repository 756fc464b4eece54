// Azure's rate limits: a bucket of requests and one of estimated tokens per deployment, and the headers that tell of
// them (azure/README.md 7.1 and 7.2). Provisioned deployments have a leaky bucket of utilization instead (7.3).
import type { Clock } from '../clock.ts'

export interface RateLimitOptions {
  /** undefined: no limit. */
  readonly requestsPerMinute: number | undefined
  readonly tokensPerMinute: number | undefined
  /** Throughput of a provisioned deployment, in requests a second; undefined: pay-as-you-go. */
  readonly provisionedPerSecond: number | undefined
}

export type Admission =
  | { readonly kind: 'admitted' }
  | { readonly kind: 'refused'; readonly limit: 'call' | 'token' | 'provisioned'; readonly waitMs: number }

export interface RateLimit {
  /** @param tokens the estimate at admission: prompt and the output asked for */
  admit(tokens: number): Admission
  headers(): Readonly<Record<string, string>>
  /** Another limit from now on; what is used up stays used up. */
  resize(options: Partial<RateLimitOptions>): void
}

const WINDOW_MS = 60_000

/** A bucket that refills evenly and may be overdrawn by what is admitted at its end. */
function createBucket(clock: Clock, perMinute: number) {
  let limit = perMinute
  let left = perMinute
  let atMs = clock.nowMs()
  const refill = (): void => {
    const nowMs = clock.nowMs()
    left = Math.min(limit, left + ((nowMs - atMs) * limit) / WINDOW_MS)
    atMs = nowMs
  }
  return {
    /** How long until one unit is there, in milliseconds; 0 when it is. */
    waitMs(): number {
      refill()
      return left >= 1 ? 0 : Math.ceil(((1 - left) * WINDOW_MS) / limit)
    },
    take(units: number): void {
      left -= units
    },
    resize(next: number): void {
      refill()
      limit = next
      left = Math.min(left, limit)
    },
    /** Limit, what is left (rounded down, perhaps negative), and when it is full again. */
    state() {
      refill()
      return { limit, left: Math.floor(left), resetMs: Math.ceil(((limit - left) * WINDOW_MS) / limit) }
    },
  }
}

/** A leaky bucket that admits while it is below full: so many a second, in even steps. */
function createLeakyBucket(clock: Clock, perSecond: number) {
  let rate = perSecond
  let fill = 0
  let atMs = clock.nowMs()
  const leak = (): void => {
    const nowMs = clock.nowMs()
    fill = Math.max(0, fill - ((nowMs - atMs) * rate) / 1000)
    atMs = nowMs
  }
  return {
    /** How long until one more fits, in milliseconds; 0 when it does. Up to one second's worth fits at once. */
    waitMs(): number {
      leak()
      return fill + 1 <= rate + 1e-9 ? 0 : Math.ceil(((fill + 1 - rate) * 1000) / rate)
    },
    take(): void {
      fill += 1
    },
    resize(next: number): void {
      leak()
      rate = next
    },
  }
}

export function createRateLimit(clock: Clock, options: RateLimitOptions): RateLimit {
  const requests = options.requestsPerMinute === undefined ? undefined : createBucket(clock, options.requestsPerMinute)
  const tokens = options.tokensPerMinute === undefined ? undefined : createBucket(clock, options.tokensPerMinute)
  const provisioned =
    options.provisionedPerSecond === undefined ? undefined : createLeakyBucket(clock, options.provisionedPerSecond)
  return {
    admit(estimate) {
      const full = provisioned?.waitMs() ?? 0
      if (full > 0) return { kind: 'refused', limit: 'provisioned', waitMs: full }
      const calls = requests?.waitMs() ?? 0
      if (calls > 0) return { kind: 'refused', limit: 'call', waitMs: calls }
      const spent = tokens?.waitMs() ?? 0
      if (spent > 0) return { kind: 'refused', limit: 'token', waitMs: spent }
      provisioned?.take()
      requests?.take(1)
      tokens?.take(estimate)
      return { kind: 'admitted' }
    },
    headers() {
      const shown: Record<string, string> = {}
      for (const [name, bucket] of [
        ['requests', requests],
        ['tokens', tokens],
      ] as const) {
        if (bucket === undefined) continue
        const { limit, left, resetMs } = bucket.state()
        shown[`x-ratelimit-limit-${name}`] = String(limit)
        shown[`x-ratelimit-remaining-${name}`] = String(left)
        shown[`x-ratelimit-reset-${name}`] = String(resetMs)
        shown[`x-ratelimit-renewalperiod-${name}`] = '60'
      }
      return shown
    },
    resize(next) {
      if (next.requestsPerMinute !== undefined) requests?.resize(next.requestsPerMinute)
      if (next.tokensPerMinute !== undefined) tokens?.resize(next.tokensPerMinute)
      if (next.provisionedPerSecond !== undefined) provisioned?.resize(next.provisionedPerSecond)
    },
  }
}
