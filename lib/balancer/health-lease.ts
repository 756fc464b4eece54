// One attempt's right to a deployment, and the health that it reports to. It writes through the registry that gave it.
import type { Clock } from '../clock.ts'
import type { EjectReason, HealthEvent, HealthState } from './health-state.ts'
import { Ramp } from './ramp.ts'

/** What an attempt meant for the deployment it went to. */
export type Blame =
  | { readonly kind: 'none' }
  | { readonly kind: 'healthy' }
  | { readonly kind: 'throttled'; readonly waitMs: number }
  | {
      readonly kind: 'failed'
      readonly reason: EjectReason
      readonly detail: string
      /** The server named the time. */
      readonly holdMs?: number
      /** `out`: takes it out, and the lease may withdraw that; `mark`: counts towards the row of five alone. */
      readonly suspect: 'no' | 'out' | 'mark'
      /** A timeout: blames only if nobody else was answered since the attempt began. */
      readonly timeout: boolean
    }

/** A deployment's own account of what it has left (azure/README.md 7.1). */
export interface Headroom {
  readonly remainingRequests: number | undefined
  readonly remainingTokens: number | undefined
  readonly limitRequests: number | undefined
  readonly limitTokens: number | undefined
  readonly atMs: number
}

/** One deployment's health. Read by choosing and by what is shown; written only in this file. */
export interface BackendHealth {
  readonly id: string
  readonly state: HealthState
  /** Who made the state's version: orders equal versions of several processes. */
  readonly writer: number
  readonly inFlight: number
  /** Reported its rate limit as spent until then: picked last, not excluded. */
  readonly exhaustedUntilMs: number
  /** Last real response, 429s included. */
  readonly lastAnsweredMs: number
  /** Last response that was no 429. */
  readonly lastServedMs: number
  /** Its permits for waiting requests; undefined: it was never throttled, and takes any number. */
  readonly ramp: Ramp | undefined
  readonly headroom: Headroom | undefined
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/** The right to one attempt at one deployment; given back exactly once, with the blame. */
export interface Lease {
  /** The one request that decides about a deployment whose hold is over. */
  readonly isTrial: boolean
  /** A real response came: the deployment lives, also if the stream that follows takes minutes. */
  answered(): void
  release(blame: Blame): void
  /** Takes the released blame back: a second deployment met the same request with suspect trouble. */
  withdraw(): void
}

/** A health as its registry and its leases write it. */
export type Own = Mutable<BackendHealth>

/** What a lease does to the registry. */
export interface LeaseOwner {
  readonly clock: Clock
  apply(health: Own, event: HealthEvent): void
  freed(): void
}

/** One for every attempt: a class, whose methods are made once. */
export class HealthLease implements Lease {
  readonly isTrial: boolean
  private readonly owner: LeaseOwner
  private readonly health: Own
  private readonly number: number
  private readonly onRelease: (() => void) | undefined
  private readonly since: number
  private readonly beganMs: number
  /** Its number in the ramp; 0: the deployment had none. */
  private readonly turn: number
  private released = false
  private wasAnswered = false

  constructor(owner: LeaseOwner, health: Own, number: number, onRelease: (() => void) | undefined) {
    this.owner = owner
    this.health = health
    this.number = number
    this.onRelease = onRelease
    this.beganMs = owner.clock.nowMs()
    owner.apply(health, { kind: 'leased', lease: number })
    const { phase } = health.state
    this.isTrial = phase.kind === 'trial' && phase.lease === number
    this.since = health.state.sequence
    this.turn = health.ramp?.begin(this.beganMs) ?? 0
    health.inFlight++
  }

  answered(): void {
    const { health, owner } = this
    const nowMs = owner.clock.nowMs()
    health.lastAnsweredMs = nowMs
    health.lastServedMs = nowMs
    const isFirst = !this.wasAnswered
    this.wasAnswered = true
    if (isFirst) health.ramp?.succeeded(this.turn)
    owner.apply(health, { kind: 'answered', lease: this.number, since: this.since })
    if (isFirst) owner.freed()
  }

  release(blame: Blame): void {
    const { health, owner, number: lease } = this
    if (this.released) throw new Error(`lease of ${health.id} released twice`)
    this.released = true
    health.inFlight--
    this.onRelease?.()
    this.report(blame)
    // Whatever it brought: the place of a trial is free again.
    owner.apply(health, { kind: 'released', lease })
    if (!this.wasAnswered) health.ramp?.unanswered(this.turn)
    owner.freed()
  }

  withdraw(): void {
    this.owner.apply(this.health, { kind: 'withdrawn', lease: this.number })
  }

  private report(blame: Blame): void {
    const { health, owner, number: lease, since } = this
    if (blame.kind === 'healthy') this.answered()
    else if (blame.kind === 'throttled') {
      const nowMs = owner.clock.nowMs()
      health.lastAnsweredMs = nowMs
      health.ramp ??= new Ramp()
      health.ramp.throttled(nowMs, blame.waitMs, this.turn)
      this.wasAnswered = true
      owner.apply(health, { kind: 'throttled', lease, since, waitMs: blame.waitMs })
    } else if (blame.kind === 'failed') {
      const { reason, detail, holdMs, suspect, timeout } = blame
      if (timeout && health.lastAnsweredMs >= this.beganMs) return
      const silentSinceMs = timeout ? this.beganMs : Number.POSITIVE_INFINITY
      owner.apply(health, { kind: 'failed', lease, since, reason, detail, holdMs, suspect, silentSinceMs })
    }
  }
}
