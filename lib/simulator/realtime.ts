// A realtime session as a simulated resource holds it: the WebSocket of RFC 6455, strict about masks and frames, and the few events
// that let a client see that its own came through.
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { digest } from './text.ts'

/** RFC 6455, section 1.3. */
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
/** Events carry base64 audio; the real service takes 15 MiB a message at most. */
const MAX_MESSAGE_BYTES = 15 * 1024 * 1024

const TEXT = 0x1
const CONTINUATION = 0x0
const CLOSE = 0x8
const PING = 0x9
const PONG = 0xa

/** A frame as a server sends it. */
export function serverFrame(opcode: number, payload: Buffer): Buffer {
  const length = payload.length
  const head = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10)
  head[0] = 0x80 | opcode
  if (length < 126) head[1] = length
  else if (length < 65_536) {
    head[1] = 126
    head.writeUInt16BE(length, 2)
  } else {
    head[1] = 127
    head.writeBigUInt64BE(BigInt(length), 2)
  }
  return Buffer.concat([head, payload])
}

interface Frame {
  readonly final: boolean
  readonly opcode: number
  readonly masked: boolean
  readonly payload: Buffer
  readonly bytes: number
}

function readFrame(buffer: Buffer): Frame | undefined {
  if (buffer.length < 2) return undefined
  const [first = 0, second = 0] = buffer
  const masked = second >= 0x80
  let length = second & 0x7f
  let at = 2
  if (length === 126) {
    if (buffer.length < 4) return undefined
    length = buffer.readUInt16BE(2)
    at = 4
  } else if (length === 127) {
    if (buffer.length < 10) return undefined
    length = Number(buffer.readBigUInt64BE(2))
    at = 10
  }
  const mask = masked ? buffer.subarray(at, at + 4) : undefined
  if (masked) at += 4
  if (buffer.length < at + length) return undefined
  const payload = Buffer.from(buffer.subarray(at, at + length))
  if (mask !== undefined) for (let i = 0; i < payload.length; i++) payload[i] = (payload[i] ?? 0) ^ (mask[i % 4] ?? 0)
  return { final: first >= 0x80, opcode: first & 0x0f, masked, payload, bytes: at + length }
}

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
  const { headers } = request
  const accept = createHash('sha1').update(`${headers['sec-websocket-key']}${ACCEPT_GUID}`).digest('base64')
  const protocol = (headers['sec-websocket-protocol'] ?? '').split(',')[0]?.trim()
  const lines = ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade']
  lines.push(`Sec-WebSocket-Accept: ${accept}`, `apim-request-id: ${digest(accept, 32)}`)
  if (protocol !== undefined && protocol !== '') lines.push(`Sec-WebSocket-Protocol: ${protocol}`)
  socket.write(`${lines.join('\r\n')}\r\n\r\n`)

  let count = 0
  const say = (event: object): void => {
    if (socket.writable) socket.write(serverFrame(TEXT, Buffer.from(JSON.stringify(event))))
  }
  const hangUp = (code: number, reason: string): void => {
    const payload = Buffer.alloc(2 + Buffer.byteLength(reason))
    payload.writeUInt16BE(code, 0)
    payload.write(reason, 2)
    if (socket.writable) socket.end(serverFrame(CLOSE, payload))
  }
  say({
    type: 'session.created',
    event_id: `event_${digest(options.model, 16)}`,
    session: { type: 'realtime', object: 'realtime.session', id: `sess_${digest(accept)}`, model: options.model },
  })

  let pending: Buffer = Buffer.alloc(0)
  let message: Buffer[] = []
  const onFrame = ({ final, opcode, masked, payload }: Frame): void => {
    if (!masked) {
      options.onViolation('an unmasked frame from a client')
      hangUp(1002, 'unmasked')
      return
    }
    if (opcode === CLOSE) {
      if (socket.writable) socket.end(serverFrame(CLOSE, payload))
    } else if (opcode === PING) socket.write(serverFrame(PONG, payload))
    else if (opcode === TEXT || opcode === CONTINUATION) {
      message.push(payload)
      if (!final) return
      const text = Buffer.concat(message).toString('utf8')
      message = []
      let event: unknown
      try {
        event = JSON.parse(text)
      } catch {
        event = undefined
      }
      for (const answer of answersTo(event, options, ++count)) say(answer)
    } else if (opcode !== PONG) hangUp(1003, 'text only')
  }
  const onData = (chunk: Buffer): void => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk])
    if (pending.length > MAX_MESSAGE_BYTES) {
      hangUp(1009, 'too big')
      return
    }
    for (let frame = readFrame(pending); frame !== undefined; frame = readFrame(pending)) {
      pending = pending.subarray(frame.bytes)
      onFrame(frame)
    }
  }
  socket.on('data', onData).on('end', () => socket.end())
  if (head.length > 0) onData(head)
}
