// Every request from its head to its log line: made into an exchange, routed, authenticated, handed to its handler. A handler
// that throws costs its own request and nothing else.
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import { createCancellation, createRecord, type Exchange, type RequestRecord } from '../forward/exchange.ts'
import { refuse } from '../forward/refuse.ts'
import { ephemeralKey } from '../handlers/ephemeral.ts'
import type { Gateway } from '../handlers/gateway.ts'
import { healthReport, healthStatus } from '../handlers/health.ts'
import { handleInference } from '../handlers/inference.ts'
import { handleModel, handleModels } from '../handlers/models.ts'
import { type ClientSocket, handleRealtime } from '../handlers/realtime.ts'
import { handleStoredResponse } from '../handlers/responses.ts'
import { sendJson, sendText } from '../handlers/send.ts'
import type { Log } from '../log.ts'
import { METRICS_CONTENT_TYPE } from '../metrics.ts'
import { authenticate } from './auth.ts'
import { type Route, route } from './router.ts'
import { shownPath } from './shown-path.ts'
import { createSocketWatch } from './socket-watch.ts'
import { clientSocket } from './upgrade-socket.ts'

/** A finished request, for the log and the counters. */
export interface FinishedRequest {
  readonly id: string
  readonly method: string
  readonly path: string
  readonly client: string | undefined
  readonly traceparent: string | undefined
  readonly durationMs: number
  readonly record: Readonly<RequestRecord>
}

export interface AppDeps {
  readonly clock: Clock
  readonly log: Log
  readonly version: string
  gateway(): Gateway
  /** The text of GET /metrics. */
  metricsText(): Promise<string>
  /** Serves a path below /dashboard. */
  dashboard(exchange: Exchange, path: string): void | Promise<void>
  onFinished(finished: FinishedRequest): void
}

export interface App {
  handle(request: IncomingMessage, response: ServerResponse): void
  /** A request to switch to WebSocket; the socket is no longer the server's. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void
  /** Refuses new work from now on; resolves when the last request in flight has ended. */
  drain(): Promise<void>
  /** Ends what is still in flight: streams are told, the rest is cut. */
  cancelAll(): void
  inFlight(): number
  openStreams(): number
}

/** How long, and no longer, an answered client may go on sending. */
const LINGER_MS = 2_000
/** A client's own request id is taken over when it is made of these; it ends up in logs and headers. */
const REQUEST_ID = /^[\w.:/+=@-]{1,128}$/
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/

/** Status in the log when the client left before an answer (nginx's word for it). */
const CLIENT_CLOSED = 499

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}

function idOf(request: IncomingMessage, isSecret: (text: string) => boolean): string {
  const given = single(request.headers['x-request-id'])
  return given !== undefined && REQUEST_ID.test(given) && !isSecret(given) ? given : randomUUID()
}

const OPEN_ROUTES: ReadonlySet<Route['kind']> = new Set([
  'health',
  'livez',
  'metrics',
  'unknown_url',
  'method_not_allowed',
])

/** What an ephemeral key of a realtime session is good for. */
function takesEphemeral(target: Route): boolean {
  return target.kind === 'realtime' || (target.kind === 'inference' && target.operation.name === 'realtime/calls')
}

export function createApp({ clock, log, version, gateway, metricsText, dashboard, onFinished }: AppDeps): App {
  const startedMs = clock.nowMs()
  const live = new Set<Exchange>()
  const whenIdle: (() => void)[] = []
  let draining = false

  const dispatch = async (exchange: Exchange, target: Route, client?: ClientSocket): Promise<void> => {
    const current = gateway()
    const { auth } = current.config
    if (target.kind === 'livez') return sendJson(exchange, 200, { status: 'ok' })
    if (target.kind === 'health') {
      const report = healthReport(current, { version, uptimeMs: clock.nowMs() - startedMs, draining })
      return sendJson(exchange, healthStatus(report), report)
    }
    if (target.kind === 'metrics' && current.config.metrics.enabled) {
      return sendText(exchange, 200, METRICS_CONTENT_TYPE, await metricsText())
    }
    if (draining) {
      return refuse(exchange, {
        status: 503,
        code: 'draining',
        message: 'This proxy is shutting down. Try again: another one answers.',
        retryAfterMs: 1000,
        close: true,
      })
    }
    const isPage = target.kind === 'dashboard' && target.path === ''
    if (auth.enabled && !isPage && !OPEN_ROUTES.has(target.kind)) {
      exchange.clientKey = authenticate(exchange.request.headers, auth.keys, target.kind === 'realtime')
      if (exchange.clientKey === undefined && takesEphemeral(target)) {
        exchange.ephemeral = ephemeralKey(exchange.request.headers, current.parts.owners)
      }
      if (exchange.clientKey === undefined && exchange.ephemeral === undefined) {
        return refuse(exchange, {
          status: 401,
          code: 'invalid_api_key',
          message:
            'No valid API key was given: send it as "Authorization: Bearer KEY", or as "api-key" or "x-api-key".',
          headers: ['www-authenticate', 'Bearer'],
        })
      }
      exchange.record.key = exchange.clientKey?.name
    }
    switch (target.kind) {
      case 'inference':
        return handleInference(exchange, target, current)
      case 'stored_response':
        // A key in an id's place would go upstream.
        if (!current.isSecret(target.id)) return handleStoredResponse(exchange, target, current)
        break
      case 'dashboard':
        return dashboard(exchange, target.path)
      case 'realtime':
        return handleRealtime(exchange, target, client, current)
      case 'models':
        return handleModels(exchange, current)
      case 'model':
        return handleModel(exchange, target.id, current)
      case 'method_not_allowed':
        return refuse(exchange, {
          status: 405,
          code: 'method_not_allowed',
          message: `This URL takes ${target.allow} only.`,
          headers: ['allow', target.allow],
        })
      default:
    }
    const shown = shownPath(exchange.request.url ?? '', current.isSecret)
    const hint = 'hint' in target ? target.hint : undefined
    refuse(exchange, {
      status: 404,
      code: 'unknown_url',
      message: hint ?? `There is nothing at ${exchange.request.method ?? ''} ${shown}.`,
    })
  }

  const finish = (exchange: Exchange): void => {
    const { request, response, record } = exchange
    live.delete(exchange)
    // A session that was open has its 101, however it ended.
    const answered = record.status === 101
    if (!answered && (record.error === 'client_closed' || record.error === 'client_stalled'))
      record.status = CLIENT_CLOSED
    else if (!response.writableFinished && record.status === 0) record.status = CLIENT_CLOSED
    const trace = single(request.headers.traceparent)
    onFinished({
      id: exchange.id,
      method: request.method ?? '',
      path: shownPath(request.url ?? '', gateway().isSecret),
      client: request.socket.remoteAddress,
      traceparent: trace !== undefined && TRACEPARENT.test(trace) ? trace : undefined,
      durationMs: clock.nowMs() - exchange.beganMs,
      record,
    })
    if (live.size === 0) for (const resolve of whenIdle.splice(0)) resolve()
  }

  const serve = async (exchange: Exchange, client?: ClientSocket): Promise<void> => {
    const { request, response, cancellation, record } = exchange
    try {
      // RFC 9112 section 3.2: without a Host, or with two, a request is malformed.
      if (request.httpVersion === '1.1' && request.headers.host === undefined) {
        refuse(exchange, { status: 400, code: 'invalid_request', message: 'The Host header is missing.', close: true })
      } else await dispatch(exchange, route(request.method ?? '', request.url ?? ''), client)
      if (!response.headersSent && record.status === 0 && !response.destroyed && cancellation.reason === undefined) {
        throw new Error('a handler returned without an answer')
      }
    } catch (error) {
      log.error('handler failed', {
        id: exchange.id,
        error: error instanceof Error ? (error.stack ?? error.message) : 'unknown',
      })
      refuse(exchange, {
        status: 500,
        code: 'internal_error',
        message: 'The proxy failed to handle this request. Its log has the details under this request id.',
      })
    }
  }

  const begin = (request: IncomingMessage, response: ServerResponse): Exchange => {
    const exchange: Exchange = {
      id: idOf(request, gateway().isSecret),
      request,
      response,
      cancellation: createCancellation(),
      record: createRecord(),
      beganMs: clock.nowMs(),
      lingerAndClose() {
        const timer = clock.after(LINGER_MS, () => response.end())
        const end = (): void => {
          timer.cancel()
          response.end()
        }
        request.once('end', end).once('close', end).resume()
      },
      clientKey: undefined,
      ephemeral: undefined,
    }
    live.add(exchange)
    // Both may fail again while they are torn down, and neither must be uncaught.
    request.on('error', () => undefined)
    response.on('error', () => undefined)
    return exchange
  }

  const onSocketClose = createSocketWatch()

  return {
    handle(request, response) {
      const exchange = begin(request, response)
      // A request that is answered, and a response that is closed: only then is everything known that the log wants to say.
      let open = 2
      const oneDone = (): void => {
        if (--open === 0) finish(exchange)
      }
      let closed = false
      const onClosed = (): void => {
        if (closed) return
        closed = true
        stopWatching?.()
        if (!response.writableFinished) exchange.cancellation.cancel('client_closed')
        oneDone()
      }
      const stopWatching = response.socket === null ? onSocketClose(request.socket, onClosed) : undefined
      response.once('close', onClosed)
      serve(exchange).then(oneDone, oneDone)
    },
    upgrade(request, socket, head) {
      const client = clientSocket(request, socket, head)
      const exchange = begin(request, client.response)
      const onClose = (): void => exchange.cancellation.cancel('client_closed')
      socket.once('close', onClose)
      const done = (): void => finish(exchange)
      serve(exchange, {
        ...client,
        takeOver() {
          socket.off('close', onClose)
          client.takeOver()
        },
      }).then(done, done)
    },
    drain() {
      draining = true
      return live.size === 0 ? Promise.resolve() : new Promise(resolve => whenIdle.push(resolve))
    },
    cancelAll() {
      for (const exchange of live) exchange.cancellation.cancel('shutdown')
    },
    inFlight: () => live.size,
    openStreams() {
      let open = 0
      for (const { record } of live) if (record.stream && record.ttfbMs !== undefined) open++
      return open
    },
  }
}
