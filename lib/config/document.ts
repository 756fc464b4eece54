// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// YAML text to a tree of plain nodes that know their places, with `${…}` filled in and aliases followed. Knows no
// option. The messages are our own: those of the yaml package quote the source, and the source holds keys.
import {
  type Alias,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml'
import { type InterpolationSources, interpolate } from './interpolate.ts'
import { isShowable, type Place, pathTo, type Report } from './problems.ts'

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

const SYNTAX_MESSAGES: ReadonlyMap<string, string> = new Map([
  ['BAD_ALIAS', 'this alias (*) is not usable: its anchor (&) must stand before it'],
  ['BAD_DIRECTIVE', 'this directive (%) is not supported: remove the line'],
  ['BAD_DQ_ESCAPE', 'a backslash in "double quotes" begins an escape that does not exist: use \'single quotes\''],
  ['BAD_INDENT', 'the indentation does not fit the lines around it, or a closing bracket is missing'],
  ['BAD_SCALAR_START', 'a value cannot begin with this character: put it in quotes'],
  ['BLOCK_AS_IMPLICIT_KEY', 'a second ": " in one line: put the value in quotes, or begin a new line'],
  ['DUPLICATE_KEY', 'this key stands twice in one mapping'],
  ['KEY_OVER_1024_CHARS', 'a key cannot be longer than 1024 characters'],
  [
    'MISSING_CHAR',
    'something is missing here: often a blank of the indentation (lines of one block begin in one column), the blank after ":" or "-", a comma or a bracket',
  ],
  ['MULTILINE_IMPLICIT_KEY', 'a key and its ":" must stand in one line, with a blank after the ":"'],
  ['MULTIPLE_DOCS', 'a second YAML document begins here ("---"): a config is one document'],
  ['NON_STRING_KEY', 'a key must be a plain text'],
  ['RESOURCE_EXHAUSTION', 'nested too deeply'],
  ['TAB_AS_INDENT', 'a tab cannot indent YAML: use spaces'],
  ['TAG_RESOLVE_FAILED', 'tags (!name) are not supported; an environment variable is written ${NAME}'],
])
const SYNTAX_MESSAGE =
  'not valid YAML here: often a missing quote, a wrong indentation or a special character that needs quotes'
const MERGE_MESSAGE = 'merge keys (<<) are not supported: repeat the options, or use an alias (*) for a whole value'
const QUOTE_MESSAGE = 'a quote is opened and never closed'

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

// One a line: what follows the first is mostly its consequence.
function reportSyntax(document: Document.Parsed, source: string, lines: LineCounter, report: Report): boolean {
  const version = /^%YAML[ \t]+(?!1\.2(?:[ \t\r\n]|$))/m.exec(source)
  if (document.directives.yaml.explicit === true && version !== null) {
    report.problem(placeAt(lines, version.index), 'only YAML 1.2 is read: remove the %YAML line')
    return true
  }
  const faults = [...document.errors, ...document.warnings].sort((a, b) => a.pos[0] - b.pos[0])
  let lastLine = 0
  for (const fault of faults) {
    const unclosed = fault.code === 'MISSING_CHAR' && fault.message.includes('quote')
    const offset = unclosed ? openingQuote(document, fault.pos[0]) : fault.pos[0]
    const place = placeAt(lines, Math.min(offset, source.length))
    if (place.line === lastLine) continue
    lastLine = place.line
    report.problem(place, unclosed ? QUOTE_MESSAGE : (SYNTAX_MESSAGES.get(fault.code) ?? SYNTAX_MESSAGE))
  }
  return faults.length > 0
}

// A missing quote is noticed at the end of the file; what the reader looks for is where it was opened.
function openingQuote(document: Document.Parsed, end: number): number {
  let opening = end
  visit(document, {
    Scalar(_key, node) {
      const [start, valueEnd] = node.range ?? [end, end]
      if (node.type?.startsWith('QUOTE') && start < opening && valueEnd >= end) opening = start
    },
  })
  return opening
}

function placeAt(lines: LineCounter, offset: number): Place {
  const { line, col } = lines.linePos(offset)
  return { line: Math.max(line, 1), column: Math.max(col, 1), path: '' }
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
