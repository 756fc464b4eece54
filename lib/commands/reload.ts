// Reads the config again while the proxy runs: on SIGHUP, and when one of its files changes (server.watch).
import { statSync } from 'node:fs'
import type { Clock, Timer } from '../clock.ts'
import { formatProblem } from '../config/load.ts'
import type { Config } from '../config/types.ts'
import type { Log } from '../log.ts'
import type { ProxyServer } from '../server/proxy.ts'
import type { FileTexts } from '../workers/messages.ts'
import { loadAndKeep, tlsFrom } from './load.ts'

/** How often watched files are looked at: stat works on every file system, and through the links of mounted secrets. */
const WATCH_MS = 2_000

/** A config that was read and can be taken up. */
export interface ReloadResult {
  readonly config: Config
  readonly files: readonly string[]
  /** What was read to make it. */
  readonly texts: FileTexts
}

/**
 * Reads the config; a bad one is reported and leaves the old one in force.
 * @param onFailed gets the first problem
 */
export function reloadConfig(
  file: string,
  log: Log,
  onFailed: (problem: string) => void = () => undefined,
): ReloadResult | undefined {
  const { result, texts } = loadAndKeep(file)
  if (result.kind === 'ok') return { ...result, texts }
  for (const problem of result.problems) log.error('config not reloaded', { problem: formatProblem(problem) })
  const [first] = result.problems
  onFailed(first === undefined ? 'unknown' : formatProblem(first))
  return undefined
}

/**
 * Takes a config up; a certificate that cannot be used leaves the old one in force. @returns whether it is in force now
 */
export function applyConfig(
  proxy: ProxyServer,
  { config, texts }: Pick<ReloadResult, 'config' | 'texts'>,
  log: Log,
): boolean {
  try {
    proxy.reload(config, tlsFrom(config.server.tls, texts))
    return true
  } catch (error) {
    const problem = error instanceof Error ? error.message : 'unknown'
    log.error('config not reloaded', { problem })
    proxy.reloadFailed(problem)
    return false
  }
}

function stampOf(file: string): string {
  try {
    const { mtimeMs, size, ino } = statSync(file)
    return `${mtimeMs} ${size} ${ino}`
  } catch {
    return 'missing'
  }
}

/**
 * Calls `onChange` when any of the files has changed since it was last looked at.
 * @param files asked each time: a reload may bring others
 */
export function watchFiles(clock: Clock, files: () => readonly string[], onChange: () => void): Timer {
  let seen = new Map(files().map(file => [file, stampOf(file)]))
  return clock.every(WATCH_MS, () => {
    const now = new Map(files().map(file => [file, stampOf(file)]))
    const changed = [...now].some(([file, stamp]) => seen.has(file) && seen.get(file) !== stamp)
    seen = now
    if (changed) onChange()
  })
}
