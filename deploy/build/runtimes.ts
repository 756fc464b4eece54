// The pinned Node runtimes: fetched by npm into a cache, and used only when their bytes are the pinned ones.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { BuildError } from './errors.ts'
import { PLATFORM_NAMES, type PlatformName } from './platforms.ts'
import { type Entry, readTar } from './tar.ts'

/** A package of 52 MB over a slow line; npm gives up on a dead one earlier by itself. */
const FETCH_TIMEOUT_MS = 600_000

export interface Runtime {
  /** The package's name. */
  readonly name: string
  /** sha512-… of the package's bytes, as a lockfile has it. */
  readonly integrity: string
}

export interface Runtimes {
  /** Where this was read from. */
  readonly file: string
  /** The version of Node, and of every package. */
  readonly node: string
  readonly packages: Readonly<Record<PlatformName, Runtime>>
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

/** @throws BuildError when the file is not as it must be */
export function readRuntimes(file: string): Runtimes {
  const wrong = (what: string): never => {
    throw new BuildError(`${file}: ${what}`)
  }
  let json: unknown
  try {
    json = JSON.parse(readFileSync(file, 'utf8'))
  } catch (error) {
    return wrong(error instanceof Error ? error.message : 'cannot be read')
  }
  if (!isRecord(json) || typeof json.node !== 'string' || !/^\d+\.\d+\.\d+$/.test(json.node)) {
    return wrong('"node" must be an exact version')
  }
  const listed = json.packages
  const packages = PLATFORM_NAMES.map((platform): readonly [PlatformName, Runtime] => {
    const entry = isRecord(listed) ? listed[platform] : undefined
    if (!isRecord(entry)) return wrong(`no runtime for ${platform}`)
    const { name, integrity } = entry
    if (typeof name !== 'string' || !/^[a-z0-9@][a-z0-9@/._-]*$/.test(name))
      return wrong(`${platform}: no package name`)
    if (typeof integrity !== 'string' || !/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity)) {
      return wrong(`${platform}: "integrity" must be sha512-…`)
    }
    return [platform, { name, integrity }]
  })
  return { file, node: json.node, packages: Object.fromEntries(packages) as Record<PlatformName, Runtime> }
}

/** @returns sha512-… as lockfiles write it */
export function integrityOf(bytes: Buffer): string {
  return `sha512-${createHash('sha512').update(bytes).digest('base64')}`
}

/** The lines of npm's complaint that say what happened; the rest is where its log is. */
function npmComplaint(stderr: string): string {
  const lines = stderr.split('\n').flatMap(line => {
    const said = /^npm (?:error|ERR!) (?!A complete log|code )(.+)$/.exec(line)?.[1]
    return said === undefined ? [] : [said.trim()]
  })
  return lines.slice(0, 2).join('; ') || 'npm gave no reason'
}

async function download(spec: string, cacheFolder: string, name: string): Promise<void> {
  const folder = mkdtempSync(join(cacheFolder, '.fetch-'))
  try {
    const args = ['pack', spec, '--pack-destination', folder, '--ignore-scripts', '--json', '--fetch-retries=1']
    // npm is a shell script on Windows, which execFile starts by a shell alone.
    const shell = process.platform === 'win32'
    await promisify(execFile)('npm', args, { timeout: FETCH_TIMEOUT_MS, shell }).catch((error: unknown) => {
      if (isRecord(error) && error.code === 'ENOENT') throw new BuildError(`npm is needed to fetch the runtime ${spec}`)
      const stderr = isRecord(error) && typeof error.stderr === 'string' ? error.stderr : ''
      throw new BuildError(`the runtime ${spec} could not be fetched: ${npmComplaint(stderr)}`)
    })
    const packed = join(folder, name)
    if (!existsSync(packed)) throw new BuildError(`the runtime ${spec} could not be fetched: npm left no ${name}`)
    renameSync(packed, join(cacheFolder, name))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The cached package of a platform, if its bytes are the pinned ones. @throws BuildError when they are not */
function pinnedBytes({ node, file, packages }: Runtimes, platform: PlatformName, cacheFolder: string): Buffer {
  const { name, integrity } = packages[platform]
  const path = join(cacheFolder, tarballOf(name, node))
  const bytes = readFileSync(path)
  const found = integrityOf(bytes)
  if (found !== integrity) {
    throw new BuildError(
      `the runtime ${name}@${node} is not the pinned one, so nothing is built from it:\n` +
        `  ${path}\n  has    ${found}\n  pinned ${integrity} (${file})\n` +
        'If the file was damaged on its way, remove it and build again.',
    )
  }
  return bytes
}

function tarballOf(name: string, version: string): string {
  return `${name.replace(/^@/, '').replace('/', '-')}-${version}.tgz`
}

/**
 * Puts a platform's runtime package into the cache, through npm where it is not there yet.
 * @throws BuildError when it is missing, or is not what is pinned
 */
export async function fetchRuntime(runtimes: Runtimes, platform: PlatformName, cacheFolder: string): Promise<void> {
  const { name } = runtimes.packages[platform]
  const tarball = tarballOf(name, runtimes.node)
  mkdirSync(cacheFolder, { recursive: true })
  if (!existsSync(join(cacheFolder, tarball))) await download(`${name}@${runtimes.node}`, cacheFolder, tarball)
  pinnedBytes(runtimes, platform, cacheFolder)
}

/**
 * The files of a platform's runtime package, which is in the cache; some 300 MB of memory.
 * @throws BuildError when it is not what is pinned
 */
export function runtimeFiles(runtimes: Runtimes, platform: PlatformName, cacheFolder: string): readonly Entry[] {
  return readTar(gunzipSync(pinnedBytes(runtimes, platform, cacheFolder)))
}

/** @throws BuildError when the package lacks it */
export function fileOf(entries: readonly Entry[], path: string, whose: string): Buffer {
  const entry = entries.find(each => each.path === path)
  if (entry === undefined) throw new BuildError(`the runtime of ${whose} has no ${path}`)
  return entry.bytes
}
