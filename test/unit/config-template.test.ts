// config.template.yaml: what a newcomer copies is valid, and tells of every option what the program does.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { isMap, isScalar, isSeq, parseDocument } from 'yaml'
import { configOptions, formatProblem, parseConfig } from '../../lib/config/load.ts'
import { makeCertificate } from '../fixtures/certificate.ts'

const TEMPLATE = 'config.template.yaml'
const asItStands = readFileSync(TEMPLATE, 'utf8')
// As it is once its first line is edited.
const text = asItStands.replace('"change-me"', '"a-key-of-my-own"')
// "#option" is an option in waiting, "# text" is prose.
const everythingOn = text.replaceAll(/^( *)#(?=[a-z_0-9]+:|- )/gm, '$1')

const { cert, key } = makeCertificate('template')
const pem = `${cert}\n${key}`

function parse(source: string) {
  const result = parseConfig(source, { file: TEMPLATE, env: {}, readSecretFile: () => pem })
  if (result.kind === 'invalid') for (const problem of result.problems) t.comment(formatProblem(problem))
  return result
}

// Every option path of a YAML text (`models.NAME.backends[].weight`) with the texts it is given.
function optionsIn(source: string): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>()
  const visit = (node: unknown, path: string) => {
    if (isSeq(node)) for (const item of node.items) visit(item, `${path}[]`)
    if (!isMap(node)) return
    for (const pair of node.items) {
      const name = path === 'models' ? 'NAME' : String(pair.key)
      const here = path === '' ? name : `${path}.${name}`
      const value = isScalar(pair.value) ? String(pair.value.source) : ''
      found.set(here, [...(found.get(here) ?? []), value])
      // The names of headers are free.
      if (name !== 'headers') visit(pair.value, here)
    }
  }
  visit(parseDocument(source).contents, '')
  return found
}

t.test('the template is refused as it stands, for its one key that everybody knows', async t => {
  const result = parseConfig(asItStands, { file: TEMPLATE, env: {}, readSecretFile: () => pem })
  t.match(result.kind === 'invalid' && result.problems, [{ path: 'auth.keys[0].key', message: /--new-key/ }])
  t.equal(result.kind === 'invalid' && result.problems.length, 1)
})

t.test('the template is a valid config once the key is edited, with an empty environment', async t => {
  const result = parse(text)
  t.equal(result.kind, 'ok')
  t.match(
    result.kind === 'ok' && result.warnings.map(({ message }) => message),
    [/placeholder/, /placeholder/],
    'the two lines that are left to edit',
  )
})

t.test('four lines are marked for a newcomer to edit, and they are all that is set', async t => {
  t.equal(text.match(/<== EDIT$/gm)?.length, 4)
  t.same(
    [...optionsIn(text).keys()].filter(
      path => !/^(auth|models|auth\.keys|models\.NAME|models\.NAME\.backends)$/.test(path),
    ),
    ['auth.keys[].name', 'auth.keys[].key', 'models.NAME.backends[].endpoint', 'models.NAME.backends[].api_key'],
  )
})

t.test('the template with every commented option switched on is a valid config, too', async t => {
  t.equal(parse(everythingOn).kind, 'ok')
})

t.test('every option of the schema is in the template, and nothing else', async t => {
  const inSchema = configOptions().map(option => option.path)
  t.same([...optionsIn(everythingOn).keys()].filter(path => path !== 'models.NAME').sort(), [...inSchema].sort())
})

t.test('the template shows each option with its default', async t => {
  const shown = optionsIn(everythingOn)
  for (const option of configOptions()) {
    // Defaults in words ("the model's name") are examples in the template.
    if (option.default === undefined || option.default.includes(' ')) continue
    t.ok(shown.get(option.path)?.includes(option.default), `${option.path}: ${option.default}`)
  }
})

t.test('the switched-on defaults give the same config as leaving them out', async t => {
  const sparse = parse(text)
  const full = parse(everythingOn)
  if (sparse.kind !== 'ok' || full.kind !== 'ok') throw new Error('both must load')
  t.same(full.config.retry, sparse.config.retry)
  t.same(full.config.healthCheck, sparse.config.healthCheck)
  t.same(full.config.metrics, sparse.config.metrics)
  t.same(
    {
      ...full.config.server,
      tls: undefined,
      host: undefined,
      maxConnections: undefined,
      trustedProxies: undefined,
      corsOrigins: [],
      extraOperations: [],
    },
    sparse.config.server,
  )
  t.same({ ...full.config.logging, file: undefined }, sparse.config.logging)
  t.match(full.config.models[0], { timeoutMs: 120_000, firstOutputTimeoutMs: 120_000, balance: 'round_robin' })
})

t.test('every option is explained by prose above it', async t => {
  const lines = text.split('\n')
  const isOption = (line: string) => /^ *#?(?:- )?[a-z_0-9]+:/.test(line)
  const unexplained = lines.filter((line, index) => {
    if (!/^ *#[a-z_0-9]+:/.test(line)) return false
    let above = index - 1
    while (isOption(lines[above] ?? '')) above--
    return !/^ *# /.test(lines[above] ?? '')
  })
  t.same(unexplained, [])
})

t.test('no line of the template is longer than 125 characters', async t => {
  t.notOk(text.split('\n').some(line => line.length > 125))
})
