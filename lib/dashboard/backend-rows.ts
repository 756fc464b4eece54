// The state of the config's backends, in the words of the live status page.
import { ADVICE, adviceCode, adviceFor, lackAdvice } from '../balancer/advice.ts'
import { type BackendHealth, type HealthChange, isEjected, type Trouble, throttledForMs } from '../balancer/health.ts'
import type { WrongPart } from '../balancer/unsupported.ts'
import type { Clock } from '../clock.ts'
import type { BackendState, ChangeEntry } from './entries.ts'

/** What is needed of a pool (balancer/pool.ts). */
export interface PlacedPool {
  readonly model: { readonly name: string }
  readonly members: readonly {
    readonly backend: { readonly name: string; readonly priority: number; readonly weight: number }
    readonly health: BackendHealth
  }[]
}

/** An operation that a deployment does not serve: `chat/completions (2024-10-21)`, and what is probably wrong. */
export interface ShownLack {
  readonly what: string
  readonly wrong: WrongPart
}

function lackColumns([first, ...rest]: readonly ShownLack[]): Pick<
  BackendState,
  'lacks' | 'lack_advice' | 'lack_todo'
> {
  if (first === undefined) return { lacks: [], lack_advice: null, lack_todo: null }
  const lacks = [first, ...rest].map(({ what }) => what)
  return { lacks, lack_advice: `wrong_${first.wrong}`, lack_todo: lackAdvice(first.wrong) }
}

/** From monotonic to epoch milliseconds; null for what never ends or never was. */
function epochOf(ms: number, clock: Clock): number | null {
  return Number.isFinite(ms) ? Math.round(ms - clock.nowMs() + clock.epochMs()) : null
}

type StateColumns = Pick<BackendState, 'state' | 'reason' | 'detail' | 'since_ms' | 'until_ms' | 'advice' | 'todo'>

function adviceColumns({ reason, detail }: Trouble): { readonly advice: string; readonly todo: string } {
  return { advice: adviceCode(reason, detail), todo: adviceFor(reason, detail) }
}

function stateColumns(health: BackendHealth, clock: Clock): StateColumns {
  const nowMs = clock.nowMs()
  const { phase, throttle } = health.state
  const quiet = { reason: null, detail: null, since_ms: null, advice: null, todo: null }
  if (phase.kind !== 'in' && isEjected(health, nowMs)) {
    const { reason, detail, sinceMs, untilMs, dueAtMs } = phase.trouble
    const until_ms = epochOf(Math.max(untilMs, dueAtMs), clock)
    return {
      state: 'ejected',
      reason,
      detail,
      since_ms: epochOf(sinceMs, clock),
      until_ms,
      ...adviceColumns(phase.trouble),
    }
  }
  // Before a trial: while it is throttled it gets no request that could be one.
  if (throttledForMs(health, nowMs) > 0) {
    const advice = { advice: 'throttled', todo: ADVICE.throttled }
    return { ...quiet, ...advice, state: 'throttled', until_ms: epochOf(throttle.untilMs, clock) }
  }
  if (phase.kind !== 'in') {
    const { reason, detail, sinceMs } = phase.trouble
    const since_ms = epochOf(sinceMs, clock)
    return { state: 'trial', reason, detail, since_ms, until_ms: null, ...adviceColumns(phase.trouble) }
  }
  return { ...quiet, state: 'healthy', until_ms: null }
}

/**
 * One entry for each backend of each model, in the config's order.
 * @param wasProbed whether a probe has met a deployment, by its id
 * @param unsupportedOf what a deployment does not serve
 */
export function backendRows(
  pools: readonly PlacedPool[],
  clock: Clock,
  wasProbed: (id: string) => boolean = () => false,
  unsupportedOf: (id: string) => readonly ShownLack[] = () => [],
): readonly BackendState[] {
  const deployments = new Map<string, number>()
  const entries: BackendState[] = []
  for (const { model, members } of pools) {
    for (const { backend, health } of members) {
      const deployment = deployments.get(health.id) ?? deployments.size
      deployments.set(health.id, deployment)
      const { headroom } = health
      entries.push({
        model: model.name,
        backend: backend.name,
        deployment,
        tier: backend.priority,
        weight: backend.weight,
        ...stateColumns(health, clock),
        in_flight: health.inFlight,
        ...lackColumns(unsupportedOf(health.id)),
        asked:
          health.lastAnsweredMs > Number.NEGATIVE_INFINITY || wasProbed(health.id) || health.state.phase.kind !== 'in',
        headroom:
          headroom === undefined
            ? null
            : {
                remaining_requests: headroom.remainingRequests ?? null,
                limit_requests: headroom.limitRequests ?? null,
                remaining_tokens: headroom.remainingTokens ?? null,
                limit_tokens: headroom.limitTokens ?? null,
                at_ms: epochOf(headroom.atMs, clock) ?? 0,
              },
      })
    }
  }
  return entries
}

/** A change of one backend; those of whole models stand in the log. */
export type BackendChange = Exclude<HealthChange, { kind: 'model_down' | 'model_up' }>

/** A change of health as the page lists it; `model` and `backend` name every place of the deployment. */
export function changeEntry(
  change: BackendChange,
  { model, backend }: { readonly model: string; readonly backend: string },
  clock: Clock,
): ChangeEntry {
  const entry = { time_ms: clock.epochMs(), model, backend, reason: null, detail: null, until_ms: null, by: null }
  switch (change.kind) {
    case 'ejected': {
      const { reason, detail, untilMs } = change.trouble
      return { ...entry, kind: 'ejected', reason, detail, until_ms: epochOf(untilMs, clock) }
    }
    case 'throttled':
      return { ...entry, kind: 'throttled', until_ms: epochOf(clock.nowMs() + change.waitMs, clock) }
    case 'restored':
      return { ...entry, kind: 'restored', by: change.by }
  }
}
