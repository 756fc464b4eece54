// Every request from its head to its log line: made into an exchange, routed, authenticated, handed to its handler. A handler
// that throws costs its own request and nothing else.
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Timer } from '../clock.ts'
import { costOf } from '../cost.ts'
import { createDenseSet, NO_SLOT, type Slotted } from '../dense-set.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { ClientSocket } from '../handlers/realtime.ts'
import { createCancellation, createRecord, type Exchange, type FinishedRequest } from '../request-context.ts'
import { clientAddress } from './client-address.ts'
import { createDispatch, type DispatchDeps } from './dispatch.ts'
import { createTurns } from './pipelining.ts'
import { redactedPath } from './redacted-path.ts'
import { headRefusal } from './request-head.ts'
import { route } from './router.ts'
import { clientSocket } from './upgrade-socket.ts'

export interface AppDeps extends Omit<DispatchDeps, 'isDraining'> {
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
  /** Ends what is still in flight: streams are told, the rest is cut. */
  cancelAll(): void
  inFlight(): number
  openStreams(): number
}

/** An exchange with its place among those in flight. */
interface Live extends Exchange, Slotted {
  /** When its handler had done its part; the last bytes may still wait for the client to read. */
  handledMs: number | undefined
}

const ignore = (): void => undefined

/** How often answers that no client takes are looked for. */
const STALL_CHECK_MS = 1_000
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

export function createApp(deps: AppDeps): App {
  const { clock, log, runtime, onFinished } = deps
  const live = createDenseSet<Live>()
  const whenIdle: (() => void)[] = []
  let draining = false
  let stallCheck: Timer | undefined
  const dispatch = createDispatch({ ...deps, isDraining: () => draining })

  const onDrain = new Set<() => void>()

  const finishedRequest = ({ id, request, client, beganMs, record }: Exchange): FinishedRequest => {
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

  const finish = (exchange: Live): void => {
    const { response, record } = exchange
    live.remove(exchange)
    // A session that was open has its 101, however it ended.
    const answered = record.status === 101
    if (!answered && (record.error === 'client_closed' || record.error === 'client_stalled'))
      record.status = CLIENT_CLOSED
    else if (!response.writableFinished && record.status === 0) record.status = CLIENT_CLOSED
    const finished = finishedRequest(exchange)
    if (record.isSession)
      log.debug('session ended', { id: finished.id, duration_ms: finished.durationMs, error: record.error })
    else onFinished(finished)
    if (live.size() === 0) for (const resolve of whenIdle.splice(0)) resolve()
  }

  /** Ends answers whose last bytes the client has not taken within `idle_timeout`: short ones, which nothing else watches. */
  const checkStalled = (): void => {
    if (live.size() === 0) {
      stallCheck?.cancel()
      stallCheck = undefined
      return
    }
    const longestMs = runtime().config.retry.idleTimeoutMs
    const nowMs = clock.nowMs()
    live.visit(exchange => {
      const { handledMs, response, record, cancellation } = exchange
      if (handledMs === undefined || nowMs - handledMs < longestMs) return
      record.error = 'client_stalled'
      cancellation.cancel('client_stalled')
      response.destroy()
    })
  }

  const fail = (exchange: Exchange, error: unknown): void => {
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

  const mustBeAnswered = (exchange: Exchange): void => {
    const { response, cancellation, record } = exchange
    if (response.headersSent || record.status !== 0 || response.destroyed || cancellation.reason !== undefined) return
    fail(exchange, new Error('a handler returned without an answer'))
  }

  /** Calls `done` when the handler has: at once, or when its promise is settled. */
  const serve = (exchange: Exchange, client: ClientSocket | undefined, done: () => void): void => {
    const { request } = exchange
    try {
      const refusal = headRefusal(request)
      const pending =
        refusal === undefined
          ? dispatch(exchange, route(request.method ?? '', request.url ?? ''), client)
          : refuse(exchange, refusal)
      if (pending instanceof Promise) {
        pending.then(
          () => {
            mustBeAnswered(exchange)
            done()
          },
          (error: unknown) => {
            fail(exchange, error)
            done()
          },
        )
        return
      }
      mustBeAnswered(exchange)
    } catch (error) {
      fail(exchange, error)
    }
    done()
  }

  const begin = (request: IncomingMessage, response: ServerResponse): Live => {
    const exchange: Live = {
      id: idOf(request, runtime().isSecret),
      request,
      response,
      cancellation: createCancellation(),
      record: createRecord(),
      beganMs: clock.nowMs(),
      client: clientAddress(request, runtime().config.server.trustedProxies),
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
      slot: NO_SLOT,
      handledMs: undefined,
    }
    live.add(exchange)
    stallCheck ??= clock.every(STALL_CHECK_MS, checkStalled)
    // Both may fail again while they are torn down, and neither must be uncaught.
    request.on('error', ignore)
    response.on('error', ignore)
    return exchange
  }

  const takeTurns = createTurns()

  const run = (request: IncomingMessage, response: ServerResponse): void => {
    // The connection may have closed while its turn came.
    if (response.destroyed) return
    const exchange = begin(request, response)
    // A request that is answered, and a response that is closed: only then is everything known that the log wants to say.
    let open = 2
    const oneDone = (): void => {
      if (--open === 0) finish(exchange)
    }
    response.once('close', () => {
      if (!response.writableFinished) exchange.cancellation.cancel('client_closed')
      oneDone()
    })
    serve(exchange, undefined, () => {
      exchange.handledMs = clock.nowMs()
      oneDone()
    })
  }

  return {
    handle: (request, response) => takeTurns(request, response, () => run(request, response)),
    refuseBroken(response, refusal) {
      let found: Live | undefined
      live.visit(exchange => {
        if (exchange.response === response) found = exchange
      })
      if (found === undefined || response.headersSent) return false
      refuse(found, refusal)
      return true
    },
    upgrade(request, socket, head) {
      const client = clientSocket(request, socket, head)
      const exchange = begin(request, client.response)
      const onClose = (): void => exchange.cancellation.cancel('client_closed')
      socket.once('close', onClose)
      const takeOver = (): void => {
        socket.off('close', onClose)
        client.takeOver()
      }
      const hooks: Pick<ClientSocket, 'onDrain' | 'turnEnded'> = {
        onDrain(run) {
          if (draining) run()
          else onDrain.add(run)
          return () => onDrain.delete(run)
        },
        turnEnded: turn => onFinished(finishedRequest(turn)),
      }
      serve(exchange, { ...client, ...hooks, takeOver }, () => finish(exchange))
    },
    drain() {
      draining = true
      for (const run of onDrain) run()
      onDrain.clear()
      return live.size() === 0 ? Promise.resolve() : new Promise(resolve => whenIdle.push(resolve))
    },
    cancelAll() {
      live.visit(({ cancellation }) => cancellation.cancel('shutdown'))
    },
    inFlight: live.size,
    openStreams() {
      let open = 0
      live.visit(({ record }) => {
        if (record.stream && record.ttfbMs !== undefined) open++
      })
      return open
    },
  }
}
