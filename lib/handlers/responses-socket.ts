// Responses over WebSocket: the URL of POST /v1/responses, asked for with a handshake. The proxy agrees to it by
// itself, since only the first message names a model and state.
import { operationNamed } from '../azure/operations.ts'
import { refuse } from '../errors.ts'
import { acceptKey } from '../forward/websocket-frames.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { type ClientSocket, handshakeProblem } from './realtime.ts'
import { mayOpenAt } from './socket-opening.ts'
import { runSocketSession } from './socket-session.ts'

export interface ResponsesSocketRoute {
  /** The deployment in the path names the model of every turn. */
  readonly model: string | undefined
  readonly query: string
}

/**
 * Answers GET /v1/responses. A handshake that no backend could have gets 426. On that status alone Codex goes on by
 * HTTP at once; any other costs it seven tries (codex-rs, responses_websocket.rs).
 */
export function handleResponsesSocket(
  exchange: Exchange,
  { model, query }: ResponsesSocketRoute,
  client: ClientSocket | undefined,
  runtime: Runtime,
): void | Promise<void> {
  if (client === undefined) {
    return refuse(exchange, {
      status: 405,
      code: 'method_not_allowed',
      message: 'This URL takes POST only, or a WebSocket handshake.',
      headers: ['allow', 'POST'],
    })
  }
  const problem = handshakeProblem(exchange)
  if (problem !== undefined) return refuse(exchange, problem)
  const operation = operationNamed('responses')
  const isPossible = runtime.membersFor(exchange.clientKey).some(member => mayOpenAt(member, runtime))
  if (!isPossible || operation === undefined) {
    return refuse(exchange, {
      status: 426,
      code: 'upgrade_required',
      message: 'No backend offers Responses over WebSocket: use POST /v1/responses.',
    })
  }
  const { record, request, id } = exchange
  client.takeOver()
  record.status = 101
  record.isSession = true
  record.stream = true
  record.ttfbMs = runtime.shared.clock.nowMs() - exchange.beganMs
  const key = String(request.headers['sec-websocket-key'])
  const head = ['HTTP/1.1 101 Switching Protocols', 'upgrade: websocket', 'connection: Upgrade']
  head.push(`sec-websocket-accept: ${acceptKey(key)}`, `x-request-id: ${id}`)
  client.socket.write(`${head.join('\r\n')}\r\n\r\n`)
  return runSocketSession({ exchange, client, runtime, operation, model, query })
}
