// The world's network: connections as pairs of pipes with a latency, no packet and no descriptor. The proxy's ends are
// real net.Socket objects without a handle; the other ends are plain objects of the simulated clients and backends.
import net from 'node:net'
import type { Engine, Host } from './engine.ts'

/** The far end of a connection: a simulated client or backend. */
export interface Peer {
  write(text: string): void
  /** Ends politely: what was written arrives first. */
  end(): void
  /** Resets: the proxy's end hears ECONNRESET. */
  reset(): void
  /** Reads no more until `resume`; what comes fills the window and then holds the writer up. */
  pause(): void
  resume(): void
  /** Neither end can send any more. */
  readonly closed: boolean
}

/** What a peer hears. */
export interface PeerEvents {
  /** One character a byte. */
  data(text: string): void
  /** The proxy's end has ended or is gone. */
  gone(): void
}

/** Sees what the proxy's end does at the moment when it does it, before any latency. */
export interface SocketWatch {
  /** One character a byte. */
  wrote(text: string): void
  destroyed(): void
}

export interface LinkOptions {
  readonly latencyMs: number
  /** Bytes in flight and unread before a writer is held up. */
  readonly windowBytes: number
  readonly host: Host
  readonly watch: SocketWatch
}

const DEFAULT_LATENCY_MS = 1
const DEFAULT_WINDOW_BYTES = 64 * 1024

function textOf(chunk: Buffer | string, encoding: string): string {
  if (typeof chunk === 'string') return encoding === 'latin1' ? chunk : Buffer.from(chunk, 'utf8').toString('latin1')
  return chunk.toString('latin1')
}

function systemError(code: string): Error {
  return Object.assign(new Error(code), { code })
}

/** The proxy's end of a connection. */
class MemorySocket extends net.Socket {
  private readonly link: Link

  constructor(link: Link, options: net.SocketConstructorOpts) {
    super(options)
    this.link = link
  }

  override _read(): void {
    this.link.wanted()
  }

  override _write(chunk: Buffer | string, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.link.send(textOf(chunk, encoding), done)
  }

  override _writev(
    chunks: readonly { readonly chunk: Buffer | string; readonly encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    this.link.send(chunks.map(({ chunk, encoding }) => textOf(chunk, encoding)).join(''), done)
  }

  override _final(done: (error?: Error | null) => void): void {
    this.link.sendEnd()
    done()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.link.socketDestroyed()
    super._destroy(error, done)
  }

  override resume(): this {
    super.resume()
    this.link.wanted()
    return this
  }

  override setTimeout(): this {
    // The listener's keep-alive limit of real time: no connection of a world lives that long.
    return this
  }
}

/** One connection. */
class Link {
  readonly socket: MemorySocket
  readonly peer: Peer
  private readonly engine: Engine
  private readonly options: LinkOptions
  private readonly events: PeerEvents
  private readonly onread: net.OnReadOpts | undefined
  /** What the proxy has written before the connection stood. */
  private early: string[] | undefined
  private earlyEnd = false
  /** Bytes on the way to the peer or unread by it. */
  private unread = 0
  private heldUp: ((error?: Error | null) => void) | undefined
  private peerPaused = false
  private peerKept: string[] = []
  private peerGone = false
  private peerHeardEnd = false
  private readonly dies: () => void
  /** What has come to the proxy's end while it does not read; undefined in it stands for the end. */
  private readonly toRead: (string | undefined)[] = []

  constructor(
    engine: Engine,
    options: LinkOptions,
    events: PeerEvents,
    socketOptions: net.SocketConstructorOpts & { readonly onread?: net.OnReadOpts },
    open: boolean,
  ) {
    this.engine = engine
    this.options = options
    this.events = events
    this.onread = socketOptions.onread
    this.early = open ? undefined : []
    this.dies = () => {
      if (this.early === undefined) this.later(() => this.peerHearsEnd(), false)
    }
    options.host.deaths.add(this.dies)
    const { onread: _, ...rest } = socketOptions
    this.socket = new MemorySocket(this, rest)
    // A handle that is not there yet is a connection being made.
    if (!open) Object.assign(this.socket, { connecting: true })
    const link = this
    this.peer = {
      get closed() {
        return link.peerGone || link.socket.destroyed
      },
      write: text => this.toSocket(text),
      end: () => {
        if (this.peerGone) return
        this.toSocket(undefined)
      },
      reset: () => {
        if (this.peerGone) return
        this.peerGone = true
        this.later(() => this.socket.destroy(systemError('ECONNRESET')), true)
      },
      pause: () => {
        this.peerPaused = true
      },
      resume: () => {
        this.peerPaused = false
        const kept = this.peerKept
        this.peerKept = []
        for (const text of kept) this.peerReads(text)
      },
    }
  }

  private later(run: () => void, toProxy: boolean): void {
    const atMs = this.engine.nowMs() + this.options.latencyMs
    if (toProxy) this.engine.at(atMs, run, this.options.host)
    else this.engine.outside(atMs, run)
  }

  // From the proxy to the peer.

  send(text: string, done: (error?: Error | null) => void): void {
    this.options.watch.wrote(text)
    if (this.early !== undefined) this.early.push(text)
    else this.transmit(text)
    this.unread += text.length
    if (this.unread < this.options.windowBytes) done()
    else this.heldUp = done
  }

  sendEnd(): void {
    if (this.early !== undefined) this.earlyEnd = true
    else this.later(() => this.peerHearsEnd(), false)
  }

  socketDestroyed(): void {
    this.heldUp = undefined
    this.options.host.deaths.delete(this.dies)
    this.options.watch.destroyed()
    if (this.early === undefined) this.later(() => this.peerHearsEnd(), false)
  }

  private transmit(text: string): void {
    this.later(() => {
      if (this.peerGone) return
      if (this.peerPaused) this.peerKept.push(text)
      else this.peerReads(text)
    }, false)
  }

  private peerReads(text: string): void {
    this.unread -= text.length
    const { heldUp } = this
    if (heldUp !== undefined && this.unread < this.options.windowBytes && !this.socket.destroyed) {
      this.heldUp = undefined
      // The writer hears of room as any event of its process: not while that stands still.
      this.engine.at(this.engine.nowMs(), () => heldUp(), this.options.host)
    }
    if (!this.peerGone) this.events.data(text)
  }

  private peerHearsEnd(): void {
    if (this.peerHeardEnd || this.peerGone) return
    this.peerHeardEnd = true
    this.events.gone()
  }

  // From the peer to the proxy.

  private toSocket(text: string | undefined): void {
    if (this.peerGone || this.socket.destroyed) return
    this.later(() => {
      if (this.socket.destroyed) return
      this.toRead.push(text)
      this.deliver()
    }, true)
  }

  /** The socket wants to read. */
  wanted(): void {
    if (this.toRead.length > 0) this.engine.at(this.engine.nowMs(), () => this.deliver(), this.options.host)
  }

  private deliver(): void {
    const { socket, onread, toRead } = this
    while (toRead.length > 0 && !socket.destroyed) {
      if (onread !== undefined && socket.isPaused()) return
      const text = toRead.shift()
      if (text === undefined) {
        socket.push(null)
        socket.read(0)
      } else if (onread === undefined) {
        if (!socket.push(Buffer.from(text, 'latin1'))) return
      } else {
        const buffer = typeof onread.buffer === 'function' ? onread.buffer() : onread.buffer
        Buffer.from(buffer.buffer, buffer.byteOffset, buffer.byteLength).write(text, 0, 'latin1')
        onread.callback(text.length, buffer)
      }
    }
  }

  // The way to a connection.

  opened(): void {
    const { socket, early } = this
    if (socket.destroyed || early === undefined) return
    this.early = undefined
    Object.assign(socket, { connecting: false })
    socket.emit('connect')
    for (const text of early) this.transmit(text)
    if (this.earlyEnd) this.sendEnd()
  }

  failed(code: string): void {
    if (!this.socket.destroyed) this.socket.destroy(systemError(code))
  }
}

/** What becomes of a connection that the proxy wants to make. */
export type Dialled =
  | { readonly kind: 'accepted'; readonly events: (peer: Peer) => PeerEvents }
  /** Refused, unreachable, no such name, a broken handshake: the error code that node gives. */
  | { readonly kind: 'failed'; readonly code: string; readonly afterMs: number }
  /** No answer ever comes. */
  | { readonly kind: 'silent' }

const NOTHING: PeerEvents = { data: () => undefined, gone: () => undefined }

/**
 * A connection from the proxy to a backend, in progress.
 * @param dial asked when the first packet arrives
 */
export function dial(
  engine: Engine,
  options: Omit<LinkOptions, 'latencyMs' | 'windowBytes'> & Partial<LinkOptions>,
  socketOptions: { readonly onread?: net.OnReadOpts | undefined },
  answer: () => Dialled,
): net.Socket {
  const full = { latencyMs: DEFAULT_LATENCY_MS, windowBytes: DEFAULT_WINDOW_BYTES, ...options }
  let events = NOTHING
  const link = new Link(
    engine,
    full,
    { data: text => events.data(text), gone: () => events.gone() },
    { ...(socketOptions.onread === undefined ? {} : { onread: socketOptions.onread }), allowHalfOpen: false },
    false,
  )
  engine.outside(engine.nowMs() + full.latencyMs, () => {
    if (link.socket.destroyed) return
    const dialled = answer()
    if (dialled.kind === 'silent') return
    if (dialled.kind === 'failed') {
      engine.at(engine.nowMs() + dialled.afterMs, () => link.failed(dialled.code), full.host)
      return
    }
    events = dialled.events(link.peer)
    engine.at(engine.nowMs() + full.latencyMs, () => link.opened(), full.host)
  })
  return link.socket
}

/** A connection from a client to the proxy, which stands at once: the socket is to be given to the server. */
export function arrive(
  engine: Engine,
  options: Omit<LinkOptions, 'latencyMs' | 'windowBytes'> & Partial<LinkOptions>,
  events: PeerEvents,
): { readonly socket: net.Socket; readonly peer: Peer } {
  const full = { latencyMs: DEFAULT_LATENCY_MS, windowBytes: DEFAULT_WINDOW_BYTES, ...options }
  const link = new Link(engine, full, events, { allowHalfOpen: true }, true)
  return { socket: link.socket, peer: link.peer }
}
