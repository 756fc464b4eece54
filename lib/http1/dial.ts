// Makes one connection: name, address, perhaps a proxy and its tunnel, TLS. All addresses of a name are tried, each
// soon after the one before (RFC 8305). The resolver's time is not counted as the backend's.
import net from 'node:net'
import type tls from 'node:tls'
import { afterRunning, type Clock, type Timer } from '../clock.ts'
import type { EgressProxy, Endpoint } from '../config/types.ts'
import { inTurn, tryInTurn } from './addresses.ts'
import { ConnectError, codeOf, connectWords, isShortage, type ShownCertificate, tlsWords } from './connect-error.ts'
import { type EgressWatch, openTunnel, silentProxy, unreachableProxy, unreachableSecureProxy } from './egress.ts'
import type { LowerCaseNames } from './header-names.ts'
import type { Resolver } from './resolver.ts'
import { serverNameOf, type Trust, watchCertificate, withoutIdentity } from './trust.ts'

/**
 * Makes a socket on its way to a host. It emits `connect`, over TLS `secureConnect`, once it stands, and hands what
 * it reads to `options.onread` where that is given.
 */
export type SocketFactory = (
  protocol: Endpoint['protocol'],
  options: net.NetConnectOpts | (tls.ConnectionOptions & { readonly socket: net.Socket }),
) => net.Socket

export interface DialDeps {
  readonly clock: Clock
  readonly resolver: Resolver
  readonly trust: Trust
  readonly egress: EgressWatch
  readonly names: LowerCaseNames
  readonly makeSocket: SocketFactory
}

export interface DialOptions {
  /** For TCP, the proxy's response and TLS together, from the known address on; and, before that, for the resolver. */
  readonly connectMs: number
  /** A plain endpoint behind a proxy wants a tunnel: what follows is not HTTP for long. */
  readonly tunnelled: boolean
  /** Of an earlier TLS connection of this route (RFC 8446 section 2.2). */
  readonly session: Buffer | undefined
  /** Where the bytes go that are read; given to the socket unless it is a tunnel's. */
  readonly onread: net.OnReadOpts | undefined
}

export interface DialEvents {
  /** The address is known: from now on it is the other side's time. */
  connecting(): void
  /** TCP stands, to the endpoint or to the proxy. */
  reached?(): void
  /** @param readsThere its bytes go to `onread`; otherwise they come as `data` */
  connected(socket: net.Socket, readsThere: boolean): void
  failed(error: ConnectError): void
}

/** Below the 4 minutes after which Azure's load balancers drop silent flows (azure/README.md, section 9). */
const TCP_KEEPALIVE_MS = 30_000
/** No closure: it stays with a socket for its life, and would keep alive whatever surrounds it. */
const ignore = (): void => undefined

/** One connection being made: `start`, then its events, unless `cancel` comes first. */
export class Dial {
  private readonly endpoint: Endpoint
  private readonly proxy: EgressProxy | undefined
  private readonly options: DialOptions
  private readonly events: DialEvents
  private readonly deps: DialDeps
  /** Every socket that may still come to something. */
  private readonly sockets = new Set<net.Socket>()
  private readonly beganMs: number
  private over = false
  private cancelled = false
  private limit: Timer | undefined
  private stopTrying: () => void = ignore
  private giveUpPhase: () => void = ignore

  constructor(endpoint: Endpoint, options: DialOptions, events: DialEvents, deps: DialDeps) {
    this.endpoint = endpoint
    this.proxy = endpoint.route?.proxy
    this.options = options
    this.events = events
    this.deps = deps
    this.beganMs = deps.clock.nowMs()
  }

  start(): void {
    const { proxy, deps } = this
    const resting = proxy === undefined ? undefined : deps.egress.resting(proxy)
    if (resting !== undefined) {
      this.fail(resting)
      return
    }
    const { hostname } = proxy ?? this.endpoint
    if (net.isIP(hostname) !== 0) {
      this.connect([hostname])
      return
    }
    this.limit = afterRunning(deps.clock, this.options.connectMs, () => this.lookupFailed('EAI_AGAIN'))
    this.giveUpPhase = deps.resolver.resolve(hostname, resolution => {
      if (resolution.kind === 'found') this.connect(inTurn(resolution.addresses))
      else this.lookupFailed(resolution.code)
    })
  }

  cancel(): void {
    this.cancelled = true
    if (!this.over) this.end()
  }

  private end(): void {
    this.over = true
    this.limit?.cancel()
    this.stopTrying()
    this.giveUpPhase()
    for (const socket of this.sockets) socket.destroy()
    this.sockets.clear()
  }

  private fail(error: ConnectError): void {
    if (this.over) return
    this.end()
    const { proxy } = this
    const reported = proxy === undefined ? error : this.deps.egress.failed(proxy, error, this.beganMs)
    // Never before `start` has returned: the caller has to know what failed.
    queueMicrotask(() => {
      if (!this.cancelled) this.events.failed(reported)
    })
  }

  private lookupFailed(code: string): void {
    const { proxy, endpoint } = this
    this.fail(
      proxy === undefined
        ? new ConnectError({ phase: 'resolve', code, words: connectWords(code, endpoint.hostname) })
        : unreachableProxy(proxy, code),
    )
  }

  /** Tries the addresses, each a little after the one before; the first that connects stays. */
  private connect(addresses: readonly string[]): void {
    if (this.over) return
    this.giveUpPhase = ignore
    this.limit?.cancel()
    this.limit = afterRunning(this.deps.clock, this.options.connectMs, () => this.firstHopFailed('ETIMEDOUT'))
    this.events.connecting()
    this.stopTrying = tryInTurn(
      addresses,
      this.deps.clock,
      (address, failed) => this.tryAddress(address, failed),
      code => this.firstHopFailed(code),
    )
  }

  private tryAddress(address: string, failed: (code: string) => void): void {
    const { proxy, endpoint, options, deps } = this
    const hop = proxy ?? endpoint
    const isTls = hop.protocol === 'https:'
    const readsThere = options.onread !== undefined && !this.needsTunnel()
    let socket: net.Socket
    try {
      socket = deps.makeSocket(hop.protocol, {
        host: address,
        port: hop.port,
        noDelay: true,
        keepAlive: true,
        keepAliveInitialDelay: TCP_KEEPALIVE_MS,
        ...(isTls
          ? proxy === undefined
            ? deps.trust.optionsFor(endpoint.route, serverNameOf(endpoint))
            : deps.trust.optionsFor(withoutIdentity(endpoint.route), proxy.hostname)
          : {}),
        ...(isTls && proxy === undefined && options.session !== undefined ? { session: options.session } : {}),
        ...(readsThere ? { onread: options.onread } : {}),
      })
    } catch (error) {
      // A certificate or key that cannot be used.
      this.secureHopFailed(codeOf(error), undefined)
      return
    }
    this.sockets.add(socket)
    // For ever: a socket may fail again while it is torn down, and that must not be uncaught.
    socket.on('error', ignore)
    const certificate = watchCertificate(socket)
    let stands = false
    const onError = (error: Error): void => {
      if (!this.sockets.delete(socket) || this.over) return
      const code = codeOf(error)
      if (stands) this.secureHopFailed(code, certificate())
      else failed(code)
    }
    const onClose = (): void => onError(Object.assign(new Error('closed'), { code: 'ECONNRESET' }))
    socket.on('error', onError).on('close', onClose)
    socket.once('connect', () => {
      if (this.over) return
      stands = true
      this.events.reached?.()
      this.stopTrying()
      for (const other of this.sockets) {
        if (other === socket) continue
        this.sockets.delete(other)
        other.destroy()
      }
      if (!isTls) this.firstHopStands(socket, onError, onClose, readsThere)
    })
    if (isTls) socket.once('secureConnect', () => this.firstHopStands(socket, onError, onClose, readsThere))
  }

  private needsTunnel(): boolean {
    return this.proxy !== undefined && (this.endpoint.protocol === 'https:' || this.options.tunnelled)
  }

  private firstHopFailed(code = 'error'): void {
    const { proxy, endpoint } = this
    if (proxy !== undefined && !isShortage(code)) this.fail(unreachableProxy(proxy, code))
    else {
      const words = connectWords(code, endpoint.host)
      this.fail(new ConnectError({ phase: 'connect', code, words, timeout: code === 'ETIMEDOUT' }))
    }
  }

  private secureHopFailed(code: string, certificate: ShownCertificate | undefined): void {
    const { proxy } = this
    if (proxy === undefined) this.tlsFailed(code, certificate)
    else if (proxy.protocol === 'https:') {
      this.fail(unreachableSecureProxy(proxy, code, tlsWords(code, proxy.hostname, certificate)))
    } else this.fail(unreachableProxy(proxy, code))
  }
  private tlsFailed(code: string, certificate: ShownCertificate | undefined): void {
    const { endpoint } = this
    const name = serverNameOf(endpoint)
    const words = code === 'ECONNRESET' ? connectWords(code, endpoint.host) : tlsWords(code, name, certificate)
    this.fail(new ConnectError({ phase: 'tls', code, words, timeout: code === 'ETIMEDOUT' }))
  }

  private firstHopStands(
    socket: net.Socket,
    onError: (error: Error) => void,
    onClose: () => void,
    readsThere: boolean,
  ): void {
    if (this.over) return
    socket.off('error', onError).off('close', onClose)
    const { proxy, endpoint, deps, options } = this
    if (proxy === undefined || !this.needsTunnel()) {
      this.stands(socket, readsThere)
      return
    }
    this.limit?.cancel()
    this.limit = afterRunning(deps.clock, options.connectMs, () =>
      this.fail(silentProxy(proxy, `${endpoint.hostname}:${endpoint.port}`)),
    )
    this.giveUpPhase = openTunnel(socket, proxy, endpoint, deps.names, error => {
      this.giveUpPhase = ignore
      if (error !== undefined) {
        if (error.scope === 'host') deps.egress.answered(proxy)
        this.fail(error)
        return
      }
      deps.egress.answered(proxy)
      if (endpoint.protocol === 'https:') this.secureTunnel(socket)
      else this.stands(socket, false)
    })
  }

  /** TLS with the backend through the tunnel. */
  private secureTunnel(tunnel: net.Socket): void {
    const { endpoint, options, deps } = this
    this.limit?.cancel()
    this.limit = afterRunning(deps.clock, options.connectMs, () => this.tlsFailed('ETIMEDOUT', undefined))
    let socket: net.Socket
    try {
      socket = deps.makeSocket('https:', {
        socket: tunnel,
        // What the certificate is checked for where the endpoint is an address, and no name is asked for.
        host: endpoint.hostname,
        ...deps.trust.optionsFor(endpoint.route, serverNameOf(endpoint)),
        ...(options.session === undefined ? {} : { session: options.session }),
      })
    } catch (error) {
      this.tlsFailed(codeOf(error), undefined)
      return
    }
    this.sockets.add(socket)
    // The tunnel below reports its own end as well, which the TLS socket passes on.
    for (const each of [socket, tunnel]) each.on('error', ignore)
    const certificate = watchCertificate(socket)
    const onError = (error: Error): void => this.tlsFailed(codeOf(error), certificate())
    const onClose = (): void => this.tlsFailed('ECONNRESET', undefined)
    socket.on('error', onError).on('close', onClose)
    socket.once('secureConnect', () => {
      socket.off('error', onError).off('close', onClose)
      if (!this.over) this.stands(socket, false)
    })
  }

  private stands(socket: net.Socket, readsThere: boolean): void {
    this.sockets.clear()
    this.over = true
    this.limit?.cancel()
    this.stopTrying()
    this.events.connected(socket, readsThere)
  }
}
