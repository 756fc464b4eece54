// The number of client connections that the limit of open files allows.
import { readFileSync } from 'node:fs'

/**
 * Files that a process needs for itself: event loop, log, channel to the primary, name resolution, probes, status
 * files.
 */
const OWN_FILES = 32
/** A limit below this would shut out ordinary clients; a machine with so few files has other troubles. */
const LEAST_CONNECTIONS = 8

/**
 * Half of what the limit leaves: each client's connection may need one to a backend, and strangers who only connect
 * take none.
 * @param openFiles the limit; undefined: there is none
 */
export function maxConnectionsFor(openFiles: number | undefined): number | undefined {
  if (openFiles === undefined) return undefined
  return Math.max(Math.floor((openFiles - OWN_FILES) / 2), LEAST_CONNECTIONS)
}

/**
 * @returns this process's limit of open files, which Node raises as far as it may at its start; undefined: none is
 * known
 */
export function openFileLimit(): number | undefined {
  try {
    const found = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
    return found === null ? undefined : Number(found[1])
  } catch {
    // Not Linux. macOS counts per process too, but tells it only through a shell.
    return undefined
  }
}
