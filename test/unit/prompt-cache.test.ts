// The worth of `balance: prompt_cache`, in virtual time; `make simulate` prints the table.
import t from 'tap'
import { LOAD_BOUND } from '../../lib/balancer/policies.ts'
import { type Measured, simulate, type Workload, workload } from '../simulate/prompt-cache.ts'

const SEED = 1
const SIZES = [2, 4, 8] as const

const requestsOf = new Map(
  (['conversations', 'quiet', 'agents', 'sessions', 'mix'] as const).map(kind => [kind, workload(kind, SEED)]),
)
const ofOne = new Map(
  [...requestsOf].map(([kind, requests]) => [kind, simulate(requests, 'round_robin', 1, SEED).cachedTokens]),
)

/** @returns runs over several backends, `kept` as a share of what a single one has cached */
function measure(
  kind: Workload,
  workers: number,
  sizes: readonly number[] = SIZES,
): readonly { readonly size: number; readonly kept: number; readonly run: Measured }[] {
  const requests = requestsOf.get(kind) ?? []
  return sizes.map(size => {
    const run = simulate(requests, 'prompt_cache', size, SEED, workers)
    return { size, run, kept: run.cachedTokens / (ofOne.get(kind) ?? 0) }
  })
}

for (const kind of ['conversations', 'agents', 'sessions', 'mix'] as const) {
  t.test(`${kind} keep at least 95 % of the cached tokens of a single backend, and the load even`, t => {
    for (const { size, kept, run } of measure(kind, 1)) {
      t.ok(kept >= 0.95, `${size}: ${kept}`)
      t.ok(run.unevenness <= LOAD_BOUND, `${size}: ${run.unevenness} over the run`)
      t.ok(run.worstFiveMinutes <= LOAD_BOUND, `${size}: ${run.worstFiveMinutes} in the worst five minutes`)
    }
    t.end()
  })
}

t.test('few conversations, whose number in flight swings most, keep nine tenths', t => {
  for (const { size, kept, run } of measure('quiet', 1)) {
    t.ok(kept >= 0.9, `${size}: ${kept}`)
    t.ok(run.unevenness <= LOAD_BOUND, `${size}: ${run.unevenness}`)
  }
  t.end()
})

for (const kind of ['conversations', 'agents', 'mix'] as const) {
  t.test(`four workers, of which each sees a quarter, keep ${kind} nearly as warm`, t => {
    for (const { size, kept, run } of measure(kind, 4, [8])) {
      t.ok(kept >= 0.93, `${size}: ${kept}`)
      t.ok(run.unevenness <= LOAD_BOUND, `${size}: ${run.unevenness}`)
    }
    t.end()
  })
}

t.test('round robin loses most of what prompt_cache keeps', t => {
  const requests = workload('quiet', SEED)
  const spread = simulate(requests, 'round_robin', 8, SEED)
  const kept = simulate(requests, 'prompt_cache', 8, SEED)
  t.ok(kept.cachedTokens > 2 * spread.cachedTokens, `${kept.cachedTokens} against ${spread.cachedTokens}`)
  t.end()
})

t.test('chance plays no part: the same prompts give the same course', t => {
  const requests = workload('mix', SEED)
  t.same(simulate(requests, 'prompt_cache', 4, SEED), simulate(requests, 'prompt_cache', 4, SEED + 1))
  t.end()
})
