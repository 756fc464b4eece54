// One connection to a backend: sends a request, reads its response, and then the next. It knows nothing of pools, and
// of HTTP only what response-parser.ts reads. Why it is not node:http's ClientRequest: README.md beside this file.
import type { Socket } from 'node:net'
import { NO_SLOT } from '../dense-set.ts'
import type { LowerCaseNames } from './header-names.ts'
import type { KeptConnection } from './keeper.ts'
import { ResponseBody } from './response-body.ts'
import type { ResponseFault, ResponseHead } from './response-head.ts'
import { ResponseParser } from './response-parser.ts'
import type { TurnReads } from './turn-reads.ts'

/** Receives the course of one request. */
export interface ResponseHandler {
  /** The address is known: what follows is the other side's time. Not called for a reused connection. */
  connecting?(): void
  /** Connected, TLS included. Not called for a reused connection. */
  connected(): void
  /** The head of the response. The body must be given a sink, or be destroyed, at once. */
  head(head: ResponseHead, responseBody: ResponseBody): void
  /** 101: the socket is the handler's from now on. `rest` came behind the head. */
  switched(head: ResponseHead, socket: Socket, rest: Buffer): void
  /**
   * No response will come. The error is a ConnectError where no connection was made, a ProtocolError where what came is
   * no HTTP.
   * @param stale it went out on a connection that had been idle, and no byte came back: the far side may have closed it
   * earlier
   */
  failed(error: Error, stale: boolean): void
}

/** A request in progress. */
export interface Sent {
  /** Whether the connection has yet to be made. */
  readonly connecting: boolean
  /**
   * Gives it up, and the connection with it: its handler hears nothing more. Does nothing once the handler has its
   * reply.
   */
  destroy(): void
}

/** Events of a connection for its pool. */
export interface ConnectionOwner {
  /** It has nothing to do and may be used again, within so many milliseconds. */
  rests(connection: Connection, forMs: number): void
  gone(connection: Connection): void
}

/** The bytes of a request. */
export interface RequestBytes {
  /** Request line and headers, with the empty line at their end, as latin1. */
  readonly head: string
  readonly body: readonly Buffer[]
  readonly bodiless: boolean
  readonly maySwitch: boolean
  /** Nothing follows it on its connection. */
  readonly closes: boolean
}

/** A response that is no HTTP; `code` is an AnswerFault. */
export class ProtocolError extends Error {
  readonly code: ResponseFault

  constructor(code: ResponseFault) {
    super(code)
    this.code = code
  }
}

/** The far side closed before its response was whole; has the code that a reset has. */
function closedEarly(): Error {
  return Object.assign(new Error('the connection was closed'), { code: 'ECONNRESET' })
}

/** Up to this size a body joins its head in one string and one write; above, copying costs more than a second write. */
const ONE_WRITE_MAX_BYTES = 16 * 1024

function write(socket: Socket, { head, body }: RequestBytes): void {
  const [only] = body
  if (body.length === 0) socket.write(head, 'latin1')
  else if (body.length === 1 && only !== undefined && only.length <= ONE_WRITE_MAX_BYTES) {
    // latin1 gives each byte back as it was.
    socket.write(head + only.toString('latin1'), 'latin1')
  } else {
    // No back-pressure is needed: the chunks are held for replay in any case, and are queued by reference. As one list
    // they leave in as few system calls as there can be.
    socket.cork()
    socket.write(head, 'latin1')
    for (const chunk of body) socket.write(chunk)
    socket.uncork()
  }
}

/** A class: one for every open stream, of which there may be thousands. */
export class Connection implements KeptConnection {
  readonly socket: Socket
  slot = NO_SLOT
  bornMs = 0
  restsUntilMs = 0
  private readonly owner: ConnectionOwner
  private readonly reader: ResponseParser
  /** Joins what the socket brings in pieces; undefined where it does not. */
  private readonly turns: TurnReads | undefined
  private handler: ResponseHandler | undefined
  private responseBody: ResponseBody | undefined
  private keptForMs = 0
  private closes = false
  /** It has brought a response before. */
  private used = false

  /** @param socket connected, TLS included */
  constructor(socket: Socket, owner: ConnectionOwner, names: LowerCaseNames, turns: TurnReads | undefined) {
    this.socket = socket
    this.owner = owner
    this.turns = turns
    this.reader = new ResponseParser(this, names)
    // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
    socket.on('end', this.onEnd).on('error', this.onError).on('close', this.onClose)
  }

  /** Sends a request; its response is the handler's. The connection must be idle. */
  send(request: RequestBytes, handler: ResponseHandler): Sent {
    const { socket } = this
    this.handler = handler
    this.closes = request.closes
    this.reader.expect(request)
    write(socket, request)
    return {
      connecting: false,
      destroy: () => {
        if (this.handler === handler) this.abandon()
      },
    }
  }

  /** Gives the current request up: its handler is not called again, and the connection is closed. */
  abandon(): void {
    this.handler = undefined
    this.responseBody = undefined
    this.reader.stop()
    this.socket.destroy()
  }

  pause(): void {
    this.socket.pause()
  }

  resume(): void {
    this.socket.resume()
  }

  /** From the reader. */
  head(head: ResponseHead): void {
    const { handler } = this
    if (handler === undefined) return
    this.keptForMs = head.keptForMs
    const responseBody = new ResponseBody(this)
    this.responseBody = responseBody
    this.handler = undefined
    handler.head(head, responseBody)
  }

  /** From the reader. */
  body(bytes: Buffer): void {
    this.responseBody?.arrived(bytes)
  }

  /** From the reader. */
  end(reusable: boolean): void {
    const { responseBody, socket } = this
    this.responseBody = undefined
    this.used = true
    // A response that came before its request was out leaves the rest of the request in the way of the next one.
    if (reusable && !this.closes && this.keptForMs > 0 && socket.writableLength === 0 && !socket.destroyed) {
      // A body that is read slowly has paused the socket; the next response must not wait for it.
      if (socket.isPaused()) socket.resume()
      this.owner.rests(this, this.keptForMs)
    } else socket.destroy()
    responseBody?.over('whole')
  }

  /** From the reader. */
  switched(head: ResponseHead, rest: Buffer): void {
    const { handler, socket } = this
    this.handler = undefined
    socket.pause()
    socket.off('data', this.onRead).off('end', this.onEnd).off('error', this.onError).off('close', this.onClose)
    socket.on('error', () => undefined)
    this.owner.gone(this)
    if (handler === undefined) socket.destroy()
    else handler.switched(head, socket, rest)
  }

  /** What the socket has brought; the memory may be written over as soon as this returns. */
  readonly onRead = (bytes: Buffer): void => {
    // Unasked for is at once: a request that takes this connection in the same turn must not get it as its response.
    if (this.turns === undefined || this.isAtRest()) this.onBytes(bytes)
    else this.turns.take(this, bytes)
  }

  /** What a turn has brought. */
  readonly onBytes = (bytes: Buffer): void => {
    // Unasked for: a response to nothing, such as a 408 before the far side closes an idle connection.
    if (this.isAtRest()) {
      this.socket.destroy()
      return
    }
    const fault = this.reader.push(bytes)
    if (fault !== undefined) this.lose(new ProtocolError(fault))
  }

  private readonly onEnd = (): void => {
    this.turns?.settle(this)
    if (this.isAtRest()) this.socket.destroy()
    else if (!this.reader.close()) this.lose(closedEarly())
  }

  private readonly onError = (error: Error): void => {
    this.turns?.settle(this)
    this.lose(error)
  }

  private readonly onClose = (): void => {
    this.turns?.settle(this)
    this.lose(closedEarly())
    this.owner.gone(this)
  }

  /** Nothing is to come for anybody. */
  private isAtRest(): boolean {
    return this.handler === undefined && this.responseBody === undefined
  }

  private lose(error: Error): void {
    const { handler, responseBody } = this
    const stale = this.used && !this.reader.begun()
    this.handler = undefined
    this.responseBody = undefined
    handler?.failed(error, stale)
    responseBody?.over(error)
    this.reader.stop()
    this.socket.destroy()
  }
}
