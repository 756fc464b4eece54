// One request's picks among a model's backends: tiers, policy, what is left when nothing is available.
import type { Clock, Random } from '../clock.ts'
import type { BackendConfig, ModelConfig } from '../config/types.ts'
import {
  type BackendHealth,
  type HealthRegistry,
  isAvailable,
  isEjectedOrOnTrial,
  type Lease,
  takesWaiting,
  throttledForMs,
} from './health.ts'
import { type Candidate, firstTierWith, leastBusy, type RoundRobin, type Tiers } from './policies.ts'
import type { PromptPlacement } from './prompt-placement.ts'
import type { Place, WarmPlaces } from './warm-places.ts'

/** A backend's place in one pool. */
export interface Member extends Candidate {
  readonly backend: BackendConfig
  readonly health: BackendHealth
  readonly resourceId: string
}

export interface Leased {
  readonly kind: 'lease'
  readonly member: Member
  readonly lease: Lease
  /** A tier above could not take it. */
  readonly servedByLowerTier: boolean
  /** Nothing was available: a failed one is tried all the same. */
  readonly failOpen: boolean
}

export type PickResult =
  | Leased
  /** Somebody is throttled or full and otherwise sound; the soonest may be asked in `waitMs`. */
  | {
      readonly kind: 'throttled'
      readonly waitMs: number
      /** One of them is merely full: it may have a place at any time. */
      readonly isFull: boolean
    }
  /** Further tries in flight have reached their share (`retry.budget`). */
  | { readonly kind: 'over_budget' }
  /** Each member was tried, or none may be. */
  | { readonly kind: 'exhausted' }

export interface PickerOptions {
  /** Only these resources hold what the request needs; undefined: any. */
  readonly resources?: ReadonlySet<string> | undefined
  /** Members that can take the request at all; undefined: all. */
  readonly only?: ((member: Member) => boolean) | undefined
  /** Picked only if no other member is available. */
  readonly avoid?: ((member: Member) => boolean) | undefined
  /** 32-bit hash of the prompt's beginning, where the model balances by it and it is long enough. */
  readonly promptHash?: number | undefined
}

/** One request's way through a pool: each member at most once, a throttled one again after a wait. */
export interface Picker {
  pick(): PickResult
  /**
   * This member was tried and is throttled: it may be tried again once that is over and `retryThrottled` was called.
   */
  throttled(member: Member): void
  /**
   * Members that were tried and found throttled may be tried again as soon as they are available.
   * @param isLast its wait is over: what former throttles make likely holds it back no longer
   */
  retryThrottled(isLast: boolean): void
  /** May be tried once more: nothing was sent to it. */
  retry(member: Member): void
  /** How soon a throttled or full member that the request may use can be asked; undefined where none is. */
  soonest(): (PickResult & { readonly kind: 'throttled' }) | undefined
  /** All members of a resource are done with: it does not hold what the request needs. */
  skipResource(resourceId: string): void
  /** A reload came: from now on it picks of another pool of the model. */
  moveTo(shared: PickerShared): void
  end(): void
}

/** Further tries in flight that a full outage always permits, whatever the share says. */
const BUDGET_FLOOR = 3
/** Nobody knows when a full backend will have a free place: clients get this wait. */
export const FULL_WAIT_MS = 1_000

export interface PoolOptions {
  readonly model: ModelConfig
  readonly members: readonly Member[]
  readonly health: HealthRegistry
  readonly clock: Clock
  readonly random: Random
  /** Share of the requests in flight that may be further tries while every backend is out. */
  readonly retryBudget: number
  /**
   * Requests of this model that wait for capacity: while there are any, it is handed out as slowly as they are woken.
   */
  readonly waiting?: () => number
  /** Where conversations are warm, for `prompt_cache`; it outlives reloads. */
  readonly warmPlaces: WarmPlaces
}

/** The best guess among those that are out: the one that served last. Of equals the first in tier order. */
function lastServed(tiers: Tiers<Member>, usable: (member: Member) => boolean): Member | undefined {
  let chosen: Member | undefined
  for (const tier of tiers) {
    for (const member of tier) {
      if (!usable(member)) continue
      if (chosen === undefined || member.health.lastServedMs > chosen.health.lastServedMs) chosen = member
    }
  }
  return chosen
}

/** Whether it has as many requests as its config allows. */
export function isFull({ backend, health }: Member): boolean {
  return backend.maxInFlight !== undefined && health.inFlight >= backend.maxInFlight
}

/** What the pickers of one pool share. */
export interface PickerShared {
  readonly options: PoolOptions
  readonly tiers: Tiers<Member>
  readonly placement: PromptPlacement<Member>
  readonly turns: RoundRobin<Member>
  requestsInFlight: number
  furtherTriesInFlight: number
}

/** Step 6 of a request (lib/README.md). One for every request: a class, whose methods are made once. */
export class RequestPicker implements Picker {
  private shared: PickerShared
  private readonly resources: ReadonlySet<string> | undefined
  private readonly only: ((member: Member) => boolean) | undefined
  private readonly avoid: ((member: Member) => boolean) | undefined
  private readonly promptHash: number | undefined
  /** A handful at most: an array is made for less than a Set. */
  private tried: Member[] = []
  /** Those of `tried` that answered 429. */
  private busy: Member[] | undefined
  private ended = false
  private waitsNoLonger = false
  /** Its conversation's place, once it was chosen by it. */
  private place: Place | undefined

  constructor(shared: PickerShared, { resources, only, avoid, promptHash }: PickerOptions) {
    this.shared = shared
    this.resources = resources
    this.only = only
    this.avoid = avoid
    this.promptHash = promptHash
    shared.requestsInFlight++
  }

  pick(): PickResult {
    const { tiers, options } = this.shared
    const nowMs = options.clock.nowMs()
    const isOpen = (member: Member): boolean =>
      this.mayUse(member) && isAvailable(member.health, nowMs) && this.hasRoom(member, nowMs)
    const isWanted = (member: Member): boolean => isOpen(member) && (this.avoid === undefined || !this.avoid(member))
    const found =
      firstTierWith(tiers, member => isWanted(member) && member.health.exhaustedUntilMs <= nowMs) ??
      firstTierWith(tiers, isWanted) ??
      firstTierWith(tiers, isOpen)
    if (found !== undefined) return this.take(this.choose(found.members), found.tier > 0, false)
    return this.soonest() ?? this.failOpen(nowMs)
  }

  throttled(member: Member): void {
    this.busy ??= []
    this.busy.push(member)
  }

  retryThrottled(isLast: boolean): void {
    this.waitsNoLonger ||= isLast
    if (this.busy === undefined) return
    const { nowMs } = this.shared.options.clock
    const ready = this.busy.filter(({ health }) => throttledForMs(health, nowMs()) === 0)
    this.busy = this.busy.filter(member => !ready.includes(member))
    for (const member of ready) this.retry(member)
  }

  retry(member: Member): void {
    const at = this.tried.lastIndexOf(member)
    if (at !== -1) this.tried.splice(at, 1)
  }

  soonest(): (PickResult & { readonly kind: 'throttled' }) | undefined {
    const { members, clock } = this.shared.options
    const nowMs = clock.nowMs()
    let waitMs = Number.POSITIVE_INFINITY
    let full = false
    for (const member of members) {
      if (!this.allows(member) || isEjectedOrOnTrial(member.health, nowMs)) continue
      const throttledMs = throttledForMs(member.health, nowMs)
      if (this.tried.includes(member)) {
        if (this.busy?.includes(member) === true) waitMs = Math.min(waitMs, throttledMs)
      } else if (throttledMs > 0) waitMs = Math.min(waitMs, throttledMs)
      else if (!this.hasRoom(member, nowMs)) {
        full = true
        waitMs = Math.min(waitMs, FULL_WAIT_MS)
      }
    }
    return waitMs === Number.POSITIVE_INFINITY ? undefined : { kind: 'throttled', waitMs, isFull: full }
  }

  skipResource(resourceId: string): void {
    for (const member of this.shared.options.members) {
      if (member.resourceId === resourceId && !this.tried.includes(member)) this.tried.push(member)
    }
  }

  moveTo(shared: PickerShared): void {
    if (this.ended || this.shared === shared) return
    this.shared.requestsInFlight--
    shared.requestsInFlight++
    this.shared = shared
    // A member is known again by its deployment, whose health outlives the config.
    const among = (former: readonly Member[]): Member[] =>
      shared.options.members.filter(({ health }) => former.some(member => member.health === health))
    this.tried = among(this.tried)
    this.busy = this.busy && among(this.busy)
  }

  end(): void {
    if (this.ended) return
    this.ended = true
    this.shared.requestsInFlight--
    if (this.place !== undefined) this.place.inFlight--
  }

  /** Neither full, nor held back: while requests wait, capacity is handed out as slowly as they are woken. */
  private hasRoom(member: Member, nowMs: number): boolean {
    if (isFull(member)) return false
    const { waiting } = this.shared.options
    // True of every backend that was never throttled: nothing is counted for it.
    return takesWaiting(member.health, nowMs, this.waitsNoLonger) || waiting === undefined || waiting() === 0
  }

  private allows(member: Member): boolean {
    if (this.resources !== undefined && !this.resources.has(member.resourceId)) return false
    return this.only === undefined || this.only(member)
  }

  private mayUse(member: Member): boolean {
    return !this.tried.includes(member) && this.allows(member)
  }

  private choose(usable: readonly Member[]): Member {
    const { turns, options } = this.shared
    if (options.model.balance === 'least_busy') return leastBusy(usable, options.random, turns)
    if (options.model.balance === 'round_robin') return turns.next(usable)
    const { member, place } = this.shared.placement.choose(usable, this.promptHash)
    if (this.place === undefined && place !== undefined) {
      this.place = place
      place.inFlight++
    }
    return member
  }

  /** All that it may use are out: a failed one all the same, so that an outage of the probes is none of the service. */
  private failOpen(nowMs: number): PickResult {
    const { tiers, options, requestsInFlight, furtherTriesInFlight } = this.shared
    const member = lastServed(
      tiers,
      other => this.mayUse(other) && throttledForMs(other.health, nowMs) === 0 && !isFull(other),
    )
    if (member === undefined) return { kind: 'exhausted' }
    // Only a full outage is multiplied by retries; and what is bound to one resource must not flood it while others are
    // sound.
    const outage = !options.members.some(({ health }) => isAvailable(health, nowMs))
    const bound = !outage && this.resources !== undefined
    const further = bound || (outage && this.tried.length > 0)
    const allowed = Math.max(BUDGET_FLOOR, requestsInFlight * options.retryBudget)
    if (further && furtherTriesInFlight + 1 > allowed) return { kind: 'over_budget' }
    return this.take(member, false, true, further)
  }

  private take(member: Member, servedByLowerTier: boolean, failOpen: boolean, further = false): PickResult {
    const { shared } = this
    this.tried.push(member)
    if (!further) {
      return { kind: 'lease', member, lease: shared.options.health.lease(member.health), servedByLowerTier, failOpen }
    }
    shared.furtherTriesInFlight++
    const lease = shared.options.health.lease(member.health, () => {
      shared.furtherTriesInFlight--
    })
    return { kind: 'lease', member, lease, servedByLowerTier, failOpen }
  }
}
