// The upstream request to one backend: its credential, its headers, its form of the body; and the attempt with it.
import type { Authorization, Authorizer } from '../azure/credentials.ts'
import type { Member } from '../balancer/pool.ts'
import type { BackendType } from '../config/types.ts'
import type { NameMemory } from '../http1/send.ts'
import type { Exchange } from '../request-context.ts'
import { type AttemptDeps, attempt, attemptUpgrade } from './attempt.ts'
import { type RequestName, upstreamHeaders } from './headers.ts'
import type { Outcome } from './outcome.ts'
import type {
  AttemptPlan,
  AttemptResult,
  AttemptTimeouts,
  ForwardRequest,
  PreparedRequest,
  Upgraded,
} from './upstream.ts'

/** What asking needs beyond an attempt's own needs. */
export interface SendDeps extends AttemptDeps {
  readonly requestNames: NameMemory<RequestName>
  readonly limits: {
    readonly connectMs: number
    readonly streamHoldMs: number
    readonly idleMs: number
  }
  authorizer(member: Member): Authorizer
}

function timeoutsFor({ pool }: ForwardRequest, { limits }: SendDeps): AttemptTimeouts {
  return {
    connectMs: limits.connectMs,
    headersMs: pool.model.timeoutMs,
    firstOutputMs: pool.model.firstOutputTimeoutMs,
    streamHoldMs: limits.streamHoldMs,
    idleMs: limits.idleMs,
  }
}

/**
 * curl -d calls its JSON a form and some clients call it nothing: Azure answers both with 415, though the body is
 * sound.
 */
function asJson(headers: string[]): void {
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i]?.length !== 12 || headers[i]?.toLowerCase() !== 'content-type') continue
    if (/^application\/x-www-form-urlencoded/i.test(headers[i + 1] ?? '')) headers[i + 1] = 'application/json'
    return
  }
  headers.push('content-type', 'application/json')
}

/**
 * The credential as the operation wants it: Claude takes a key as `x-api-key` (azure/README.md 13.3), servers that are
 * not Azure's one or the other; a token stays a Bearer.
 */
function credentialHeaders(
  { name, value }: Authorization & { kind: 'header' },
  { dialect }: ForwardRequest,
  type: BackendType,
): readonly string[] {
  if (dialect !== 'claude') return [name, value]
  if (name === 'api-key') return ['x-api-key', value]
  return type === 'openai' ? [name, value, 'x-api-key', value.replace(/^Bearer /, '')] : [name, value]
}

/** Raw headers with this `traceparent` in place of the client's. */
function withTraceparent(rawHeaders: readonly string[], value: string): readonly string[] {
  const kept: string[] = []
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.toLowerCase() !== 'traceparent') kept.push(rawHeaders[i] ?? '', rawHeaders[i + 1] ?? '')
  }
  return [...kept, 'traceparent', value]
}

/** The attempt's headers, complete but for Connection. */
function wireHeaders(
  exchange: Exchange,
  request: ForwardRequest,
  { backend }: Member,
  authorization: Authorization,
  { body: { byteLength }, isJson }: PreparedRequest,
  names: NameMemory<RequestName>,
): string[] {
  const { rawHeaders } = exchange.request
  // Traced: the attempt's own span is upstream's parent, in place of the client's.
  const own = exchange.trace?.attemptBegins(backend.name)
  const headers = upstreamHeaders(
    own === undefined ? rawHeaders : withTraceparent(rawHeaders, own),
    backend.type,
    names,
    backend.headers,
  )
  if (byteLength > 0 && isJson) asJson(headers)
  headers.push('host', backend.endpoint.host, 'accept-encoding', 'identity')
  for (const { name, value } of backend.headers) headers.push(name, value.reveal())
  if (authorization.kind === 'header') headers.push(...credentialHeaders(authorization, request, backend.type))
  if (byteLength > 0 || request.method === 'POST') headers.push('content-length', String(byteLength))
  if (request.upgrade !== undefined) headers.push(...request.upgrade.headers)
  return headers
}

/** What an attempt brought. It must not hold the body, which is let go of while the response may stream for minutes. */
export type SendResult = AttemptResult | Upgraded

/** A token is fetched for many requests: one that is given up does not wait for it, and does not end the fetch. */
function unlessCancelled(fetching: Promise<Authorization>, { cancellation }: Exchange): Promise<Sendable> {
  return new Promise((resolve, reject) => {
    const takeBack = cancellation.onCancel(reason => resolve({ kind: 'cancelled', reason }))
    fetching.then(resolve, reject).finally(takeBack)
  })
}

/** What to send with, or that the client did not wait for it. */
type Sendable = Authorization | (Outcome & { readonly kind: 'cancelled' })

function isUnauthorized(result: SendResult): boolean {
  return result.kind === 'response' && result.response.status === 401
}

/** How it is asked. */
export interface SendHow {
  /** Usage is asked for in the client's name. */
  readonly askUsage: boolean
  /** On a connection of its own. */
  readonly fresh: boolean
}

function sendAs(
  exchange: Exchange,
  request: ForwardRequest,
  member: Member,
  authorization: Sendable,
  how: SendHow,
  deps: SendDeps,
): SendResult | Promise<SendResult> {
  if (authorization.kind === 'cancelled') return { kind: 'no_response', outcome: authorization }
  if (authorization.kind === 'unavailable') {
    const { reason, waitMs, permanent } = authorization
    return { kind: 'no_response', outcome: { kind: 'no_token', detail: reason, waitMs, permanent } }
  }
  const { backend } = member
  const prepared = request.prepare(member, how)
  const headers = wireHeaders(exchange, request, member, authorization, prepared, deps.requestNames)
  const plan: AttemptPlan = {
    wire: { endpoint: backend.endpoint, method: request.method, path: prepared.path, headers },
    body: prepared.body.chunks,
    dialect: request.dialect,
    wantsStream: request.wantsStream,
    isCreate: request.isCreate,
    timeouts: timeoutsFor(request, deps),
    cancellation: exchange.cancellation,
    fresh: how.fresh,
  }
  return request.upgrade === undefined ? attempt(plan, deps) : attemptUpgrade(plan, deps)
}

/** Step 7 of a request (lib/README.md). Asks one backend once. */
export function sendToBackend(
  exchange: Exchange,
  request: ForwardRequest,
  member: Member,
  how: SendHow,
  deps: SendDeps,
): SendResult | Promise<SendResult> {
  if (exchange.ephemeral !== undefined) {
    const own: Authorization = {
      kind: 'header',
      name: 'authorization',
      value: `Bearer ${exchange.ephemeral.secret}`,
    }
    return sendAs(exchange, request, member, own, how, deps)
  }
  // A key is there at once; only a token may have to be fetched.
  const authorizer = deps.authorizer(member)
  const given = authorizer.authorize()
  if (!(given instanceof Promise) && authorizer.refused === undefined) {
    return sendAs(exchange, request, member, given, how, deps)
  }
  const sendWith = (authorization: Sendable): SendResult | Promise<SendResult> => {
    const sent = sendAs(exchange, request, member, authorization, how, deps)
    return authorizer.refused === undefined || authorization.kind !== 'header'
      ? sent
      : Promise.resolve(sent).then(result => {
          // Azure says 401 to a token that is wrong or was revoked (azure/README.md 2.6): the next request fetches a
          // new one.
          if (isUnauthorized(result)) authorizer.refused?.(authorization)
          return result
        })
  }
  return given instanceof Promise ? unlessCancelled(given, exchange).then(sendWith) : sendWith(given)
}
