// The live status page as one document: lib/dashboard/page/ pasted and inlined into the module
// dist/lib/dashboard/page.js.
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { transform } from 'esbuild'
import { BuildError } from './errors.ts'

/** In this order: each part uses names of those before it. */
const SCRIPTS = ['main.js', 'state.js', 'summary.js', 'backends.js', 'keys.js', 'lists.js']
/** Where lib/dashboard/routes.ts finds the page, in dist. */
export const PAGE_MODULE = join('dist', 'lib', 'dashboard', 'page.js')

/** Tags of page.html whose DOM class is not `HTML`, the tag's name and `Element`. */
const CLASSES: Readonly<Record<string, string>> = {
  section: 'HTMLElement',
  main: 'HTMLElement',
  p: 'HTMLParagraphElement',
  h1: 'HTMLHeadingElement',
  h2: 'HTMLHeadingElement',
  ul: 'HTMLUListElement',
  ol: 'HTMLOListElement',
  dl: 'HTMLDListElement',
  tbody: 'HTMLTableSectionElement',
  svg: 'SVGSVGElement',
}

function classOf(tag: string): string {
  return CLASSES[tag] ?? `HTML${tag.charAt(0).toUpperCase()}${tag.slice(1)}Element`
}

/**
 * What the compiler cannot see: ids and tags of page.html against page-types.d.ts, words against each other and against
 * their uses.
 * @param read gives a file of the page by its name
 * @returns one sentence a problem
 */
export function pageProblems(read: (name: string) => string): readonly string[] {
  const html = read('page.html')
  const typed = new Map(
    [...read('page-types.d.ts').matchAll(/^ {2}'?([\w-]+)'?: ((?:HTML|SVG)\w*Element)$/gm)].map(
      ([, id = '', type = '']) => [id, type] as const,
    ),
  )
  const there = new Map(
    [...html.matchAll(/<(\w+)\b[^>]*?\sid="([^"]+)"/g)].map(([, tag = '', id = '']) => [id, classOf(tag)] as const),
  )
  const english: Readonly<Record<string, string>> = JSON.parse(read('words.en.json'))
  const chinese: Readonly<Record<string, string>> = JSON.parse(read('words.zh.json'))
  const holes = (text: string): string => [...new Set(text.match(/\{\w+\}/g))].sort().join(' ')
  const named = [
    ...[...html.matchAll(/\sdata-(?:t|title)="([^"]+)"/g)].map(([, name = '']) => name),
    ...SCRIPTS.flatMap(file => [...read(file).matchAll(/\bsay\('([^']+)'/g)].map(([, name = '']) => name)),
  ]
  return [
    ...[...typed].filter(([id, type]) => there.get(id) !== type).map(([id, type]) => `page.html has no ${type} #${id}`),
    ...[...there.keys()].filter(id => !typed.has(id)).map(id => `page-types.d.ts does not know #${id}`),
    ...named.filter(name => !(name in english)).map(name => `words.en.json has no "${name}"`),
    ...Object.keys(english)
      .filter(name => !(name in chinese))
      .map(name => `words.zh.json has no "${name}"`),
    // The English of what to do comes with the data (balancer/advice.ts).
    ...Object.keys(chinese)
      .filter(name => !(name in english) && !name.startsWith('todo_'))
      .map(name => `words.en.json has no "${name}"`),
    ...Object.entries(chinese)
      .filter(([name, text]) => name in english && holes(text) !== holes(english[name] ?? ''))
      .map(([name]) => `words.zh.json: "${name}" fills in other values than in words.en.json`),
  ]
}

/**
 * A CSP source that allows exactly this inline text (CSP level 3, section 2.3.1: base64 of the SHA-256 of its bytes).
 */
function hashSource(text: string): string {
  return `'sha256-${createHash('sha256').update(text).digest('base64')}'`
}

/**
 * Makes the page of its files.
 * @param read gives a file of the page by its name
 * @throws BuildError when the files do not fit each other
 */
export async function makePage(
  read: (name: string) => string,
): Promise<{ readonly html: string; readonly csp: string }> {
  const problems = pageProblems(read)
  if (problems.length > 0) throw new BuildError(`the status page does not fit together:\n  ${problems.join('\n  ')}`)
  const words = `{ en: ${read('words.en.json')}, zh: ${read('words.zh.json')} }`
  const parts = [`const WORDS = ${words}`, ...SCRIPTS.map(read)].join('\n')
  // esbuild drops comments and writes all but ASCII as escapes; `</script` in a string too.
  const { code: script } = await transform(`(() => {\n'use strict'\n${parts}\n})()`, { loader: 'js', target: 'es2022' })
  const { code: style } = await transform(read('page.css'), { loader: 'css' })
  const inline = (tag: string, text: string, html: string): string =>
    html.replace(`<${tag}></${tag}>`, () => `<${tag}>\n${text}</${tag}>`)
  const csp = [
    "default-src 'none'",
    `style-src ${hashSource(`\n${style}`)}`,
    `script-src ${hashSource(`\n${script}`)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')
  return { html: inline('style', style, inline('script', script, read('page.html'))), csp }
}

/** JSON whose every character is ASCII: others would make the whole bundle two bytes a character in memory. */
function asciiJson(text: string): string {
  return JSON.stringify(text).replace(/[^\p{ASCII}]/gu, char =>
    [...Array(char.length).keys()].map(i => `\\u${char.charCodeAt(i).toString(16).padStart(4, '0')}`).join(''),
  )
}

/**
 * Writes the module that lib/dashboard/routes.ts imports.
 * @param root the repository
 * @throws BuildError when the page's files do not fit each other
 */
export async function writePage(root: string): Promise<void> {
  const { html, csp } = await makePage(name => readFileSync(join(root, 'lib', 'dashboard', 'page', name), 'utf8'))
  const file = join(root, PAGE_MODULE)
  mkdirSync(join(file, '..'), { recursive: true })
  writeFileSync(`${file}.new`, `export const html = ${asciiJson(html)}\nexport const csp = ${asciiJson(csp)}\n`)
  renameSync(`${file}.new`, file)
}
