// `make bench`: runs the scenarios in interleaved rounds, prints the table, writes the figures as JSON.
//
//   ROUNDS=5 SECONDS=3   how often, and how long each measurement takes
//   SCENARIOS=A,E        only these
//   OUT=build/bench.json where the figures go
//   BENCH_BRIEF=1        A and E with a handful of requests: shows that the benchmark works, and measures nothing
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { startLoad, startUpstream } from './children.ts'
import type { Bench, Scale } from './measure.ts'
import { type Sample, summarize, table } from './report.ts'
import { SCENARIOS, type Scenario } from './scenarios.ts'
import { findProgram, pins, tellsUsage } from './system.ts'
import { startTarget, type Target, type TargetName } from './targets.ts'

function scaleFrom(env: NodeJS.ProcessEnv): Scale {
  const given = (name: string, fallback: number): number => {
    const value = Number(env[name] ?? fallback)
    if (!(value > 0)) throw new Error(`${name} must be a number above 0`)
    return value
  }
  if (env.BENCH_BRIEF === '1') {
    return {
      rounds: 1,
      warmSeconds: 5,
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
    warmSeconds: 2,
    seconds: given('SECONDS', 3),
    connections: 32,
    perSecond: given('RATE', 1_000),
    streams: given('STREAMS', 1_000),
    streamSeconds: 10,
  }
}

function chosenScenarios(env: NodeJS.ProcessEnv): readonly Scenario[] {
  const wanted = (env.SCENARIOS ?? (env.BENCH_BRIEF === '1' ? 'A,E' : '')).toUpperCase()
  return wanted === '' ? SCENARIOS : SCENARIOS.filter(({ id }) => wanted.split(',').includes(id))
}

function say(text: string): void {
  process.stderr.write(`${text}\n`)
}

type Starter = (name: TargetName, secondBackend: boolean) => Promise<Target>

async function rounds(bench: Bench, scenario: Scenario, names: readonly TargetName[], start: Starter) {
  const samples: Sample[] = []
  const kept = new Map<TargetName, Target>()
  const ready = async (name: TargetName): Promise<Target> => {
    const target = kept.get(name) ?? (await start(name, scenario.secondBackend === true))
    if (kept.has(name)) return target
    await scenario.warmUp?.(bench, target)
    if (scenario.process === 'kept') kept.set(name, target)
    return target
  }
  try {
    if (scenario.process === 'kept') for (const name of names) await ready(name)
    for (let round = 1; round <= bench.scale.rounds; round++) {
      say(`${scenario.id} ${scenario.title}: round ${round} of ${bench.scale.rounds}`)
      for (const name of names) {
        const target = await ready(name)
        try {
          samples.push({ scenario: scenario.id, round, target: name, figures: await scenario.run(bench, target) })
        } finally {
          if (scenario.process === 'fresh') await target.stop()
        }
      }
    }
  } finally {
    for (const target of kept.values()) await target.stop()
  }
  return samples
}

function versionOf(nginx: string | undefined): string | undefined {
  if (nginx === undefined) return undefined
  return execFileSync('/bin/sh', ['-c', '"$0" -v 2>&1', nginx], { encoding: 'utf8' }).trim()
}

async function main(env: NodeJS.ProcessEnv): Promise<number> {
  const scale = scaleFrom(env)
  const out = env.OUT ?? join('build', 'bench.json')
  const notes: string[] = []
  const nginx = findProgram('nginx')
  const { measured, rest, note } = pins()
  if (nginx === undefined) notes.push('no nginx on the PATH: the table lacks this yardstick')
  if (note !== undefined) notes.push(note)
  if (env.BENCH_BRIEF === '1') notes.push('a brief run: it shows that the benchmark works, its figures mean nothing')
  if (!tellsUsage()) notes.push('no /proc here: neither CPU time nor memory can be told')
  for (const text of notes) say(`note: ${text}`)

  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const upstream = await startUpstream(rest)
  const load = await startLoad(rest)
  const bench: Bench = { scale, load, upstream, totals: { requests: 0, errors: 0, problems: [] } }
  const start: Starter = (name, secondBackend) =>
    startTarget(name, {
      pin: measured,
      folder,
      backends: secondBackend ? [upstream.port, upstream.secondPort] : [upstream.port],
      ...(nginx === undefined ? {} : { nginx }),
    })
  const samples: Sample[] = []
  try {
    for (const scenario of chosenScenarios(env)) {
      const names = scenario.targets.filter(name => name !== 'nginx' || nginx !== undefined)
      samples.push(...(await rounds(bench, scenario, names, start)))
    }
  } finally {
    await load.stop()
    await upstream.stop()
    rmSync(folder, { recursive: true, force: true })
  }

  const { totals } = bench
  const rows = summarize(samples)
  const machine = {
    node: process.version,
    nginx: versionOf(nginx),
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
