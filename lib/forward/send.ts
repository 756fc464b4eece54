// What is sent to one backend for a request: its credential, its headers, its form of the body; and the attempt with it.
import type { Authorization, Authorizer } from '../azure/credentials.ts'
import type { Member } from '../balancer/pool.ts'
import type { NameMemory } from '../http1/header-names.ts'
import type { Exchange } from '../request-context.ts'
import { type AttemptDeps, attempt, attemptUpgrade } from './attempt.ts'
import { type RequestName, upstreamHeaders } from './headers.ts'
import type { Outcome } from './outcome.ts'
import type { Ask, AttemptPlan, AttemptResult, AttemptTimeouts, Upgraded } from './upstream.ts'

/** What asking needs beyond an attempt's own needs. */
export interface AskDeps extends AttemptDeps {
  readonly requestNames: NameMemory<RequestName>
  readonly limits: {
    readonly connectMs: number
    readonly streamHoldMs: number
    readonly idleMs: number
  }
  authorizer(member: Member): Authorizer
}

function timeoutsFor({ pool }: Ask, { limits }: AskDeps): AttemptTimeouts {
  return {
    connectMs: limits.connectMs,
    headersMs: pool.model.timeoutMs,
    firstOutputMs: pool.model.firstOutputTimeoutMs,
    streamHoldMs: limits.streamHoldMs,
    idleMs: limits.idleMs,
  }
}

/** curl -d calls its JSON a form and some clients call it nothing: Azure answers both with 415, though the body is sound. */
function asJson(headers: string[]): void {
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i]?.length !== 12 || headers[i]?.toLowerCase() !== 'content-type') continue
    if (/^application\/x-www-form-urlencoded/i.test(headers[i + 1] ?? '')) headers[i + 1] = 'application/json'
    return
  }
  headers.push('content-type', 'application/json')
}

/** The attempt's headers, complete but for Connection. */
function wireHeaders(
  { request }: Exchange,
  ask: Ask,
  { backend }: Member,
  authorization: Authorization,
  byteLength: number,
  names: NameMemory<RequestName>,
): string[] {
  const headers = upstreamHeaders(request.rawHeaders, backend.type, names)
  if (byteLength > 0 && ask.json) asJson(headers)
  headers.push('host', backend.endpoint.host, 'accept-encoding', 'identity')
  if (authorization.kind === 'header') headers.push(authorization.name, authorization.value)
  if (byteLength > 0 || ask.method === 'POST') headers.push('content-length', String(byteLength))
  if (ask.upgrade !== undefined) headers.push(...ask.upgrade.headers)
  return headers
}

/** What an attempt brought. It must not hold the body, which is let go of while the answer may stream for minutes. */
export type Asked = AttemptResult | Upgraded

/** A token is fetched for many requests: one that is given up does not wait for it, and does not end the fetch. */
function unlessCancelled(
  fetching: Promise<Authorization>,
  { cancellation }: Exchange,
): Promise<Authorization | (Outcome & { readonly kind: 'cancelled' })> {
  return new Promise((resolve, reject) => {
    const takeBack = cancellation.onCancel(reason => resolve({ kind: 'cancelled', reason }))
    fetching.then(resolve, reject).finally(takeBack)
  })
}

function askAs(
  exchange: Exchange,
  ask: Ask,
  member: Member,
  authorization: Authorization | (Outcome & { readonly kind: 'cancelled' }),
  deps: AskDeps,
): Asked | Promise<Asked> {
  if (authorization.kind === 'cancelled') return { kind: 'no_answer', outcome: authorization }
  if (authorization.kind === 'unavailable') {
    const outcome: Outcome = { kind: 'misconfigured', reason: 'credential_unavailable', detail: authorization.reason }
    return { kind: 'no_answer', outcome }
  }
  const { backend } = member
  const body = ask.body(member)
  const headers = wireHeaders(exchange, ask, member, authorization, body.byteLength, deps.requestNames)
  const plan: AttemptPlan = {
    wire: { endpoint: backend.endpoint, method: ask.method, path: ask.path(backend), headers },
    body: body.chunks,
    dialect: ask.dialect,
    wantsStream: ask.wantsStream,
    creates: ask.creates,
    timeouts: timeoutsFor(ask, deps),
    cancellation: exchange.cancellation,
  }
  return ask.upgrade === undefined ? attempt(plan, deps) : attemptUpgrade(plan, deps)
}

/** Asks one backend once. */
export function askBackend(exchange: Exchange, ask: Ask, member: Member, deps: AskDeps): Asked | Promise<Asked> {
  if (exchange.ephemeral !== undefined) {
    const own: Authorization = {
      kind: 'header',
      name: 'authorization',
      value: `Bearer ${exchange.ephemeral.secret}`,
    }
    return askAs(exchange, ask, member, own, deps)
  }
  // A key is there at once; only a token may have to be fetched.
  const given = deps.authorizer(member).authorize()
  if (!(given instanceof Promise)) return askAs(exchange, ask, member, given, deps)
  return unlessCancelled(given, exchange).then(authorization => askAs(exchange, ask, member, authorization, deps))
}
