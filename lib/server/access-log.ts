// The line of every request, and of every change of a backend's state (README, "The log line").
import type { HealthChange } from '../balancer/health.ts'
import type { Log } from '../log.ts'
import type { FinishedRequest } from '../request-context.ts'
import { namesOf, type Runtime } from '../runtime.ts'

function ms(value: number | undefined): number | null {
  return value === undefined ? null : Math.round(value * 10) / 10
}

/** One line a request: the contract's fields first, then those that are there only when they say something. */
export function logFinished(
  log: Log,
  { id, method, path, client, traceparent, durationMs, cost, record }: FinishedRequest,
): void {
  const { usage } = record
  log.info('request', {
    id,
    key: record.key ?? null,
    method,
    path,
    model: record.model ?? null,
    backend: record.backend ?? null,
    status: record.status,
    attempts: record.attempts,
    duration_ms: ms(durationMs),
    ttfb_ms: ms(record.ttfbMs),
    bytes_in: record.bytesIn,
    bytes_out: record.bytesOut,
    stream: record.stream,
    prompt_tokens: usage.promptTokens ?? null,
    completion_tokens: usage.completionTokens ?? null,
    cached_tokens: usage.cachedTokens ?? null,
    cost: cost ?? null,
    client: client ?? null,
    error: record.error ?? null,
    made_by: record.madeBy,
    spilled: record.servedByLowerTier ? true : undefined,
    spilled_over: record.azureSpillover,
    upstream_id: record.upstreamId,
    traceparent,
  })
}

function recoversInMs(untilMs: number, sinceMs: number): number | null {
  return Number.isFinite(untilMs) ? Math.round(untilMs - sinceMs) : null
}

/** Said once a change. A mistake in the config is said louder than a failure: only its operator can mend it. */
export function logHealthChange(log: Log, change: HealthChange, runtime: Runtime): void {
  const names = namesOf(change.health.id, runtime)
  switch (change.kind) {
    case 'ejected': {
      const { reason, detail, untilMs, failedMs } = change.ejection
      const fields = { ...names, reason, detail, for_ms: recoversInMs(untilMs, failedMs) }
      if (reason === 'credentials_refused' || reason === 'deployment_missing' || reason === 'credential_unavailable') {
        log.error('backend ejected: check its credentials and deployment in the config', fields)
      } else log.warn('backend ejected', fields)
      return
    }
    case 'restored':
      log.info('backend restored', { ...names, by: change.by })
      return
    case 'throttled':
      log.warn('backend throttled', { ...names, for_ms: Math.round(change.waitMs) })
  }
}
