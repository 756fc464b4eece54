// Finds the line whose indentation fits none of the blocks around it. A YAML parser names the place where it could not
// go on, which is often another line. Pure; a guess that is made only for text that is no YAML.

/** A line that stands in a column of its own. Lines and columns are counted from 1. */
export interface Misfit {
  readonly line: number
  readonly column: number
  /** Columns in which a line of a block around it would begin; the nearest first. */
  readonly fitting: readonly number[]
}

interface Block {
  /** Blanks before its lines. */
  readonly indent: number
  readonly isList: boolean
}

/** What a line without its comment and its quoted texts looks like: enough to tell what it opens. */
function bare(line: string): string {
  return line
    .replaceAll(/"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'/g, 'q')
    .replace(/(?:^|\s)#.*$/, '')
    .trimEnd()
}

function brackets(text: string): number {
  return (text.match(/[[{]/g)?.length ?? 0) - (text.match(/[\]}]/g)?.length ?? 0)
}

/** Takes a line into the blocks; false: it fits none of them. */
function take(blocks: Block[], indent: number, isList: boolean, mayOpen: boolean): boolean {
  while (blocks.length > 0 && (blocks.at(-1)?.indent ?? 0) > indent) blocks.pop()
  // A list may stand in the column of its own key.
  if (!isList && blocks.at(-1)?.isList === true && blocks.at(-1)?.indent === indent) blocks.pop()
  const top = blocks.at(-1)
  if (top !== undefined && top.indent === indent && top.isList === isList) return true
  const opens = mayOpen && (top === undefined || top.indent < indent || (isList && top.indent === indent))
  if (opens) blocks.push({ indent, isList })
  return opens
}

/** The first line that fits no block around it; undefined where all do, as far as that can be told. */
export function misfitIn(text: string): Misfit | undefined {
  const blocks: Block[] = []
  let mayOpen = true
  let open = 0
  let scalarIndent: number | undefined
  for (const [at, line] of text.split(/\r?\n/).entries()) {
    const content = bare(line)
    const indent = line.length - line.trimStart().length
    if (content.trim() === '') continue
    if (scalarIndent !== undefined && indent > scalarIndent) continue
    scalarIndent = undefined
    if (open > 0) {
      open = Math.max(0, open + brackets(content))
      continue
    }
    if (/^(?:---|\.\.\.|%)/.test(content)) continue
    let rest = content.trim()
    let column = indent
    const before = [...blocks]
    for (let dash = /^-(?:\s+|$)/.exec(rest); dash !== null; dash = /^-(?:\s+|$)/.exec(rest)) {
      if (!take(blocks, column, true, mayOpen)) return misfit(at, indent, true, before)
      column += dash[0].length
      rest = rest.slice(dash[0].length)
      mayOpen = true
    }
    if (rest !== '' && /^[^[{&*!|>]*?:(?:\s|$)/.test(rest) && !take(blocks, column, false, mayOpen)) {
      return misfit(at, indent, false, before)
    }
    // Its blank or its colon is missing: that is another fault.
    if (/^[\w-]+(?::[^\s/]|\s+[^\s:]+$)/.test(rest)) return undefined
    mayOpen = rest === '' || /:$/.test(rest) || /:\s+[&!]\S+$/.test(rest)
    if (/[|>][-+0-9]*$/.test(rest)) scalarIndent = indent
    open = Math.max(0, brackets(rest))
  }
  return undefined
}

/** Only lines of its own kind tell where it belongs: those that begin with a dash, or the others. */
function misfit(at: number, indent: number, isList: boolean, blocks: readonly Block[]): Misfit {
  const columns = blocks.filter(block => block.isList === isList && block.indent !== indent).map(block => block.indent)
  const nearest = [...new Set(columns)].sort((a, b) => Math.abs(a - indent) - Math.abs(b - indent)).slice(0, 2)
  return { line: at + 1, column: indent + 1, fitting: nearest.map(each => each + 1) }
}

/** `this line begins in column 8, the lines around it in column 9 (or 7)`, and what to do. */
export function misfitWords({ column, fitting }: Misfit): string {
  const [near, other] = fitting
  const around =
    near === undefined ? '' : `, the lines around it in column ${near}${other === undefined ? '' : ` or ${other}`}`
  return `the indentation does not fit: this line begins in column ${column}${around}; lines of one block begin in one column`
}
