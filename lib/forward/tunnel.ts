// Joins a client's WebSocket to a backend's once both have agreed: bytes go through untouched in both directions, with
// back-pressure. It adds at most one frame at the very end, which says why.
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import type { Cancellation } from '../request-context.ts'
import { createPacedWrites } from './paced-writes.ts'
import type { RelayResult } from './upstream.ts'

// Where WebSocket frames begin and end in the bytes that pass (RFC 6455, section 5.2), and the close frame with which a
// tunnel says why it ends. Payloads are skipped, never unmasked, never held.

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

/** How long a side has to hang up by itself once the end has been announced to it. */
const CLOSE_GRACE_MS = 400

const GOING_AWAY = closeFrame(1001, 'The proxy is shutting down.')
const BROKE_OFF = closeFrame(1011, 'The backend broke off.')
const FELL_SILENT = closeFrame(1011, 'The backend takes nothing more.')

/** Resolves when the session has ended, however it did; both sockets are then closed or about to be. Never rejects. */
export function tunnel(options: TunnelOptions): Promise<RelayResult> {
  const { client, backend, cancellation, clock, idleMs, onBytes } = options
  const fromBackend = trackFrames()
  const fromClient = trackFrames()

  return new Promise(resolve => {
    let over = false
    let stopWatching: () => void = () => undefined
    let farewell: { readonly frame: Buffer; readonly end: RelayResult } | undefined

    const finish = (end: RelayResult): void => {
      if (over) return
      over = true
      stopWatching()
      toBackend.stop()
      toClient.stop()
      client.end()
      backend.end()
      clock.after(CLOSE_GRACE_MS, () => {
        client.destroy()
        backend.destroy()
      })
      resolve(end)
    }
    const sayFarewell = (frame: Buffer, end: RelayResult): void => {
      if (client.writable && !fromBackend.closed()) client.write(frame)
      finish(end)
    }
    const clientBytes = (chunk: Buffer): void => {
      if (over) return
      fromClient.push(chunk)
      onBytes('in', chunk.length)
      toBackend.write(chunk)
    }
    const backendBytes = (chunk: Buffer): void => {
      if (over) return
      const whole = fromBackend.push(chunk)
      onBytes('out', chunk.length)
      if (farewell === undefined || whole === 0) {
        toClient.write(chunk)
        return
      }
      // The frame that was under way has ended: now a last one of our own may follow.
      client.write(chunk.subarray(0, whole))
      sayFarewell(farewell.frame, farewell.end)
    }
    /** Nothing more comes from the backend: the client hears why, unless a frame is under way. */
    const breakOff = (frame: Buffer, end: RelayResult): void => {
      if (!fromBackend.atBoundary()) client.destroy()
      sayFarewell(frame, end)
    }
    const backendGone = (): void => {
      if (over) return
      if (fromBackend.closed() || fromClient.closed()) finish({ kind: 'complete' })
      else breakOff(BROKE_OFF, { kind: 'cut', detail: 'connection_lost' })
    }
    // pipeline would destroy the client together with a backend that broke off, and its farewell with it.
    const toBackend = createPacedWrites({
      from: client,
      to: backend,
      clock,
      idleMs,
      onStalled: () => breakOff(FELL_SILENT, { kind: 'cut', detail: 'idle_timeout' }),
    })
    const toClient = createPacedWrites({
      from: backend,
      to: client,
      clock,
      idleMs,
      onStalled() {
        client.destroy()
        finish({ kind: 'cancelled', reason: 'client_stalled' })
      },
    })
    const clientGone = (): void => {
      const said = fromBackend.closed() || fromClient.closed()
      finish(said ? { kind: 'complete' } : { kind: 'cancelled', reason: 'client_closed' })
    }

    // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
    client.on('error', clientGone).on('close', clientGone).on('end', clientGone).on('data', clientBytes)
    backend.on('error', backendGone).on('close', backendGone).on('end', backendGone).on('data', backendBytes)
    stopWatching = cancellation.onCancel(reason => {
      const end: RelayResult = { kind: 'cancelled', reason }
      if (reason !== 'shutdown') finish(end)
      else if (fromBackend.atBoundary()) sayFarewell(GOING_AWAY, end)
      else {
        farewell = { frame: GOING_AWAY, end }
        clock.after(CLOSE_GRACE_MS, () => {
          if (over) return
          client.destroy()
          finish(end)
        })
      }
    })
    if (over) return
    // It was paused when it was handed over, so that no frame was lost.
    backend.resume()
    if (options.backendHead.length > 0) backendBytes(options.backendHead)
    if (options.clientHead.length > 0) clientBytes(options.clientHead)
  })
}
