// A response body as it comes off a connection, for one attached consumer. Bytes that come without one are kept for the
// next one to attach, and the connection is paused by then.
import { Readable } from 'node:stream'

/** Takes a body. After `end` or `lost` nothing more comes. */
export interface BodySink {
  data(bytes: Buffer): void
  end(): void
  /** The connection broke off, or what came was no HTTP. */
  lost(error: Error): void
}

/** What a body needs of its connection. */
export interface BodySource {
  pause(): void
  resume(): void
  /** Gives the rest of the response up, and the connection with it. */
  abandon(): void
}

export class ResponseBody {
  /** The connection, until the last byte has come off it. */
  private source: BodySource | undefined
  private sink: BodySink | undefined
  private paused = false
  private isSourcePaused = false
  private destroyed = false
  /** What came while nobody could take it: one read of the socket at most, for the socket is paused. */
  private kept: Buffer | undefined
  private outcome: 'open' | 'whole' | Error = 'open'

  constructor(source: BodySource) {
    this.source = source
  }

  /** The sink takes what comes from now on, in place of the one before. */
  attach(sink: BodySink): void {
    this.sink = sink
  }

  /** The sink is not called until `resume`. */
  pause(): void {
    this.paused = true
    this.pauseSource()
  }

  /**
   * As `pause`, for a moment: another sink takes over. The connection is paused only if bytes come meanwhile; pausing
   * and resuming it costs system calls.
   */
  hold(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    this.deliver()
    if (this.paused || !this.isSourcePaused) return
    this.isSourcePaused = false
    this.source?.resume()
  }

  /**
   * Reads on to the end for nobody, so that the connection can be used again. @param over called when that end has come
   */
  discard(over: () => void = () => undefined): void {
    this.attach({ data: () => undefined, end: over, lost: over })
    this.resume()
  }

  /** Gives the body up: the sink is not called again, and a connection that still brings it is closed. */
  destroy(): void {
    if (this.destroyed) return
    this.destroyed = true
    this.kept = undefined
    this.source?.abandon()
    this.source = undefined
  }

  /** Every byte has been delivered; only the end is outstanding. */
  isWhole(): boolean {
    return this.outcome === 'whole' && this.kept === undefined
  }

  /**
   * The rest as a stream, for `pipeline`; destroying the stream gives the body up.
   * @param pass sees each piece
   * @param isWhole asked at the end of the bytes: false where what came cannot be all of it
   */
  stream(pass: (bytes: Buffer) => void, isWhole: () => boolean = () => true): Readable {
    return new BodyStream(this, pass, isWhole)
  }

  /** The connection's side: a piece has come. */
  arrived(bytes: Buffer): void {
    if (this.destroyed) return
    if (this.sink !== undefined && !this.paused) this.sink.data(bytes)
    else {
      this.kept = this.kept === undefined ? bytes : Buffer.concat([this.kept, bytes])
      this.pauseSource()
    }
  }

  /** The connection's side: all has come, or nothing more will. */
  over(outcome: 'whole' | Error): void {
    this.source = undefined
    this.outcome = outcome
    this.deliver()
  }

  private pauseSource(): void {
    if (this.isSourcePaused) return
    this.isSourcePaused = true
    this.source?.pause()
  }

  private deliver(): void {
    if (this.destroyed || this.paused || this.sink === undefined) return
    const { kept } = this
    if (kept !== undefined) {
      this.kept = undefined
      this.sink.data(kept)
      if (this.isHeldUp()) return
    }
    const { outcome } = this
    if (outcome === 'open') return
    // Called once.
    this.destroyed = true
    if (outcome === 'whole') this.sink.end()
    else this.sink.lost(outcome)
  }

  /** A sink may pause or destroy the body while it is called. */
  private isHeldUp(): boolean {
    return this.destroyed || this.paused
  }
}

/** Room for what one read of a socket brings, and half as much again: pieces are never cut up. */
const STREAM_BUFFER_BYTES = 96 * 1024

class BodyStream extends Readable {
  private readonly body: ResponseBody

  constructor(responseBody: ResponseBody, pass: (bytes: Buffer) => void, isWhole: () => boolean) {
    super({ highWaterMark: STREAM_BUFFER_BYTES })
    this.body = responseBody
    responseBody.attach({
      data: bytes => {
        pass(bytes)
        if (!this.push(bytes)) responseBody.pause()
      },
      end: () => {
        if (isWhole()) this.push(null)
        else this.destroy(new Error('the body ended early'))
      },
      lost: error => {
        this.destroy(error)
      },
    })
  }

  override _read(): void {
    this.body.resume()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.body.destroy()
    done(error)
  }
}
