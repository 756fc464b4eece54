// One request of a simulated resource: first the fault that was asked for, then the checks of a strict front end, then
// the reply. The order is the same for a plain request and for a WebSocket handshake.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { admitTo, create, createTurn, readState } from './admitted.ts'
import type { SimulatedResponse } from './chat.ts'
import type { Deployment } from './deployments.ts'
import { resourceNotFound, type WholeResponse } from './errors.ts'
import { errorEvents, faultResponse } from './fault-responses.ts'
import type { Fault, TurnFault } from './faults.ts'
import { openRealtime } from './realtime.ts'
import { createResourceState, type ResourceState, type ServiceOptions } from './resource-state.ts'
import { commonHeaders } from './response-headers.ts'
import { openResponsesSocket, SOCKET_LIFE_MS } from './responses-socket.ts'
import { type Asked, checkAccess, checkHead, creates, isWholeResponse, readSurface } from './surface.ts'
import { pause, sendEvents, sendWhole, type WriteOptions } from './writer.ts'

export interface ServiceDeps {
  readonly options: ServiceOptions
  readonly deployments: readonly Deployment[]
  /** The resource's own host, with its port. */
  host(): string
  /** Notes what only a careless proxy would send. */
  onViolation(what: string): void
  /** The fault that a request meets. @param creates it is not token-free */
  faultFor(request: IncomingMessage, creates: boolean, reused: boolean): Fault | undefined
  turnFault(): TurnFault | undefined
}

export interface Service {
  /** @param reused the connection has served a request before */
  serve(request: IncomingMessage, response: ServerResponse, body: Buffer, reused: boolean): Promise<void>
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>
  storedResponses(): number
}

/** The stores and limits of one resource, as what serves its requests. */
export function createService(deps: ServiceDeps): Service {
  const state = createResourceState(deps.options, deps.deployments)
  return {
    serve: (request, response, body, reused) => serve(deps, state, { request, response, body, reused }),
    upgrade: (request, socket, head) => upgrade(deps, state, request, socket, head),
    storedResponses: state.store.size,
  }
}

/** Why a request is not let in, whatever it asks; the violations in its head are noted. */
function refusalFor(
  { options, host, onViolation }: ServiceDeps,
  { issuedKeys }: ResourceState,
  request: IncomingMessage,
  asked: Asked | WholeResponse,
): WholeResponse | undefined {
  const { violations, refusal } = checkHead(request, host(), options.forbidden ?? [])
  for (const violation of violations) onViolation(`${request.method} ${request.url ?? ''}: ${violation}`)
  if (refusal !== undefined) return refusal
  if (isWholeResponse(asked)) return asked
  const access = { keys: options.keys, acceptsToken: options.acceptsToken }
  return checkAccess(
    request,
    asked.surface,
    access,
    token => asked.operation.startsWith('realtime') && issuedKeys.has(token),
  )
}

/** A plain request and where its answer goes. */
interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly body: Buffer
  readonly reused: boolean
}

async function serve(deps: ServiceDeps, state: ResourceState, exchange: Exchange): Promise<void> {
  const { request, response, body, reused } = exchange
  const { options } = deps
  const { clock, name } = options
  const method = request.method ?? ''
  const headers = commonHeaders(request, name, ++state.served, options.region)
  const asked = readSurface(method, request.url ?? '')
  const makes = method === 'POST' && (isWholeResponse(asked) || creates(method, asked))
  const fault = deps.faultFor(request, makes, reused)
  const writing: WriteOptions = {
    clock,
    headers,
    fault,
    firstDelayMs: options.firstDelayMs ?? 0,
    eventDelayMs: options.eventDelayMs ?? 0,
  }
  const refusal = refusalFor(deps, state, request, asked)
  if (withholdsResponse(fault, exchange, headers)) return
  const instead = faultResponse(fault, clock.epochMs())
  if (instead !== undefined) return sendWhole(response, instead, writing)
  if (fault?.kind === 'delay') await pause(clock, fault.ms)
  if (refusal !== undefined || isWholeResponse(asked)) {
    return sendWhole(response, refusal ?? resourceNotFound(), writing)
  }
  const reply = makes
    ? create(state, { asked, requestHeaders: request.headers, body, fault, headers })
    : readState(state, method, asked, request.headers, body)
  if (reply.kind === 'answer') {
    await pause(clock, makes ? writing.firstDelayMs : 0)
    return sendWhole(response, reply.answer, writing)
  }
  return sendEvents(response, withErrorEvent(reply, fault, headers), writing)
}

/** Plays the faults that leave a request without an HTTP answer. @returns whether it was one of them */
function withholdsResponse(
  fault: Fault | undefined,
  { request: { socket }, response }: Exchange,
  headers: Readonly<Record<string, string>>,
): boolean {
  if (fault?.kind === 'hang_up' || fault?.kind === 'stale_socket') {
    socket.resetAndDestroy()
    return true
  }
  if (fault?.kind === 'garbage') {
    socket.end('this is no HTTP\r\n\r\n')
    return true
  }
  if (fault?.kind !== 'silence') return false
  if (fault.headers) {
    response.writeHead(200, { ...headers, 'Content-Type': 'application/json' })
    response.flushHeaders()
  }
  return true
}

type EventsResponse = Extract<SimulatedResponse, { kind: 'events' }>

/** A stream, broken off by an error event where the fault asks for one. @param headers take its wait */
function withErrorEvent(
  reply: EventsResponse,
  fault: Fault | undefined,
  headers: Record<string, string>,
): EventsResponse {
  if (fault?.kind !== 'error_event') return reply
  const events = [...reply.events.slice(0, fault.after), ...errorEvents(fault.error, fault.after, fault.done === true)]
  if (fault.retryAfterS !== undefined) headers['retry-after'] = String(fault.retryAfterS)
  return { ...reply, events }
}

/** Answers a WebSocket handshake as HTTP, and hangs up. */
function refuseUpgrade(socket: Duplex, answer: WholeResponse): void {
  const body = Buffer.from(answer.body)
  const headers = Object.entries({ ...answer.headers, 'Content-Length': String(body.length), Connection: 'close' })
  const lines = headers.map(([header, value]) => `${header}: ${value}`)
  socket.end(Buffer.concat([Buffer.from(`HTTP/1.1 ${answer.status} Refused\r\n${lines.join('\r\n')}\r\n\r\n`), body]))
}

/** A WebSocket handshake: what is wrong with it is answered as HTTP, as Azure does. */
async function upgrade(
  deps: ServiceDeps,
  state: ResourceState,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const { options, onViolation } = deps
  const { clock } = options
  const asked = readSurface('GET', request.url ?? '')
  const fault = deps.faultFor(request, true, false)
  const refusal = refusalFor(deps, state, request, asked)
  if (fault?.kind === 'hang_up') {
    socket.destroy()
    return
  }
  if (fault?.kind === 'silence') return
  const instead = faultResponse(fault, clock.epochMs())
  if (instead !== undefined) return refuseUpgrade(socket, instead)
  await pause(clock, options.firstDelayMs ?? 0)
  if (refusal !== undefined || isWholeResponse(asked)) return refuseUpgrade(socket, refusal ?? resourceNotFound())
  if (asked.operation === 'responses' && asked.surface === 'v1') {
    return openResponsesSocket(request, socket, head, {
      clock,
      firstDelayMs: options.firstDelayMs ?? 0,
      eventDelayMs: options.eventDelayMs ?? 0,
      lifeMs: options.socketLifeMs ?? SOCKET_LIFE_MS,
      onViolation: what => onViolation(`responses socket: ${what}`),
      turnFault: deps.turnFault,
      answer: (body, memory) => createTurn(state, asked, body, memory),
    })
  }
  if (asked.operation !== 'realtime') return refuseUpgrade(socket, resourceNotFound())
  const wanted = asked.query.get(asked.surface === 'v1' ? 'model' : 'deployment') ?? undefined
  const deployment = admitTo(state, { asked, wanted, estimate: 1, headers: {}, check: () => undefined })
  if (isWholeResponse(deployment)) return refuseUpgrade(socket, deployment)
  openRealtime(request, socket, head, {
    model: deployment.model,
    onViolation: what => onViolation(`realtime: ${what}`),
  })
}
