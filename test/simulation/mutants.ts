// Faults to put into the product, to show that the simulation finds them: each is one place's text and what stands
// there instead.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { ROOT } from '../fixtures/sources.ts'

export interface Mutant {
  /** What it breaks. */
  readonly name: string
  readonly file: string
  /** Stands in the file exactly once. */
  readonly text: string
  readonly replacement: string
}

export const MUTANTS: readonly Mutant[] = [
  {
    name: "the trial's place is not given back when its request ends (the first of the two that took capacity out for ever)",
    file: 'lib/balancer/health-machine.ts',
    text: 'trial: giveBack }',
    replacement: 'trial: endThrottleTrial }',
  },
  {
    name: 'a passing probe brings back what requests saw fail',
    file: 'lib/balancer/health-machine.ts',
    text: "if (trouble.seenBy === 'probe') return { ...state, phase: IN, probeOverruled: false }",
    replacement: 'return { ...state, phase: IN, probeOverruled: false }',
  },
  {
    name: 'a probe that fails holds no longer than recovery: users are the probe',
    file: 'lib/balancer/health-machine.ts',
    text: 'dueAtMs: Math.max(untilMs, nowMs + probeTrustMs),',
    replacement: 'dueAtMs: untilMs,',
  },
  {
    name: 'a probe that fails again does not prolong the hold',
    file: 'lib/balancer/health-machine.ts',
    text: 'const dueAtMs = Math.max(trialDueMs({ ...trouble, untilMs }, nowMs), nowMs + probeTrustMs)',
    replacement: 'const dueAtMs = trouble.dueAtMs',
  },
  {
    name: 'a restored backend stays out',
    file: 'lib/balancer/health-machine.ts',
    text: '    phase: IN,\n    marks: 0,',
    replacement: '    marks: 0,',
  },
  {
    name: 'a later, shorter throttle cuts a longer one',
    file: 'lib/balancer/health-requests.ts',
    text: 'if (untilMs <= state.throttle.untilMs) return endThrottleTrial(alive, event)',
    replacement: '',
  },
  {
    name: 'a 429 throttles for no time',
    file: 'lib/balancer/health-requests.ts',
    text: 'const untilMs = nowMs + event.waitMs\n',
    replacement: 'const untilMs = nowMs\n',
  },
  {
    name: 'a failure holds for an hour',
    file: 'lib/balancer/health-requests.ts',
    text: 'const untilMs = nowMs + (event.holdMs ?? settings.recoveryMs)',
    replacement: 'const untilMs = nowMs + (event.holdMs ?? 3_600_000)',
  },
  {
    name: 'an answer never brings back what is out',
    file: 'lib/balancer/health-requests.ts',
    text: 'return outweighs(state, event) ? letIn(sound) : sound',
    replacement: 'return sound',
  },
  {
    name: 'blame is never withdrawn',
    file: 'lib/balancer/health-requests.ts',
    text: 'if (!provisional.includes(lease)) return state',
    replacement: 'return state',
  },
  {
    name: 'the last backend that is in is put out by one suspect failure',
    file: 'lib/balancer/model-watch.ts',
    text: '({ members }) => members.includes(health) && members.every(other => other === health || !isIn(other)),',
    replacement: '() => false,',
  },
  {
    name: 'a lease that ends does not give its place back',
    file: 'lib/balancer/health-lease.ts',
    text: '    health.inFlight--\n',
    replacement: '',
  },
  {
    name: 'nothing is let through after a throttle',
    file: 'lib/balancer/ramp.ts',
    text: 'if (this.closed) return true',
    replacement: 'if (this.closed) return false',
  },
  {
    name: 'one that is throttled or on trial is available',
    file: 'lib/balancer/availability.ts',
    text: "return state.throttle.dueAtMs <= nowMs && phaseAt(state, nowMs) === 'due'",
    replacement: 'return true',
  },
  {
    name: 'a throttled one that is in is available',
    file: 'lib/balancer/availability.ts',
    text: "if (state.phase.kind === 'in') return state.throttle.dueAtMs <= nowMs",
    replacement: "if (state.phase.kind === 'in') return true",
  },
  {
    name: "an operator's word is as strong as any other",
    file: 'lib/balancer/health-snapshot.ts',
    text: 'if (a.hand !== b.hand) return a.hand > b.hand\n',
    replacement: '',
  },
  {
    name: "another worker's news is never taken",
    file: 'lib/balancer/health-snapshot.ts',
    text: '  const phase = phaseFrom(given, sequence, clocks, trialMs)',
    replacement: '  const { phase } = state',
  },
  {
    name: "another worker's trial is believed for ever",
    file: 'lib/balancer/health-snapshot.ts',
    text: "dueAtMs: phase === 'trial' ? clocks.nowMs + trialMs :",
    replacement: "dueAtMs: phase === 'trial' ? Number.POSITIVE_INFINITY :",
  },
  {
    name: 'a new worker knows nothing',
    file: 'lib/workers/supervisor.ts',
    text: 'items: services.welcome(effect.id)',
    replacement: 'items: services.welcome(effect.id).slice(0, 0)',
  },
  {
    name: 'news of one worker does not reach the others',
    file: 'lib/workers/primary-services.ts',
    text: "return broadcast({ kind: 'share', items: call.items }, worker)",
    replacement: 'return',
  },
  {
    name: 'the lower tier is used like the upper one',
    file: 'lib/balancer/picker.ts',
    text: 'if (members.length > 0) return { tier, members }',
    replacement: 'if (members.length > 0 && tier === tiers.length - 1) return { tier, members }',
  },
  {
    name: 'a failed one is tried while another is merely throttled',
    file: 'lib/balancer/picker.ts',
    text: 'return this.soonest() ?? this.failOpen(nowMs)',
    replacement: 'return this.failOpen(nowMs)',
  },
  {
    name: 'when all are out nobody is tried',
    file: 'lib/balancer/picker.ts',
    text: "if (member === undefined) return { kind: 'exhausted' }",
    replacement: "if (nowMs > 0) return { kind: 'exhausted' }",
  },
  {
    name: 'a backend is tried again by the same request',
    file: 'lib/balancer/picker.ts',
    text: '    this.tried.push(member)\n    if (!further)',
    replacement: '    if (!further)',
  },
  {
    name: 'weights do not count',
    file: 'lib/balancer/policies.ts',
    text: 'member.credit += member.weight',
    replacement: 'member.credit += 1',
  },
  {
    name: 'round robin takes the first',
    file: 'lib/balancer/policies.ts',
    text: 'if (member.credit > chosen.credit) chosen = member',
    replacement: '',
  },
  {
    name: 'whoever waits is never woken',
    file: 'lib/balancer/wait-queue.ts',
    text: '      serve(line)\n    })',
    replacement: '    })',
  },
  {
    name: 'whoever waits is served last come, first served',
    file: 'lib/balancer/wait-queue.ts',
    text: 'for (const waiter of [...line.waiters]) {',
    replacement: 'for (const waiter of [...line.waiters].reverse()) {',
  },
  {
    name: 'a client that leaves stays in the queue',
    file: 'lib/balancer/wait-queue.ts',
    text: "stopWatching = given.leaving.onCancel(() => leave({ kind: 'left' }))",
    replacement: 'stopWatching = () => undefined',
  },
  {
    name: 'a client that leaves while the body of an answer is read is still served',
    file: 'lib/forward/body-reading.ts',
    text: "queueMicrotask(() => lose({ kind: 'cancelled', reason }))",
    replacement: 'void reason',
  },
  {
    name: 'a client that leaves during a stream leaves the upstream behind',
    file: 'lib/forward/relay-events.ts',
    text: "this.#stopWatching = passing.exchange.cancellation.onCancel(() => this.#giveUp('broken'))",
    replacement: 'this.#stopWatching = ignore',
  },
  {
    name: 'a stream that broke off ends as if it were whole',
    file: 'lib/forward/sse-writer.ts',
    text: '    fail(trouble) {\n',
    replacement: '    fail(trouble) {\n      if (trouble !== undefined) return this.end()\n',
  },
  {
    name: 'the rest of a stream is lost',
    file: 'lib/forward/sse-writer.ts',
    text: '      if (left !== undefined) response.write(left)\n',
    replacement: '',
  },
  {
    name: 'bytes held for replay are not given back',
    file: 'lib/body/take.ts',
    text: '  release(bytes) {\n      held -= bytes',
    replacement: '  release(bytes) {\n      held -= bytes / 2',
  },
]

/** Mutants whose text is not in its file, or is there more than once. */
export function strayMutants(): readonly string[] {
  return MUTANTS.filter(
    ({ file, text }) => fs.readFileSync(path.join(ROOT, file), 'utf8').split(text).length !== 2,
  ).map(({ name }) => name)
}

/** A copy of what was built, with one mutant in it. */
function buildMutant(folder: string, { file, text, replacement }: Mutant): void {
  const dist = path.join(ROOT, 'dist')
  for (const part of ['lib', 'test/fixtures', 'test/simulation']) {
    fs.cpSync(path.join(dist, part), path.join(folder, part), { recursive: true })
  }
  const source = fs.readFileSync(path.join(ROOT, file), 'utf8').replace(text, () => replacement)
  const { config } = ts.readConfigFile(path.join(ROOT, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, ROOT)
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { ...options, module: ts.ModuleKind.ESNext },
    fileName: file,
  })
  fs.writeFileSync(path.join(folder, file.replace(/\.ts$/, '.js')), outputText)
}

export interface MutantsOptions {
  /** Each must be found within so many worlds. */
  readonly seeds: number
  say(text: string): void
}

/** Runs the simulation over each mutant. @returns whether all were found */
export async function runMutants({ seeds, say }: MutantsOptions): Promise<boolean> {
  const stray = strayMutants()
  for (const name of stray) say(`does not apply any more: ${name}`)
  let missed = stray.length
  for (const mutant of MUTANTS) {
    if (stray.includes(mutant.name)) continue
    const folder = fs.mkdtempSync(path.join(ROOT, 'dist/mutant-'))
    try {
      buildMutant(folder, mutant)
      const main = path.join(
        folder,
        path.relative(path.join(ROOT, 'dist'), fileURLToPath(new URL('main.js', import.meta.url))),
      )
      const env = { ...process.env, MUTANTS: '', SEED: '', SEEDS: String(seeds) }
      const run = spawnSync(process.execPath, [main], { env, encoding: 'utf8', maxBuffer: 1 << 26 })
      const found = /^seed (\d+) violates (.*)$/m.exec(run.stdout)
      if (found === null) missed++
      const why = run.status === 0 ? 'not found' : `ended with ${run.status}: ${run.stderr.slice(0, 400)}`
      say(found === null ? `NOT FOUND (${why}): ${mutant.name}` : `${mutant.name}: seed ${found[1]}, ${found[2]}`)
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
  }
  say(`${MUTANTS.length - missed} of ${MUTANTS.length} mutants found`)
  return missed === 0
}
