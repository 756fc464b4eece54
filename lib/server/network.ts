// One proxy's way to the backends: the transport, the exchange with token endpoints and issuers, and log lines about an
// outbound proxy. A proxy that dies is one line, however many backends lie behind it.
import type { Socket } from 'node:net'
import { credentialId } from '../azure/credentials.ts'
import { createExchange, type Exchange } from '../azure/entra-http.ts'
import { adviceFor } from '../balancer/advice.ts'
import type { BackendHealth, HealthChange } from '../balancer/health.ts'
import type { Clock } from '../clock.ts'
import type { Config, Endpoint } from '../config/types.ts'
import type { AttemptReport } from '../forward/attempt-record.ts'
import { createTransport, type EgressChange, type SocketFactory, type Transport } from '../http1/send.ts'
import type { Log } from '../log.ts'
import type { Runtime } from '../runtime.ts'

export interface NetworkOptions {
  readonly clock: Clock
  readonly log: Log
  /** Hears of outbound proxies in place of the log: one of several processes, whose primary says it for all. */
  readonly onEgress?: ((change: EgressChange) => void) | undefined
  /** Asked each time: a reload may change it. */
  readonly config: () => Pick<Config, 'egress' | 'retry' | 'healthCheck'>
  /** Makes the sockets; left out: Node's agents. */
  readonly makeSocket?: SocketFactory | undefined
  /** Lookups that the system admits at once. */
  readonly lookupPlaces?: number | undefined
}

export interface Network {
  readonly transport: Transport
  readonly exchange: Exchange
  /** What to do with each new connection to an endpoint; set by the proxy that uses this network. */
  onConnected(listener: (endpoint: Endpoint, socket: Socket) => void): void
  /** What to do once an outbound proxy works again; set by the proxy that uses this network. */
  onWorking(listener: (proxyUrl: string) => void): void
  /**
   * Follows a change of a backend's health: closes its resting connections when it goes out.
   * @returns whether it is a part of a proxy's failure or recovery, which has its own line
   */
  follow(change: HealthChange, runtime: Runtime): boolean
  /** Follows an attempt: a refused one may have met an old address, so the next request gets a new connection. */
  attempted(report: AttemptReport, runtime: Runtime): void
}

/** The line about an outbound proxy that fails or works again. */
export function logEgressChange(log: Log, { kind, proxy, words }: EgressChange): void {
  if (kind === 'working') {
    log.info('egress proxy works again', { proxy })
    return
  }
  const todo = adviceFor('egress_refused', words)
  log.error('egress proxy fails', { proxy, reason: 'egress_refused', detail: words, todo })
}

/** The way from here to the backends. @param given a transport to use in place of a new one */
export function createNetwork(options: NetworkOptions, given?: Transport): Network {
  const { clock, log, config, makeSocket, lookupPlaces } = options
  const report = options.onEgress ?? (change => logEgressChange(log, change))
  let working: (proxyUrl: string) => void = () => undefined
  let connected: (endpoint: Endpoint, socket: Socket) => void = () => undefined
  const onEgress = (change: EgressChange): void => {
    report(change)
    if (change.kind === 'working') working(change.proxy)
  }
  const maxAgeMs = (): number => config().retry.connectionMaxAgeMs
  const transport =
    given ??
    createTransport(clock, {
      maxAgeMs,
      avoidMs: () => config().healthCheck.recoveryMs,
      makeSocket,
      lookupPlaces,
      onEgress,
      onConnected: (endpoint, socket) => connected(endpoint, socket),
    })
  /** Those that went out with their proxy, until they are back. */
  const cutOff = new Set<string>()
  return {
    transport,
    exchange: createExchange(transport, () => config().egress),
    onConnected(listener) {
      connected = listener
    },
    onWorking(listener) {
      working = listener
    },
    follow(change, { pools }) {
      if (change.kind === 'restored') return cutOff.delete(change.health.id)
      if (change.kind !== 'ejected') return false
      const endpoints = endpointsOf(change.health, pools)
      for (const endpoint of endpoints) transport.retire(endpoint)
      const isQuiet = change.trouble.reason === 'egress_refused' && endpoints.some(transport.isCutOff)
      if (isQuiet) cutOff.add(change.health.id)
      else cutOff.delete(change.health.id)
      return isQuiet
    },
    attempted({ label, model, backend: name }, runtime) {
      // Also where nobody goes out: the last backend of a model stays in.
      if (label !== 'misconfigured') return
      for (const { backend } of runtime.pool(model)?.members ?? []) {
        if (backend.name === name) transport.retire(backend.endpoint)
      }
    },
  }
}

function endpointsOf(
  health: BackendHealth,
  pools: Runtime['pools'],
): readonly Config['models'][number]['backends'][number]['endpoint'][] {
  const members = pools.flatMap(pool => pool.members.filter(member => member.health === health))
  return members.map(({ backend }) => backend.endpoint)
}

/** An outbound proxy works again: what went out with it is back. */
export function mendBehind(proxyUrl: string, { pools, shared }: Runtime): void {
  for (const { members } of pools) {
    for (const { backend, health } of members) {
      if (backend.endpoint.route?.proxy?.url === proxyUrl) shared.health.mended(health, 'egress_refused')
    }
  }
}

/** An identity has a token again: what was out for want of one is back. @param id its `credentialId` */
export function mendIdentity(id: string, { pools, shared }: Runtime): void {
  for (const { members } of pools) {
    for (const { backend, health } of members) {
      if (credentialId(backend.credential) === id) shared.health.mended(health, 'credential_unavailable')
    }
  }
}
