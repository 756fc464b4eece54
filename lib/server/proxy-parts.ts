// The parts a proxy is made of that outlive its configs, each tied to the config of now.
import { type TokenAuthorizerFactory, wayId } from '../azure/credentials.ts'
import { createHealthRegistry, type HealthRegistry } from '../balancer/health.ts'
import { createKeyUsage } from '../balancer/key-limits.ts'
import { createOwners } from '../balancer/owners.ts'
import { createProbes, type Probes, probeTrustMs } from '../balancer/probes.ts'
import { createUnsupportedOperations } from '../balancer/unsupported.ts'
import type { UsageLedger } from '../balancer/usage-ledger.ts'
import { createWaitQueue } from '../balancer/wait-queue.ts'
import { createWarmPlaces } from '../balancer/warm-places.ts'
import { createBodyBudget } from '../body/take.ts'
import { type Clock, createDeadlines, type Random } from '../clock.ts'
import type { Config } from '../config/types.ts'
import type { AttemptReport } from '../forward/attempt-record.ts'
import { createRequestNames } from '../forward/headers.ts'
import { askProbe } from '../forward/resource-query.ts'
import type { SocketFactory, Transport } from '../http1/send.ts'
import type { Log } from '../log.ts'
import { createCancellation } from '../request-context.ts'
import type { Runtime, SharedState } from '../runtime.ts'
import { createKeyFetcher } from '../tokens/fetch-keys.ts'
import { createIssuerKeyCache, type KeyFetcher } from '../tokens/issuer-keys.ts'
import type { StateLine, StateUpdate } from '../workers/messages.ts'
import type { Peers } from '../workers/peers.ts'
import type { TlsFiles } from './listener.ts'
import type { Network } from './network.ts'
import type { ProcessFigures } from './request-metrics.ts'
import type { SelfWatch } from './self-watch.ts'

export interface ProxyOptions {
  readonly config: Config
  readonly version: string
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly tokenAuthorizer: TokenAuthorizerFactory
  /** Fetches the keys of `auth.tokens` issuers; left out: from their URLs and files. */
  readonly fetchKeys?: KeyFetcher
  readonly tls?: TlsFiles
  /** One of several processes: what it learns is sent, and it probes only on the primary's order. */
  readonly shareWith?: (items: readonly StateUpdate[]) => void
  /** One of several processes: says lines about states that all of them see; left out: the log. */
  readonly sayState?: (line: StateLine) => void
  /** One of several processes: asks the others. */
  readonly peers?: Pick<Peers, 'askAll' | 'keyLimiter'>
  readonly processFigures?: () => ProcessFigures
  /** The machine's name, for the status page. */
  readonly host?: string
  /** Where the config does not say: so many connections leave descriptors for the backends. */
  readonly maxConnections?: number
  /** Makes the connections to backends; left out: node's agents. */
  readonly makeSocket?: SocketFactory
  /** Carries requests to backends; left out: one of its own. Closed at the proxy's end. */
  readonly transport?: Transport
  /** Sums of the days and months of keys; left out: none are counted here. */
  readonly ledger?: UsageLedger
  /** The way to the backends, where others use it too; left out: one of its own. */
  readonly network?: Network
}

/** Each backend's health, for the config of now. */
export function makeHealthRegistry({ clock, random }: ProxyOptions, current: () => Runtime): HealthRegistry {
  return createHealthRegistry({
    clock,
    recoveryMs: () => current().config.healthCheck.recoveryMs,
    probeTrustMs: () => probeTrustMs(current().config.healthCheck),
    writer: Math.floor(random() * 2 ** 32),
  })
}

/**
 * State and sockets that live as long as the process.
 * @param observe what hears of attempts and of refusals by a key's limit
 */
export function makeSharedState(
  { clock, random, log, tokenAuthorizer, peers, ledger, fetchKeys }: ProxyOptions,
  { network, health, current }: { network: Network; health: HealthRegistry; current: () => Runtime },
  observe: Pick<SharedState, 'onKeyLimited' | 'onAttempt'>,
): SharedState {
  return {
    clock,
    random,
    health,
    owners: createOwners(),
    unsupported: createUnsupportedOperations(clock),
    waitQueue: createWaitQueue(clock, health),
    warmPlaces: createWarmPlaces(clock),
    transport: network.transport,
    deadlines: createDeadlines(clock),
    requestNames: createRequestNames(),
    bodyBudget: createBodyBudget(() => current().config.server.maxBufferedBytes),
    tokenAuthorizer,
    keyLimiter: peers?.keyLimiter ?? createKeyUsage(clock, ledger),
    issuerKeys: createIssuerKeyCache({
      clock,
      random,
      fetch: fetchKeys ?? createKeyFetcher(network.exchange),
      onProblem: (message, state) => log[state === 'failing' ? 'error' : 'info'](message),
    }),
    ...observe,
  }
}

/**
 * Probes of every resource of the config of now; `stop` ends those in progress too.
 * @param onShortage called for a probe that this machine could not make
 */
export function makeProbes(
  shared: SharedState,
  current: () => Runtime,
  self: SelfWatch,
  onShortage: (report: Pick<AttemptReport, 'label' | 'detail'>) => void,
): Probes {
  const { clock, random, health, transport, deadlines } = shared
  const asking = createCancellation()
  const probes = createProbes({
    clock,
    random,
    health,
    members: () => current().pools.flatMap(pool => pool.members),
    settings: () => current().config.healthCheck,
    groupOf: ({ resourceId, backend }) => `${resourceId} ${wayId(backend)}`,
    ask: async member => {
      self.probed(member.health.id)
      const { timeoutMs } = current().config.healthCheck
      const deps = { transport, deadlines, clock }
      const verdict = await askProbe(member, current().authorizer(member), timeoutMs, deps, asking)
      // Also while no client asks: a machine without a resolver must not be silent until one does.
      if (verdict.kind === 'not_asked' && verdict.shortage !== undefined) {
        onShortage({ label: 'shortage', detail: verdict.shortage })
      }
      return verdict
    },
  })
  return {
    ...probes,
    stop() {
      probes.stop()
      asking.cancel('shutdown')
    },
  }
}

/** A new config with what cannot follow a reload left as it is, also in what the rest of the program reads. */
export function withoutRestart(before: Config, next: Config): { readonly config: Config; readonly keepsTls: boolean } {
  const { port, host, workers, tls } = before.server
  const keepsTls = (tls === undefined) !== (next.server.tls === undefined)
  const server = { ...next.server, port, host, workers, ...(keepsTls ? { tls } : {}) }
  const logging = { ...next.logging, file: before.logging.file }
  return { config: { ...next, server, logging, usage: before.usage }, keepsTls }
}
