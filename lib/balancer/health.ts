// How every deployment stands: in flight, throttled, ejected, on trial. The only owner of that state; what an attempt met is
// reported here through its lease, and choosing reads from here. It knows neither HTTP nor Azure.
import type { Clock } from '../clock.ts'

/** Why a deployment was taken out, as a stable code for logs and metrics. */
export type EjectReason =
  | 'connect_failed'
  | 'connect_timeout'
  | 'connection_lost'
  | 'protocol_error'
  | 'header_timeout'
  | 'first_output_timeout'
  | 'idle_timeout'
  | 'server_error'
  | 'stream_error'
  | 'credentials_refused'
  | 'deployment_missing'
  | 'credential_unavailable'
  | 'egress_refused'
  | 'probe_failed'
  | 'by_hand'

export interface Ejection {
  /** When it was thrown out; trouble that goes on does not change it. */
  readonly sinceMs: number
  /** When it was last seen to fail. */
  readonly failedMs: number
  readonly untilMs: number
  readonly reason: EjectReason
  /** What was seen, for people: `500`, `ECONNREFUSED`. No secret. */
  readonly detail: string
  /** The server itself named the time: a passing probe does not shorten it. */
  readonly named: boolean
}

/** What an attempt meant for the deployment it went to. */
export type Blame =
  | { readonly kind: 'none' }
  | { readonly kind: 'healthy' }
  | { readonly kind: 'throttled'; readonly waitMs: number }
  | { readonly kind: 'ejected'; readonly reason: EjectReason; readonly detail: string; readonly holdMs?: number }
  /** A timeout: blames only if nobody else was answered since the attempt began. */
  | { readonly kind: 'unanswered'; readonly reason: EjectReason; readonly detail: string }

export type HealthChange =
  | { readonly kind: 'ejected'; readonly health: BackendHealth; readonly ejection: Ejection }
  | { readonly kind: 'restored'; readonly health: BackendHealth; readonly by: 'trial' | 'request' | 'probe' | 'hand' }
  | { readonly kind: 'throttled'; readonly health: BackendHealth; readonly waitMs: number }

/** A deployment's own account of what it has left; wire reference 7.1. */
export interface Headroom {
  readonly remainingRequests: number | undefined
  readonly remainingTokens: number | undefined
  readonly limitRequests: number | undefined
  readonly limitTokens: number | undefined
  readonly atMs: number
}

/** One deployment's state. Read by choosing and by what is shown; written only in this file. */
export interface BackendHealth {
  readonly id: string
  readonly inFlight: number
  readonly throttledUntilMs: number
  /** Said of itself that nothing is left until then; avoided while others are there, not refused. */
  readonly exhaustedUntilMs: number
  readonly ejection: Ejection | undefined
  readonly trialInFlight: boolean
  readonly lastAnsweredMs: number
  readonly headroom: Headroom | undefined
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

/** The right to one attempt at one deployment; given back exactly once, with the blame. */
export interface Lease {
  /** A real answer came: the deployment lives, also if the stream that follows takes minutes. */
  answered(): void
  release(blame: Blame): void
}

export interface HealthRegistry {
  /** The standing of a deployment, made on first use. */
  of(id: string): BackendHealth
  lease(health: BackendHealth): Lease
  /** Azure said what is left; `exhaustedForMs` is how long there will be nothing, 0 when something is. */
  noteHeadroom(health: BackendHealth, headroom: Omit<Headroom, 'atMs'>, exhaustedForMs: number): void
  /** A probe's verdict on a deployment. `askedAtMs`: when the probe went out; an older pass cannot excuse a newer failure. */
  probePassed(health: BackendHealth, askedAtMs: number): void
  probeFailed(health: BackendHealth, reason: EjectReason, detail: string): void
  /** By an operator's hand; `holdMs` undefined means until restored. */
  eject(health: BackendHealth, holdMs: number | undefined): void
  restore(health: BackendHealth): void
  /** Forgets deployments that no pool uses any more and that nothing is in flight for. */
  retain(ids: ReadonlySet<string>): void
  /** Every change from now on, as it happens; returns how to stop listening. */
  onChange(listener: (change: HealthChange) => void): () => void
  /** What another worker learnt, taken over; the longer hold wins. */
  adopt(id: string, learnt: { readonly throttledUntilMs?: number; readonly ejection?: Ejection | null }): void
}

/** Whether it may be chosen now: neither throttled nor out, or its hold has passed and nobody is on trial. */
export function isAvailable(health: BackendHealth, nowMs: number): boolean {
  if (health.throttledUntilMs > nowMs) return false
  if (health.ejection === undefined) return true
  return health.ejection.untilMs <= nowMs && !health.trialInFlight
}

/** Whether it is out: ejected, and the hold has not passed. Throttled is not out. */
export function isEjected(health: BackendHealth, nowMs: number): boolean {
  return health.ejection !== undefined && health.ejection.untilMs > nowMs
}

/**
 * @param recoveryMs how long a failed deployment is left alone, unless it names a time itself
 */
export function createHealthRegistry({
  clock,
  recoveryMs,
}: {
  clock: Clock
  recoveryMs: () => number
}): HealthRegistry {
  const byId = new Map<string, Mutable<BackendHealth>>()
  const listeners = new Set<(change: HealthChange) => void>()

  const tell = (change: HealthChange): void => {
    for (const listener of listeners) listener(change)
  }

  const own = (health: BackendHealth): Mutable<BackendHealth> => {
    const found = byId.get(health.id)
    // A lease may outlive its deployment's place in the config: its state then concerns nobody but itself.
    return found ?? (health as Mutable<BackendHealth>)
  }

  const eject = (health: Mutable<BackendHealth>, ejection: Ejection): void => {
    const before = health.ejection
    const stillOut = before !== undefined && before.untilMs > ejection.failedMs
    health.ejection = stillOut ? { ...ejection, sinceMs: before.sinceMs } : ejection
    health.trialInFlight = false
    if (!stillOut || before.reason !== ejection.reason) tell({ kind: 'ejected', health, ejection: health.ejection })
  }

  const restore = (health: Mutable<BackendHealth>, by: 'trial' | 'request' | 'probe' | 'hand'): void => {
    if (health.ejection === undefined) return
    health.ejection = undefined
    health.trialInFlight = false
    tell({ kind: 'restored', health, by })
  }

  const throttle = (health: Mutable<BackendHealth>, waitMs: number): void => {
    const nowMs = clock.nowMs()
    const untilMs = nowMs + waitMs
    if (untilMs <= health.throttledUntilMs) return
    const wasThrottled = health.throttledUntilMs > nowMs
    health.throttledUntilMs = untilMs
    if (!wasThrottled && waitMs > 0) tell({ kind: 'throttled', health, waitMs })
  }

  const lease = (given: BackendHealth): Lease => {
    const health = own(given)
    const beganMs = clock.nowMs()
    const onTrial = health.ejection !== undefined && health.ejection.untilMs <= beganMs
    const underEjection = health.ejection
    let released = false
    health.inFlight++
    if (onTrial) health.trialInFlight = true

    const answered = (): void => {
      health.lastAnsweredMs = clock.nowMs()
      // An answer to a request that began before the ejection says nothing of the time after it.
      if (health.ejection === undefined || health.ejection !== underEjection) return
      // Asked because nobody else was left: what an operator took out stays out for the time that was said.
      if (health.ejection.reason === 'by_hand' && !onTrial) return
      restore(health, onTrial ? 'trial' : 'request')
    }

    const blameFailure = (reason: EjectReason, detail: string, holdMs: number | undefined): void => {
      const sinceMs = clock.nowMs()
      const untilMs = sinceMs + (holdMs ?? recoveryMs())
      const current = health.ejection
      // A straggler of the same trouble doesn't stretch the hold that the first one began, unless the server names a longer one.
      const straggler = current !== undefined && current !== underEjection
      if (straggler && (holdMs === undefined || current.untilMs >= untilMs)) return
      if (current?.named === true && current.untilMs > untilMs) return
      eject(health, { sinceMs, failedMs: sinceMs, untilMs, reason, detail, named: holdMs !== undefined })
    }

    return {
      answered,
      release(blame) {
        if (released) throw new Error(`lease of ${health.id} released twice`)
        released = true
        health.inFlight--
        if (onTrial && health.ejection === underEjection) health.trialInFlight = false
        switch (blame.kind) {
          case 'none':
            return
          case 'healthy':
            return answered()
          case 'throttled':
            answered()
            return throttle(health, blame.waitMs)
          case 'ejected':
            return blameFailure(blame.reason, blame.detail, blame.holdMs)
          case 'unanswered':
            if (health.lastAnsweredMs >= beganMs) return
            return blameFailure(blame.reason, blame.detail, undefined)
        }
      },
    }
  }

  return {
    of(id) {
      let health = byId.get(id)
      if (health === undefined) {
        health = {
          id,
          inFlight: 0,
          throttledUntilMs: Number.NEGATIVE_INFINITY,
          exhaustedUntilMs: Number.NEGATIVE_INFINITY,
          ejection: undefined,
          trialInFlight: false,
          lastAnsweredMs: Number.NEGATIVE_INFINITY,
          headroom: undefined,
        }
        byId.set(id, health)
      }
      return health
    },
    lease,
    noteHeadroom(given, headroom, exhaustedForMs) {
      const health = own(given)
      const atMs = clock.nowMs()
      const { remainingRequests, remainingTokens, limitRequests, limitTokens } = headroom
      // Said by nearly every answer: a spread took 1.3 µs.
      health.headroom = { remainingRequests, remainingTokens, limitRequests, limitTokens, atMs }
      health.exhaustedUntilMs = atMs + exhaustedForMs
    },
    probePassed(given, askedAtMs) {
      const health = own(given)
      const { ejection } = health
      if (ejection === undefined || ejection.failedMs > askedAtMs || ejection.named) return
      // A model list says nothing of a deployment, and a hand is stronger than a probe.
      if (ejection.reason === 'deployment_missing' || ejection.reason === 'by_hand') return
      if (ejection.reason === 'probe_failed') return restore(health, 'probe')
      // The hold ends, and one request decides: what failed may fail in a way that no probe sees.
      health.ejection = { ...ejection, untilMs: Math.min(ejection.untilMs, clock.nowMs()) }
    },
    probeFailed(given, reason, detail) {
      const health = own(given)
      const sinceMs = clock.nowMs()
      const untilMs = sinceMs + recoveryMs()
      if (health.ejection !== undefined && health.ejection.untilMs >= untilMs) return
      eject(health, { sinceMs, failedMs: sinceMs, untilMs, reason, detail, named: false })
    },
    eject(given, holdMs) {
      const sinceMs = clock.nowMs()
      const untilMs = holdMs === undefined ? Number.POSITIVE_INFINITY : sinceMs + holdMs
      eject(own(given), {
        sinceMs,
        failedMs: sinceMs,
        untilMs,
        reason: 'by_hand',
        detail: 'ejected by hand',
        named: true,
      })
    },
    restore(given) {
      const health = own(given)
      health.throttledUntilMs = Number.NEGATIVE_INFINITY
      restore(health, 'hand')
    },
    retain(ids) {
      for (const id of byId.keys()) if (!ids.has(id)) byId.delete(id)
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    adopt(id, learnt) {
      const health = byId.get(id)
      if (health === undefined) return
      if (learnt.throttledUntilMs !== undefined && learnt.throttledUntilMs > health.throttledUntilMs) {
        health.throttledUntilMs = learnt.throttledUntilMs
      }
      if (learnt.ejection === null) health.ejection = undefined
      else if (learnt.ejection !== undefined) health.ejection = learnt.ejection
    },
  }
}
