// The steps of a build, in order; each thing is checked before the next is made.
import { createHash } from 'node:crypto'
import { mkdirSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { bundle, makeBlob } from './bundle.ts'
import { gzip } from './compress.ts'
import { portableArchive } from './contents.ts'
import { BuildError } from './errors.ts'
import type { Platform } from './platforms.ts'
import { fetchRuntime, type Runtimes } from './runtimes.ts'
import { sbom } from './sbom.ts'
import { smoke, startTimes } from './smoke.ts'
import { type Source, textAt } from './source.ts'
import { type Made, runStep } from './steps.ts'
import { readTar, writeTar } from './tar.ts'

/** Node's licence is the same for all platforms; the packages for Windows lack it. */
const LICENSE_FROM = 'linux-x64'
const LICENSE_PATH = 'package/LICENSE'
/** The first start reads the file from the disk; the best of these is the program's own. */
const TIMED_STARTS = 5
const MEGABYTE = 1_000_000

export interface BuildOptions {
  readonly source: Source
  readonly runtimes: Runtimes
  readonly platforms: readonly Platform[]
  /** The one this machine can run. */
  readonly host: Platform
  /** The pinned Node, for this machine. */
  readonly node: string
  /** The folder of the runtime packages. */
  readonly cache: string
  /** Empty; gets the files. */
  readonly folder: string
  readonly say: (line: string) => void
}

function megabytes(bytes: number): string {
  return `${(bytes / MEGABYTE).toFixed(1)} MB`
}

function unpack(tar: Buffer, folder: string): void {
  for (const { path, bytes } of readTar(tar)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), bytes)
  }
}

function makeSbom({ source, runtimes, platforms }: BuildOptions): string {
  const installed = (name: string): string => textAt(join(source.root, 'node_modules', name, 'package.json'), 'version')
  const lock = join(source.root, 'package-lock.json')
  return sbom({
    version: source.version,
    timeSeconds: source.timeSeconds,
    commit: source.commit?.hash,
    runtimes,
    platforms: platforms.map(platform => platform.name),
    nodeParts: process.versions,
    yaml: {
      version: textAt(lock, 'packages', 'node_modules/yaml', 'version'),
      integrity: textAt(lock, 'packages', 'node_modules/yaml', 'integrity'),
    },
    tools: { esbuild: installed('esbuild'), postject: installed('postject'), typescript: installed('typescript') },
  })
}

/** An executable and its archive, step by step, so that no process holds more of them than one step needs. */
async function makePlatform(
  { runtimes, cache, folder, source }: BuildOptions,
  { name: platform, archive }: Platform,
  { name, path, blob, license }: Readonly<Record<'name' | 'path' | 'blob' | 'license', string>>,
): Promise<readonly [executable: Made, archive: Made]> {
  await runStep({ kind: 'prepare', runtimes: runtimes.file, platform, cache, to: path })
  await runStep({ kind: 'inject', platform, path, blob })
  const { root, timeSeconds } = source
  const packed = { root, name, archive: join(folder, name + archive), timeSeconds }
  const [executable, packedArchive] = await runStep({ kind: 'pack', platform, path, blob, license, ...packed })
  if (executable === undefined || packedArchive === undefined) throw new BuildError(`${platform}: nothing was packed`)
  return [executable, packedArchive]
}

/**
 * Builds everything into one folder.
 * @returns the names of the files to keep, the sums last
 * @throws BuildError on the first thing that fails
 */
export async function buildAll(options: BuildOptions): Promise<readonly string[]> {
  const { source, runtimes, platforms, host, node, cache, folder, say } = options
  const { version, timeSeconds, root } = source
  const stem = `azure-openai-proxy-${version}`
  const sums = new Map<string, string>()
  const keep = (name: string, bytes: Buffer): void => {
    writeFileSync(join(folder, name), bytes)
    sums.set(name, createHash('sha256').update(bytes).digest('hex'))
  }
  say(`${stem} with Node ${runtimes.node}`)
  // All runtimes first: a missing one is known before minutes are spent.
  for (const { name } of platforms) await fetchRuntime(runtimes, name, cache)
  const license = join(folder, '.node-license')
  await fetchRuntime(runtimes, LICENSE_FROM, cache)
  const from = { runtimes: runtimes.file, platform: LICENSE_FROM, cache, file: LICENSE_PATH } as const
  await runStep({ kind: 'extract', ...from, to: license })
  const { code, map } = await bundle(root, version)
  const blob = await makeBlob(node, code, folder)
  for (const platform of platforms) {
    const started = performance.now()
    const name = `${stem}-${platform.name}`
    const path = join(folder, name + platform.suffix)
    const [executable, archive] = await makePlatform(options, platform, { name, path, blob, license })
    sums.set(name + platform.suffix, executable.sum)
    sums.set(name + platform.archive, archive.sum)
    const seconds = ((performance.now() - started) / 1_000).toFixed(0)
    const sizes = `${megabytes(executable.bytes)}, archive ${megabytes(archive.bytes)}`
    say(`${platform.name}: format, fuse and program checked; ${sizes}; ${seconds} s`)
    if (platform.name === host.name) {
      await smoke({ command: [path], version, signals: true, workers: true, say: line => say(`  ${line}`) })
      const times = await startTimes([path], TIMED_STARTS)
      say(`  start to the first answer of /livez: ${Math.min(...times).toFixed(0)} ms (best of ${TIMED_STARTS})`)
    }
  }
  const portable = writeTar(portableArchive(root, `${stem}-node`, version), timeSeconds)
  keep(`${stem}-node.tar.gz`, gzip(portable))
  unpack(portable, folder)
  say(`node: archive ${megabytes(statSync(join(folder, `${stem}-node.tar.gz`)).size)}`)
  const launcher = join(folder, `${stem}-node`, 'bin', 'proxy.js')
  await smoke({ command: [node, launcher], version, signals: true, workers: true, say: line => say(`  ${line}`) })
  keep(`${stem}.cdx.json`, Buffer.from(makeSbom(options)))
  keep(`${stem}.cjs.map`, Buffer.from(map))
  const lines = [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, sum]) => `${sum}  ${name}\n`)
  writeFileSync(join(folder, 'SHA256SUMS'), lines.join(''))
  return [...sums.keys(), 'SHA256SUMS']
}
