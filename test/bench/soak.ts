// `make soak MINUTES=5`: a proxy in this process under mixed load while its backends keep failing. At the end
// everything it took must be where it was after a warm-up: connections, timers, leases, held bytes, memory. How long
// the event loop was held up is reported and never judged.
//   MINUTES=5 or SECONDS=60   how long
//   CLIENTS=32                how many at once
//   SEED=1                    another course of chance
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../lib/clock.ts'
import { createLog } from '../../lib/log.ts'
import { createProxy, type ProxyServer } from '../../lib/server/proxy.ts'
import { readConfig } from '../fixtures/run-proxy.ts'
import { heard, startHere, stop } from './children.ts'
import { bytesInUse, countingTimers, type Inventory, takeInventory } from './inventory.ts'
import { columns } from './report.ts'
import { type FromBackends, RESOURCE_KEY, RESOURCES, type ToBackends } from './soak-backends.ts'
import { type FromClients, SOAK_KEY, type ToClients } from './soak-clients.ts'

/** What is left may come back a little late: a probe is in progress, a connection is closing. */
const SETTLE_MS = 10_000
const LOOK_EVERY_MS = 100
/**
 * Compiled code, caches at their bound and fragments; a leak of a hundred bytes a request is over it within a minute.
 */
const MEMORY_SLACK_BYTES = 4 * 1024 * 1024
/** An owner of a response whose client never heard its id stays, up to a bound (lib/balancer/owners.ts). */
const OWNER_BYTES = 400

function configText(ports: readonly number[]): string {
  const backends = RESOURCES.map(
    (name, i) => `      - {name: ${name}, endpoint: "http://127.0.0.1:${ports[i]}", api_key: ${RESOURCE_KEY}}`,
  ).join('\n')
  return `auth: {keys: [{name: soak, key: ${SOAK_KEY}}]}
models:
  gpt-4o:
    stream_usage: true
    backends:
${backends}
  embed:
    balance: least_busy
    backends:
${backends}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s, stream_keepalive: 200ms}
retry: {timeout: 600ms, connect_timeout: 400ms, first_output_timeout: 600ms, stream_hold: 200ms, idle_timeout: 600ms, max_wait: 300ms}
health_check: {interval: 1s, timeout: 400ms, recovery: 300ms}
`
}

interface Settings {
  readonly seconds: number
  readonly clients: number
  readonly seed: number
}

function settingsFrom(env: NodeJS.ProcessEnv): Settings {
  const given = (name: string, fallback: number): number => {
    const value = Number(env[name] ?? fallback)
    if (!(value > 0)) throw new Error(`${name} must be a number above 0`)
    return value
  }
  return { seconds: given('SECONDS', given('MINUTES', 5) * 60), clients: given('CLIENTS', 32), seed: given('SEED', 1) }
}

interface Soaked {
  readonly requests: number
  readonly faults: number
  readonly outcomes: Readonly<Record<string, number>>
  readonly before: Inventory
  readonly after: Inventory
  readonly memoryBefore: number
  readonly memoryAfter: number
  readonly owners: number
  readonly logLines: number
  readonly loopDelayMs: { readonly p50: number; readonly p99: number; readonly max: number }
  /** What should not have been; empty: all is well. */
  readonly problems: readonly string[]
}

/** What there is more of than before. */
function leftOver(before: Inventory, after: Inventory): string[] {
  return Object.entries(after)
    .filter(([name, count]) => count > (before[name] ?? 0))
    .map(([name, count]) => `${name}: ${before[name] ?? 0} before, ${count} after`)
}

/** Waits until there is no more of anything than `before`; at the limit: what there is. */
async function settled(proxy: ProxyServer, timers: () => number, before: Inventory): Promise<Inventory> {
  const untilMs = performance.now() + SETTLE_MS
  for (;;) {
    const now = await takeInventory(proxy, timers)
    if (leftOver(before, now).length === 0 || performance.now() > untilMs) return now
    await sleep(LOOK_EVERY_MS)
  }
}

async function soak({ seconds, clients, seed }: Settings): Promise<Soaked> {
  const far = startHere([], './soak-backends.js')
  const near = startHere([], './soak-clients.js')
  await Promise.all([heard<FromBackends, 'ready'>(far, 'ready'), heard<FromClients, 'ready'>(near, 'ready')])
  const wake = (turn: number) => {
    const working = heard<FromBackends, 'working'>(far, 'working')
    const message: ToBackends = { kind: 'work', seed: seed + turn }
    far.send(message)
    return working
  }
  const rest = () => {
    const resting = heard<FromBackends, 'resting'>(far, 'resting')
    const message: ToBackends = { kind: 'rest' }
    far.send(message)
    return resting
  }
  const { ports } = await wake(0)

  let logLines = 0
  const { clock, live } = countingTimers(systemClock())
  const log = createLog({
    clock,
    level: () => 'info',
    format: () => 'json',
    write: () => {
      logLines++
    },
  })
  const proxy = createProxy({
    config: readConfig(configText(ports)),
    version: 'soak',
    clock,
    random: Math.random,
    log,
    tokenAuthorizer: () => ({
      authorize: () => ({ kind: 'unavailable', reason: 'no tokens here', waitMs: 60_000, permanent: true }),
    }),
  })
  const { port } = await proxy.listen()
  // Opened at their first use: theirs is a handle that comes and stays.
  void process.stdout
  void process.stderr
  const atStart = await takeInventory(proxy, live)
  const load = (forSeconds: number, turn: number) => {
    const worked = heard<FromClients, 'worked'>(near, 'worked')
    const message: ToClients = { kind: 'work', port, seconds: forSeconds, clients, seed: seed + turn }
    near.send(message)
    return worked
  }

  try {
    // Code is compiled, pools and bounded memories are filled: only now is there a place to come back to.
    await load(Math.min(30, Math.max(2, seconds / 4)), 1)
    await rest()
    const before = await settled(proxy, live, atStart)
    const memoryBefore = bytesInUse()
    const ownersBefore = proxy.shared.owners.size()

    const delays = monitorEventLoopDelay({ resolution: 5 })
    await wake(2)
    delays.enable()
    const { outcomes, wrong } = await load(seconds, 3)
    delays.disable()
    const { faults, violations } = await rest()
    const after = await settled(proxy, live, before)
    const memoryAfter = bytesInUse()
    const owners = proxy.shared.owners.size()

    const grown = memoryAfter - memoryBefore
    const allowed = MEMORY_SLACK_BYTES + (owners - ownersBefore) * OWNER_BYTES
    const problems = [
      ...wrong,
      ...violations.map(text => `a backend noted: ${text}`),
      ...leftOver(atStart, before),
      ...leftOver(before, after),
    ]
    if (globalThis.gc === undefined) problems.push('memory cannot be judged without --expose-gc')
    else if (grown > allowed) problems.push(`memory: ${megabytes(grown)} more than after the warm-up`)
    return {
      requests: Object.values(outcomes).reduce((sum, count) => sum + count, 0),
      faults,
      outcomes,
      before,
      after,
      memoryBefore,
      memoryAfter,
      owners,
      logLines,
      loopDelayMs: { p50: delays.percentile(50) / 1e6, p99: delays.percentile(99) / 1e6, max: delays.max / 1e6 },
      problems,
    }
  } finally {
    await proxy.shutdown(1_000)
    await Promise.all([stop(far), stop(near)])
  }
}

function megabytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MB`
}

function report(soaked: Soaked): string {
  const { before, after, memoryBefore, memoryAfter, loopDelayMs, problems } = soaked
  const held = [...new Set([...Object.keys(before), ...Object.keys(after)])].map(name => [
    name,
    String(before[name] ?? 0),
    String(after[name] ?? 0),
  ])
  const outcomes = Object.entries(soaked.outcomes)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, count]) => [name, String(count)])
  const delays = Object.entries(loopDelayMs).map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`)
  return [
    columns([['what came of it', 'requests'], ...outcomes]),
    columns([
      ['held', 'after warm-up', 'at the end'],
      ...held,
      ['memory', megabytes(memoryBefore), megabytes(memoryAfter)],
    ]),
    `${soaked.requests} requests, ${soaked.faults} faults, ${soaked.logLines} log lines, ${soaked.owners} owners remembered`,
    `event-loop delay: ${delays.join(', ')}`,
    ...(problems.length === 0 ? ['Everything came back.'] : problems.map(problem => `- ${problem}`)),
  ].join('\n\n')
}

const soaked = await soak(settingsFrom(process.env))
process.stdout.write(`${report(soaked)}\n`)
process.exitCode = soaked.problems.length === 0 ? 0 : 1
