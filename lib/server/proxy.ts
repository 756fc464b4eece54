// One whole proxy: its parts made, wired and given back. Commands start it, tests start it in their own process.
import { type TokenAuthorizerFactory, wayId } from '../azure/credentials.ts'
import { createHealthRegistry, type HealthChange } from '../balancer/health.ts'
import { createKeyUsage } from '../balancer/key-limits.ts'
import { createOwners } from '../balancer/owners.ts'
import { createProbes, probeTrustMs } from '../balancer/probes.ts'
import { createUnsupportedOperations } from '../balancer/unsupported.ts'
import type { UsageLedger } from '../balancer/usage-ledger.ts'
import { createWaitQueue } from '../balancer/wait-queue.ts'
import { createBodyBudget } from '../body/take.ts'
import { type Clock, createDeadlines, type Random } from '../clock.ts'
import { describeChanges, needsRestart } from '../config/diff.ts'
import type { Config } from '../config/types.ts'
import { createDashboard } from '../dashboard/dashboard.ts'
import type { AttemptReport } from '../forward/attempt-record.ts'
import { createRequestNames } from '../forward/headers.ts'
import { askProbe } from '../forward/resource-query.ts'
import type { SocketFactory, Transport } from '../http1/send.ts'
import type { Log } from '../log.ts'
import { mergeMetrics, renderMetrics } from '../metrics.ts'
import { createRuntime, type Runtime, type SharedState } from '../runtime.ts'
import { createKeyFetcher } from '../tokens/fetch-keys.ts'
import { createIssuerKeyCache, type KeyFetcher } from '../tokens/issuer-keys.ts'
import type { ProcessState, StateUpdate } from '../workers/messages.ts'
import type { Peers } from '../workers/peers.ts'
import { replicateState } from '../workers/sharing.ts'
import { logFinished } from './access-log.ts'
import { type App, createApp } from './app.ts'
import { createDropLog } from './drop-log.ts'
import { createHealthLog } from './health-log.ts'
import { createKeyExpiryWatch, endingKeys } from './key-expiry.ts'
import { createListener, type Listener, type TlsFiles } from './listener.ts'
import { createNetwork, mendBehind, type Network } from './network.ts'
import { createRequestMetrics, type ProcessFigures } from './request-metrics.ts'
import { createSelfWatch } from './self-watch.ts'
import { createSharedRendering } from './shared-rendering.ts'

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
  /** One of several processes: what it learns is sent, and it probes only when told to. */
  readonly shareWith?: (items: readonly StateUpdate[]) => void
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

export interface ProxyServer {
  listen(): Promise<{ readonly port: number }>
  /**
   * Refuses new requests, finishes those in flight for up to `graceMs`, tells the rest, closes. Resolves when all is closed.
   */
  shutdown(graceMs: number): Promise<void>
  readonly runtime: () => Runtime
  readonly app: App
  readonly shared: SharedState
  readonly listener: Listener
  /** One probe round now. */
  probe(): Promise<void>
  /**
   * Swaps the config at once: requests in flight finish with the old one, unchanged backends keep their standing and their
   * connections. Says in the log what changed.
   * @throws when the certificate cannot be used; then nothing has changed
   */
  reload(config: Config, tls: TlsFiles | undefined): void
  /** Applies what other processes learnt. */
  applyUpdates(items: readonly StateUpdate[]): void
  startProbes(): void
  /** A reload has failed before it came here: shown until one succeeds. */
  reloadFailed(problem: string): void
  /** What this process has counted, as JSON can carry it; a page for all processes is made from all of their states. */
  state(): ProcessState
  /** Requests finished so far. */
  finished(): number
}

/** After the grace period: what is cut off has this long to hear of it. */
const CLOSE_FLUSH_MS = 500

export function createProxy({
  config,
  version,
  clock,
  random,
  log,
  tokenAuthorizer,
  tls,
  shareWith,
  peers,
  processFigures,
  maxConnections,
  makeSocket,
  ledger,
  host = '',
  transport: given,
  network: madeElsewhere,
  fetchKeys,
}: ProxyOptions): ProxyServer {
  let runtime: Runtime
  const current = (): Runtime => runtime
  const deadlines = createDeadlines(clock)
  const network =
    madeElsewhere ?? createNetwork({ clock, log, config: () => runtime?.config ?? config, makeSocket }, given)
  const { transport } = network
  const healthRegistry = createHealthRegistry({
    clock,
    recoveryMs: () => current().config.healthCheck.recoveryMs,
    probeTrustMs: () => probeTrustMs(current().config.healthCheck),
    writer: Math.floor(random() * 2 ** 32),
  })

  const shared: SharedState = {
    clock,
    random,
    health: healthRegistry,
    owners: createOwners(),
    unsupported: createUnsupportedOperations(clock),
    waitQueue: createWaitQueue(clock, healthRegistry),
    transport,
    deadlines,
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
    onKeyLimited: (key, limit) => measure.keyLimited(key, limit),
    onAttempt(report: AttemptReport) {
      measure.attempted(report)
      watch.attempted(report)
      if (report.label !== 'served') log.debug('attempt', { ...report })
    },
  }
  runtime = createRuntime(config, shared)
  const self = createSelfWatch(clock, { host, version, tls })
  const healthLog = createHealthLog({ clock, log, runtime: current })
  healthRegistry.onChange((change: HealthChange) => {
    healthLog.changed(change, network.follow(change, current()))
    watch.changed(change)
  })

  network.onWorking(proxyUrl => mendBehind(proxyUrl, current()))
  const measure = createRequestMetrics({
    clock,
    version,
    shared: shared,
    runtime: current,
    app: () => app,
    self: self.describe,
    processFigures,
  })
  const state = (): ProcessState => ({ metrics: measure.state(), status: watch.snapshot() })
  const states = async (): Promise<readonly ProcessState[] | undefined> =>
    peers === undefined ? [state()] : peers.askAll()
  let finishedCount = 0

  const watch = createDashboard({
    clock,
    keysEnding: () => endingKeys(current().config.auth.keys, clock.epochMs()),
    log,
    health: healthRegistry,
    runtime: current,
    keyLimiter: shared.keyLimiter,
    processes: async () => (await states()) ?? [state()],
    wasProbed: self.wasProbed,
    proxy: self.describe,
  })

  const app: App = createApp({
    clock,
    log,
    version,
    runtime: current,
    metricsText: createSharedRendering(clock, async () => {
      const all = await states()
      return all === undefined ? undefined : renderMetrics(mergeMetrics(all.map(({ metrics }) => metrics)))
    }),
    dashboard: watch.serve,
    onFinished(finished) {
      finishedCount++
      watch.finished(finished)
      measure.finished(finished)
      logFinished(log, finished)
    },
  })
  const keyExpiry = createKeyExpiryWatch(clock, log, () => current().config.auth.keys)
  const listener = createListener({
    tls,
    onRequest: app.handle,
    onUpgrade: app.upgrade,
    onBroken: app.refuseBroken,
    maxConnections: config.server.maxConnections ?? maxConnections,
    onDropped: createDropLog(clock, log),
  })
  const probes = createProbes({
    clock,
    random,
    health: healthRegistry,
    members: () => current().pools.flatMap(pool => pool.members),
    settings: () => current().config.healthCheck,
    groupOf: ({ resourceId, backend }) => `${resourceId} ${wayId(backend)}`,
    ask: member => {
      self.probed(member.health.id)
      return askProbe(member, current().authorizer(member), current().config.healthCheck.timeoutMs, {
        transport,
        deadlines,
        clock,
      })
    },
  })
  const sharing = shareWith === undefined ? undefined : replicateState(shared, shareWith)

  /** Of several processes one alone: it speaks for all. */
  const startWatching = (): void => [probes, keyExpiry, healthLog].forEach(watcher => void watcher.start())

  return {
    runtime: current,
    app,
    shared: shared,
    listener,
    probe: () => probes.round(),
    reloadFailed: self.reloadFailed,
    startProbes: startWatching,
    state,
    finished: () => finishedCount,
    applyUpdates: items => sharing?.applyUpdates(items),
    reload(next, files) {
      const before = runtime.config
      const changes = describeChanges(before, next)
      // What cannot follow stays as it is, also in what the rest of the program reads.
      const { port, host, workers, tls } = before.server
      const keepsTls = (tls === undefined) !== (next.server.tls === undefined)
      // First, because it is all that can fail: a certificate that its key does not fit must leave the whole old config in force.
      if (files !== undefined && !keepsTls) listener.setTls(files)
      const server = { ...next.server, port, host, workers, ...(keepsTls ? { tls } : {}) }
      runtime = createRuntime(
        { ...next, server, logging: { ...next.logging, file: before.logging.file }, usage: before.usage },
        shared,
      )
      listener.setMaxConnections(next.server.maxConnections ?? maxConnections)
      self.reloaded(keepsTls ? undefined : files)
      measure.reloaded()
      keyExpiry.check()
      log.info('config reloaded', { changes: changes.length })
      for (const change of changes) log.info('config change', { change })
      const restart = needsRestart(before, next)
      if (restart.length > 0) log.warn('config change needs a restart', { options: restart.join(', ') })
    },
    async listen() {
      const { server } = current().config
      const address = await listener.listen(server.port, server.host)
      if (sharing === undefined) startWatching()
      return address
    },
    async shutdown(graceMs) {
      probes.stop()
      healthLog.stop()
      keyExpiry.stop()
      watch.close()
      const finished = app.drain()
      const over = new Promise<void>(resolve => clock.after(graceMs, resolve))
      await Promise.race([finished, over])
      app.cancelAll()
      const farewell = new Promise<void>(resolve => clock.after(CLOSE_FLUSH_MS, resolve))
      await Promise.race([finished, farewell])
      const closed = listener.close()
      listener.server.closeAllConnections()
      await closed
      // The listener is closed a moment before the last requests know of it; their log lines must not be lost.
      await Promise.race([finished, new Promise<void>(resolve => clock.after(CLOSE_FLUSH_MS, resolve))])
      shared.issuerKeys.close()
      transport.close()
    },
  }
}
