// The simulation itself: it repeats itself to the byte, it is green over a few worlds, and its mutants still apply. The many
// worlds are `make simulate-faults`.
import t from 'tap'
import { strayMutants } from './mutants.ts'
import { isDemanded, isLetIn } from './not-yet.ts'
import { drawPlan } from './plan.ts'
import { createConfigMaker } from './processes.ts'
import { runWorld } from './world.ts'

const configOf = createConfigMaker()

t.test('the same seed gives the same trace, to the byte', async t => {
  const different: number[] = []
  for (let seed = 1; seed <= 100; seed++) {
    const first = await runWorld(drawPlan(seed, isLetIn), { configOf, traced: true })
    const second = await runWorld(drawPlan(seed, isLetIn), { configOf, traced: true })
    if (first.hash !== second.hash || first.trace.length < 20) different.push(seed)
  }
  t.same(different, [])
})

t.test('no world of these violates an invariant', async t => {
  for (let seed = 1_000_001; seed <= 1_000_200; seed++) {
    const { violations } = await runWorld(drawPlan(seed, isLetIn), { configOf, traced: false })
    t.same(violations.filter(isDemanded), [], `seed ${seed}`)
  }
})

t.test('every mutant still has its place in the sources', t => {
  t.same(strayMutants(), [])
  t.end()
})
