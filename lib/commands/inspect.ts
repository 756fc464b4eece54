// One look at every backend, step by step, token-free: name, network, certificate, key, deployment, api-version. For
// --probe. The way is the one that requests take, proxy and CAs included.
import { type Authorization, authorizerFor, type TokenAuthorizerFactory } from '../azure/credentials.ts'
import { isDeploymentMissing, isOperationUnsupported, readErrorBody } from '../azure/errors.ts'
import { operationNamed, operationPath, probePath, readsModelFromBody } from '../azure/operations.ts'
import { type Clock, createDeadlines } from '../clock.ts'
import type { BackendConfig, Config } from '../config/types.ts'
import { type AttemptDeps, attempt } from '../forward/attempt.ts'
import { questionHeaders } from '../forward/resource-query.ts'
import type { AttemptResult } from '../forward/upstream.ts'
import type { Transport } from '../http1/send.ts'
import { createCancellation } from '../request-context.ts'
import { isObject, PAGE, type Problem, pageProblem, parseJson, refusalProblem, textOf } from './inspect-answers.ts'

/**
 * What was found of one backend; null where a step could not be made because an earlier one failed. Its names are the
 * log's.
 */
export interface Inspection {
  readonly model: string
  readonly backend: string
  /** The outbound proxy on the way; DNS and TCP are its own then. */
  readonly proxy: string | null
  /** Whole milliseconds. */
  readonly dns_ms: number | null
  readonly tcp_ms: number | null
  /** Until its certificate ends; null for plain http. */
  readonly tls_days_left: number | null
  readonly key_accepted: boolean | null
  readonly deployment_found: boolean | null
  readonly api_version_accepted: boolean | null
  /** Of the model list, which costs no token. */
  readonly latency_ms: number | null
  /** A stable code, as in the log's `reason`; null when all is well. */
  readonly reason: string | null
  /** What is wrong and what to do. */
  readonly problem: string | null
}

/** A certificate that ends sooner is worth a word. */
const SOON_DAYS = 14
const DAY_MS = 86_400_000

type Found = { -readonly [K in keyof Inspection]: Inspection[K] }

interface Deps extends AttemptDeps {
  readonly timeoutMs: number
  readonly authorize: (backend: BackendConfig) => Promise<Authorization>
}

async function ask(
  backend: BackendConfig,
  method: string,
  path: string,
  body: string,
  deps: Deps,
): Promise<AttemptResult> {
  const authorization = await deps.authorize(backend)
  if (authorization.kind === 'unavailable') {
    const { reason, waitMs, permanent } = authorization
    return { kind: 'no_response', outcome: { kind: 'no_token', detail: reason, waitMs, permanent } }
  }
  const headers = questionHeaders(backend, authorization)
  const bytes = Buffer.from(body)
  if (body !== '') headers.push('content-type', 'application/json', 'content-length', String(bytes.length))
  const { timeoutMs } = deps
  return attempt(
    {
      wire: { endpoint: backend.endpoint, method, path, headers },
      body: body === '' ? [] : [bytes],
      dialect: 'opaque',
      wantsStream: false,
      isCreate: true,
      timeouts: {
        connectMs: timeoutMs,
        headersMs: timeoutMs,
        firstOutputMs: timeoutMs,
        streamHoldMs: timeoutMs,
        idleMs: timeoutMs,
      },
      cancellation: createCancellation(),
      fresh: true,
    },
    deps,
  )
}

/** Name, network, certificate. @returns what stands in the way of going on */
async function inspectNetwork(backend: BackendConfig, found: Found, deps: Deps): Promise<Problem | undefined> {
  const seen = await deps.transport.look(backend.endpoint, deps.timeoutMs)
  if (seen.resolvedMs !== undefined) found.dns_ms = Math.round(seen.resolvedMs)
  if (seen.connectedMs !== undefined) found.tcp_ms = Math.round(seen.connectedMs)
  if (seen.certificateEndsMs !== undefined) {
    found.tls_days_left = Math.floor((seen.certificateEndsMs - deps.clock.epochMs()) / DAY_MS)
  }
  const { error } = seen
  if (error === undefined) return undefined
  const reason = error.phase === 'proxy' ? 'egress_refused' : error.timeout ? 'connect_timeout' : 'connect_failed'
  return { reason, problem: `${error.message} (${error.code})` }
}

/** @returns whether the list was one: `unknown` where a gateway does not offer it */
async function inspectList(backend: BackendConfig, found: Found, deps: Deps): Promise<Problem | 'unknown' | undefined> {
  const beganMs = deps.clock.nowMs()
  const list = await ask(backend, 'GET', probePath(backend), '', deps)
  if (list.kind === 'response') found.latency_ms = Math.round(deps.clock.nowMs() - beganMs)
  const refused = refusalProblem(list)
  if (refused?.keyRefused === true) found.key_accepted = false
  if (refused !== undefined || list.kind === 'no_response') return refused
  const { response } = list
  const { status, headers } = response
  const text = await textOf(response, deps)
  const page = pageProblem(status, headers, text)
  if (page !== undefined) return page
  if (status === 401 || status === 403) {
    found.key_accepted = false
    return { reason: 'credentials_refused', problem: `the credential is refused (${status})` }
  }
  if (status >= 500) return { reason: 'server_error', problem: `answers ${status}` }
  if (status >= 400) return 'unknown'
  const value = parseJson(text)
  if (isObject(value) && (Array.isArray(value) || 'data' in value)) return undefined
  return { reason: 'not_an_api', problem: `the model list is no JSON list (${status}): ${PAGE}` }
}

/**
 * Key, then deployment and api-version by a request that every model refuses before it costs anything (azure/README.md
 * 8).
 */
async function inspectSurface(backend: BackendConfig, found: Found, deps: Deps): Promise<Problem | undefined> {
  const listed = await inspectList(backend, found, deps)
  if (listed !== undefined && listed !== 'unknown') return listed
  const chat = operationNamed('chat/completions')
  if (chat === undefined) return undefined
  const body = readsModelFromBody(chat, backend) ? { model: backend.deployment, messages: [] } : { messages: [] }
  const refused = await ask(backend, 'POST', operationPath(chat, backend, ''), JSON.stringify(body), deps)
  const problem = refusalProblem(refused)
  if (problem?.keyRefused === true) found.key_accepted = false
  if (problem !== undefined || refused.kind === 'no_response') return problem
  const { response } = refused
  const { status } = response
  const text = await textOf(response, deps)
  const page = pageProblem(status, response.headers, text)
  if (page !== undefined) return page
  if (status === 401 || status === 403) {
    found.key_accepted = false
    return { reason: 'credentials_refused', problem: `the credential is refused (${status})` }
  }
  if (status >= 500) return { reason: 'server_error', problem: `answers ${status}` }
  found.key_accepted = true
  const error = readErrorBody(Buffer.from(text))
  if (status >= 400 && isOperationUnsupported(status, error)) {
    found.api_version_accepted = false
    return {
      reason: 'wrong_version',
      problem:
        listed === 'unknown'
          ? `neither the model list nor chat/completions is served there (${status}): check the endpoint's path, type and api_version ${backend.apiVersion}`
          : `api_version ${backend.apiVersion} is not served there (${status})`,
    }
  }
  found.api_version_accepted = true
  found.deployment_found = !(status >= 400 && isDeploymentMissing(error))
  if (!found.deployment_found) {
    return { reason: 'deployment_missing', problem: `there is no deployment "${backend.deployment}" (${status})` }
  }
  if (isObject(parseJson(text))) return undefined
  return { reason: 'not_an_api', problem: `a request without messages is not refused in JSON (${status}): ${PAGE}` }
}

/**
 * Asks every backend of the config once, all at the same time. Never throws for what a backend does.
 * @param transport the way there; still open afterwards
 */
export async function inspectBackends(
  config: Config,
  {
    clock,
    tokenAuthorizer,
    transport,
  }: { readonly clock: Clock; readonly tokenAuthorizer: TokenAuthorizerFactory; readonly transport: Transport },
): Promise<readonly Inspection[]> {
  const deps: Deps = {
    clock,
    transport,
    deadlines: createDeadlines(clock),
    timeoutMs: config.healthCheck.timeoutMs,
    authorize: async backend => authorizerFor(backend, tokenAuthorizer).authorize(),
  }
  const inspect = async (model: string, backend: BackendConfig): Promise<Inspection> => {
    const found: Found = {
      model,
      backend: backend.name,
      proxy: backend.endpoint.route?.proxy?.url ?? null,
      dns_ms: null,
      tcp_ms: null,
      tls_days_left: null,
      key_accepted: null,
      deployment_found: null,
      api_version_accepted: null,
      latency_ms: null,
      reason: null,
      problem: null,
    }
    const problem = (await inspectNetwork(backend, found, deps)) ?? (await inspectSurface(backend, found, deps))
    if (problem !== undefined) {
      found.reason = problem.reason
      found.problem = problem.problem
    } else if (found.tls_days_left !== null && found.tls_days_left < SOON_DAYS) {
      found.reason = 'certificate_ends'
      found.problem = `its certificate ends in ${found.tls_days_left} days`
    }
    return found
  }
  return Promise.all(config.models.flatMap(model => model.backends.map(backend => inspect(model.name, backend))))
}
