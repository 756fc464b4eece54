// One whole proxy: its parts made, wired and given back. Commands start it, tests start it in their own process.
import type { HealthChange, HealthRegistry } from '../balancer/health.ts'
import type { Clock } from '../clock.ts'
import { describeChanges, needsRestart } from '../config/diff.ts'
import type { Config } from '../config/types.ts'
import { createDashboard } from '../dashboard/dashboard.ts'
import type { Log } from '../log.ts'
import { mergeMetrics, renderMetrics } from '../metrics.ts'
import { createRuntime, type Runtime, type SharedState } from '../runtime.ts'
import { createTracer } from '../tracing/tracer.ts'
import type { ProcessState, StateLine, StateUpdate } from '../workers/messages.ts'
import { replicateState } from '../workers/sharing.ts'
import { createAccessLog } from './access-log.ts'
import { type App, createApp } from './app.ts'
import { type Certificates, createCertificates, endingCertificates } from './certificates.ts'
import { createDropLog } from './drop-log.ts'
import { createHealthLog, logLackChange } from './health-log.ts'
import { createKeyExpiryWatch, endingKeys } from './key-expiry.ts'
import { createListener, type Listener, type TlsFiles } from './listener.ts'
import { createNetwork, mendBehind, mendIdentity, type Network } from './network.ts'
import { makeHealthRegistry, makeProbes, makeSharedState, type ProxyOptions, withoutRestart } from './proxy-parts.ts'
import { createRequestMetrics } from './request-metrics.ts'
import { createSelfWatch, type SelfWatch } from './self-watch.ts'
import { createSharedRendering } from './shared-rendering.ts'
import { createShortageLog } from './shortage-log.ts'

export type { ProxyOptions } from './proxy-parts.ts'

export interface ProxyServer {
  listen(): Promise<{ readonly port: number }>
  /**
   * Refuses new requests, finishes those in flight for up to `graceMs`, ends the rest, closes. Resolves when all is
   * closed.
   */
  shutdown(graceMs: number): Promise<void>
  readonly runtime: () => Runtime
  readonly app: App
  readonly shared: SharedState
  readonly listener: Listener
  /** One probe round now. */
  probe(): Promise<void>
  /**
   * Swaps the config at once: requests in flight finish with the old one, unchanged backends keep their health and
   * their connections. Says in the log what changed.
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

/** Waits for a promise, for so long at most. */
function within(clock: Clock, ms: number, promise: Promise<void>): Promise<void> {
  return Promise.race([promise, new Promise<void>(resolve => clock.after(ms, resolve))])
}

/** Finishes what is in flight, up to the grace period, ends the rest, and closes. */
async function drainAndClose(clock: Clock, app: App, listener: Listener, graceMs: number): Promise<void> {
  const finished = app.drain()
  await within(clock, graceMs, finished)
  app.cancelAll()
  await within(clock, CLOSE_FLUSH_MS, finished)
  const closed = listener.close()
  listener.server.closeAllConnections()
  await closed
  // The listener is closed a moment before the last requests know of it; their log lines must not be lost.
  await within(clock, CLOSE_FLUSH_MS, finished)
}

function logReload(log: Log, before: Config, next: Config): void {
  const changes = describeChanges(before, next)
  log.info('config reloaded', { changes: changes.length })
  for (const change of changes) log.info('config change', { change })
  const restart = needsRestart(before, next)
  if (restart.length > 0) log.warn('config change needs a restart', { options: restart.join(', ') })
}

/** The figures of all processes, and the text of /metrics that is made of them. */
function gatherStates(clock: Clock, own: () => ProcessState, peers: ProxyOptions['peers']) {
  const all = async (): Promise<readonly ProcessState[] | undefined> => (peers === undefined ? [own()] : peers.askAll())
  return {
    processes: async (): Promise<readonly ProcessState[]> => (await all()) ?? [own()],
    metricsText: createSharedRendering(clock, async () => {
      const states = await all()
      return states === undefined ? undefined : renderMetrics(mergeMetrics(states.map(({ metrics }) => metrics)))
    }),
  }
}

interface WiredState {
  readonly current: () => Runtime
  readonly network: Network
  readonly health: HealthRegistry
  readonly shared: SharedState
  readonly self: SelfWatch
  readonly certificates: Certificates
}

/** What serves requests of the state and reports of it: HTTP, metrics, status page. */
function wireFront(options: ProxyOptions, { current, network, health, shared, self, certificates }: WiredState) {
  const { version, clock, log, random, processFigures } = options
  let finished = 0
  const logFinished = createAccessLog(log)
  const tracer = createTracer({
    clock,
    random,
    log,
    version,
    settings: () => current().config.tracing,
    exchange: network.exchange,
  })
  const app: App = createApp({
    tracer,
    clock,
    log,
    version,
    runtime: current,
    metricsText: () => gathered.metricsText(),
    dashboard: (exchange, path) => dashboard.serve(exchange, path),
    onFinished(request) {
      finished++
      dashboard.finished(request)
      measure.finished(request)
      logFinished(request)
    },
  })
  const measure = createRequestMetrics({
    clock,
    version,
    shared,
    runtime: current,
    app: () => app,
    self: self.describe,
    certificates: () => certificates.all().values(),
    processFigures,
  })
  const state = (): ProcessState => ({ metrics: measure.state(), status: dashboard.snapshot() })
  const gathered = gatherStates(clock, state, options.peers)
  const dashboard = createDashboard({
    clock,
    keysEnding: () => endingKeys(current().config.auth.keys, clock.epochMs()),
    log,
    health,
    runtime: current,
    keyLimiter: shared.keyLimiter,
    processes: gathered.processes,
    wasProbed: self.wasProbed,
    unsupportedOf: id =>
      shared.unsupported
        .of(id)
        .map(({ what, apiVersion, wrong }) => ({ what: `${what} at api_version ${apiVersion}`, wrong })),
    proxy: () => ({ ...self.describe(), certificates: endingCertificates(certificates, clock.epochMs()) }),
  })
  return { tracer, app, measure, dashboard, state, finished: () => finished }
}

/** Makes the parts and ties them together; `hold.runtime` is the config in force. */
function wire(options: ProxyOptions, hold: { runtime: Runtime | undefined }) {
  const { config, version, clock, log, tls, makeSocket, host = '' } = options
  const current = (): Runtime => {
    if (hold.runtime === undefined) throw new Error('the config is not in force yet')
    return hold.runtime
  }
  const network =
    options.network ??
    createNetwork({ clock, log, config: () => hold.runtime?.config ?? config, makeSocket }, options.transport)
  const health = makeHealthRegistry(options, current)
  const shortages = createShortageLog(clock, log)
  const shared = makeSharedState(
    options,
    { network, health, current },
    {
      onKeyLimited: (key, limit) => front.measure.keyLimited(key, limit),
      onAttempt(report) {
        front.measure.attempted(report)
        front.dashboard.attempted(report)
        shortages(report)
        network.attempted(report, current())
        if (report.label !== 'served') log.debug('attempt', { ...report })
      },
    },
  )
  hold.runtime = createRuntime(config, shared)
  const self = createSelfWatch(clock, { host, version, tls })
  const certificates = createCertificates({
    clock,
    log,
    config: () => current().config,
    listenerEndsMs: () => self.describe().certificate_ends_ms,
  })
  network.onConnected(certificates.met)
  const front = wireFront(options, { current, network, health, shared, self, certificates })
  const say = options.sayState ?? (({ level, msg, fields }: StateLine) => log[level](msg, fields))
  const healthLog = createHealthLog({ clock, log, say, runtime: current })
  health.onChange((change: HealthChange) => {
    healthLog.changed(change, network.follow(change, current()))
    front.dashboard.changed(change)
  })
  network.onWorking(proxyUrl => mendBehind(proxyUrl, current()))
  options.tokenAuthorizer.onWorking?.(id => mendIdentity(id, current()))
  shared.unsupported.onChange(change => logLackChange(say, change, current()))
  const probes = makeProbes(shared, current, self, shortages)
  return { current, network, shared, self, certificates, healthLog, probes, ...front }
}

export function createProxy(options: ProxyOptions): ProxyServer {
  const { config, clock, log, tls, shareWith, maxConnections } = options
  const hold: Parameters<typeof wire>[1] = { runtime: undefined }
  const {
    current,
    network,
    shared,
    self,
    certificates,
    healthLog,
    probes,
    app,
    measure,
    state,
    finished,
    dashboard,
    tracer,
  } = wire(options, hold)
  const listener = createListener({
    tls,
    onRequest: app.handle,
    onUpgrade: app.upgrade,
    onBroken: app.refuseBroken,
    maxConnections: config.server.maxConnections ?? maxConnections,
    onDropped: createDropLog(clock, log),
  })
  const keyExpiry = createKeyExpiryWatch(clock, log, () => current().config.auth.keys)
  const sharing = shareWith === undefined ? undefined : replicateState(shared, shareWith)
  /** Of several processes one alone: it speaks for all. */
  let speaks = sharing === undefined
  const watchers = [probes, keyExpiry, certificates, healthLog]
  const startWatching = (): void => {
    speaks = true
    for (const watcher of watchers) watcher.start()
  }

  return {
    runtime: current,
    app,
    shared,
    listener,
    probe: () => probes.round(),
    reloadFailed: self.reloadFailed,
    startProbes: startWatching,
    state,
    finished,
    applyUpdates: items => sharing?.applyUpdates(items),
    reload(next, files) {
      const before = current().config
      const carried = withoutRestart(before, next)
      const renewed = carried.keepsTls ? undefined : files
      // First, because it is all that can fail: a certificate that its key does not fit must leave the whole old config
      // in force.
      if (renewed !== undefined) listener.setTls(renewed)
      hold.runtime = createRuntime(carried.config, shared)
      listener.setMaxConnections(next.server.maxConnections ?? maxConnections)
      self.reloaded(renewed)
      measure.reloaded()
      keyExpiry.check()
      if (speaks) logReload(log, before, next)
    },
    async listen() {
      const { server } = current().config
      const address = await listener.listen(server.port, server.host)
      if (sharing === undefined) startWatching()
      return address
    },
    async shutdown(graceMs) {
      for (const watcher of watchers) watcher.stop()
      dashboard.close()
      await drainAndClose(clock, app, listener, graceMs)
      await tracer.close()
      shared.issuerKeys.close()
      network.transport.close()
    },
  }
}
