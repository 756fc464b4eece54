// The proxy's processes of a world: the real thing, with this world's clock, chance, connections and messages.
import type { TokenAuthorizerFactory } from '../../lib/azure/credentials.ts'
import type { Member } from '../../lib/balancer/pool.ts'
import { parseEndpoint } from '../../lib/config/endpoint.ts'
import type { BackendConfig, Config, Endpoint } from '../../lib/config/types.ts'
import { createLog } from '../../lib/log.ts'
import { createProxy, type ProxyServer } from '../../lib/server/proxy.ts'
import { readConfig } from '../fixtures/run-proxy.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'
import type { Backends } from './backends.ts'
import { createHost, type Engine, type Host } from './engine.ts'
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
  const [first] = model?.backends ?? []
  if (model === undefined || first === undefined) throw new Error('the base config has no backend')
  const endpoints = new Map<string, Endpoint>()
  const endpoint = (host: string): Endpoint => {
    const made = endpoints.get(host) ?? endpointOf(host)
    endpoints.set(host, made)
    return made
  }
  const backendOf = ({ name, host, deployment, apiVersion, weight, priority }: BackendPlan): BackendConfig => ({
    ...first,
    name,
    endpoint: endpoint(host),
    deployment,
    apiVersion,
    weight,
    priority,
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
}

const NO_TOKENS: TokenAuthorizerFactory = () => ({
  authorize: () => ({ kind: 'unavailable', reason: 'no tokens in this world' }),
})

export interface ProcessesDeps {
  readonly engine: Engine
  readonly plan: WorldPlan
  readonly configOf: ConfigMaker
  readonly backends: () => Backends
  onLine(process: Process, line: LogLine): void
  trace(text: () => string): void
}

export interface Processes {
  /** Those that live, by index; a place is empty between a death and the next start. */
  readonly all: readonly (Process | undefined)[]
  /** Every process that ever was. */
  readonly ever: readonly Process[]
  reload(without: number | undefined): void
  kill(index: number, againAfterMs: number): void
  shutdown(): Promise<void>
}

export function createProcesses({ engine, plan, configOf, backends, onLine, trace }: ProcessesDeps): Processes {
  const all: (Process | undefined)[] = []
  const ever: Process[] = []
  let config = configOf(plan, undefined)
  let leader: Process | undefined

  const lead = (): void => {
    if (leader !== undefined && !leader.host.gone) return
    leader = all.find(candidate => candidate !== undefined)
    leader?.proxy.startProbes()
  }

  const share = (from: Process, items: Parameters<ProxyServer['learn']>[0]): void => {
    const text = JSON.stringify(items)
    trace(() => `p${from.index} shares ${text}`)
    engine.at(engine.nowMs() + plan.messageMs, () => {
      for (const to of all) {
        if (to === undefined || to === from) continue
        engine.at(engine.nowMs() + plan.messageMs, () => to.proxy.learn(JSON.parse(text)), to.host)
      }
    })
  }

  const start = (index: number): void => {
    const host = createHost(`p${index}`)
    const clock = engine.clockOf(host)
    const lines: LogLine[] = []
    const log = createLog({
      clock,
      level: () => 'info',
      format: () => 'json',
      write(text) {
        trace(() => `p${index} log ${text.trimEnd()}`)
        const line: LogLine = JSON.parse(text)
        lines.push(line)
        onLine(process, line)
      },
    })
    const proxy = createProxy({
      config,
      version: 'simulated',
      clock,
      random: seededRandom(plan.seed * 31 + ever.length),
      log,
      tokenAuthorizer: NO_TOKENS,
      makeSocket: (_, options) =>
        backends().connect(index, host, 'host' in options ? (options.host ?? '') : '', options),
      ...(plan.processes > 1 ? { shareWith: items => share(process, items) } : {}),
    })
    const process: Process = { index, host, proxy, lines }
    all[index] = process
    ever.push(process)
    lead()
  }

  for (let i = 0; i < plan.processes; i++) start(i)

  return {
    all,
    ever,
    reload(without) {
      config = configOf(plan, without)
      const taken = config
      for (const process of all) {
        if (process === undefined) continue
        engine.at(engine.nowMs() + plan.messageMs, () => process.proxy.reload(taken, undefined), process.host)
      }
    },
    kill(index, againAfterMs) {
      const process = all[index]
      if (process === undefined) return
      trace(() => `p${index} is killed`)
      process.host.gone = true
      all[index] = undefined
      for (const die of process.host.deaths) die()
      lead()
      engine.at(engine.nowMs() + againAfterMs, () => start(index))
    },
    async shutdown() {
      await Promise.all(all.map(process => process?.proxy.shutdown(5_000)))
    },
  }
}

/** A backend's place in a process's pool, by the backend's name; undefined where the config in force does not have it. */
export function memberOf({ proxy }: Process, name: string): Member | undefined {
  return proxy
    .runtime()
    .pool(MODEL)
    ?.members.find(({ backend }) => backend.name === name)
}
