// A socket on which a client asked for another protocol. Node has released it by then. For a WebSocket it stays
// released until it is agreed to or refused. Anything else goes back to the HTTP server as a plain request.
import { type IncomingMessage, type Server, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { ClientSocket } from '../handlers/realtime.ts'

/** How long, and no longer, a refused client may stay connected without sending anything. */
const LINGER_MS = 2_000

/** Gives the socket a response to answer with as long as no tunnel has taken it over. */
export function clientSocket(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Omit<ClientSocket, 'onDrain' | 'turnEnded'> {
  const response = new ServerResponse(request)
  response.shouldKeepAlive = false
  if (socket instanceof Socket) response.assignSocket(socket)
  response.once('finish', () => {
    // Read on, or the client's own end is never seen, and what it still sends would turn our last bytes into a reset.
    socket.resume()
    socket.end()
    if (socket instanceof Socket) socket.setTimeout(LINGER_MS, () => socket.destroy())
  })
  return {
    socket,
    head,
    response,
    takeOver() {
      if (socket instanceof Socket) response.detachSocket(socket)
    },
  }
}

/**
 * Whether a request asks for a WebSocket (RFC 6455, section 4.1: a GET); any other asks for something that is not here.
 */
export function isWebSocket({ method, headers }: IncomingMessage): boolean {
  return method === 'GET' && headers.upgrade?.trim().toLowerCase() === 'websocket'
}

/** Headers that made Node take the request for an upgrade, and belong to the connection alone. */
const UPGRADING = new Set(['upgrade', 'http2-settings', 'connection'])

/**
 * Gives a request that asks for some other protocol back to the server, without the asking: RFC 9110 section 7.8 lets a
 * server ignore it, and Java's HTTP client asks every plain server for h2c. The head is written as it came, less what
 * asked.
 */
export function serveWithoutUpgrade(server: Server, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  const lines = [`${request.method} ${request.url} HTTP/${request.httpVersion}`]
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    const name = request.rawHeaders[i] ?? ''
    if (!UPGRADING.has(name.toLowerCase())) lines.push(`${name}: ${request.rawHeaders[i + 1]}`)
  }
  socket.unshift(Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), head]))
  server.emit('encrypted' in socket ? 'secureConnection' : 'connection', socket)
}
