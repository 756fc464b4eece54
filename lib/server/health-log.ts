// Lines of the log about backends and models: one a change of state, and a reminder at long distance while one stays
// out.
import { ADVICE, adviceFor, lackAdvice } from '../balancer/advice.ts'
import { type EjectReason, type HealthChange, isEjected, type Trouble } from '../balancer/health.ts'
import type { Member } from '../balancer/pool.ts'
import type { LackChange } from '../balancer/unsupported.ts'
import type { Clock, Timer } from '../clock.ts'
import type { Log } from '../log.ts'
import type { Runtime } from '../runtime.ts'
import type { StateLine } from '../workers/messages.ts'

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

/** Says a line about a state: to the log, or to the process that logs for several. */
export type SayState = (line: StateLine) => void

const topicOf = ({ model, backend }: Place): string => `backend ${model}/${backend}`

/** The line of an ejection: at `error` where only an operator can mend it. */
function ejectionLine({ reason, detail, untilMs, failedMs }: Trouble, place: Place): StateLine {
  const fields = { reason, detail, for_ms: recoversInMs(untilMs, failedMs), todo: adviceFor(reason, detail) }
  const what = CONFIG_FAULTS.has(reason)
    ? 'backend ejected: check its credentials and deployment in the config'
    : 'backend ejected'
  const level = OPERATORS_OWN.has(reason) ? 'error' : 'warn'
  return { level, msg: what, fields: { ...place, ...fields }, topic: topicOf(place), state: `out ${reason}` }
}

type BackendChange = Extract<HealthChange, { readonly health: unknown }>

function backendLine(change: BackendChange, place: Place): StateLine {
  const topic = topicOf(place)
  switch (change.kind) {
    case 'ejected':
      return ejectionLine(change.trouble, place)
    case 'restored':
      return { level: 'info', msg: 'backend restored', fields: { ...place, by: change.by }, topic, state: 'in' }
    case 'throttled': {
      const { waitMs } = change
      const fields = { ...place, for_ms: Math.round(waitMs), todo: ADVICE.throttled }
      const of = { topic: `throttle of ${topic}`, state: 'throttled', forMs: waitMs }
      return { level: 'warn', msg: 'backend throttled', fields, ...of }
    }
  }
}

/** A backend that goes or comes with its outbound proxy, whose line says it already. */
function quietLine({ kind }: BackendChange, place: Place): StateLine {
  const fields = { ...place, reason: 'egress_refused' }
  return { level: 'debug', msg: `backend ${kind}`, fields, topic: topicOf(place), state: `${kind} with its way` }
}

/** The lines of a change: one for each place of the backend. */
function linesOf(change: HealthChange, isPartOfMore: boolean, runtime: Runtime): readonly StateLine[] {
  if (change.kind === 'model_down' || change.kind === 'model_up') {
    const { model } = change
    const topic = `model ${model}`
    if (change.kind === 'model_up') {
      const msg = 'model back: a backend serves it again'
      return [{ level: 'info', msg, fields: { model }, topic, state: 'up' }]
    }
    const members = runtime.pools.find(pool => pool.model.name === model)?.members ?? []
    const todo = "Its requests fail: look at the backends' reasons, or run --probe."
    const fields = { model, reasons: reasonsOf(members), todo }
    return [{ level: 'error', msg: 'model down: every backend is out', fields, topic, state: 'down' }]
  }
  const lineOf = isPartOfMore ? quietLine : backendLine
  return placesOf(change.health.id, runtime).map(place => lineOf(change, place))
}

export function createHealthLog({
  clock,
  log,
  say,
  runtime,
}: {
  readonly clock: Clock
  /** For what one process alone says. */
  readonly log: Log
  readonly say: SayState
  runtime(): Runtime
}): HealthLog {
  /** When a deployment was spoken of last, by its id. */
  const saidMs = new Map<string, number>()
  let timer: Timer | undefined

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
      for (const line of linesOf(change, isPartOfMore, runtime())) say(line)
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
  say: SayState,
  { deployment, what, apiVersion, forMs, wrong }: LackChange,
  runtime: Runtime,
): void {
  const fields = { operation: what, api_version: apiVersion }
  for (const place of placesOf(deployment, runtime)) {
    const topic = `${what} at ${apiVersion} of ${topicOf(place)}`
    if (forMs === 0) {
      const given = { ...place, ...fields }
      say({ level: 'info', msg: 'operation offered again', fields: given, topic, state: 'offered' })
    } else {
      const advice = { reason: `wrong_${wrong}`, for_ms: forMs, todo: lackAdvice(wrong) }
      const msg = 'operation avoided: the backend does not offer it'
      say({ level: 'warn', msg, fields: { ...place, ...fields, ...advice }, topic, state: 'avoided', forMs })
    }
  }
}
