// The changes of a reload, line by line, for the log. Secrets are "changed", never shown.
import { Secret } from './secret.ts'
import type { Config } from './types.ts'

/** A value's text for a line, and a text that is equal only for equal values. */
interface Leaf {
  readonly shown: string
  readonly same: string
}

/** Lines of one reload; a config that changes in more places than this says how many more. */
const MAX_LINES = 100

/** Things that come and go as one, the larger first. */
const WHOLES = [/^models\[.*?\](?=\.)/, /^models\[.*?\]\.backends\[.*?\](?=\.)/, /^auth\.(?:keys|tokens)\[.*?\](?=\.)/]

function leaf(value: unknown): Leaf {
  if (value instanceof Secret) return { shown: '', same: value.reveal() }
  if (Buffer.isBuffer(value)) return { shown: '', same: value.toString('hex') }
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return { shown: text, same: text }
}

function isBranch(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !(value instanceof Secret) && !Buffer.isBuffer(value)
}

/** Lists of named things are compared by name, so that an insertion is not a change of all that follow. */
function nameOf(value: unknown, index: number, taken: ReadonlyMap<string, Leaf>, path: string): string {
  const name = isBranch(value) && 'name' in value ? Reflect.get(value, 'name') : undefined
  if (typeof name !== 'string') return `[${index}]`
  const label = `[${name}]`
  // Two client keys may share a name while they rotate.
  return [...taken.keys()].some(key => key.startsWith(`${path}${label}`)) ? `[${name}#${index}]` : label
}

function flatten(value: unknown, path: string, into: Map<string, Leaf>): void {
  if (!isBranch(value)) {
    into.set(path, leaf(value))
    return
  }
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) flatten(item, `${path}${nameOf(item, index, into, path)}`, into)
    return
  }
  for (const [name, item] of Object.entries(value)) {
    const here = path === '' ? name : `${path}.${name}`
    // Made of other options, and of PEM texts: its digest says whether it is another one.
    if (name === 'route') into.set(here, { shown: '', same: isBranch(item) && 'id' in item ? String(item.id) : '' })
    else flatten(item, here, into)
  }
}

/**
 * What is different, one line a change: `retry.maxAttempts: 3 → 5`, `models[gpt-4].backends[a].credential.key:
 * changed`. Additions and removals of whole things are one line each.
 */
export function describeChanges(before: Config, after: Config): readonly string[] {
  const old = new Map<string, Leaf>()
  const fresh = new Map<string, Leaf>()
  flatten(before, '', old)
  flatten(after, '', fresh)
  const lines: string[] = []
  const existed = (prefix: string, paths: ReadonlyMap<string, Leaf>): boolean =>
    [...paths.keys()].some(path => path === prefix || path.startsWith(`${prefix}.`))
  /**
   * The largest thing around a path of which the other side has nothing: a new model says that, not each of its
   * backends.
   */
  const wholeNotIn = (paths: ReadonlyMap<string, Leaf>, path: string): string | undefined =>
    WHOLES.map(whole => whole.exec(path)?.[0]).find(whole => whole !== undefined && !existed(whole, paths))
  const said = new Set<string>()
  const say = (line: string): void => {
    if (said.has(line)) return
    said.add(line)
    lines.push(line)
  }
  for (const [path, { shown, same }] of fresh) {
    const was = old.get(path)
    if (was === undefined) {
      const whole = wholeNotIn(old, path)
      say(whole === undefined ? `${path}: added ${shown}`.trimEnd() : `${whole}: added`)
    } else if (was.same !== same) say(shown === '' ? `${path}: changed` : `${path}: ${was.shown} → ${shown}`)
  }
  for (const path of old.keys()) {
    if (!fresh.has(path)) say(`${wholeNotIn(fresh, path) ?? path}: removed`)
  }
  return lines.length <= MAX_LINES
    ? lines
    : [...lines.slice(0, MAX_LINES), `and ${lines.length - MAX_LINES} more changes`]
}

/** The options whose change a running process cannot follow, among the changed ones. */
export function needsRestart(before: Config, after: Config): readonly string[] {
  const fixed: readonly (readonly [string, unknown, unknown])[] = [
    ['server.port', before.server.port, after.server.port],
    ['server.host', before.server.host, after.server.host],
    ['server.workers', before.server.workers, after.server.workers],
    ['server.tls', before.server.tls === undefined, after.server.tls === undefined],
    ['logging.file', before.logging.file, after.logging.file],
    ['usage.file', before.usage.file, after.usage.file],
  ]
  return fixed.filter(([, old, fresh]) => old !== fresh).map(([name]) => name)
}
