// One look at every backend, step by step, token-free: name, network, certificate, key, deployment, api-version. For
// --probe. The way is the one that requests take, proxy and CAs included.
import { type Authorization, authorizerFor, type TokenAuthorizerFactory } from '../azure/credentials.ts'
import { operationNamed, operationPath, probePath, readsModelFromBody } from '../azure/operations.ts'
import { ADVICE, adviceCode } from '../balancer/advice.ts'
import { type Clock, createDeadlines } from '../clock.ts'
import type { BackendConfig, Config } from '../config/types.ts'
import { type AttemptDeps, attempt } from '../forward/attempt.ts'
import { questionHeaders } from '../forward/resource-query.ts'
import { type AttemptResult, sameTimeouts } from '../forward/upstream.ts'
import type { Transport } from '../http1/send.ts'
import { createCancellation } from '../request-context.ts'
import {
  finding,
  isObject,
  notAnApi,
  type Problem,
  pageProblem,
  parseJson,
  refusalProblem,
  serverProblem,
  textOf,
} from './inspect-answers.ts'

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
  /** What is wrong. */
  readonly problem: string | null
  /** What the backend itself said, as in the log's `detail`. */
  readonly detail: string | null
  /** What to do: the sentence of log, status page and alerts. */
  readonly todo: string | null
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
      timeouts: sameTimeouts(timeoutMs),
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
  return { reason, advice: adviceCode(reason, error.code), problem: error.message, detail: error.code }
}

type Reached = Extract<AttemptResult, { kind: 'response' }>['response']

/** What one question brought: a problem, or an answer that this API gives. */
async function answerOf(
  asked: AttemptResult,
  found: Found,
  deps: Deps,
): Promise<Problem | { readonly response: Reached; readonly text: string }> {
  const refused = refusalProblem(asked)
  if (refused?.reason === 'credentials_refused') found.key_accepted = false
  if (refused !== undefined || asked.kind === 'no_response') return refused ?? finding('connection_lost', 'no answer')
  const { response, outcome } = asked
  const { status, headers } = response
  const text = await textOf(response, deps)
  const page = pageProblem(status, headers, text)
  if (page !== undefined) return page
  if (status >= 500) return serverProblem(status, 'detail' in outcome ? outcome.detail : `${status}`)
  return { response, text }
}

/** @returns whether the list was one: `unknown` where a gateway does not offer it */
async function inspectList(backend: BackendConfig, found: Found, deps: Deps): Promise<Problem | 'unknown' | undefined> {
  const beganMs = deps.clock.nowMs()
  const list = await ask(backend, 'GET', probePath(backend), '', deps)
  if (list.kind === 'response') found.latency_ms = Math.round(deps.clock.nowMs() - beganMs)
  if (list.kind === 'response' && list.response.status === 404) return 'unknown'
  const answer = await answerOf(list, found, deps)
  if ('problem' in answer) return answer
  const { response, text } = answer
  if (response.status >= 400) return 'unknown'
  const value = parseJson(text)
  if (isObject(value) && (Array.isArray(value) || 'data' in value)) return undefined
  return notAnApi('the model list is no JSON list', `${response.status}`)
}

/** A version of each surface that every resource serves: does the list answer at any of them? */
const KNOWN_VERSIONS = ['v1', '2024-10-21']

/** Azure's 404 is the same for a version and for a path: another version's list tells them apart. */
async function isVersionToBlame(backend: BackendConfig, deps: Deps): Promise<boolean> {
  if (backend.type === 'openai') return false
  for (const apiVersion of KNOWN_VERSIONS.filter(version => version !== backend.apiVersion)) {
    const other = { ...backend, apiVersion }
    const list = await ask(other, 'GET', probePath(other), '', deps)
    if (list.kind === 'response' && list.response.status < 400) return true
  }
  return false
}

/** Azure's own domains (azure/README.md 1.1), in all its clouds. */
const AZURE_HOST = /\.azure\.(?:com|us|cn)$/i

async function unservedProblem(
  backend: BackendConfig,
  { listed, said, blamesVersion }: { readonly listed: boolean; readonly said: string; readonly blamesVersion: boolean },
  deps: Deps,
): Promise<Problem> {
  const { apiVersion, endpoint, type, credential } = backend
  if (listed) return finding('wrong_version', `api_version ${apiVersion} has no chat/completions there`, said)
  if (blamesVersion || (await isVersionToBlame(backend, deps))) {
    return finding('wrong_version', `api_version ${apiVersion} is not served there`, said)
  }
  const where = `at ${endpoint.protocol}//${endpoint.host}${endpoint.basePath}`
  const hint =
    type === 'openai' && AZURE_HOST.test(endpoint.hostname)
      ? ' (an Azure host: leave type: openai out)'
      : /\/api\/projects\//.test(`${endpoint.basePath}/`) && credential.kind === 'api_key'
        ? ' (the URL of a Foundry project takes Entra tokens, not keys)'
        : ''
  return finding('wrong_path', `neither the model list nor chat/completions is served ${where}${hint}`, said)
}

/** Models and deployments that are no chat models by their names: they refuse the question rightly. */
const NO_CHAT = /embed|dall-?e|image|sora|whisper|tts|transcri|audio|realtime|rerank|moderation|claude/i

/**
 * Key, then deployment and api-version by a request that every model refuses before it costs anything (azure/README.md
 * 8).
 */
async function inspectSurface(
  model: string,
  backend: BackendConfig,
  found: Found,
  deps: Deps,
): Promise<Problem | undefined> {
  const listed = await inspectList(backend, found, deps)
  if (listed !== undefined && listed !== 'unknown') return listed
  const chat = operationNamed('chat/completions')
  if (chat === undefined) return undefined
  const body = readsModelFromBody(chat, backend) ? { model: backend.deployment, messages: [] } : { messages: [] }
  const asked = await ask(backend, 'POST', operationPath(chat, backend, ''), JSON.stringify(body), deps)
  const { outcome } = asked
  if (outcome.kind === 'misconfigured' && outcome.reason === 'operation_not_supported') {
    found.key_accepted = true
    found.deployment_found = true
    found.api_version_accepted = true
    if (NO_CHAT.test(`${model} ${backend.deployment}`)) return undefined
  }
  const isUnserved =
    outcome.kind === 'unsupported' || (outcome.kind === 'failed' && /^(404|410) page/.test(outcome.detail))
  if (isUnserved && asked.kind === 'response') {
    found.api_version_accepted = false
    const blamesVersion = outcome.kind === 'unsupported' && outcome.wrong === 'version'
    return unservedProblem(backend, { listed: listed === undefined, said: outcome.detail, blamesVersion }, deps)
  }
  const answer = await answerOf(asked, found, deps)
  if ('problem' in answer) return answer
  found.key_accepted = true
  found.api_version_accepted = true
  found.deployment_found = !(outcome.kind === 'misconfigured' && outcome.reason === 'deployment_missing')
  if (!found.deployment_found) {
    const said = 'detail' in outcome ? outcome.detail : ''
    return finding('deployment_missing', `there is no deployment "${backend.deployment}"`, said)
  }
  if (isObject(parseJson(answer.text))) return undefined
  return notAnApi('a request without messages is not refused in JSON', `${answer.response.status}`)
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
      detail: null,
      todo: null,
    }
    let problem = (await inspectNetwork(backend, found, deps)) ?? (await inspectSurface(model, backend, found, deps))
    if (problem === undefined && found.tls_days_left !== null && found.tls_days_left < SOON_DAYS) {
      problem = finding('certificate_ends', `its certificate ends in ${found.tls_days_left} days`)
    }
    if (problem !== undefined) {
      found.reason = problem.reason
      found.problem = problem.problem
      found.detail = problem.detail === '' ? null : problem.detail
      found.todo = ADVICE[problem.advice]
    }
    return found
  }
  return Promise.all(config.models.flatMap(model => model.backends.map(backend => inspect(model.name, backend))))
}
