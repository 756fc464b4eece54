// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// YAML text to a tree of plain nodes that know their places, with `${…}` filled in and aliases followed. Knows no
// option.
import {
  type Alias,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml'
import { type InterpolationSources, interpolate } from './interpolate.ts'
import { isShowable, type Place, pathTo, type Report } from './problems.ts'
import { placeAt, reportSyntax, SYNTAX_MESSAGE } from './syntax.ts'

export interface ScalarNode extends Place {
  readonly kind: 'scalar'
  readonly value: string | number | boolean | null
  /** As written, for messages. */
  readonly source: string
  /**
   * Whether something came from the environment or a file: such a text is re-read as a number where one is wanted, and
   * never shown.
   */
  readonly inserted: boolean
}

export interface Entry {
  readonly key: Place
  readonly value: Node
}

export interface MapNode extends Place {
  readonly kind: 'map'
  readonly entries: ReadonlyMap<string, Entry>
}

export interface ListNode extends Place {
  readonly kind: 'list'
  readonly items: readonly Node[]
}

/** Stands where a value could not be read; the problem is already reported. */
export interface BrokenNode extends Place {
  readonly kind: 'broken'
}

export type Node = ScalarNode | MapNode | ListNode | BrokenNode

/** The tree, or undefined when the text is no usable YAML (reported). `files`: those that `${file:…}` names. */
export interface DocumentResult {
  readonly root: Node | undefined
  readonly files: readonly string[]
}

/**
 * Largest config in characters: far above any real one, and what a YAML parser works through in well under a second.
 */
export const CONFIG_MAX_CHARS = 1_000_000

// Levels; the deepest option stands at 6.
const DEPTH_MAX = 20
// Values in the finished tree, aliases followed: ends "billion laughs" long before memory does.
const NODES_MAX = 100_000
// Values that aliases repeat; a real config shares some lists of backends. Nine lists of nine aliases, eight deep, are
// 43 million.
const ALIASED_MAX = 20_000

const MERGE_MESSAGE = 'merge keys (<<) are not supported: repeat the options, or use an alias (*) for a whole value'
/**
 * Reads YAML 1.2 (core schema) into nodes. Reports syntax faults, duplicate keys, merge keys, unknown tags, other YAML
 * versions, runaway aliases and failed `${…}`, each with its place. Never throws.
 */
export function readDocument(text: string, sources: InterpolationSources, report: Report): DocumentResult {
  // The mark that Windows editors put first is no part of the text; left in, it would shift the columns of line 1.
  const source = text.startsWith('\uFEFF') ? text.slice(1) : text
  const start: Place = { line: 1, column: 1, path: '' }
  if (source.length > CONFIG_MAX_CHARS) {
    report.problem(start, `the file is longer than ${CONFIG_MAX_CHARS} characters`)
    return { root: undefined, files: [] }
  }
  const lines = new LineCounter()
  const document = parseSafely(source, lines)
  if (document === undefined) {
    report.problem(start, SYNTAX_MESSAGE)
    return { root: undefined, files: [] }
  }
  if (reportSyntax(document, source, lines, report)) return { root: undefined, files: [] }
  const builder = new TreeBuilder(lines, sources, report)
  const root = builder.toNode(document.contents, start, 0)
  return { root, files: [...builder.files] }
}

function parseSafely(source: string, lines: LineCounter): Document.Parsed | undefined {
  try {
    return parseDocument(source, {
      lineCounter: lines,
      prettyErrors: false,
      logLevel: 'error',
      version: '1.2',
      stringKeys: true,
      resolveKnownTags: false,
      // The package compares each key with each other (5,000 keys: 5.6 s); the tree builder finds duplicates by a map.
      uniqueKeys: false,
    })
  } catch {
    // No such text is known; but a parser's bug must be a message here, not the end of a running proxy at reload.
    return undefined
  }
}

/** Turns the parser's nodes into ours: aliases followed within bounds, `${…}` put in, duplicate keys found. */
class TreeBuilder {
  readonly files = new Set<string>()
  private readonly lines: LineCounter
  private readonly sources: InterpolationSources
  private readonly report: Report
  private readonly anchors = new Map<string, unknown>()
  // An alias means the anchor before it, also when the part holding it is repeated after the anchor was set anew.
  private readonly aliases = new Map<Alias, unknown>()
  private readonly open = new Set<unknown>()
  private count = 0
  private aliased = 0
  /** Aliases being followed at the moment. */
  private following = 0

  constructor(lines: LineCounter, sources: InterpolationSources, report: Report) {
    this.lines = lines
    this.sources = sources
    this.report = report
  }

  // `around`: the place to name when the node has none of its own (nothing after a colon), and the path in any case.
  toNode(node: unknown, around: Place, depth: number): Node {
    this.count++
    if (this.following > 0 && ++this.aliased === ALIASED_MAX) {
      this.count = NODES_MAX
      return this.broken(around, `aliases (*) repeat more than ${ALIASED_MAX} values`)
    }
    if (this.count === NODES_MAX) return this.broken(around, `more than ${NODES_MAX} values, aliases followed`)
    if (this.count > NODES_MAX) return { ...around, kind: 'broken' }
    if (depth > DEPTH_MAX) return this.broken(around, 'nested too deeply')
    if (isAlias(node)) return this.follow(node, around, depth)
    if (!isScalar(node) && !isMap(node) && !isSeq(node)) return nothing(around)
    if (node.anchor !== undefined) this.anchors.set(node.anchor, node)
    const place = { ...this.placeOf(node.range), path: around.path }
    if (isScalar(node)) {
      const source = node.source ?? ''
      return node.value === null && source === '' ? nothing(around) : this.toScalar(node.value, source, place)
    }
    if (this.open.has(node)) return this.broken(around, 'this alias (*) stands inside its own anchor (&)')
    this.open.add(node)
    const result = isMap(node) ? this.toMap(node, place, depth) : this.toList(node, place, depth)
    this.open.delete(node)
    return result
  }

  private follow(alias: Alias, around: Place, depth: number): Node {
    const known = this.aliases.get(alias) ?? this.anchors.get(alias.source)
    const place = { ...this.placeOf(alias.range), path: around.path }
    if (known === undefined) return this.broken(place, 'this alias (*) has no anchor (&) before it')
    this.aliases.set(alias, known)
    this.following++
    const node = this.toNode(known, place, depth + 1)
    this.following--
    return node
  }

  private toScalar(value: unknown, source: string, place: Place): Node {
    if (typeof value === 'number' || typeof value === 'boolean' || value === null) {
      return { ...place, kind: 'scalar', value, source, inserted: false }
    }
    if (typeof value !== 'string') return this.broken(place, 'a value of this kind is not supported')
    const result = interpolate(value, this.sources)
    for (const file of result.files) this.files.add(file)
    if (result.kind === 'ok') return { ...place, kind: 'scalar', value: result.text, source, inserted: result.inserted }
    return this.broken(place, result.messages.join('; '))
  }

  private toMap(map: YAMLMap<unknown, unknown>, place: Place, depth: number): Node {
    const entries = new Map<string, Entry>()
    for (const pair of map.items) {
      if (!isScalar(pair.key) || typeof pair.key.value !== 'string') {
        this.report.problem(place, 'a key must be a plain text')
        continue
      }
      const name = pair.key.value
      const key = { ...this.placeOf(pair.key.range), path: pathTo(place.path, name) }
      const first = entries.get(name)
      if (name === '<<' && pair.key.type === 'PLAIN') this.report.problem({ ...key, path: place.path }, MERGE_MESSAGE)
      else if (first === undefined) entries.set(name, { key, value: this.toNode(pair.value, key, depth + 1) })
      else {
        const message = `this key already stands on line ${first.key.line}: remove one of them`
        this.report.problem(isShowable(name) ? key : { ...key, path: place.path }, message)
      }
    }
    return { ...place, kind: 'map', entries }
  }

  private toList(list: YAMLSeq<unknown>, place: Place, depth: number): Node {
    const items = list.items.map((item, index) =>
      this.toNode(item, { ...place, path: `${place.path}[${index}]` }, depth + 1),
    )
    return { ...place, kind: 'list', items }
  }

  private broken(place: Place, message: string): Node {
    this.report.problem(place, message)
    return { ...place, kind: 'broken' }
  }

  private placeOf(range: readonly number[] | null | undefined): Place {
    return placeAt(this.lines, range?.[0] ?? 0)
  }
}

function nothing(place: Place): Node {
  return { ...place, kind: 'scalar', value: null, source: '', inserted: false }
}
