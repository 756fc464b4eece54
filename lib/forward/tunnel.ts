// Joins a client's WebSocket to a backend's once both have agreed: bytes go through untouched in both directions, with
// back-pressure. It adds at most one frame at the very end, which says why.
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import { readByTurn } from '../http1/send.ts'
import type { Cancellation, CancelReason } from '../request-context.ts'
import { createPacedWrites, type PacedWrites } from './paced-writes.ts'
import type { RelayResult } from './upstream.ts'

// The boundaries of WebSocket frames in the bytes that pass (RFC 6455, section 5.2), and the close frame with a
// tunnel's reason. Payloads are skipped, never unmasked, never held.

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

export interface TunnelOptions {
  readonly client: Duplex
  readonly backend: Duplex
  /** What came behind the handshakes already. */
  readonly clientHead: Buffer
  readonly backendHead: Buffer
  readonly cancellation: Cancellation
  readonly clock: Clock
  /** How long a side may take nothing of what is sent to it, in milliseconds. */
  readonly idleMs: number
  onBytes(direction: 'in' | 'out', bytes: number): void
}

/** How long a side has to hang up by itself once the end has been announced to it, in milliseconds. */
export const CLOSE_GRACE_MS = 400

const GOING_AWAY = closeFrame(1001, 'The proxy is shutting down.')
const BROKE_OFF = closeFrame(1011, 'The backend broke off.')
const FELL_SILENT = closeFrame(1011, 'The backend takes nothing more.')

/** Resolves when the session has ended, however it did; both sockets are then closed or about to be. Never rejects. */
export function tunnel(options: TunnelOptions): Promise<RelayResult> {
  return new Promise(resolve => new Tunnel(options, resolve).start())
}

/** Two sockets joined: the bytes of each go to the other until one of them, or the proxy, ends the session. */
class Tunnel {
  readonly #options: TunnelOptions
  readonly #resolve: (end: RelayResult) => void
  readonly #fromBackend = trackFrames()
  readonly #fromClient = trackFrames()
  // pipeline would destroy the client together with a backend that broke off, and its last frame with it.
  readonly #toBackend: PacedWrites
  readonly #toClient: PacedWrites
  #over = false
  #stopWatching: () => void = () => undefined
  #lastFrame: { readonly frame: Buffer; readonly end: RelayResult } | undefined

  constructor(options: TunnelOptions, resolve: (end: RelayResult) => void) {
    const { client, backend, clock, idleMs } = options
    this.#options = options
    this.#resolve = resolve
    this.#toBackend = createPacedWrites({
      from: client,
      to: backend,
      clock,
      idleMs,
      onStalled: () => this.#breakOff(FELL_SILENT, { kind: 'cut', detail: 'idle_timeout' }),
    })
    this.#toClient = createPacedWrites({
      from: backend,
      to: client,
      clock,
      idleMs,
      onStalled: () => {
        client.destroy()
        this.#finish({ kind: 'cancelled', reason: 'client_stalled' })
      },
    })
  }

  /** Listens to both sockets, and passes on what came behind the handshakes. */
  start(): void {
    const { client, backend, cancellation, backendHead, clientHead } = this.#options
    const settleClient = readByTurn(client, chunk => this.#clientBytes(chunk))
    const settleBackend = readByTurn(backend, chunk => this.#backendBytes(chunk))
    const clientGone = (): void => {
      settleClient()
      this.#clientGone()
    }
    const backendGone = (): void => {
      settleBackend()
      this.#backendGone()
    }
    // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
    client.on('error', clientGone).on('close', clientGone).on('end', clientGone)
    backend.on('error', backendGone).on('close', backendGone).on('end', backendGone)
    this.#stopWatching = cancellation.onCancel(reason => {
      settleBackend()
      this.#cancel({ kind: 'cancelled', reason }, reason)
    })
    if (this.#over) return
    // It was paused when it was handed over, so that no frame was lost.
    backend.resume()
    if (backendHead.length > 0) this.#backendBytes(backendHead)
    if (clientHead.length > 0) this.#clientBytes(clientHead)
  }

  #finish(end: RelayResult): void {
    if (this.#over) return
    this.#over = true
    const { client, backend, clock } = this.#options
    this.#stopWatching()
    this.#toBackend.stop()
    this.#toClient.stop()
    client.end()
    backend.end()
    clock.after(CLOSE_GRACE_MS, () => {
      client.destroy()
      backend.destroy()
    })
    this.#resolve(end)
  }

  #sendLastFrame(frame: Buffer, end: RelayResult): void {
    const { client } = this.#options
    if (client.writable && !this.#fromBackend.closed()) client.write(frame)
    this.#finish(end)
  }

  /** Nothing more comes from the backend: the client gets the reason, unless a frame is half sent. */
  #breakOff(frame: Buffer, end: RelayResult): void {
    if (!this.#fromBackend.atBoundary()) this.#options.client.destroy()
    this.#sendLastFrame(frame, end)
  }

  #clientBytes(chunk: Buffer): void {
    if (this.#over) return
    this.#fromClient.push(chunk)
    this.#options.onBytes('in', chunk.length)
    this.#toBackend.write(chunk)
  }

  #backendBytes(chunk: Buffer): void {
    if (this.#over) return
    const whole = this.#fromBackend.push(chunk)
    this.#options.onBytes('out', chunk.length)
    if (this.#lastFrame === undefined || whole === 0) {
      this.#toClient.write(chunk)
      return
    }
    // The half-sent frame has ended: now a last one of our own may follow.
    this.#options.client.write(chunk.subarray(0, whole))
    this.#sendLastFrame(this.#lastFrame.frame, this.#lastFrame.end)
  }

  /** A close frame has passed, of either side. */
  #isClosing(): boolean {
    return this.#fromBackend.closed() || this.#fromClient.closed()
  }

  #backendGone(): void {
    if (this.#over) return
    if (this.#isClosing()) this.#finish({ kind: 'complete' })
    else this.#breakOff(BROKE_OFF, { kind: 'cut', detail: 'connection_lost' })
  }

  #clientGone(): void {
    this.#finish(this.#isClosing() ? { kind: 'complete' } : { kind: 'cancelled', reason: 'client_closed' })
  }

  /** The proxy ends the session: when it shuts down, with a close frame between two frames if one comes in time. */
  #cancel(end: RelayResult, reason: CancelReason): void {
    if (reason !== 'shutdown') this.#finish(end)
    else if (this.#fromBackend.atBoundary()) this.#sendLastFrame(GOING_AWAY, end)
    else {
      this.#lastFrame = { frame: GOING_AWAY, end }
      this.#options.clock.after(CLOSE_GRACE_MS, () => {
        if (this.#over) return
        this.#options.client.destroy()
        this.#finish(end)
      })
    }
  }
}
