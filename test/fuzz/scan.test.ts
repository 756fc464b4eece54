// The byte scanners against the slow and obvious: JSON.parse, and a form built from its parts. FUZZ_SEED repeats a run,
// FUZZ_RUNS sets the documents a claim is tried on.
import t from 'tap'
import { sliceBytes } from '../../lib/body/chunk-list.ts'
import { lastMember, setModel } from '../../lib/body/edit.ts'
import { findStringsOfKey } from '../../lib/body/json-key-search.ts'
import { scanJson } from '../../lib/body/json-scan.ts'
import { scanMultipart, setField } from '../../lib/body/multipart-scan.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)
const runs = Number(process.env.FUZZ_RUNS ?? 2000)
t.comment(`FUZZ_SEED=${seed} FUZZ_RUNS=${runs}`)

const wanted = new Set(['model', 'stream', 'mödel'])

const random = seededRandom(seed)
const below = (limit: number): number => Math.floor(random() * limit)
const chance = (share: number): boolean => random() < share
const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T
const times = <T>(limit: number, make: () => T): T[] => Array.from({ length: below(limit) }, make)

/** Cuts anywhere, inside characters, escapes and delimiters too; some pieces are empty. */
function cut(bytes: Buffer): readonly Buffer[] {
  const cuts = times(chance(0.1) ? bytes.length : 8, () => below(bytes.length + 1)).sort((a, b) => a - b)
  return [0, ...cuts].map((from, index) => bytes.subarray(from, cuts[index] ?? bytes.length))
}

const blank = (): string => (chance(0.7) ? '' : times(4, () => pick([' ', '\n', '\t', '\r'])).join(''))
const snippets = [
  ...[
    'a',
    'model',
    '"',
    '\\',
    '\\"',
    '\n',
    '\t',
    'ä',
    '€',
    '😀',
    '\u2028',
    '\ud800',
    '/',
    '{',
    '}',
    '[',
    ']',
    ':',
    ',',
  ],
  ...['"model":"x"', '"k":"no"', 'base64'.repeat(12), 'x'.repeat(15), 'y'.repeat(33), '\u0000', '\u007f'],
]

function stringOf(text: string): string {
  if (chance(0.5)) return JSON.stringify(text)
  const unit = (char: string) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
  const escapes: Readonly<Record<string, string>> = { '/': '\\/', '\n': '\\n', '"': '\\"', '\\': '\\\\' }
  const plain = JSON.stringify(text).slice(1, -1)
  if (chance(0.5)) return `"${plain.replaceAll('/', '\\/')}"`
  return `"${text
    .split('')
    .map(char => (chance(0.5) ? unit(char) : (escapes[char] ?? JSON.stringify(char).slice(1, -1))))
    .join('')}"`
}

const stringJson = (): string => stringOf(times(7, () => pick(snippets)).join(''))
const numberJson = (): string =>
  pick(['0', '-0', '1', '-12', '120', '0.5', '-1.25', '1e5', '2E-3', '3.5e+2', `${below(1e9)}`, `${random()}`])

function valueJson(depth: number): string {
  const kind = below(depth > 4 ? 5 : 8)
  if (kind < 2) return stringJson()
  if (kind < 4) return numberJson()
  if (kind === 4) return pick(['true', 'false', 'null'])
  if (kind < 6) return `[${blank()}${times(4, () => blank() + valueJson(depth + 1) + blank()).join()}]`
  return objectJson(depth + 1)
}

function objectJson(depth: number): string {
  const key = () =>
    stringOf(pick(['model', 'model', 'stream', 'mödel', 'messages', 'Model', 'k', 'k', '', '__proto__', 'a"k']))
  const members = times(6, () => `${blank()}${key()}${blank()}:${blank()}${valueJson(depth)}${blank()}`)
  return `{${members.length === 0 ? blank() : members.join()}}`
}

/** What JSON.parse makes of the text; undefined when it is no JSON object. */
function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined
  } catch {
    return undefined
  }
}

/** Every string member called `key`, at any depth. JSON.parse drops duplicates, hence the reviver. */
function stringsOf(text: string, key: string): readonly string[] {
  const found: string[] = []
  JSON.parse(text, (name, value: unknown) => {
    if (name === key && typeof value === 'string') found.push(value)
    return value
  })
  return found.sort()
}

t.test('a scan of a JSON object agrees with JSON.parse, however the object is cut', async t => {
  for (let run = 0; run < runs; run++) {
    const text = `${blank()}${objectJson(0)}${blank()}`
    const chunks = cut(Buffer.from(text))
    const whole = Buffer.concat(chunks)
    const values = parsed(whole.toString())
    const scan = scanJson(chunks, wanted)
    if (values === undefined || scan.kind !== 'ok') {
      t.fail(`run ${run}: ${JSON.stringify(scan)} for ${text}`)
      return
    }
    for (const name of wanted) {
      const member = lastMember(scan.members, name)
      const raw = member && whole.toString('utf8', member.start, member.end)
      const problem =
        raw === undefined
          ? Object.hasOwn(values, name) && 'not found'
          : JSON.stringify(JSON.parse(raw)) !== JSON.stringify(values[name])
            ? 'another value'
            : member?.kind === 'string' && member.text !== values[name] && 'another text'
      if (problem) {
        t.fail(`run ${run}: ${name}: ${problem} in ${text}`)
        return
      }
    }
    const edited = setModel(chunks, scan, 'a "deployment"')
    const after = Buffer.concat(edited.chunks)
    const expected = { ...values, model: 'a "deployment"' }
    const same = JSON.stringify(sorted(parsed(after.toString()))) === JSON.stringify(sorted(expected))
    if (!same || after.length !== edited.byteLength) {
      t.fail(`run ${run}: ${text} became ${after}`)
      return
    }
  }
  t.pass()
})

function sorted(object: Record<string, unknown> | undefined): readonly (readonly [string, unknown])[] {
  return Object.entries(object ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))
}

// Deliberate differences, kept out of the comparison: unescaped control characters and unknown escapes in strings that
// nobody wants, and a byte order mark.
t.test('a damaged document is refused by the scan when JSON.parse refuses it, and only then', async t => {
  const tokens = ['{', '}', '[', ']', ',', ':', '"', '1', '-', '.', 'e', 'true', 'nul', ' ', '0', 'x', '""', '"a":1,']
  const verdicts = { ok: 0, invalid: 0 }
  for (let run = 0; run < runs; run++) {
    let text = objectJson(2).replaceAll(/[^\x20-\x7e]/g, ' ')
    for (let damages = 1 + below(2); damages > 0; damages--) {
      const at = below(text.length + 1)
      text = text.slice(0, at) + (chance(0.6) ? pick(tokens) : '') + text.slice(at + below(3))
    }
    if (text.replaceAll(/\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})/g, '').includes('\\')) continue
    const scan = scanJson(cut(Buffer.from(text)), wanted)
    verdicts[scan.kind]++
    if ((scan.kind === 'ok') === (parsed(text) !== undefined)) continue
    t.fail(`run ${run}: ${JSON.stringify(scan)} for ${text}`)
    return
  }
  t.comment(JSON.stringify(verdicts))
  t.ok(runs < 100 || (verdicts.ok > 0 && verdicts.invalid > 0), 'both verdicts occurred')
})

t.test('the strings of a nested key are those that a walk over the parsed document finds', async t => {
  for (let run = 0; run < runs; run++) {
    // Spelt without escapes, without duplicates that JSON.parse would drop.
    const text = JSON.stringify(parsed(objectJson(0)), null, pick(['', ' ', '\t']))
    const chunks = cut(Buffer.from(text))
    const found = findStringsOfKey(chunks, 'k', Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)
    const texts = found.map(({ start, end }) => JSON.parse(`"${sliceBytes(chunks, start, end, end)}"`) as string)
    if (JSON.stringify(texts.sort()) === JSON.stringify(stringsOf(text, 'k'))) continue
    t.fail(`run ${run}: ${JSON.stringify(texts)} in ${text}`)
    return
  }
  t.pass()
})

t.test('the fields of a form are found and replaced, whatever its files hold and however it is cut', async t => {
  for (let run = 0; run < runs; run++) {
    const boundary = pick(['b', '--', '----WebKitFormBoundaryQ', 'x'.repeat(70), "0'()+_,-./:=?"])
    const lure = [
      '\r',
      '\n',
      '\r\n',
      '-',
      '--',
      `\r\n--${boundary.slice(0, -1)}!`,
      `--${boundary}`,
      '\x00\xff',
      'name="model"',
    ]
    const content = () =>
      times(9, () => pick(lure))
        .join('')
        .replaceAll(`\r\n--${boundary}`, '?')
    const shared = times(7, () => {
      const name = pick(['model', 'stream', 'prompt'])
      const file = chance(0.4)
      // The content must not complete a delimiter with the line breaks around it.
      const value = content().replace(/^-/, '+')
      const headers = `Content-Disposition: form-data; name="${name}"${file ? '; filename="f"\r\nContent-Type: image/png' : ''}`
      return { name, file, value, head: `--${boundary}${chance(0.1) ? ' \t' : ''}\r\n${headers}\r\n\r\n` }
    })
    const preamble = chance(0.1) ? 'preamble\r\n' : ''
    const end = `--${boundary}--${pick(['', '\r\n', '\r\n\r\n'])}`
    const form = (contentOf: (part: (typeof shared)[number]) => string) =>
      shared.map(part => `${part.head}${contentOf(part)}\r\n`).join('') + end
    const text = preamble + form(part => part.value)
    const chunks = cut(Buffer.from(text, 'latin1'))
    const scan = scanMultipart(chunks, `multipart/form-data; boundary="${boundary}"`, wanted)
    if (scan.kind !== 'ok') {
      t.fail(`run ${run}: ${scan.reason} at ${scan.offset} of ${JSON.stringify(text)}`)
      return
    }
    const expected = shared.filter(part => !part.file && wanted.has(part.name)).map(part => [part.name, part.value])
    const found = scan.fields.map(({ name, start, end }) => [name, text.slice(start, end)])
    const model = scan.fields.some(field => field.name === 'model')
      ? ''
      : `--${boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\ndep\r\n`
    const after = preamble + model + form(part => (part.name === 'model' && !part.file ? 'dep' : part.value))
    const edited = setField(chunks, scan, 'model', 'dep')
    const right = Buffer.concat(edited.chunks).toString('latin1') === after && edited.byteLength === after.length
    if (JSON.stringify(found) === JSON.stringify(expected) && right) continue
    t.fail(`run ${run}: ${JSON.stringify(found)} in ${JSON.stringify(text)}`)
    return
  }
  t.pass()
})
