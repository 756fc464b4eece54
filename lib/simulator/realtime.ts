// A realtime session as a simulated resource holds it: the few events that let a client see that its own came through.
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { digest } from './text.ts'
import { acceptWebSocket } from './websocket.ts'

/** Events carry base64 audio; the real service takes 15 MiB a message at most. */
const MAX_MESSAGE_BYTES = 15 * 1024 * 1024

export interface RealtimeOptions {
  readonly model: string
  /** What a client did that no client may do. */
  readonly onViolation: (what: string) => void
}

function answersTo(event: unknown, options: RealtimeOptions, count: number): readonly object[] {
  const type: unknown = typeof event === 'object' && event !== null ? Reflect.get(event, 'type') : undefined
  const event_id = `event_${digest(`${options.model} ${count}`, 16)}`
  switch (type) {
    case 'session.update':
      return [{ type: 'session.updated', event_id, session: Reflect.get(event ?? {}, 'session') }]
    case 'conversation.item.create': {
      const item: unknown = Reflect.get(event ?? {}, 'item')
      return [
        { type: 'conversation.item.added', event_id, previous_item_id: null, item },
        { type: 'conversation.item.done', event_id, previous_item_id: null, item },
      ]
    }
    case 'response.create': {
      const response = { id: `resp_${digest(event_id)}`, object: 'realtime.response' }
      const delta = 'Hello from the simulated session.'
      return [
        { type: 'response.created', event_id, response: { ...response, status: 'in_progress' } },
        { type: 'response.output_text.delta', event_id, response_id: response.id, delta },
        { type: 'response.output_text.done', event_id, response_id: response.id, text: delta },
        {
          type: 'response.done',
          event_id,
          response: {
            ...response,
            status: 'completed',
            usage: { total_tokens: 20, input_tokens: 10, output_tokens: 10 },
          },
        },
      ]
    }
    case 'input_audio_buffer.append':
    case 'input_audio_buffer.clear':
      return []
    case 'input_audio_buffer.commit':
      return [{ type: 'input_audio_buffer.committed', event_id, item_id: `item_${count}`, previous_item_id: null }]
    default:
      return [
        {
          type: 'error',
          event_id,
          error: {
            type: 'invalid_request_error',
            code: 'invalid_value',
            message: `Invalid value: '${String(type)}'.`,
            param: 'type',
          },
        },
      ]
  }
}

/** Agrees to a handshake and holds the session until either side closes it. */
export function openRealtime(request: IncomingMessage, socket: Duplex, head: Buffer, options: RealtimeOptions): void {
  let count = 0
  const session = acceptWebSocket(request, socket, head, {
    maxMessageBytes: MAX_MESSAGE_BYTES,
    onViolation: options.onViolation,
    onMessage(event) {
      for (const answer of answersTo(event, options, ++count)) session.say(answer)
    },
  })
  session.say({
    type: 'session.created',
    event_id: `event_${digest(options.model, 16)}`,
    session: { type: 'realtime', object: 'realtime.session', id: `sess_${session.id}`, model: options.model },
  })
}
