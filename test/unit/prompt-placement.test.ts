// Placement of conversations under `balance: prompt_cache`: when one stays, when it moves, what is remembered.
import t from 'tap'
import { type Candidate, LOAD_BOUND, promptCache, RoundRobin } from '../../lib/balancer/policies.ts'
import { hashText } from '../../lib/balancer/pool.ts'
import { PromptPlacement } from '../../lib/balancer/prompt-placement.ts'
import { createWarmPlaces } from '../../lib/balancer/warm-places.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

interface Named extends Candidate {
  readonly name: string
  inFlight: number
}

function stage(names: readonly string[]) {
  const clock = createFakeClock()
  const members = names.map((name): Named => ({ name, weight: 1, inFlight: 0, hashSeed: hashText(name) }))
  const places = createWarmPlaces(clock)
  const placement = new PromptPlacement<Named>(clock, places, 1, new RoundRobin())
  return {
    clock,
    members,
    places,
    placement,
    /** A request that stays in flight until its `end`. */
    send(hash: number, usable: readonly Named[] = members) {
      const { member, place } = placement.choose(usable, hash)
      member.inFlight++
      if (place !== undefined) place.inFlight++
      return {
        member,
        end() {
          member.inFlight--
          if (place !== undefined) place.inFlight--
        },
      }
    },
    /** As above, and over at once. */
    turn(hash: number, usable: readonly Named[] = members): Named {
      const request = this.send(hash, usable)
      request.end()
      return request.member
    },
    /** `each` requests in flight at every member for so long that their average says so too. */
    carry(each: number) {
      for (const member of members) member.inFlight += each
      for (let minute = 0; minute < 10; minute++) {
        clock.advance(60_000)
        placement.choose(members, undefined)
      }
    },
  }
}

const most = (members: readonly Named[]): number => Math.max(...members.map(({ inFlight }) => inFlight))

t.test('what has no cache to warm goes in turn, within the same bound', t => {
  const { members, placement } = stage(['a', 'b', 'c'])
  for (const member of members) if (member.name === 'c') member.inFlight = 9
  const taken = Array.from({ length: 4 }, () => placement.choose(members, undefined).member.name)
  t.equal(taken.join(''), 'abab', 'c carries more than its share already')
  t.end()
})

t.test('without load every process sends a conversation where the hash says', t => {
  const one = stage(['a', 'b', 'c', 'd'])
  for (let hash = 0; hash < 200; hash++) {
    const home = promptCache(one.members, hash).name
    t.equal(one.turn(hash).name, home)
    t.equal(stage(['d', 'c', 'b', 'a']).turn(hash).name, home, 'another process, another order')
  }
  t.end()
})

t.test('cold conversations obey the bound at every moment', t => {
  const { members, send } = stage(['a', 'b', 'c', 'd'])
  for (let hash = 1; hash <= 400; hash++) {
    send(hash)
    t.ok(most(members) <= (LOAD_BOUND * hash) / 4 + 1, `${most(members)} of ${hash}`)
  }
  t.end()
})

t.test('a prompt that many send at once obeys it too, however warm it is', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  stand.turn(7)
  for (let sent = 1; sent <= 100; sent++) {
    stand.send(7)
    t.ok(most(stand.members) <= (LOAD_BOUND * sent) / 4 + 1, `${most(stand.members)} of ${sent}`)
  }
  t.end()
})

t.test('a burst of warm conversations obeys it: the average says nothing of a burst', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  for (let hash = 1; hash <= 100; hash++) stand.turn(hash)
  stand.clock.advance(10_000)
  for (let hash = 1; hash <= 100; hash++) {
    stand.send(hash)
    t.ok(most(stand.members) <= (LOAD_BOUND * hash) / 4 + 1, `${most(stand.members)} of ${hash}`)
  }
  t.end()
})

t.test('a warm conversation stays while its backend has a few more in flight than its share', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  stand.carry(10)
  const home = stand.turn(7)
  home.inFlight += 5
  t.equal(stand.turn(7), home, '15 of 45, with 10 on average: a swing')
  t.not(stand.turn(promptAt(stand.members, home)), home, 'a cold one goes elsewhere meanwhile')
  home.inFlight += 20
  t.not(stand.turn(7), home, '35 of 65 is none')
  t.end()
})

/** A hash whose first choice is this member, other than those used above. */
function promptAt(members: readonly Named[], member: Named): number {
  const idle = members.map(other => ({ ...other, inFlight: 0 }))
  for (let hash = 1_000; ; hash++) if (promptCache(idle, hash).name === member.name) return hash
}

t.test('a conversation that had to move stays where it went, and does not hop back', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  stand.carry(10)
  const home = stand.turn(7)
  home.inFlight += 40
  const second = stand.turn(7)
  t.not(second, home)
  home.inFlight -= 40
  for (let turn = 0; turn < 5; turn++) {
    stand.clock.advance(30_000)
    t.equal(stand.turn(7), second)
  }
  stand.clock.advance(301_000)
  t.equal(stand.turn(7), home, 'cold again: the hash decides')
  t.end()
})

t.test('a conversation moves for good once its backend carries too much on average', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  stand.carry(10)
  const home = stand.turn(7)
  home.inFlight += 6
  t.equal(stand.turn(7), home)
  for (let i = 0; i < 12; i++) {
    stand.clock.advance(10_000)
    stand.placement.choose(stand.members, undefined)
  }
  t.not(stand.turn(7), home, '16 of 46 for two minutes is 1.39 times its share')
  t.end()
})

t.test('a conversation whose backend is out for a while comes back to it', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  const home = stand.turn(7)
  const others = stand.members.filter(member => member !== home)
  const meanwhile = stand.turn(7, others)
  t.equal(stand.turn(7, others), meanwhile, 'the same one as long as it lasts')
  t.equal(stand.turn(7), home)
  t.end()
})

t.test('weights: a backend of twice the weight may carry twice the swing', t => {
  const stand = stage(['a', 'b'])
  const members = stand.members.map((member, i) => ({ ...member, weight: i === 0 ? 3 : 1 }))
  const placement = new PromptPlacement<(typeof members)[number]>(stand.clock, stand.places, 2, new RoundRobin())
  for (let hash = 1; hash <= 400; hash++) placement.choose(members, hash).member.inFlight++
  const [large, small] = members
  t.ok((large?.inFlight ?? 0) <= LOAD_BOUND * 300 + 1)
  t.ok((small?.inFlight ?? 0) <= LOAD_BOUND * 100 + 1)
  t.end()
})

t.test('the same prompt for two models is two conversations', t => {
  const stand = stage(['a', 'b', 'c', 'd'])
  const other = new PromptPlacement<Named>(stand.clock, stand.places, 2, new RoundRobin())
  stand.turn(7)
  other.choose(stand.members, 7)
  t.equal(stand.places.size(), 2)
  t.end()
})

t.test('what is remembered is bounded: the conversation that was silent longest goes first', t => {
  const clock = createFakeClock()
  const places = createWarmPlaces(clock, 2)
  places.use(1, 10)
  places.use(2, 10)
  places.use(1, 10)
  places.use(3, 10)
  t.equal(places.size(), 2)
  t.equal(places.of(2), undefined)
  t.equal(places.of(1)?.seed, 10)
  t.end()
})
