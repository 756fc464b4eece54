// Joins a client's WebSocket to a backend's once both have agreed: bytes go through untouched in both directions, with
// back-pressure. What it adds is at most one frame at the very end, which tells the client why.
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import type { Cancellation } from './exchange.ts'
import type { RelayEnd } from './relay-terms.ts'
import { closeFrame, trackFrames } from './websocket-frames.ts'

export interface TunnelOptions {
  readonly client: Duplex
  readonly backend: Duplex
  /** What came behind the handshakes already. */
  readonly clientHead: Buffer
  readonly backendHead: Buffer
  readonly cancellation: Cancellation
  readonly clock: Clock
  onBytes(direction: 'in' | 'out', bytes: number): void
}

/** How long a side that was told the end has to hang up by itself. */
const FAREWELL_MS = 400

const GOING_AWAY = closeFrame(1001, 'The proxy is shutting down.')
const BROKE_OFF = closeFrame(1011, 'The backend broke off.')

/** Resolves when the session has ended, however it did; both sockets are then closed or about to be. Never rejects. */
export function tunnel(options: TunnelOptions): Promise<RelayEnd> {
  const { client, backend, cancellation, clock, onBytes } = options
  const fromBackend = trackFrames()
  const fromClient = trackFrames()

  return new Promise(resolve => {
    let over = false
    let farewell: { readonly frame: Buffer; readonly end: RelayEnd } | undefined

    const finish = (end: RelayEnd): void => {
      if (over) return
      over = true
      stopWatching()
      client.end()
      backend.end()
      clock.after(FAREWELL_MS, () => {
        client.destroy()
        backend.destroy()
      })
      resolve(end)
    }
    const sayFarewell = (frame: Buffer, end: RelayEnd): void => {
      if (client.writable && !fromBackend.closed()) client.write(frame)
      finish(end)
    }
    /** One direction. pipeline would destroy the client together with a backend that broke off, and its farewell with it. */
    const passOn = (from: Duplex, to: Duplex, chunk: Buffer): void => {
      if (to.writable && !to.write(chunk)) {
        from.pause()
        to.once('drain', () => from.resume())
      }
    }
    const clientBytes = (chunk: Buffer): void => {
      if (over) return
      fromClient.push(chunk)
      onBytes('in', chunk.length)
      passOn(client, backend, chunk)
    }
    const backendBytes = (chunk: Buffer): void => {
      if (over) return
      const whole = fromBackend.push(chunk)
      onBytes('out', chunk.length)
      if (farewell === undefined || whole === 0) {
        passOn(backend, client, chunk)
        return
      }
      // The frame that was under way has ended: now a last one of our own may follow.
      client.write(chunk.subarray(0, whole))
      sayFarewell(farewell.frame, farewell.end)
    }
    const backendGone = (): void => {
      if (over) return
      if (fromBackend.closed() || fromClient.closed()) finish({ kind: 'complete' })
      else if (fromBackend.atBoundary()) sayFarewell(BROKE_OFF, { kind: 'cut', detail: 'connection_lost' })
      else {
        client.destroy()
        finish({ kind: 'cut', detail: 'connection_lost' })
      }
    }
    const clientGone = (): void => {
      const said = fromBackend.closed() || fromClient.closed()
      finish(said ? { kind: 'complete' } : { kind: 'cancelled', reason: 'client_closed' })
    }

    // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
    client.on('error', clientGone).on('close', clientGone).on('end', clientGone).on('data', clientBytes)
    backend.on('error', backendGone).on('close', backendGone).on('end', backendGone).on('data', backendBytes)
    const stopWatching = cancellation.onCancel(reason => {
      const end: RelayEnd = { kind: 'cancelled', reason }
      if (reason !== 'shutdown') finish(end)
      else if (fromBackend.atBoundary()) sayFarewell(GOING_AWAY, end)
      else {
        farewell = { frame: GOING_AWAY, end }
        clock.after(FAREWELL_MS, () => {
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
