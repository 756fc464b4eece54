// The primary's decisions about its workers, as a pure function: state and event to state and effects. supervisor.ts
// acts on them. One table: starting (no worker listens yet) → serving → ending. Only a stop, or a start where none can
// listen, leads to ending.

/** A worker that lived this long died of something else than its start. */
export const HEALTHY_MS = 10_000
/** Pause before a worker that keeps dying is started again: doubled each time, up to the second figure. */
export const FIRST_PAUSE_MS = 500
export const MAX_PAUSE_MS = 30_000

export interface WorkerRecord {
  readonly bornMs: number
  /** `starting`: it hears nothing yet; `awake`: it hears, and does not listen yet; `serving`: it listens. */
  readonly phase: 'starting' | 'awake' | 'serving'
}

export interface Supervision {
  readonly phase: 'starting' | 'serving' | 'ending'
  readonly workers: ReadonlyMap<number, WorkerRecord>
  /** The worker that probes. */
  readonly leader: number | undefined
  readonly pauseMs: number
}

export const INITIAL: Supervision = {
  phase: 'starting',
  workers: new Map(),
  leader: undefined,
  pauseMs: FIRST_PAUSE_MS,
}

export type SupervisionEvent =
  | { readonly kind: 'begin'; readonly workers: number }
  | { readonly kind: 'forked'; readonly id: number; readonly atMs: number }
  | { readonly kind: 'awake'; readonly id: number }
  | { readonly kind: 'ready'; readonly id: number; readonly port: number }
  | { readonly kind: 'cannot_listen'; readonly id: number; readonly message: string }
  | {
      readonly kind: 'exited'
      readonly id: number
      readonly code: number | null
      readonly signal: string | null
      readonly atMs: number
    }
  | { readonly kind: 'pause_over' }
  | { readonly kind: 'stop' }
  | { readonly kind: 'grace_over' }

export type Effect =
  | { readonly kind: 'fork' }
  | { readonly kind: 'fork_after'; readonly waitMs: number }
  /** The config, and all that is known. */
  | { readonly kind: 'send_start'; readonly id: number }
  | { readonly kind: 'send_lead'; readonly id: number }
  | { readonly kind: 'send_shutdown'; readonly id: number }
  | { readonly kind: 'kill'; readonly id: number }
  /** The start is over. */
  | { readonly kind: 'listening'; readonly port: number }
  | { readonly kind: 'failed'; readonly message: string }
  /** What a dead worker had taken is given back. */
  | { readonly kind: 'bury'; readonly id: number }
  | {
      readonly kind: 'log_death'
      readonly id: number
      readonly code: number | null
      readonly signal: string | null
      readonly inMs: number
    }
  | { readonly kind: 'log_cannot_listen'; readonly id: number; readonly message: string }
  /** A stop is over: no worker is left. */
  | { readonly kind: 'all_gone' }

export interface Decision {
  readonly next: Supervision
  readonly effects: readonly Effect[]
}

function withWorker(state: Supervision, id: number, record: WorkerRecord): Supervision {
  return { ...state, workers: new Map([...state.workers, [id, record]]) }
}

function withoutWorker(state: Supervision, id: number): Supervision {
  const workers = new Map(state.workers)
  workers.delete(id)
  return { ...state, workers, leader: state.leader === id ? undefined : state.leader }
}

/** One of those that serve probes; a new one is named only where the old one is gone. */
function electLeader(state: Supervision): Decision {
  if (state.leader !== undefined || state.phase === 'ending') return { next: state, effects: [] }
  const found = [...state.workers].find(([, { phase }]) => phase === 'serving')
  if (found === undefined) return { next: state, effects: [] }
  const [id] = found
  return { next: { ...state, leader: id }, effects: [{ kind: 'send_lead', id }] }
}

function onExit(state: Supervision, event: SupervisionEvent & { readonly kind: 'exited' }): Decision {
  const { id, code, signal, atMs } = event
  const known = state.workers.get(id)
  if (known === undefined) return { next: state, effects: [] }
  const left = withoutWorker(state, id)
  const bury: Effect = { kind: 'bury', id }
  if (state.phase === 'ending') {
    return { next: left, effects: left.workers.size === 0 ? [bury, { kind: 'all_gone' }] : [bury] }
  }
  const isHealthy = atMs - known.bornMs >= HEALTHY_MS
  const inMs = isHealthy ? 0 : state.pauseMs
  const pauseMs = isHealthy ? FIRST_PAUSE_MS : Math.min(state.pauseMs * 2, MAX_PAUSE_MS)
  const elected = electLeader({ ...left, pauseMs })
  return {
    next: elected.next,
    effects: [
      { kind: 'log_death', id, code, signal, inMs },
      bury,
      { kind: 'fork_after', waitMs: inMs },
      ...elected.effects,
    ],
  }
}

function onReady(state: Supervision, id: number, port: number): Decision {
  const known = state.workers.get(id)
  if (known === undefined || state.phase === 'ending') return { next: state, effects: [] }
  const isFirst = state.phase === 'starting'
  const serving = withWorker({ ...state, phase: 'serving' }, id, { ...known, phase: 'serving' })
  const elected = electLeader(serving)
  return {
    next: elected.next,
    effects: isFirst ? [{ kind: 'listening', port }, ...elected.effects] : elected.effects,
  }
}

/** @returns the next state, and what is to be done, in this order */
export function decide(state: Supervision, event: SupervisionEvent): Decision {
  const nothing: Decision = { next: state, effects: [] }
  switch (event.kind) {
    case 'begin':
      return { next: state, effects: Array.from({ length: event.workers }, (): Effect => ({ kind: 'fork' })) }
    case 'forked':
      return { next: withWorker(state, event.id, { bornMs: event.atMs, phase: 'starting' }), effects: [] }
    case 'awake': {
      const known = state.workers.get(event.id)
      if (known === undefined) return nothing
      const kind = state.phase === 'ending' ? 'send_shutdown' : 'send_start'
      return { next: withWorker(state, event.id, { ...known, phase: 'awake' }), effects: [{ kind, id: event.id }] }
    }
    case 'ready':
      return onReady(state, event.id, event.port)
    case 'cannot_listen':
      // Where one listens, the port is ours: the other ends, and is replaced after a pause like any that died.
      if (state.phase === 'serving') {
        return { next: state, effects: [{ kind: 'log_cannot_listen', id: event.id, message: event.message }] }
      }
      if (state.phase === 'ending') return nothing
      return { next: { ...state, phase: 'ending' }, effects: [{ kind: 'failed', message: event.message }] }
    case 'exited':
      return onExit(state, event)
    case 'pause_over':
      return state.phase === 'ending' ? nothing : { next: state, effects: [{ kind: 'fork' }] }
    case 'stop': {
      const awake = [...state.workers].filter(([, { phase }]) => phase !== 'starting')
      const next: Supervision = { ...state, phase: 'ending' }
      if (state.workers.size === 0) return { next, effects: [{ kind: 'all_gone' }] }
      return { next, effects: awake.map(([id]): Effect => ({ kind: 'send_shutdown', id })) }
    }
    case 'grace_over':
      return { next: state, effects: [...state.workers.keys()].map((id): Effect => ({ kind: 'kill', id })) }
  }
}
