// Transitions of a deployment's health that requests cause: the steps of health-machine.ts whose events come from
// leases. Pure.
import {
  type FromLease,
  type HealthEvent,
  type HealthSettings,
  type HealthState,
  IN,
  LONG_HOLD_MS,
  MAX_PROVISIONAL,
  NO_THROTTLE,
  out,
  type Phase,
  SUSPECT_ROW,
  type Trouble,
  trialDueMs,
  troubleOf,
  withPhase,
} from './health-state.ts'

/** Asks a deployment in a long wait of its own whether that still holds; the next such question is due later. */
export function tryThrottled(state: HealthState, { lease }: { readonly lease: number }, nowMs: number): HealthState {
  const { throttle: wait } = state
  if (wait.untilMs <= nowMs || wait.dueAtMs > nowMs) return state
  return { ...state, throttle: { ...wait, trial: lease, dueAtMs: Math.min(wait.untilMs, nowMs + LONG_HOLD_MS) } }
}

/** The one request that decides. */
export function startTrial(state: HealthState, event: { readonly lease: number }, nowMs: number): HealthState {
  const { trouble } = out(state)
  return tryThrottled(withPhase(state, { kind: 'trial', trouble, lease: event.lease }), event, nowMs)
}

function liftThrottle(state: HealthState, lease: number): HealthState {
  if (state.throttle.trial === 0 || state.throttle.trial !== lease) return state
  return { ...state, throttle: { ...NO_THROTTLE, epoch: state.throttle.epoch + 1 } }
}

/** A response: the row of marks is broken, and a long wait that this request asked about is over. */
export function noteSound(state: HealthState, { lease }: FromLease): HealthState {
  const lifted = liftThrottle(state, lease)
  return state.marks === 0 ? lifted : { ...lifted, marks: 0 }
}

/** Whether a request's response outweighs the trouble: it began after that was seen, and no operator's hold is on. */
function outweighs({ phase }: HealthState, { lease, since }: FromLease): boolean {
  if (phase.kind === 'in') return false
  const { trouble } = phase
  if (trouble.seenBy === 'hand') return phase.kind === 'trial' && phase.lease === lease
  return since >= trouble.failedSequence
}

function letIn(state: HealthState): HealthState {
  return { ...state, phase: IN, probeOverruled: state.probeOverruled || troubleOf(state)?.probeFailing === true }
}

/** A response brings a deployment back if it says something of the time after the trouble was seen. */
export function letInIfNewer(state: HealthState, event: FromLease): HealthState {
  const sound = noteSound(state, event)
  return outweighs(state, event) ? letIn(sound) : sound
}

/** A 429: it lives, and is left alone for the wait. A later longer wait extends it, a shorter one never cuts it. */
export function throttle(
  state: HealthState,
  event: { readonly waitMs: number } & FromLease,
  nowMs: number,
): HealthState {
  // It answers, so it lives. The row of marks goes on: it served nobody.
  const alive = outweighs(state, event) ? letIn(state) : state
  const untilMs = nowMs + event.waitMs
  if (untilMs <= state.throttle.untilMs) return endThrottleTrial(alive, event)
  const dueAtMs = Math.min(untilMs, nowMs + LONG_HOLD_MS)
  return { ...alive, throttle: { ...state.throttle, untilMs, dueAtMs, trial: 0 } }
}

type Failure = Extract<HealthEvent, { kind: 'failed' }>

function marked(state: HealthState, { suspect }: Failure): HealthState {
  return suspect === 'no' ? state : { ...state, marks: state.marks + 1 }
}

/** Whether a failure takes out: what can be withdrawn does at first, what only marks does in a row of five. */
function ejects({ marks }: HealthState, { suspect }: Failure): boolean {
  return suspect !== 'mark' || marks >= SUSPECT_ROW
}

function isProvisional({ marks }: HealthState, { suspect }: Failure): boolean {
  return suspect === 'out' && marks < SUSPECT_ROW
}

function troubleFrom(state: HealthState, event: Failure, nowMs: number, settings: HealthSettings): Trouble {
  const untilMs = nowMs + (event.holdMs ?? settings.recoveryMs)
  const named = event.holdMs !== undefined
  return {
    sinceMs: nowMs,
    failedMs: nowMs,
    failedSequence: state.sequence + 1,
    untilMs,
    dueAtMs: trialDueMs({ untilMs, named, seenBy: 'request' }, nowMs),
    reason: event.reason,
    detail: event.detail,
    named,
    seenBy: 'request',
    probeFailing: false,
    silentSinceMs: event.silentSinceMs,
    provisional: isProvisional(state, event) ? [event.lease] : [],
    before: undefined,
  }
}

/** A failure of a deployment that is in. */
export function takeOut(state: HealthState, event: Failure, nowMs: number, settings: HealthSettings): HealthState {
  const counted = marked(state, event)
  if (!ejects(counted, event)) return counted
  return {
    ...counted,
    phase: { kind: 'held', trouble: troubleFrom(counted, event, nowMs, settings) },
    probeOverruled: false,
  }
}

/** A failure of one that is out: of its trial, of a request that found nobody else, or of a straggler. */
export function failAgain(state: HealthState, event: Failure, nowMs: number, settings: HealthSettings): HealthState {
  const counted = marked(state, event)
  const { trouble } = out(state)
  if (!ejects(counted, event)) return counted
  // Asked because nobody else was left: what an operator took out stays out for the time that was said.
  if (trouble.seenBy === 'hand' && state.phase.kind === 'held') return counted
  const fresh = troubleFrom(counted, event, nowMs, settings)
  if (event.since < trouble.failedSequence) return { ...counted, phase: joinTrouble(state, fresh, event) }
  // A time that the server named is not cut by a later failure that names none or a shorter one.
  const longer = trouble.named && trouble.untilMs > fresh.untilMs
  const untilMs = longer ? trouble.untilMs : fresh.untilMs
  const named = longer ? trouble.named : fresh.named
  const probeDueMs = trouble.probeFailing ? trouble.dueAtMs : Number.NEGATIVE_INFINITY
  const dueAtMs = Math.max(trialDueMs({ untilMs, named, seenBy: 'request' }, nowMs), probeDueMs)
  const { probeFailing, sinceMs } = trouble
  const before = fresh.provisional.length > 0 ? { ...trouble, before: undefined } : undefined
  return {
    ...counted,
    phase: { kind: 'held', trouble: { ...fresh, untilMs, named, dueAtMs, probeFailing, sinceMs, before } },
  }
}

/** A straggler of the same trouble does not stretch its hold, unless the server names a longer one. */
function joinTrouble(state: HealthState, fresh: Trouble, { lease, suspect }: Failure): Phase {
  const phase = out(state)
  const { trouble } = phase
  const open =
    trouble.provisional.length > 0 && trouble.provisional.length < MAX_PROVISIONAL && fresh.provisional.length > 0
  const provisional = open && suspect === 'out' ? [...trouble.provisional, lease] : []
  const stretched =
    fresh.named && fresh.untilMs > trouble.untilMs
      ? { untilMs: fresh.untilMs, named: true, dueAtMs: Math.max(fresh.dueAtMs, trouble.dueAtMs) }
      : {}
  return { ...phase, trouble: { ...trouble, ...stretched, provisional } }
}

/** Takes the blame of one request back. What others saw fail stays out. */
export function withdraw(state: HealthState, { lease }: { readonly lease: number }): HealthState {
  const phase = out(state)
  const { provisional, before } = phase.trouble
  if (!provisional.includes(lease)) return state
  const left = provisional.filter(other => other !== lease)
  if (left.length > 0) return withPhase(state, { ...phase, trouble: { ...phase.trouble, provisional: left } })
  return before === undefined ? letIn(state) : withPhase(state, { kind: 'held', trouble: before })
}

/** The request that asked about a long wait is over. */
export function endThrottleTrial(state: HealthState, { lease }: { readonly lease: number }): HealthState {
  if (state.throttle.trial === 0 || state.throttle.trial !== lease) return state
  return { ...state, throttle: { ...state.throttle, trial: 0 } }
}

/**
 * The trial's request ended, and whatever it brought has been said before: if it was nothing, the next one is the
 * trial.
 */
export function giveBack(state: HealthState, event: { readonly lease: number }): HealthState {
  const ended = endThrottleTrial(state, event)
  const { phase } = state
  if (phase.kind !== 'trial' || phase.lease !== event.lease) return ended
  return withPhase(ended, { kind: 'due', trouble: phase.trouble })
}
