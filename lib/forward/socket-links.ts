// The two ends of a WebSocket whose messages are read on their way: the client's, and a backend's. Bytes of whole
// messages, with back-pressure; a frame of the proxy's own only ever stands between messages.
import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { BodyBudget } from '../body/take.ts'
import { closeFrame } from './tunnel.ts'
import { BINARY, CLOSE, createFrameReader, frameOf, PING, PONG, TEXT } from './websocket-frames.ts'

/** How long an end that was told the end has to hang up by itself, in milliseconds. */
const CLOSE_GRACE_MS = 400
/**
 * A backend's message up to this size is looked at before it goes on, so that an error can be mended or kept; longer
 * ones pass.
 */
const HOLD_MAX_BYTES = 64 * 1024
/** How much of a longer message is kept for a look at its beginning. */
const HEAD_MAX_BYTES = 1024 * 1024
/** How much of its end: usage stands there. */
const TAIL_MAX_BYTES = 16 * 1024

/** Code 1000 (RFC 6455, section 7.4.1), as a client sends it. */
const NORMAL_CLOSURE = Buffer.from([0x03, 0xe8])

export interface ClientLink {
  /** Sends a value as a message of the proxy's own. */
  say(value: object): void
  /**
   * Passes a piece of a backend's message on. @param more false: the message ends with it. @returns false: wait for
   * `onRoom`
   */
  pass(raw: Buffer, more: boolean): boolean
  /** Calls once when there is room again. */
  onRoom(resume: () => void): void
  /** Pauses and resumes reading. */
  pause(): void
  resume(): void
  isFull(): boolean
  /** Says why, and ends. In the middle of a long message there is no place for words: then it is cut. */
  end(code: number, reason: string): void
  /** Ends without a word: the client has left, or said goodbye itself. */
  drop(): void
}

export interface ClientLinkOptions {
  readonly socket: Duplex
  readonly head: Buffer
  readonly maxMessageBytes: number
  readonly budget: BodyBudget
  after(ms: number, run: () => void): void
  /** A text message. `release` gives its bytes back to the budget, once. */
  onMessage(message: Buffer, release: () => void): void
  /** A ping or pong that goes on to the backend; false: there is none, so a ping is answered here. */
  onControl(opcode: number, payload: Buffer): boolean
  onGone(): void
  onBytes(bytes: number): void
}

/** Takes the client's socket; nothing is read before `resume`. */
export function createClientLink(options: ClientLinkOptions): ClientLink {
  const { socket, budget, after } = options
  let isOver = false
  let midMessage = false
  let waiting: Buffer[] = []
  let pieces: Buffer[] = []
  let heldBytes = 0

  const write = (bytes: Buffer): boolean => isOver || !socket.writable || socket.write(bytes)
  const inject = (frame: Buffer): void => {
    if (midMessage) waiting.push(frame)
    else write(frame)
  }
  const letGo = (): void => {
    budget.release(heldBytes)
    heldBytes = 0
    pieces = []
  }
  const drop = (): void => {
    if (isOver) return
    isOver = true
    letGo()
    waiting = []
    socket.end()
    after(CLOSE_GRACE_MS, () => socket.destroy())
  }
  const end = (code: number, reason: string): void => {
    if (isOver) return
    if (midMessage) socket.destroy()
    else write(closeFrame(code, reason))
    drop()
  }
  const gone = (): void => {
    if (isOver) return
    drop()
    options.onGone()
  }
  const onMessage = (): void => {
    const message = pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces)
    const bytes = heldBytes
    heldBytes = 0
    pieces = []
    let held = true
    options.onMessage(message, () => {
      if (held) budget.release(bytes)
      held = false
    })
  }
  const fail = (code: number, reason: string): void => {
    end(code, reason)
    options.onGone()
  }
  let control: Buffer[] = []
  const reader = createFrameReader(
    true,
    ({ opcode, isControl, payload, frameEnds, messageEnds }) => {
      if (isOver) return
      if (isControl) {
        control.push(payload)
        if (!frameEnds) return
        const whole = Buffer.concat(control)
        control = []
        if (opcode === CLOSE) {
          inject(frameOf(CLOSE, whole))
          gone()
        } else if (!options.onControl(opcode, whole) && opcode === PING) inject(frameOf(PONG, whole))
        return
      }
      if (opcode === BINARY) return fail(1003, 'Responses over WebSocket takes text messages.')
      if (heldBytes + payload.length > options.maxMessageBytes) {
        return fail(1009, 'The message is longer than server.max_body allows.')
      }
      if (!budget.reserve(payload.length)) return fail(1013, 'The proxy holds as many bytes as it may. Try again.')
      heldBytes += payload.length
      pieces.push(payload)
      if (messageEnds) onMessage()
    },
    ({ code, reason }) => fail(code, reason),
  )
  const onData = (chunk: Buffer): void => {
    options.onBytes(chunk.length)
    if (!isOver) reader.push(chunk)
  }
  // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
  socket.on('error', gone).on('close', gone).on('end', gone).on('data', onData)
  socket.pause()
  if (options.head.length > 0) queueMicrotask(() => onData(options.head))

  return {
    say: value => inject(frameOf(TEXT, Buffer.from(JSON.stringify(value)))),
    pass(raw, more) {
      midMessage = more
      const hasRoom = raw.length === 0 || write(raw)
      if (!more) for (const frame of waiting.splice(0)) write(frame)
      return hasRoom
    },
    onRoom: resume => void socket.once('drain', resume),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    isFull: () => socket.writableNeedDrain,
    end,
    drop,
  }
}

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
  onGone(farewell: Buffer | undefined): void
}

/** Takes a backend's socket; nothing is read before `resume`. */
export function createBackendLink(options: BackendLinkOptions): BackendLink {
  const { socket } = options
  let isOver = false
  let held: Buffer[] = []
  let heldBytes = 0
  let passes = false
  let payload: Buffer[] = []
  let payloadBytes = 0
  let totalBytes = 0
  let tail = Buffer.alloc(0)
  let control: Buffer[] = []
  let controlPayload: Buffer[] = []

  const gone = (farewell: Buffer | undefined): void => {
    if (isOver) return
    isOver = true
    socket.destroy()
    options.onGone(farewell)
  }
  const keep = (bytes: Buffer): void => {
    totalBytes += bytes.length
    if (payloadBytes < HEAD_MAX_BYTES) {
      payload.push(bytes)
      payloadBytes += bytes.length
    }
    // Copied: the end of a message is small, and its socket reads are not.
    if (passes) tail = Buffer.from(Buffer.concat([tail, bytes]).subarray(-TAIL_MAX_BYTES))
  }
  const onData = (raw: Buffer, messageEnds: boolean): void => {
    if (passes) options.onPiece(raw)
    else {
      held.push(raw)
      heldBytes += raw.length
      if (heldBytes > HOLD_MAX_BYTES && !messageEnds) {
        passes = true
        tail = Buffer.from(Buffer.concat(payload).subarray(-TAIL_MAX_BYTES))
        for (const piece of held.splice(0)) options.onPiece(piece)
      }
    }
    if (!messageEnds) return
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
    options.onMessage(message)
  }
  const reader = createFrameReader(
    false,
    part => {
      if (isOver) return
      if (!part.isControl) {
        keep(part.payload)
        onData(part.raw, part.messageEnds)
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
  const lost = (): void => gone(undefined)
  socket.on('error', lost).on('close', lost).on('end', lost)
  socket.on('data', (chunk: Buffer) => {
    if (!isOver) reader.push(chunk)
  })
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
