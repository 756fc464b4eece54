// The steps of a build, in order; each thing is checked before the next is made.
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { bundle, makeBlob } from './bundle.ts'
import { gzip } from './compress.ts'
import { executableArchive, portableArchive } from './contents.ts'
import { makeExecutable } from './executable.ts'
import type { Platform } from './platforms.ts'
import { fetchRuntime, fileOf, type Runtimes } from './runtimes.ts'
import { sbom } from './sbom.ts'
import { smoke, startTimes } from './smoke.ts'
import { type Source, textAt } from './source.ts'
import { type Entry, readTar, writeTar } from './tar.ts'
import { writeZip } from './zip.ts'

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

function pack(entries: readonly Entry[], kind: Platform['archive'], timeSeconds: number): Buffer {
  return kind === '.zip' ? writeZip(entries, timeSeconds) : gzip(writeTar(entries, timeSeconds))
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
  const keep = (name: string, bytes: Buffer, written = false): void => {
    if (!written) writeFileSync(join(folder, name), bytes)
    sums.set(name, createHash('sha256').update(bytes).digest('hex'))
  }
  say(`${stem} with Node ${runtimes.node}`)
  // All runtimes first: a missing one is known before minutes are spent.
  for (const { name } of platforms) await fetchRuntime(runtimes, name, cache)
  const license = fileOf(await fetchRuntime(runtimes, LICENSE_FROM, cache), LICENSE_PATH, LICENSE_FROM)
  const { code, map } = await bundle(root, version)
  const blob = await makeBlob(node, code, folder)
  for (const platform of platforms) {
    const started = performance.now()
    const name = `${stem}-${platform.name}`
    const runtime = fileOf(await fetchRuntime(runtimes, platform.name, cache), platform.runtimePath, platform.name)
    const path = join(folder, name + platform.suffix)
    const executable = await makeExecutable(runtime, platform, blob, path)
    keep(name + platform.suffix, executable, true)
    const archive = pack(executableArchive(root, name, platform, executable, license), platform.archive, timeSeconds)
    keep(name + platform.archive, archive)
    const seconds = ((performance.now() - started) / 1_000).toFixed(0)
    const sizes = `${megabytes(executable.length)}, archive ${megabytes(archive.length)}`
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
  say(`node: archive ${megabytes(gzip(portable).length)}`)
  const launcher = join(folder, `${stem}-node`, 'bin', 'proxy.js')
  await smoke({ command: [node, launcher], version, signals: true, workers: true, say: line => say(`  ${line}`) })
  keep(`${stem}.cdx.json`, Buffer.from(makeSbom(options)))
  keep(`${stem}.cjs.map`, Buffer.from(map))
  const lines = [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, sum]) => `${sum}  ${name}\n`)
  writeFileSync(join(folder, 'SHA256SUMS'), lines.join(''))
  return [...sums.keys(), 'SHA256SUMS']
}
