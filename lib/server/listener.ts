// The node:http(s) server and its limits, and what is answered to bytes that never become a request.
import http, { type IncomingMessage, type ServerOptions, type ServerResponse, STATUS_CODES } from 'node:http'
import https from 'node:https'
import type { Duplex } from 'node:stream'
import { type Refusal, refusalParts } from '../errors.ts'
import { isWebSocket, serveWithoutUpgrade } from './upgrade-socket.ts'

/** Headers of one request, in bytes: room for a long token beside the rest. */
const MAX_HEAD_BYTES = 32 * 1024
/** A request's head must have come by then; slow senders hold a socket, not more. */
const HEAD_MS = 20_000
/** Above the idle times of all usual clients and of cloud load balancers (60 s), so that it is they who close (wire reference, 11.2). */
const KEEP_ALIVE_MS = 75_000
/** How often stuck connections are looked for. */
const CHECK_MS = 1_000
/** Read at once from a client's socket; long bodies come in fewer pieces. */
const READ_BYTES = 64 * 1024

export interface TlsFiles {
  readonly cert: Buffer
  readonly key: Buffer
}

export interface ListenerOptions {
  readonly tls: TlsFiles | undefined
  readonly onRequest: (request: IncomingMessage, response: ServerResponse) => void
  readonly onUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void
}

export interface Listener {
  readonly server: http.Server | https.Server
  /** @throws (rejects) with the system's error, EADDRINUSE for one */
  listen(port: number, host: string | undefined): Promise<{ readonly port: number }>
  /** Takes up renewed certificates; connections that are open go on. */
  setTls(files: TlsFiles): void
  close(): Promise<void>
}

/** A refusal for bytes that could not be parsed as a request. */
function refusalFor(code: string | undefined): Refusal {
  if (code === 'HPE_HEADER_OVERFLOW') {
    return {
      status: 431,
      code: 'request_headers_too_large',
      message: 'The request headers are too large.',
      close: true,
    }
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return { status: 408, code: 'request_timeout', message: 'The request headers did not arrive in time.', close: true }
  }
  return { status: 400, code: 'invalid_request', message: 'This is not a valid HTTP request.', close: true }
}

/** Writes a refusal straight to a socket that has no response object, and closes it. */
export function refuseOnSocket(socket: Duplex, refusal: Refusal, requestId?: string): void {
  if (!socket.writable) {
    socket.destroy()
    return
  }
  const { headers, body } = refusalParts({ ...refusal, close: true })
  const lines = [`HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status] ?? ''}`]
  for (let i = 0; i < headers.length; i += 2) lines.push(`${headers[i]}: ${headers[i + 1]}`)
  if (requestId !== undefined) lines.push(`x-request-id: ${requestId}`)
  socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`)
}

/** Whether the socket is answering a request: what was sent behind it must not bring a second answer into the first. */
function isAnswering(socket: Duplex): boolean {
  return '_httpMessage' in socket && socket._httpMessage !== null && socket._httpMessage !== undefined
}

function onClientError(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (error.code === 'ECONNRESET' || isAnswering(socket)) socket.destroy()
  else refuseOnSocket(socket, refusalFor(error.code))
}

export function createListener({ tls, onRequest, onUpgrade }: ListenerOptions): Listener {
  const options: ServerOptions & { readonly shouldUpgradeCallback: (request: IncomingMessage) => boolean } = {
    // Node 24.9 and newer ask before they let go of the socket; older ones do not know the option (see upgrade-socket.ts).
    shouldUpgradeCallback: isWebSocket,
    maxHeaderSize: MAX_HEAD_BYTES,
    headersTimeout: HEAD_MS,
    // The body has limits of its own (forward/body.ts), which can answer with an error that says so.
    requestTimeout: 0,
    keepAliveTimeout: KEEP_ALIVE_MS,
    connectionsCheckingInterval: CHECK_MS,
    highWaterMark: READ_BYTES,
    noDelay: true,
    keepAlive: true,
    // Checked by ourselves, with an answer in the API's form.
    requireHostHeader: false,
    insecureHTTPParser: false,
  }
  const server =
    tls === undefined
      ? http.createServer(options)
      : https.createServer({ ...options, cert: tls.cert, key: tls.key, minVersion: 'TLSv1.2' })
  server.timeout = 0
  server.on('request', onRequest)
  // The handlers write the 100 themselves, when they want the body.
  server.on('checkContinue', onRequest)
  server.on('checkExpectation', (_request: IncomingMessage, response: ServerResponse) => {
    const { headers, body } = refusalParts({
      status: 417,
      code: 'expectation_failed',
      message: 'Only "Expect: 100-continue" is known here.',
      close: true,
    })
    response.writeHead(417, [...headers]).end(body)
  })
  server.on('clientError', onClientError)
  server.on('connect', (_request: IncomingMessage, socket: Duplex) => {
    refuseOnSocket(socket, {
      status: 405,
      code: 'method_not_allowed',
      message: 'This is no forward proxy.',
      headers: ['allow', 'GET, POST, DELETE'],
    })
  })
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // Node has taken its listeners off; an error that nobody hears would end the process.
    socket.on('error', () => undefined)
    // No client pipelines a handshake behind a request that is still being answered.
    if (isAnswering(socket)) socket.destroy()
    else if (isWebSocket(request)) onUpgrade(request, socket, head)
    else serveWithoutUpgrade(server, request, socket, head)
  })

  return {
    server,
    listen(port, host) {
      return new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen({ port, ...(host === undefined ? {} : { host }) }, () => {
          server.off('error', reject)
          const address = server.address()
          resolve({ port: typeof address === 'object' && address !== null ? address.port : port })
        })
      })
    },
    setTls(files) {
      if (server instanceof https.Server) server.setSecureContext({ ...files, minVersion: 'TLSv1.2' })
    },
    close() {
      return new Promise(resolve => {
        server.close(() => resolve())
        server.closeIdleConnections()
      })
    },
  }
}
