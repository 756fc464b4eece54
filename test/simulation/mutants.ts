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
    file: 'lib/balancer/policies.ts',
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
    text: 'credits[i] = (credits[i] ?? 0) + weight',
    replacement: 'credits[i] = (credits[i] ?? 0) + 1',
  },
  {
    name: 'round robin takes the first',
    file: 'lib/balancer/policies.ts',
    text: 'if ((credits[i] ?? 0) > (credits[at] ?? 0)) at = i',
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
    text: "queueMicrotask(() => this.lose({ kind: 'cancelled', reason })))",
    replacement: 'void reason)',
  },
  {
    name: 'a client that leaves during a stream leaves the upstream behind',
    file: 'lib/forward/relay-events.ts',
    text: '    this.#source.destroy()\n    this.#finish(why)\n',
    replacement: '    this.#finish(why)\n',
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
    text: '      if (partialBytes > 0) write(joined(undefined))\n',
    replacement: '',
  },
  {
    name: 'bytes held for replay are not given back',
    file: 'lib/body/take.ts',
    text: '  release(bytes) {\n      held -= bytes',
    replacement: '  release(bytes) {\n      held -= bytes / 2',
  },
  {
    name: 'who cannot use what is free blocks those behind it',
    file: 'lib/balancer/wait-queue.ts',
    text: '    look(waiter, nowMs)\n  }\n}',
    replacement: '    look(waiter, nowMs)\n    if (line.waiters.includes(waiter)) break\n  }\n}',
  },
  {
    name: 'capacity that appears wakes nobody',
    file: 'lib/balancer/wait-queue.ts',
    text: 'stopListening ??= health.onCapacity(onCapacity)',
    replacement: 'stopListening ??= () => onCapacity',
  },
  {
    name: 'those who arrive later overtake those who wait',
    file: 'lib/forward/forward.ts',
    text: 'if (limits.maxWaitMs > 0 && waitQueue.waiting(pool) > 0) waitQueue.serve(pool)',
    replacement: '',
  },
  {
    name: 'a connection that was never made is an attempt',
    file: 'lib/forward/forward.ts',
    text: 'if (reachedBackend(outcome) && !isSearch && !afterWait) way.counted++',
    replacement: 'if (!isSearch && !afterWait) way.counted++',
  },
  {
    name: 'one attempt more than max_attempts',
    file: 'lib/forward/forward.ts',
    text: 'while (way.counted < deps.limits.maxAttempts && ',
    replacement: 'while (way.counted <= deps.limits.maxAttempts && ',
  },
  {
    name: 'a request that was reset after minutes is sent again as on a dead connection',
    file: 'lib/forward/attempt.ts',
    text: 'const closedBefore = stale && this.deps.clock.nowMs() - this.countsFromMs() <= STALE_MS',
    replacement: 'const closedBefore = stale',
  },
  {
    name: "a dead kept connection is the backend's fault",
    file: 'lib/forward/attempt.ts',
    text: 'const closedBefore = stale && this.deps.clock.nowMs() - this.countsFromMs() <= STALE_MS',
    replacement: 'const closedBefore = false',
  },
  {
    name: 'time in which this process stood still counts against its backends',
    file: 'lib/clock.ts',
    text: 'if (lateMs > PAUSE_MS) {',
    replacement: 'if (lateMs > Number.POSITIVE_INFINITY) {',
  },
  {
    name: 'what a client reads while this process stands still counts as a stall',
    file: 'lib/server/stall-watch.ts',
    text: 'if (lateMs > PAUSE_MS) {',
    replacement: 'if (lateMs > Number.POSITIVE_INFINITY) {',
  },
  {
    name: "our own shortage is the backend's fault",
    file: 'lib/forward/attempt.ts',
    text: "if (SHORTAGES.has(code)) return { kind: 'shortage', detail: code }",
    replacement: '',
  },
  {
    name: 'a client that leaves while nothing has come yet is still worked for',
    file: 'lib/forward/attempt.ts',
    text: "queueMicrotask(() => this.giveUp({ kind: 'cancelled', reason })),",
    replacement: 'void reason,',
  },
  {
    name: 'no time limit for headers',
    file: 'lib/forward/attempt.ts',
    text: 'deps.deadlines.add(beganMs + timeouts.headersMs, () => this.late())',
    replacement: 'deps.deadlines.add(beganMs + 1e9 + timeouts.headersMs, () => this.late())',
  },
  {
    name: 'a timeout blames one that has answered others meanwhile',
    file: 'lib/balancer/health-lease.ts',
    text: 'if (timeout && health.lastAnsweredMs >= this.beganMs) return\n',
    replacement: '',
  },
  {
    name: 'what a server names is cut to recovery',
    file: 'lib/balancer/health-requests.ts',
    text: 'const untilMs = nowMs + (event.holdMs ?? settings.recoveryMs)',
    replacement: 'const untilMs = nowMs + settings.recoveryMs',
  },
  {
    name: 'a row of marks is never broken',
    file: 'lib/balancer/health-requests.ts',
    text: 'return state.marks === 0 ? lifted : { ...lifted, marks: 0 }',
    replacement: 'return lifted',
  },
  {
    name: 'an answer of before the trouble brings back',
    file: 'lib/balancer/health-requests.ts',
    text: 'return since >= trouble.failedSequence',
    replacement: 'return since >= 0',
  },
  {
    name: 'a wait in vain says that all are out',
    file: 'lib/forward/forward.ts',
    text: "if (pick.kind === 'throttled') history.busy = pick",
    replacement: '',
  },
  {
    name: 'the primary gives up when all of its workers have died',
    file: 'lib/workers/supervision.ts',
    text: "{ kind: 'fork_after', waitMs: inMs },",
    replacement: "left.workers.size === 0 ? { kind: 'all_gone' } : { kind: 'fork_after', waitMs: inMs },",
  },
  {
    name: 'nobody takes the place of a worker that died',
    file: 'lib/workers/supervision.ts',
    text: "return state.phase === 'ending' ? nothing : { next: state, effects: [{ kind: 'fork' }] }",
    replacement: 'return nothing',
  },
  {
    name: 'a new worker that cannot listen ends the service',
    file: 'lib/workers/supervision.ts',
    text: "if (state.phase === 'serving') {",
    replacement: 'if (state === undefined) {',
  },
  {
    name: "what a dead worker had taken of a key's limits is not given back",
    file: 'lib/workers/primary-services.ts',
    text: 'for (const ticket of tickets.get(worker) ?? []) keyUsage.settle(ticket, undefined)',
    replacement: '',
  },
  {
    name: 'counters fall when a worker dies',
    file: 'lib/workers/gathering.ts',
    text: 'dead = dead === undefined ? counters : mergeMetrics([dead, counters])',
    replacement: '',
  },
  {
    name: 'a 401 is the answer for the client',
    file: 'lib/forward/outcome.ts',
    text: '    case 401:\n',
    replacement: '    case 401:\n      return SERVED\n',
  },
  {
    name: 'a 402 is the answer for the client',
    file: 'lib/forward/outcome.ts',
    text: '    case 402:\n',
    replacement: '    case 402:\n      return SERVED\n',
  },
  {
    name: 'a 403 is the answer for the client',
    file: 'lib/forward/outcome.ts',
    text: 'return forbidden(headers, error, said, epochMs)',
    replacement: 'return SERVED',
  },
  {
    name: 'a 403 of a quota refuses the credentials',
    file: 'lib/forward/outcome.ts',
    text: 'if (namedWaitMs(headers, epochMs) !== undefined || isQuota(error)) {',
    replacement: 'if (epochMs < 0) {',
  },
  {
    name: 'a 403 page of a firewall that dislikes one prompt puts its backend out',
    file: 'lib/forward/outcome.ts',
    text: ": pageOfABox('403 page')",
    replacement: ": pageOutcome('403 page')",
  },
  {
    name: 'a 407 is the answer for the client',
    file: 'lib/forward/outcome.ts',
    text: '    case 407:\n',
    replacement: "      return misconfigured('credentials_refused', said())\n    case 407:\n      return SERVED\n",
  },
  {
    name: 'a 408 puts its backend out',
    file: 'lib/forward/outcome.ts',
    text: "return { kind: 'request_timeout', detail: code() }",
    replacement: "return serverFailure('server_error', code(), undefined)",
  },
  {
    name: 'a 421 puts its backend out',
    file: 'lib/forward/outcome.ts',
    text: "return { kind: 'misdirected', detail: code() }",
    replacement: "return serverFailure('server_error', code(), undefined)",
  },
  {
    name: 'a 421 on a used connection is not tried over a fresh one',
    file: 'lib/forward/forward.ts',
    text: "answered.outcome.kind === 'misdirected' && answered.reused === true",
    replacement: 'answered.outcome === undefined',
  },
  {
    name: 'a 429 without a readable wait throttles for no time',
    file: 'lib/azure/waits.ts',
    text: 'return requests ?? tokens ?? DEFAULT_THROTTLE_MS',
    replacement: 'return requests ?? tokens ?? 0',
  },
  {
    name: 'a wait that is no number is one of no time',
    file: 'lib/azure/waits.ts',
    text: 'return ofDigits(text) ?? (DECIMAL.test(text) ? Number(text) : undefined)',
    replacement: 'return ofDigits(text) ?? (Number(text) || 0)',
  },
  {
    name: 'a wait of weeks is believed',
    file: 'lib/azure/waits.ts',
    text: 'return Math.min(Math.max(waitMs, 0), MAX_WAIT_MS)',
    replacement: 'return Math.max(waitMs, 0)',
  },
  {
    name: 'a hold of a day gets no trial sooner',
    file: 'lib/balancer/health-state.ts',
    text: "return named && seenBy === 'request' ? Math.min(untilMs, failedMs + LONG_HOLD_MS) : untilMs",
    replacement: 'return named && failedMs < 0 ? 0 : untilMs',
  },
  {
    name: 'a throttle of a day gets no trial sooner',
    file: 'lib/balancer/health-requests.ts',
    text: '  const dueAtMs = Math.min(untilMs, nowMs + LONG_HOLD_MS)',
    replacement: '  const dueAtMs = untilMs',
  },
  {
    name: 'a 401 on a token does not make the next request fetch another one',
    file: 'lib/forward/send.ts',
    text: 'if (isUnauthorized(result)) authorizer.refused?.(authorization)',
    replacement: '',
  },
  {
    name: 'a token that cannot be had is a mistake in the config',
    file: 'lib/azure/entra-requests.ts',
    text: '...(isAboutConfig(response.status) ? { permanent: true } : {}),',
    replacement: 'permanent: true,',
  },
  {
    name: 'max_in_flight does not count',
    file: 'lib/balancer/picker.ts',
    text: 'return backend.maxInFlight !== undefined && health.inFlight >= backend.maxInFlight',
    replacement: 'return backend.maxInFlight === -health.inFlight',
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
  /** Only mutants with this in their name, or with one of these: `weights|first come`. */
  readonly only: string
  say(text: string): void
}

interface Finding {
  readonly seed: number
  /** Invariant and check. */
  readonly by: string
}

/** Runs worlds of a mutant up to the first that fails. */
function findMutant(mutant: Mutant, seeds: number): Finding | string {
  const folder = fs.mkdtempSync(path.join(ROOT, 'dist/mutant-'))
  try {
    buildMutant(folder, mutant)
    const here = path.relative(path.join(ROOT, 'dist'), fileURLToPath(new URL('main.js', import.meta.url)))
    const env = { ...process.env, MUTANTS: '', BRIEF: '1', SEED: '', SEEDS: String(seeds) }
    const run = spawnSync(process.execPath, [path.join(folder, here)], { env, encoding: 'utf8', maxBuffer: 1 << 26 })
    const found = /^seed (\d+) violates (invariant \d+ \([^)]*\))/m.exec(run.stdout)
    if (found !== null) return { seed: Number(found[1]), by: found[2] ?? '' }
    return run.status === 0 ? 'not found' : `ended with ${run.status}: ${run.stderr.slice(0, 400)}`
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

/** Runs the simulation over each mutant, and says in a table what found it. @returns whether all were found */
export async function runMutants({ seeds, only, say }: MutantsOptions): Promise<boolean> {
  const stray = strayMutants()
  const parts = only.split('|')
  const chosen = MUTANTS.filter(({ name }) => parts.some(part => name.includes(part)))
  let missed = 0
  say('   seed  found by                        mutant')
  for (const mutant of chosen) {
    const found = stray.includes(mutant.name) ? 'does not apply any more' : findMutant(mutant, seeds)
    if (typeof found === 'string') missed++
    const [seed, by] = typeof found === 'string' ? ['-', found.toUpperCase()] : [String(found.seed), found.by]
    say(`${seed.padStart(7)}  ${by.padEnd(30)}  ${mutant.name}`)
  }
  say(`${chosen.length - missed} of ${chosen.length} mutants found within ${seeds} worlds`)
  return missed === 0
}
