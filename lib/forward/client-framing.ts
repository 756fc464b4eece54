// The end of a response as the client sees it (RFC 9112 section 6.3). This is the one place that decides it: here it is
// known whether bytes may be added to the body or taken from it.
import type { ServerResponse } from 'node:http'

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

/** Of a response whose head has been written. */
export interface ChunkFraming {
  /** A piece as it goes over the wire; to be written as it is. */
  framed(bytes: Buffer): Buffer
  /** Ends the body. */
  readonly end: Buffer
}

const LINE_END = Buffer.from('\r\n')
const LAST_CHUNK: ChunkFraming['end'] = Buffer.from('0\r\n\r\n')

/** An HTTP/1.0 client gets the bare bytes, and the end of the connection as theirs. */
const BARE: ChunkFraming = { framed: bytes => bytes, end: Buffer.alloc(0) }

const CHUNKED: ChunkFraming = {
  framed(bytes) {
    // An empty chunk would be the end.
    if (bytes.length === 0) return bytes
    const size = `${bytes.length.toString(16)}\r\n`
    const chunk = Buffer.allocUnsafe(size.length + bytes.length + LINE_END.length)
    chunk.write(size, 0, 'latin1')
    chunk.set(bytes, size.length)
    chunk.set(LINE_END, size.length + bytes.length)
    return chunk
  },
  end: LAST_CHUNK,
}

/**
 * Takes the framing over from node:http.
 * @param response its head is written; nothing of its body has been
 */
export function takeOverFraming(response: ServerResponse): ChunkFraming {
  if (!response.chunkedEncoding) return BARE
  response.chunkedEncoding = false
  return CHUNKED
}
