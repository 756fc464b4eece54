// The README in two languages, and its form: what one says first, the other says too.
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { ROOT } from '../fixtures/sources.ts'

const read = (file: string): string => fs.readFileSync(path.join(ROOT, file), 'utf8')
const english = read('README.md')
const chinese = read('README.zh-CN.md')

const headings = (text: string): readonly string[] => [...text.matchAll(/^## (.+)$/gm)].map(([, name]) => name ?? '')
const codeBlocks = (text: string): readonly string[] => text.match(/^```[\s\S]*?^```$/gm) ?? []

const PAGES = [
  'README.md',
  'README.zh-CN.md',
  'deploy/README.md',
  'deploy/reference.md',
  'deploy/clients.md',
  'deploy/network.md',
  'deploy/operate.md',
  'deploy/migrate.md',
  'lib/README.md',
  'test/README.md',
]

/** The headings that both have, in order; reference tables stand in English alone. */
const SHARED: readonly (readonly [string, string])[] = [
  ['Your own resources', '接入你自己的资源'],
  ['Install', '安装'],
  ['More', '更多'],
]

t.test('the Chinese README has the headings of the first screens, in the same order', async t => {
  t.same(
    headings(chinese),
    SHARED.map(([, name]) => name),
  )
  t.same(
    headings(english).slice(0, SHARED.length),
    SHARED.map(([name]) => name),
  )
})

t.test('both show the same commands, the same config and the same client code', async t => {
  const upToMore = english.slice(0, english.indexOf(`## ${SHARED.at(-1)?.[0]}`))
  t.ok(codeBlocks(chinese).length >= 5, 'the blocks could be read')
  t.same(codeBlocks(chinese), codeBlocks(upToMore))
})

t.test('both name the same flags, and lead to the same pages', async t => {
  const flags = (text: string): readonly string[] =>
    [...text.matchAll(/^\| (`-.+?) \|/gm)].map(([, cell = '']) => [...cell.matchAll(/`[^`]+`/g)].join(' '))
  t.ok(flags(english).length >= 8, 'the flags could be read')
  t.same(flags(chinese), flags(english))
  const linked = (text: string): readonly string[] =>
    [...new Set([...text.matchAll(/\]\((?!http)([^)#]+)/g)].map(([, file = '']) => file))]
      .filter(file => /^(deploy|lib|test).*md$/.test(file))
      .sort()
  t.same(linked(chinese), linked(english))
})

t.test('the English README stays short: about 270 lines, the rest is reference', async t => {
  t.ok(english.split('\n').length <= 290, `${english.split('\n').length} lines`)
})

t.test('no line but those of tables is wider than 160 columns', async t => {
  for (const file of PAGES) {
    const wide = read(file)
      .split('\n')
      .filter(line => line.length > 160 && !line.startsWith('|'))
    t.same(wide, [], file)
  }
})

t.test('every link of the pages leads to a file of the project or to a heading that is there', async t => {
  const anchorOf = (heading: string): string =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} -]/gu, '')
      .replaceAll(' ', '-')
  const anchors = (text: string): ReadonlySet<string> =>
    new Set([
      ...[...text.matchAll(/^#+ (.+)$/gm)].map(([, name]) => anchorOf(name ?? '')),
      ...[...text.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id ?? ''),
    ])
  for (const page of PAGES) {
    for (const [, target = ''] of read(page).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue
      const [file = '', anchor] = target.split('#')
      const goal = file === '' ? page : path.posix.join(path.posix.dirname(page), file)
      if (!fs.existsSync(path.join(ROOT, goal))) t.fail(`${page}: ${target} names no file`)
      else if (anchor !== undefined && !anchors(read(goal)).has(anchor)) t.fail(`${page}: ${target} names no heading`)
    }
    t.pass(page)
  }
})
