// The client's end of a WebSocket whose messages are read on their way: bytes of whole messages, with back-pressure. A
// frame of the proxy's own stands only between messages.
import type { Duplex } from 'node:stream'
import type { BodyBudget } from '../body/take.ts'
import { readByTurn } from '../http1/send.ts'
import { CLOSE_GRACE_MS, closeFrame } from './tunnel.ts'
import { BINARY, CLOSE, createFrameReader, frameOf, PING, PONG, TEXT } from './websocket-frames.ts'

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

/** Joins the pieces of a control frame. @returns its payload, once it is whole */
function createControlJoiner(): (payload: Buffer, frameEnds: boolean) => Buffer | undefined {
  let pieces: Buffer[] = []
  return (payload, frameEnds) => {
    pieces.push(payload)
    if (!frameEnds) return undefined
    const whole = Buffer.concat(pieces)
    pieces = []
    return whole
  }
}

/** The client's message that is being read: its pieces, whose bytes the budget lends. */
interface HeldMessage {
  /** Keeps a piece. @returns why it cannot, as a close frame says it */
  add(piece: Buffer): { readonly code: number; readonly reason: string } | undefined
  /** The whole message. `release` gives its bytes back to the budget, once. */
  take(): { readonly message: Buffer; readonly release: () => void }
  /** Forgets the pieces. */
  release(): void
}

function createHeldMessage({
  budget,
  maxMessageBytes,
}: Pick<ClientLinkOptions, 'budget' | 'maxMessageBytes'>): HeldMessage {
  let pieces: Buffer[] = []
  let heldBytes = 0
  return {
    add(piece) {
      if (heldBytes + piece.length > maxMessageBytes) {
        return { code: 1009, reason: 'The message is longer than server.max_body allows.' }
      }
      if (!budget.reserve(piece.length)) {
        return { code: 1013, reason: 'The proxy holds as many bytes as it may. Try again.' }
      }
      heldBytes += piece.length
      pieces.push(piece)
      return undefined
    },
    take() {
      const message = pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces)
      const bytes = heldBytes
      heldBytes = 0
      pieces = []
      let held = true
      const release = (): void => {
        if (held) budget.release(bytes)
        held = false
      }
      return { message, release }
    },
    release() {
      budget.release(heldBytes)
      heldBytes = 0
      pieces = []
    },
  }
}

/** What goes to the client: pieces of a backend's messages, and whole frames of the proxy's own between messages. */
interface ClientWriter {
  /** Writes what may stand here. @returns false: wait for the socket's `drain` */
  write(bytes: Buffer): boolean
  /** Writes a frame of the proxy's own, once the message in progress has ended. */
  inject(frame: Buffer): void
  pass: ClientLink['pass']
  isMidMessage(): boolean
  /** Nothing is written any more. */
  close(): void
}

function createClientWriter(socket: Duplex): ClientWriter {
  let isClosed = false
  let midMessage = false
  let waiting: Buffer[] = []
  const write = (bytes: Buffer): boolean => isClosed || !socket.writable || socket.write(bytes)
  return {
    write,
    inject(frame) {
      if (midMessage) waiting.push(frame)
      else write(frame)
    },
    pass(raw, more) {
      midMessage = more
      const hasRoom = raw.length === 0 || write(raw)
      if (!more) for (const frame of waiting.splice(0)) write(frame)
      return hasRoom
    },
    isMidMessage: () => midMessage,
    close() {
      isClosed = true
      waiting = []
    },
  }
}

/** Takes the client's socket; nothing is read before `resume`. */
export function createClientLink(options: ClientLinkOptions): ClientLink {
  const { socket, after } = options
  let isOver = false
  const { inject, pass, ...writer } = createClientWriter(socket)
  const held = createHeldMessage(options)
  const joinControl = createControlJoiner()

  const drop = (): void => {
    if (isOver) return
    isOver = true
    held.release()
    writer.close()
    socket.end()
    after(CLOSE_GRACE_MS, () => socket.destroy())
  }
  const end = (code: number, reason: string): void => {
    if (isOver) return
    if (writer.isMidMessage()) socket.destroy()
    else writer.write(closeFrame(code, reason))
    drop()
  }
  const gone = (): void => {
    if (isOver) return
    drop()
    options.onGone()
  }
  const fail = (code: number, reason: string): void => {
    end(code, reason)
    options.onGone()
  }
  const onControl = (opcode: number, payload: Buffer): void => {
    if (opcode === CLOSE) {
      inject(frameOf(CLOSE, payload))
      gone()
    } else if (!options.onControl(opcode, payload) && opcode === PING) inject(frameOf(PONG, payload))
  }
  const reader = createFrameReader(
    true,
    ({ opcode, isControl, payload, frameEnds, messageEnds }) => {
      if (isOver) return
      if (isControl) {
        const whole = joinControl(payload, frameEnds)
        if (whole !== undefined) onControl(opcode, whole)
        return
      }
      if (opcode === BINARY) return fail(1003, 'Responses over WebSocket takes text messages.')
      const refusal = held.add(payload)
      if (refusal !== undefined) return fail(refusal.code, refusal.reason)
      if (!messageEnds) return
      const { message, release } = held.take()
      options.onMessage(message, release)
    },
    ({ code, reason }) => fail(code, reason),
  )
  const onData = (chunk: Buffer): void => {
    options.onBytes(chunk.length)
    if (!isOver) reader.push(chunk)
  }
  const settle = readByTurn(socket, onData)
  const left = (): void => {
    settle()
    gone()
  }
  // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
  socket.on('error', left).on('close', left).on('end', left)
  socket.pause()
  if (options.head.length > 0) queueMicrotask(() => onData(options.head))

  return {
    say: value => inject(frameOf(TEXT, Buffer.from(JSON.stringify(value)))),
    pass,
    onRoom: resume => void socket.once('drain', resume),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    isFull: () => socket.writableNeedDrain,
    end,
    drop,
  }
}
