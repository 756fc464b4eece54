// `make bench`: runs the scenarios in interleaved rounds, prints the table, writes the figures as JSON.
//
//   ROUNDS=5 SECONDS=3   how often, and how long each measurement takes
//   SCENARIOS=A,E        only these
//   OUT=build/bench.json where the figures go
//   BENCH_BRIEF=1        A, E and W with a handful of requests: shows that the benchmark works, and measures nothing
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { makeCertificate } from '../../lib/simulator/certificate.ts'
import { type Load, startLoad, startUpstream, type Upstream } from './children.ts'
import { type Pins, pins } from './cores.ts'
import type { Bench, Scale, Totals } from './measure.ts'
import { type Sample, summarize, table } from './report.ts'
import { runRounds, type Scenario } from './rounds.ts'
import { SCENARIOS } from './scenarios.ts'
import { findProgram, tellsUsage } from './system.ts'
import { startTarget, type TargetName, YARDSTICK_PROGRAMS } from './targets.ts'

function scaleFrom(env: NodeJS.ProcessEnv): Scale {
  const given = (name: string, fallback: number): number => {
    const value = Number(env[name] ?? fallback)
    if (!(value > 0)) throw new Error(`${name} must be a number above 0`)
    return value
  }
  if (env.BENCH_BRIEF === '1') {
    return {
      rounds: 1,
      warm: { seconds: 5, mostSeconds: 5 },
      seconds: 0.3,
      requests: 40,
      connections: 4,
      perSecond: 100,
      streams: 10,
      streamSeconds: 3,
    }
  }
  return {
    rounds: given('ROUNDS', 5),
    warm: { seconds: 2, mostSeconds: 15 },
    seconds: given('SECONDS', 3),
    connections: 32,
    perSecond: given('RATE', 1_000),
    streams: given('STREAMS', 1_000),
    streamSeconds: 10,
  }
}

function chosenScenarios(env: NodeJS.ProcessEnv): readonly Scenario[] {
  const wanted = (env.SCENARIOS ?? (env.BENCH_BRIEF === '1' ? 'A,E,W' : '')).toUpperCase()
  return wanted === '' ? SCENARIOS : SCENARIOS.filter(({ id }) => wanted.split(',').includes(id))
}

function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

/** The benchmark's own processes, and where they and the measured ones run. */
interface Crew {
  readonly load: Load
  readonly upstream: Upstream
  readonly pins: Pins
}

/** One crew for each number of cores that scenarios want for what they measure; started when first asked for. */
function createCrews(): { of(cores: number): Promise<Crew>; stop(): Promise<void> } {
  const crews = new Map<number, Crew>()
  return {
    async of(cores) {
      const there = crews.get(cores)
      if (there !== undefined) return there
      const places = pins(cores)
      const upstream = await startUpstream(places.rest)
      const crew = { load: await startLoad(places.rest), upstream, pins: places }
      crews.set(cores, crew)
      return crew
    },
    async stop() {
      for (const { load, upstream } of crews.values()) {
        await load.stop()
        await upstream.stop()
      }
    },
  }
}

/** How each yardstick is asked for its version; the Go original has none. */
const VERSION_ARGS: Readonly<Record<(typeof YARDSTICK_PROGRAMS)[number], string | undefined>> = {
  nginx: '-v',
  haproxy: '-v',
  envoy: '--version',
  caddy: 'version',
  'go-original': undefined,
}

function versionOf(name: (typeof YARDSTICK_PROGRAMS)[number], file: string): string {
  const argument = VERSION_ARGS[name]
  if (argument === undefined) return 'built here'
  const said = execFileSync('/bin/sh', ['-c', '"$0" "$1" 2>&1', file, argument], { encoding: 'utf8' })
  return said.trim().split('\n', 1)[0] ?? ''
}

/** What must be known to read the figures of these scenarios rightly. */
function notesOn(scenarios: readonly Scenario[], env: NodeJS.ProcessEnv): readonly string[] {
  const notes: string[] = []
  for (const name of YARDSTICK_PROGRAMS) {
    if (findProgram(name) === undefined)
      notes.push(`no ${name} here (make bench-yardsticks): the table lacks this yardstick`)
  }
  if (!pins(1).apart) notes.push('no taskset, or one core only: processes are not kept apart')
  for (const { id } of scenarios.filter(({ cores = 1 }) => cores > 1 && !pins(cores).apart)) {
    notes.push(
      `${id}: load and upstream have no cores of their own, so the speed-up is projected from CPU time, not measured ` +
        '(2 × CPU a request with one worker / with two); the requests/s beside it are those of cores shared with them',
    )
  }
  if (env.BENCH_BRIEF === '1') notes.push('a brief run: it shows that the benchmark works, its figures mean nothing')
  if (!tellsUsage()) notes.push('no /proc here: neither CPU time nor memory can be told')
  return notes
}

/** @returns the samples of all scenarios */
async function runAll(scenarios: readonly Scenario[], scale: Scale, totals: Totals): Promise<readonly Sample[]> {
  const missing: readonly TargetName[] = YARDSTICK_PROGRAMS.filter(name => findProgram(name) === undefined)
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const crews = createCrews()
  const listener = makeCertificate('127.0.0.1')
  const samples: Sample[] = []
  try {
    for (const scenario of scenarios) {
      const { load, upstream, pins } = await crews.of(scenario.cores ?? 1)
      const bench: Bench = { scale, load, upstream, totals, apart: pins.apart }
      const backends = scenario.secondBackend
        ? [upstream.port, upstream.secondPort]
        : [scenario.tlsBackends ? upstream.tlsPort : upstream.port]
      const backendCa = scenario.tlsBackends ? join(folder, 'backend-ca.pem') : undefined
      if (backendCa !== undefined) writeFileSync(backendCa, upstream.certificate)
      const clientTls = scenario.tlsClients
        ? { cert: join(folder, 'listener.pem'), key: join(folder, 'listener-key.pem') }
        : undefined
      if (clientTls !== undefined) {
        writeFileSync(clientTls.cert, listener.cert)
        writeFileSync(clientTls.key, listener.key, { mode: 0o600 })
      }
      const names = scenario.targets.filter(name => !missing.includes(name))
      samples.push(
        ...(await runRounds(bench, scenario, names, {
          start: (name, workers) =>
            startTarget(name, { pin: pins.measured, folder, backends, workers, backendCa, clientTls }),
          onRound: round => say(`${scenario.id} ${scenario.title}: round ${round} of ${scale.rounds}`),
        })),
      )
    }
  } finally {
    await crews.stop()
    rmSync(folder, { recursive: true, force: true })
  }
  return samples
}

async function main(env: NodeJS.ProcessEnv): Promise<number> {
  const scale = scaleFrom(env)
  const out = env.OUT ?? join('build', 'bench.json')
  const scenarios = chosenScenarios(env)
  const notes = notesOn(scenarios, env)
  for (const text of notes) say(`note: ${text}`)

  const totals: Totals = { requests: 0, errors: 0, problems: [] }
  const samples = await runAll(scenarios, scale, totals)
  const rows = summarize(samples)
  const versions = YARDSTICK_PROGRAMS.map(name => {
    const file = findProgram(name)
    return [name, file === undefined ? undefined : versionOf(name, file)] as const
  })
  const machine = {
    node: process.version,
    ...Object.fromEntries(versions),
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    platform: `${process.platform} ${process.arch}`,
  }
  mkdirSync(dirname(out), { recursive: true })
  writeFileSync(out, `${JSON.stringify({ machine, scale, notes, totals, rows, samples }, undefined, 1)}\n`)
  process.stdout.write(`${table(rows)}\n\n`)
  process.stdout.write(`${totals.requests} answers checked, ${totals.errors} wrong. Figures: ${out}\n`)
  for (const problem of [...notes, ...totals.problems]) process.stdout.write(`- ${problem}\n`)
  // Figures of wrong answers are worth nothing.
  return totals.errors === 0 ? 0 : 1
}

process.exitCode = await main(process.env)
