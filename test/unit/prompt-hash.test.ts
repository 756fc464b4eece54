// The sameness of two prompts for `balance: prompt_cache`: the cache key, the session, the beginning and the first user
// message.
import t from 'tap'
import { scanJson } from '../../lib/body/json-scan.ts'
import { PROMPT_PREFIX_BYTES, promptHash } from '../../lib/body/prompt-hash.ts'

const WANTED = new Set(['messages', 'prompt_cache_key', 'tools', 'instructions', 'system', 'input', 'prompt'])

function hashOf(body: object, headers: Record<string, string> = {}, pieces = 1): number | undefined {
  const bytes = Buffer.from(JSON.stringify({ model: 'm', ...body }))
  const size = Math.ceil(bytes.length / pieces)
  const chunks = Array.from({ length: pieces }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
  const scan = scanJson(chunks, WANTED)
  if (scan.kind === 'invalid') throw new Error(scan.reason)
  return promptHash(chunks, scan, headers)
}

const long = (text: string, bytes = 6_000): string => text.repeat(Math.ceil(bytes / text.length)).slice(0, bytes)
const user = (content: string): object => ({ role: 'user', content })

t.test('below 4 KB there is nothing to cache', t => {
  t.equal(hashOf({ messages: [user('Hello')] }), undefined)
  t.equal(hashOf({ input: long('x', 3_000) }), undefined)
  t.type(hashOf({ input: long('x', 5_000) }), 'number')
  t.end()
})

t.test('the cache key decides before a session, a session before the prompt, both at any length', t => {
  const short = { messages: [user('Hello')] }
  t.type(hashOf({ ...short, prompt_cache_key: 'k' }), 'number')
  t.equal(
    hashOf({ ...short, prompt_cache_key: 'k' }, { session_id: 'a' }),
    hashOf({ input: 'x', prompt_cache_key: 'k' }),
  )
  for (const name of ['x-session-affinity', 'x-session-id', 'session_id', 'session-id', 'x-claude-code-session-id']) {
    const one = hashOf(short, { [name]: 'one' })
    t.type(one, 'number', name)
    t.equal(hashOf({ input: long('y') }, { [name]: 'one' }), one)
    t.not(hashOf(short, { [name]: 'two' }), one)
  }
  const both = { 'x-session-id': 'b', 'x-session-affinity': 'a' }
  t.equal(hashOf(short, both), hashOf(short, { 'x-session-affinity': 'a' }), 'of two the first of the list')
  t.equal(hashOf(short, { 'session-id': '' }), undefined)
  t.end()
})

t.test('a conversation keeps its number as it grows, however its bytes come', t => {
  const first = [{ role: 'system', content: 'Be kind.' }, user(long('a'))]
  const grown = [...first, { role: 'assistant', content: 'Yes.' }, user('More')]
  t.equal(hashOf({ messages: grown }), hashOf({ messages: first }))
  t.equal(hashOf({ messages: grown }, {}, 7), hashOf({ messages: first }))
  t.not(hashOf({ messages: [first[0], user(long('b'))] }), hashOf({ messages: first }))
  t.end()
})

t.test('where the beginning is an application’s own, the first user message tells its conversations apart', t => {
  const tools = [{ type: 'function', function: { name: 'f', description: long('t') } }]
  for (const common of [
    { tools },
    { instructions: long('i') },
    { system: long('s') },
    { tools, instructions: 'short' },
  ]) {
    const one = hashOf({ ...common, messages: [user('one')] })
    t.not(hashOf({ ...common, messages: [user('two')] }), one)
    t.equal(hashOf({ ...common, messages: [user('one'), { role: 'assistant', content: 'x' }, user('two')] }), one)
  }
  const system = { role: 'system', content: long('s') }
  t.not(hashOf({ messages: [system, user('one')] }), hashOf({ messages: [system, user('two')] }))
  const developer = { type: 'message', role: 'developer', content: [{ type: 'input_text', text: long('d', 20_000) }] }
  t.not(hashOf({ input: [developer, user('one')] }), hashOf({ input: [developer, user('two')] }))
  t.not(hashOf({ input: 'one', instructions: long('i') }), hashOf({ input: 'two', instructions: long('i') }))
  t.equal(
    hashOf({ tools, messages: [user(`one ${long('z', 1_100)}`)] }),
    hashOf({ tools, messages: [user(`one ${long('z', 2_000)}`)] }),
    'of a long one the first kilobyte',
  )
  t.not(hashOf({ tools, input: 'x' }), hashOf({ tools: [{ ...tools[0], type: 'other' }], input: 'x' }), 'tools count')
  t.end()
})

const LONG = 'x'.repeat(PROMPT_PREFIX_BYTES)
const HALF = 'x'.repeat(PROMPT_PREFIX_BYTES / 2)
const saying = (content: string): object => [{ role: 'user', content }]
const tool = (name: string, description: string): object => ({ type: 'function', function: { name, description } })

t.test('a prompt of less than 4 KB has no hash: there is nothing to cache', t => {
  t.equal(hashOf({ messages: saying('short') }), undefined)
  t.equal(hashOf({ messages: saying('x'.repeat(PROMPT_PREFIX_BYTES - 200)) }), undefined)
  t.equal(hashOf({ instructions: 'short', input: 'short', tools: [] }), undefined)
  t.type(hashOf({ messages: saying(LONG) }), 'number')
  t.type(hashOf({ instructions: HALF, input: HALF }), 'number', 'its parts count together')
  t.end()
})

t.test('a prompt_cache_key counts at any length', t => {
  const key = hashOf({ prompt_cache_key: 'k', messages: saying('short') })
  t.type(key, 'number')
  t.equal(hashOf({ prompt_cache_key: 'k', messages: saying('other') }), key)
  t.not(hashOf({ prompt_cache_key: 'l', messages: saying('short') }), key)
  t.end()
})

t.test('tools are the beginning of a prompt: other tools, another hash', t => {
  const messages = saying(LONG)
  const one = hashOf({ tools: [tool('a', HALF)], messages })
  t.type(one, 'number')
  t.equal(hashOf({ messages, tools: [tool('a', HALF)] }), one, 'in whichever order the body has them')
  t.not(hashOf({ tools: [tool('b', HALF)], messages }), one)
  t.not(hashOf({ messages }), one)
  t.end()
})
