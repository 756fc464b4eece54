// Lines of the log about backends and models: one a change of state, and a reminder at long distance while one stays
// out.
import { ADVICE, adviceFor, lackAdvice } from '../balancer/advice.ts'
import { type EjectReason, type HealthChange, isEjected, type Trouble } from '../balancer/health.ts'
import type { Member } from '../balancer/pool.ts'
import type { LackChange } from '../balancer/unsupported.ts'
import type { Clock, Timer } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Runtime } from '../runtime.ts'

/** A backend that stays out is spoken of again after this: once a shift reads it, without filling the log. */
export const REMIND_MS = 3_600_000
/** How often reminders are looked for. */
const LOOK_MS = 60_000

/** A mistake in the config or around it: only an operator can fix it. */
const OPERATORS_OWN: ReadonlySet<EjectReason> = new Set([
  'credentials_refused',
  'credential_unavailable',
  'account_refused',
  'network_refused',
  'egress_refused',
  'deployment_missing',
  'operation_not_supported',
  'not_an_api',
])

/** Those of them that stand in the config itself. */
const CONFIG_FAULTS: ReadonlySet<EjectReason> = new Set([
  'credentials_refused',
  'credential_unavailable',
  'deployment_missing',
])

interface Place {
  readonly model: string
  readonly backend: string
}

/** Every place of a deployment, one line each: a query for a model must find it. */
function placesOf(deployment: string, { pools }: Runtime): readonly Place[] {
  return pools.flatMap(pool =>
    pool.members
      .filter(member => member.health.id === deployment)
      .map(member => ({ model: pool.model.name, backend: member.backend.name })),
  )
}

function troubleOf({ health }: Member): Trouble | undefined {
  return health.state.phase.kind === 'in' ? undefined : health.state.phase.trouble
}

/** `eastus: server_error 503; sweden: connect_failed ECONNREFUSED`, at most this many backends. */
const MAX_NAMED = 8
function reasonsOf(members: readonly Member[]): string {
  const named = members.slice(0, MAX_NAMED).map(member => {
    const trouble = troubleOf(member)
    return `${member.backend.name}: ${trouble === undefined ? 'out' : `${trouble.reason} ${trouble.detail}`.trimEnd()}`
  })
  const more = members.length - named.length
  return [...named, ...(more > 0 ? [`and ${more} more`] : [])].join('; ')
}

function recoversInMs(untilMs: number, sinceMs: number): number | null {
  return Number.isFinite(untilMs) ? Math.round(untilMs - sinceMs) : null
}

export interface HealthLog {
  /** @param isPartOfMore the line of an outbound proxy says it already: this one is for debugging */
  changed(change: HealthChange, isPartOfMore?: boolean): void
  /** Begins to remind; for one process of several. */
  start(): void
  stop(): void
}

/** The lines of an ejection: at `error` where only an operator can mend it. */
function logEjection(log: Log, { reason, detail, untilMs, failedMs }: Trouble, places: readonly Place[]): void {
  const fields = { reason, detail, for_ms: recoversInMs(untilMs, failedMs), todo: adviceFor(reason, detail) }
  const what = CONFIG_FAULTS.has(reason)
    ? 'backend ejected: check its credentials and deployment in the config'
    : 'backend ejected'
  const level = OPERATORS_OWN.has(reason) ? 'error' : 'warn'
  for (const place of places) log[level](what, { ...place, ...fields })
}

export function createHealthLog({
  clock,
  log,
  runtime,
}: {
  readonly clock: Clock
  readonly log: Log
  runtime(): Runtime
}): HealthLog {
  /** When a deployment was spoken of last, by its id. */
  const saidMs = new Map<string, number>()
  let timer: Timer | undefined

  const poolOf = (model: string): readonly Member[] =>
    runtime().pools.find(pool => pool.model.name === model)?.members ?? []

  const remind = (): void => {
    const nowMs = clock.nowMs()
    const out = new Set<string>()
    for (const { members } of runtime().pools) {
      for (const member of members) {
        const { id } = member.health
        const trouble = troubleOf(member)
        if (trouble === undefined || trouble.reason === 'by_hand') continue
        // Until it is back: between two holds it may be tried, and is remembered all the same.
        out.add(id)
        if (!isEjected(member.health, nowMs)) continue
        const last = saidMs.get(id) ?? trouble.sinceMs
        if (nowMs - last < REMIND_MS) continue
        saidMs.set(id, nowMs)
        const { reason, detail, sinceMs } = trouble
        const todo = adviceFor(reason, detail)
        const fields = { reason, detail, out_for_ms: Math.round(nowMs - sinceMs), todo }
        for (const place of placesOf(id, runtime())) log.warn('backend still out', { ...place, ...fields })
      }
    }
    // What is in again, or gone from the config, is forgotten.
    for (const id of saidMs.keys()) if (!out.has(id)) saidMs.delete(id)
  }

  return {
    changed(change, isPartOfMore = false) {
      if (change.kind === 'model_down') {
        const { model } = change
        const todo = "Its requests fail: look at the backends' reasons, or run --probe."
        log.error('model down: every backend is out', { model, reasons: reasonsOf(poolOf(model)), todo })
        return
      }
      if (change.kind === 'model_up') {
        log.info('model back: a backend serves it again', { model: change.model })
        return
      }
      const places = placesOf(change.health.id, runtime())
      if (isPartOfMore) {
        for (const place of places) log.debug(`backend ${change.kind}`, { ...place, reason: 'egress_refused' })
        return
      }
      switch (change.kind) {
        case 'ejected':
          logEjection(log, change.trouble, places)
          return
        case 'restored':
          for (const place of places) log.info('backend restored', { ...place, by: change.by })
          return
        case 'throttled':
          for (const place of places) {
            log.warn('backend throttled', { ...place, for_ms: Math.round(change.waitMs), todo: ADVICE.throttled })
          }
      }
    },
    start() {
      timer ??= clock.every(LOOK_MS, remind)
    },
    stop() {
      timer?.cancel()
      timer = undefined
    },
  }
}

/** Logged once a change: a deployment is avoided for an operation that it refused, or offers it again. */
export function logLackChange(
  log: Log,
  { deployment, what, apiVersion, forMs, wrong }: LackChange,
  runtime: Runtime,
): void {
  const fields = { operation: what, api_version: apiVersion }
  for (const place of placesOf(deployment, runtime)) {
    if (forMs === 0) log.info('operation offered again', { ...place, ...fields })
    else {
      const advice = { reason: `wrong_${wrong}`, for_ms: forMs, todo: lackAdvice(wrong) }
      log.warn('operation avoided: the backend does not offer it', { ...place, ...fields, ...advice })
    }
  }
}
