// The rules of this house, held by reading the sources. A rule that hurts is changed here, for all, or not at all.
import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import ts from 'typescript'
import { placeOf, projectFiles, ROOT, readSources, type Source, walk } from './fixtures/sources.ts'

const lib = readSources('lib')
const tests = readSources('test')
const all = [...lib, ...tests]

/** Nodes of all these files that break a rule, as `file:line`. */
function breaches(sources: readonly Source[], breaks: (node: ts.Node, source: Source) => boolean): readonly string[] {
  const found: string[] = []
  for (const source of sources) {
    walk(source.tree, node => {
      if (breaks(node, source)) found.push(placeOf(source, node))
    })
  }
  return found
}

/** An exception that is no longer needed is struck off the list, or the list would grow for ever. */
function onlyExcepted(t: Test, found: readonly string[], exceptions: readonly string[]): void {
  t.same(
    found.filter(name => !exceptions.includes(name)),
    [],
    'nothing else breaks the rule',
  )
  t.same(
    exceptions.filter(name => !found.includes(name)),
    [],
    'every exception is still needed',
  )
}

t.test('no type is given up: no any, no non-null "!", no suppressed check', t => {
  t.same(
    breaches(all, node => node.kind === ts.SyntaxKind.AnyKeyword),
    [],
  )
  t.same(
    breaches(all, node => ts.isNonNullExpression(node)),
    [],
  )
  const suppressed = all.filter(({ text }) => new RegExp('@ts-(' + 'ignore|nocheck|expect-error)').test(text))
  t.same(
    suppressed.map(({ file }) => file),
    [],
  )
  t.end()
})

t.test('no double cast through unknown', t => {
  const through = breaches(
    lib,
    node =>
      ts.isAsExpression(node) &&
      ts.isAsExpression(node.expression) &&
      node.expression.type.kind === ts.SyntaxKind.UnknownKeyword,
  )
  t.same(through, [])
  t.end()
})

t.test('no enum and no namespace: what is written is what runs, less its types', t => {
  t.same(
    breaches(all, node => ts.isEnumDeclaration(node) || ts.isModuleDeclaration(node)),
    [],
  )
  t.end()
})

t.test('streams are joined by pipeline, which passes errors on, never by .pipe', t => {
  const piped = breaches(
    all,
    node =>
      ts.isCallExpression(node) &&
      ts.isPropertyAccessExpression(node.expression) &&
      node.expression.name.text === 'pipe',
  )
  t.same(piped, [])
  t.end()
})

t.test('no module of lib has state of its own: no let, and no collection that is written later', t => {
  const state: string[] = []
  for (const source of lib) {
    const names = new Set<string>()
    for (const statement of source.tree.statements) {
      if (!ts.isVariableStatement(statement)) continue
      if ((statement.declarationList.flags & ts.NodeFlags.Const) === 0) state.push(placeOf(source, statement))
      for (const { name } of statement.declarationList.declarations) if (ts.isIdentifier(name)) names.add(name.text)
    }
    walk(source.tree, node => {
      if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return
      const { expression, name } = node.expression
      const writes = /^(set|add|delete|clear|push|pop|shift|unshift|splice|sort)$/.test(name.text)
      if (writes && ts.isIdentifier(expression) && names.has(expression.text)) state.push(placeOf(source, node))
    })
  }
  t.same(state, [])
  t.end()
})

t.test('no module of lib exports a default, so a thing has one name everywhere', t => {
  const unnamed = breaches(
    lib,
    node =>
      ts.isExportAssignment(node) ||
      (ts.canHaveModifiers(node) &&
        ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.DefaultKeyword) === true),
  )
  t.same(unnamed, [])
  t.end()
})

t.test('nothing is left for later', t => {
  const marks = new RegExp(['TO', 'DO|FIX', 'ME|XX', 'X\\b|HA', 'CK\\b'].join(''))
  const left = projectFiles()
    .filter(file => /\.(ts|js|md|yaml|yml|json|sh)$|Makefile$/.test(file) && file !== 'package-lock.json')
    .filter(file => marks.test(fs.readFileSync(path.join(ROOT, file), 'utf8')))
  t.same(left, [])
  t.end()
})

t.test('every file begins with a comment that says its duty', t => {
  const silent = all.filter(({ text }) => !/^(#!.*\n)?\/\/ \S.{20}/.test(text))
  t.same(
    silent.map(({ file }) => file),
    [],
  )
  t.end()
})

/** What a reader can hold in mind at once. */
const MAX_LINES = 300
/** And what nobody can. */
const MAX_EXCEPTED_LINES = 600

t.test(`a file of lib has at most ${MAX_LINES} lines, or stands here`, t => {
  const linesOf = ({ text }: Source): number => text.split('\n').length - 1
  const long = lib.filter(source => linesOf(source) > MAX_LINES)
  onlyExcepted(
    t,
    long.map(({ file }) => file),
    [],
  )
  t.same(
    lib.filter(source => linesOf(source) > MAX_EXCEPTED_LINES).map(({ file }) => file),
    [],
  )
  t.end()
})

/** What fits on a screen. */
const MAX_FUNCTION_LINES = 80

t.test(`a function of lib has at most ${MAX_FUNCTION_LINES} lines, or stands here with its reason`, t => {
  const long = new Set<string>()
  for (const source of lib) {
    const lineOf = (at: number): number => source.tree.getLineAndCharacterOfPosition(at).line
    walk(source.tree, node => {
      if (!ts.isFunctionLike(node) || !('body' in node) || node.body === undefined) return
      const lines = lineOf(node.end) - lineOf(node.getStart(source.tree)) + 1
      if (lines > MAX_FUNCTION_LINES)
        long.add(`${source.file} ${node.name?.getText(source.tree) ?? '(without a name)'}`)
    })
  }
  onlyExcepted(t, [...long].sort(), [
    // The scan's state machine: at every byte its fields live in locals.
    'lib/body/json-scan.ts advance',
  ])
  t.end()
})

/** As wide as the code. */
const MAX_COMMENT_COLUMNS = 120

t.test(`a comment is at most ${MAX_COMMENT_COLUMNS} columns wide, and a file's first one names the thing`, t => {
  const wide: string[] = []
  for (const { file, text } of all) {
    for (const [index, line] of text.split('\n').entries()) {
      // Examples of code, indented, stay as they are.
      if (/^ *(\/\/ (?! )|\/?\*)/.test(line) && line.length > MAX_COMMENT_COLUMNS) wide.push(`${file}:${index + 1}`)
    }
  }
  onlyExcepted(t, wide, [])
  const hidden = all.filter(({ text }) => /^\/\/ (What|Which|How|Who|Where|When|Whether)\b/.test(text))
  t.same(
    hidden.map(({ file }) => file),
    [],
  )
  t.end()
})

t.test("no two exports of a folder share a name, and none hides one of TypeScript's own types", t => {
  const own = /^(Pick|Record|Extract|Exclude|Omit|Partial|Required|Readonly|ReturnType|Parameters|Awaited|NonNullable)$/
  const places = new Map<string, Set<string>>()
  const hiding: string[] = []
  for (const { file, tree } of lib) {
    for (const statement of tree.statements) {
      const names = ts.isVariableStatement(statement)
        ? statement.declarationList.declarations.map(({ name }) => name.getText(tree))
        : ts.isFunctionDeclaration(statement) ||
            ts.isClassDeclaration(statement) ||
            ts.isInterfaceDeclaration(statement) ||
            ts.isTypeAliasDeclaration(statement)
          ? [statement.name?.getText(tree) ?? '']
          : []
      for (const name of names) {
        if (own.test(name)) hiding.push(`${file} ${name}`)
        if (!isExported(statement)) continue
        const key = `${path.posix.dirname(file)} ${name}`
        places.set(key, (places.get(key) ?? new Set()).add(file))
      }
    }
  }
  t.same(hiding, [])
  t.same(
    [...places].filter(([, files]) => files.size > 1).map(([key]) => key),
    [],
  )
  t.end()
})

function isExported(node: ts.Node): boolean {
  return (
    ts.canHaveModifiers(node) &&
    ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) === true
  )
}

t.test(
  'every exported function says what it takes and gives; a factory may leave that to the interface it makes',
  t => {
    const silent: string[] = []
    for (const { file, tree } of lib) {
      // The simulator's functions are Azure's own operations and errors, named after them.
      if (file.startsWith('lib/simulator/')) continue
      for (const statement of tree.statements) {
        if (!ts.isFunctionDeclaration(statement) || !isExported(statement)) continue
        if (statement.name?.text.startsWith('create') === true) continue
        if (ts.getJSDocCommentsAndTags(statement).length === 0) silent.push(`${file} ${statement.name?.text ?? ''}`)
      }
    }
    t.same(silent, [])
    t.end()
  },
)

t.test('nothing of one machine or one network is in the project', t => {
  const files = projectFiles().filter(file => !/\.(png|ico|gz)$/.test(file))
  t.ok(files.length > 50, 'the files could be listed')
  const machine = /(?<![\w.~}])\/(?:home|root|work|Users|tmp)\/\w/
  const host = /https?:\/\/[\w.-]*(?:registry|artifactory|nexus|pypi|mirror)[\w.-]*/i
  for (const [what, pattern] of [
    ['a path of one machine', machine],
    ['a package registry', host],
  ] as const) {
    const found = files.filter(file => pattern.test(fs.readFileSync(path.join(ROOT, file), 'utf8')))
    t.same(found, [], `no file names ${what}`)
  }
  const lock: unknown = JSON.parse(fs.readFileSync(path.join(ROOT, 'package-lock.json'), 'utf8'))
  t.notMatch(JSON.stringify(lock), /"resolved":"https?:/, 'the lock file names no host')
  t.end()
})

t.test('the program needs one package, and every version is exact', t => {
  const manifest: Readonly<Record<string, Readonly<Record<string, string>> | undefined>> = JSON.parse(
    fs.readFileSync(path.join(ROOT, 'package.json'), 'utf8'),
  )
  t.same(Object.keys(manifest.dependencies ?? {}), ['yaml'])
  for (const [name, version] of Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })) {
    t.match(version, /^\d+\.\d+\.\d+(-[\w.]+)?$/, name)
  }
  t.end()
})
