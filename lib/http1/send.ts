// The one entrance to this folder: `send` puts a request on a connection of the agents and brings its response to a
// handler. Why there is a client of our own, and what it must hold: README.md beside this file.

import type { OnReadOpts, Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import type { Clock } from '../clock.ts'
import type { EgressProxy, Endpoint } from '../config/types.ts'
import { type AgentPair, type ConnectionAgent, createAgents } from './agents.ts'
import { Connection, type ConnectionOwner, type RequestBytes, type ResponseHandler, type Sent } from './connection.ts'
import type { SocketFactory } from './dial.ts'
import { createEgressWatch, type EgressChange, type EgressWatch, refusalOf, refusesPlainly } from './egress.ts'
import { createLowerCaseNames, type LowerCaseNames } from './header-names.ts'
import type { Host } from './keeper.ts'
import { type Look, look } from './look.ts'
import { createResolver, type Lookup } from './resolver.ts'
import { createTrust } from './trust.ts'
import { TurnReads } from './turn-reads.ts'

export { ConnectError } from './connect-error.ts'
export { ProtocolError, type ResponseHandler, type Sent } from './connection.ts'
export type { SocketFactory } from './dial.ts'
export type { EgressChange } from './egress.ts'
export { NameMemory } from './header-names.ts'
export type { Look } from './look.ts'
export { lookupPlaces } from './resolver.ts'
export type { BodySink, ResponseBody } from './response-body.ts'
export type { ResponseHead } from './response-head.ts'
export { readByTurn } from './turn-reads.ts'

/** What goes on the wire; `headers` is a flat list and complete but for Connection. */
export interface WireRequest {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: string
  readonly headers: readonly string[]
}

export interface SendOptions {
  /** On a connection of its own instead of one that rests. */
  readonly fresh: boolean
  /** It asks for another protocol; its headers say so themselves. */
  readonly maySwitch?: boolean
  /** The connection is closed after the response. */
  readonly closes?: boolean
  /** For making a connection, once the address is known; for the resolver as long again. */
  readonly connectMs?: number
}

export interface Transport {
  /**
   * Sends a request with its body, already in pieces.
   * @throws when something in it cannot stand in a request's head: a mistake of the program, not of a client
   */
  send(request: WireRequest, body: readonly Buffer[], options: SendOptions, handler: ResponseHandler): Sent
  /** Connections in use and resting, for leak checks and the status page. */
  sockets(): { readonly busy: number; readonly free: number }
  /**
   * Uses no connection to an endpoint again that is there now: it went out, and its name may mean another address by
   * now.
   */
  retire(endpoint: Endpoint): void
  /** Whether the proxy on the way to an endpoint has failed a moment ago for all that lies behind it. */
  isCutOff(endpoint: Endpoint): boolean
  /** Makes a connection to an endpoint as a request would, and closes it. */
  look(endpoint: Endpoint, connectMs: number): Promise<Look>
  close(): void
}

export interface TransportOptions {
  /** Kept connections older than this are not used again; asked each time. Left out: they may grow old. */
  readonly maxAgeMs?: () => number
  /** Makes the sockets; left out: Node's agents. */
  readonly makeSocket?: SocketFactory | undefined
  /** Resolves names; left out: the system, or nothing at all where the sockets are made elsewhere. */
  readonly lookup?: Lookup | undefined
  /** Lookups that the system admits at once (`lookupPlaces`). */
  readonly lookupPlaces?: number | undefined
  /** Said once when a proxy fails for all that lies behind it, and once when it works again. */
  readonly onEgress?: ((change: EgressChange) => void) | undefined
  /** How long what lies behind a failing proxy is avoided after each failure; left out: until the proxy works. */
  readonly avoidMs?: (() => number) | undefined
  /** Sees every new connection to an endpoint, TLS included: for what its certificate says. */
  readonly onConnected?: ((endpoint: Endpoint, socket: Socket) => void) | undefined
}

/** Where nobody says how long connecting may take. */
const CONNECT_MS = 5_000
/** Read at once from a backend's socket; libuv reads no more. */
const READ_BYTES = 64 * 1024

const BAD_VALUE = /[^\t\x20-\x7e\x80-\xff]/
const BAD_PATH = /[^\x21-\x7e\x80-\xff]/

/**
 * @param connection undefined: the headers say so themselves
 * @param plainly the proxy is asked itself: the target is a whole URL (RFC 9112 section 3.2.2)
 */
function headOf(
  { endpoint, method, path, headers }: WireRequest,
  connection: 'close' | 'keep-alive' | undefined,
  plainly: boolean,
): string {
  if (BAD_PATH.test(path)) throw new Error('a request path holds a character that cannot stand there')
  let head = `${method} ${plainly ? `http://${endpoint.host}` : ''}${path} HTTP/1.1\r\n`
  for (let i = 0; i < headers.length; i += 2) {
    const value = headers[i + 1] ?? ''
    if (BAD_VALUE.test(value)) throw new Error(`the header ${headers[i]} holds a character that cannot stand there`)
    head += `${headers[i]}: ${value}\r\n`
  }
  const proof = plainly ? endpoint.route?.proxy?.authorization : undefined
  if (proof !== undefined) head += `proxy-authorization: ${proof.reveal()}\r\n`
  return connection === undefined ? `${head}\r\n` : `${head}connection: ${connection}\r\n\r\n`
}

/**
 * Where a socket's bytes go. It lives as long as the socket, and so does what its callback can reach: nothing of a
 * request.
 */
interface Reader {
  connection: Connection | undefined
}

function onreadFor(reader: Reader, buffer: Buffer): OnReadOpts {
  return {
    buffer,
    callback(length) {
      reader.connection?.onRead(buffer.subarray(0, length))
      return true
    },
  }
}

const NOTHING = (): void => undefined

const NO_LOOKUP: Lookup = (hostname, done) => done(null, [hostname])

/** Gives the agent's side of a connection to a host, made once per host. */
function createOwners(): (agent: ConnectionAgent, host: Host) => ConnectionOwner {
  const owners = new WeakMap<Host, ConnectionOwner>()
  return ({ keeper }, host) => {
    const found = owners.get(host)
    if (found !== undefined) return found
    const made: ConnectionOwner = {
      rests: (connection, forMs) => keeper.rest(host, connection, forMs),
      gone: connection => keeper.gone(host, connection),
    }
    owners.set(host, made)
    return made
  }
}

/** What new connections need of their transport. */
interface ConnectionDeps {
  readonly agents: AgentPair
  readonly ownerOf: (agent: ConnectionAgent, host: Host) => ConnectionOwner
  readonly onConnected: (endpoint: Endpoint, socket: Socket) => void
  readonly names: LowerCaseNames
  /** For the bytes of every socket: each callback reads them out before the next read. */
  readonly readBuffer: Buffer
  readonly turns: TurnReads
}

/** Makes a connection and sends the request on it; until then the request waits here. */
function sendFresh(
  { agents, ownerOf, onConnected, names, readBuffer, turns }: ConnectionDeps,
  endpoint: Endpoint,
  bytes: RequestBytes,
  connectMs: number,
  handler: ResponseHandler,
): Sent {
  const agent = agents[endpoint.protocol]
  const { keeper } = agent
  const host = keeper.hostOf(endpoint)
  const reader: Reader = { connection: undefined }
  let waiting: { readonly bytes: RequestBytes; readonly handler: ResponseHandler } | undefined = { bytes, handler }
  let sent: Sent | undefined
  // What is handed over after a switch of protocols must be a stream like any other.
  const how = {
    connectMs,
    tunnelled: bytes.maySwitch,
    onread: bytes.maySwitch ? undefined : onreadFor(reader, readBuffer),
  }
  const connecting = agent.connect(endpoint, how, {
    connecting: () => waiting?.handler.connecting?.(),
    connected(socket, readsThere) {
      // Other sockets bring all of a read at once.
      const joins = socket instanceof TLSSocket ? turns : undefined
      const connection = new Connection(socket, ownerOf(agent, host), names, joins)
      reader.connection = connection
      keeper.add(connection)
      onConnected(endpoint, socket)
      // A tunnel was paused when its proxy had answered.
      if (!readsThere) socket.on('data', connection.onRead).resume()
      const request = waiting
      waiting = undefined
      if (request === undefined) {
        connection.abandon()
        return
      }
      request.handler.connected()
      sent = connection.send(request.bytes, request.handler)
    },
    failed(error) {
      const request = waiting
      waiting = undefined
      request?.handler.failed(error, false)
    },
  })
  return {
    connecting: true,
    destroy() {
      waiting = undefined
      connecting.cancel()
      sent?.destroy()
      sent = undefined
    },
  }
}

/** A proxy that is asked itself answers in the backend's place when it refuses: those responses are no backend's. */
function throughProxy(
  egress: EgressWatch,
  proxy: EgressProxy,
  endpoint: Endpoint,
  beganMs: number,
  handler: ResponseHandler,
): ResponseHandler {
  return {
    connecting: () => handler.connecting?.(),
    connected: () => handler.connected(),
    switched: (head, socket, rest) => handler.switched(head, socket, rest),
    failed: (error, stale) => handler.failed(error, stale),
    head(head, responseBody) {
      if (!refusesPlainly(head)) {
        egress.answered(proxy)
        handler.head(head, responseBody)
        return
      }
      responseBody.destroy()
      const error = refusalOf(proxy, head.status, `a request to ${endpoint.host}`)
      if (error.scope === 'host') egress.answered(proxy)
      handler.failed(egress.failed(proxy, error, beganMs), false)
    },
  }
}

const FOR_EVER = (): number => Number.POSITIVE_INFINITY

export function createTransport(clock: Clock, options: TransportOptions = {}): Transport {
  const { maxAgeMs = FOR_EVER, avoidMs = FOR_EVER, makeSocket, onEgress = NOTHING, onConnected = NOTHING } = options
  const names = createLowerCaseNames()
  const lookup = options.lookup ?? (makeSocket === undefined ? undefined : NO_LOOKUP)
  const egress = createEgressWatch(clock, onEgress, avoidMs)
  const agents: AgentPair = createAgents(
    { clock, resolver: createResolver(clock, lookup, options.lookupPlaces), trust: createTrust(), egress, names },
    maxAgeMs,
    makeSocket,
  )
  // One buffer for all. A buffer for each read (64 KB, cut to size) and its way through a stream cost 4 µs an event.
  const readBuffer = Buffer.allocUnsafeSlow(READ_BYTES)
  const deps: ConnectionDeps = {
    agents,
    ownerOf: createOwners(),
    onConnected,
    names,
    readBuffer,
    turns: new TurnReads(),
  }

  return {
    send(wire, body, { fresh, maySwitch = false, closes = false, connectMs = CONNECT_MS }, handler) {
      const { endpoint } = wire
      const proxy = endpoint.route?.proxy
      const plainly = proxy !== undefined && endpoint.protocol === 'http:' && !maySwitch
      const connection = maySwitch ? undefined : closes ? 'close' : 'keep-alive'
      const bodiless = wire.method === 'HEAD'
      const bytes = { head: headOf(wire, connection, plainly), body, bodiless, maySwitch, closes }
      const answered = plainly ? throughProxy(egress, proxy, endpoint, clock.nowMs(), handler) : handler
      const { keeper } = agents[endpoint.protocol]
      const kept = fresh ? undefined : keeper.take(keeper.hostOf(endpoint))
      if (kept instanceof Connection) return kept.send(bytes, answered)
      return sendFresh(deps, endpoint, bytes, connectMs, answered)
    },
    sockets() {
      const [one, other] = [agents['http:'].counts(), agents['https:'].counts()]
      return { busy: one.busy + other.busy, free: one.free + other.free }
    },
    retire: endpoint => agents[endpoint.protocol].keeper.retire(endpoint),
    isCutOff: ({ route }) => route?.proxy !== undefined && egress.isFailing(route.proxy),
    look: (endpoint, connectMs) => look(agents, endpoint, connectMs, clock),
    close() {
      agents['http:'].destroy()
      agents['https:'].destroy()
    },
  }
}
