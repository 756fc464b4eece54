// Faults to put into the product, to show that the simulation finds them: each is one place's text and what stands there instead.
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
    name: 'a lease that ends does not give its place back',
    file: 'lib/balancer/health-lease.ts',
    text: '    health.inFlight--\n',
    replacement: '',
  },
  {
    name: 'a later, shorter throttle cuts a longer one',
    file: 'lib/balancer/health-requests.ts',
    text: 'if (untilMs <= state.throttle.untilMs) return endThrottleTrial(alive, event)',
    replacement: '',
  },
  {
    name: 'a client that has left is still served',
    file: 'lib/forward/attempt.ts',
    text: 'queueMicrotask(() => giveUp({',
    replacement: 'void (() => giveUp({',
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
  const { outputText } = ts.transpileModule(source, { compilerOptions: options, fileName: file })
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
      if (found === null && run.status === 0) missed++
      say(
        `${found === null ? (run.status === 0 ? 'NOT FOUND' : 'found (it crashed)') : `found by seed ${found[1]}: ${found[2]}`}: ${mutant.name}`,
      )
    } finally {
      fs.rmSync(folder, { recursive: true, force: true })
    }
  }
  say(`${MUTANTS.length - missed} of ${MUTANTS.length} mutants found`)
  return missed === 0
}
