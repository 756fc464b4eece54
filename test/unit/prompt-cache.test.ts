// The worth of `balance: prompt_cache`, in virtual time; `make simulate` prints the table.
import t from 'tap'
import { simulate, workload } from '../simulate/prompt-cache.ts'

const SEED = 1

t.test('conversations over four backends keep at least 95 % of the cached tokens of a single one', t => {
  const requests = workload('conversations', SEED)
  const alone = simulate(requests, 'prompt_cache', 1, SEED)
  const four = simulate(requests, 'prompt_cache', 4, SEED)
  t.ok(four.overBound <= 1, `${four.overBound} over the bound`)
  t.ok(four.cachedTokens >= 0.95 * alone.cachedTokens, `${four.cachedTokens} of ${alone.cachedTokens}`)
  t.end()
})

for (const [kind, sizes] of [
  ['agents', [2, 4]],
  ['sessions', [2, 4, 8]],
] as const) {
  t.test(`${kind} with one huge prompt keep at least 95 % of the cached tokens of a single backend`, t => {
    const requests = workload(kind, SEED)
    const alone = simulate(requests, 'prompt_cache', 1, SEED)
    for (const size of sizes) {
      const { cachedTokens } = simulate(requests, 'prompt_cache', size, SEED)
      t.ok(cachedTokens >= 0.95 * alone.cachedTokens, `${size}: ${cachedTokens} of ${alone.cachedTokens}`)
    }
    t.end()
  })
}

for (const kind of ['quiet', 'agents', 'sessions', 'mix'] as const) {
  for (const size of [2, 4, 8]) {
    t.test(`no backend of ${size} carries more than 1.25 times its share and one, with ${kind}`, t => {
      const { overBound } = simulate(workload(kind, SEED), 'prompt_cache', size, SEED)
      t.ok(overBound <= 1, `${overBound} over the bound`)
      t.end()
    })
  }
}

t.test('round robin loses most of what prompt_cache keeps', t => {
  const requests = workload('quiet', SEED)
  const spread = simulate(requests, 'round_robin', 8, SEED)
  const kept = simulate(requests, 'prompt_cache', 8, SEED)
  t.ok(kept.cachedTokens > 2 * spread.cachedTokens, `${kept.cachedTokens} against ${spread.cachedTokens}`)
  t.end()
})

t.test('two processes agree: the same prompts give the same course', t => {
  const requests = workload('mix', SEED)
  t.same(simulate(requests, 'prompt_cache', 4, SEED), simulate(requests, 'prompt_cache', 4, SEED + 1))
  t.end()
})
