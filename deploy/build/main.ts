// Builds the packaged executables: `node dist/deploy/build/main.js current | all | PLATFORM... [--out DIR] [--runtimes
// FILE]`, through make build-current and make build-all. Everything is made and checked in a folder of its own, and put
// in place at the end: all or nothing.
import { spawn } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { buildAll } from './build.ts'
import { BuildError, explain } from './errors.ts'
import { hostName, PLATFORM_NAMES, type Platform, platformOf } from './platforms.ts'
import { fetchRuntime, type Runtimes, readRuntimes } from './runtimes.ts'
import { readSource, type Source } from './source.ts'
import { runStep } from './steps.ts'

/** Set for the second start, by the pinned runtime. */
const AGAIN = 'AZURE_OPENAI_PROXY_BUILD'
/** What an executable and its archive need on the disk, and what is needed besides. */
const PLATFORM_MB = 180
const BESIDES_MB = 300
const MEGABYTE = 1_000_000

function platformsOf(names: readonly string[], host: Platform): readonly Platform[] {
  if (names.length === 1 && names[0] === 'current') return [host]
  const wanted = names.length === 1 && names[0] === 'all' ? PLATFORM_NAMES : names
  if (wanted.length === 0)
    throw new BuildError(`say what to build: current, all, or of ${PLATFORM_NAMES.join(', ')}`, 2)
  return wanted.map(name => {
    const platform = platformOf(name)
    if (platform === undefined) {
      throw new BuildError(`there is no platform ${JSON.stringify(name)}, only ${PLATFORM_NAMES.join(', ')}`, 2)
    }
    return platform
  })
}

function thisPlatform(): Platform {
  const name = hostName(process.platform, process.arch)
  const platform = platformOf(name)
  if (platform === undefined) {
    throw new BuildError(`the build runs on ${PLATFORM_NAMES.join(', ')}; this machine is ${name}`)
  }
  return platform
}

function checkSpace(folder: string, platforms: number): void {
  const { bavail, bsize } = statfsSync(folder)
  const free = Math.floor((bavail * bsize) / MEGABYTE)
  const needed = platforms * PLATFORM_MB + BESIDES_MB
  if (free < needed) {
    throw new BuildError(
      `no space left for this build in ${folder}: about ${needed} MB are needed, ${free} MB are free`,
    )
  }
}

/** Runs what `use` does in a new folder that is gone afterwards, also when it fails or is interrupted. */
async function inWorkFolder<T>(out: string, use: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(out, '.work-'))
  const remove = (): void => rmSync(folder, { recursive: true, force: true })
  process.once('exit', remove)
  try {
    return await use(folder)
  } finally {
    remove()
    process.removeListener('exit', remove)
  }
}

/**
 * The same build by the pinned Node: compression and blob are its work, and the next version's bytes would be others.
 */
async function again(runtimes: Runtimes, host: Platform, out: string, cache: string): Promise<number> {
  await fetchRuntime(runtimes, host.name, cache)
  return inWorkFolder(out, async folder => {
    const node = join(folder, `node${host.suffix}`)
    const from = { runtimes: runtimes.file, platform: host.name, cache, file: host.runtimePath }
    await runStep({ kind: 'extract', ...from, to: node })
    chmodSync(node, 0o755)
    const child = spawn(node, process.argv.slice(1), { stdio: 'inherit', env: { ...process.env, [AGAIN]: '1' } })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
    return new Promise((resolve, reject) => {
      child.once('error', error => {
        const why = 'code' in error && error.code === 'ENOENT' ? 'it needs glibc 2.28 or newer' : error.message
        reject(new BuildError(`Node ${runtimes.node}, which the build runs on, does not start on this machine: ${why}`))
      })
      child.once('exit', code => resolve(code ?? 1))
    })
  })
}

function putInPlace(files: readonly string[], from: string, to: string): void {
  for (const file of files) renameSync(join(from, file), join(to, file))
}

async function build(source: Source, runtimes: Runtimes, platforms: readonly Platform[], host: Platform, out: string) {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  await inWorkFolder(out, async folder => {
    const say = (line: string): void => void process.stdout.write(`${line}\n`)
    const cache = join(out, 'cache')
    const files = await buildAll({ source, runtimes, platforms, host, node: process.execPath, cache, folder, say })
    putInPlace(files, folder, out)
    say(`in ${out}:\n${files.map(file => `  ${file}`).join('\n')}`)
  })
}

interface Arguments {
  readonly platforms: readonly string[]
  /** The folder everything goes to. */
  readonly out: string
  readonly runtimes: string
}

function parse(argv: readonly string[]): Arguments {
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        out: { type: 'string', default: 'build' },
        runtimes: { type: 'string', default: join('deploy', 'runtimes.json') },
      },
    })
    return { platforms: positionals, out: values.out, runtimes: values.runtimes }
  } catch (error) {
    throw new BuildError(error instanceof Error ? error.message : 'the command line is wrong', 2)
  }
}

async function main(argv: readonly string[]): Promise<number> {
  const given = parse(argv)
  const host = thisPlatform()
  const source = readSource(process.cwd(), process.env)
  const platforms = platformsOf(given.platforms, host)
  const runtimes = readRuntimes(given.runtimes)
  const { out } = given
  const cache = join(out, 'cache')
  mkdirSync(cache, { recursive: true })
  if (process.version === `v${runtimes.node}`) {
    if (process.env[AGAIN] === undefined) checkSpace(out, platforms.length)
    await build(source, runtimes, platforms, host, out)
    return 0
  }
  if (process.env[AGAIN] !== undefined) {
    throw new BuildError(`the pinned runtime is ${process.version}, not ${runtimes.node}`)
  }
  checkSpace(out, platforms.length)
  return again(runtimes, host, out, cache)
}

main(process.argv.slice(2)).then(
  code => {
    process.exitCode = code
  },
  (error: unknown) => {
    const { message, exitCode } = explain(error)
    process.stderr.write(`build: ${message}\n`)
    process.exitCode = exitCode
  },
)
