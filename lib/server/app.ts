// Every request from its head to its log line: made into an exchange, routed, authenticated, handed to its handler. A
// handler that throws costs its own request and nothing else.
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { costOf } from '../cost.ts'
import { createDenseSet, type DenseSet, NO_SLOT, type Slotted } from '../dense-set.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { ClientSocket } from '../handlers/realtime.ts'
import type { Log } from '../log.ts'
import {
  createCancellation,
  createRecord,
  type Exchange,
  type FinishedRequest,
  type RequestTrace,
} from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import type { Tracer } from '../tracing/tracer.ts'
import { clientAddress } from './client-address.ts'
import { createDispatch, type Dispatch, type DispatchDeps } from './dispatch.ts'
import { isOwnRoute } from './own-routes.ts'
import { createTurns } from './pipelining.ts'
import { redactedPath } from './redacted-path.ts'
import { headRefusal } from './request-head.ts'
import { route } from './router.ts'
import { createStallWatch, type Handled } from './stall-watch.ts'
import { clientSocket } from './upgrade-socket.ts'

export interface AppDeps extends Omit<DispatchDeps, 'isDraining'> {
  /** Left out: nothing is traced. */
  readonly tracer?: Tracer
  onFinished(finished: FinishedRequest): void
}

export interface App {
  handle(request: IncomingMessage, response: ServerResponse): void
  /** A request to switch to WebSocket; the socket is no longer the server's. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void
  /** The framing of a request's body is broken. @returns false: it cannot be answered any more */
  refuseBroken(response: ServerResponse, refusal: Refusal): boolean
  /** Refuses new work from now on; resolves when the last request in flight has ended. */
  drain(): Promise<void>
  /** Ends what is still in flight: streams end in an error event, the rest is cut. */
  cancelAll(): void
  inFlight(): number
  openStreams(): number
}

/** An exchange with its place among those in flight. */
type Live = Exchange & Slotted & Handled & Lingering

/** Its refusal is written, and the end waits for what the client still sends. */
type Lingering = { lingers: boolean }

const ignore = (): void => undefined

/** How long, and no longer, an answered client may go on sending. */
const LINGER_MS = 2_000
/** A client's own request id is taken over when it is made of these; it ends up in logs and headers. */
const REQUEST_ID = /^[\w.:/+=@-]{1,128}$/
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/

/** Status in the log when the client left before a response (nginx's word for it). */
const CLIENT_CLOSED = 499

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}

function idOf(request: IncomingMessage, isSecret: (text: string) => boolean): string {
  const given = single(request.headers['x-request-id'])
  return given !== undefined && REQUEST_ID.test(given) && !isSecret(given) ? given : randomUUID()
}

function asFinished(exchange: Exchange, { clock, runtime }: Pick<AppDeps, 'clock' | 'runtime'>): FinishedRequest {
  const { id, request, client, beganMs, record } = exchange
  const trace = single(request.headers.traceparent)
  return {
    id,
    method: request.method ?? '',
    path: redactedPath(request.url ?? '', runtime().isSecret),
    client,
    traceparent: trace !== undefined && TRACEPARENT.test(trace) ? trace : undefined,
    durationMs: clock.nowMs() - beganMs,
    cost: costOf(record.usage, record.model === undefined ? undefined : runtime().pool(record.model)?.model.price),
    record,
  }
}

/** The status in the log, where the client did not get one. */
function settleStatus({ response, record }: Exchange): void {
  // A session that was open has its 101, however it ended.
  if (record.status === 101) return
  const isGone = record.error === 'client_closed' || record.error === 'client_stalled'
  if (isGone || (!response.writableFinished && record.status === 0)) record.status = CLIENT_CLOSED
}

function fail(exchange: Exchange, log: Log, error: unknown): void {
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

function mustBeAnswered(exchange: Exchange, log: Log): void {
  const { response, cancellation, record } = exchange
  if (response.headersSent || record.status !== 0 || response.destroyed || cancellation.reason !== undefined) return
  fail(exchange, log, new Error('a handler returned without an answer'))
}

/**
 * Step 2 and on (lib/README.md). Calls `done` when the handler has done its part: at once, or when its promise settles.
 */
function serve(
  exchange: Exchange,
  client: ClientSocket | undefined,
  { dispatch, log, runtime }: { readonly dispatch: Dispatch; readonly log: Log; runtime(): Runtime },
  done: () => void,
): void {
  const { request } = exchange
  try {
    const refusal = headRefusal(request)
    const pending =
      refusal === undefined
        ? dispatch(exchange, route(request.method ?? '', request.url ?? '', runtime().extraOperations), client)
        : refuse(exchange, refusal)
    if (pending instanceof Promise) {
      pending.then(
        () => {
          mustBeAnswered(exchange, log)
          done()
        },
        (error: unknown) => {
          fail(exchange, log, error)
          done()
        },
      )
      return
    }
    mustBeAnswered(exchange, log)
  } catch (error) {
    fail(exchange, log, error)
  }
  done()
}

function beginTrace({ url = '', headers }: IncomingMessage, tracer: Tracer | undefined): RequestTrace | undefined {
  return isOwnRoute(url.split('?', 1)[0] ?? '') ? undefined : tracer?.begin(single(headers.traceparent))
}

/** Step 1 of a request (lib/README.md): its id, its one cancellation, its record. */
function beginExchange(
  request: IncomingMessage,
  response: ServerResponse,
  { clock, runtime, tracer }: Pick<AppDeps, 'clock' | 'runtime' | 'tracer'>,
): Live {
  const { isSecret, config } = runtime()
  // Both may fail again while they are torn down, and neither must be uncaught.
  request.on('error', ignore)
  response.on('error', ignore)
  return {
    id: idOf(request, isSecret),
    request,
    response,
    cancellation: createCancellation(),
    record: createRecord(),
    beganMs: clock.nowMs(),
    trace: config.tracing.url === undefined ? undefined : beginTrace(request, tracer),
    client: clientAddress(request, config.server.trustedProxies),
    lingers: false,
    lingerAndClose() {
      this.lingers = true
      const timer = clock.after(LINGER_MS, () => response.end())
      const end = (): void => {
        timer.cancel()
        response.end()
      }
      request.once('end', end).once('close', end).resume()
    },
    clientKey: undefined,
    ephemeral: undefined,
    isAnthropic: false,
    slot: NO_SLOT,
    handledMs: undefined,
  }
}

/** A client that leaves cancels its request, until a tunnel takes the socket over. @returns takes it over */
function cancelOnClose({ cancellation }: Exchange, socket: Duplex, client: Pick<ClientSocket, 'takeOver'>): () => void {
  const onClose = (): void => cancellation.cancel('client_closed')
  socket.once('close', onClose)
  return () => {
    socket.off('close', onClose)
    client.takeOver()
  }
}

function openStreamsIn(live: DenseSet<Live>): number {
  let open = 0
  live.visit(({ record }) => {
    if (record.stream && record.ttfbMs !== undefined) open++
  })
  return open
}

function refuseBroken(live: DenseSet<Live>, response: ServerResponse, refusal: Refusal): boolean {
  let found: Live | undefined
  live.visit(exchange => {
    if (exchange.response === response) found = exchange
  })
  if (found === undefined || (response.headersSent && !found.lingers)) return false
  if (found.lingers) response.end()
  else refuse(found, refusal)
  return true
}

export function createApp(deps: AppDeps): App {
  const { clock, log, onFinished } = deps
  const live = createDenseSet<Live>()
  const whenIdle: (() => void)[] = []
  const onDrain = new Set<() => void>()
  let draining = false
  const { runtime } = deps
  const serving = { dispatch: createDispatch({ ...deps, isDraining: () => draining }), log, runtime }
  const watchStalls = createStallWatch(live, clock, () => deps.runtime().config.retry.idleTimeoutMs)
  const takeTurns = createTurns()

  const begin = (request: IncomingMessage, response: ServerResponse): Live => {
    const exchange = beginExchange(request, response, deps)
    live.add(exchange)
    watchStalls()
    return exchange
  }

  const finish = (exchange: Live): void => {
    const { record } = exchange
    live.remove(exchange)
    settleStatus(exchange)
    const finished = asFinished(exchange, deps)
    if (record.isSession)
      log.debug('session ended', { id: finished.id, duration_ms: finished.durationMs, error: record.error })
    else onFinished(finished)
    deps.tracer?.finished(finished, exchange.trace)
    if (live.size() === 0) for (const resolve of whenIdle.splice(0)) resolve()
  }

  const run = (request: IncomingMessage, response: ServerResponse): void => {
    // The connection may have closed while its turn came.
    if (response.destroyed) return
    const exchange = begin(request, response)
    // A request that is answered, and a response that is closed: only then is everything known that the log wants to
    // say.
    let open = 2
    const oneDone = (): void => {
      if (--open === 0) finish(exchange)
    }
    response.on('close', () => {
      if (!response.writableFinished) exchange.cancellation.cancel('client_closed')
      oneDone()
    })
    serve(exchange, undefined, serving, () => {
      exchange.handledMs = clock.nowMs()
      oneDone()
    })
  }

  return {
    handle: (request, response) => takeTurns(request, response, () => run(request, response)),
    refuseBroken: (response, refusal) => refuseBroken(live, response, refusal),
    upgrade(request, socket, head) {
      const client = clientSocket(request, socket, head)
      const exchange = begin(request, client.response)
      const takeOver = cancelOnClose(exchange, socket, client)
      const hooks: Pick<ClientSocket, 'onDrain' | 'turnEnded'> = {
        onDrain(run) {
          if (draining) run()
          else onDrain.add(run)
          return () => onDrain.delete(run)
        },
        turnEnded: turn => onFinished(asFinished(turn, deps)),
      }
      serve(exchange, { ...client, ...hooks, takeOver }, serving, () => finish(exchange))
    },
    drain() {
      draining = true
      for (const run of onDrain) run()
      onDrain.clear()
      return live.size() === 0 ? Promise.resolve() : new Promise(resolve => whenIdle.push(resolve))
    },
    cancelAll: () => live.visit(({ cancellation }) => cancellation.cancel('shutdown')),
    inFlight: live.size,
    openStreams: () => openStreamsIn(live),
  }
}
