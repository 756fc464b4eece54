// Events as metrics: finished requests, attempts, and at each reading how backends and the process stand.
import { adviceFor, lackAdvice } from '../balancer/advice.ts'
import { isEjected, throttledForMs } from '../balancer/health.ts'
import type { Clock } from '../clock.ts'
import type { ClientKeyLimits } from '../config/types.ts'
import type { CertificateEntry, ProxyEntry } from '../dashboard/entries.ts'
import type { AttemptReport } from '../forward/attempt-record.ts'
import { OUTCOME_LABELS } from '../forward/outcome-label.ts'
import { createMetrics, type Metrics, type MetricsState } from '../metrics.ts'
import type { FinishedRequest } from '../request-context.ts'
import { mayUse, type Runtime, type SharedState } from '../runtime.ts'
import type { App } from './app.ts'
import { expiryByName } from './key-expiry.ts'
import { isOwnRoute } from './own-routes.ts'

/** What the process says of itself; passed in, since only commands touch it. */
export interface ProcessFigures {
  readonly cpuSeconds: number
  readonly residentBytes: number
  readonly startedEpochS: number
  readonly heapUsedBytes: number
  /** Delay of the event loop since the last reading, in seconds. */
  readonly loopLag: { readonly p50: number; readonly p99: number; readonly max: number }
  readonly logLinesDropped: number
}

export interface RequestMetricsDeps {
  readonly clock: Clock
  readonly version: string
  readonly shared: Pick<SharedState, 'bodyBudget'>
  runtime(): Runtime
  app(): App
  /** What the proxy knows of itself. */
  self(): Pick<ProxyEntry, 'reload_failed'>
  /** Every certificate whose end is known. */
  certificates(): Iterable<CertificateEntry>
  processFigures: (() => ProcessFigures) | undefined
}

export interface RequestMetrics {
  reloaded(): void
  finished(request: FinishedRequest): void
  attempted(report: AttemptReport): void
  keyLimited(key: string, limit: string): void
  state(): MetricsState
}

/**
 * What stands where a request has no model of the config, no key, no status: an empty label would read as a missing
 * one.
 */
const NONE = 'none'

/** Models times keys whose series are shown from the start. */
const MAX_SEEDED_PAIRS = 500

/** The limits that a key has, as the label `limit` names them. */
function limitNames(limits: ClientKeyLimits): readonly string[] {
  const names: readonly (readonly [string, number | undefined])[] = [
    ['requests', limits.requestsPerMinute],
    ['tokens', limits.tokensPerMinute],
    ['concurrent', limits.concurrent],
    ['tokens_per_day', limits.tokensPerDay],
    ['tokens_per_month', limits.tokensPerMonth],
    ['cost_per_month', limits.costPerMonth],
  ]
  return names.flatMap(([name, max]) => (max === undefined ? [] : [name]))
}

/** Statuses that may become a label; an upstream's invention does not. */
function statusLabel(status: number): string {
  return status >= 100 && status <= 599 ? String(status) : NONE
}

/** What is counted as it happens. */
function createRequestSeries(metrics: Metrics) {
  return {
    requests: metrics.counters('proxy_requests_total'),
    durations: metrics.histograms('proxy_request_duration_seconds'),
    firstBytes: metrics.histograms('proxy_time_to_first_byte_seconds'),
    attempts: metrics.counters('proxy_attempts_total'),
    failovers: metrics.counters('proxy_failovers_total'),
    spilled: metrics.counters('proxy_spilled_total'),
    tokens: metrics.counters('proxy_tokens_total'),
    costs: metrics.counters('proxy_cost_total'),
    attemptFirstBytes: metrics.histograms('proxy_attempt_first_byte_seconds'),
    requestBytes: metrics.counters('proxy_request_bytes_total'),
    responseBytes: metrics.counters('proxy_response_bytes_total'),
    limited: metrics.counters('proxy_key_limited_total'),
    reloads: metrics.counters('proxy_config_reloads_total'),
  }
}

type RequestSeries = ReturnType<typeof createRequestSeries>

/** `rate` and `increase` miss a counter's first step: what the config names begins at 0. */
function seedSeries(
  {
    requests,
    tokens,
    costs,
    limited,
    reloads,
    attempts,
    failovers,
    spilled,
    requestBytes,
    responseBytes,
  }: RequestSeries,
  current: Runtime,
): void {
  const { auth } = current.config
  reloads.of()
  for (const { model, members } of current.pools) {
    for (const each of [failovers, spilled, requestBytes, responseBytes]) each.of(model.name)
    for (const { backend } of members) for (const label of OUTCOME_LABELS) attempts.of(backend.name, label)
  }
  for (const { name, limits } of [...auth.keys, ...auth.tokens]) {
    for (const limit of limitNames(limits)) limited.of(name, limit)
  }
  const named = [...auth.keys, ...auth.tokens].flatMap(key =>
    current.pools.filter(({ model }) => mayUse(key, model)).map(({ model }) => [model, key.name] as const),
  )
  // Of so many pairs most are never used: they would only fill the page.
  if (named.length > MAX_SEEDED_PAIRS) return
  for (const [model, key] of named) {
    for (const status of ['200', '429']) requests.of(model.name, key, status)
    for (const kind of ['prompt', 'completion', 'cached']) tokens.of(model.name, key, kind)
    if (model.price !== undefined) costs.of(model.name, key)
  }
}

/** Sets how every backend stands now, and whether a model has one that may be chosen. */
function setBackendGauges(metrics: Metrics, { pools, shared }: Runtime, clock: Clock): void {
  const nowMs = clock.nowMs()
  const toEpochMs = (ms: number): number => clock.epochMs() - (nowMs - ms)
  for (const pool of pools) {
    const isUp = pool.members.some(({ health }) => !isEjected(health, nowMs))
    metrics.set('proxy_model_up', [pool.model.name], isUp ? 1 : 0)
    for (const { backend, health } of pool.members) {
      const labels = [pool.model.name, backend.name]
      const { headroom, inFlight } = health
      const { phase } = health.state
      if (phase.kind !== 'in' && isEjected(health, nowMs)) {
        const { reason, detail } = phase.trouble
        metrics.set('proxy_backend_out', [...labels, reason, adviceFor(reason, detail)], 1)
      }
      for (const { what, wrong } of shared.unsupported.of(health.id)) {
        metrics.set('proxy_operation_avoided', [...labels, what, `wrong_${wrong}`, lackAdvice(wrong)], 1)
      }
      metrics.set('proxy_backend_up', labels, isEjected(health, nowMs) ? 0 : 1)
      metrics.set('proxy_backend_throttled', labels, throttledForMs(health, nowMs) > 0 ? 1 : 0)
      metrics.set('proxy_backend_in_flight', labels, inFlight)
      if (headroom?.remainingRequests !== undefined) {
        metrics.set('proxy_backend_remaining_requests', labels, headroom.remainingRequests, toEpochMs(headroom.atMs))
      }
      if (headroom?.remainingTokens !== undefined) {
        metrics.set('proxy_backend_remaining_tokens', labels, headroom.remainingTokens, toEpochMs(headroom.atMs))
      }
    }
  }
}

/** Sets what the proxy knows of its config, its requests in progress and itself. */
function setProxyGauges(
  metrics: Metrics,
  { clock, version, shared, runtime, app, self, certificates }: Omit<RequestMetricsDeps, 'processFigures'>,
): void {
  for (const [key, endsS] of expiryByName(runtime().config.auth.keys, clock.epochMs())) {
    metrics.set('proxy_key_expiry_timestamp_seconds', [key], endsS)
  }
  metrics.set('proxy_open_streams', [], app().openStreams())
  metrics.set('proxy_requests_in_flight', [], app().inFlight())
  metrics.set('proxy_buffered_bytes', [], shared.bodyBudget.heldBytes())
  const { reload_failed: failed } = self()
  metrics.set('proxy_config_last_reload_successful', [], failed === null ? 1 : 0)
  for (const { cert, ends_ms } of certificates()) {
    metrics.set('proxy_certificate_expiry_timestamp_seconds', [cert], Math.round(ends_ms / 1000))
  }
  metrics.set('proxy_build_info', [version], 1)
  metrics.set('proxy_workers', [], 1)
}

/** Sets what the operating system and Node say of the process. */
function setProcessGauges(metrics: Metrics, figures: ProcessFigures): void {
  metrics.set('proxy_log_lines_dropped_total', [], figures.logLinesDropped)
  metrics.set('process_cpu_seconds_total', [], figures.cpuSeconds)
  metrics.set('process_resident_memory_bytes', [], figures.residentBytes)
  metrics.set('process_start_time_seconds', [], figures.startedEpochS)
  metrics.set('nodejs_heap_size_used_bytes', [], figures.heapUsedBytes)
  metrics.set('nodejs_eventloop_lag_p50_seconds', [], figures.loopLag.p50)
  metrics.set('nodejs_eventloop_lag_p99_seconds', [], figures.loopLag.p99)
  metrics.set('nodejs_eventloop_lag_max_seconds', [], figures.loopLag.max)
}

export function createRequestMetrics(deps: RequestMetricsDeps): RequestMetrics {
  const { clock, runtime, processFigures } = deps
  const metrics = createMetrics()
  const series = createRequestSeries(metrics)
  const { requests, durations, firstBytes, attempts, failovers, spilled, tokens, costs } = series
  const { attemptFirstBytes, requestBytes, responseBytes, limited, reloads } = series

  let seeded: Runtime | undefined
  metrics.onRead(() => {
    const current = runtime()
    if (current !== seeded) seedSeries(series, current)
    seeded = current
    setBackendGauges(metrics, current, clock)
    setProxyGauges(metrics, deps)
    if (processFigures !== undefined) setProcessGauges(metrics, processFigures())
  })

  return {
    finished({ path, durationMs, cost, record }) {
      const { model, key = NONE, ttfbMs, usage } = record
      if (model === undefined) {
        if (!isOwnRoute(path)) requests.of(NONE, key, statusLabel(record.status)).add(1)
        return
      }
      requests.of(model, key, statusLabel(record.status)).add(1)
      durations.of(model).observe(durationMs / 1000)
      requestBytes.of(model).add(record.bytesIn)
      responseBytes.of(model).add(record.bytesOut)
      if (ttfbMs !== undefined) firstBytes.of(model).observe(ttfbMs / 1000)
      if (record.servedByLowerTier) spilled.of(model).add(1)
      const { promptTokens, completionTokens, cachedTokens } = usage
      if (promptTokens !== undefined) tokens.of(model, key, 'prompt').add(promptTokens)
      if (completionTokens !== undefined) tokens.of(model, key, 'completion').add(completionTokens)
      if (cachedTokens !== undefined) tokens.of(model, key, 'cached').add(cachedTokens)
      if (cost !== undefined) costs.of(model, key).add(cost)
    },
    attempted({ model, backend, label, isFailover, ttfbMs }) {
      if (ttfbMs !== undefined) attemptFirstBytes.of(backend).observe(ttfbMs / 1000)
      attempts.of(backend, label).add(1)
      if (isFailover) failovers.of(model).add(1)
    },
    keyLimited: (key, limit) => limited.of(key, limit).add(1),
    reloaded: () => reloads.of().add(1),
    state: () => metrics.read(),
  }
}
