// `make simulate-faults`: runs worlds by seed in as many processes as were asked for, and says which ones fail. The
// first failing world is shrunk and shown as a trace.
//   SEEDS=10000      so many worlds, beginning with SEED (1): SEED=50001 SEEDS=50000
//   SEED=42          this world alone, with its whole trace
//   JOBS=2           processes
//   MUTANTS=1        puts each fault of mutants.ts into the product, and demands that it is found
//   MUTANT=weights   with it: only those with this in their name; several: weights|tier
//   BRIEF=1          ends at the first failing world, and says no more of it than its seed and its check
import { fork } from 'node:child_process'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import type { Violation } from './checks.ts'
import { runMutants } from './mutants.ts'
import { drawPlan } from './plan.ts'
import { type ConfigMaker, createConfigMaker } from './processes.ts'
import { shrink } from './shrink.ts'
import { runWorld } from './world.ts'

/** Worlds that a process is given at a time; fewer where the first failing one ends the run. */
const BATCH = 50
const BRIEF_BATCH = 10
const MAX_SHOWN_LINES = 400

/**
 * Worlds are short and many: feedback from the first call on, and no stacks that nobody reads, save a fifth. A young
 * heap that holds some worlds (MB) saves a sixth more: nearly everything of a world dies with it.
 */
const V8_FLAGS = [
  '--no-lazy-feedback-allocation',
  '--stack-trace-limit=0',
  '--min-semi-space-size=32',
  '--max-semi-space-size=64',
]

interface Found {
  readonly seed: number
  readonly violation: Violation
}

/** What a process tells of its batch. */
interface BatchResult {
  readonly worlds: number
  readonly requests: number
  readonly cpuMs: number
  /** The first of each check in each world. */
  readonly found: readonly Found[]
}

const BRIEF = process.env.BRIEF === '1'

async function runBatch(from: number, count: number, configOf: ConfigMaker): Promise<BatchResult> {
  const began = process.cpuUsage()
  const found: Found[] = []
  let requests = 0
  for (let seed = from; seed < from + count; seed++) {
    const result = await runWorld(drawPlan(seed), { configOf, traced: false })
    requests += result.requests
    const seen = new Set<string>()
    for (const violation of result.violations) {
      const name = `${violation.invariant} ${violation.check}`
      if (seen.has(name)) continue
      seen.add(name)
      found.push({ seed, violation })
    }
  }
  const { user, system } = process.cpuUsage(began)
  return { worlds: count, requests, cpuMs: (user + system) / 1000, found }
}

function isBatchResult(value: unknown): value is BatchResult {
  return typeof value === 'object' && value !== null && 'found' in value
}

/** Serves batches until the parent goes. */
function serveBatches(): void {
  const configOf = createConfigMaker()
  process.on('message', (message: readonly [number, number]) => {
    runBatch(message[0], message[1], configOf).then(result => process.send?.(result))
  })
}

interface Run {
  readonly worlds: number
  readonly requests: number
  readonly cpuMs: number
  readonly found: readonly Found[]
}

/**
 * Runs worlds in several processes.
 * @param isEnough asked after each batch: whether what was found ends the run
 */
function runAll(
  from: number,
  count: number,
  jobs: number,
  isEnough: (found: readonly Found[]) => boolean,
): Promise<Run> {
  return new Promise((resolve, reject) => {
    const found: Found[] = []
    const sum = { worlds: 0, requests: 0, cpuMs: 0 }
    let next = from
    let open = 0
    const give = (child: ReturnType<typeof fork>): void => {
      const size = Math.min(BRIEF ? BRIEF_BATCH : BATCH, from + count - next)
      if (size <= 0 || isEnough(found)) {
        child.disconnect()
        if (--open === 0) resolve({ ...sum, found })
        return
      }
      child.send([next, size])
      next += size
    }
    for (let i = 0; i < jobs; i++) {
      const child = fork(fileURLToPath(import.meta.url), ['batches'], { execArgv: [...process.execArgv, ...V8_FLAGS] })
      open++
      child.on('message', message => {
        if (!isBatchResult(message)) return
        sum.worlds += message.worlds
        sum.requests += message.requests
        sum.cpuMs += message.cpuMs
        found.push(...message.found)
        give(child)
      })
      child.on('exit', code => {
        if (code !== 0) reject(new Error(`a process of the simulation ended with ${code}`))
      })
      give(child)
    }
  })
}

function say(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** One world, with all that happens in it; returns what it violates. */
async function showWorld(seed: number, configOf: ConfigMaker): Promise<readonly Violation[]> {
  const result = await runWorld(drawPlan(seed), { configOf, traced: true })
  for (const line of result.trace) say(line)
  say(`seed ${seed}: ${result.requests} requests, ${result.steps} events, trace ${result.hash.slice(0, 16)}`)
  return result.violations
}

function headline({ seed, violation: { invariant, check, text } }: Found): string {
  return `seed ${seed} violates invariant ${invariant} (${check}): ${text}`
}

async function explain(found: Found, configOf: ConfigMaker): Promise<void> {
  const { seed, violation } = found
  say(`\n${headline(found)}`)
  const small = await shrink(drawPlan(seed), violation, configOf)
  const { trace } = await runWorld(small, { configOf, traced: true })
  say(`shrunk to ${small.events.length} events; ${small.backends.length} backends, ${JSON.stringify(small.settings)}`)
  for (const line of trace.slice(0, MAX_SHOWN_LINES)) say(line)
  say(`\nrepeat it with: make simulate-faults SEED=${seed}`)
}

function tally(found: readonly Found[]): void {
  const counts = new Map<string, { count: number; readonly first: Found }>()
  for (const one of [...found].sort((a, b) => a.seed - b.seed)) {
    const name = `${one.violation.invariant} ${one.violation.check}`
    const known = counts.get(name)
    if (known === undefined) counts.set(name, { count: 1, first: one })
    else known.count++
  }
  for (const [name, { count, first }] of [...counts].sort()) {
    say(`invariant ${name}: ${count} worlds, the first is seed ${first.seed}: ${first.violation.text}`)
  }
}

async function main(): Promise<number> {
  const { SEED, SEEDS, JOBS, MUTANTS } = process.env
  const given = (text: string | undefined): number | undefined =>
    text === undefined || text === '' ? undefined : Number(text)
  const jobs = given(JOBS) ?? 2
  const from = given(SEED) ?? 1
  const count = given(SEEDS)
  if (MUTANTS === '1') {
    return (await runMutants({ seeds: count ?? 10_000, only: process.env.MUTANT ?? '', say })) ? 0 : 1
  }
  const configOf = createConfigMaker()
  if (count === undefined && given(SEED) !== undefined) {
    return (await showWorld(from, configOf)).length > 0 ? 1 : 0
  }
  const beganMs = performance.now()
  const run = await runAll(from, count ?? 10_000, jobs, found => found.length > 0)
  tally(run.found)
  const failing = [...run.found].sort((a, b) => a.seed - b.seed)
  const seconds = ((performance.now() - beganMs) / 1000).toFixed(1)
  const each = (run.cpuMs / run.worlds).toFixed(1)
  say(`${run.worlds} worlds, ${run.requests} requests, ${seconds} s, ${each} ms of CPU a world; ${failing.length} fail`)
  const [first] = failing
  if (first !== undefined && BRIEF) say(headline(first))
  else if (first !== undefined) await explain(first, configOf)
  return first === undefined ? 0 : 1
}

if (process.argv[2] === 'batches') serveBatches()
else process.exitCode = await main()
