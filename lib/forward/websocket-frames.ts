// Where WebSocket frames begin and end in the bytes that pass (RFC 6455, section 5.2), and the close frame with which a tunnel says
// why it ends. Payloads are skipped, never unmasked, never held.

/** Follows one direction of a WebSocket. */
export interface FrameTracker {
  /**
   * Takes the next bytes.
   * @returns how many of them belong to frames that are whole; 0 when no frame ends in them
   */
  push(chunk: Buffer): number
  /** Nothing of an unfinished frame has passed: a frame of our own may follow. */
  atBoundary(): boolean
  /** A close frame has passed: what follows is the end. */
  closed(): boolean
}

const OPCODE_CLOSE = 0x8
const MAX_HEAD_BYTES = 14

/** Bytes of a frame's head, by its second byte: two, the longer forms of the length, the mask. */
function headBytes(second: number): number {
  const length = second & 0x7f
  return 2 + (length === 126 ? 2 : length === 127 ? 8 : 0) + (second >= 0x80 ? 4 : 0)
}

function payloadBytes(head: Buffer): number {
  const length = (head[1] ?? 0) & 0x7f
  if (length === 126) return head.readUInt16BE(2)
  return length === 127 ? Number(head.readBigUInt64BE(2)) : length
}

/** A tracker that stands at the first byte after the handshake. */
export function trackFrames(): FrameTracker {
  const head = Buffer.alloc(MAX_HEAD_BYTES)
  let headFilled = 0
  let payloadLeft = 0
  let closed = false
  return {
    push(chunk) {
      let at = 0
      let whole = 0
      while (at < chunk.length) {
        if (payloadLeft > 0) {
          const skipped = Math.min(payloadLeft, chunk.length - at)
          payloadLeft -= skipped
          at += skipped
        } else {
          head[headFilled++] = chunk[at++] ?? 0
          if (headFilled < 2 || headFilled < headBytes(head[1] ?? 0)) continue
          payloadLeft = payloadBytes(head)
          if (((head[0] ?? 0) & 0x0f) === OPCODE_CLOSE) closed = true
          headFilled = 0
        }
        if (payloadLeft === 0 && headFilled === 0) whole = at
      }
      return whole
    },
    atBoundary: () => payloadLeft === 0 && headFilled === 0,
    closed: () => closed,
  }
}

/** A control frame's payload has at most 125 bytes, two of them the code (RFC 6455, section 5.5). */
const MAX_REASON_BYTES = 123

/**
 * A close frame as a server sends it, unmasked.
 * @param code 1001 going away, 1011 internal error, 1014 bad gateway (RFC 6455, section 7.4.1, and the IANA registry)
 */
export function closeFrame(code: number, reason: string): Buffer {
  const text = Buffer.from(reason).subarray(0, MAX_REASON_BYTES)
  const frame = Buffer.alloc(4 + text.length)
  frame[0] = 0x80 | OPCODE_CLOSE
  frame[1] = 2 + text.length
  frame.writeUInt16BE(code, 2)
  text.copy(frame, 4)
  return frame
}
