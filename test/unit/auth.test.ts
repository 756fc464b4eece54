// The memory of keys that were valid: it spares a digest and a comparison, and no judgement.
import { createHash } from 'node:crypto'
import t from 'tap'
import type { Clock } from '../../lib/clock.ts'
import { AddressRanges } from '../../lib/config/addresses.ts'
import type { ClientKey } from '../../lib/config/types.ts'
import { type Authenticator, createAuthenticator, keyOf } from '../../lib/server/auth.ts'
import type { TokenVerifier } from '../../lib/tokens/verifier.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

const LIMITS = { requestsPerMinute: undefined, tokensPerMinute: undefined, concurrent: undefined }

function key(name: string, text: string, more: Partial<ClientKey> = {}): ClientKey {
  const digest = createHash('sha256').update(text).digest()
  const free = { models: undefined, admin: false, limits: LIMITS, from: undefined, expiresEpochMs: undefined }
  return { name, digest, ...free, ...more }
}

function authenticatorFor(keys: readonly ClientKey[], clock: Clock): Authenticator {
  const verifier: TokenVerifier = { verify: () => ({ kind: 'unavailable', waitMs: 1 }) }
  return createAuthenticator({ enabled: true, keys, tokens: [], sharedResponses: false }, verifier, clock)
}

t.test('a key that was valid before is judged anew with each request', async t => {
  const clock = createFakeClock()
  const from = new AddressRanges(['10.0.0.1/32'])
  const { authenticate } = authenticatorFor(
    [key('a', 'first-key', { expiresEpochMs: clock.epochMs() + 1_000, from })],
    clock,
  )
  const ask = (client: string, text = 'first-key') =>
    authenticate({ headers: { authorization: `Bearer ${text}` }, target: '/', client, webSocket: false })

  t.match(ask('10.0.0.1'), { kind: 'known', principal: { name: 'a' } })
  t.match(ask('10.0.0.1'), { kind: 'known', principal: { name: 'a' } }, 'remembered')
  t.match(ask('10.0.0.2'), { kind: 'refused', refusal: { code: 'address_not_allowed' } }, 'from elsewhere')
  t.match(ask('10.0.0.1', 'first-kez'), { kind: 'refused', refusal: { code: 'invalid_api_key' } }, 'nearly the same')
  clock.advance(1_000)
  t.match(ask('10.0.0.1'), { kind: 'refused', refusal: { message: /expired/ } }, 'after its end')
})

t.test('what is remembered is a key, not the header it came in', async t => {
  const { authenticate } = authenticatorFor([key('a', 'first-key'), key('b', 'bearer other')], createFakeClock())
  const ask = (headers: Record<string, string>) =>
    authenticate({ headers, target: '/', client: undefined, webSocket: false })
  for (let time = 0; time < 2; time++) {
    t.match(ask({ authorization: 'Bearer first-key' }), { principal: { name: 'a' } })
    t.match(ask({ 'api-key': 'first-key' }), { principal: { name: 'a' } })
    t.match(ask({ authorization: 'first-key' }), { kind: 'refused', given: false }, 'no scheme')
    t.match(ask({ 'api-key': 'Bearer first-key' }), { kind: 'refused', given: true }, 'a scheme where none belongs')
    t.match(ask({ 'api-key': 'bearer other' }), { principal: { name: 'b' } })
    t.match(ask({ authorization: 'Bearer nobody', 'x-api-key': 'first-key' }), { principal: { name: 'a' } })
    t.match(ask({ authorization: 'Bearer nobody' }), { kind: 'refused' }, 'beside another one it was not tried')
  }
})

t.test('more keys than are remembered are all valid, each its own', async t => {
  const names = Array.from({ length: 2_500 }, (_, i) => `key-number-${i}`)
  const keys = names.map(name => key(name, name))
  const { authenticate } = authenticatorFor(keys, createFakeClock())
  const wrong: string[] = []
  for (const name of [...names.slice(0, 1_200), ...names.slice(0, 50)]) {
    const result = authenticate({ headers: { 'api-key': name }, target: '/', client: undefined, webSocket: false })
    if (result instanceof Promise || result.kind !== 'known' || result.principal.name !== name) wrong.push(name)
  }
  t.strictSame(wrong, [])
})

t.test('every key is compared, whether or not one has matched already', async t => {
  const first = key('first', 'a')
  const compared: string[] = []
  const watched = (name: string, text: string): ClientKey => {
    const made = key(name, text)
    return new Proxy(made, {
      get(target, property, receiver) {
        if (property === 'digest') compared.push(name)
        return Reflect.get(target, property, receiver)
      },
    })
  }
  const keys = [watched('one', 'a'), watched('two', 'b'), watched('three', 'c')]
  t.equal(keyOf(first.digest, keys)?.name, 'one')
  t.strictSame(compared, ['one', 'two', 'three'])
})
