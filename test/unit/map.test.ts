// The source map, lib/README.md, held against the sources: its tree, its answers to "where do I find", its numbered
// steps.
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { ROOT, readSources } from '../fixtures/sources.ts'

const map = fs.readFileSync(path.join(ROOT, 'lib/README.md'), 'utf8')
const sources = new Map(readSources('lib').map(source => [source.file.slice('lib/'.length), source]))

function section(heading: string): string {
  const from = map.indexOf(`## ${heading}\n`)
  if (from === -1) throw new Error(`no section "${heading}"`)
  const to = map.indexOf('\n## ', from + 3)
  return map.slice(from, to === -1 ? undefined : to)
}

/** Names that a file declares at its top level, and of its classes their methods. */
function namesIn(file: string): ReadonlySet<string> {
  const names = new Set<string>()
  for (const statement of sources.get(file)?.tree.statements ?? []) {
    if (ts.isVariableStatement(statement)) {
      for (const { name } of statement.declarationList.declarations) if (ts.isIdentifier(name)) names.add(name.text)
    } else if ('name' in statement && typeof statement.name === 'object' && statement.name !== null) {
      if (ts.isIdentifier(statement.name as ts.Node)) names.add((statement.name as ts.Identifier).text)
    }
  }
  return names
}

t.test('the tree names every file of lib once, with a phrase', async t => {
  const listed: string[] = []
  let folder = ''
  for (const line of section('The tree').split('\n')) {
    const entered = /^ {2}(\w+\/)$/.exec(line)?.[1]
    if (entered !== undefined) folder = entered
    const entry = /^( {2}| {4})(\S+\.ts) +(\S.*)$/.exec(line)
    if (entry === null) continue
    const [, indent = '', name = '', phrase = ''] = entry
    listed.push(indent.length === 2 ? name : folder + name)
    if (phrase.length < 8) t.fail(`${name}: a phrase, not "${phrase}"`)
  }
  t.same(listed.toSorted(), [...sources.keys()].filter(file => !file.endsWith('.d.ts')).toSorted())
  t.equal(new Set(listed).size, listed.length, 'none twice')
})

t.test('every file, function and test that an answer names is there', async t => {
  const rows = section('Where do I find')
    .split('\n')
    .filter(line => line.startsWith('| ') && line.includes('`'))
  t.ok(rows.length >= 25, `${rows.length} questions`)
  for (const row of rows) {
    const [, , answer = '', testedBy = ''] = row.split('|')
    let file = ''
    for (const [, name = ''] of answer.matchAll(/`([^`]+)`/g)) {
      if (name.endsWith('.ts')) {
        file = name
        if (!sources.has(file)) t.fail(`${file} is not there`)
      } else if (!namesIn(file).has(name)) t.fail(`${file} declares no ${name}`)
    }
    const tests = [...testedBy.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name)
    t.ok(tests.length > 0, `somebody tests: ${row.slice(2, 60)}`)
    for (const name of tests) t.ok(fs.existsSync(path.join(ROOT, 'test', name)), `test/${name} is there`)
  }
})

t.test('the numbers of the picture stand in the code that they name', async t => {
  const steps = [...section('The path of one request').matchAll(/ (\d{1,2}) {2}([\w/-]+\.ts)\b/g)]
  t.equal(steps.length, 12)
  for (const [, number, file = ''] of steps) {
    const text = sources.get(file)?.text ?? ''
    t.match(text, new RegExp(`\\bStep ${number}\\b`), `${file} says Step ${number}`)
  }
})
