// Queries and ids by chance. No lenient reader finds a second model, api-version or key, and all else stays as it is.
// What goes upstream in an id's place is an id. FUZZ_SEED repeats a run, FUZZ_RUNS sets its length.
import t from 'tap'
import { queryValue, replaceParameter, withoutParameters } from '../../lib/azure/query.ts'
import { route } from '../../lib/server/router.ts'
import { chanceFor } from '../fixtures/chance.ts'

const { runs, below, happens, pick } = chanceFor(t, 3_000)

const OWN = ['model', 'deployment', 'api-version', 'api-key', 'subscription-key'] as const
const OTHER = [
  'include',
  'stream',
  'starting_after',
  'models',
  'x-model',
  'mode',
  'modell',
  'order',
  'a b',
  'ü',
  'key',
] as const

function spelled(name: string): string {
  let text = ''
  for (const char of name) {
    const kind = below(12)
    if (kind === 0) text += `%${(char.codePointAt(0) ?? 0).toString(16).padStart(2, '0')}`
    else if (kind === 1 && (char.codePointAt(0) ?? 0) < 128) text += `%25${(char.codePointAt(0) ?? 0).toString(16)}`
    else if (kind === 2) text += char.toUpperCase()
    else text += char
  }
  if (happens(0.1)) text += pick(['[]', '[0]', '%5B%5D', '%5b1%5d', '%00x', '%20', '+', '%0a'])
  if (happens(0.05)) text = pick(['%20', '+', '%09']) + text
  return text.replaceAll(' ', '+')
}

const value = (): string => pick(['', '1', 'secret', 'a%20b', '%zz', 'x=y', '%3D', 'a+b', 'gpt-4o', '%26model%3Dz'])

function makeQuery(): string {
  const parts = Array.from({ length: below(6) }, () => {
    if (happens(0.05)) return pick(['', '%zz=1', '=', '=x', '%', 'model', '&'])
    const name = spelled(happens(0.5) ? pick(OWN) : pick(OTHER))
    return happens(0.1) ? name : `${name}=${value()}`
  })
  return parts.reduce((query, part) => `${query}${query === '' ? '' : happens(0.1) ? ';' : '&'}${part}`, '')
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return text
  }
}

/** Names as backends might read them: each list by one kind of reader. */
const READERS: readonly ((query: string) => string[])[] = [
  query => query.split('&').map(part => part.split('=')[0] ?? ''),
  query => query.split('&').map(part => decoded(part.split('=')[0] ?? '')),
  query => query.split('&').map(part => decoded(decoded(part.split('=')[0] ?? ''))),
  query => query.split(/[&;]/).map(part => decoded(part.split('=')[0] ?? '').toLowerCase()),
  query => query.split('&').map(part => decoded(part.split('=')[0] ?? '').split('[')[0] ?? ''),
  query =>
    query.split(/[&;]/).map(
      part =>
        decoded(decoded(part.split('=')[0] ?? ''))
          .toLowerCase()
          .split('[')[0] ?? '',
    ),
  query =>
    query.split('&').map(
      part =>
        decoded(part.split('=')[0] ?? '')
          .split('\0')[0]
          ?.trim() ?? '',
    ),
  query => [...new URLSearchParams(query).keys()],
]

t.test('no reader finds a name that was taken out, and every other parameter is untouched', t => {
  const own: ReadonlySet<string> = new Set(OWN)
  for (let run = 0; run < runs; run++) {
    const query = makeQuery()
    const kept = withoutParameters(query, own)
    const found = READERS.flatMap(read => read(kept)).filter(name => own.has(name))
    if (found.length > 0) t.fail(`${found} in ${JSON.stringify({ query, kept })}`)
    // In order, and each as it was spelt.
    let from = 0
    for (const part of kept === '' ? [] : kept.split(/[&;]/)) {
      const at = query.indexOf(part, from)
      if (at === -1) t.fail(`"${part}" was not in ${JSON.stringify(query)}`)
      from = at + part.length
    }
    const plain = query.split(/[&;]/).filter(part => /^(include|stream|order|starting_after)(=|$)/.test(part))
    for (const part of plain) if (!kept.split(/[&;]/).includes(part)) t.fail(`${part} is lost of ${query}`)
    if (withoutParameters(kept, own) !== kept) t.fail(`not settled: ${query}`)
  }
  t.pass(`${runs} queries`)
  t.end()
})

t.test("what is replaced stands there once, in its plain spelling, with the backend's value", t => {
  for (let run = 0; run < runs; run++) {
    const query = makeQuery()
    const replaced = replaceParameter(query, 'model', 'own name')
    const values = replaced.split(/[&;]/).filter(part => part.startsWith('model='))
    if (queryValue(query, 'model') === undefined && values.length === 0) continue
    if (values.join() !== 'model=own%20name') t.fail(JSON.stringify({ query, replaced }))
    const others = READERS.flatMap(read => read(withoutParameters(replaced, new Set(['model']))))
    if (others.includes('model')) t.fail(JSON.stringify({ query, replaced }))
  }
  t.end()
})

const SEGMENTS = [
  'resp_1',
  '..',
  '.',
  '%2e%2e',
  '..%2Ffiles',
  '%2F',
  '%5C',
  '%00',
  'a.b',
  'ü',
  '%C3%BC',
  '%zz',
  '%',
  'x'.repeat(300),
  'a~b',
  'A-z_0',
  '%41',
  '',
] as const

t.test('whatever stands in an id, its place upstream holds an id or nothing goes upstream', t => {
  const seen = new Set<string>()
  for (let run = 0; run < runs; run++) {
    const id = Array.from({ length: 1 + below(3) }, () => pick(SEGMENTS)).join('')
    const tail = pick(['', '', '/cancel', '/input_items', '/other', '/'])
    const prefix = pick(['/v1', '/openai/v1', '/openai', '//openai', '/openai/deployments/gpt-4o'])
    const found = route(pick(['GET', 'DELETE', 'POST', 'PUT']), `${prefix}/responses/${id}${tail}?${makeQuery()}`)
    seen.add(found.kind)
    if (found.kind === 'stored_response' && !/^[A-Za-z0-9_-]{1,256}$/.test(found.id))
      t.fail(`${id} went on as ${found.id}`)
  }
  t.ok(seen.has('stored_response') && seen.has('no_object_id') && seen.has('malformed'), [...seen].join())
  t.end()
})
