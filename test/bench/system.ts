// Figures of processes from Linux: CPU time, memory, which cores they may use. Elsewhere the figures are missing, and
// it is said.
import { accessSync, constants, readdirSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Kernel ticks a second in /proc: 100 on every Linux that Node runs on (`getconf CLK_TCK`). */
const USER_HZ = 100
const US_PER_TICK = 1e6 / USER_HZ
const SELF = '/proc/self/stat'

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return undefined
  }
}

/** Whether this system tells what processes use. */
export const tellsUsage = (): boolean => read(SELF) !== undefined

interface Stat {
  readonly parent: number
  readonly cpuUs: number
}

function stat(pid: number): Stat | undefined {
  const text = read(`/proc/${pid}/stat`)
  if (text === undefined) return undefined
  // The second field is the program's name in brackets, with whatever in it: count from behind (proc(5): ppid 4, utime
  // 14).
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return { parent: Number(fields[1]), cpuUs: (Number(fields[11]) + Number(fields[12])) * US_PER_TICK }
}

/** A process and its descendants. */
function tree(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    const pid = Number(name)
    const parent = Number.isInteger(pid) ? stat(pid)?.parent : undefined
    if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), pid])
  }
  const found = [root]
  for (const pid of found) found.push(...(children.get(pid) ?? []))
  return found
}

/**
 * User and system time so far, in µs, of a process and its descendants, itself first; NaN where the system does not
 * tell.
 */
export function cpuUsByProcess(pid: number): ReadonlyMap<number, number> {
  if (!tellsUsage()) return new Map([[pid, Number.NaN]])
  return new Map(tree(pid).map(each => [each, stat(each)?.cpuUs ?? 0]))
}

/** The same of all of them together. */
export function cpuUs(pid: number): number {
  return [...cpuUsByProcess(pid).values()].reduce((sum, each) => sum + each, 0)
}

/** Resident memory of a process and its descendants, in bytes; NaN where the system does not tell. */
export function residentBytes(pid: number): number {
  if (!tellsUsage()) return Number.NaN
  return tree(pid).reduce((sum, each) => {
    const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(read(`/proc/${each}/status`) ?? '')?.[1]
    return sum + Number(kilobytes ?? 0) * 1024
  }, 0)
}

/** Programs that `make bench-yardsticks` fetches and builds. */
const OWN_FOLDER = join('build', 'yardsticks', 'bin')

/** Of these only the versions that are fetched count: what a system brings may be years older, with other options. */
const OWN_PROGRAMS: ReadonlySet<string> = new Set(['envoy', 'caddy', 'go-original'])

/** A program of `make bench-yardsticks`, or one on the PATH. */
export function findProgram(name: string): string | undefined {
  const folders = OWN_PROGRAMS.has(name) ? [OWN_FOLDER] : (process.env.PATH ?? '').split(delimiter)
  for (const folder of folders) {
    const file = join(folder, name)
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      // Not in this folder.
    }
  }
  return undefined
}

/** The cores this process may use, such as [0, 1]. */
export function allowedCores(): readonly number[] {
  const list = /^Cpus_allowed_list:\s+(\S+)/m.exec(read('/proc/self/status') ?? '')?.[1] ?? ''
  return list.split(',').flatMap(range => {
    const [from = Number.NaN, to = from] = range.split('-').map(Number)
    return Array.from({ length: to - from + 1 || 0 }, (_, i) => from + i)
  })
}
