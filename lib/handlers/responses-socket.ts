// Responses over WebSocket: the URL of POST /v1/responses, asked for with a handshake.
import { refuse } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import type { ClientSocket } from './realtime.ts'

/**
 * Answers GET /v1/responses. A handshake gets 426: the one answer on which Codex goes on by HTTP at once, where any other costs it
 * seven tries (codex-rs, responses_websocket.rs).
 */
export function handleResponsesSocket(exchange: Exchange, client: ClientSocket | undefined): void {
  if (client === undefined) {
    refuse(exchange, {
      status: 405,
      code: 'method_not_allowed',
      message: 'This URL takes POST only, or a WebSocket handshake.',
      headers: ['allow', 'POST'],
    })
    return
  }
  refuse(exchange, {
    status: 426,
    code: 'upgrade_required',
    message: 'No backend offers Responses over WebSocket: use POST /v1/responses.',
  })
}
