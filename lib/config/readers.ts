// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// The values an option can have: each reader reads one node and reports what is allowed and what stands there instead.
// A secret, and anything that came from the environment or a file, is named by its type only.
import type { Node, ScalarNode } from './document.ts'
import { nearest } from './nearest.ts'
import { meantValue } from './other-files.ts'
import { createReport, isShowable, type Report } from './problems.ts'
import {
  DURATION_FORM,
  MOMENT_FORM,
  PERCENT_FORM,
  parseDurationMs,
  parseMomentMs,
  parsePercent,
  parseSizeBytes,
  SIZE_FORM,
} from './units.ts'

/** The nested options of a reader, for listings. */
export type Nested =
  | { readonly kind: 'value' }
  | { readonly kind: 'section'; readonly fields: Readonly<Record<string, OptionField>> }
  | { readonly kind: 'list'; readonly item: Reader<unknown> }
  | { readonly kind: 'map'; readonly item: Reader<unknown> }

/** One option of a section as a list of options needs it. */
export interface OptionField {
  readonly reader: Reader<unknown>
  readonly required: boolean
  readonly defaultText: string | undefined
}

export interface Reader<T> {
  /** Completes "must be …". */
  readonly allowed: string
  readonly nested: Nested
  /** The value, or undefined when the problem is reported. Never throws. */
  read(node: Node, report: Report): T | undefined
}

/** Longest text anywhere in a config, in characters; keys that are tokens (JWT) stay well below. */
export const TEXT_MAX_CHARS = 4096

// Control characters break headers and logs; a lone surrogate has no UTF-8 form and makes encodeURIComponent throw.
const UNUSABLE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]|\p{Surrogate}/u

export interface TextOptions {
  /** Completes "must be …". */
  readonly allowed?: string
  readonly pattern?: RegExp
  /** A rule that no pattern can say. */
  readonly accepts?: (value: string) => boolean
  /** What to do about a text that the pattern refuses; it must show nothing of a secret. */
  readonly cureFor?: (value: string) => string | undefined
  /** Never shown, wherever it stands. */
  readonly secret?: boolean
}

/** A text that is not empty and holds no control characters. Numbers are refused: YAML reads 010 as 10. */
export function text(options: TextOptions = {}): Reader<string> {
  const allowed = options.allowed ?? 'a text'
  const secret = options.secret === true
  return valueReader(allowed, (node, report) => {
    if (secret) report.secret(typeof node.value === 'string' ? node.value : node.source)
    const wrong = (why: string) => report.problem(node, `must be ${allowed}, ${why}`)
    if (typeof node.value !== 'string') {
      const cure = node.value === null ? '' : ': put it in quotes'
      wrong(`not ${describe(node, secret)}${cure}`)
    } else if (node.value.trim() === '') wrong('not an empty text')
    else if (node.value.length > TEXT_MAX_CHARS)
      wrong(`of at most ${TEXT_MAX_CHARS} characters, not ${node.value.length}`)
    else if (UNUSABLE.test(node.value)) wrong('without line breaks and control characters')
    else if (options.pattern?.test(node.value) === false || options.accepts?.(node.value) === false)
      wrong(`not ${describe(node, secret)}${cureIn(options.cureFor?.(node.value))}`)
    else return node.value
    return undefined
  })
}

function cureIn(cure: string | undefined): string {
  return cure === undefined ? '' : `: ${cure}`
}

/** One text, or a list of them; never an empty one. */
export function textOrList(allowed: string): Reader<readonly string[]> {
  const one = text({ allowed })
  return {
    allowed,
    nested: { kind: 'value' },
    read(node, report) {
      if (node.kind !== 'list') {
        const value = one.read(node, report)
        return value === undefined ? undefined : [value]
      }
      return node.items.flatMap(item => one.read(item, report) ?? [])
    },
  }
}

/** A date (its end, UTC) or a time, as milliseconds of the wall clock. */
export function moment(): Reader<number> {
  const allowed = `a date or a time, written as ${MOMENT_FORM}`
  return valueReader(allowed, (node, report) => {
    const value = typeof node.value === 'string' ? parseMomentMs(node.value) : undefined
    if (value === undefined) report.problem(node, `must be ${allowed}, not ${describe(node)}`)
    return value
  })
}

/** Whether a name from a mapping's key can be used: the rule of `text`, for keys. */
export function isUsableName(name: string): boolean {
  return name.trim() !== '' && name.length <= TEXT_MAX_CHARS && !UNUSABLE.test(name)
}

/** A whole number from `min` to `max`. */
export function whole(min: number, max: number): Reader<number> {
  const allowed = `a whole number from ${min} to ${max}`
  return valueReader(allowed, (node, report) => {
    const value = node.inserted && /^[-+]?\d{1,15}$/.test(String(node.value)) ? Number(node.value) : node.value
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
    const quoted = !node.inserted && typeof value === 'string' && /^\d{1,15}$/.test(value)
    report.problem(node, `must be ${allowed}, not ${describe(node)}${quoted ? ': remove the quotes' : ''}`)
    return undefined
  })
}

/** A number from `min` to `max`, whole or not, such as a price. */
export function decimal(min: number, max: number): Reader<number> {
  const allowed = `a number from ${min} to ${max}`
  return valueReader(allowed, (node, report) => {
    const value =
      node.inserted && /^\d{1,12}(?:\.\d{1,12})?$/.test(String(node.value)) ? Number(node.value) : node.value
    if (typeof value === 'number' && value >= min && value <= max) return value
    const quoted = !node.inserted && typeof value === 'string' && /^\d{1,12}(?:\.\d{1,12})?$/.test(value)
    report.problem(node, `must be ${allowed}, not ${describe(node)}${quoted ? ': remove the quotes' : ''}`)
    return undefined
  })
}

/** `true` or `false`; YAML 1.2 knows no yes, no, on and off. */
export function flag(): Reader<boolean> {
  return valueReader('true or false', (node, report) => {
    if (typeof node.value === 'boolean') return node.value
    const inserted = node.inserted ? String(node.value).toLowerCase() : ''
    if (inserted === 'true' || inserted === 'false') return inserted === 'true'
    report.problem(node, `must be true or false, not ${describe(node)}`)
    return undefined
  })
}

/** One of a few words. */
export function choice<const T extends string>(words: readonly T[]): Reader<T> {
  const allowed = words.length === 1 ? `${words[0]}` : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`
  return valueReader(allowed, (node, report) => {
    const given = words.find(candidate => candidate === node.value)
    if (given !== undefined) return given
    const word = typeof node.value === 'string' && !node.inserted ? node.value : undefined
    const near = word && (meantValue(word, words) ?? nearest(word, words))
    report.problem(node, `must be ${allowed}, not ${describe(node)}${didYouMean(near)}`)
    return undefined
  })
}

export interface QuantityRange {
  /** Smallest and largest as people write them. */
  readonly min: string
  readonly max: string
  /** Whether zero is allowed below `min`, and what it means. */
  readonly zero?: string
}

/** A duration with its unit, in whole milliseconds. */
export function duration(range: QuantityRange): Reader<number> {
  return quantity('a duration', 's', DURATION_FORM, parseDurationMs, range, Math.round)
}

/** A size with its unit (powers of 1024), in bytes. */
export function size(range: QuantityRange): Reader<number> {
  return quantity('a size', 'MB', SIZE_FORM, parseSizeBytes, range, Math.round)
}

/** A share in percent, as a fraction. */
export function percent(range: QuantityRange): Reader<number> {
  return quantity('a share', '%', PERCENT_FORM, parsePercent, range, value => value)
}

function quantity(
  what: string,
  unit: string,
  form: string,
  parse: (text: string) => number | undefined,
  { min, max, zero }: QuantityRange,
  finish: (value: number) => number,
): Reader<number> {
  const lowest = parse(min)
  const highest = parse(max)
  if (lowest === undefined || highest === undefined) throw new Error(`bounds ${min} and ${max} are no quantities`)
  const allowed = `${what} from ${min} to ${max}${zero === undefined ? '' : ` (or 0${unit}: ${zero})`}, written as ${form}`
  return valueReader(allowed, (node, report) => {
    const value = typeof node.value === 'string' ? parse(node.value) : undefined
    const inRange = value !== undefined && value >= lowest && value <= highest
    if (value !== undefined && (inRange || (value === 0 && zero !== undefined))) return finish(value)
    const unitless = /^\d{1,9}(?:\.\d{1,3})?$/.test(node.inserted ? '' : node.source)
    // 0.2 is meant as a share of one.
    const meant = unit === '%' && Number(node.source) <= 1 ? `${Number(node.source) * 100}` : node.source
    const cure = unitless ? `: the unit is missing, as in ${meant}${unit}` : ''
    report.problem(node, `must be ${allowed}, not ${describe(node)}${cure}`)
    return undefined
  })
}

/** A reader of a single value: refuses mappings and lists, and passes over what failed already. */
export function valueReader<T>(allowed: string, read: (node: ScalarNode, report: Report) => T | undefined): Reader<T> {
  return {
    allowed,
    nested: { kind: 'value' },
    read(node, report) {
      if (node.kind === 'scalar') return read(node, report)
      if (node.kind !== 'broken') report.problem(node, `must be ${allowed}, not ${describe(node)}`)
      return undefined
    },
  }
}

/** What stands there, for "not …": the value if it can be no secret, else only its type. */
export function describe(node: Node, secret = false): string {
  if (node.kind === 'map') return 'a mapping'
  if (node.kind === 'list') return 'a list'
  if (node.kind === 'broken' || node.value === null) return 'nothing'
  if (node.inserted) return 'what ${…} gave (not shown)'
  const type = typeof node.value === 'string' ? 'text' : typeof node.value === 'number' ? 'number' : 'true or false'
  if (secret) return `a ${type === 'true or false' ? 'flag' : type} (not shown)`
  if (typeof node.value === 'boolean') return String(node.value)
  const shown = String(node.value)
  if (!isShowable(shown) || !isShowable(node.source)) return `a ${type} of ${shown.length} characters`
  return typeof node.value === 'string' ? JSON.stringify(shown) : `the number ${node.source}`
}

/** `; did you mean "port"?`, or nothing. */
export function didYouMean(near: string | undefined): string {
  return near === undefined ? '' : `; did you mean "${near}"?`
}

/**
 * A reader's value of a default written in the schema; throws when the default breaks the reader's own rule (a bug).
 */
export function readDefault<T>(reader: Reader<T>, value: string | number | boolean): T {
  const node: Node = { kind: 'scalar', value, source: String(value), inserted: false, line: 1, column: 1, path: '' }
  const result = reader.read(node, createReport('defaults'))
  if (result === undefined) throw new Error(`the default ${value} is not ${reader.allowed}`)
  return result
}
