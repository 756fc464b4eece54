// The end of a response as the client sees it (RFC 9112 section 6.3). This is the one place that decides it: here it is
// known whether bytes may be added to the body or taken from it.
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { TLSSocket } from 'node:tls'

/** What becomes of a body between upstream and client. */
export type BodyPlan =
  /** Passed on as it comes: upstream's declared length, if there is one, holds. */
  | { readonly kind: 'unchanged' }
  /** All of it is here. */
  | { readonly kind: 'whole'; readonly bytes: number }
  /** No body follows, whatever length the head declares: HEAD, 204, 304. */
  | { readonly kind: 'none' }
  /** An event stream: comments and error events come in, usage events go out, so no length can hold. */
  | { readonly kind: 'edited' }

/** No body may be declared where none can be (RFC 9110 section 8.6). */
const NO_CONTENT = 204

function dropHeader(headers: string[], name: string): void {
  for (let i = headers.length - 2; i >= 0; i -= 2) if (headers[i]?.toLowerCase() === name) headers.splice(i, 2)
}

/**
 * Makes a flat header list say, in place, how long its body will be. Without a length node:http frames the body itself:
 * chunked, or by the end of the connection for an HTTP/1.0 client.
 * @param headers upstream's, less hop-by-hop ones
 * @param declared the length they declare, in bytes; undefined for none
 */
export function declareLength(headers: string[], declared: number | undefined, status: number, body: BodyPlan): void {
  const holds =
    body.kind === 'unchanged' ||
    (body.kind === 'none' && status !== NO_CONTENT) ||
    (body.kind === 'whole' && body.bytes === declared)
  if (declared !== undefined && !holds) dropHeader(headers, 'content-length')
  if (body.kind === 'whole' && body.bytes !== declared) headers.push('content-length', String(body.bytes))
}

// The body of an event stream, a chunk for each piece (RFC 9112 section 7.1). The chunks are framed here, since
// node:http makes four writes of size, line end, data and line end, and gathers them. One buffer costs 4 to 7 µs less
// an event of an open stream.

/** Up to this size the first events join the head in one string; above, copying costs more than a list. */
const WITH_HEAD_MAX_BYTES = 16 * 1024
/** Up to this size a chunk is one buffer; above, copying costs more than a list of size, data and line end. */
const ONE_BUFFER_MAX_BYTES = 16 * 1024

const CR = 0x0d
const LF = 0x0a
const LINE_END = '\r\n'
const LAST_CHUNK = '0\r\n\r\n'
const DIGITS = Buffer.from('0123456789abcdef')

/** One chunk as it goes over the wire. @param bytes not empty, since an empty chunk would be the end */
function chunkOf(bytes: Buffer): Buffer {
  const { length } = bytes
  let digits = 1
  while (length >>> (4 * digits) > 0) digits++
  const data = digits + 2
  const chunk = Buffer.allocUnsafe(data + length + 2)
  // By hand: a text of the size and two calls for the line ends cost half a µs more.
  for (let at = digits - 1, left = length; at >= 0; at--, left >>>= 4) chunk[at] = DIGITS[left & 0xf] ?? 0
  chunk[digits] = CR
  chunk[digits + 1] = LF
  chunk.set(bytes, data)
  chunk[data + length] = CR
  chunk[data + length + 1] = LF
  return chunk
}

/** What a body is written to, and what says `drain` once there is room again. */
type Outlet = Pick<Writable, 'once' | 'off' | 'writableNeedDrain'>

/** The body of an event stream, of a response whose head has been written. A class: thousands may be open. */
export class EventBody {
  private readonly response: ServerResponse
  /** An HTTP/1.0 client gets the bare bytes, and the end of the connection as theirs. */
  private readonly chunked: boolean
  private begun = false
  private corked: Socket | undefined

  /**
   * Takes the framing over from node:http. Nothing goes out before `flush`: first events leave with their head.
   * @param response its head is written; nothing of its body has been
   */
  constructor(response: ServerResponse) {
    this.response = response
    this.chunked = response.chunkedEncoding
    response.chunkedEncoding = false
    this.hold()
  }

  /** Writes a piece. @returns false: the next one should wait for the outlet's `drain` */
  write(bytes: Buffer): boolean {
    const { response } = this
    if (!this.chunked) return response.write(bytes)
    if (bytes.length === 0) return true
    if (!this.begun) return this.writeFirst(bytes)
    const { socket } = response
    // Past `response.write`, which corks the socket and asks for a callback to uncork it: 1 µs more an event.
    if (socket === null) return response.write(chunkOf(bytes))
    if (bytes.length <= ONE_BUFFER_MAX_BYTES) return socket.write(chunkOf(bytes))
    socket.cork()
    socket.write(bytes.length.toString(16) + LINE_END, 'latin1')
    socket.write(bytes)
    const hasRoom = socket.write(LINE_END, 'latin1')
    socket.uncork()
    return hasRoom
  }

  /** What says `drain` once there is room for the next piece. */
  outlet(): Outlet {
    return this.response.socket ?? this.response
  }

  /** Holds what is written from now on back until the end, or the end of this turn: the last events leave with it. */
  awaitEnd(): void {
    if (this.corked !== undefined) return
    this.hold()
    queueMicrotask(() => this.flush())
  }

  /** Sends what has been written so far. */
  flush(): void {
    this.corked?.uncork()
    this.corked = undefined
  }

  /** Ends the body and the response. */
  end(): void {
    const { response } = this
    if (this.chunked) {
      this.hold()
      response.write(LAST_CHUNK, 'latin1')
    }
    // Sent first, since `response.end` puts an empty piece behind what still waits: a list of two, 2.5 µs. Over TLS
    // everything waits for the end of the turn: there the empty piece belongs into the same list.
    if (!(response.socket instanceof TLSSocket)) this.flush()
    response.end()
  }

  /** From now on pieces are gathered until `flush`. */
  private hold(): void {
    if (this.corked !== undefined) return
    this.corked = this.response.socket ?? undefined
    this.corked?.cork()
  }

  private writeFirst(bytes: Buffer): boolean {
    const { response } = this
    this.begun = true
    const size = bytes.length.toString(16) + LINE_END
    // As a string it joins the head; latin1 gives each byte back as it was.
    if (bytes.length <= WITH_HEAD_MAX_BYTES) {
      return response.write(size + bytes.toString('latin1') + LINE_END, 'latin1')
    }
    response.write(size, 'latin1')
    response.write(bytes)
    return response.write(LINE_END, 'latin1')
  }
}
