// Notes of an attempt: on the request's record, on the backend's health, and for logs and metrics.
import { exhaustedForMs, rateLimitSignals } from '../azure/waits.ts'
import type { HealthRegistry } from '../balancer/health.ts'
import type { Member } from '../balancer/pool.ts'
import type { Exchange } from '../request-context.ts'
import type { ResponseValues } from './headers.ts'
import type { Outcome } from './outcome.ts'
import type { OutcomeLabel } from './outcome-label.ts'
import type { ForwardRequest, RelayResult, UpstreamResponse } from './upstream.ts'

/** Seen by logs and metrics, once an attempt. */
export interface AttemptReport {
  readonly model: string
  readonly backend: string
  readonly label: OutcomeLabel
  readonly detail: string
  readonly attempt: number
  /** It saved the request: another backend had failed before. */
  readonly isFailover: boolean
  /** Milliseconds from asking this backend to the first byte that was passed on; undefined when none was. */
  readonly ttfbMs: number | undefined
}

/** What was seen, for people; empty where there is nothing to say. */
export function outcomeDetail(outcome: Outcome): string {
  return 'detail' in outcome ? outcome.detail : ''
}

/** Records in the backend's health what a response says is left of its rate limits. */
export function noteSignals(member: Member, values: ResponseValues, healthRegistry: HealthRegistry): void {
  if (values['x-ratelimit-remaining-requests'] === undefined && values['x-ratelimit-remaining-tokens'] === undefined) {
    return
  }
  const signals = rateLimitSignals(values)
  healthRegistry.noteHeadroom(member.health, signals, exhaustedForMs(signals))
}

/** What may be shown in a log line: bounded, and only what such ids and names are made of. */
function safeForLog(value: string | undefined): string | undefined {
  if (value === undefined || !/^[\w .:/-]{1,128}$/.test(value)) return undefined
  // A copy: a value is a slice of its response's head. That head would be kept for as long as the stream runs or the
  // status page shows it.
  return Buffer.from(value, 'latin1').toString('latin1')
}

/**
 * Puts on the request's record what a response's headers tell: Azure's own id, and whether Azure moved it elsewhere.
 */
export function recordResponse({ record }: Exchange, { headers }: UpstreamResponse): void {
  const { values } = headers
  record.upstreamId = safeForLog(values['apim-request-id']) ?? safeForLog(values['x-request-id'])
  const from = safeForLog(values['x-ms-spillover-from-deployment'])
  if (from !== undefined) record.azureSpillover = from
  else if (values['x-ms-is-spilled-over'] === 'true') {
    record.azureSpillover = safeForLog(values['x-ms-deployment-name']) ?? 'yes'
  }
}

/** Puts on the request's record how its response's way to the client ended. */
export function recordResult({ record }: Exchange, end: RelayResult): void {
  if (end.kind === 'cut') record.error = `cut: ${end.detail}`
  else if (end.kind === 'cancelled') record.error = end.reason
}

/** Reports an attempt. @param askedMs monotonic time at which the backend was asked */
export function report(
  exchange: Exchange,
  request: Pick<ForwardRequest, 'pool'>,
  member: Member,
  {
    label,
    detail,
    askedMs,
    isFailover,
  }: {
    readonly label: OutcomeLabel
    readonly detail: string
    readonly askedMs: number
    readonly isFailover: boolean
  },
  onAttempt: (report: AttemptReport) => void,
): void {
  const { ttfbMs, attempts } = exchange.record
  exchange.trace?.attemptEnds(member.backend.name, label, detail)
  onAttempt({
    model: request.pool.model.name,
    backend: member.backend.name,
    label,
    detail,
    attempt: attempts,
    isFailover: isFailover && label === 'served',
    ttfbMs: ttfbMs === undefined ? undefined : exchange.beganMs + ttfbMs - askedMs,
  })
}
