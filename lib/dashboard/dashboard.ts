// The live status page and its operators' orders, wired to this process and its peers.
import { randomUUID } from 'node:crypto'
import type { HealthChange, HealthRegistry } from '../balancer/health.ts'
import type { KeyLimiter } from '../balancer/key-limits.ts'
import type { Clock } from '../clock.ts'
import type { ClientKey, TokenIssuer } from '../config/types.ts'
import { type RefusalCode, refuse } from '../errors.ts'
import type { AttemptReport } from '../forward/attempt-record.ts'
import type { Log } from '../log.ts'
import { type MetricsState, mergeMetrics } from '../metrics.ts'
import type { Exchange, FinishedRequest } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { namesOf, principalId, principalOf } from '../runtime.ts'
import { backendRows, changeEntry, type ShownLack } from './backend-rows.ts'
import type { EndingKey, ProxyEntry, RequestEntry } from './entries.ts'
import { keyEntries } from './keys.ts'
import { mergeSnapshots } from './merge.ts'
import {
  createDashboardRoutes,
  type DashboardRoutes,
  dashboardRoute,
  type SteerAction,
  type SteerOrder,
} from './routes.ts'
import { createStatus, isStatusSnapshot, type Status, type StatusSnapshot } from './status.ts'

/** One process's figures; those of an ended one are counters alone (workers/messages.ts). */
export interface ProcessFiguresOf {
  readonly metrics: MetricsState
  readonly status: unknown
}

export interface DashboardDeps {
  readonly clock: Clock
  readonly log: Log
  readonly health: HealthRegistry
  runtime(): Runtime
  /** Client keys of the config that end soon. */
  keysEnding(): readonly EndingKey[]
  /** The figures of all processes, this one's among them. */
  processes(): Promise<readonly ProcessFiguresOf[]>
  wasProbed(id: string): boolean
  /** What a deployment does not serve at its api_version, for people. */
  unsupportedOf(id: string): readonly ShownLack[]
  proxy(): Omit<ProxyEntry, 'started_ms' | 'workers'>
  readonly keyLimiter: Pick<KeyLimiter, 'used'>
}

export interface Dashboard {
  finished(request: FinishedRequest): void
  attempted(report: AttemptReport): void
  changed(change: HealthChange): void
  snapshot(): StatusSnapshot
  /** Serves a path below /dashboard. @param path without `dashboard/` */
  serve(exchange: Exchange, path: string): void | Promise<void>
  /** Ends every viewer's stream: the process is about to stop. */
  close(): void
}

function rounded(ms: number): number {
  return Math.round(ms * 10) / 10
}

/** The audit line of a key or token that asked for what only an admin may see or do. */
export function auditRefusedAdmin(log: Log, { id, client, clientKey, request }: Exchange, error: RefusalCode): void {
  const path = (request.url ?? '').split('?', 1)[0] ?? ''
  const asked = path.endsWith('/eject') ? 'eject' : path.endsWith('/restore') ? 'restore' : 'read'
  log.warn('admin access refused', {
    audit: true,
    asked,
    key: clientKey?.name ?? null,
    client: client ?? null,
    error,
    id,
  })
}

/** A finished request as the page lists it; undefined: it was for no model of the config. */
function requestEntry(
  { id, method, path, client, durationMs, record }: FinishedRequest,
  clock: Clock,
): RequestEntry | undefined {
  if (record.model === undefined) return undefined
  const { promptTokens, completionTokens, cachedTokens } = record.usage
  return {
    time_ms: clock.epochMs(),
    id,
    key: record.key ?? null,
    client: client ?? null,
    method,
    path,
    model: record.model,
    backend: record.backend ?? null,
    status: record.status,
    attempts: record.attempts,
    duration_ms: rounded(durationMs),
    ttfb_ms: record.ttfbMs === undefined ? null : rounded(record.ttfbMs),
    prompt_tokens: promptTokens ?? null,
    completion_tokens: completionTokens ?? null,
    cached_tokens: cachedTokens ?? null,
    stream: record.stream,
    error: record.error ?? null,
  }
}

/**
 * Carries out an operator's order, with its audit line.
 * @returns false when the model has no backend of that name
 */
function steer(
  { log, health: healthRegistry, runtime }: Pick<DashboardDeps, 'log' | 'health' | 'runtime'>,
  action: SteerAction,
  { model, backend, by }: SteerOrder,
): boolean {
  const pool = runtime().pools.find(candidate => candidate.model.name === model)
  const member = pool?.members.find(candidate => candidate.backend.name === backend)
  if (member === undefined) return false
  log.warn(action === 'eject' ? 'backend ejected by hand' : 'backend restored by hand', {
    audit: true,
    model,
    backend,
    key: by.key ?? null,
    client: by.client ?? null,
    id: by.id,
  })
  if (action === 'eject') healthRegistry.eject(member.health, undefined)
  else healthRegistry.restore(member.health)
  return true
}

/** The snapshot of all processes, with the use of every key that has limits. */
async function collectAll(
  { processes, runtime, keyLimiter }: Pick<DashboardDeps, 'processes' | 'runtime' | 'keyLimiter'>,
  own: Status,
): Promise<StatusSnapshot> {
  const all = await processes()
  const [first = own.snapshot(), ...rest] = all.map(({ status: each }) => each).filter(isStatusSnapshot)
  const { auth } = runtime().config
  const limits = new Map([...auth.keys, ...auth.tokens].map(({ name, limits }) => [name, limits] as const))
  const limited = [...limits].filter(([, { ...given }]) => Object.values(given).some(max => max !== undefined))
  const used = (await keyLimiter.used(limited.map(([name]) => name))) ?? {}
  const keys = keyEntries(mergeMetrics(all.map(({ metrics }) => metrics)), limits, used)
  return { ...mergeSnapshots([first, ...rest]), keys }
}

/** Whether a key, or an issuer's token, is an admin's in the config of now; with authentication off everyone is. */
function isAdmin(
  key: ClientKey | TokenIssuer | undefined,
  { clock, runtime }: Pick<DashboardDeps, 'clock' | 'runtime'>,
): boolean {
  const { config } = runtime()
  if (!config.auth.enabled) return true
  return key !== undefined && principalOf(config, principalId(key), clock.epochMs())?.admin === true
}

/** Serves one request below /dashboard: its method, its path and its right are checked before its route is entered. */
function serveRoute(
  exchange: Exchange,
  path: string,
  routes: DashboardRoutes,
  deps: Pick<DashboardDeps, 'clock' | 'log' | 'runtime'>,
): void | Promise<void> {
  const { request, response, record, clientKey } = exchange
  const target = dashboardRoute(request.method ?? '', path)
  if (target.kind === 'method_not_allowed') {
    return refuse(exchange, {
      status: 405,
      code: 'method_not_allowed',
      message: `This URL takes ${target.allow} only.`,
      headers: ['allow', target.allow],
    })
  }
  if (target.kind === 'unknown_url') {
    return refuse(exchange, { status: 404, code: 'unknown_url', message: 'There is nothing at this URL.' })
  }
  response.once('finish', () => {
    record.status = response.statusCode
  })
  if (target.kind === 'page') return routes.page(request, response)
  if (!isAdmin(clientKey, deps)) {
    auditRefusedAdmin(deps.log, exchange, 'admin_key_required')
    return refuse(exchange, {
      status: 403,
      code: 'admin_key_required',
      message: 'This needs a key that the config marks with admin: true.',
    })
  }
  if (target.kind === 'events') return routes.events(response, () => isAdmin(clientKey, deps))
  return routes.steer(request, response, target.kind, {
    key: clientKey?.name,
    client: exchange.client,
    id: exchange.id,
  })
}

export function createDashboard(deps: DashboardDeps): Dashboard {
  const { clock, runtime, wasProbed, unsupportedOf, proxy, keysEnding } = deps
  const status = createStatus({
    clock,
    states: () => backendRows(runtime().pools, clock, wasProbed, unsupportedOf),
    keysEnding,
    proxy,
    source: randomUUID(),
  })

  const dashboard = createDashboardRoutes({
    clock,
    collect: () => collectAll(deps, status),
    eject: order => steer(deps, 'eject', order),
    restore: order => steer(deps, 'restore', order),
  })

  return {
    attempted({ model, backend, label, ttfbMs }) {
      status.attemptDone({ model, backend, outcome: label, ttfbMs })
    },
    changed(change) {
      if (change.kind === 'model_down' || change.kind === 'model_up') return
      status.stateChanged(changeEntry(change, namesOf(change.health.id, runtime()), clock))
    },
    snapshot: status.snapshot,
    finished(request) {
      const entry = requestEntry(request, clock)
      if (entry !== undefined) status.requestDone(entry)
    },
    serve: (exchange, path) => serveRoute(exchange, path, dashboard, deps),
    close: dashboard.close,
  }
}
