// A deployment's health as one state machine: (state, event, time) → state. Pure, and mostly its table. It knows no
// sockets, no pools and no other deployment.
import {
  endThrottleTrial,
  failAgain,
  giveBack,
  letInIfNewer,
  noteSound,
  startTrial,
  takeOut,
  throttle,
  tryThrottled,
  withdraw,
} from './health-requests.ts'
import {
  type EjectReason,
  type HealthEvent,
  type HealthSettings,
  type HealthState,
  IN,
  isDue,
  NO_THROTTLE,
  out,
  type Phase,
  type Trouble,
  trialDueMs,
  troubleOf,
  withPhase,
} from './health-state.ts'

type Step<K extends HealthEvent['kind']> = (
  state: HealthState,
  event: Extract<HealthEvent, { kind: K }>,
  nowMs: number,
  settings: HealthSettings,
) => HealthState

/** The table: what each event does in each phase. */
const TABLE: { readonly [K in HealthEvent['kind']]: Readonly<Record<Phase['kind'], Step<K>>> } = {
  leased: { in: tryThrottled, held: tryThrottled, due: startTrial, trial: tryThrottled },
  answered: { in: noteSound, held: letInIfNewer, due: letInIfNewer, trial: letInIfNewer },
  throttled: { in: throttle, held: throttle, due: throttle, trial: throttle },
  failed: { in: takeOut, held: failAgain, due: failAgain, trial: failAgain },
  withdrawn: { in: stay, held: withdraw, due: withdraw, trial: withdraw },
  released: { in: endThrottleTrial, held: endThrottleTrial, due: endThrottleTrial, trial: giveBack },
  probe_passed: { in: trustProbes, held: endHold, due: endHold, trial: endHold },
  probe_unknown: { in: trustProbes, held: endProbeHold, due: endProbeHold, trial: endProbeHold },
  probe_failed: { in: takeOutByProbe, held: holdByProbe, due: holdByProbe, trial: holdByProbe },
  mended: { in: stay, held: mend, due: mend, trial: mend },
  hand_ejected: { in: ejectByHand, held: ejectByHand, due: ejectByHand, trial: ejectByHand },
  hand_restored: { in: restoreByHand, held: restoreByHand, due: restoreByHand, trial: restoreByHand },
}

/**
 * The next state; the very same object where nothing changes. Sequence and version have grown by one otherwise.
 * @param nowMs monotonic; never less than at an earlier call
 */
export function transition(
  state: HealthState,
  event: HealthEvent,
  nowMs: number,
  settings: HealthSettings,
): HealthState {
  const settled = isDue(state.phase, nowMs) ? withPhase(state, { kind: 'due', trouble: state.phase.trouble }) : state
  const next = step(settled, event, nowMs, settings)
  if (next === settled) return state
  return { ...next, sequence: state.sequence + 1, version: state.version + 1 }
}

function step<K extends HealthEvent['kind']>(
  state: HealthState,
  event: Extract<HealthEvent, { kind: K }>,
  nowMs: number,
  settings: HealthSettings,
): HealthState {
  const row: Readonly<Record<Phase['kind'], Step<K>>> = TABLE[event.kind as K]
  return row[state.phase.kind](state, event, nowMs, settings)
}

function stay(state: HealthState): HealthState {
  return state
}

// Probes.

function trustProbes(state: HealthState): HealthState {
  return state.probeOverruled ? { ...state, probeOverruled: false } : state
}

/** Of what a model list says nothing: the deployment behind it. */
function isBeyondProbes({ named, seenBy, reason }: Trouble): boolean {
  return named || seenBy === 'hand' || reason === 'deployment_missing' || reason === 'operation_not_supported'
}

/** A passing probe brings back what a probe took out, and makes the trial due of what a request saw fail. */
function endHold(state: HealthState, { askedMs }: { readonly askedMs: number }, nowMs: number): HealthState {
  const phase = out(state)
  const { trouble } = phase
  if (trouble.failedMs > askedMs) return state
  if (trouble.seenBy === 'probe') return { ...state, phase: IN, probeOverruled: false }
  const beyond = isBeyondProbes(trouble)
  if (!trouble.probeFailing && (beyond || phase.kind !== 'held')) return state
  const dueAtMs = beyond ? trialDueMs(trouble, trouble.failedMs) : Math.min(trouble.dueAtMs, nowMs)
  return withPhase(state, { ...phase, trouble: { ...trouble, dueAtMs, probeFailing: false } })
}

/** Something answers where a probe had met nothing: a request has to decide. */
function endProbeHold(state: HealthState, { askedMs }: { readonly askedMs: number }, nowMs: number): HealthState {
  const phase = out(state)
  const { trouble } = phase
  if (trouble.failedMs > askedMs || !trouble.probeFailing) return state
  const dueAtMs = trouble.seenBy === 'probe' ? nowMs : trialDueMs(trouble, trouble.failedMs)
  return withPhase(state, { ...phase, trouble: { ...trouble, dueAtMs, probeFailing: false } })
}

type ProbeFailure = Extract<HealthEvent, { kind: 'probe_failed' }>

function takeOutByProbe(
  state: HealthState,
  { reason, detail, silentSinceMs }: ProbeFailure,
  nowMs: number,
  { recoveryMs, probeTrustMs }: HealthSettings,
): HealthState {
  if (state.probeOverruled) return state
  const untilMs = nowMs + recoveryMs
  const trouble: Trouble = {
    sinceMs: nowMs,
    failedMs: nowMs,
    failedSequence: state.sequence + 1,
    untilMs,
    dueAtMs: Math.max(untilMs, nowMs + probeTrustMs),
    reason,
    detail,
    named: false,
    seenBy: 'probe',
    probeFailing: true,
    silentSinceMs,
    provisional: [],
    before: undefined,
  }
  return withPhase(state, { kind: 'held', trouble })
}

function holdByProbe(
  state: HealthState,
  _event: ProbeFailure,
  nowMs: number,
  { recoveryMs, probeTrustMs }: HealthSettings,
): HealthState {
  const { trouble } = out(state)
  const untilMs = trouble.seenBy === 'hand' ? trouble.untilMs : Math.max(trouble.untilMs, nowMs + recoveryMs)
  const dueAtMs = Math.max(trialDueMs({ ...trouble, untilMs }, nowMs), nowMs + probeTrustMs)
  return withPhase(state, {
    kind: 'held',
    trouble: {
      ...trouble,
      failedMs: nowMs,
      failedSequence: state.sequence + 1,
      untilMs,
      dueAtMs,
      probeFailing: true,
      // Seen by a probe too: no longer one request's doing.
      provisional: [],
      before: undefined,
    },
  })
}

// Operators, and what else is known for certain.

function mend(state: HealthState, { reason }: { readonly reason: EjectReason }): HealthState {
  return out(state).trouble.reason === reason ? { ...state, phase: IN, probeOverruled: false } : state
}

/** The order of an operator's words: by the wall clock that all processes share, and never back. */
function handAt({ hand }: HealthState, atEpochMs: number): number {
  return Math.max(hand + 1, atEpochMs)
}

function ejectByHand(
  state: HealthState,
  { holdMs, atEpochMs }: { readonly holdMs: number | undefined; readonly atEpochMs: number },
  nowMs: number,
): HealthState {
  const untilMs = holdMs === undefined ? Number.POSITIVE_INFINITY : nowMs + holdMs
  const trouble: Trouble = {
    sinceMs: nowMs,
    failedMs: nowMs,
    failedSequence: state.sequence + 1,
    untilMs,
    dueAtMs: untilMs,
    reason: 'by_hand',
    detail: 'ejected by hand',
    named: true,
    seenBy: 'hand',
    probeFailing: troubleOf(state)?.probeFailing === true,
    silentSinceMs: Number.POSITIVE_INFINITY,
    provisional: [],
    before: undefined,
  }
  return { ...state, hand: handAt(state, atEpochMs), phase: { kind: 'held', trouble } }
}

function restoreByHand(state: HealthState, { atEpochMs }: { readonly atEpochMs: number }): HealthState {
  return {
    ...state,
    hand: handAt(state, atEpochMs),
    phase: IN,
    marks: 0,
    probeOverruled: false,
    throttle: { ...NO_THROTTLE, epoch: state.throttle.epoch + 1 },
  }
}
