// The node:http(s) server and its limits, and what is answered to bytes that never become a request.
import http, { type IncomingMessage, type ServerOptions, type ServerResponse, STATUS_CODES } from 'node:http'
import https from 'node:https'
import type { Duplex } from 'node:stream'
import { type Refusal, refusalParts } from '../errors.ts'
import { createRequestClass } from './client-request.ts'
import { createResponseClass } from './client-response.ts'
import { afterResponses, currentResponse, hasWaiting } from './pipelining.ts'
import { isWebSocket, serveWithoutUpgrade } from './upgrade-socket.ts'

/** Headers of one request, in bytes: room for a long token beside the rest. */
const MAX_HEAD_BYTES = 32 * 1024
/** A request's head must have come by then; slow senders hold a socket, not more. */
const HEAD_MS = 20_000
/**
 * Above the idle times of all usual clients and of cloud load balancers (60 s), so that it is they who close
 * (azure/README.md 11.2).
 */
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
  /** The framing of a body broke before its request was answered. @returns false: it cannot be answered any more */
  readonly onBroken: (response: ServerResponse, refusal: Refusal) => boolean
  /** Connections at once; further ones are closed. undefined: no limit. */
  readonly maxConnections: number | undefined
  /** A connection was closed for that limit. */
  readonly onDropped: () => void
}

export interface Listener {
  readonly server: http.Server | https.Server
  /** @throws (rejects) with the system's error, EADDRINUSE for one */
  listen(port: number, host: string | undefined): Promise<{ readonly port: number }>
  setMaxConnections(max: number | undefined): void
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

/** Answers what is no HTTP: behind all that came before it, and where a response has begun by cutting it. */
function createClientErrors(onBroken: ListenerOptions['onBroken']) {
  const broken = new WeakSet<Duplex>()

  const refuseBehindOthers = (socket: Duplex, refusal: Refusal): void => {
    const current = currentResponse(socket)
    if (current === undefined) {
      if (!socket.writableEnded) refuseOnSocket(socket, refusal)
    } else if (current.req.complete) current.once('close', () => refuseBehindOthers(socket, refusal))
    else if (!onBroken(current, refusal)) socket.destroy()
  }

  return (error: NodeJS.ErrnoException, socket: Duplex): void => {
    const { code } = error
    // The client has left, in the middle of its body perhaps.
    if (code === 'ECONNRESET' || code === 'EPIPE' || code === 'HPE_INVALID_EOF_STATE') {
      socket.destroy()
      return
    }
    // A head that is late because it is not read.
    if (code === 'ERR_HTTP_REQUEST_TIMEOUT' && hasWaiting(socket)) return
    // Node reports each further piece of what it cannot read.
    if (broken.has(socket)) return
    broken.add(socket)
    refuseBehindOthers(socket, refusalFor(code))
  }
}

/** Hears errors of sockets that Node has let go of: one that nobody hears would end the process. */
function createErrorEar() {
  const heard = new WeakSet<Duplex>()
  return (socket: Duplex): void => {
    // Once a socket: a client may ask for another protocol with each of its requests.
    if (heard.has(socket)) return
    heard.add(socket)
    socket.on('error', () => undefined)
  }
}

const OPTIONS: ServerOptions & { readonly shouldUpgradeCallback: (request: IncomingMessage) => boolean } = {
  // Node 24.9 and newer ask before they let go of the socket; older ones do not know the option (see
  // upgrade-socket.ts).
  shouldUpgradeCallback: isWebSocket,
  maxHeaderSize: MAX_HEAD_BYTES,
  headersTimeout: HEAD_MS,
  // The body has limits of its own (body/take.ts), which can answer with an error that says so.
  requestTimeout: 0,
  keepAliveTimeout: KEEP_ALIVE_MS,
  connectionsCheckingInterval: CHECK_MS,
  highWaterMark: READ_BYTES,
  noDelay: true,
  keepAlive: true,
  // Checked by ourselves, with a response in the API's form.
  requireHostHeader: false,
  insecureHTTPParser: false,
}

function refuseExpectation(_request: IncomingMessage, response: ServerResponse): void {
  const { headers, body } = refusalParts({
    status: 417,
    code: 'expectation_failed',
    message: 'Only "Expect: 100-continue" is known here.',
    close: true,
  })
  response.writeHead(417, [...headers]).end(body)
}

const NO_FORWARD_PROXY: Refusal = {
  status: 405,
  code: 'method_not_allowed',
  message: 'This is no forward proxy.',
  headers: ['allow', 'GET, POST, DELETE'],
}

export function createListener(given: ListenerOptions): Listener {
  const { tls, onRequest, onUpgrade, onBroken, maxConnections, onDropped } = given
  const response = createResponseClass()
  const classes = { IncomingMessage: createRequestClass(), ...(response && { ServerResponse: response }) }
  const options = { ...OPTIONS, ...classes }
  const server =
    tls === undefined
      ? http.createServer(options)
      : https.createServer({ ...options, cert: tls.cert, key: tls.key, minVersion: 'TLSv1.2' })
  server.timeout = 0
  // Keep them all, up to MAX_HEAD_BYTES: what Node cuts off beyond a number might be the Content-Length. Counted in
  // request-head.ts.
  server.maxHeadersCount = 0
  const setMaxConnections = (max: number | undefined): void => {
    // Node's own "none" is 0 to some versions and undefined to its types.
    server.maxConnections = max ?? Number.MAX_SAFE_INTEGER
  }
  setMaxConnections(maxConnections)
  server.on('drop', onDropped)
  const hearErrors = createErrorEar()
  server.on('request', onRequest)
  // The handlers write the 100 themselves, when they want the body.
  server.on('checkContinue', onRequest)
  server.on('checkExpectation', refuseExpectation)
  server.on('clientError', createClientErrors(onBroken))
  server.on('connect', (_request: IncomingMessage, socket: Duplex) => {
    hearErrors(socket)
    afterResponses(socket, () => refuseOnSocket(socket, NO_FORWARD_PROXY))
  })
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    hearErrors(socket)
    afterResponses(socket, () => {
      // The response before it may have been the connection's last.
      if (!socket.writable) socket.destroy()
      else if (isWebSocket(request)) onUpgrade(request, socket, head)
      else serveWithoutUpgrade(server, request, socket, head)
    })
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
    setMaxConnections,
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
