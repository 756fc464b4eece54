// Health as load balancers and people ask for it: is the process there, can it serve. Names no endpoint and no key.
import type { Runtime } from '../runtime.ts'

export interface HealthReport {
  readonly status: 'ok' | 'degraded' | 'unavailable' | 'draining'
  readonly version: string
  readonly uptime_s: number
  readonly models: Readonly<Record<string, { readonly healthy: number; readonly total: number }>>
}

/**
 * The health of the whole: `degraded` when some backend is out, `unavailable` when no model has one left.
 * @param uptimeMs since the process started to serve
 */
export function healthReport(
  { pools }: Pick<Runtime, 'pools'>,
  { version, uptimeMs, draining }: { readonly version: string; readonly uptimeMs: number; readonly draining: boolean },
): HealthReport {
  const models: [string, { healthy: number; total: number }][] = []
  let anyServes = false
  let anyOut = false
  for (const pool of pools) {
    const counts = pool.counts()
    models.push([pool.model.name, counts])
    if (counts.healthy > 0) anyServes = true
    if (counts.healthy < counts.total) anyOut = true
  }
  const status = draining ? 'draining' : !anyServes ? 'unavailable' : anyOut ? 'degraded' : 'ok'
  // fromEntries defines own properties, so that a model called __proto__ is one like any other.
  return { status, version, uptime_s: Math.floor(uptimeMs / 1000), models: Object.fromEntries(models) }
}

/** 503 when nothing can be served here, so that load balancers look elsewhere. */
export function healthStatus(report: HealthReport): number {
  return report.status === 'unavailable' || report.status === 'draining' ? 503 : 200
}
