// The live status page's files: a wrong name, argument, element or word fails without a browser.
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { makePage, pageProblems } from '../../deploy/build/page.ts'
import { ADVICE } from '../../lib/balancer/advice.ts'
import { ROOT } from '../fixtures/sources.ts'

const FOLDER = path.join(ROOT, 'lib', 'dashboard', 'page')
const read = (name: string): string => fs.readFileSync(path.join(FOLDER, name), 'utf8')
const { options, fileNames } = ts.parseJsonConfigFileContent(JSON.parse(read('tsconfig.json')), ts.sys, FOLDER)

/** The files with one place changed. @throws Error when the place is not there: the test would show nothing. */
function changed(file: string, from: string, to: string, files = read): (name: string) => string {
  const text = files(file)
  if (!text.includes(from)) throw new Error(`${file} does not hold ${from}`)
  return name => (name === file ? text.replace(from, () => to) : files(name))
}

/** The library's own files, read once: they are most of the work. */
const libraries = new Map<string, ts.SourceFile | undefined>()

/** What `make types` says of the page's files, as `FILE: message`. */
function complaints(given: (name: string) => string = read): readonly string[] {
  const host = ts.createCompilerHost(options)
  const own = (file: string): boolean => path.dirname(path.resolve(file)) === FOLDER.replace(/[\\/]$/, '')
  const { readFile, getSourceFile } = host
  host.readFile = file => (own(file) ? given(path.basename(file)) : readFile(file))
  host.getSourceFile = (file, version, ...rest) => {
    if (own(file)) return ts.createSourceFile(file, given(path.basename(file)), version)
    if (!libraries.has(file)) libraries.set(file, getSourceFile(file, version, ...rest))
    return libraries.get(file)
  }
  return ts
    .getPreEmitDiagnostics(ts.createProgram(fileNames, options, host))
    .map(
      ({ file, messageText }) =>
        `${path.basename(file?.fileName ?? '')}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`,
    )
}

t.test('the page as it is has no fault', async t => {
  t.same(complaints(), [])
  t.same(pageProblems(read), [])
})

t.test('what to do about each reason is said in Chinese too', async t => {
  const chinese: Readonly<Record<string, string>> = JSON.parse(read('words.zh.json'))
  const codes = Object.keys(ADVICE)
  t.same(
    codes.filter(code => chinese[`todo_${code}`] === undefined),
    [],
  )
  t.same(
    Object.keys(chinese).filter(name => /^todo_(?!version$)/.test(name) && !codes.includes(name.slice(5))),
    [],
    'and nothing besides',
  )
})

t.test('a wrong name in a script fails `make types`', async t => {
  // All at once: the compiler says all that is wrong, and each time costs it a second.
  const mistakes = [
    ['a function', 'main.js', 'setText(byId(', 'setTxt(byId(', /Cannot find name 'setTxt'/],
    ['a value', 'main.js', 'say(name, values)', 'say(nam, values)', /Cannot find name 'nam'/],
    ['a function of another file', 'lists.js', 'drawSummary(', 'drawSumary(', /Cannot find name 'drawSumary'/],
    [
      'an argument of another kind',
      'backends.js',
      "say('model_throttled', { count",
      'say(7, { count',
      /type '7' is not/,
    ],
    ['an argument left out', 'summary.js', 'icon(mark, state)', 'icon(mark)', /Expected 2 arguments/],
    ['an element', 'main.js', "byId('link-text')", "byId('lnk-text')", /"lnk-text"/],
    ['a member of an element', 'lists.js', '.showModal()', '.showModel()', /showModel/],
    ['a word', 'backends.js', "say('model_out'", "say('modl_out'", /"modl_out"/],
    ['a field of the stream', 'backends.js', 'row.tokens_per_min', 'row.tokens_a_min', /tokens_a_min/],
  ] as const
  const found = complaints(mistakes.reduce((files, [, file, from, to]) => changed(file, from, to, files), read))
  for (const [what, , , , message] of mistakes) {
    t.match(
      found.find(line => message.test(line)),
      message,
      what,
    )
  }
})

t.test('what the compiler cannot see fails the build', async t => {
  for (const [what, file, from, to, message] of [
    ['an id in the markup', 'page.html', 'id="link-text"', 'id="lnk-text"', /#link-text/],
    ['an element of another kind', 'page.html', '<select id="filter-key">', '<input id="filter-key">', /#filter-key/],
    ['a word in the markup', 'page.html', 'data-t="skip"', 'data-t="skp"', /"skp"/],
    ['a word without its Chinese', 'words.zh.json', '"skip"', '"skp"', /words\.zh\.json has no "skip"/],
    ['a value that the Chinese leaves out', 'words.zh.json', '{age}', 'age', /fills in other values/],
  ] as const) {
    const files = changed(file, from, to)
    t.match(pageProblems(files).join('\n'), message, what)
    await t.rejects(makePage(files), { message }, what)
  }
})
