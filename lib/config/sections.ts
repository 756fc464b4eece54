// Mappings with fixed options, mappings with free names, and lists, built of readers. Every part that could be
// read is returned with its place, so that rules across parts are still checked when something else is wrong.

import type { Entry, MapNode, Node } from './document.ts'
import { isSameWord, nearest } from './nearest.ts'
import { meantByOther } from './other-names.ts'
import { isPlainWords, type Place, pathTo, type Report } from './problems.ts'
import { describe, didYouMean, isUsableName, type Reader, readDefault } from './readers.ts'

/** A part of the config as read: its value, whether the file gives it, and where (or where it would stand). */
export interface Parsed<T> {
  readonly value: T
  readonly given: boolean
  /** Given, but with nothing in it: an empty list or mapping, or nothing after the colon. */
  readonly empty: boolean
  readonly place: Place
}

/** An option of a section. */
export interface Field<T> {
  readonly reader: Reader<unknown>
  readonly required: boolean
  readonly defaultText: string | undefined
  take(node: Node | undefined, place: Place, report: Report): Parsed<T>
}

export type Fields = Readonly<Record<string, Field<unknown>>>

/** What a section with these fields gives. */
export type Section<F extends Fields> = {
  readonly [K in keyof F]: F[K] extends Field<infer T> ? Parsed<T> : never
}

// More known options than this are not listed after an unknown one: the template is the better list.
const LISTED_MAX = 12

/** An option with a default, used too when what is given is wrong (then the config as a whole is invalid anyway). */
export function defaulted<T>(reader: Reader<T>, value: string | number | boolean): Field<T> {
  const fallback = readDefault(reader, value)
  return field(reader, false, String(value), (node, report) => (node && reader.read(node, report)) ?? fallback)
}

/** An option that may be left out: undefined then. `defaultText` says what happens, for the list of options. */
export function optional<T>(reader: Reader<T>, defaultText?: string): Field<T | undefined> {
  return field(reader, false, defaultText, (node, report) => node && reader.read(node, report))
}

/** An option that must be there: undefined only when the problem is reported. */
export function required<T>(reader: Reader<T>): Field<T | undefined> {
  return field(reader, true, undefined, (node, report, place) => {
    if (node !== undefined) return reader.read(node, report)
    report.problem(place, `is missing: must be ${reader.allowed}`)
    return undefined
  })
}

/** A section whose options all may be left out, and so may it. */
export function group<F extends Fields>(fields: F): Field<Section<F>> {
  const reader = section(fields)
  return field(reader, false, undefined, (node, report, place) => {
    const read = node && reader.read(node, report)
    return read ?? takeFields(fields, { ...place, kind: 'map', entries: new Map() }, report)
  })
}

/** A list that may be left out: empty then. */
export function listed<T>(item: Reader<T>): Field<readonly Parsed<T>[]> {
  const reader = list(item)
  return field(reader, false, undefined, (node, report) => (node && reader.read(node, report)) ?? [])
}

function field<T>(
  reader: Reader<unknown>,
  isRequired: boolean,
  defaultText: string | undefined,
  read: (node: Node | undefined, report: Report, place: Place) => T,
): Field<T> {
  return {
    reader,
    required: isRequired,
    defaultText,
    take: (node, place, report) => ({
      value: read(node, report, place),
      given: node !== undefined,
      empty: node !== undefined && isEmpty(node),
      place: node ?? place,
    }),
  }
}

function isEmpty(node: Node): boolean {
  if (node.kind === 'map') return node.entries.size === 0
  if (node.kind === 'list') return node.items.length === 0
  return node.kind === 'scalar' && node.value === null
}

/**
 * A mapping of known options; unknown ones are reported with the nearest known. Nothing after the colon is an empty
 * one.
 */
export function section<F extends Fields>(fields: F): Reader<Section<F>> {
  const allowed = 'a mapping of options'
  return {
    allowed,
    nested: { kind: 'section', fields },
    read(node, report) {
      const map = asMap(node, allowed, report)
      if (map === undefined) return undefined
      for (const [name, entry] of map.entries) {
        if (!Object.hasOwn(fields, name) && !report.full()) reportUnknown(name, entry, map, fields, report)
      }
      return takeFields(fields, map, report)
    },
  }
}

/** A mapping of free names to values of one kind; keeps the file's order. A name is never the name of a property. */
export function mapOf<T>(item: Reader<T>, what: string): Reader<ReadonlyMap<string, Parsed<T>>> {
  const allowed = `a mapping of ${what}`
  return {
    allowed,
    nested: { kind: 'map', item },
    read(node, report) {
      const map = asMap(node, allowed, report)
      if (map === undefined) return undefined
      const result = new Map<string, Parsed<T>>()
      for (const [name, { key, value }] of map.entries) {
        if (!isUsableName(name) || name.includes('${')) {
          report.problem({ ...key, path: map.path }, 'this name is empty, too long, or holds ${ or control characters')
          continue
        }
        const read = item.read(value, report)
        if (read !== undefined) result.set(name, { value: read, given: true, empty: isEmpty(value), place: key })
      }
      return result
    },
  }
}

/** A list of values of one kind; those that are wrong are reported and left out. */
export function list<T>(item: Reader<T>): Reader<readonly Parsed<T>[]> {
  return {
    allowed: 'a list',
    nested: { kind: 'list', item },
    read(node, report) {
      if (node.kind === 'broken') return undefined
      if (node.kind !== 'list') {
        report.problem(node, `must be a list (each item begins with "- "), not ${describe(node)}${listCure(node)}`)
        return undefined
      }
      return node.items.flatMap(entry => {
        const value = item.read(entry, report)
        return value === undefined ? [] : [{ value, given: true, empty: isEmpty(entry), place: entry }]
      })
    },
  }
}

/** A single text where a list of them is wanted needs only brackets. */
function listCure({ kind, path }: Node): string {
  if (kind === 'scalar' && /\.(?:from|models|aliases|subjects|trusted_proxies|cors_origins)$/.test(path))
    return ': write […] around it'
  return kind === 'map' && /\.keys$/.test(path) ? ': write "- name: NAME" and, below it, "key: …" for each' : ''
}

function takeFields<F extends Fields>(fields: F, map: MapNode, report: Report): Section<F> {
  const taken = Object.entries(fields).map(([name, option]) => {
    const missing = { line: map.line, column: map.column, path: pathTo(map.path, name) }
    return [name, option.take(map.entries.get(name)?.value, missing, report)] as const
  })
  // Each key got what its own field takes, which is what Section says; fromEntries cannot carry that.
  return Object.fromEntries(taken) as Section<F>
}

function asMap(node: Node, allowed: string, report: Report): MapNode | undefined {
  if (node.kind === 'map') return node
  if (node.kind === 'scalar' && node.value === null) return { ...node, kind: 'map', entries: new Map() }
  if (node.kind !== 'broken') report.problem(node, `must be ${allowed}, not ${found(node)}${shapeCure(node)}`)
  return undefined
}

/** An item of a list of mappings may be a key that somebody wrote alone: it is not shown. */
function found(node: Node): string {
  return describe(node, node.path.endsWith(']'))
}

/** What to write instead, for the shapes that people bring. */
function shapeCure({ kind, path }: Node): string {
  if (path === '' && kind === 'list') return ': begin with a copy of config.template.yaml'
  if (path === 'models' && kind === 'list') return ': write each model as "NAME:", and its backends below it'
  if (path === 'models.backends') return ": indent it to stand below its model's name"
  if (/^auth\.keys\[\d+\]$/.test(path)) return ': write "- name: NAME" and, below it, "key: …"'
  if (/\.backends\[\d+\]$/.test(path)) return ': write "- endpoint: URL" and, below it, "api_key: …"'
  if (path === 'metrics' && kind === 'scalar') return ': write metrics.enabled'
  if (/\.price$/.test(path)) return ': write {input: …, cached_input: …, output: …}, per million tokens'
  return ''
}

/** Sections of the top level, which people look for inside others. */
const TOP_LEVEL: ReadonlySet<string> = new Set([
  'server',
  'auth',
  'models',
  'retry',
  'health_check',
  'logging',
  'metrics',
  'egress',
  'usage',
  'tracing',
])
/** What an unknown key most likely means, as the end of a sentence; undefined where nothing is known of it. */
function meantBy(name: string, value: Node, path: string, options: readonly string[]): string | undefined {
  if (path !== '' && TOP_LEVEL.has(name)) return `"${name}" stands at the top level: move it out to the left margin`
  if (path === '' && value.kind === 'map' && value.entries.has('backends')) {
    return 'this is a model: indent it, and what is below it, to stand under "models"'
  }
  return meantByOther(name, path, options)
}

// The name itself is shown only when it is near a known one or plain words: `{key:sk-…}` makes a key of a secret.
function reportUnknown(name: string, { key, value }: Entry, map: MapNode, fields: Fields, report: Report): void {
  const known = Object.keys(fields)
  // The same word written in another way goes before what other tools mean by it.
  const near = nearest(name, known)
  const meant = near !== undefined && isSameWord(near, name) ? undefined : meantBy(name, value, map.path, known)
  const showable = near !== undefined || meant !== undefined || isPlainWords(name)
  const open = known.filter(option => !map.entries.has(option))
  const rest =
    near === undefined && open.length > 0 && open.length <= LISTED_MAX ? `; known here: ${open.join(', ')}` : ''
  const unnamed = showable ? '' : ' (not shown: is a ": " missing after the key?)'
  const path = showable ? key.path : map.path
  const cure = meant === undefined ? `${didYouMean(near)}${rest}` : `: ${meant}`
  report.problem({ ...key, path }, `unknown key${unnamed}${cure}`)
}
