// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// Faults of YAML's syntax in words of our own, each at the line to change. The words of the yaml package quote the
// source, and the source holds keys.
import { type Document, type LineCounter, visit } from 'yaml'
import { misfitIn, misfitWords } from './indentation.ts'
import type { Place, Report } from './problems.ts'

type Fault = Document.Parsed['errors'][number] | Document.Parsed['warnings'][number]

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
export const SYNTAX_MESSAGE =
  'not valid YAML here: often a missing quote or comma, a wrong indentation or a special character that needs quotes'
const QUOTE_MESSAGE = 'a quote is opened and never closed'

/**
 * Reports the faults, one a line: what follows the first is mostly its consequence.
 * @returns whether there is any
 */
export function reportSyntax(document: Document.Parsed, source: string, lines: LineCounter, report: Report): boolean {
  const version = /^%YAML[ \t]+(?!1\.2(?:[ \t\r\n]|$))/m.exec(source)
  if (document.directives.yaml.explicit === true && version !== null) {
    report.problem(placeAt(lines, version.index), 'only YAML 1.2 is read: remove the %YAML line')
    return true
  }
  const faults = [...document.errors, ...document.warnings].sort((a, b) => a.pos[0] - b.pos[0])
  const tabs = faults.filter(({ code }) => code === 'TAB_AS_INDENT')
  const misfit = tabs.length === 0 && faults.some(isAboutIndentation(source)) ? misfitIn(source) : undefined
  if (misfit !== undefined && misfit.line <= lineOf(lines, faults.at(-1)?.pos[1] ?? 0) + 1) {
    // The rest follows from it.
    report.problem({ line: misfit.line, column: misfit.column, path: '' }, misfitWords(misfit))
    return true
  }
  let lastLine = 0
  for (const fault of tabs.length > 0 ? tabs : faults) {
    const unclosed = fault.code === 'MISSING_CHAR' && fault.message.includes('quote')
    const offset = unclosed ? openingQuote(document, fault.pos[0]) : fault.pos[0]
    const place = placeAt(lines, Math.min(offset, source.length))
    if (place.line === lastLine) continue
    lastLine = place.line
    report.problem(place, unclosed ? QUOTE_MESSAGE : messageFor(fault, lineAt(source, place.line)))
  }
  return faults.length > 0
}

function lineAt(source: string, line: number): string {
  return source.split(/\r?\n/, line)[line - 1] ?? ''
}

/** The message of a fault, more exact where its line shows what is missing. */
function messageFor({ code }: Fault, line: string): string {
  if (code === 'MISSING_CHAR' && /^\s*(?:-\s+)*[\w-]+:[^\s/]/.test(line)) return 'the blank after ":" is missing'
  if (code === 'MISSING_CHAR' && /^\s*(?:-\s+)*[\w-]+\s+[^\s:]+$/.test(line)) return 'the ":" after the key is missing'
  return SYNTAX_MESSAGES.get(code) ?? SYNTAX_MESSAGE
}

function lineOf(lines: LineCounter, offset: number): number {
  return placeAt(lines, offset).line
}

const INDENTATION = new Set(['BAD_INDENT', 'MISSING_CHAR', 'UNEXPECTED_TOKEN', 'IMPOSSIBLE', 'MULTILINE_IMPLICIT_KEY'])

/** Whether a fault may come of a wrong indentation; a second ": " may, unless both stand in one line. */
function isAboutIndentation(source: string): (fault: Fault) => boolean {
  return ({ code, message, pos }) => {
    if (code !== 'BLOCK_AS_IMPLICIT_KEY') return INDENTATION.has(code) && !message.includes('quote')
    const lineEnd = source.indexOf('\n', pos[0])
    const line = source.slice(pos[0], lineEnd === -1 ? undefined : lineEnd)
    return !/:(?:\s|$)/.test(line)
  }
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

/** Line and column of an offset in the source. */
export function placeAt(lines: LineCounter, offset: number): Place {
  const { line, col } = lines.linePos(offset)
  return { line: Math.max(line, 1), column: Math.max(col, 1), path: '' }
}
