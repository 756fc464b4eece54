// What counts as the beginning of a prompt: the hash that keeps prompts which begin alike at one backend.
import t from 'tap'
import { scanJson } from '../../lib/body/json-scan.ts'
import { PROMPT_PREFIX_BYTES, promptHash } from '../../lib/body/prompt-hash.ts'

const WANTED = new Set(['prompt_cache_key', 'tools', 'instructions', 'messages', 'input', 'prompt'])
const LONG = 'x'.repeat(PROMPT_PREFIX_BYTES)
const HALF = 'x'.repeat(PROMPT_PREFIX_BYTES / 2)

function hashOf(body: object): number | undefined {
  const bytes = Buffer.from(JSON.stringify(body))
  const scan = scanJson([bytes], WANTED)
  if (scan.kind === 'invalid') throw new Error(scan.reason)
  return promptHash([bytes], scan)
}

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
