// A deployment's state as other processes of the same machine get it, and how two states become one. Pure.
import { FOREIGN_LEASE, type HealthState, type Phase, type Throttle, type Trouble, troubleOf } from './health-state.ts'

/**
 * A time on the wall clock in milliseconds; null: never. Processes of one machine share that clock, but no monotonic
 * one.
 */
type WallMs = number | null

/** What keeps it out, as JSON can carry it. */
interface TroubleSnapshot {
  readonly sinceMs: WallMs
  readonly failedMs: WallMs
  readonly untilMs: WallMs
  readonly dueAtMs: WallMs
  readonly silentSinceMs: WallMs
  readonly reason: Trouble['reason']
  readonly detail: string
  readonly named: boolean
  readonly seenBy: Trouble['seenBy']
  readonly probeFailing: boolean
}

/** One deployment's whole state; plain JSON. */
export interface HealthSnapshot {
  readonly id: string
  readonly hand: number
  readonly version: number
  readonly writer: number
  readonly phase: Phase['kind']
  readonly trouble: TroubleSnapshot | null
  readonly throttle: { readonly epoch: number; readonly untilMs: WallMs; readonly dueAtMs: WallMs }
  readonly marks: number
  readonly probeOverruled: boolean
}

/** Both clocks at one moment: what turns one's times into the other's. */
export interface BothClocks {
  readonly nowMs: number
  readonly epochMs: number
}

function toWall(ms: number, { nowMs, epochMs }: BothClocks): WallMs {
  return Number.isFinite(ms) ? ms - nowMs + epochMs : null
}

function fromWall(ms: WallMs, { nowMs, epochMs }: BothClocks, never: number): number {
  return ms === null ? never : ms - epochMs + nowMs
}

/** Writes a state down for others. */
export function snapshotOf(
  { id, state, writer }: { readonly id: string; readonly state: HealthState; readonly writer: number },
  clocks: BothClocks,
): HealthSnapshot {
  const trouble = troubleOf(state)
  const { hand, version, phase, throttle, marks, probeOverruled } = state
  return {
    id,
    hand,
    version,
    writer,
    phase: phase.kind,
    trouble:
      trouble === undefined
        ? null
        : {
            sinceMs: toWall(trouble.sinceMs, clocks),
            failedMs: toWall(trouble.failedMs, clocks),
            untilMs: toWall(trouble.untilMs, clocks),
            dueAtMs: toWall(trouble.dueAtMs, clocks),
            silentSinceMs: toWall(trouble.silentSinceMs, clocks),
            reason: trouble.reason,
            detail: trouble.detail,
            named: trouble.named,
            seenBy: trouble.seenBy,
            probeFailing: trouble.probeFailing,
          },
    throttle: {
      epoch: throttle.epoch,
      untilMs: toWall(throttle.untilMs, clocks),
      dueAtMs: toWall(throttle.dueAtMs, clocks),
    },
    marks,
    probeOverruled,
  }
}

/** An operator's later word, else the newer version, else the greater writer. */
function isNewer(a: Pick<HealthSnapshot, 'hand' | 'version' | 'writer'>, b: typeof a): boolean {
  if (a.hand !== b.hand) return a.hand > b.hand
  if (a.version !== b.version) return a.version > b.version
  return a.writer > b.writer
}

function laterThrottle(own: Throttle, given: HealthSnapshot['throttle'], clocks: BothClocks): Throttle {
  const untilMs = fromWall(given.untilMs, clocks, Number.NEGATIVE_INFINITY)
  const later = given.epoch === own.epoch ? untilMs > own.untilMs : given.epoch > own.epoch
  if (!later) return own
  return { epoch: given.epoch, untilMs, dueAtMs: fromWall(given.dueAtMs, clocks, untilMs), trial: 0 }
}

function phaseFrom({ phase, trouble }: HealthSnapshot, sequence: number, clocks: BothClocks, trialMs: number): Phase {
  if (phase === 'in' || trouble === null) return { kind: 'in' }
  const taken: Trouble = {
    ...trouble,
    sinceMs: fromWall(trouble.sinceMs, clocks, clocks.nowMs),
    failedMs: fromWall(trouble.failedMs, clocks, clocks.nowMs),
    untilMs: fromWall(trouble.untilMs, clocks, Number.POSITIVE_INFINITY),
    dueAtMs: phase === 'trial' ? clocks.nowMs + trialMs : fromWall(trouble.dueAtMs, clocks, Number.POSITIVE_INFINITY),
    silentSinceMs: fromWall(trouble.silentSinceMs, clocks, Number.POSITIVE_INFINITY),
    failedSequence: sequence,
    provisional: [],
    before: undefined,
  }
  return phase === 'trial' ? { kind: phase, trouble: taken, lease: FOREIGN_LEASE } : { kind: phase, trouble: taken }
}

/**
 * The state that two processes' states make, and whose it is; the very same object where the given one brings nothing.
 * @param trialMs how long another process's trial is believed to be in progress: it may die meanwhile
 */
export function mergeSnapshot(
  own: { readonly state: HealthState; readonly writer: number },
  given: HealthSnapshot,
  clocks: BothClocks,
  trialMs: number,
): { readonly state: HealthState; readonly writer: number } {
  const { state, writer } = own
  const throttle = laterThrottle(state.throttle, given.throttle, clocks)
  const sequence = state.sequence + 1
  if (!isNewer(given, { hand: state.hand, version: state.version, writer })) {
    return throttle === state.throttle ? own : { state: { ...state, sequence, throttle }, writer }
  }
  const { hand, version, marks, probeOverruled } = given
  const phase = phaseFrom(given, sequence, clocks, trialMs)
  return { state: { sequence, hand, version, phase, throttle, marks, probeOverruled }, writer: given.writer }
}

/**
 * What two snapshots of one deployment make, as mergeSnapshot does with a state. For a process that keeps no states.
 */
export function joinSnapshots(known: HealthSnapshot, given: HealthSnapshot): HealthSnapshot {
  const [newer, older] = isNewer(given, known) ? [given, known] : [known, given]
  const [one, other] = [newer.throttle, older.throttle]
  const isLater =
    one.epoch === other.epoch
      ? (other.untilMs ?? Number.NEGATIVE_INFINITY) > (one.untilMs ?? Number.NEGATIVE_INFINITY)
      : other.epoch > one.epoch
  return isLater ? { ...newer, throttle: other } : newer
}
