// The health of every deployment: its state (health-machine.ts), what is in flight, what it says is left. The only
// owner of that state: attempts report through their leases, choosing reads from here, several processes exchange
// snapshots. It knows neither HTTP nor Azure.
import type { Clock } from '../clock.ts'
import {
  type BackendHealth,
  type Headroom,
  HealthLease,
  type Lease,
  type LeaseOwner,
  type Own,
} from './health-lease.ts'
import { transition } from './health-machine.ts'
import { type HealthSnapshot, mergeSnapshot, snapshotOf } from './health-snapshot.ts'
import {
  type EjectReason,
  type HealthEvent,
  type HealthState,
  NEW_STATE,
  type Trouble,
  troubleOf,
} from './health-state.ts'
import { type ModelChange, type ModelMembers, watchModels } from './model-watch.ts'
import { Ramp } from './ramp.ts'

export { isAvailable, isEjected, isEjectedOrOnTrial, takesWaiting, throttledForMs } from './availability.ts'
export type { BackendHealth, Blame, Headroom, Lease } from './health-lease.ts'
export type { HealthSnapshot } from './health-snapshot.ts'
export type { EjectReason, Trouble } from './health-state.ts'
export type { ModelMembers } from './model-watch.ts'

/** What ended a hold. `withdrawn`: a second deployment met the same request with trouble too. */
export type RestoredBy = 'trial' | 'request' | 'probe' | 'hand' | 'withdrawn' | 'token'

/** A change for people; one that another process has seen first is not reported again. */
export type HealthChange =
  | { readonly kind: 'ejected'; readonly health: BackendHealth; readonly trouble: Trouble }
  | { readonly kind: 'restored'; readonly health: BackendHealth; readonly by: RestoredBy }
  | { readonly kind: 'throttled'; readonly health: BackendHealth; readonly waitMs: number }
  | ModelChange

export interface HealthRegistry {
  /** The health of a deployment, made on first use. */
  of(id: string): BackendHealth
  /** @param onRelease called when the lease is given back */
  lease(health: BackendHealth, onRelease?: () => void): Lease
  /** Azure said what is left; `exhaustedForMs` is how long there will be nothing, 0 when something is. */
  noteHeadroom(health: BackendHealth, headroom: Omit<Headroom, 'atMs'>, exhaustedForMs: number): void
  /** A probe was answered. @param askedMs when it went out: an older pass cannot excuse a newer failure */
  probePassed(health: BackendHealth, askedMs: number): void
  /** A probe was answered by something that says nothing of the deployment. */
  probeUnknown(health: BackendHealth, askedMs: number): void
  /** A probe failed. @param silentSinceMs of a timeout: when it went out */
  probeFailed(health: BackendHealth, reason: EjectReason, detail: string, silentSinceMs?: number): void
  /** No request was made, because something of ours is missing for so long. */
  withhold(health: BackendHealth, reason: EjectReason, detail: string, holdMs: number): void
  /** What was missing is there again. */
  mended(health: BackendHealth, reason: EjectReason): void
  /** By an operator's hand; `holdMs` undefined means until restored. */
  eject(health: BackendHealth, holdMs: number | undefined): void
  restore(health: BackendHealth): void
  /**
   * The models of the config in force: the last backend of one of them that is still in stays in. Others are forgotten.
   */
  setModels(models: readonly ModelMembers[]): void
  /** Every change that this process saw first, as it happens; returns how to stop listening. */
  onChange(listener: (change: HealthChange) => void): () => void
  /** Every new version that this process made, for its peers; more often than `onChange`. */
  onVersion(listener: (health: BackendHealth) => void): () => void
  /**
   * Something may be free now: a slot, a hold that ended, a response after a throttle. Costs nothing while nobody
   * listens.
   */
  onCapacity(listener: () => void): () => void
  /** All states as JSON can carry them, or one; times are wall-clock milliseconds of this machine. */
  snapshot(only?: BackendHealth): readonly HealthSnapshot[]
  /**
   * Merges other processes' states. For each deployment an operator's later order wins, else the newer version, else
   * the greater writer; of two throttles the later end. Merging is commutative and idempotent, so the order of messages
   * does not matter.
   */
  adopt(states: readonly HealthSnapshot[]): void
}

const BY: Partial<Record<HealthEvent['kind'], RestoredBy>> = {
  answered: 'request',
  throttled: 'request',
  probe_passed: 'probe',
  withdrawn: 'withdrawn',
  mended: 'token',
  hand_restored: 'hand',
}

/** What it costs to be asked by nobody: a set of listeners as an array, read in the hot path. */
function createListeners<T>(): { readonly add: (listener: T) => () => void; readonly all: () => readonly T[] } {
  let all: readonly T[] = []
  return {
    add(listener) {
      all = [...all, listener]
      return () => {
        all = all.filter(other => other !== listener)
      }
    },
    all: () => all,
  }
}

export interface HealthRegistryOptions {
  readonly clock: Clock
  /** How long a failed deployment is left alone, unless it names a time itself. */
  readonly recoveryMs: () => number
  /** How long a failing probe's word stands without another probe; 0: probes are off. */
  readonly probeTrustMs?: () => number
  /** This process among those that exchange snapshots: any number that no other of them has. */
  readonly writer?: number
}

function newHealth(id: string, writer: number): Own {
  return {
    id,
    state: NEW_STATE,
    writer,
    inFlight: 0,
    exhaustedUntilMs: Number.NEGATIVE_INFINITY,
    lastAnsweredMs: Number.NEGATIVE_INFINITY,
    lastServedMs: Number.NEGATIVE_INFINITY,
    ramp: undefined,
    headroom: undefined,
  }
}

/** Another process's news, before it is taken over: of a throttle nobody here knows what comes after it either. */
function followRamp(health: Own, { hand, phase, throttle }: HealthState, nowMs: number): void {
  const { state } = health
  if (hand > state.hand && phase.kind === 'in') health.ramp?.reset()
  if (throttle.untilMs <= Math.max(state.throttle.untilMs, nowMs)) return
  health.ramp ??= new Ramp()
  health.ramp.throttled(nowMs, throttle.untilMs - nowMs, 0)
}

/** The ways a registry's changes are heard. */
function createHearing() {
  return {
    changes: createListeners<(change: HealthChange) => void>(),
    versions: createListeners<(health: BackendHealth) => void>(),
    capacity: createListeners<() => void>(),
  }
}

/** Runs events through the machine, and tells what they changed. */
function createWriter(
  { clock, recoveryMs, probeTrustMs = () => 0, writer = 0 }: HealthRegistryOptions,
  { changes, versions, capacity }: ReturnType<typeof createHearing>,
  isKept: (health: Own) => boolean,
) {
  const emit = (change: HealthChange): void => {
    for (const listener of changes.all()) listener(change)
  }
  const freed = (): void => {
    for (const listener of capacity.all()) listener()
  }
  const models = watchModels(emit)

  const emitPhase = (health: Own, before: HealthState, event: HealthEvent): void => {
    const [was, is] = [troubleOf(before), troubleOf(health.state)]
    if (is !== undefined && is.reason !== was?.reason) emit({ kind: 'ejected', health, trouble: is })
    if (is === undefined && was !== undefined) {
      const trial = before.phase.kind === 'trial' && 'lease' in event && event.lease === before.phase.lease
      const by = trial && event.kind !== 'withdrawn' ? 'trial' : (BY[event.kind] ?? 'request')
      emit({ kind: 'restored', health, by })
    }
    if ((is === undefined) !== (was === undefined)) models.changed(true)
  }

  const applyTo = (health: Own, event: HealthEvent): void => {
    const before = health.state
    const nowMs = clock.nowMs()
    const after = transition(before, event, nowMs, { recoveryMs: recoveryMs(), probeTrustMs: probeTrustMs() })
    if (after === before) return
    health.state = after
    health.writer = writer
    // Else a lease of an older config writes: the deployment has left, or has come back as another.
    if (isKept(health)) {
      emitPhase(health, before, event)
      const { untilMs } = after.throttle
      if (untilMs > before.throttle.untilMs && before.throttle.untilMs <= nowMs && untilMs > nowMs) {
        emit({ kind: 'throttled', health, waitMs: untilMs - nowMs })
      }
      for (const listener of versions.all()) listener(health)
    }
    freed()
  }

  /** A failure that would leave a model without any backend only marks, if the request may have caused it. */
  const apply = (health: Own, event: HealthEvent): void => {
    // The whole of a healthy request's way through the machine: nothing changes.
    const { phase, throttle, marks } = health.state
    if (phase.kind === 'in' && throttle.trial === 0) {
      if (event.kind === 'released' || (event.kind === 'answered' && marks === 0)) return
      if (event.kind === 'leased' && throttle.untilMs === Number.NEGATIVE_INFINITY) return
    }
    const spared = event.kind === 'failed' && event.suspect === 'out' && phase.kind === 'in' && models.isLastIn(health)
    applyTo(health, spared ? { ...event, suspect: 'mark' } : event)
  }
  return { apply, freed, models }
}

/** Keeps the health of all deployments. First `of` for each of them, then `setModels`. */
export function createHealthRegistry(options: HealthRegistryOptions): HealthRegistry {
  const { clock, recoveryMs, writer = 0 } = options
  const byId = new Map<string, Own>()
  const hearing = createHearing()
  const { apply, freed, models } = createWriter(options, hearing, health => byId.get(health.id) === health)
  const owner: LeaseOwner = { clock, apply, freed }
  let leases = 0

  // A lease may outlive its deployment's place in the config: its state then concerns nobody but itself.
  const own = (health: BackendHealth): Own => byId.get(health.id) ?? (health as Own)
  const clocks = () => ({ nowMs: clock.nowMs(), epochMs: clock.epochMs() })

  const adoptOne = (given: HealthSnapshot): void => {
    const health = byId.get(given.id)
    if (health === undefined) return
    const merged = mergeSnapshot(health, given, clocks(), recoveryMs())
    if (merged === health) return
    followRamp(health, merged.state, clock.nowMs())
    health.state = merged.state
    health.writer = merged.writer
    models.changed(false)
    // Slow for another process, which had no response to compare with: here it has answered meanwhile.
    const { phase, sequence } = merged.state
    if (phase.kind === 'held' && phase.trouble.silentSinceMs <= health.lastAnsweredMs) {
      apply(health, { kind: 'answered', lease: 0, since: sequence })
    }
    freed()
  }

  return {
    of(id) {
      let health = byId.get(id)
      if (health === undefined) {
        health = newHealth(id, writer)
        byId.set(id, health)
      }
      return health
    },
    lease: (health, onRelease) => new HealthLease(owner, own(health), ++leases, onRelease),
    noteHeadroom(given, headroom, exhaustedForMs) {
      const health = own(given)
      const atMs = clock.nowMs()
      const { remainingRequests, remainingTokens, limitRequests, limitTokens } = headroom
      // Said by nearly every response: a spread took 1.3 µs.
      health.headroom = { remainingRequests, remainingTokens, limitRequests, limitTokens, atMs }
      health.exhaustedUntilMs = atMs + exhaustedForMs
    },
    probePassed: (health, askedMs) => apply(own(health), { kind: 'probe_passed', askedMs }),
    probeUnknown: (health, askedMs) => apply(own(health), { kind: 'probe_unknown', askedMs }),
    probeFailed: (health, reason, detail, silentSinceMs = Number.POSITIVE_INFINITY) =>
      apply(own(health), { kind: 'probe_failed', reason, detail, silentSinceMs }),
    withhold(health, reason, detail, holdMs) {
      const since = own(health).state.sequence
      const silentSinceMs = Number.POSITIVE_INFINITY
      apply(own(health), { kind: 'failed', lease: 0, since, reason, detail, holdMs, suspect: 'no', silentSinceMs })
    },
    mended: (health, reason) => apply(own(health), { kind: 'mended', reason }),
    eject: (health, holdMs) => apply(own(health), { kind: 'hand_ejected', holdMs, atEpochMs: clock.epochMs() }),
    restore(health) {
      own(health).ramp?.reset()
      apply(own(health), { kind: 'hand_restored', atEpochMs: clock.epochMs() })
    },
    setModels(next) {
      models.set(next)
      const kept = new Set(next.flatMap(({ members }) => members.map(({ id }) => id)))
      for (const id of byId.keys()) if (!kept.has(id)) byId.delete(id)
    },
    onChange: hearing.changes.add,
    onVersion: hearing.versions.add,
    onCapacity: hearing.capacity.add,
    snapshot: only => (only === undefined ? [...byId.values()] : [only]).map(health => snapshotOf(health, clocks())),
    adopt: states => states.forEach(adoptOne),
  }
}
