// The line of every request (deploy/reference.md, "The log line").

import type { Log } from '../log.ts'
import type { FinishedRequest } from '../request-context.ts'
import { isOwnRoute } from './own-routes.ts'

function ms(value: number | undefined): number | null {
  return value === undefined ? null : Math.round(value * 10) / 10
}

/** What a client was denied by us or by all backends is what an operator looks for. */
function levelOf(status: number, isWatching: boolean): 'debug' | 'info' | 'warn' {
  if (status >= 500) return 'warn'
  return isWatching && status < 400 ? 'debug' : 'info'
}

/**
 * Step 12 of a request (lib/README.md): one line. The documented fields (deploy/reference.md, "The log line") stand
 * first, then those that only some requests have.
 */
export function logFinished(
  log: Log,
  { id, method, path, client, traceparent, durationMs, cost, record }: FinishedRequest,
): void {
  const { usage } = record
  // Probes and scrapers would fill the log: a Kubernetes pod's alone write 26,000 lines a day.
  const isWatching = isOwnRoute(path) && (method === 'GET' || method === 'HEAD')
  log[levelOf(record.status, isWatching)]('request', {
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
