// The connections of one agent: which are idle and may be reused, how long they may idle, how old they may get, their
// number. It knows neither requests nor how a connection is made.
import type { Socket } from 'node:net'
import type { Clock, Timer } from '../clock.ts'
import type { Endpoint } from '../config/types.ts'
import { createDenseSet, type Slotted } from '../dense-set.ts'

/** A connection that can be kept. */
export interface KeptConnection extends Slotted {
  readonly socket: Socket
  /** Monotonic, in ms. */
  bornMs: number
  restsUntilMs: number
}

/** The connections to one endpoint by one route. */
export interface Host {
  /** The most recently used last: it is the least likely to have been dropped meanwhile. */
  readonly resting: KeptConnection[]
  /** Of the last TLS connection, so that the next one needs no full handshake (RFC 8446 section 2.2). */
  session: Buffer | undefined
  /** Connections made before this are not used again. */
  retiredMs: number
}

/** Below the idle times of Azure's load balancers and gateways; a far side that names its own time goes before. */
const REST_MS = 55_000
/** A far side that names its own time is left a second earlier: a request may be on its way by then. */
const HINT_MARGIN_MS = 1_000
/** Connections kept for reuse per endpoint: a burst's worth; above that they close after their response. */
const MAX_RESTING = 256
/** Endpoints remembered with their routes: of a process's life, in which reloads bring new names and certificates. */
const MAX_HOSTS = 1_000
/** How often connections that have rested too long are looked for. */
const SWEEP_MS = 5_000

/** What equal connections have in common. */
export function hostKey({ url, route }: Endpoint): string {
  return route === undefined ? url : `${url} ${route.id}`
}

/** A class: the state behind both agents. */
export class ConnectionKeeper {
  private readonly clock: Clock
  private readonly maxAgeMs: () => number
  private readonly all = createDenseSet<KeptConnection>()
  /** By hostKey. */
  private readonly hosts = new Map<string, Host>()
  private resting = 0
  private sweeping: Timer | undefined
  private closing = false

  /** @param maxAgeMs asked each time: a reload may change it */
  constructor(clock: Clock, maxAgeMs: () => number) {
    this.clock = clock
    this.maxAgeMs = maxAgeMs
  }

  hostOf(endpoint: Endpoint): Host {
    const key = hostKey(endpoint)
    const found = this.hosts.get(key)
    if (found !== undefined) return found
    if (this.hosts.size >= MAX_HOSTS) this.forgetIdle()
    const made: Host = { resting: [], session: undefined, retiredMs: Number.NEGATIVE_INFINITY }
    this.hosts.set(key, made)
    return made
  }

  /** Forgets endpoints to which nothing rests; what is in use to one of them ends with its response. */
  private forgetIdle(): void {
    for (const [key, host] of this.hosts) {
      if (host.resting.length > 0) continue
      host.retiredMs = Number.POSITIVE_INFINITY
      this.hosts.delete(key)
    }
  }

  /** A connection that rests and is neither too old nor too long unused; it is the caller's then. */
  take({ resting, retiredMs }: Host): KeptConnection | undefined {
    if (resting.length === 0) return undefined
    const nowMs = this.clock.nowMs()
    const bornAfterMs = Math.max(nowMs - this.maxAgeMs(), retiredMs)
    for (let last = resting.pop(); last !== undefined; last = resting.pop()) {
      this.resting--
      // The sweep is too coarse for a far side that keeps connections for seconds.
      if (last.restsUntilMs <= nowMs || last.bornMs <= bornAfterMs) last.socket.destroy()
      else if (!last.socket.destroyed) return last
    }
    return undefined
  }

  /** A new one, in use. */
  add(connection: KeptConnection): void {
    connection.bornMs = this.clock.nowMs()
    this.all.add(connection)
  }

  /** It has nothing to do and may be used again, or is closed. @param forMs how long the far side keeps it */
  rest({ resting, retiredMs }: Host, connection: KeptConnection, forMs: number): void {
    const nowMs = this.clock.nowMs()
    const ageLeftMs = connection.bornMs + this.maxAgeMs() - nowMs
    const restMs = Math.min(REST_MS, forMs - HINT_MARGIN_MS, ageLeftMs)
    if (this.closing || restMs <= 0 || connection.bornMs <= retiredMs || resting.length >= MAX_RESTING) {
      connection.socket.destroy()
      return
    }
    connection.restsUntilMs = nowMs + restMs
    resting.push(connection)
    this.resting++
    this.sweeping ??= this.clock.every(SWEEP_MS, this.sweep)
  }

  /** It has closed, or is no connection of ours any more. */
  gone({ resting }: Host, connection: KeptConnection): void {
    this.all.remove(connection)
    const at = resting.lastIndexOf(connection)
    if (at === -1) return
    resting.splice(at, 1)
    this.resting--
  }

  /**
   * Closes what rests to an endpoint, and lets what is in use end with its response: the next request meets what the
   * name means now.
   */
  retire(endpoint: Endpoint): void {
    const host = this.hosts.get(hostKey(endpoint))
    if (host === undefined) return
    host.retiredMs = this.clock.nowMs()
    for (const { socket } of host.resting) socket.destroy()
  }

  counts(): { readonly busy: number; readonly free: number } {
    return { busy: this.all.size() - this.resting, free: this.resting }
  }

  close(): void {
    this.closing = true
    this.sweeping?.cancel()
    this.all.visit(({ socket }) => socket.destroy())
  }

  private readonly sweep = (): void => {
    const nowMs = this.clock.nowMs()
    for (const { resting } of this.hosts.values()) {
      // It leaves the list once it has closed.
      for (const { restsUntilMs, socket } of resting) if (restsUntilMs <= nowMs) socket.destroy()
    }
    if (this.resting > 0) return
    this.sweeping?.cancel()
    this.sweeping = undefined
  }
}
