// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// Spoilt configs: reading one never throws, every problem has a place inside the file, and no secret is in any message.
// FUZZ_SEED and FUZZ_RUNS repeat or extend a run.
import { readFileSync } from 'node:fs'
import t from 'tap'
import { formatProblem, type LoadResult, parseConfig } from '../../lib/config/load.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

const DEFAULT_RUNS = 400
const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 1_000_000_000)
const runs = Number(process.env.FUZZ_RUNS ?? DEFAULT_RUNS)

const template = readFileSync('config.template.yaml', 'utf8').replace('change-me', 'a-key-of-my-own')
// Without its prose, with every option on: a mutation then hits something that is read.
const everythingOn = template
  .replaceAll(/^( *)#(?=[a-z_0-9]+:|- )/gm, '$1')
  .replaceAll(/^ *#.*\n/gm, '')
  .replaceAll(/ #.*$/gm, '')

const random = seededRandom(seed)
const below = (limit: number) => Math.floor(random() * limit)
const pick = <T>(items: readonly [T, ...T[]]): T => items[below(items.length)] ?? items[0]

// biome-ignore format: one word after the other
const SNIPPETS = [
  ':', ': ', '- ', '\t', '\n', '\r\n', ' ', '"', "'", '{', '}', '[', ']', ',', '&a ', '*a', '!x ', '!!binary ', '|\n', '>-\n', '#', '%YAML 1.1\n',
  '---\n', '...\n', '? ', '<<: ', '${', '${X}', '${X:-y}', '${file:z}', '$${', '\u0000', '\uFEFF', '\u2028', '"\\ud800"', '\\', '@', '`', '~', 'null',
  'true', '.nan', '-.inf', '1e999', '0x1F', '99999999999999999999', '__proto__: ', 'constructor: ', 'name: ', 'key: ', 'models: ', '=', '模型', '🙂',
] as const

type Edit = (text: string) => string

const edits: readonly [Edit, ...Edit[]] = [
  // A snippet goes in, a stretch goes out, a line is repeated, moved, dedented, or loses its end.
  text => splice(text, below(text.length + 1), 0, pick(SNIPPETS)),
  text => splice(text, below(text.length + 1), 0, pick(SNIPPETS)),
  text => splice(text, below(text.length + 1), below(12), ''),
  text => onLine(text, (lines, at) => lines.splice(below(lines.length), 0, lines[at] ?? '')),
  text => onLine(text, (lines, at) => lines.splice(at, 1)),
  text => onLine(text, (lines, at) => lines.splice(at, 1, ' '.repeat(below(10)) + (lines[at] ?? '').trimStart())),
  text => onLine(text, (lines, at) => lines.splice(at, 1, (lines[at] ?? '').replace(/:.*$/, `: ${pick(SNIPPETS)}`))),
  text => onLine(text, (lines, at) => lines.splice(at, 2, `${lines[at]}${lines[at + 1] ?? ''}`)),
  text => text.slice(0, below(text.length)),
]

function splice(text: string, at: number, count: number, insert: string): string {
  return text.slice(0, at) + insert + text.slice(at + count)
}

function onLine(text: string, edit: (lines: string[], at: number) => void): string {
  const lines = text.split('\n')
  edit(lines, below(lines.length))
  return lines.join('\n')
}

function mutate(text: string, times: number): string {
  let result = text
  for (let round = 0; round < times; round++) result = pick(edits)(result)
  return result
}

const SECRET_ALPHABET = 'ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789'

function makeSecret(): string {
  const length = 16 + below(32)
  return `sk-${Array.from({ length }, () => SECRET_ALPHABET[below(SECRET_ALPHABET.length)]).join('')}`
}

function parse(text: string, env: Readonly<Record<string, string>>): LoadResult {
  const readSecretFile = (path: string) => {
    if (path.length % 2 === 0) throw new Error(`${env.X} is in the reader's own message`)
    return env.X ?? ''
  }
  return parseConfig(text, { file: 'config.yaml', env, readSecretFile })
}

function messagesOf(result: LoadResult): string {
  const problems = result.kind === 'ok' ? result.warnings : result.problems
  return problems.map(formatProblem).join('\n')
}

// FUZZ_RUNS says how long this takes.
t.setTimeout(0)
t.comment(`FUZZ_SEED=${seed} FUZZ_RUNS=${runs}`)

t.test('a spoilt config gives a config or problems with a place in the file, and never throws', async t => {
  let refused = 0
  for (let run = 0; run < runs; run++) {
    const text = mutate(pick([everythingOn, template, everythingOn]), 1 + below(6))
    const result = parse(text, { X: 'x' })
    if (result.kind === 'ok') continue
    refused++
    const lines = text.split('\n').length
    const misplaced = result.problems.filter(({ line, column }) => line < 1 || line > lines || column < 1)
    if (result.problems.length === 0 || misplaced.length > 0) t.fail('a problem without a place', { seed, run, text })
    const order = result.problems.map(({ line, column }) => line * 1e6 + column)
    if (order.some((at, index) => at < (order[index - 1] ?? 0))) t.fail('not in order', { seed, run, text })
  }
  t.ok(refused > runs / 4, `${refused} of ${runs} were refused`)
})

t.test('nonsense that was never a config does not throw either', async t => {
  for (let run = 0; run < runs; run++) {
    const text = Array.from({ length: below(60) }, () => pick(SNIPPETS)).join('')
    if (parse(text, { X: 'x' }).kind !== 'invalid') t.fail('accepted', { seed, run, text })
  }
  t.pass(`${runs} texts of nonsense were refused`)
})

t.test('a secret planted anywhere as a value, in a config spoilt elsewhere, is in no message', async t => {
  for (let run = 0; run < runs; run++) {
    const secret = makeSecret()
    const form = pick([
      secret,
      `"${secret}"`,
      `'${secret}'`,
      `{a: ${secret}}`,
      `[${secret}]`,
      '${X}',
      '"a ${X}"',
      `${secret}: 1`,
      `https://a:${secret}@b/`,
    ])
    const planted = onLine(everythingOn, (lines, at) => {
      const line = lines[at] ?? ''
      // As the value of an option, after a colon whose blank was forgotten, or as one more option.
      const added = [
        line.replace(/:.*$/, `: ${form}`),
        line.replace(/:.*$/, `:${form}`),
        `${line}\n${/^[ -]*/.exec(line)}kee: ${form}`,
      ]
      lines.splice(at, 1, added[below(added.length)] ?? line)
    })
    const spoilt = onLine(planted, (lines, at) => {
      if (!(lines[at] ?? '').includes(secret)) lines.splice(at, 1, mutate(lines[at] ?? '', below(3)))
    })
    const messages = messagesOf(parse(spoilt, { X: secret }))
    if (messages.includes(secret)) t.fail('shown', { seed, run, messages, spoilt })
  }
  t.pass(`${runs} secrets stayed hidden`)
})
