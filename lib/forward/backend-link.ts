// A backend's end of a WebSocket whose messages are read on their way: bytes of whole messages, with back-pressure;
// long messages pass in pieces.
import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { readByTurn } from '../http1/send.ts'
import { CLOSE_GRACE_MS } from './tunnel.ts'
import { CLOSE, createFrameReader, type FramePart, frameOf, TEXT } from './websocket-frames.ts'

/**
 * A backend's message up to this size is read before it goes on, so that an error can be rewritten or kept; longer ones
 * pass.
 */
const HOLD_MAX_BYTES = 64 * 1024
/** How much of a longer message is kept for a look at its beginning. */
const HEAD_MAX_BYTES = 1024 * 1024
/** How much of its end: usage stands there. */
const TAIL_MAX_BYTES = 16 * 1024

/** Code 1000 (RFC 6455, section 7.4.1), as a client sends it. */
const NORMAL_CLOSURE = Buffer.from([0x03, 0xe8])

/** A message of a backend on its way. */
export interface BackendMessage {
  /** All of its payload, or the beginning of a long one. */
  readonly payload: Buffer
  readonly isWhole: boolean
  /** The last bytes of its payload. */
  readonly tail: Buffer
  /** The frames as they came; empty where they have been passed on already. */
  readonly raw: Buffer
}

export interface BackendLink {
  /** Sends a text message. @returns false: wait for `onRoom` */
  send(message: Buffer): boolean
  control(opcode: number, payload: Buffer): void
  onRoom(resume: () => void): void
  pause(): void
  resume(): void
  /** Says goodbye and hangs up. */
  leave(): void
}

export interface BackendLinkOptions {
  readonly socket: Duplex
  readonly head: Buffer
  after(ms: number, run: () => void): void
  onMessage(message: BackendMessage): void
  /** A piece of a message that is too long to be held. */
  onPiece(raw: Buffer): void
  /** A ping or pong for the client, as it came. */
  onControl(raw: Buffer): void
  /** The backend said goodbye, with these bytes, or is gone without a word. */
  onGone(closePayload: Buffer | undefined): void
}

/** Gathers a backend's message: whole ones up to HOLD_MAX_BYTES are held back, the pieces of longer ones go on. */
function createMessageCollector({ onMessage, onPiece }: Pick<BackendLinkOptions, 'onMessage' | 'onPiece'>) {
  let held: Buffer[] = []
  let heldBytes = 0
  let passes = false
  let payload: Buffer[] = []
  let payloadBytes = 0
  let totalBytes = 0
  let tail = Buffer.alloc(0)

  /** Keeps the beginning and the end of what the message says. */
  const keep = (bytes: Buffer): void => {
    totalBytes += bytes.length
    if (payloadBytes < HEAD_MAX_BYTES) {
      payload.push(bytes)
      payloadBytes += bytes.length
    }
    // Copied: the end of a message is small, and its socket reads are not.
    if (passes) tail = Buffer.from(Buffer.concat([tail, bytes]).subarray(-TAIL_MAX_BYTES))
  }
  /** Holds the frames as they came, or passes them on. */
  const holdOrPass = (raw: Buffer, messageEnds: boolean): void => {
    if (passes) onPiece(raw)
    else {
      held.push(raw)
      heldBytes += raw.length
      if (heldBytes > HOLD_MAX_BYTES && !messageEnds) {
        passes = true
        tail = Buffer.from(Buffer.concat(payload).subarray(-TAIL_MAX_BYTES))
        for (const piece of held.splice(0)) onPiece(piece)
      }
    }
  }

  return {
    /** Takes the next piece, which is not of a control frame. */
    push(part: FramePart): void {
      keep(part.payload)
      holdOrPass(part.raw, part.messageEnds)
      if (!part.messageEnds) return
      const whole = Buffer.concat(payload)
      const message: BackendMessage = {
        payload: whole,
        isWhole: totalBytes === payloadBytes,
        tail: passes ? tail : whole.subarray(-TAIL_MAX_BYTES),
        raw: Buffer.concat(held),
      }
      held = []
      heldBytes = 0
      payload = []
      payloadBytes = 0
      totalBytes = 0
      passes = false
      onMessage(message)
    },
  }
}

/** Takes a backend's socket; nothing is read before `resume`. */
export function createBackendLink(options: BackendLinkOptions): BackendLink {
  const { socket } = options
  let isOver = false
  const collector = createMessageCollector(options)
  let control: Buffer[] = []
  let controlPayload: Buffer[] = []

  const gone = (closePayload: Buffer | undefined): void => {
    if (isOver) return
    isOver = true
    socket.destroy()
    options.onGone(closePayload)
  }
  const reader = createFrameReader(
    false,
    part => {
      if (isOver) return
      if (!part.isControl) {
        collector.push(part)
        return
      }
      control.push(part.raw)
      controlPayload.push(part.payload)
      if (!part.frameEnds) return
      const raw = Buffer.concat(control)
      const said = Buffer.concat(controlPayload)
      control = []
      controlPayload = []
      if (part.opcode === CLOSE) gone(said)
      else options.onControl(raw)
    },
    () => gone(undefined),
  )
  const settle = readByTurn(socket, chunk => {
    if (!isOver) reader.push(chunk)
  })
  const lost = (): void => {
    settle()
    gone(undefined)
  }
  socket.on('error', lost).on('close', lost).on('end', lost)
  socket.pause()
  if (options.head.length > 0) queueMicrotask(() => !isOver && reader.push(options.head))

  return {
    send: message => !socket.writable || socket.write(frameOf(TEXT, message, randomBytes(4))),
    control: (opcode, said) => void (socket.writable && socket.write(frameOf(opcode, said, randomBytes(4)))),
    onRoom: resume => void socket.once('drain', resume),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    leave() {
      if (isOver) return
      isOver = true
      if (socket.writable) socket.end(frameOf(CLOSE, NORMAL_CLOSURE, randomBytes(4)))
      options.after(CLOSE_GRACE_MS, () => socket.destroy())
    },
  }
}
