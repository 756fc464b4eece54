// The pool: two keep-alive agents of Node's kind, one for http and one for https, that make, keep, age and count the
// connections to backends. Our own client takes connections from them directly; `https.request({ agent, endpoint })`
// works over the very same connections, which is how the differential test compares both clients.
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import type { Endpoint } from '../config/types.ts'
import { createDenseSet, NO_SLOT, type Slotted } from '../dense-set.ts'
import { Dial, type DialDeps, type DialEvents, type DialOptions, type SocketFactory } from './dial.ts'
import { ConnectionKeeper, type Host, type KeptConnection } from './keeper.ts'
import { keptForMs } from './response-head.ts'

/** A connection being made, counted as one. */
export interface Connecting {
  cancel(): void
}

/** What both agents do. */
export interface ConnectionAgent {
  readonly keeper: ConnectionKeeper
  /** Makes a connection. `session` and the keeping of it are the agent's business. */
  connect(endpoint: Endpoint, options: Omit<DialOptions, 'session'>, events: DialEvents): Connecting
  counts(): { readonly busy: number; readonly free: number }
  destroy(): void
}

/** What `http.request` hands to an agent, with what it needs of ours. */
interface NodeRequestOptions {
  readonly endpoint?: Endpoint
  readonly fresh?: boolean
  readonly connectMs?: number
}

/** For `https.request` over these agents, where its caller names none. */
const CONNECT_MS = 5_000

class Makings {
  private readonly keeper: ConnectionKeeper
  private readonly deps: DialDeps
  private readonly dialing = createDenseSet<Slotted & Connecting>()

  constructor(keeper: ConnectionKeeper, deps: DialDeps) {
    this.keeper = keeper
    this.deps = deps
  }

  connect(endpoint: Endpoint, options: Omit<DialOptions, 'session'>, events: DialEvents): Connecting {
    const { dialing, keeper } = this
    const host = keeper.hostOf(endpoint)
    const over = (): void => dialing.remove(entry)
    const dial = new Dial(
      endpoint,
      { ...options, session: host.session },
      {
        connecting: events.connecting,
        reached: () => events.reached?.(),
        connected(socket, readsThere) {
          over()
          if (endpoint.protocol === 'https:') keepSession(socket, host)
          events.connected(socket, readsThere)
        },
        failed(error) {
          over()
          if (error.phase === 'tls') host.session = undefined
          events.failed(error)
        },
      },
      this.deps,
    )
    const entry = {
      slot: NO_SLOT,
      cancel() {
        dial.cancel()
        over()
      },
    }
    dialing.add(entry)
    dial.start()
    return entry
  }

  counts(): { readonly busy: number; readonly free: number } {
    const { busy, free } = this.keeper.counts()
    return { busy: busy + this.dialing.size(), free }
  }

  close(): void {
    this.dialing.visit(entry => entry.cancel())
    this.keeper.close()
  }
}

function keepSession(socket: net.Socket, host: Host): void {
  socket.on('session', (session: Buffer) => {
    host.session = session
  })
  socket.once('error', () => {
    host.session = undefined
  })
}

/** Gives a request of Node's own client a connection of ours, and takes it back after the response. */
function serveNodeRequest(
  agent: ConnectionAgent,
  request: http.ClientRequest,
  { endpoint, fresh = false, connectMs = CONNECT_MS }: NodeRequestOptions,
): void {
  if (endpoint === undefined) throw new TypeError('a request over these agents names its endpoint')
  const { keeper } = agent
  const host = keeper.hostOf(endpoint)
  let forMs = Number.POSITIVE_INFINITY
  request.once('response', ({ headers }) => {
    forMs = keptForMs(headers['keep-alive']?.toString())
  })
  const give = (connection: KeptConnection): void => {
    const { socket } = connection
    const onFree = (): void => {
      socket.off('free', onFree)
      keeper.rest(host, connection, forMs)
    }
    // Node's client says so of a socket whose response is whole and whose far side keeps it.
    socket.on('free', onFree)
    request.onSocket(socket)
  }
  const kept = fresh ? undefined : keeper.take(host)
  if (kept !== undefined) {
    request.reusedSocket = true
    give(kept)
    return
  }
  const connecting = agent.connect(
    endpoint,
    { connectMs, tunnelled: false, onread: undefined },
    {
      connecting: () => undefined,
      connected(socket) {
        const connection: KeptConnection = { socket, slot: NO_SLOT, bornMs: 0, restsUntilMs: 0 }
        keeper.add(connection)
        const gone = (): void => keeper.gone(host, connection)
        // Node's client says `agentRemove` of a socket that a 101 has made something else.
        socket
          .on('error', () => undefined)
          .on('close', gone)
          .on('agentRemove', gone)
        give(connection)
      },
      failed(error) {
        request.destroy(error)
        // Node's client says the error once it is given its socket, and the socket may be none (`net.Socket | null`).
        Reflect.apply(request.onSocket, request, [null])
      },
    },
  )
  request.once('close', () => connecting.cancel())
}

/** How the agents are made. `makeSocket` is what a simulation puts in place of Node's own sockets. */
export interface AgentOptions {
  readonly keeper: ConnectionKeeper
  readonly deps: Omit<DialDeps, 'makeSocket'>
  readonly pair: () => AgentPair
  readonly makeSocket: SocketFactory | undefined
}

function socketsOf(pair: () => AgentPair): SocketFactory {
  return (protocol, options) => {
    const socket = pair()[protocol].createConnection(options)
    if (!(socket instanceof net.Socket)) throw new Error('an agent made no socket')
    return socket
  }
}

/** One of Node's agents with the connections of ours: what `http.Agent` and `https.Agent` have in common. */
function keepAliveOver(NodeAgent: new (options: http.AgentOptions) => http.Agent) {
  return class extends NodeAgent implements ConnectionAgent {
    readonly keeper: ConnectionKeeper
    private readonly makings: Makings

    constructor({ keeper, deps, pair, makeSocket }: AgentOptions) {
      super({ keepAlive: true })
      this.keeper = keeper
      this.makings = new Makings(keeper, { ...deps, makeSocket: makeSocket ?? socketsOf(pair) })
    }

    connect(endpoint: Endpoint, options: Omit<DialOptions, 'session'>, events: DialEvents): Connecting {
      return this.makings.connect(endpoint, options, events)
    }

    counts(): { readonly busy: number; readonly free: number } {
      return this.makings.counts()
    }

    /** Node's own client calls this on an agent (not documented, and what every agent in the field overrides). */
    addRequest(request: http.ClientRequest, options: NodeRequestOptions): void {
      serveNodeRequest(this, request, options)
    }

    override destroy(): void {
      this.makings.close()
      super.destroy()
    }
  }
}

/** Connections to `http:` endpoints, and to proxies that speak plain http. */
export class KeepAliveHttpAgent extends keepAliveOver(http.Agent) {}

/** Connections to `https:` endpoints, straight or through a proxy's tunnel. */
export class KeepAliveHttpsAgent extends keepAliveOver(https.Agent) {}

export interface AgentPair {
  readonly 'http:': KeepAliveHttpAgent
  readonly 'https:': KeepAliveHttpsAgent
}

/** The two agents of a process. @param keeperOf a keeper of its own for each */
export function createAgents(
  deps: Omit<DialDeps, 'makeSocket'>,
  maxAgeMs: () => number,
  makeSocket?: SocketFactory,
): AgentPair {
  const made = (): AgentPair => pair
  const options = (): AgentOptions => ({
    keeper: new ConnectionKeeper(deps.clock, maxAgeMs),
    deps,
    pair: made,
    makeSocket,
  })
  const pair: AgentPair = { 'http:': new KeepAliveHttpAgent(options()), 'https:': new KeepAliveHttpsAgent(options()) }
  return pair
}
