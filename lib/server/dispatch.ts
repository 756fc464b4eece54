// From a route to its handler: past the drain and the authentication that it needs.
import type { Clock } from '../clock.ts'
import { auditRefusedAdmin } from '../dashboard/dashboard.ts'
import { refuse } from '../errors.ts'
import { handleConversation } from '../handlers/conversations.ts'
import { ephemeralKey } from '../handlers/ephemeral-keys.ts'
import { healthReport, healthStatus } from '../handlers/health.ts'
import { handleInference } from '../handlers/inference.ts'
import { handleModel, handleModels } from '../handlers/models.ts'
import { type ClientSocket, handleRealtime } from '../handlers/realtime.ts'
import { handleResourceObject } from '../handlers/resource-objects.ts'
import { handleStoredResponse } from '../handlers/responses.ts'
import { handleResponsesSocket } from '../handlers/responses-socket.ts'
import { handleRoot } from '../handlers/root.ts'
import { sendJson, sendText } from '../handlers/send.ts'
import type { Log } from '../log.ts'
import { METRICS_CONTENT_TYPE } from '../metrics.ts'
import type { Exchange } from '../request-context.ts'
import { principalOf, type Runtime } from '../runtime.ts'
import { type Authenticator, type AuthResult, createAuthenticator } from './auth.ts'
import { answerCors } from './cors.ts'
import { redactedPath } from './redacted-path.ts'
import type { Route } from './router.ts'
import { foreignPageRefusal, formRefusal } from './same-origin.ts'

export interface DispatchDeps {
  readonly clock: Clock
  readonly log: Log
  readonly version: string
  runtime(): Runtime
  /** The text of GET /metrics; undefined: the figures of the other processes cannot be had. */
  metricsText(): Promise<string | undefined>
  /** Serves a path below /dashboard. */
  dashboard(exchange: Exchange, path: string): void | Promise<void>
  isDraining(): boolean
}

/** URLs of Anthropic's API, also those at which there is nothing. */
const ANTHROPIC = /^\/+(?:anthropic\/|v1\/messages(?:$|[/?]))/

const OPEN_ROUTES: ReadonlySet<Route['kind']> = new Set([
  'health',
  'livez',
  'readyz',
  'root',
  'metrics',
  'unknown_url',
  'method_not_allowed',
  'malformed',
])

/** What an ephemeral key of a realtime session is good for. */
function takesEphemeral(target: Route): boolean {
  return target.kind === 'realtime' || (target.kind === 'inference' && target.operation.name === 'realtime/calls')
}

/** Serves a request by its route. What is done at once returns at once: a promise costs, and most routes need none. */
export type Dispatch = (exchange: Exchange, target: Route, client: ClientSocket | undefined) => void | Promise<void>

export function createDispatch(deps: DispatchDeps): Dispatch {
  const { clock, log, version, runtime, metricsText, dashboard, isDraining } = deps
  const startedMs = clock.nowMs()
  const authenticatorFor = authenticators(clock)
  return (exchange, target, client) => {
    const current = runtime()
    const { auth, server } = current.config
    exchange.isAnthropic =
      target.kind === 'inference' ? target.operation.dialect === 'claude' : ANTHROPIC.test(exchange.request.url ?? '')
    // The status page is read from its own origin only.
    if (server.corsOrigins.length > 0 && target.kind !== 'dashboard' && answerCors(exchange, server.corsOrigins)) return
    if (target.kind === 'livez') return sendJson(exchange, 200, { status: 'ok' })
    if (target.kind === 'readyz') {
      // It does not hang on Azure: with every backend out, clients must get the proxy's own response and not find it
      // gone.
      return sendJson(exchange, isDraining() ? 503 : 200, { status: isDraining() ? 'draining' : 'ok' })
    }
    if (target.kind === 'root') return handleRoot(exchange, version)
    if (target.kind === 'health') {
      const report = healthReport(current, {
        version,
        uptimeMs: clock.nowMs() - startedMs,
        draining: isDraining(),
      })
      return sendJson(exchange, healthStatus(report), report)
    }
    if (target.kind === 'metrics' && current.config.metrics.enabled) {
      return metricsText().then(text => {
        if (text !== undefined) return sendText(exchange, 200, METRICS_CONTENT_TYPE, text)
        // A part of the counters would look like a restart to Prometheus: a failed scrape is the truth.
        const message = 'The process that keeps the counters of all workers does not answer.'
        refuse(exchange, { status: 503, code: 'overloaded', message, retryAfterMs: 1000 })
      })
    }
    if (isDraining()) {
      return refuse(exchange, {
        status: 503,
        code: 'draining',
        message: 'This proxy is shutting down. Try again: another one answers.',
        retryAfterMs: 1000,
        close: true,
      })
    }
    if (!auth.enabled) {
      const { request } = exchange
      const foreign = foreignPageRefusal(request, current.config.server.corsOrigins)
      const refusal = foreign ?? (target.kind === 'dashboard' ? formRefusal(request) : undefined)
      if (refusal !== undefined) return refuse(exchange, refusal)
    }
    const isPage = target.kind === 'dashboard' && target.path === ''
    if (!auth.enabled || isPage || OPEN_ROUTES.has(target.kind)) {
      return serveRoute(exchange, target, client, current, dashboard)
    }
    const { request } = exchange
    const proceed = (result: AuthResult): void | Promise<void> => {
      // The issuer of a token may have been asked meanwhile.
      if (exchange.cancellation.reason !== undefined) return undefined
      if (result.kind === 'known') exchange.clientKey = result.principal
      else if (!takesEphemeral(target) || !useEphemeral(exchange, current)) {
        if (target.kind === 'dashboard' && result.given) auditRefusedAdmin(log, exchange, result.refusal.code)
        return refuse(exchange, result.refusal)
      }
      exchange.record.key = exchange.clientKey?.name
      return serveRoute(exchange, target, client, current, dashboard)
    }
    const result = authenticatorFor(current).authenticate({
      headers: request.headers,
      target: request.url ?? '',
      client: exchange.client,
      webSocket: client !== undefined,
    })
    return result instanceof Promise ? result.then(proceed) : proceed(result)
  }
}

/** One authenticator a config: what it prepares is prepared once. */
function authenticators(clock: Clock): (current: Runtime) => Authenticator {
  let made: { readonly of: Runtime; readonly authenticator: Authenticator } | undefined
  return current => {
    if (made?.of !== current) {
      made = { of: current, authenticator: createAuthenticator(current.config.auth, current.tokenVerifier, clock) }
    }
    return made.authenticator
  }
}

/**
 * Takes the ephemeral key that a request shows, if a resource behind this proxy issued it. Models and limits of the key
 * that had it issued hold for it; when that key is withdrawn or over, so is this one.
 */
function useEphemeral(exchange: Exchange, { config, shared }: Runtime): boolean {
  const shown = ephemeralKey(exchange.request.headers, shared.owners)
  if (shown?.mintedBy === undefined) return false
  const principal = principalOf(config, shown.mintedBy, shared.clock.epochMs())
  if (principal === undefined) return false
  exchange.ephemeral = shown
  exchange.clientKey = principal
  return true
}

function serveRoute(
  exchange: Exchange,
  target: Route,
  client: ClientSocket | undefined,
  current: Runtime,
  dashboard: DispatchDeps['dashboard'],
): void | Promise<void> {
  switch (target.kind) {
    case 'inference':
      return handleInference(exchange, target, current)
    case 'stored_response':
      // A key in an id's place would go upstream.
      if (!current.isSecret(target.id)) return handleStoredResponse(exchange, target, current)
      break
    case 'conversation':
      return handleConversation(exchange, target, current)
    case 'resource_object':
      return handleResourceObject(exchange, target, current)
    case 'dashboard':
      return dashboard(exchange, target.path)
    case 'realtime':
      return handleRealtime(exchange, target, client, current)
    case 'responses_socket':
      return handleResponsesSocket(exchange, target, client, current)
    case 'models':
      return handleModels(exchange, current)
    case 'model':
      return handleModel(exchange, target.id, current)
    case 'no_object_id':
      return refuse(exchange, {
        status: 404,
        code: 'response_not_found',
        message: 'No stored object has such an id: ids are made of letters, digits, "_" and "-".',
      })
    case 'malformed':
      return refuse(exchange, {
        status: 400,
        code: 'invalid_request',
        message: 'The path holds a percent escape that cannot be decoded.',
      })
    case 'method_not_allowed':
      return refuse(exchange, {
        status: 405,
        code: 'method_not_allowed',
        message: `This URL takes ${target.allow} only.`,
        headers: ['allow', target.allow],
      })
    default:
  }
  const shown = redactedPath(exchange.request.url ?? '', current.isSecret)
  const hint = 'hint' in target ? target.hint : undefined
  const near = 'near' in target ? `: did you mean ${target.near}?` : '.'
  refuse(exchange, {
    status: 404,
    code: 'unknown_url',
    message: hint ?? `There is nothing at ${exchange.request.method ?? ''} ${shown}${near}`,
  })
}
