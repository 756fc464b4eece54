// Connections to the backends, kept alive and used again: made by node:https's and node:http's agents, a pool for each host,
// shared by all attempts. It knows no Azure.
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import type { Clock, Timer } from '../clock.ts'
import type { Endpoint } from '../config/types.ts'
import { createDenseSet } from '../dense-set.ts'
import { Connection, type ConnectionOwner, type ResponseHandler, type Sent } from './connection.ts'
import { createLowerCaseNames } from './header-names.ts'

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
}

export interface Transport {
  /**
   * Sends a request with its body, already in pieces.
   * @throws when something in it cannot stand in a request's head: a mistake of the program, not of a client
   */
  send(request: WireRequest, body: readonly Buffer[], options: SendOptions, handler: ResponseHandler): Sent
  /** Connections in use and resting, for leak checks and the status page. */
  sockets(): { readonly busy: number; readonly free: number }
  close(): void
}

/** Below the 4 minutes after which Azure's load balancers drop silent flows without a word (wire reference, section 9). */
const TCP_KEEPALIVE_MS = 30_000
/** A resting connection is closed before the far side is likely to have closed it. */
const REST_MS = 55_000
/** A far side that names its own time is left a second earlier: a request may be under way to it by then. */
const HINT_MARGIN_MS = 1_000
/** Connections kept for reuse per backend host: a burst's worth; above that they close after their answer. */
const MAX_RESTING = 256
/** Read at once from a backend's socket; libuv reads no more. */
const READ_BYTES = 64 * 1024
/** How often connections that have rested too long are looked for. */
const SWEEP_MS = 5_000

const BAD_VALUE = /[^\t\x20-\x7e\x80-\xff]/
const BAD_PATH = /[^\x21-\x7e\x80-\xff]/

function headOf({ method, path, headers }: WireRequest, ownConnection: boolean): string {
  if (BAD_PATH.test(path)) throw new Error('a request path holds a character that cannot stand there')
  let head = `${method} ${path} HTTP/1.1\r\n`
  for (let i = 0; i < headers.length; i += 2) {
    const value = headers[i + 1] ?? ''
    if (BAD_VALUE.test(value)) throw new Error(`the header ${headers[i]} holds a character that cannot stand there`)
    head += `${headers[i]}: ${value}\r\n`
  }
  return ownConnection ? `${head}\r\n` : `${head}connection: keep-alive\r\n\r\n`
}

/** The connections to one host. */
interface HostPool {
  /** The most recently used last: it is the least likely to have been dropped meanwhile. */
  readonly resting: Connection[]
  readonly owner: ConnectionOwner
  /** Of the last TLS connection, so that the next one needs no full handshake (RFC 8446 section 2.2). */
  session: Buffer | undefined
}

/**
 * Makes a socket that is on its way to a host. It emits `connect`, over TLS `secureConnect`, once it stands, and hands what it
 * reads to `options.onread` where that is given.
 */
export type SocketFactory = (protocol: Endpoint['protocol'], options: net.NetConnectOpts) => net.Socket

/** Sockets of node's agents, which know TLS, its sessions and the choice among a name's addresses. */
export function createAgentSockets(): SocketFactory {
  const agents = { 'http:': new http.Agent(), 'https:': new https.Agent() }
  return (protocol, options) => {
    const socket = agents[protocol].createConnection(options)
    if (!(socket instanceof net.Socket)) throw new Error('an agent made no socket')
    return socket
  }
}

/** @param makeSocket the way to the network; a simulation passes its own */
export function createTransport(clock: Clock, makeSocket: SocketFactory = createAgentSockets()): Transport {
  // Keeping connections is done here: to take one from an agent and give it back costs 8 to 10 µs a request, for a pool's
  // name that is made of a dozen options each time.
  const lowerCase = createLowerCaseNames()
  // One for all: it is read out before the next read. A buffer made for each read, 64 KB cut down to what came, and its way
  // through a stream cost 4 µs an event of an open stream.
  const readBuffer = Buffer.allocUnsafeSlow(READ_BYTES)
  const all = createDenseSet<Connection>()
  /** By endpoint: as many as the configs of this process's life have named. */
  const pools = new Map<string, HostPool>()
  let resting = 0
  let sweeping: Timer | undefined
  let closing = false

  const sweep = (): void => {
    const nowMs = clock.nowMs()
    for (const pool of pools.values()) {
      // It leaves the list once it has closed.
      for (const connection of pool.resting) if (connection.restsUntilMs <= nowMs) connection.socket.destroy()
    }
    if (resting > 0) return
    sweeping?.cancel()
    sweeping = undefined
  }

  const ownerOf = (list: Connection[]): ConnectionOwner => ({
    rests(connection, forMs) {
      const restMs = Math.min(REST_MS, forMs - HINT_MARGIN_MS)
      if (closing || restMs <= 0 || list.length >= MAX_RESTING) {
        connection.socket.destroy()
        return
      }
      connection.restsUntilMs = clock.nowMs() + restMs
      list.push(connection)
      resting++
      sweeping ??= clock.every(SWEEP_MS, sweep)
    },
    gone(connection) {
      all.remove(connection)
      const at = list.lastIndexOf(connection)
      if (at === -1) return
      list.splice(at, 1)
      resting--
    },
  })

  const poolOf = ({ url }: Endpoint): HostPool => {
    const found = pools.get(url)
    if (found !== undefined) return found
    const list: Connection[] = []
    const made: HostPool = { resting: list, owner: ownerOf(list), session: undefined }
    pools.set(url, made)
    return made
  }

  const rested = (pool: HostPool): Connection | undefined => {
    if (pool.resting.length === 0) return undefined
    const nowMs = clock.nowMs()
    for (let last = pool.resting.pop(); last !== undefined; last = pool.resting.pop()) {
      resting--
      // The sweep is too coarse for a far side that keeps connections for seconds.
      if (last.restsUntilMs <= nowMs) last.socket.destroy()
      else if (!last.socket.destroyed) return last
    }
    return undefined
  }

  const connect = ({ protocol, hostname, port }: Endpoint, pool: HostPool, maySwitch: boolean): Connection => {
    const isTls = protocol === 'https:'
    const onread = {
      buffer: readBuffer,
      callback(bytes: number): boolean {
        connection.onBytes(readBuffer.subarray(0, bytes))
        return true
      },
    }
    const options = {
      host: hostname,
      port,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: TCP_KEEPALIVE_MS,
      // An address is no name to ask a certificate for (RFC 6066 section 3).
      ...(isTls ? { servername: net.isIP(hostname) === 0 ? hostname : '', ALPNProtocols: ['http/1.1'] } : {}),
      ...(pool.session === undefined ? {} : { session: pool.session }),
      // What is handed over after a switch of protocols must be a stream like any other.
      ...(maySwitch ? {} : { onread }),
    }
    const socket = makeSocket(protocol, options)
    const connection = new Connection(socket, isTls ? 'secureConnect' : 'connect', pool.owner, lowerCase)
    if (maySwitch) socket.on('data', connection.onBytes)
    if (isTls) {
      socket.on('session', (session: Buffer) => {
        pool.session = session
      })
      socket.once('error', () => {
        pool.session = undefined
      })
    }
    return connection
  }

  return {
    send(wire, body, { fresh, maySwitch = false }, handler) {
      const head = headOf(wire, maySwitch)
      const pool = poolOf(wire.endpoint)
      const waiting = fresh ? undefined : rested(pool)
      const connection = waiting ?? connect(wire.endpoint, pool, maySwitch)
      if (waiting === undefined) all.add(connection)
      return connection.send({ head, body, bodiless: wire.method === 'HEAD', maySwitch }, handler)
    },
    sockets: () => ({ busy: all.size() - resting, free: resting }),
    close() {
      closing = true
      sweeping?.cancel()
      all.visit(({ socket }) => socket.destroy())
    },
  }
}
