// The state of a deployment's health: its phase, its throttle, and the events that change them. Pure data; the changes
// are in health-machine.ts. The phases:
//   in        chosen like any other
//   held      out until `dueAtMs`; picked only when nothing else is left
//   due       its hold is over: the next request is its trial
//   trial     that request is in progress; its lease has the number `lease`
// A request's result counts by `sequence`, which grows with every change here. A request that began before a failure
// was seen says nothing of the time after it. `version` and `hand` order the states of several processes
// (health-snapshot.ts).

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
  | 'account_refused'
  | 'network_refused'
  | 'egress_refused'
  | 'deployment_missing'
  | 'operation_not_supported'
  | 'not_an_api'
  | 'credential_unavailable'
  | 'probe_failed'
  | 'by_hand'

/** What keeps a deployment out. Times are monotonic milliseconds. */
export interface Trouble {
  /** When it was taken out; trouble that goes on does not change it. */
  readonly sinceMs: number
  /** When it was last seen to fail. */
  readonly failedMs: number
  readonly failedSequence: number
  /** When the hold ends; Infinity: when somebody restores it. */
  readonly untilMs: number
  /** When a trial is due: the hold's end, sooner in a long hold that a server named, later while probes fail. */
  readonly dueAtMs: number
  readonly reason: EjectReason
  /** What was seen, for people: `500`, `ECONNREFUSED`. No secret. */
  readonly detail: string
  /** A server or an operator named the time: a passing probe does not shorten it. */
  readonly named: boolean
  readonly seenBy: 'request' | 'probe' | 'hand'
  /** The last probe failed too. */
  readonly probeFailing: boolean
  /** Of a timeout: since when it had answered nobody; Infinity: it was seen to fail. */
  readonly silentSinceMs: number
  /** Leases whose blame may still be withdrawn; it stands where there is none. */
  readonly provisional: readonly number[]
  /** What a withdrawal returns to; undefined: in. */
  readonly before: Trouble | undefined
}

export type Phase =
  | { readonly kind: 'in' }
  | { readonly kind: 'held'; readonly trouble: Trouble }
  | { readonly kind: 'due'; readonly trouble: Trouble }
  | { readonly kind: 'trial'; readonly trouble: Trouble; readonly lease: number }

/** A 429's wait. Throttled is sound: it has nothing to do with the phase. */
export interface Throttle {
  readonly untilMs: number
  /** When it may be asked again: the wait's end, sooner in a wait of hours. */
  readonly dueAtMs: number
  /** The lease that asks during such a wait; 0: none. */
  readonly trial: number
  /** Grows when a throttle is lifted before its time, so that older news does not bring it back. */
  readonly epoch: number
}

export interface HealthState {
  readonly sequence: number
  /**
   * When an operator spoke last, by the wall clock in milliseconds; 0: never. The later word is stronger than anything
   * that was seen, in whatever process it was given.
   */
  readonly hand: number
  readonly version: number
  readonly phase: Phase
  readonly throttle: Throttle
  /** Requests in a row that met suspect trouble, with no success between. */
  readonly marks: number
  /** A request was answered while probes failed: they count again once one has passed. */
  readonly probeOverruled: boolean
}

export interface HealthSettings {
  /** How long a failed deployment is left alone, unless it names a time itself. */
  readonly recoveryMs: number
  /** How long a failing probe's word stands without another probe; 0: probes are off. */
  readonly probeTrustMs: number
}

/** A request at this deployment: the number of its lease, and the sequence at which it began. */
export interface FromLease {
  readonly lease: number
  readonly since: number
}

export type HealthEvent =
  | { readonly kind: 'leased'; readonly lease: number }
  /** A real response, good or bad. */
  | ({ readonly kind: 'answered' } & FromLease)
  | ({ readonly kind: 'throttled'; readonly waitMs: number } & FromLease)
  | ({
      readonly kind: 'failed'
      readonly reason: EjectReason
      readonly detail: string
      readonly holdMs: number | undefined
      /**
       * `out`: the request may be the cause, the blame can be withdrawn; `mark`: it counts towards the row of five
       * alone.
       */
      readonly suspect: 'no' | 'out' | 'mark'
      readonly silentSinceMs: number
    } & FromLease)
  /** A second deployment met the same request with suspect trouble. */
  | { readonly kind: 'withdrawn'; readonly lease: number }
  | { readonly kind: 'released'; readonly lease: number }
  /** @property askedMs when the probe went out: an older pass cannot excuse a newer failure */
  | { readonly kind: 'probe_passed'; readonly askedMs: number }
  /** Something answers, and says nothing of the deployment. */
  | { readonly kind: 'probe_unknown'; readonly askedMs: number }
  | {
      readonly kind: 'probe_failed'
      readonly reason: EjectReason
      readonly detail: string
      readonly silentSinceMs: number
    }
  /** What was missing is there: a token. Ends holds for this reason. */
  | { readonly kind: 'mended'; readonly reason: EjectReason }
  | { readonly kind: 'hand_ejected'; readonly holdMs: number | undefined; readonly atEpochMs: number }
  | { readonly kind: 'hand_restored'; readonly atEpochMs: number }

/**
 * So many requests in a row with suspect trouble put a deployment out whatever the others did (README, section
 * "Outcomes").
 */
export const SUSPECT_ROW = 5
/** A hold or a wait that a server named and that is longer gets a trial this often: servers err by days. */
export const LONG_HOLD_MS = 300_000
/** Requests whose blame can be withdrawn from one hold; beyond it the blame stands. */
export const MAX_PROVISIONAL = 64

/** Stands for a lease of another process, whose trial is believed until `dueAtMs`. */
export const FOREIGN_LEASE = -1

export const IN: Phase = { kind: 'in' }
export const NO_THROTTLE: Throttle = {
  untilMs: Number.NEGATIVE_INFINITY,
  dueAtMs: Number.NEGATIVE_INFINITY,
  trial: 0,
  epoch: 0,
}

/** The state of a deployment that nobody has asked yet. */
export const NEW_STATE: HealthState = {
  sequence: 0,
  hand: 0,
  version: 0,
  phase: IN,
  throttle: NO_THROTTLE,
  marks: 0,
  probeOverruled: false,
}

export type Out = Exclude<Phase, { kind: 'in' }>

/** Whether the next request is its trial: a hold is over, or another process has not ended its trial in time. */
export function isDue(phase: Phase, nowMs: number): phase is Phase & { readonly kind: 'held' | 'trial' } {
  const waits = phase.kind === 'held' || (phase.kind === 'trial' && phase.lease === FOREIGN_LEASE)
  return waits && phase.trouble.dueAtMs <= nowMs
}

/** The phase as it is at this time: a hold whose time has passed is `due`. */
export function phaseAt({ phase }: HealthState, nowMs: number): Phase['kind'] {
  return isDue(phase, nowMs) ? 'due' : phase.kind
}

/** What keeps it out; undefined: it is in. */
export function troubleOf({ phase }: HealthState): Trouble | undefined {
  return phase.kind === 'in' ? undefined : phase.trouble
}

/** The state in another phase. */
export function withPhase(state: HealthState, phase: Phase): HealthState {
  return { ...state, phase }
}

/** The phase of a deployment that is out. */
export function out({ phase }: HealthState): Out {
  if (phase.kind === 'in') throw new Error('a deployment that is in has no trouble')
  return phase
}

/** When a trial is due by the hold alone. */
export function trialDueMs(
  { untilMs, named, seenBy }: Pick<Trouble, 'untilMs' | 'named' | 'seenBy'>,
  failedMs: number,
): number {
  return named && seenBy === 'request' ? Math.min(untilMs, failedMs + LONG_HOLD_MS) : untilMs
}
