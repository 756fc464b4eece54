// The steps of a platform's build that hold a whole executable in memory. Each runs in a process of its own (step.ts),
// whose memory is gone with it. To put a program into a runtime takes up to 800 MB, which the library never gives back.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { promisify } from 'node:util'
import { gzip } from './compress.ts'
import { executableArchive } from './contents.ts'
import { BuildError } from './errors.ts'
import { finish, prepare, putIn } from './executable.ts'
import { type PlatformName, platformOf } from './platforms.ts'
import { fileOf, readRuntimes, runtimeFiles } from './runtimes.ts'
import { writeTar } from './tar.ts'
import { writeZip } from './zip.ts'

/** The input of a step; plain data, since it travels as one argument. */
export type Step =
  /** A file of a platform's runtime package, as it is. */
  | {
      readonly kind: 'extract'
      readonly runtimes: string
      readonly platform: PlatformName
      readonly cache: string
      readonly file: string
      readonly to: string
    }
  /** The runtime, ready to take the program in. */
  | {
      readonly kind: 'prepare'
      readonly runtimes: string
      readonly platform: PlatformName
      readonly cache: string
      readonly to: string
    }
  | { readonly kind: 'inject'; readonly platform: PlatformName; readonly path: string; readonly blob: string }
  /** Signs and checks the executable, and packs its archive. */
  | {
      readonly kind: 'pack'
      readonly platform: PlatformName
      readonly path: string
      readonly blob: string
      readonly license: string
      readonly root: string
      /** The archive's folder, and its name without the ending. */
      readonly name: string
      readonly archive: string
      readonly timeSeconds: number
    }

/** A file that was made. */
export interface Made {
  readonly bytes: number
  /** SHA-256 in hex. */
  readonly sum: string
}

function platformNamed(name: PlatformName): NonNullable<ReturnType<typeof platformOf>> {
  const platform = platformOf(name)
  if (platform === undefined) throw new BuildError(`there is no platform ${name}`, 2)
  return platform
}

function madeOf(bytes: Buffer): Made {
  return { bytes: bytes.length, sum: createHash('sha256').update(bytes).digest('hex') }
}

/**
 * Does one step, in this process.
 * @returns the executable and its archive after `pack`, nothing after the others
 * @throws BuildError when it cannot be done
 */
export async function doStep(step: Step): Promise<readonly Made[]> {
  const platform = platformNamed(step.platform)
  switch (step.kind) {
    case 'extract': {
      const files = runtimeFiles(readRuntimes(step.runtimes), step.platform, step.cache)
      writeFileSync(step.to, fileOf(files, step.file, step.platform))
      return []
    }
    case 'prepare': {
      const files = runtimeFiles(readRuntimes(step.runtimes), step.platform, step.cache)
      writeFileSync(step.to, prepare(fileOf(files, platform.runtimePath, step.platform), platform))
      return []
    }
    case 'inject':
      await putIn(step.path, platform, readFileSync(step.blob))
      return []
    case 'pack': {
      const executable = finish(readFileSync(step.path), platform, readFileSync(step.blob))
      writeFileSync(step.path, executable)
      chmodSync(step.path, 0o755)
      const { root, name, timeSeconds } = step
      const entries = executableArchive(root, name, platform, executable, readFileSync(step.license))
      const archive =
        platform.archive === '.zip' ? writeZip(entries, timeSeconds) : gzip(writeTar(entries, timeSeconds))
      writeFileSync(step.archive, archive)
      return [madeOf(executable), madeOf(archive)]
    }
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null
}

/**
 * Does one step in a process of its own.
 * @throws BuildError with the words of the step's own
 */
export async function runStep(step: Step): Promise<readonly Made[]> {
  const program = join(import.meta.dirname, 'step.js')
  const { stdout } = await promisify(execFile)(process.execPath, [program, JSON.stringify(step)]).catch(
    (error: unknown) => {
      const said = isRecord(error) && typeof error.stderr === 'string' ? error.stderr.trim() : ''
      const killed = isRecord(error) && error.signal === 'SIGKILL' ? ': it was killed (out of memory?)' : ''
      throw new BuildError(said.replace(/^build: /, '') || `the step "${step.kind}" of ${step.platform} ended${killed}`)
    },
  )
  const made: unknown = JSON.parse(stdout)
  if (!Array.isArray(made)) throw new BuildError(`the step "${step.kind}" gave no result`)
  return made
}
