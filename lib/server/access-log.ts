// The line of every request, and of every change of a backend's state (README, "The log line").
import type { EjectReason, HealthChange } from '../balancer/health.ts'
import type { Log } from '../log.ts'
import type { FinishedRequest } from '../request-context.ts'
import { namesOf, type Runtime } from '../runtime.ts'
import { isOwnRoute } from './own-routes.ts'

function ms(value: number | undefined): number | null {
  return value === undefined ? null : Math.round(value * 10) / 10
}

/** One line a request: the contract's fields first, then those that are there only when they say something. */
export function logFinished(
  log: Log,
  { id, method, path, client, traceparent, durationMs, cost, record }: FinishedRequest,
): void {
  const { usage } = record
  // Probes and scrapers would fill the log: a Kubernetes pod's alone write 26,000 lines a day.
  const isWatching = isOwnRoute(path) && (method === 'GET' || method === 'HEAD')
  log[isWatching && record.status < 400 ? 'debug' : 'info']('request', {
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

/** What an operator has to do about it; reasons that pass by themselves have none. */
const CURES: Partial<Record<EjectReason, string>> = {
  credentials_refused: 'check its credentials in the config',
  credential_unavailable: 'check its identity and the token endpoint',
  account_refused: "check the account's balance and state",
  network_refused: "check the resource's network rules and the address that its name resolves to",
  egress_refused: 'check the egress proxy',
  deployment_missing: 'check its deployment in the config',
  operation_not_supported: 'its deployment is of the wrong kind for this model: check the config',
  not_an_api: 'a web page answers: a proxy or login page in between?',
}

/**
 * Logged once a change. A mistake in the config is louder than a failure: only an operator can fix it.
 * @param isPartOfMore the line of an outbound proxy says it already: this one is for debugging
 */
export function logHealthChange(log: Log, change: HealthChange, runtime: Runtime, isPartOfMore = false): void {
  if (change.kind === 'model_down') {
    log.error('model down: every backend is out', { model: change.model })
    return
  }
  if (change.kind === 'model_up') {
    log.info('model back: a backend serves it again', { model: change.model })
    return
  }
  const names = namesOf(change.health.id, runtime)
  if (isPartOfMore) {
    log.debug(`backend ${change.kind}`, { ...names, reason: 'egress_refused' })
    return
  }
  switch (change.kind) {
    case 'ejected': {
      const { reason, detail, untilMs, failedMs } = change.trouble
      const fields = { ...names, reason, detail, for_ms: recoversInMs(untilMs, failedMs) }
      const cure = CURES[reason]
      if (cure === undefined) log.warn('backend ejected', fields)
      else log.error(`backend ejected: ${cure}`, fields)
      return
    }
    case 'restored':
      log.info('backend restored', { ...names, by: change.by })
      return
    case 'throttled':
      log.warn('backend throttled', { ...names, for_ms: Math.round(change.waitMs) })
  }
}
