// The server's end of a WebSocket (RFC 6455): the handshake, frames in and out, strict about masks. It knows no API.
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { digest } from './text.ts'

/** RFC 6455, section 1.3. */
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

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

/** An open session. */
export interface ServerSocket {
  /** A digest of the handshake, for ids that differ between sessions. */
  readonly id: string
  readonly isOpen: boolean
  /** Sends a value as one text frame. */
  say(value: object): void
  /** Says goodbye with a code (RFC 6455, section 7.4) and ends the connection. */
  close(code: number, reason: string): void
  /** Ends the connection without a word. */
  cut(): void
}

export interface ServerSocketOptions {
  /** Longer messages are refused with 1009, in bytes. */
  readonly maxMessageBytes: number
  /** A whole text message, parsed; undefined where it is no JSON. */
  readonly onMessage: (message: unknown) => void
  /** What a client did that no client may do. */
  readonly onViolation: (what: string) => void
}

/** Agrees to a handshake and reads its messages until either side closes. */
export function acceptWebSocket(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  options: ServerSocketOptions,
): ServerSocket {
  const { headers } = request
  const accept = createHash('sha1').update(`${headers['sec-websocket-key']}${ACCEPT_GUID}`).digest('base64')
  const protocol = (headers['sec-websocket-protocol'] ?? '').split(',')[0]?.trim()
  const lines = ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket', 'Connection: Upgrade']
  lines.push(`Sec-WebSocket-Accept: ${accept}`, `apim-request-id: ${digest(accept, 32)}`)
  if (protocol !== undefined && protocol !== '') lines.push(`Sec-WebSocket-Protocol: ${protocol}`)
  socket.write(`${lines.join('\r\n')}\r\n\r\n`)

  const close = (code: number, reason: string): void => {
    const payload = Buffer.alloc(2 + Buffer.byteLength(reason))
    payload.writeUInt16BE(code, 0)
    payload.write(reason, 2)
    if (socket.writable) socket.end(serverFrame(CLOSE, payload))
  }
  let pending: Buffer = Buffer.alloc(0)
  let message: Buffer[] = []
  const onFrame = ({ final, opcode, masked, payload }: Frame): void => {
    if (!masked) {
      options.onViolation('an unmasked frame from a client')
      close(1002, 'unmasked')
    } else if (opcode === CLOSE) {
      if (socket.writable) socket.end(serverFrame(CLOSE, payload))
    } else if (opcode === PING) socket.write(serverFrame(PONG, payload))
    else if (opcode === TEXT || opcode === CONTINUATION) {
      message.push(payload)
      if (!final) return
      const text = Buffer.concat(message).toString('utf8')
      message = []
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch {
        value = undefined
      }
      options.onMessage(value)
    } else if (opcode !== PONG) close(1003, 'text only')
  }
  const onData = (chunk: Buffer): void => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk])
    if (pending.length > options.maxMessageBytes) {
      close(1009, 'too big')
      return
    }
    for (let frame = readFrame(pending); frame !== undefined; frame = readFrame(pending)) {
      pending = pending.subarray(frame.bytes)
      onFrame(frame)
    }
  }
  socket.on('data', onData).on('end', () => socket.end())
  // What came with the handshake is read once the caller has its socket.
  if (head.length > 0) queueMicrotask(() => onData(head))
  return {
    id: digest(accept),
    get isOpen() {
      return socket.writable
    },
    say(value) {
      if (socket.writable) socket.write(serverFrame(TEXT, Buffer.from(JSON.stringify(value))))
    },
    close,
    cut: () => socket.destroy(),
  }
}
