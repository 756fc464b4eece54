// The source of a build: the repository's state, its time, its version.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BuildError } from './errors.ts'
import { type Commit, stampVersion } from './version.ts'

/** 1980-01-01T00:00:00Z, the first time zip knows: what files get outside a repository. */
const NO_TIME_SECONDS = 315_532_800

export interface Source {
  readonly root: string
  readonly version: string
  readonly commit: Commit | undefined
  /** Seconds since 1970: SOURCE_DATE_EPOCH, else the commit's. */
  readonly timeSeconds: number
}

function git(root: string, ...args: readonly string[]): string | undefined {
  try {
    return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}

/** A member of a JSON file; undefined where there is none. */
export function jsonAt(file: string, ...path: readonly string[]): unknown {
  let value: unknown = JSON.parse(readFileSync(file, 'utf8'))
  for (const key of path) {
    value = typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>)[key] : undefined
  }
  return value
}

/** @throws BuildError when it is not text */
export function textAt(file: string, ...path: readonly string[]): string {
  const value = jsonAt(file, ...path)
  if (typeof value !== 'string') throw new BuildError(`${file}: ${path.join(' → ')} is missing`)
  return value
}

/**
 * @param env for VERSION and SOURCE_DATE_EPOCH
 * @throws BuildError with exit code 2 when one of these is wrong
 */
export function readSource(root: string, env: Readonly<Record<string, string | undefined>>): Source {
  const hash = git(root, 'rev-parse', 'HEAD')
  const commit = hash === undefined ? undefined : { hash, dirty: git(root, 'status', '--porcelain') !== '' }
  const version = stampVersion(env.VERSION, textAt(join(root, 'package.json'), 'version'), commit)
  const given = env.SOURCE_DATE_EPOCH ?? ''
  if (given !== '' && !/^\d{1,10}$/.test(given)) {
    throw new BuildError(`SOURCE_DATE_EPOCH must be seconds since 1970, not ${JSON.stringify(given)}`, 2)
  }
  const time = given !== '' ? given : commit === undefined ? NO_TIME_SECONDS : git(root, 'log', '-1', '--format=%ct')
  return { root, version, commit, timeSeconds: Number(time) }
}
