// Policies that choose the member for the next request. Policies see only members that may be chosen, all of one tier.
import type { Random } from '../clock.ts'

/** What a policy looks at. */
export interface Candidate {
  readonly weight: number
  readonly inFlight: number
  /** Stable over restarts and replicas: what a prompt is hashed with. */
  readonly hashSeed: number
}

/** Up to this many members every one is looked at; above, two random ones (see leastBusy). */
const FULL_LOOK_MAX = 8

/** How far over its fair share of the requests in flight a member may go for a warm cache. */
export const LOAD_BOUND = 1.25

/** Members of equal priority, the first to be used first. */
export type Tiers<T> = readonly (readonly T[])[]

/** The usable members of the first tier that has any, and which tier that is (0: the first). */
export function firstTierWith<T>(
  tiers: Tiers<T>,
  usable: (member: T) => boolean,
): { readonly tier: number; readonly members: readonly T[] } | undefined {
  for (let tier = 0; tier < tiers.length; tier++) {
    const members = tiers[tier]?.filter(usable) ?? []
    if (members.length > 0) return { tier, members }
  }
  return undefined
}

function first<T>(members: readonly T[]): T {
  const member = members[0]
  if (member === undefined) throw new Error('a policy was asked to choose among no members')
  return member
}

/** Sets of members whose turns are remembered; a set beyond them begins anew. Eight members have no more than these. */
const MAX_SETS = 256

/** Members that may be chosen together, and what each has saved up. */
interface Round<T> {
  readonly members: readonly T[]
  readonly credits: number[]
}

function isAmong<T>({ members }: Round<T>, usable: readonly T[]): boolean {
  if (members.length !== usable.length) return false
  for (let i = 0; i < usable.length; i++) if (members[i] !== usable[i]) return false
  return true
}

/**
 * Smooth weighted round robin, as nginx does it: every member gains its weight, the richest is taken and pays the sum
 * of all. Each set of members has rounds of its own: over any `sum of weights` turns of a set each of it is taken
 * exactly `weight` times, and never in a burst. Credit carried from one set to another would break that: a member that
 * was out for a while would come back with too much of it, or too little.
 */
export class RoundRobin<T extends Candidate> {
  private readonly rounds = new Map<string, Round<T>>()
  private last: Round<T> | undefined

  /** The member whose turn it is. @param usable those that may be chosen, always in the same order */
  next(usable: readonly T[]): T {
    const { members, credits } = this.roundOf(usable)
    let at = 0
    let total = 0
    for (let i = 0; i < members.length; i++) {
      const { weight } = members[i] ?? first(usable)
      credits[i] = (credits[i] ?? 0) + weight
      total += weight
      if ((credits[i] ?? 0) > (credits[at] ?? 0)) at = i
    }
    credits[at] = (credits[at] ?? 0) - total
    return members[at] ?? first(usable)
  }

  private roundOf(usable: readonly T[]): Round<T> {
    // Nearly always the same members as a moment ago.
    if (this.last !== undefined && isAmong(this.last, usable)) return this.last
    let key = ''
    for (const { hashSeed } of usable) key += `${hashSeed} `
    const known = this.rounds.get(key)
    const round =
      known !== undefined && isAmong(known, usable) ? known : { members: usable, credits: usable.map(() => 0) }
    // The set used last is the last to be forgotten.
    this.rounds.delete(key)
    this.rounds.set(key, round)
    if (this.rounds.size > MAX_SETS) {
      const [oldest] = this.rounds.keys()
      if (oldest !== undefined) this.rounds.delete(oldest)
    }
    this.last = round
    return round
  }
}

/** A random member by weight, other than `not`: a large deployment is looked at as often as it can take requests. */
function draw<T extends Candidate>(members: readonly T[], random: Random, not: T | undefined): T {
  let weights = 0
  for (const member of members) if (member !== not) weights += member.weight
  let left = random() * weights
  let chosen = first(members)
  for (const member of members) {
    if (member === not) continue
    chosen = member
    left -= member.weight
    if (left < 0) break
  }
  return chosen
}

/**
 * Fewest requests in flight per weight. Few members are all compared, and ties taken in turn. Of many, two drawn by
 * weight are compared: the power of two choices (Mitzenmacher 2001). That is nearly as even, and many proxies do not
 * all run to the same idle one.
 */
export function leastBusy<T extends Candidate>(members: readonly T[], random: Random, turns: RoundRobin<T>): T {
  if (members.length > FULL_LOOK_MAX) {
    const one = draw(members, random, undefined)
    const other = draw(members, random, one)
    return other.inFlight * one.weight < one.inFlight * other.weight ? other : one
  }
  let least = Number.POSITIVE_INFINITY
  for (const member of members) least = Math.min(least, member.inFlight / member.weight)
  return turns.next(members.filter(member => member.inFlight / member.weight <= least))
}

/** A well-mixed 32-bit hash of two 32-bit numbers (the finalizer of MurmurHash3, public domain). */
export function mix(a: number, b: number): number {
  let h = Math.imul(a ^ Math.imul(b, 0x9e3779b1), 0x85ebca6b)
  h ^= h >>> 16
  h = Math.imul(h, 0x85ebca6b)
  h ^= h >>> 13
  h = Math.imul(h, 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/**
 * Whether a member may take one more: it carries less than 1.25 times its share of what is in flight. One is added to
 * the share, so that a lone request is not sent away. At least one is always below, since all of them together carry
 * their shares exactly.
 */
export function withinBound(members: readonly Candidate[]): (member: Candidate) => boolean {
  let inFlight = 1
  let weights = 0
  for (const member of members) {
    inFlight += member.inFlight
    weights += member.weight
  }
  return member => member.inFlight <= ((inFlight * member.weight) / weights) * LOAD_BOUND
}

/**
 * Rendezvous hashing with weights and bounded load. Every prompt ranks the members the same way everywhere, and goes to
 * the best one within the bound. A member that leaves gives up only its own prompts, and gets them back when it
 * returns. Sources: Thaler and Ravishankar 1998; Mirrokni, Thorup, Zadimoghaddam 2016 (bounded loads); score −weight ÷
 * ln(hash).
 * @param promptHash 32-bit hash of what the prompts have in common
 */
export function promptCache<T extends Candidate>(members: readonly T[], promptHash: number): T {
  const isFree = withinBound(members)
  let chosen: T | undefined
  let best = Number.NEGATIVE_INFINITY
  for (const member of members) {
    if (!isFree(member)) continue
    const unit = (mix(promptHash, member.hashSeed) + 0.5) / 2 ** 32
    const score = -member.weight / Math.log(unit)
    if (score > best) {
      best = score
      chosen = member
    }
  }
  return chosen ?? first(members)
}
