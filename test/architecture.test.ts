// Imports between the rooms of lib. The order is read from lib/README.md, so the map cannot say one thing and the code
// another.
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import ts from 'typescript'
import { importsOf, placeOf, ROOT, readSources, walk } from './fixtures/sources.ts'

const sources = readSources('lib')
const imports = sources.map(source => ({ file: source.file, to: importsOf(source) }))

/** Rows of the table in lib/README.md, top first; each names folders (`forward/`) and files (`log.ts`). */
const layers = fs
  .readFileSync(path.join(ROOT, 'lib/README.md'), 'utf8')
  .split('\n')
  .filter(line => line.startsWith('| `'))
  .map(line => [...(line.split('|')[1] ?? '').matchAll(/`([^`]+)`/g)].map(match => `lib/${match[1]}`))

function layerOf(file: string): number {
  return layers.findIndex(layer => layer.some(part => (part.endsWith('/') ? file.startsWith(part) : file === part)))
}

t.test('the source map names every file of lib once', t => {
  t.ok(layers.length > 5, 'the map could be read')
  for (const { file } of sources) t.not(layerOf(file), -1, `${file} is on the map`)
  const names = layers.flat()
  t.equal(new Set(names).size, names.length)
  t.end()
})

t.test('imports point down the source map', t => {
  const up = imports.flatMap(({ file, to }) =>
    to
      .filter(target => target.startsWith('lib/') && layerOf(target) < layerOf(file))
      .map(target => `${file} imports ${target}`),
  )
  t.same(up, [])
  t.end()
})

t.test('no file imports itself over a detour', t => {
  const targets = new Map(imports.map(({ file, to }) => [file, to]))
  const done = new Set<string>()
  const circles: string[] = []
  const follow = (file: string, trail: readonly string[]): void => {
    if (trail.includes(file)) circles.push([...trail.slice(trail.indexOf(file)), file].join(' → '))
    if (done.has(file) || trail.includes(file)) return
    for (const target of targets.get(file) ?? []) follow(target, [...trail, file])
    done.add(file)
  }
  for (const { file } of imports) follow(file, [])
  t.same(circles, [])
  t.end()
})

t.test('every import names a file that is there', t => {
  // A module that the build makes has its declarations among the sources: page.d.ts of page.js.
  const files = new Set(sources.map(({ file }) => file.replace(/\.d\.ts$/, '.js')))
  const lost = imports.flatMap(({ file, to }) =>
    to.filter(target => target.startsWith('lib/') && !files.has(target)).map(target => `${file} imports ${target}`),
  )
  t.same(lost, [])
  t.end()
})

t.test('the simulator knows nothing of the proxy, and only the demo knows the simulator', t => {
  const isSimulator = (file: string): boolean => file.startsWith('lib/simulator/')
  const known = imports.flatMap(({ file, to }) =>
    to
      .filter(target => target.startsWith('lib/') && isSimulator(target) !== isSimulator(file))
      .filter(target => target !== 'lib/clock.ts' || !isSimulator(file))
      .map(target => ({ file, target })),
  )
  t.same([...new Set(known.map(({ file }) => file))], ['lib/commands/demo.ts'])
  t.end()
})

t.test('http1/ knows clock, dense-set and the config types alone, and is entered by send.ts', t => {
  const inside = (file: string): boolean => file.startsWith('lib/http1/')
  const allowed = ['lib/clock.ts', 'lib/dense-set.ts', 'lib/config/types.ts']
  const out = imports
    .filter(({ file }) => inside(file))
    .flatMap(({ file, to }) =>
      to
        .filter(target => target.startsWith('lib/') && !inside(target) && !allowed.includes(target))
        .map(target => `${file} imports ${target}`),
    )
  t.same(out, [])
  const around = imports
    .filter(({ file }) => !inside(file))
    .flatMap(({ file, to }) =>
      to.filter(target => inside(target) && target !== 'lib/http1/send.ts').map(target => `${file} imports ${target}`),
    )
  t.same(around, [])
  t.end()
})

t.test('body/ knows no backend', t => {
  const backends = /^lib\/(azure|balancer|forward|http1|handlers|dashboard|runtime)/
  // Which operation a body belongs to says how it is read; that is no backend.
  const known = imports
    .filter(({ file }) => file.startsWith('lib/body/'))
    .flatMap(({ file, to }) => to.filter(target => backends.test(target)).map(target => `${file} imports ${target}`))
  t.same(
    known.filter(arrow => !arrow.endsWith('imports lib/azure/operations.ts')),
    [],
  )
  t.end()
})

t.test('dashboard/ decides nothing: no room that serves requests imports it', t => {
  const deciding = /^lib\/(handlers|forward|body|balancer|azure|http1|config|runtime)/
  const asked = imports
    .filter(({ file }) => deciding.test(file))
    .flatMap(({ file, to }) =>
      to.filter(target => target.startsWith('lib/dashboard/')).map(target => `${file} imports ${target}`),
    )
  t.same(asked, [])
  t.end()
})

t.test('nothing is imported but files of lib, Node itself and yaml, and yaml by the config alone', t => {
  const foreign = imports.flatMap(({ file, to }) =>
    to
      .filter(target => !target.startsWith('lib/') && !target.startsWith('node:'))
      .filter(target => target !== 'yaml' || !file.startsWith('lib/config/'))
      .map(target => `${file} imports ${target}`),
  )
  t.same(foreign, [])
  t.end()
})

t.test('the process is touched by main and the commands alone', t => {
  const touched: string[] = []
  for (const source of sources) {
    if (source.file === 'lib/main.ts' || source.file.startsWith('lib/commands/')) continue
    if (importsOf(source).includes('node:process')) touched.push(`${source.file} imports node:process`)
    walk(source.tree, node => {
      if (!ts.isIdentifier(node) || node.text !== 'process') return
      const { parent } = node
      // A member of that name (a cluster worker's) is something else.
      if (ts.isPropertyAccessExpression(parent) && parent.name === node) return
      if (ts.isPropertyAssignment(parent) || ts.isPropertySignature(parent)) return
      // nextTick only puts work off; it says and changes nothing of the process.
      if (ts.isPropertyAccessExpression(parent) && parent.name.text === 'nextTick') return
      touched.push(placeOf(source, node))
    })
  }
  t.same(touched, [])
  t.end()
})

t.test('time and chance are arguments: only clock.ts and the commands ask the system', t => {
  const asked: string[] = []
  const systemCalls = new Set(['Date.now', 'performance.now', 'Math.random', 'setInterval'])
  for (const source of sources) {
    if (source.file === 'lib/clock.ts' || source.file.startsWith('lib/commands/')) continue
    walk(source.tree, node => {
      if (ts.isNewExpression(node) && node.expression.getText() === 'Date' && (node.arguments?.length ?? 0) === 0) {
        asked.push(placeOf(source, node))
      }
      if (ts.isCallExpression(node) && systemCalls.has(node.expression.getText())) asked.push(placeOf(source, node))
    })
  }
  t.same(asked, [])
  t.end()
})

t.test('timers that the clock does not set are listed, with their reason', t => {
  const reasons: Readonly<Record<string, string>> = {
    'lib/clock.ts': 'is the clock',
    'lib/log-output.ts': 'the log must come out while the program ends, and no decision depends on it',
  }
  const setting = sources.filter(
    ({ file, text }) => !file.startsWith('lib/commands/') && /(?<![.\w])setTimeout\(/.test(text),
  )
  t.same(
    setting.map(({ file }) => file),
    Object.keys(reasons),
  )
  t.end()
})
