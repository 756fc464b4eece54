// WebSocket frames as bytes (RFC 6455, section 5): read as they come, in pieces, and written. Knows no API and no
// sockets.
import { createHash } from 'node:crypto'

const CONTINUATION = 0x0
export const TEXT = 0x1
export const BINARY = 0x2
export const CLOSE = 0x8
export const PING = 0x9
export const PONG = 0xa
/** Opcodes from here on are control frames: whole, short, and allowed between the fragments of a message. */
const FIRST_CONTROL = 0x8
/** A control frame's payload has at most this many bytes (section 5.5). */
const MAX_CONTROL_BYTES = 125
/** RFC 6455, section 1.3. */
const ACCEPT_GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** The `Sec-WebSocket-Accept` that agrees to a handshake with this key. */
export function acceptKey(key: string): string {
  return createHash('sha1').update(`${key}${ACCEPT_GUID}`).digest('base64')
}

/** Applies a mask in place. @param offset bytes of the payload that came before */
function unmask(bytes: Buffer, mask: Buffer, offset: number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = (bytes[i] ?? 0) ^ (mask[(offset + i) & 3] ?? 0)
}

/**
 * A whole frame.
 * @param mask four random bytes where a client sends it; a server sends without
 */
export function frameOf(opcode: number, payload: Buffer, mask?: Buffer): Buffer {
  const { length } = payload
  const short = length < 126 ? length : length < 65_536 ? 126 : 127
  const lengthBytes = short === 126 ? 2 : short === 127 ? 8 : 0
  const headBytes = 2 + lengthBytes + (mask === undefined ? 0 : 4)
  const frame = Buffer.allocUnsafe(headBytes + length)
  frame[0] = 0x80 | opcode
  frame[1] = short | (mask === undefined ? 0 : 0x80)
  if (lengthBytes === 2) frame.writeUInt16BE(length, 2)
  else if (lengthBytes === 8) frame.writeBigUInt64BE(BigInt(length), 2)
  payload.copy(frame, headBytes)
  if (mask !== undefined) {
    mask.copy(frame, headBytes - 4)
    unmask(frame.subarray(headBytes), mask, 0)
  }
  return frame
}

/** A piece of a frame. */
export interface FramePart {
  readonly opcode: number
  readonly isControl: boolean
  /** The bytes as they came, the head included with the first piece. */
  readonly raw: Buffer
  /** What they say: unmasked, a copy where there was a mask. */
  readonly payload: Buffer
  readonly frameEnds: boolean
  /** The frame ends, and with it its message. */
  readonly messageEnds: boolean
}

/** What breaks the protocol, with the close code for it (section 7.4.1). */
export interface FrameFault {
  readonly code: number
  readonly reason: string
}

export interface FrameReader {
  /** Takes the next bytes, and calls back for each piece in them; after a fault they are ignored. */
  push(chunk: Buffer): void
}

interface Head {
  readonly opcode: number
  readonly final: boolean
  readonly mask: Buffer | undefined
  readonly length: number
  readonly bytes: number
}

/** A frame's head, or undefined while it is not all there. */
function readHead(bytes: Buffer): Head | undefined {
  if (bytes.length < 2) return undefined
  const [first = 0, second = 0] = bytes
  const short = second & 0x7f
  const lengthEnd = short === 126 ? 4 : short === 127 ? 10 : 2
  const end = lengthEnd + (second >= 0x80 ? 4 : 0)
  if (bytes.length < end) return undefined
  const length = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short
  const mask = second >= 0x80 ? Buffer.from(bytes.subarray(lengthEnd, end)) : undefined
  return { opcode: first & 0x0f, final: first >= 0x80, mask, length, bytes: end }
}

function faultOf(first: number, head: Head, masked: boolean, inMessage: boolean): FrameFault | undefined {
  const protocol = (reason: string): FrameFault => ({ code: 1002, reason })
  if ((first & 0x70) !== 0) return protocol('An extension was used that was not agreed to.')
  if ((head.mask !== undefined) !== masked) return protocol(masked ? 'A frame is not masked.' : 'A frame is masked.')
  if (head.opcode >= FIRST_CONTROL) {
    return head.final && head.length <= MAX_CONTROL_BYTES ? undefined : protocol('A control frame is too long.')
  }
  if (head.opcode > BINARY) return protocol('An unknown kind of frame came.')
  if ((head.opcode === CONTINUATION) !== inMessage) return protocol('A fragment stands where none can.')
  return undefined
}

/**
 * Reads one direction of a WebSocket.
 * @param masked whether frames must be masked: a client's are, a server's are not
 */
export function createFrameReader(
  masked: boolean,
  onPart: (part: FramePart) => void,
  onFault: (fault: FrameFault) => void,
): FrameReader {
  let pendingHead: Buffer = Buffer.alloc(0)
  let head: Head | undefined
  let done = 0
  let inMessage = false
  let broken = false

  const emit = (current: Head, raw: Buffer, body: Buffer): void => {
    let payload = body
    if (current.mask !== undefined) {
      payload = Buffer.from(body)
      unmask(payload, current.mask, done)
    }
    done += body.length
    const frameEnds = done === current.length
    const isControl = current.opcode >= FIRST_CONTROL
    if (!isControl) inMessage = !(frameEnds && current.final)
    if (frameEnds) head = undefined
    const { opcode } = current
    onPart({ opcode, isControl, raw, payload, frameEnds, messageEnds: frameEnds && current.final && !isControl })
  }

  return {
    push(chunk) {
      let rest = chunk
      while (!broken && (rest.length > 0 || head?.length === 0)) {
        if (head !== undefined) {
          const taken = rest.subarray(0, head.length - done)
          rest = rest.subarray(taken.length)
          emit(head, taken, taken)
          continue
        }
        const bytes: Buffer = pendingHead.length === 0 ? rest : Buffer.concat([pendingHead, rest])
        const next = readHead(bytes)
        if (next === undefined) {
          pendingHead = Buffer.from(bytes)
          return
        }
        pendingHead = Buffer.alloc(0)
        const fault = faultOf(bytes[0] ?? 0, next, masked, inMessage)
        if (fault !== undefined) {
          broken = true
          onFault(fault)
          return
        }
        head = next
        done = 0
        const body = bytes.subarray(next.bytes, next.bytes + next.length)
        rest = bytes.subarray(next.bytes + body.length)
        emit(next, bytes.subarray(0, next.bytes + body.length), body)
      }
    },
  }
}
