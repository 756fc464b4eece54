// The version a build carries: given on the command line, else the package's with the commit.
import { BuildError } from './errors.ts'

/** Long enough for a pre-release and a commit; short enough for a file name. */
const MAX_VERSION_CHARS = 64
/** Digits of the commit: fixed, since git's own abbreviation grows with the repository. */
const COMMIT_DIGITS = 9

const NUMBER = '(?:0|[1-9]\\d{0,8})'
const VERSION = new RegExp(
  `^${NUMBER}\\.${NUMBER}\\.${NUMBER}(?:-[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?(?:\\+[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?$`,
)

/**
 * Checks a version (semver.org): it becomes part of file names, so nothing else is let through.
 * @throws BuildError with exit code 2
 */
export function checkVersion(text: string): string {
  if (text.length <= MAX_VERSION_CHARS && VERSION.test(text)) return text
  const without = text.replace(/^v/, '')
  const hint = without !== text && VERSION.test(without) ? `; did you mean ${without}?` : ''
  throw new BuildError(
    `VERSION must look like 2.0.0 or 2.0.0-rc.1 (at most ${MAX_VERSION_CHARS} characters), not ${JSON.stringify(text.slice(0, 80))}${hint}`,
    2,
  )
}

export interface Commit {
  /** The full hash. */
  readonly hash: string
  /** Something differs from the commit. */
  readonly dirty: boolean
}

/**
 * @param given the VERSION variable; empty is as good as none
 * @param packaged package.json's version
 * @param commit undefined outside a repository
 * @throws BuildError with exit code 2 when what was given is no version
 */
export function stampVersion(given: string | undefined, packaged: string, commit: Commit | undefined): string {
  if (given !== undefined && given !== '') return checkVersion(given)
  if (commit === undefined) return checkVersion(packaged)
  return checkVersion(`${packaged}+${commit.hash.slice(0, COMMIT_DIGITS)}${commit.dirty ? '-dirty' : ''}`)
}
