// The use of each key, for the status page: from the counters of all processes, ended ones included, and its limits.
// Pure.
import type { KeyUsed } from '../balancer/key-limits.ts'
import type { ClientKeyLimits } from '../config/types.ts'
import { roundedCost } from '../cost.ts'
import type { MetricsState } from '../metrics.ts'
import { LABEL_SEPARATOR } from '../series.ts'
import type { KeyEntry, LimitEntry } from './entries.ts'

/** Keys shown: those with the most requests. More are a matter for --usage. */
export const MAX_KEYS = 50

interface Sums {
  requests: number
  errors: number
  prompt: number
  completion: number
  cached: number
  cost: number | null
}

function each(
  state: MetricsState,
  name: keyof MetricsState,
  visit: (labels: readonly string[], value: number) => void,
) {
  for (const [key, value] of Object.entries(state[name] ?? {})) {
    if (typeof value === 'number') visit(key.split(LABEL_SEPARATOR), value)
  }
}

function limitsOf(limits: ClientKeyLimits | undefined, used: KeyUsed | undefined): readonly LimitEntry[] {
  if (limits === undefined || used === undefined) return []
  const rows: readonly (readonly [string, number, number | undefined])[] = [
    ['requests_per_minute', used.requestsInMinute, limits.requestsPerMinute],
    ['tokens_per_minute', used.tokensInMinute, limits.tokensPerMinute],
    ['concurrent', used.inFlight, limits.concurrent],
    ['tokens_per_day', used.tokensToday, limits.tokensPerDay],
    ['tokens_per_month', used.tokensThisMonth, limits.tokensPerMonth],
    ['cost_per_month', used.costThisMonth, limits.costPerMonth],
  ]
  return rows.flatMap(([limit, amount, max]) => (max === undefined ? [] : [{ limit, used: amount, max }]))
}

/**
 * One entry a key of the config, and for names that a reload has taken out but that were used; the busiest first.
 * @param limits by name, of the keys of the config
 * @param used by name, as far as it is known
 */
export function keyEntries(
  metrics: MetricsState,
  limits: ReadonlyMap<string, ClientKeyLimits>,
  used: Readonly<Record<string, KeyUsed>>,
): readonly KeyEntry[] {
  const sums = new Map<string, Sums>()
  const sumOf = (key = ''): Sums => {
    const found = sums.get(key)
    if (found !== undefined) return found
    const made: Sums = { requests: 0, errors: 0, prompt: 0, completion: 0, cached: 0, cost: null }
    sums.set(key, made)
    return made
  }
  for (const name of limits.keys()) sumOf(name)
  each(metrics, 'proxy_requests_total', ([, key, status], value) => {
    const sum = sumOf(key)
    sum.requests += value
    if (Number(status) >= 400) sum.errors += value
  })
  each(metrics, 'proxy_tokens_total', ([, key, kind], value) => {
    const sum = sumOf(key)
    if (kind === 'prompt' || kind === 'completion' || kind === 'cached') sum[kind] += value
  })
  each(metrics, 'proxy_cost_total', ([, key], value) => {
    const sum = sumOf(key)
    sum.cost = (sum.cost ?? 0) + value
  })
  return [...sums]
    .sort(([, a], [, b]) => b.requests - a.requests)
    .slice(0, MAX_KEYS)
    .map(([key, { requests, errors, prompt, completion, cached, cost }]) => ({
      key,
      requests,
      errors,
      prompt_tokens: prompt,
      completion_tokens: completion,
      cached_tokens: cached,
      cost: cost === null ? null : roundedCost(cost),
      limits: limitsOf(limits.get(key), used[key]),
    }))
}
