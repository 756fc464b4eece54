// Tokens of clients: what is accepted, what is refused and why, and how the keys of an issuer are kept.
import { createHash, createPublicKey, generateKeyPairSync } from 'node:crypto'
import t from 'tap'
import type { KeySource, TokenIssuer } from '../../lib/config/types.ts'
import { createSimulatedIssuer, type TokenChanges } from '../../lib/simulator/issuer.ts'
import { sameIssuer } from '../../lib/tokens/claims.ts'
import { createIssuerKeyCache, type FetchedKeys, type IssuerKeyCache } from '../../lib/tokens/issuer-keys.ts'
import { parseKeySet, parseToken } from '../../lib/tokens/jwt.ts'
import {
  createTokenVerifier,
  MAX_REMEMBERED_TOKENS,
  type TokenVerdict,
  type TokenVerifier,
} from '../../lib/tokens/verifier.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'

const SOURCE: KeySource = { kind: 'url', url: 'https://issuer.example/keys' }
const NO_LIMITS = { requestsPerMinute: undefined, tokensPerMinute: undefined, concurrent: undefined }

function accepted(changes: Partial<TokenIssuer> = {}): TokenIssuer {
  return {
    name: 'team',
    issuer: '/simulated-tenant/v2.0',
    audiences: ['api://proxy'],
    keys: SOURCE,
    subjects: undefined,
    claim: undefined,
    models: undefined,
    admin: false,
    limits: NO_LIMITS,
    ...changes,
  }
}

function verify(verifier: TokenVerifier, token: string): TokenVerdict | Promise<TokenVerdict> {
  return verifier.verify(token, createHash('sha256').update(token).digest('base64'))
}

function word(verdict: TokenVerdict): string {
  return verdict.kind === 'refused' ? verdict.fault : verdict.kind
}

/** Keys that are there at once: what a verifier needs of a cache. */
function heldKeys(text: () => string): Pick<IssuerKeyCache, 'of'> {
  const held = () => parseKeySet(text())
  const keys = { held, load: () => undefined, loadUnknown: () => undefined, waitMs: () => 0 }
  return { of: () => keys }
}

/** Lets the promises that are settled already be seen. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve()
}

for (const algorithm of ['RS256', 'PS256', 'ES256'] as const) {
  t.test(`a token signed with ${algorithm} is judged by signature, issuer, audience and times`, async t => {
    const clock = createFakeClock()
    const issuer = createSimulatedIssuer({ clock, algorithm })
    const verifier = createTokenVerifier({ clock, issuers: [accepted()], keys: heldKeys(issuer.keySet) })
    const nowS = Math.floor(clock.epochMs() / 1000)
    const cases: readonly (readonly [string, TokenChanges, string])[] = [
      ['as it should be', {}, 'valid'],
      ['a list of audiences', { claims: { aud: ['other', 'api://proxy'] } }, 'valid'],
      ['an audience without api://', { claims: { aud: 'proxy' } }, 'valid'],
      ['no key id', { header: { kid: undefined } }, 'valid'],
      ['typ at+jwt', { header: { typ: 'at+jwt' } }, 'valid'],
      ['no typ', { header: { typ: undefined } }, 'valid'],
      ['expired within the leeway', { claims: { exp: nowS - 59 } }, 'valid'],
      ['not before, within the leeway', { claims: { nbf: nowS + 59 } }, 'valid'],
      ['expired', { claims: { exp: nowS - 60 } }, 'expired'],
      ['no expiry', { claims: { exp: undefined } }, 'no_expiry'],
      ['an expiry that is no number', { claims: { exp: '9999999999' } }, 'no_expiry'],
      ['not before', { claims: { nbf: nowS + 62 } }, 'not_yet_valid'],
      ['issued in the future', { claims: { iat: nowS + 3_600 } }, 'not_yet_valid'],
      ['nbf that is no number', { claims: { nbf: 'now' } }, 'not_yet_valid'],
      ['another audience', { claims: { aud: 'api://other' } }, 'audience'],
      ['no audience', { claims: { aud: undefined } }, 'audience'],
      ['an empty list of audiences', { claims: { aud: [] } }, 'audience'],
      ['an audience that only begins alike', { claims: { aud: 'api://proxy2' } }, 'audience'],
      ['another issuer', { claims: { iss: 'https://issuer.example' } }, 'issuer'],
      ['no issuer', { claims: { iss: undefined } }, 'issuer'],
      ['a wrong signature', { signature: 'wrong' }, 'signature'],
      ['no signature', { signature: 'none' }, 'algorithm'],
      ['the public key as a shared secret', { signature: 'HS256' }, 'algorithm'],
      ['alg none, signed all the same', { header: { alg: 'none' } }, 'algorithm'],
      ['alg in another spelling', { header: { alg: algorithm.toLowerCase() } }, 'algorithm'],
      ['alg of a longer hash', { header: { alg: 'RS512' } }, 'algorithm'],
      [
        'another type of key than the header says',
        { header: { alg: algorithm === 'ES256' ? 'RS256' : 'ES256' } },
        'unknown_key',
      ],
      ['an unknown key id', { header: { kid: 'key-9' } }, 'unknown_key'],
      ['a key of its own in the header', { header: { kid: 'key-9', jwk: { kty: 'oct', k: 'eA' } } }, 'unknown_key'],
      ['an extension that must be understood', { header: { crit: ['b64'], b64: false } }, 'malformed'],
      ['a token of another type', { header: { typ: 'logout+jwt' } }, 'malformed'],
    ]
    for (const [what, changes, expected] of cases) {
      t.equal(word(await verify(verifier, issuer.token(changes))), expected, what)
    }
    const good = issuer.token()
    const [head = '', body = '', signature = ''] = good.split('.')
    for (const broken of [
      `${head}.${body}`,
      `${head}.${body}.`,
      `${head}..${signature}`,
      `${good}.x`,
      `${good}=`,
      'eyJ.e.e',
    ]) {
      t.not(word(await verify(verifier, broken)), 'valid', broken.slice(0, 20))
    }
    t.equal(word(await verify(verifier, `${head}.${body}.${signature.slice(0, -4)}`)), 'signature')
  })
}

/** A fresh public key, by way of its bytes (see simulator/issuer.ts). */
function jwkOf(type: 'rsa' | 'ec', options: { readonly modulusLength?: number; readonly namedCurve?: string }) {
  const publicKeyEncoding = { type: 'spki', format: 'der' } as const
  const privateKeyEncoding = { type: 'pkcs8', format: 'der' } as const
  const { modulusLength = 2048, namedCurve = 'P-256' } = options
  const { publicKey } =
    type === 'rsa'
      ? generateKeyPairSync('rsa', { modulusLength, publicKeyEncoding, privateKeyEncoding })
      : generateKeyPairSync('ec', { namedCurve, publicKeyEncoding, privateKeyEncoding })
  return createPublicKey({ key: publicKey, ...publicKeyEncoding }).export({ format: 'jwk' })
}

t.test('RSA keys verify RS256 and PS256 alike, unless the key set says which', t => {
  const jwk = jwkOf('rsa', { modulusLength: 2048 })
  const algorithms = (more: object): unknown =>
    parseKeySet(JSON.stringify({ keys: [{ ...jwk, ...more }] }))?.map(key => key.algorithms)
  t.strictSame(algorithms({}), [['RS256', 'PS256']])
  t.strictSame(algorithms({ alg: 'PS256' }), [['PS256']])
  t.strictSame(algorithms({ use: 'sig', key_ops: ['verify'] }), [['RS256', 'PS256']])
  t.equal(algorithms({ alg: 'HS256' }), undefined)
  t.equal(algorithms({ alg: 'RSA-OAEP' }), undefined)
  t.equal(algorithms({ use: 'enc' }), undefined)
  t.equal(algorithms({ key_ops: ['encrypt'] }), undefined)
  t.end()
})

t.test('a key set without a usable key is none: symmetric, short, broken and foreign ones are left out', t => {
  const short = jwkOf('rsa', { modulusLength: 1024 })
  const curve = jwkOf('ec', { namedCurve: 'P-384' })
  for (const key of [
    { kty: 'oct', k: 'c2VjcmV0' },
    { kty: 'RSA', n: '!', e: 'AQAB' },
    { kty: 'RSA' },
    short,
    curve,
    null,
    1,
  ]) {
    t.equal(parseKeySet(JSON.stringify({ keys: [key] })), undefined, JSON.stringify(key)?.slice(0, 40))
  }
  for (const text of ['', '[]', '{}', '{"keys":{}}', '<html>']) t.equal(parseKeySet(text), undefined)
  t.end()
})

t.test('an issuer of Entra counts in the forms of version 1 and 2, of the same tenant alone', t => {
  const tenant = '72f988bf-86f1-41af-91ab-2d7cd011db47'
  const v1 = `https://sts.windows.net/${tenant}/`
  const v2 = `https://login.microsoftonline.com/${tenant}/v2.0`
  for (const [a, b] of [
    [v1, v2],
    [v2, v1],
    [v2, `${v2}/`],
    [v2, `https://login.microsoftonline.com/${tenant.toUpperCase()}/v2.0`],
    ['https://issuer.example/', 'https://issuer.example'],
  ] as const)
    t.equal(sameIssuer(a, b), true, `${a} ${b}`)
  for (const [a, b] of [
    [v2, 'https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000/v2.0'],
    [v2, `https://login.microsoftonline.com.evil.example/${tenant}/v2.0`],
    [v2, `https://evil.example/${tenant}/v2.0`],
    [v2, `http://sts.windows.net/${tenant}/`],
    [v2, `${v2}/more`],
    ['https://issuer.example/a', 'https://issuer.example/b'],
  ] as const)
    t.equal(sameIssuer(a, b), false, `${a} ${b}`)
  t.end()
})

t.test('the subject is azp, else appid, else sub, or the claim that is named; of a list any value', async t => {
  const clock = createFakeClock()
  const issuer = createSimulatedIssuer({ clock })
  const judged = async (changes: Partial<TokenIssuer>, claims: Record<string, unknown>): Promise<string> => {
    const verifier = createTokenVerifier({ clock, issuers: [accepted(changes)], keys: heldKeys(issuer.keySet) })
    return word(await verify(verifier, issuer.token({ claims })))
  }
  const subjects = ['app-1', '0F8FAD5B-D9CB-469F-A165-70867728950E']
  t.equal(await judged({ subjects }, { azp: 'app-1' }), 'valid')
  t.equal(await judged({ subjects }, { azp: '0f8fad5b-d9cb-469f-a165-70867728950e' }), 'valid', 'a GUID in any case')
  t.equal(await judged({ subjects }, { azp: 'App-1' }), 'subject')
  t.equal(await judged({ subjects }, { azp: 'other', appid: 'app-1', sub: 'app-1' }), 'subject', 'azp wins')
  t.equal(await judged({ subjects }, { azp: undefined, appid: 'app-1' }), 'valid')
  t.equal(await judged({ subjects }, { azp: undefined, sub: 'app-1' }), 'valid')
  t.equal(await judged({ subjects, claim: 'oid' }, { oid: 'app-1' }), 'valid')
  t.equal(await judged({ subjects, claim: 'oid' }, { azp: 'app-1' }), 'subject', 'no such claim')
  t.equal(await judged({ subjects, claim: 'roles' }, { roles: ['x', 'app-1'] }), 'valid')
  t.equal(await judged({ subjects, claim: 'scp' }, { scp: 'x app-1' }), 'valid')
  t.equal(await judged({ subjects, claim: 'constructor' }, {}), 'subject')
  t.equal(await judged({}, { azp: undefined, sub: undefined }), 'valid', 'without a list: all of that audience')
})

t.test('of several issuers the first that accepts counts, and the fault named is the furthest one', async t => {
  const clock = createFakeClock()
  const issuer = createSimulatedIssuer({ clock })
  const issuers = [
    accepted({ name: 'elsewhere', issuer: 'https://issuer.example' }),
    accepted({ name: 'a', subjects: ['app-a'] }),
    accepted({ name: 'b', subjects: ['app-b'] }),
  ]
  const verifier = createTokenVerifier({ clock, issuers, keys: heldKeys(issuer.keySet) })
  t.match(await verify(verifier, issuer.token({ claims: { azp: 'app-b' } })), { kind: 'valid', issuer: { name: 'b' } })
  t.equal(word(await verify(verifier, issuer.token({ claims: { azp: 'app-c' } }))), 'subject')
  t.equal(word(await verify(verifier, issuer.token({ claims: { exp: 1 } }))), 'expired')
})

t.test('a verified token is remembered until it ends, and no more of them than the limit', async t => {
  const clock = createFakeClock()
  const issuer = createSimulatedIssuer({ clock })
  let looks = 0
  const keys = heldKeys(issuer.keySet)
  const verifier = createTokenVerifier({
    clock,
    issuers: [accepted()],
    keys: {
      of(source) {
        looks++
        return keys.of(source)
      },
    },
  })
  const token = issuer.token()
  for (let i = 0; i < 5; i++) t.equal(word(await verify(verifier, token)), 'valid')
  t.equal(looks, 1, 'its signature was computed once')
  clock.advance(3_660_000)
  t.equal(word(await verify(verifier, token)), 'expired')
  const early = issuer.token({ claims: { jti: 'early' } })
  await verify(verifier, early)
  looks = 0
  for (let i = 0; i < MAX_REMEMBERED_TOKENS; i++) verifier.verify(issuer.token(), `digest ${i}`)
  looks = 0
  t.equal(word(await verify(verifier, early)), 'valid')
  t.equal(looks, 1, 'the one used longest ago was forgotten')
})

interface Kept {
  readonly clock: FakeClock
  readonly cache: IssuerKeyCache
  readonly problems: string[]
  readonly fetches: () => number
  answer(next: (() => FetchedKeys | Promise<FetchedKeys>) | undefined): void
}

function keep(keySet: () => string): Kept {
  const clock = createFakeClock()
  const problems: string[] = []
  let fetches = 0
  let next: (() => FetchedKeys | Promise<FetchedKeys>) | undefined
  const whole = (): FetchedKeys => {
    const keys = parseKeySet(keySet())
    return keys === undefined ? { kind: 'failed', reason: 'no keys' } : { kind: 'keys', keys }
  }
  const cache = createIssuerKeyCache({
    clock,
    random: () => 0,
    async fetch() {
      fetches++
      return (next ?? whole)()
    },
    onProblem: (message, state) => problems.push(`${state}: ${message}`),
  })
  return {
    clock,
    cache,
    problems,
    fetches: () => fetches,
    answer(given) {
      next = given
    },
  }
}

const DOWN = (): FetchedKeys => ({ kind: 'failed', reason: 'issuer.example answers 503' })

t.test('keys are fetched at the start and once an hour in the background, whoever asks', async t => {
  const issuer = createSimulatedIssuer({ clock: createFakeClock() })
  const { clock, cache, fetches } = keep(issuer.keySet)
  cache.retain([SOURCE, SOURCE])
  await settled()
  t.equal(fetches(), 1)
  t.equal(cache.of(SOURCE).held()?.length, 1)
  clock.advance(3_599_000)
  await settled()
  t.equal(fetches(), 1)
  issuer.rotate(true)
  clock.advance(1_000)
  await settled()
  t.equal(fetches(), 2)
  t.equal(cache.of(SOURCE).held()?.length, 2)
  cache.retain([])
  clock.advance(10_000_000)
  await settled()
  t.equal(fetches(), 2, 'a source that left the config is left alone')
  t.equal(clock.pending(), 0)
})

t.test('an unknown key id is asked for once a minute at most, by many at once', async t => {
  const issuer = createSimulatedIssuer({ clock: createFakeClock() })
  const { clock, cache, fetches } = keep(issuer.keySet)
  cache.retain([SOURCE])
  await settled()
  const keys = cache.of(SOURCE)
  t.ok(keys.loadUnknown(), 'right after the first fetch, too')
  t.ok(keys.loadUnknown(), 'whoever comes meanwhile waits for the same fetch')
  await settled()
  t.equal(fetches(), 2)
  t.equal(keys.loadUnknown(), undefined)
  clock.advance(59_000)
  t.equal(keys.loadUnknown(), undefined)
  clock.advance(1_000)
  t.ok(keys.loadUnknown())
  await settled()
  t.equal(fetches(), 3)
  cache.close()
})

t.test('while the issuer is down its old keys serve on, and it is asked again ever more rarely', async t => {
  const issuer = createSimulatedIssuer({ clock: createFakeClock() })
  const { clock, cache, fetches, problems, answer } = keep(issuer.keySet)
  cache.retain([SOURCE])
  await settled()
  answer(DOWN)
  const step = async (ms: number): Promise<void> => {
    clock.advance(ms)
    await settled()
  }
  await step(3_600_000)
  t.equal(problems.length, 1)
  t.match(problems[0], /failing: .*issuer\.example.*serve on.*503/)
  for (const [wait, expected] of [
    [1_000, 3],
    [1_999, 3],
    [1, 4],
    [4_000, 5],
    [8_000, 6],
    [16_000, 7],
    [32_000, 8],
    [60_000, 9],
    [60_000, 10],
  ] as const) {
    await step(wait)
    t.equal(fetches(), expected)
  }
  t.equal(problems.length, 1, 'said once')
  t.equal(cache.of(SOURCE).loadUnknown(), undefined, 'its wait holds for unknown key ids too')
  t.equal(cache.of(SOURCE).held()?.length, 1)
  answer(undefined)
  await step(60_000)
  t.match(problems[1], /working/)
  cache.close()
})

t.test('without any key yet a request waits for the fetch that is on its way, then gets the wait', async t => {
  const issuer = createSimulatedIssuer({ clock: createFakeClock() })
  const { clock, cache, fetches, answer } = keep(issuer.keySet)
  let release: (() => void) | undefined
  answer(
    () =>
      new Promise(resolve => {
        release = () => resolve(DOWN())
      }),
  )
  const verifier = createTokenVerifier({ clock, issuers: [accepted()], keys: cache })
  cache.retain([SOURCE])
  await settled()
  const waiting = [verify(verifier, issuer.token()), verify(verifier, issuer.token({ claims: { jti: 2 } }))]
  release?.()
  for (const verdict of waiting) t.strictSame(await verdict, { kind: 'unavailable', waitMs: 1_000 })
  t.equal(fetches(), 1)
  t.strictSame(await verify(verifier, issuer.token()), { kind: 'unavailable', waitMs: 1_000 }, 'at once')
  answer(undefined)
  clock.advance(1_000)
  await settled()
  t.equal(word(await verify(verifier, issuer.token())), 'valid')
  cache.close()
})

t.test('a fetch that never ends is given up after ten seconds', async t => {
  const { clock, cache, problems, answer } = keep(() => '')
  answer(() => new Promise(() => undefined))
  cache.retain([SOURCE])
  await settled()
  clock.advance(10_000)
  await settled()
  t.match(problems, [/longer than 10 s/])
  cache.close()
  t.equal(clock.pending(), 0)
})

t.test('nothing of a token is believed that is not base64url JSON', t => {
  for (const text of [
    '',
    'eyJ',
    'a.b.c',
    'eyJhIjox.e30.',
    `eyJhbGciOiJSUzI1NiJ9.${Buffer.from('[]').toString('base64url')}.x`,
  ]) {
    t.match(parseToken(text), /malformed|algorithm/)
  }
  t.end()
})
