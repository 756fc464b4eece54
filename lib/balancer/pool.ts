// A model's backends, and the turns its requests take at them: tiers, policy, what is left when nothing is available.
import type { Clock, Random } from '../clock.ts'
import type { BackendConfig, ModelConfig } from '../config/types.ts'
import { type BackendHealth, type HealthRegistry, isAvailable, isEjected, type Lease } from './health.ts'
import { type Candidate, leastBusy, promptCache, roundRobin } from './policies.ts'

/** A backend's place in one pool. */
export interface Member extends Candidate {
  readonly backend: BackendConfig
  readonly health: BackendHealth
  readonly resourceId: string
}

export type PickResult =
  | {
      readonly kind: 'lease'
      readonly member: Member
      readonly lease: Lease
      /** A tier above could not take it. */
      readonly servedByLowerTier: boolean
      /** Nothing was available: a failed one is tried all the same. */
      readonly failOpen: boolean
    }
  /** All that is left is throttled; the soonest is back in `waitMs`. */
  | { readonly kind: 'throttled'; readonly waitMs: number }
  /** Further tries in flight have reached their share (`retry.budget`). */
  | { readonly kind: 'over_budget' }
  /** Each member was tried, or none may be. */
  | { readonly kind: 'exhausted' }

export interface PickerOptions {
  /** Only these members hold what the request needs; left out: all. */
  readonly allow?: ((member: Member) => boolean) | undefined
  /** Known not to offer this: taken only when nothing else is there. */
  readonly avoid?: ((member: Member) => boolean) | undefined
  /** 32-bit hash of the prompt's beginning, where the model balances by it and it is long enough. */
  readonly promptHash?: number | undefined
}

/** One request's way through a pool: each member at most once. */
export interface Picker {
  pick(): PickResult
  /** How soon a throttled member that the request may use is back, tried or not; undefined when none is throttled. */
  soonestMs(): number | undefined
  /** How soon any member that the request may use can be asked again, thrown out or throttled; 0 when one is available. */
  soonestBackMs(): number
  /** Members that were tried and found throttled may be tried again, now that a wait has passed. */
  retryThrottled(): void
  /** All members of a resource are done with: it does not hold what the request needs. */
  skipResource(resourceId: string): void
  end(): void
}

export interface Pool {
  readonly model: ModelConfig
  readonly members: readonly Member[]
  picker(options: PickerOptions): Picker
  /** Members that are not out; throttled ones count as healthy. */
  counts(): { readonly healthy: number; readonly total: number }
}

/** Further tries in flight that a full outage always permits, whatever the share says (contract, `retry.budget`). */
const BUDGET_FLOOR = 3

export interface PoolOptions {
  readonly model: ModelConfig
  readonly members: readonly Member[]
  readonly health: HealthRegistry
  readonly clock: Clock
  readonly random: Random
  /** Share of the requests in flight that may be further tries while every backend is out. */
  readonly retryBudget: number
}

/** A 32-bit FNV-1a hash of a text's UTF-16 units: stable over processes, for rendezvous seeds. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

function tiersOf(members: readonly Member[]): readonly (readonly Member[])[] {
  const byPriority = new Map<number, Member[]>()
  for (const member of members) {
    const tier = byPriority.get(member.backend.priority)
    if (tier === undefined) byPriority.set(member.backend.priority, [member])
    else tier.push(member)
  }
  return [...byPriority.entries()].sort(([a], [b]) => a - b).map(([, tier]) => tier)
}

/** How long a failed member has rested: the one out longest is the best guess when all are out. */
function longestEjected(members: readonly Member[]): Member | undefined {
  let chosen: Member | undefined
  for (const member of members) {
    const since = member.health.ejection?.sinceMs ?? Number.NEGATIVE_INFINITY
    const best = chosen?.health.ejection?.sinceMs ?? Number.NEGATIVE_INFINITY
    if (chosen === undefined || since < best) chosen = member
  }
  return chosen
}

export function createPool({ model, members, health: healthRegistry, clock, random, retryBudget }: PoolOptions): Pool {
  const tiers = tiersOf(members)
  let requestsInFlight = 0
  let furtherTriesInFlight = 0

  const choose = (usable: readonly Member[], promptHash: number | undefined): Member => {
    if (model.balance === 'least_busy') return leastBusy(usable, random)
    if (model.balance === 'prompt_cache') return promptCache(usable, promptHash)
    return roundRobin(usable)
  }

  const begin = ({ allow, avoid, promptHash }: PickerOptions): Picker => {
    // A handful at most; an array is made for less than a Set.
    const tried: Member[] = []
    let ended = false
    requestsInFlight++

    const firstTierWith = (usable: (member: Member) => boolean): { tier: number; members: Member[] } | undefined => {
      for (let index = 0; index < tiers.length; index++) {
        const found = tiers[index]?.filter(usable) ?? []
        if (found.length > 0) return { tier: index, members: found }
      }
      return undefined
    }

    const mayUse = (member: Member): boolean => !tried.includes(member) && (allow === undefined || allow(member))

    const take = (member: Member, spilled: boolean, failOpen: boolean): PickResult => {
      const further = failOpen && tried.length > 0
      tried.push(member)
      const lease = healthRegistry.lease(member.health)
      if (!further) return { kind: 'lease', member, lease, servedByLowerTier: spilled, failOpen }
      furtherTriesInFlight++
      const counted: Lease = {
        answered: lease.answered,
        release(blame) {
          furtherTriesInFlight--
          lease.release(blame)
        },
      }
      return { kind: 'lease', member, lease: counted, servedByLowerTier: spilled, failOpen }
    }

    const soonestMs = (): number | undefined => {
      const nowMs = clock.nowMs()
      let soonest: number | undefined
      for (const member of members) {
        if (allow !== undefined && !allow(member)) continue
        const waitMs = member.health.throttledUntilMs - nowMs
        if (waitMs > 0 && (soonest === undefined || waitMs < soonest)) soonest = waitMs
      }
      return soonest
    }

    return {
      soonestMs,
      soonestBackMs() {
        const nowMs = clock.nowMs()
        let soonest = Number.POSITIVE_INFINITY
        for (const member of members) {
          if (allow !== undefined && !allow(member)) continue
          const { throttledUntilMs, ejection } = member.health
          soonest = Math.min(soonest, Math.max(throttledUntilMs, ejection?.untilMs ?? nowMs, nowMs) - nowMs)
        }
        return soonest
      },
      retryThrottled() {
        const nowMs = clock.nowMs()
        for (let i = tried.length - 1; i >= 0; i--) {
          const health = tried[i]?.health
          if (health === undefined) continue
          if (Number.isFinite(health.throttledUntilMs) && isAvailable(health, nowMs)) tried.splice(i, 1)
        }
      },
      skipResource(resourceId) {
        for (const member of members)
          if (member.resourceId === resourceId && !tried.includes(member)) tried.push(member)
      },
      pick() {
        const nowMs = clock.nowMs()
        const open = (member: Member): boolean => mayUse(member) && isAvailable(member.health, nowMs)
        const wanted = (member: Member): boolean => open(member) && (avoid === undefined || !avoid(member))
        const found =
          firstTierWith(member => wanted(member) && member.health.exhaustedUntilMs <= nowMs) ??
          firstTierWith(wanted) ??
          firstTierWith(open)
        if (found !== undefined) return take(choose(found.members, promptHash), found.tier > 0, false)

        const resting = longestEjected(
          members.filter(member => mayUse(member) && member.health.throttledUntilMs <= nowMs),
        )
        // What is bound to one resource waits for it while the others are sound: its trouble is not the pool's.
        const elsewhere =
          allow !== undefined && members.some(member => !allow(member) && isAvailable(member.health, nowMs))
        if (resting !== undefined && !elsewhere) {
          // Only a full outage is multiplied by retries: with anyone available in the pool there is none.
          const outage = !members.some(member => isAvailable(member.health, nowMs))
          const allowed = Math.max(BUDGET_FLOOR, requestsInFlight * retryBudget)
          if (outage && tried.length > 0 && furtherTriesInFlight + 1 > allowed) return { kind: 'over_budget' }
          return take(resting, false, true)
        }
        const waitMs = members.some(member => mayUse(member)) ? soonestMs() : undefined
        return waitMs === undefined ? { kind: 'exhausted' } : { kind: 'throttled', waitMs }
      },
      end() {
        if (ended) return
        ended = true
        requestsInFlight--
      },
    }
  }

  return {
    model,
    members,
    picker: begin,
    counts() {
      const nowMs = clock.nowMs()
      return { healthy: members.filter(member => !isEjected(member.health, nowMs)).length, total: members.length }
    },
  }
}
