// The proxy's processes of a world: the real thing, with this world's clock, chance, connections and messages.
import { createTokenAuthorizers } from '../../lib/azure/entra.ts'
import type { Member } from '../../lib/balancer/pool.ts'
import { createUsageLedger } from '../../lib/balancer/usage-ledger.ts'
import { parseEndpoint } from '../../lib/config/endpoint.ts'
import type { BackendConfig, Config, Endpoint } from '../../lib/config/types.ts'
import { createTransport } from '../../lib/http1/send.ts'
import { createLog } from '../../lib/log.ts'
import { createProxy, type ProxyOptions, type ProxyServer } from '../../lib/server/proxy.ts'
import type { FileTexts, FromWorker, StateUpdate, ToWorker } from '../../lib/workers/messages.ts'
import { createPeers } from '../../lib/workers/peers.ts'
import { createSupervisor, type WorkerProcess } from '../../lib/workers/supervisor.ts'
import { readConfig } from '../fixtures/run-proxy.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'
import type { Backends } from './backends.ts'
import { createHost, type Engine, type Host, pausedMs } from './engine.ts'
import type { Issuer } from './issuer.ts'
import type { BackendPlan, WorldPlan } from './plan.ts'

export const MODEL = 'm'
/** The keys of the clients, by name. */
export const KEYS = { good: 'key-good', hostile: 'key-hostile', limited: 'key-limited', admin: 'key-admin' } as const

/** Everything that worlds do not vary, parsed once: parsing a config for each world would cost more than the world. */
const BASE_TEXT = `
auth:
  keys:
    - {name: good, key: ${KEYS.good}}
    - {name: hostile, key: ${KEYS.hostile}}
    - {name: limited, key: ${KEYS.limited}, limits: {concurrent: 2, requests_per_minute: 20}}
    - {name: admin, key: ${KEYS.admin}, admin: true}
models:
  ${MODEL}:
    backends:
      - {name: b0, endpoint: "http://r0.test", api_key: azure-key}
      - {name: b1, endpoint: "https://r1.test", entra: {tenant_id: tenant, client_id: app, client_secret: entra-secret}}
server: {shutdown_grace: 1s}
logging: {level: info}
`

function endpointOf(host: string): Endpoint {
  const parsed = parseEndpoint(`http://${host}`, 'azure')
  if (parsed.kind === 'invalid') throw new Error(parsed.message)
  return parsed.endpoint
}

/** Makes configs of plans. */
export type ConfigMaker = (plan: WorldPlan, without: number | undefined) => Config

export function createConfigMaker(): ConfigMaker {
  const base = readConfig(BASE_TEXT)
  const [model] = base.models
  const [first, second] = model?.backends ?? []
  if (model === undefined || first === undefined || second === undefined) throw new Error('the base config lacks one')
  const endpoints = new Map<string, Endpoint>()
  const endpoint = (host: string): Endpoint => {
    const made = endpoints.get(host) ?? endpointOf(host)
    endpoints.set(host, made)
    return made
  }
  const backendOf = ({ host, ...plan }: BackendPlan): BackendConfig => ({
    ...first,
    name: plan.name,
    endpoint: endpoint(host),
    deployment: plan.deployment,
    apiVersion: plan.apiVersion,
    weight: plan.weight,
    priority: plan.priority,
    maxInFlight: plan.maxInFlight,
    credential: plan.takesTokens === true ? second.credential : first.credential,
  })
  return ({ settings, backends }, without) => ({
    ...base,
    models: [
      {
        ...model,
        balance: settings.balance,
        timeoutMs: settings.timeoutMs,
        firstOutputTimeoutMs: settings.firstOutputTimeoutMs,
        streamUsage: settings.streamUsage,
        backends: backends.filter((_, i) => i !== without).map(backendOf),
      },
    ],
    server: { ...base.server, streamKeepaliveMs: settings.keepaliveMs },
    retry: {
      ...base.retry,
      maxAttempts: settings.maxAttempts,
      connectTimeoutMs: settings.connectTimeoutMs,
      streamHoldMs: settings.streamHoldMs,
      idleTimeoutMs: settings.idleTimeoutMs,
      maxWaitMs: settings.maxWaitMs,
    },
    healthCheck: {
      ...base.healthCheck,
      enabled: settings.probes,
      intervalMs: settings.intervalMs,
      timeoutMs: settings.probeTimeoutMs,
      recoveryMs: settings.recoveryMs,
    },
  })
}

/** One line of a process's log. */
export type LogLine = Readonly<Record<string, unknown>>

export interface Process {
  readonly index: number
  readonly host: Host
  readonly proxy: ProxyServer
  readonly lines: LogLine[]
  /** Gives up what its tokens still wait for. */
  close(): void
}

export interface ProcessesDeps {
  readonly engine: Engine
  readonly plan: WorldPlan
  readonly configOf: ConfigMaker
  readonly backends: () => Backends
  readonly issuer: Issuer
  onLine(process: Process, line: LogLine): void
  trace(text: () => string): void
}

export interface Processes {
  /** Those that serve, by the slot in which clients know them; a place is empty between a death and the next start. */
  readonly all: readonly (Process | undefined)[]
  /** The process that runs the others, where there are several. */
  readonly primary: Host | undefined
  /** Every process that ever served. */
  readonly ever: readonly Process[]
  reload(without: number | undefined): void
  /** @param isPortTaken the next one that starts cannot listen at first */
  kill(slot: number, isPortTaken: boolean): void
  /** All of them stand still, or one does. */
  freeze(slot: number, forMs: number): void
  /** How long the primary stood still in a span, in milliseconds; 0 where there is none. */
  primaryPausedMs(fromMs: number, toMs: number): number
  shutdown(): Promise<void>
}

/** What starting a program takes. */
const START_MS = 40
/** What a shutdown leaves to requests in flight. */
const GRACE_MS = 5_000

/** One process of a world that serves; `among` is what it has as one of several. */
function createProcess(
  { engine, plan, backends, issuer, onLine, trace }: ProcessesDeps,
  config: Config,
  slot: number,
  number: number,
  host: Host,
  among: Pick<ProxyOptions, 'shareWith' | 'peers'>,
): Process {
  const clock = engine.clockOf(host)
  const lines: LogLine[] = []
  const log = createLog({
    clock,
    level: () => 'info',
    format: () => 'json',
    write(text) {
      trace(() => `p${slot} log ${text.trimEnd()}`)
      const line: LogLine = JSON.parse(text)
      lines.push(line)
      onLine(process, line)
    },
  })
  const transport = createTransport(clock, {
    makeSocket(_, options) {
      const target = 'host' in options ? (options.host ?? '') : ''
      return backends().connect(host, target, 'onread' in options ? { onread: options.onread } : {})
    },
  })
  const tokens = createTokenAuthorizers({
    clock,
    random: seededRandom(plan.seed * 37 + number),
    env: {},
    readFile: () => Promise.reject(new Error('no files in this world')),
    onProblem: () => undefined,
    exchange: issuer.exchangeOf(host),
  })
  const proxy = createProxy({
    config,
    version: 'simulated',
    clock,
    random: seededRandom(plan.seed * 31 + number),
    log,
    tokenAuthorizer: tokens,
    transport: backends().watch(slot, host, transport),
    ...among,
  })
  const process: Process = { index: slot, host, proxy, lines, close: tokens.close }
  return process
}

function freeze(host: Host, nowMs: number, forMs: number): void {
  const untilMs = Math.max(host.frozenUntilMs, nowMs + forMs)
  host.pauses.push({ fromMs: Math.max(host.frozenUntilMs, nowMs), untilMs })
  host.frozenUntilMs = untilMs
}

/** Several processes: the real supervisor in a primary of its own, its workers, and messages that take their time. */
function createWorkers(deps: ProcessesDeps): Processes {
  const { engine, plan, configOf, trace } = deps
  const all: (Process | undefined)[] = []
  const ever: Process[] = []
  const exits = new Map<Host, () => void>()
  const primary = createHost('primary')
  const clock = engine.clockOf(primary)
  let without: number | undefined
  let started = 0
  /** So many of those that start next find the port taken. */
  let failing = 0

  const later = (run: () => void, host: Host): void => engine.at(engine.nowMs() + plan.messageMs, run, host)
  /** JSON, as between processes. */
  const copy = <T>(value: T): T => JSON.parse(JSON.stringify(value))

  const spawn = (): WorkerProcess => {
    const number = ++started
    const host = createHost(`w${number}`)
    let hear: (message: unknown) => void = () => undefined
    let ended: (code: number | null, signal: string | null) => void = () => undefined
    let process: Process | undefined
    let slot = -1
    const workerClock = engine.clockOf(host)

    const say = (message: FromWorker): void => {
      const sent = copy(message)
      if (message.kind === 'share') trace(() => `${host.name} shares ${JSON.stringify(message.items)}`)
      later(() => hear(sent), primary)
    }
    const peers = createPeers(workerClock, say)
    const exit = (code: number | null, signal: string | null): void => {
      if (host.gone) return
      host.gone = true
      if (process !== undefined && all[slot] === process) all[slot] = undefined
      for (const die of host.deaths) die()
      later(() => ended(code, signal), primary)
    }
    exits.set(host, () => exit(null, 'SIGKILL'))

    const start = (message: ToWorker & { readonly kind: 'start' }): void => {
      if (failing > 0) {
        failing--
        say({ kind: 'cannot_listen', message: 'EADDRINUSE' })
        engine.at(engine.nowMs(), () => exit(1, null), host)
        return
      }
      slot = Array.from({ length: plan.processes }, (_, i) => i).find(i => all[i] === undefined) ?? plan.processes
      const share = (items: readonly StateUpdate[]): void => say({ kind: 'share', items })
      const made = createProcess(deps, configFrom(message.texts), slot, number, host, { shareWith: share, peers })
      process = made
      made.proxy.applyUpdates(message.items)
      all[slot] = made
      ever.push(made)
      say({ kind: 'ready', port: 3000 })
    }
    const configFrom = (texts: FileTexts): Config => {
      const text = texts[0]?.[1] ?? ''
      return configOf(plan, text === '' ? undefined : Number(text))
    }
    /** As commands/serve-worker.ts does it. */
    const take = (message: ToWorker): void => {
      const proxy = process?.proxy
      if (message.kind === 'start') start(message)
      else if (proxy === undefined) return
      else if (message.kind === 'share') proxy.applyUpdates(message.items)
      else if (message.kind === 'lead') proxy.startProbes()
      else if (message.kind === 'count') say({ kind: 'counted', round: message.round, state: proxy.state() })
      else if (message.kind === 'gathered' || message.kind === 'admission') peers.onResult(message)
      else if (message.kind === 'reload') proxy.reload(configFrom(message.texts), undefined)
      else if (message.kind === 'shutdown') {
        proxy.shutdown(GRACE_MS).then(() => {
          process?.close()
          say({ kind: 'counted', round: null, state: proxy.state() })
          exit(0, null)
        })
      }
    }
    engine.at(engine.nowMs() + START_MS, () => say({ kind: 'awake' }), host)
    return {
      id: number,
      pid: number,
      send(message) {
        const sent = copy(message)
        later(() => take(sent), host)
      },
      kill: () => exit(null, 'SIGKILL'),
      onMessage(run) {
        hear = run
      },
      onExit(run) {
        ended = run
      },
    }
  }

  const log = createLog({
    clock,
    level: () => 'info',
    format: () => 'json',
    write: text => trace(() => `primary log ${text.trimEnd()}`),
  })
  const supervisor = createSupervisor({
    workers: plan.processes,
    args: {},
    texts: () => [['config.yaml', without === undefined ? '' : String(without)]],
    clock,
    log,
    ledger: createUsageLedger({ clock, file: undefined, onProblem: () => undefined }),
    spawn,
  })
  supervisor.start()
  return {
    all,
    primary,
    ever,
    reload(index) {
      without = index
      supervisor.reload()
    },
    kill(slot, isPortTaken) {
      const host = all[slot]?.host
      if (host === undefined) return
      if (isPortTaken) failing++
      trace(() => `p${slot} is killed`)
      exits.get(host)?.()
    },
    freeze(slot, forMs) {
      freeze(all[slot]?.host ?? primary, engine.nowMs(), forMs)
    },
    primaryPausedMs: (fromMs, toMs) => pausedMs(primary, fromMs, toMs),
    shutdown: () => supervisor.shutdown(GRACE_MS),
  }
}

/** One process alone. */
function createSingle(deps: ProcessesDeps): Processes {
  const { engine, plan, configOf } = deps
  const process = createProcess(deps, configOf(plan, undefined), 0, 0, createHost('p0'), {})
  process.proxy.startProbes()
  return {
    all: [process],
    primary: undefined,
    ever: [process],
    reload: without => process.proxy.reload(configOf(plan, without), undefined),
    kill: () => undefined,
    freeze: (_, forMs) => freeze(process.host, engine.nowMs(), forMs),
    primaryPausedMs: () => 0,
    shutdown: () => process.proxy.shutdown(GRACE_MS).then(process.close),
  }
}

export function createProcesses(deps: ProcessesDeps): Processes {
  return deps.plan.processes === 1 ? createSingle(deps) : createWorkers(deps)
}

/**
 * A backend's place in a process's pool, by the backend's name; undefined where the config in force does not have it.
 */
export function memberOf({ proxy }: Process, name: string): Member | undefined {
  return proxy
    .runtime()
    .pool(MODEL)
    ?.members.find(({ backend }) => backend.name === name)
}
