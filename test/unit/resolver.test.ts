// Names to addresses: one lookup a name at a time, a late resolver, names that hang, all addresses tried. Time stands
// still until a test moves it, and the system's resolver is the test. covers: lib/http1/resolver.ts,
// lib/http1/addresses.ts
import t from 'tap'
import { inTurn, tryInTurn } from '../../lib/http1/addresses.ts'
import { createResolver, type Lookup, lookupPlaces, type Resolution } from '../../lib/http1/resolver.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

interface Asked {
  readonly hostname: string
  answer(...addresses: string[]): void
  fail(code: string): void
}

function stage(places = 2) {
  const clock = createFakeClock()
  const asked: Asked[] = []
  const lookup: Lookup = (hostname, done) => {
    asked.push({
      hostname,
      answer: (...addresses) => done(null, addresses),
      fail: code => done(Object.assign(new Error(code), { code }), []),
    })
  }
  const resolver = createResolver(clock, lookup, places)
  const want = (hostname: string): { readonly got: Resolution[]; readonly leave: () => void } => {
    const got: Resolution[] = []
    return { got, leave: resolver.resolve(hostname, resolution => got.push(resolution)) }
  }
  return { clock, asked, want, names: () => asked.map(({ hostname }) => hostname) }
}

const found = (...addresses: string[]): Resolution => ({ kind: 'found', addresses })

t.test('a thousand connections to one name share one lookup', t => {
  const { asked, want } = stage()
  const wanted = Array.from({ length: 1_000 }, () => want('a.test'))
  t.equal(asked.length, 1)
  asked[0]?.answer('10.0.0.1', '10.0.0.2')
  t.ok(wanted.every(({ got }) => got.length === 1 && got[0]?.kind === 'found' && got[0].addresses.length === 2))
  want('a.test')
  t.equal(asked.length, 2, 'the next one asks anew: names move')
  t.end()
})

t.test(
  'while the resolver is late, the last good address serves, and the answer that comes then serves the next',
  t => {
    const { clock, asked, want } = stage()
    want('a.test')
    asked[0]?.answer('10.0.0.1')
    const second = want('a.test')
    clock.advance(499)
    t.strictSame(second.got, [])
    clock.advance(1)
    t.strictSame(second.got, [found('10.0.0.1')])
    const third = want('a.test')
    t.equal(asked.length, 2, 'one lookup is in progress already')
    asked[1]?.answer('10.0.0.9')
    t.strictSame(third.got, [found('10.0.0.9')])
    t.strictSame(second.got.length, 1, 'told once')
    t.equal(clock.pending(), 0)
    t.end()
  },
)

t.test(
  'a resolver that fails leaves the last good address in use, for an hour; one that knows no such name does not',
  t => {
    const { clock, asked, want } = stage()
    want('a.test')
    asked[0]?.answer('10.0.0.1')
    const failed = want('a.test')
    asked[1]?.fail('EAI_AGAIN')
    t.strictSame(failed.got, [found('10.0.0.1')])
    const gone = want('a.test')
    asked[2]?.fail('ENOTFOUND')
    t.strictSame(gone.got, [{ kind: 'failed', code: 'ENOTFOUND' }])
    clock.advance(3_600_001)
    const late = want('a.test')
    asked[3]?.fail('EAI_AGAIN')
    t.strictSame(late.got, [{ kind: 'failed', code: 'EAI_AGAIN' }])
    t.end()
  },
)

t.test('names that hang share all places but one, and delay no other', t => {
  const { clock, asked, want, names } = stage(3)
  const slow = ['slow1.test', 'slow2.test', 'slow3.test', 'slow4.test']
  // Each has shown itself slow once.
  for (const name of slow) {
    want(name)
    clock.advance(1_000)
    asked.at(-1)?.fail('EAI_AGAIN')
  }
  for (const name of slow) want(name)
  t.strictSame(names().slice(slow.length), ['slow1.test', 'slow2.test'], 'two of three places')
  const quick = want('ok.test')
  asked.at(-1)?.answer('10.0.0.2')
  t.strictSame(quick.got, [found('10.0.0.2')])
  asked.findLast(({ hostname }) => hostname === 'slow1.test')?.fail('EAI_AGAIN')
  t.equal(names().at(-1), 'slow3.test', 'the next in line')
  t.end()
})

t.test('a name that hangs for the first time is known for it after a second', t => {
  const { clock, asked, want, names } = stage(2)
  want('slow1.test')
  clock.advance(1_000)
  want('ok.test')
  t.strictSame(names(), ['slow1.test', 'ok.test'])
  asked[1]?.answer('10.0.0.1')
  want('ok.test')
  t.equal(asked.length, 3, 'the other place is free again')
  t.end()
})

t.test('a waiting name whose connections have all left is not looked up', t => {
  const { asked, want, names } = stage(1)
  want('a.test')
  const { leave } = want('b.test')
  leave()
  asked[0]?.answer('10.0.0.1')
  t.strictSame(names(), ['a.test'])
  want('b.test')
  t.strictSame(names(), ['a.test', 'b.test'])
  t.end()
})

t.test('half of the threads of libuv, rounded up, are places', t => {
  for (const [threads, places] of [
    [undefined, 2],
    ['4', 2],
    ['1', 1],
    ['16', 8],
    ['no', 2],
    ['0', 2],
  ] as const) {
    t.equal(lookupPlaces(threads), places, String(threads))
  }
  t.end()
})

t.test('addresses are tried with their families in turn, the resolver’s favourite first, eight at most', t => {
  t.strictSame(inTurn(['::1', '::2', '10.0.0.1']), ['::1', '10.0.0.1', '::2'])
  t.strictSame(inTurn(['10.0.0.1', '10.0.0.2']), ['10.0.0.1', '10.0.0.2'])
  t.equal(inTurn(Array.from({ length: 20 }, (_, i) => `10.0.0.${i}`)).length, 8)
  t.strictSame(inTurn([]), [])
  t.end()
})

t.test('the next address is tried after a quarter of a second, or as soon as the one before has failed', t => {
  const clock = createFakeClock()
  const tried: string[] = []
  const fails = new Map<string, (code: string) => void>()
  const over: string[] = []
  const stop = tryInTurn(
    ['a', 'b', 'c', 'd'],
    clock,
    (address, failed) => {
      tried.push(address)
      fails.set(address, failed)
    },
    code => over.push(code),
  )
  t.strictSame(tried, ['a'])
  clock.advance(250)
  t.strictSame(tried, ['a', 'b'])
  fails.get('b')?.('ECONNREFUSED')
  t.strictSame(tried, ['a', 'b', 'c'])
  for (const address of ['c', 'd', 'a']) fails.get(address)?.(address === 'a' ? 'ETIMEDOUT' : 'EHOSTUNREACH')
  t.strictSame([tried, over], [['a', 'b', 'c', 'd'], ['ECONNREFUSED']])
  stop()
  t.equal(clock.pending(), 0)
  t.end()
})

t.test('an address that connects stops the others', t => {
  const clock = createFakeClock()
  const tried: string[] = []
  tryInTurn(
    ['a', 'b'],
    clock,
    address => tried.push(address),
    () => t.fail('over'),
  )()
  clock.advance(10_000)
  t.strictSame(tried, ['a'])
  t.end()
})
