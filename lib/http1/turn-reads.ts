// Reads of one turn of the event loop, joined. Node hands on every TLS record by itself, though one read of the socket
// brings hundreds. Parsed, relayed and written one by one, each costs several times as much as together. No timer holds
// them: a connection's pieces go on before the next connection's, at the latest when the turn ends.
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'

/** One read of a socket brings no more (libuv). */
const JOINED_BYTES = 64 * 1024

/** Takes what a turn brought. */
export interface TurnReader {
  /** The memory may be written over as soon as this returns. */
  readonly onBytes: (bytes: Buffer) => void
}

interface Joined {
  reader: TurnReader | undefined
  readonly buffer: Buffer
  filled: number
}

/** Joins the reads of many connections in one buffer: TLS brings those of one without another's between them. */
export class TurnReads {
  private waiting: Joined | undefined
  /** What was delivered; two at the most, unless a reader causes a read. */
  private readonly spare: Joined[] = []
  private ending = false

  /** Takes bytes for a reader; they may lie in memory that the next read writes over. */
  take(reader: TurnReader, bytes: Buffer): void {
    if (bytes.length > JOINED_BYTES) {
      this.settle(reader)
      reader.onBytes(bytes)
      return
    }
    const { waiting } = this
    const isFull = waiting !== undefined && waiting.filled + bytes.length > JOINED_BYTES
    const joined = waiting === undefined || isFull || waiting.reader !== reader ? this.begin(reader) : waiting
    joined.buffer.set(bytes, joined.filled)
    joined.filled += bytes.length
    // Behind the copy: the other reader may cause a read, and these bytes would be gone.
    if (waiting !== undefined && waiting !== joined) this.deliver(waiting)
    if (this.ending) return
    this.ending = true
    setImmediate(this.turnEnds)
  }

  /** Delivers what waits for a reader: something else comes for it now, such as the connection's end. */
  settle(reader: TurnReader): void {
    if (this.waiting?.reader === reader) this.flush()
  }

  private readonly turnEnds = (): void => {
    this.ending = false
    this.flush()
  }

  private flush(): void {
    const { waiting } = this
    this.waiting = undefined
    if (waiting !== undefined) this.deliver(waiting)
  }

  private begin(reader: TurnReader): Joined {
    const begun = this.spare.pop() ?? { reader, buffer: Buffer.allocUnsafeSlow(JOINED_BYTES), filled: 0 }
    begun.reader = reader
    this.waiting = begun
    return begun
  }

  private deliver(joined: Joined): void {
    const { reader, buffer, filled } = joined
    joined.reader = undefined
    joined.filled = 0
    try {
      reader?.onBytes(buffer.subarray(0, filled))
    } finally {
      this.spare.push(joined)
    }
  }
}

/**
 * Listens to a socket whose bytes are a session's: what one turn brings of it goes to `take` as one piece, which may
 * keep it.
 * @returns delivers what waits; to be called before the socket's end is acted on
 */
export function readByTurn(socket: Duplex, take: (bytes: Buffer) => void): () => void {
  if (!(socket instanceof TLSSocket)) {
    socket.on('data', take)
    return () => undefined
  }
  let pieces: Buffer[] = []
  const deliver = (): void => {
    const [first] = pieces
    if (first === undefined) return
    const bytes = pieces.length === 1 ? first : Buffer.concat(pieces)
    pieces = []
    take(bytes)
  }
  socket.on('data', (piece: Buffer) => {
    if (pieces.length === 0) setImmediate(deliver)
    pieces.push(piece)
  })
  return deliver
}
