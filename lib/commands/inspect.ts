// One look at every backend, step by step, token-free: name, network, certificate, key, deployment, api-version. For --probe.

import { lookup } from 'node:dns/promises'
import net from 'node:net'
import tls from 'node:tls'
import { type Authorization, authorizerFor, type TokenAuthorizerFactory } from '../azure/credentials.ts'
import { isDeploymentMissing, isOperationUnsupported, readErrorBody } from '../azure/errors.ts'
import { operationNamed, operationPath, probePath, readsModelFromBody } from '../azure/operations.ts'
import { type Clock, createDeadlines } from '../clock.ts'
import type { BackendConfig, Config } from '../config/types.ts'
import { type AttemptDeps, attempt } from '../forward/attempt.ts'
import type { AttemptResult } from '../forward/upstream.ts'
import { createTransport } from '../http1/send.ts'
import { createCancellation } from '../request-context.ts'

/** What was found of one backend; undefined where a step could not be made because an earlier one failed. */
export interface Inspection {
  readonly model: string
  readonly backend: string
  /** Whole milliseconds. */
  readonly dnsMs: number | undefined
  readonly tcpMs: number | undefined
  /** Days until its certificate ends; undefined for plain http. */
  readonly tls: { readonly daysLeft: number } | undefined
  readonly keyAccepted: boolean | undefined
  readonly deploymentFound: boolean | undefined
  readonly apiVersionAccepted: boolean | undefined
  /** Of the model list, which costs no token. */
  readonly latencyMs: number | undefined
  /** undefined when all is well. */
  readonly problem: string | undefined
}

/** A certificate that ends sooner is worth a word. */
const SOON_DAYS = 14
const DAY_MS = 86_400_000

type PortFacts = { -readonly [K in keyof Inspection]: Inspection[K] }

interface Deps extends AttemptDeps {
  readonly timeoutMs: number
  readonly authorize: (backend: BackendConfig) => Promise<Authorization>
}

function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : 'failed'
}

/** Connects and hangs up again. @throws the system's error, or ETIMEDOUT */
function connect(backend: BackendConfig, timeoutMs: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: backend.endpoint.hostname, port: backend.endpoint.port })
    socket.setTimeout(timeoutMs, () => socket.destroy(Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })))
    socket.once('connect', () => {
      socket.destroy()
      resolve()
    })
    socket.once('error', reject)
  })
}

/** Days until the backend's certificate ends. @throws when the handshake or the verification fails */
function certificateDays(backend: BackendConfig, timeoutMs: number, epochMs: number): Promise<number> {
  const { hostname, port } = backend.endpoint
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: hostname, port, ...(net.isIP(hostname) === 0 ? { servername: hostname } : {}) })
    socket.setTimeout(timeoutMs, () => socket.destroy(Object.assign(new Error('timeout'), { code: 'ETIMEDOUT' })))
    socket.once('secureConnect', () => {
      const ends = Date.parse(socket.getPeerCertificate().valid_to)
      socket.destroy()
      resolve(Math.floor((ends - epochMs) / DAY_MS))
    })
    socket.once('error', reject)
  })
}

async function ask(
  backend: BackendConfig,
  method: string,
  path: string,
  body: string,
  deps: Deps,
): Promise<AttemptResult> {
  const headers = ['host', backend.endpoint.host, 'accept', 'application/json', 'accept-encoding', 'identity']
  const authorization = await deps.authorize(backend)
  if (authorization.kind === 'unavailable') {
    const outcome = { kind: 'misconfigured', reason: 'credential_unavailable', detail: authorization.reason } as const
    return { kind: 'no_response', outcome }
  }
  if (authorization.kind === 'header') headers.push(authorization.name, authorization.value)
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
    },
    deps,
  )
}

/** Name, network, certificate. @returns what stands in the way of going on */
async function inspectNetwork(backend: BackendConfig, found: PortFacts, deps: Deps): Promise<string | undefined> {
  const { clock, timeoutMs } = deps
  const { endpoint } = backend
  let beganMs = clock.nowMs()
  try {
    await lookup(endpoint.hostname)
    found.dnsMs = Math.round(clock.nowMs() - beganMs)
  } catch (error) {
    return `${endpoint.hostname} is not known (${codeOf(error)})`
  }
  beganMs = clock.nowMs()
  try {
    await connect(backend, timeoutMs)
    found.tcpMs = Math.round(clock.nowMs() - beganMs)
  } catch (error) {
    return `no connection to ${endpoint.host} (${codeOf(error)})`
  }
  if (endpoint.protocol !== 'https:') return undefined
  try {
    found.tls = { daysLeft: await certificateDays(backend, timeoutMs, clock.epochMs()) }
  } catch (error) {
    return `TLS fails (${codeOf(error)})`
  }
  return undefined
}

/** Key, then deployment and api-version by a request that every model refuses before it costs anything (wire reference, 8). */
async function inspectSurface(backend: BackendConfig, found: PortFacts, deps: Deps): Promise<string | undefined> {
  const beganMs = deps.clock.nowMs()
  const list = await ask(backend, 'GET', probePath(backend), '', deps)
  if (list.kind === 'no_response') {
    const { outcome } = list
    return outcome.kind === 'misconfigured' || outcome.kind === 'failed'
      ? `${outcome.reason}: ${outcome.detail}`
      : 'no answer'
  }
  found.latencyMs = Math.round(deps.clock.nowMs() - beganMs)
  list.response.source.discard()
  if (list.response.status === 401 || list.response.status === 403) {
    found.keyAccepted = false
    return `the credential is refused (${list.response.status})`
  }
  if (list.response.status >= 500) return `answers ${list.response.status}`

  const chat = operationNamed('chat/completions')
  if (chat === undefined) return undefined
  const body = readsModelFromBody(chat, backend) ? { model: backend.deployment, messages: [] } : { messages: [] }
  const refused = await ask(backend, 'POST', operationPath(chat, backend, ''), JSON.stringify(body), deps)
  if (refused.kind === 'no_response') return 'the deployment does not answer'
  const { status, body: answered } = refused.response
  if (status === 401 || status === 403) {
    found.keyAccepted = false
    return `the credential is refused (${status})`
  }
  found.keyAccepted = true
  const error =
    answered.kind === 'whole' ? readErrorBody(Buffer.concat(answered.chunks)) : readErrorBody(Buffer.alloc(0))
  if (answered.kind !== 'whole') refused.response.source.destroy()
  if (status >= 500) return `answers ${status}`
  found.apiVersionAccepted = !(status >= 400 && isOperationUnsupported(status, error))
  if (!found.apiVersionAccepted) return `api_version ${backend.apiVersion} is not served there (${status})`
  found.deploymentFound = !(status >= 400 && isDeploymentMissing(error))
  return found.deploymentFound ? undefined : `there is no deployment "${backend.deployment}" (${status})`
}

/**
 * Asks every backend of the config once, all at the same time. Never throws for what a backend does.
 */
export async function inspectBackends(
  config: Config,
  { clock, tokenAuthorizer }: { readonly clock: Clock; readonly tokenAuthorizer: TokenAuthorizerFactory },
): Promise<readonly Inspection[]> {
  const transport = createTransport(clock)
  const deps: Deps = {
    clock,
    transport,
    deadlines: createDeadlines(clock),
    timeoutMs: config.healthCheck.timeoutMs,
    authorize: async backend => authorizerFor(backend, tokenAuthorizer).authorize(),
  }
  const inspect = async (model: string, backend: BackendConfig): Promise<Inspection> => {
    const found: PortFacts = {
      model,
      backend: backend.name,
      dnsMs: undefined,
      tcpMs: undefined,
      tls: undefined,
      keyAccepted: undefined,
      deploymentFound: undefined,
      apiVersionAccepted: undefined,
      latencyMs: undefined,
      problem: undefined,
    }
    found.problem = (await inspectNetwork(backend, found, deps)) ?? (await inspectSurface(backend, found, deps))
    if (found.problem === undefined && found.tls !== undefined && found.tls.daysLeft < SOON_DAYS) {
      found.problem = `its certificate ends in ${found.tls.daysLeft} days`
    }
    return found
  }
  try {
    return await Promise.all(
      config.models.flatMap(model => model.backends.map(backend => inspect(model.name, backend))),
    )
  } finally {
    transport.close()
  }
}
