// The policies: who of those that may be chosen takes the next request.
import t from 'tap'
import { type Candidate, LOAD_BOUND, leastBusy, promptCache, RoundRobin } from '../../lib/balancer/policies.ts'
import { hashText } from '../../lib/balancer/pool.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

interface Named extends Candidate {
  readonly name: string
  inFlight: number
}

const named = (name: string, weight = 1, inFlight = 0): Named => ({
  name,
  weight,
  inFlight,
  hashSeed: hashText(name),
})

const turns = (members: readonly Named[], count: number, rounds = new RoundRobin<Named>()): string =>
  Array.from({ length: count }, () => rounds.next(members).name).join('')

function shares(names: Iterable<string>): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

t.test('round_robin takes equal members in turn', t => {
  t.equal(turns([named('a'), named('b'), named('c')], 9), 'abcabcabc')
  t.equal(turns([named('a')], 3), 'aaa')
  t.end()
})

t.test('round_robin is smooth: weights 5, 1, 1 come as nginx gives them, never in a burst', t => {
  t.equal(turns([named('a', 5), named('b'), named('c')], 14), 'aabacaaaabacaa')
  t.equal(turns([named('a', 2), named('b', 1)], 6), 'abaaba')
  t.end()
})

t.test(
  'round_robin is exact: over the sum of weights each is taken exactly its weight, from wherever one starts',
  t => {
    const random = seededRandom(7)
    for (let run = 0; run < 50; run++) {
      const members = Array.from({ length: 2 + Math.floor(random() * 6) }, (_, i) =>
        named(`m${i}`, 1 + Math.floor(random() * 20)),
      )
      const sum = members.reduce((all, { weight }) => all + weight, 0)
      const expected = Object.fromEntries(members.map(({ name, weight }) => [name, weight]))
      const rounds = new RoundRobin<Named>()
      const round = (): string[] => Array.from({ length: sum }, () => rounds.next(members).name)
      const first = round()
      const second = round()
      t.strictSame(shares(first), expected)
      t.strictSame(second, first, 'and every round is like the one before')
    }
    t.end()
  },
)

t.test('round_robin keeps its shares while members leave and come back', t => {
  const a = named('a', 3)
  const b = named('b', 2)
  const c = named('c', 1)
  const rounds = new RoundRobin<Named>()
  turns([a, b, c], 6, rounds)
  const without = turns([a, b], 500, rounds)
  t.strictSame(shares(without), { a: 300, b: 200 }, 'those that stay share by weight')
  const again = turns([a, b, c], 600, rounds)
  t.strictSame(shares(again), { a: 300, b: 200, c: 100 }, 'who comes back takes its share again')
  t.end()
})

t.test(
  'round_robin is exact over whole rounds of the same members, whatever turns others took before and between',
  t => {
    const random = seededRandom(13)
    for (let run = 0; run < 50; run++) {
      const members = Array.from({ length: 2 + Math.floor(random() * 4) }, (_, i) =>
        named(`m${i}`, 1 + Math.floor(random() * 5)),
      )
      const rounds = new RoundRobin<Named>()
      const others = (): void => {
        for (let turn = Math.floor(random() * 20); turn > 0; turn--) {
          const usable = members.filter(() => random() < 0.6)
          if (usable.length > 0 && usable.length < members.length) rounds.next(usable)
        }
      }
      const sum = members.reduce((all, { weight }) => all + weight, 0)
      const taken: string[] = []
      // From anywhere within a round on.
      turns(members, Math.floor(random() * sum), rounds)
      for (let turn = 0; turn < sum; turn++) {
        others()
        taken.push(rounds.next(members).name)
      }
      t.strictSame(shares(taken), Object.fromEntries(members.map(({ name, weight }) => [name, weight])))
    }
    t.end()
  },
)

t.test('round_robin remembers a bounded number of sets', t => {
  const members = Array.from({ length: 12 }, (_, i) => named(`m${i}`))
  const rounds = new RoundRobin<Named>()
  const [a, b] = [members.slice(0, 2), members.slice(2)]
  t.equal(turns(a, 1, rounds), 'm0')
  for (let set = 1; set < 300; set++) rounds.next(b.filter((_, i) => ((set >> i) & 1) === 1))
  t.equal(turns(a, 1, rounds), 'm0', 'the first one was forgotten after 256 others')
  t.end()
})

t.test('round_robin does not favour anybody for long when membership changes at every turn', t => {
  const random = seededRandom(11)
  const members = [named('a'), named('b'), named('c'), named('d')]
  const rounds = new RoundRobin<Named>()
  const taken: string[] = []
  for (let turn = 0; turn < 8_000; turn++) {
    const usable = members.filter(() => random() < 0.7)
    if (usable.length > 0) taken.push(rounds.next(usable).name)
  }
  for (const [name, count] of Object.entries(shares(taken))) {
    t.ok(Math.abs(count / taken.length - 0.25) < 0.02, `${name} had ${count} of ${taken.length}`)
  }
  t.end()
})

t.test('a policy is never asked to choose among nobody', t => {
  t.throws(() => new RoundRobin<Named>().next([]), /among no members/)
  t.end()
})

t.test('least_busy takes the fewest in flight per weight', t => {
  const never = (): number => {
    throw new Error('few members are all looked at, without chance')
  }
  t.equal(leastBusy([named('a', 1, 3), named('b', 1, 2), named('c', 1, 5)], never, new RoundRobin()).name, 'b')
  t.equal(
    leastBusy([named('a', 10, 19), named('b', 1, 2)], never, new RoundRobin()).name,
    'a',
    '1.9 per weight is less than 2',
  )
  t.equal(leastBusy([named('a', 10, 20), named('b', 1, 1)], never, new RoundRobin()).name, 'b')
  t.end()
})

t.test('least_busy takes those that are alike in turn, by weight', t => {
  const members = [named('a', 2), named('b', 1)]
  const rounds = new RoundRobin<Named>()
  const taken = Array.from({ length: 6 }, () => leastBusy(members, Math.random, rounds).name)
  t.equal(taken.join(''), 'abaaba')
  t.end()
})

t.test('least_busy spreads what stays in flight evenly per weight', t => {
  const members = [named('a', 1), named('b', 2), named('c', 5)]
  const rounds = new RoundRobin<Named>()
  for (let i = 0; i < 80; i++) leastBusy(members, Math.random, rounds).inFlight++
  t.same(
    members.map(({ inFlight }) => inFlight),
    [10, 20, 50],
  )
  t.end()
})

t.test('least_busy looks at two random ones of many, never twice at the same', t => {
  const members = Array.from({ length: 9 }, (_, i) => named(`m${i}`, 1, i))
  const draw = (a: number, b: number): string => {
    const drawn = [a / 9, b / 8]
    return leastBusy(members, () => drawn.shift() ?? 0, new RoundRobin()).name
  }
  t.equal(draw(4, 7), 'm4', 'the eighth other one is m8')
  t.equal(draw(4, 3), 'm3')
  t.equal(draw(4, 4), 'm4', 'the fifth other one is m5')
  t.equal(draw(8, 7), 'm7')
  t.equal(draw(0, 0), 'm0', 'the first other one is m1')
  t.end()
})

t.test('least_busy keeps many members nearly even', t => {
  const random = seededRandom(3)
  const members = Array.from({ length: 20 }, (_, i) => named(`m${i}`))
  for (let i = 0; i < 2_000; i++) leastBusy(members, random, new RoundRobin()).inFlight++
  const inFlight = members.map(member => member.inFlight)
  t.ok(Math.max(...inFlight) - Math.min(...inFlight) <= 10, `100 each, found ${inFlight.join(' ')}`)
  t.end()
})

t.test('prompt_cache sends prompts that begin alike to the same member, in whatever order the members come', t => {
  const members = [named('a'), named('b'), named('c')]
  for (let hash = 0; hash < 300; hash++) {
    const home = promptCache(members, hash).name
    t.equal(promptCache([...members].reverse(), hash).name, home)
    t.equal(promptCache(members, hash).name, home)
  }
  t.end()
})

t.test('prompt_cache spreads prompts by weight', t => {
  const members = [named('a', 1), named('b', 2), named('c', 5)]
  const taken = Array.from({ length: 16_000 }, (_, i) => promptCache(members, hashText(`prompt ${i}`)).name)
  const found = shares(taken)
  for (const { name, weight } of members) {
    const share = (found[name] ?? 0) / taken.length
    t.ok(Math.abs(share - weight / 8) < 0.015, `${name} of weight ${weight} in 8 took ${share}`)
  }
  t.end()
})

t.test('a member that leaves gives up only its own prompts, and gets them back', t => {
  const [a, b, c] = [named('a'), named('b'), named('c')]
  const hashes = Array.from({ length: 1_000 }, (_, i) => hashText(`prompt ${i}`))
  const before = hashes.map(hash => promptCache([a, b, c], hash).name)
  const without = hashes.map(hash => promptCache([a, b], hash).name)
  for (const [i, home] of before.entries()) if (home !== 'c') t.equal(without[i], home)
  t.same(
    hashes.map(hash => promptCache([a, b, c], hash).name),
    before,
  )
  t.end()
})

t.test('prompt_cache keeps every member within 1.25 times its share of what is in flight', t => {
  t.equal(LOAD_BOUND, 1.25)
  const members = [named('a', 1), named('b', 1), named('c', 2)]
  for (let sent = 1; sent <= 400; sent++) {
    promptCache(members, 42).inFlight++
    for (const { name, weight, inFlight } of members) {
      t.ok(inFlight <= (sent * weight * LOAD_BOUND) / 4 + 1, `${name} has ${inFlight} of ${sent}`)
    }
  }
  t.end()
})

t.test('an idle member gets its prompts, however busy the others are', t => {
  const random = seededRandom(5)
  for (let hash = 0; hash < 300; hash++) {
    const members = [named('a'), named('b'), named('c'), named('d')]
    const home = promptCache(members, hash)
    for (const member of members) if (member !== home) member.inFlight = Math.floor(random() * 50)
    t.equal(promptCache(members, hash).name, home.name)
  }
  t.end()
})

t.test('least_busy above eight members compares two different ones, whatever chance brings', t => {
  const members = Array.from({ length: 12 }, (_, i) => named(`m${i}`, 1, 12 - i))
  const wrong: string[] = []
  for (let first = 0; first < members.length; first++) {
    for (let second = 0; second < members.length - 1; second++) {
      // The second draw is among the others.
      const draws = [(first + 0.5) / members.length, (second + 0.5) / (members.length - 1)]
      const chosen = leastBusy(members, () => draws.shift() ?? 0, new RoundRobin())
      const other = second >= first ? second + 1 : second
      // The later, the less busy.
      if (chosen.name !== `m${Math.max(first, other)}`) wrong.push(`${first} and ${other}: ${chosen.name}`)
    }
  }
  t.same(wrong, [])
  t.end()
})

t.test('of many, a large one is looked at as often as it can take requests', t => {
  const members = Array.from({ length: 9 }, (_, i) => named(`${i}`, i === 0 ? 1_000 : 1, 0))
  const random = seededRandom(3)
  let large = 0
  for (let i = 0; i < 1_000; i++) if (leastBusy(members, random, new RoundRobin()).name === '0') large++
  t.ok(large > 950, `${large} of 1000`)
  t.end()
})
