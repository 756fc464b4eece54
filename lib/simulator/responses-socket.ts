// Responses over WebSocket as a simulated resource holds it (azure/README.md 13.1): turns in order, the latest response
// in memory, errors as frames with `status`.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import type { SimulatedResponse } from './chat.ts'
import type { WholeResponse } from './errors.ts'
import type { TurnFault } from './faults.ts'
import type { SocketMemory } from './responses.ts'
import { acceptWebSocket, type ServerSocket } from './websocket.ts'
import { pause } from './writer.ts'

type Json = Readonly<Record<string, unknown>>

/** tungstenite, which Codex uses, takes 64 MiB a message. */
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024
/** How long Azure keeps a session, in milliseconds. */
export const SOCKET_LIFE_MS = 60 * 60_000

export interface TurnSocketOptions {
  readonly clock: Clock
  readonly firstDelayMs: number
  readonly eventDelayMs: number
  /** After so many milliseconds a turn is refused with `websocket_connection_limit_reached`. */
  readonly lifeMs: number
  readonly onViolation: (what: string) => void
  /** What the next turn meets. */
  turnFault(): TurnFault | undefined
  /** Admits a turn and makes its response. */
  answer(body: Json, memory: SocketMemory): SimulatedResponse
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** An error answer as the frame it becomes; waits go into `headers`. */
export function errorFrame({ status, headers, body }: WholeResponse): object {
  const parsed: unknown = body.length === 0 ? {} : JSON.parse(String(body))
  const given = isObject(parsed) && isObject(parsed.error) ? parsed.error : parsed
  const error = {
    type: 'invalid_request_error',
    code: null,
    message: '',
    param: null,
    ...(isObject(given) ? given : {}),
  }
  const waits = Object.fromEntries(Object.entries(headers).filter(([name]) => /^retry-after/i.test(name)))
  return { type: 'error', status, error, ...(Object.keys(waits).length === 0 ? {} : { headers: waits }) }
}

function limitReached(): object {
  const error = {
    type: 'invalid_request_error',
    code: 'websocket_connection_limit_reached',
    message:
      'Responses websocket connection limit reached (60 minutes). Create a new websocket connection to continue.',
  }
  return { type: 'error', status: 400, error }
}

async function runTurn(
  frame: Json,
  memory: SocketMemory,
  session: ServerSocket,
  options: TurnSocketOptions,
): Promise<void> {
  const { clock, firstDelayMs, eventDelayMs } = options
  const fault = options.turnFault()
  const { type: _, ...body } = frame
  await pause(clock, firstDelayMs)
  if (fault?.kind === 'message') return session.say(fault.value)
  if (fault?.kind === 'error_frame') {
    const { status, error, headers } = fault
    session.say({
      type: 'error',
      ...(status === undefined ? {} : { status }),
      error,
      ...(headers === undefined ? {} : { headers }),
    })
    return
  }
  const reply = options.answer({ ...body, stream: true }, memory)
  if (reply.kind === 'answer') {
    // A turn that fails drops the id that it had named.
    if (memory.latest?.id === body.previous_response_id) memory.latest = undefined
    session.say(errorFrame(reply.answer))
    return
  }
  for (const [i, event] of reply.events.entries()) {
    if (fault !== undefined && i === fault.after) {
      if (fault.kind === 'close') session.close(fault.code, 'simulated')
      else session.cut()
    }
    if (!session.isOpen) return
    if (i > reply.startUp) await pause(clock, eventDelayMs)
    session.say(JSON.parse(event.slice(event.indexOf('\ndata: ') + 7)))
  }
}

/** Agrees to a handshake and serves turns until either side closes. */
export function openResponsesSocket(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  options: TurnSocketOptions,
): void {
  const memory: SocketMemory = { latest: undefined }
  const endsMs = options.clock.nowMs() + options.lifeMs
  let turns = Promise.resolve()
  if (request.headers['sec-websocket-extensions'] !== undefined) {
    options.onViolation('an extension is asked for by somebody who reads frames')
  }
  const session = acceptWebSocket(request, socket, head, {
    maxMessageBytes: MAX_MESSAGE_BYTES,
    onViolation: options.onViolation,
    onMessage(frame) {
      const type = isObject(frame) ? frame.type : undefined
      if (isObject(frame) && type === 'response.create') {
        turns = turns.then(() => {
          if (options.clock.nowMs() < endsMs) return runTurn(frame, memory, session, options)
          session.say(limitReached())
          return undefined
        })
        turns.catch(() => session.close(1011, 'internal error'))
      } else if (type === 'response.inject') {
        session.say({ type: 'response.inject.created', response_id: Reflect.get(frame ?? {}, 'response_id') })
      } else if (type !== 'response.processed') {
        const message = `Invalid value: '${String(type)}'.`
        const error = { type: 'invalid_request_error', code: 'invalid_value', message, param: 'type' }
        session.say({ type: 'error', status: 400, error })
      }
    },
  })
}
