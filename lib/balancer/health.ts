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

export type StandingChange =
  | { readonly kind: 'ejected'; readonly standing: Standing; readonly ejection: Ejection }
  | { readonly kind: 'restored'; readonly standing: Standing; readonly by: 'trial' | 'request' | 'probe' | 'hand' }
  | { readonly kind: 'throttled'; readonly standing: Standing; readonly waitMs: number }

/** A deployment's own account of what it has left; wire reference 7.1. */
export interface Headroom {
  readonly remainingRequests: number | undefined
  readonly remainingTokens: number | undefined
  readonly limitRequests: number | undefined
  readonly limitTokens: number | undefined
  readonly atMs: number
}

/** One deployment's state. Read by choosing and by what is shown; written only in this file. */
export interface Standing {
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

export interface Standings {
  /** The standing of a deployment, made on first use. */
  of(id: string): Standing
  lease(standing: Standing): Lease
  /** Azure said what is left; `exhaustedForMs` is how long there will be nothing, 0 when something is. */
  noteHeadroom(standing: Standing, headroom: Omit<Headroom, 'atMs'>, exhaustedForMs: number): void
  /** A probe's verdict on a deployment. `askedAtMs`: when the probe went out; an older pass cannot excuse a newer failure. */
  probePassed(standing: Standing, askedAtMs: number): void
  probeFailed(standing: Standing, reason: EjectReason, detail: string): void
  /** By an operator's hand; `holdMs` undefined means until restored. */
  eject(standing: Standing, holdMs: number | undefined): void
  restore(standing: Standing): void
  /** Forgets deployments that no pool uses any more and that nothing is in flight for. */
  retain(ids: ReadonlySet<string>): void
  /** Every change from now on, as it happens; returns how to stop listening. */
  onChange(listener: (change: StandingChange) => void): () => void
  /** What another worker learnt, taken over; the longer hold wins. */
  adopt(id: string, learnt: { readonly throttledUntilMs?: number; readonly ejection?: Ejection | null }): void
}

/** Whether it may be chosen now: neither throttled nor out, or its hold has passed and nobody is on trial. */
export function isAvailable(standing: Standing, nowMs: number): boolean {
  if (standing.throttledUntilMs > nowMs) return false
  if (standing.ejection === undefined) return true
  return standing.ejection.untilMs <= nowMs && !standing.trialInFlight
}

/** Whether it is out: ejected, and the hold has not passed. Throttled is not out. */
export function isOut(standing: Standing, nowMs: number): boolean {
  return standing.ejection !== undefined && standing.ejection.untilMs > nowMs
}

/**
 * @param recoveryMs how long a failed deployment is left alone, unless it names a time itself
 */
export function createStandings({ clock, recoveryMs }: { clock: Clock; recoveryMs: () => number }): Standings {
  const byId = new Map<string, Mutable<Standing>>()
  const listeners = new Set<(change: StandingChange) => void>()

  const tell = (change: StandingChange): void => {
    for (const listener of listeners) listener(change)
  }

  const own = (standing: Standing): Mutable<Standing> => {
    const found = byId.get(standing.id)
    // A lease may outlive its deployment's place in the config: its state then concerns nobody but itself.
    return found ?? (standing as Mutable<Standing>)
  }

  const eject = (standing: Mutable<Standing>, ejection: Ejection): void => {
    const before = standing.ejection
    const stillOut = before !== undefined && before.untilMs > ejection.failedMs
    standing.ejection = stillOut ? { ...ejection, sinceMs: before.sinceMs } : ejection
    standing.trialInFlight = false
    if (!stillOut || before.reason !== ejection.reason) tell({ kind: 'ejected', standing, ejection: standing.ejection })
  }

  const restore = (standing: Mutable<Standing>, by: 'trial' | 'request' | 'probe' | 'hand'): void => {
    if (standing.ejection === undefined) return
    standing.ejection = undefined
    standing.trialInFlight = false
    tell({ kind: 'restored', standing, by })
  }

  const throttle = (standing: Mutable<Standing>, waitMs: number): void => {
    const nowMs = clock.nowMs()
    const untilMs = nowMs + waitMs
    if (untilMs <= standing.throttledUntilMs) return
    const wasThrottled = standing.throttledUntilMs > nowMs
    standing.throttledUntilMs = untilMs
    if (!wasThrottled && waitMs > 0) tell({ kind: 'throttled', standing, waitMs })
  }

  const lease = (given: Standing): Lease => {
    const standing = own(given)
    const beganMs = clock.nowMs()
    const onTrial = standing.ejection !== undefined && standing.ejection.untilMs <= beganMs
    const underEjection = standing.ejection
    let released = false
    standing.inFlight++
    if (onTrial) standing.trialInFlight = true

    const answered = (): void => {
      standing.lastAnsweredMs = clock.nowMs()
      // An answer to a request that began before the ejection says nothing of the time after it.
      if (standing.ejection === undefined || standing.ejection !== underEjection) return
      // Asked because nobody else was left: what an operator took out stays out for the time that was said.
      if (standing.ejection.reason === 'by_hand' && !onTrial) return
      restore(standing, onTrial ? 'trial' : 'request')
    }

    const blameFailure = (reason: EjectReason, detail: string, holdMs: number | undefined): void => {
      const sinceMs = clock.nowMs()
      const untilMs = sinceMs + (holdMs ?? recoveryMs())
      const current = standing.ejection
      // A straggler of the same trouble doesn't stretch the hold that the first one began, unless the server names a longer one.
      const straggler = current !== undefined && current !== underEjection
      if (straggler && (holdMs === undefined || current.untilMs >= untilMs)) return
      if (current?.named === true && current.untilMs > untilMs) return
      eject(standing, { sinceMs, failedMs: sinceMs, untilMs, reason, detail, named: holdMs !== undefined })
    }

    return {
      answered,
      release(blame) {
        if (released) throw new Error(`lease of ${standing.id} released twice`)
        released = true
        standing.inFlight--
        if (onTrial && standing.ejection === underEjection) standing.trialInFlight = false
        switch (blame.kind) {
          case 'none':
            return
          case 'healthy':
            return answered()
          case 'throttled':
            answered()
            return throttle(standing, blame.waitMs)
          case 'ejected':
            return blameFailure(blame.reason, blame.detail, blame.holdMs)
          case 'unanswered':
            if (standing.lastAnsweredMs >= beganMs) return
            return blameFailure(blame.reason, blame.detail, undefined)
        }
      },
    }
  }

  return {
    of(id) {
      let standing = byId.get(id)
      if (standing === undefined) {
        standing = {
          id,
          inFlight: 0,
          throttledUntilMs: Number.NEGATIVE_INFINITY,
          exhaustedUntilMs: Number.NEGATIVE_INFINITY,
          ejection: undefined,
          trialInFlight: false,
          lastAnsweredMs: Number.NEGATIVE_INFINITY,
          headroom: undefined,
        }
        byId.set(id, standing)
      }
      return standing
    },
    lease,
    noteHeadroom(given, headroom, exhaustedForMs) {
      const standing = own(given)
      const atMs = clock.nowMs()
      const { remainingRequests, remainingTokens, limitRequests, limitTokens } = headroom
      // Said by nearly every answer: a spread took 1.3 µs.
      standing.headroom = { remainingRequests, remainingTokens, limitRequests, limitTokens, atMs }
      standing.exhaustedUntilMs = atMs + exhaustedForMs
    },
    probePassed(given, askedAtMs) {
      const standing = own(given)
      const { ejection } = standing
      if (ejection === undefined || ejection.failedMs > askedAtMs || ejection.named) return
      // A model list says nothing of a deployment, and a hand is stronger than a probe.
      if (ejection.reason === 'deployment_missing' || ejection.reason === 'by_hand') return
      if (ejection.reason === 'probe_failed') return restore(standing, 'probe')
      // The hold ends, and one request decides: what failed may fail in a way that no probe sees.
      standing.ejection = { ...ejection, untilMs: Math.min(ejection.untilMs, clock.nowMs()) }
    },
    probeFailed(given, reason, detail) {
      const standing = own(given)
      const sinceMs = clock.nowMs()
      const untilMs = sinceMs + recoveryMs()
      if (standing.ejection !== undefined && standing.ejection.untilMs >= untilMs) return
      eject(standing, { sinceMs, failedMs: sinceMs, untilMs, reason, detail, named: false })
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
      const standing = own(given)
      standing.throttledUntilMs = Number.NEGATIVE_INFINITY
      restore(standing, 'hand')
    },
    retain(ids) {
      for (const id of byId.keys()) if (!ids.has(id)) byId.delete(id)
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    adopt(id, learnt) {
      const standing = byId.get(id)
      if (standing === undefined) return
      if (learnt.throttledUntilMs !== undefined && learnt.throttledUntilMs > standing.throttledUntilMs) {
        standing.throttledUntilMs = learnt.throttledUntilMs
      }
      if (learnt.ejection === null) standing.ejection = undefined
      else if (learnt.ejection !== undefined) standing.ejection = learnt.ejection
    },
  }
}
