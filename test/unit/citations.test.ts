// Comments that send a reader somewhere: the section that they name stands there.
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { projectFiles, ROOT } from '../fixtures/sources.ts'

const read = (file: string): string => fs.readFileSync(path.join(ROOT, file), 'utf8')

const FACTS = 'lib/azure/README.md'
const MAP = 'lib/README.md'

/** Headings of a page, without their marks. */
function headings(file: string): readonly string[] {
  return read(file)
    .split('\n')
    .filter(line => line.startsWith('#'))
    .map(line => line.replace(/^#+ /, ''))
}

const citing = projectFiles().filter(
  file => /^(lib|test|deploy|bin)\/.*\.(ts|js|mjs|md|yaml|yml)$/.test(file) && file !== 'test/unit/citations.test.ts',
)

t.test('every cited section of the facts about Azure stands there, once', t => {
  const numbers = headings(FACTS).flatMap(heading => /^(\d+(?:\.\d+)?)\.? /.exec(heading)?.[1] ?? [])
  t.equal(new Set(numbers).size, numbers.length)
  t.ok(numbers.length > 40, 'the page could be read')
  let cited = 0
  for (const file of citing) {
    for (const [whole, list = ''] of read(file).matchAll(
      /azure\/README\.md,? ?(?:sections? )?(\d+(?:\.\d+)?(?:(?:,? and |, | to )\d+(?:\.\d+)?)*)/g,
    )) {
      for (const number of list.split(/,? and |, | to /)) {
        cited++
        if (!numbers.includes(number)) t.fail(`${file} cites ${whole}`)
      }
    }
  }
  t.ok(cited > 40, `${cited} citations`)
  t.end()
})

t.test('every cited section of the source map stands there', t => {
  const known = headings(MAP)
  const anchors = known.map(heading =>
    heading
      .toLowerCase()
      .replaceAll(/[^a-z0-9 -]/g, '')
      .replaceAll(' ', '-'),
  )
  let cited = 0
  for (const file of citing) {
    for (const [, section = ''] of read(file).matchAll(/lib\/README\.md,? (?:section )?\(?"([^"]+)"/g)) {
      cited++
      if (!known.includes(section)) t.fail(`${file} cites "${section}" of ${MAP}`)
    }
    for (const [, anchor = ''] of read(file).matchAll(/lib\/README\.md\]\([^)]*README\.md#([\w-]+)\)/g)) {
      cited++
      if (!anchors.includes(anchor)) t.fail(`${file} links to #${anchor} of ${MAP}`)
    }
  }
  t.ok(cited > 0)
  t.end()
})

t.test('nobody is sent to a page that is not in this repository', t => {
  const elsewhere = new RegExp(['wire', ' reference|contract, ', 'section'].join(''))
  t.same(
    citing.filter(file => elsewhere.test(read(file))),
    [],
  )
  t.end()
})
