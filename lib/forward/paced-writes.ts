// One direction between two sockets: what one brings goes to the other no faster than it takes it. Knows no protocol.
import type { Duplex } from 'node:stream'
import type { Clock, Timer } from '../clock.ts'

/** How often a full side is looked at, in milliseconds. */
const LOOK_MS = 1_000
/**
 * Bytes that may wait for a full side before the other one is paused. A paused socket reports neither FIN nor RST, and
 * a client that has left must be noticed. Sixteen seconds of a session's audio.
 */
const MAX_WAITING_BYTES = 1024 * 1024

export interface PacedWritesOptions {
  readonly from: Duplex
  readonly to: Duplex
  readonly clock: Clock
  /** How long `to` may take nothing of what waits for it, in milliseconds. */
  readonly idleMs: number
  /** Called once, when it has taken nothing for so long. */
  onStalled(): void
}

export interface PacedWrites {
  /** Passes bytes on, and pauses `from` while `to` is behind. */
  write(bytes: Buffer): void
  /** Watches no more. */
  stop(): void
}

/** Paces the writes of one direction. */
export function createPacedWrites({ from, to, clock, idleMs, onStalled }: PacedWritesOptions): PacedWrites {
  let timer: Timer | undefined
  let waitingBytes = 0
  let progressMs = 0

  const stop = (): void => {
    timer?.cancel()
    timer = undefined
    to.off('drain', resume)
  }
  const resume = (): void => {
    stop()
    from.resume()
  }
  const look = (): void => {
    const { writableLength } = to
    if (writableLength < waitingBytes) progressMs = clock.nowMs()
    waitingBytes = writableLength
    if (clock.nowMs() - progressMs >= idleMs) {
      stop()
      onStalled()
      return
    }
    timer = clock.after(Math.min(LOOK_MS, idleMs), look)
  }

  return {
    write(bytes) {
      if (!to.writable || to.write(bytes)) return
      if (to.writableLength >= MAX_WAITING_BYTES) from.pause()
      if (timer === undefined) {
        progressMs = clock.nowMs()
        to.on('drain', resume)
        timer = clock.after(Math.min(LOOK_MS, idleMs), look)
      }
      waitingBytes = to.writableLength
    },
    stop,
  }
}
