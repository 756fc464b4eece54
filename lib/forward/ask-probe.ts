// Asks one resource for its model list: shows network, TLS and credential, and costs no token (wire reference, section 8).
import type { Authorizer } from '../azure/credentials.ts'
import { probePath } from '../azure/operations.ts'
import type { Member } from '../balancer/pool.ts'
import type { ProbeVerdict } from '../balancer/probes.ts'
import { type AttemptDeps, attempt } from './attempt.ts'
import { createCancellation } from './exchange.ts'
import type { Outcome } from './outcome.ts'

function verdictOf(status: number): ProbeVerdict {
  if (status === 401 || status === 403) {
    return { kind: 'out', reason: 'credentials_refused', detail: `${status} to a probe`, timeout: false }
  }
  if (status >= 500) return { kind: 'out', reason: 'probe_failed', detail: `${status} to a probe`, timeout: false }
  if (status === 404) return { kind: 'unknown' }
  return { kind: 'alive' }
}

function lostVerdict(outcome: Outcome): ProbeVerdict {
  switch (outcome.kind) {
    case 'failed':
      return {
        kind: 'out',
        reason: 'probe_failed',
        detail: `${outcome.reason}: ${outcome.detail}`,
        timeout: outcome.timeout,
      }
    case 'misconfigured':
      return { kind: 'out', reason: outcome.reason, detail: outcome.detail, timeout: false }
    default:
      return { kind: 'alive' }
  }
}

/**
 * @param timeoutMs for the whole question
 */
export async function askProbe(
  member: Member,
  authorizer: Authorizer,
  timeoutMs: number,
  deps: AttemptDeps,
): Promise<ProbeVerdict> {
  const { backend } = member
  const given = authorizer.authorize()
  const authorization = given instanceof Promise ? await given : given
  if (authorization.kind === 'unavailable') {
    return { kind: 'out', reason: 'credential_unavailable', detail: authorization.reason, timeout: false }
  }
  const headers = ['host', backend.endpoint.host, 'accept', 'application/json', 'accept-encoding', 'identity']
  if (authorization.kind === 'header') headers.push(authorization.name, authorization.value)
  const result = await attempt(
    {
      wire: { endpoint: backend.endpoint, method: 'GET', path: probePath(backend), headers },
      body: [],
      dialect: 'opaque',
      wantsStream: false,
      creates: false,
      timeouts: {
        connectMs: timeoutMs,
        headersMs: timeoutMs,
        firstOutputMs: timeoutMs,
        streamHoldMs: timeoutMs,
        idleMs: timeoutMs,
      },
      cancellation: createCancellation(),
    },
    deps,
  )
  if (result.kind === 'no_answer') return lostVerdict(result.outcome)
  const { status, body, reply } = result.answer
  if (body.kind !== 'whole') {
    // The list of a region's base models is long and of no interest; reading it on keeps the connection, if it ends in time.
    const late = deps.deadlines.add(deps.clock.nowMs() + timeoutMs, () => {
      deps.deadlines.remove(late)
      reply.destroy()
    })
    reply.discard(() => deps.deadlines.remove(late))
  }
  return verdictOf(status)
}
