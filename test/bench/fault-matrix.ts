// `make fault-matrix`: real requests over two simulated resources in this process. One of them fails in each way that a
// client must not notice, alone and two at a time. Then again with a poison request every 200 ms, which must not move
// /health.
//   REQUESTS=10000   for each fault and each pair
//   FAULTS=fail-500,hang-up   only these, and their pairs
//   PAIRS=0          faults alone only
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../lib/clock.ts'
import { createLog } from '../../lib/log.ts'
import { createProxy } from '../../lib/server/proxy.ts'
import {
  errorEvent,
  FAULT_HEADER,
  type Fault,
  fail,
  garbage,
  hangUp,
  headersThenSilence,
  refuseWith,
  resetAfterHeaders,
  silence,
  staleSocket,
  throttleBy,
} from '../../lib/simulator/faults.ts'
import { createSimulatedResource, type SimulatedResource } from '../../lib/simulator/resource.ts'
import { readConfig } from '../fixtures/run-proxy.ts'

const KEY = 'matrix-key'
const AZURE_KEY = 'matrix-azure-key'
const POISON_EVERY_MS = 200
const HEALTH_EVERY_MS = 50
const CLIENTS = 16

/** Every fault of the outcome table that strikes before a client has seen output. */
const FAULTS: Readonly<Record<string, Fault>> = {
  'fail-500': fail(500),
  'fail-502-html': fail(502, 'html'),
  'fail-503-empty': fail(503, 'empty'),
  'fail-504-gateway': fail(504, 'gateway'),
  'fail-503-retry-after': fail(503, 'model', { 'retry-after': '1' }),
  'fail-402': fail(402),
  'fail-407': fail(407, 'html'),
  'fail-421': fail(421, 'empty'),
  'fail-408': refuseWith('timeout'),
  'waf-403': fail(403, 'html'),
  'quota-403': fail(403, 'gateway', { 'retry-after': '1' }),
  'redirect-302': fail(302, 'html', { location: 'https://login.example/' }),
  'page-200': fail(200, 'html'),
  'page-404': fail(404, 'html'),
  'throttle-ms': throttleBy({ kind: 'ms', ms: 300 }),
  'throttle-none': throttleBy({ kind: 'none' }),
  'throttle-date': throttleBy({ kind: 'date', seconds: 1 }),
  'hang-up': hangUp(),
  silence: silence(),
  'headers-then-silence': headersThenSilence(),
  'reset-after-headers': resetAfterHeaders(),
  garbage: garbage(),
  'stale-socket': staleSocket(),
  'wrong-key': refuseWith('wrong_key'),
  'network-rule': refuseWith('network_rule'),
  'deployment-missing': refuseWith('deployment_not_found'),
  'resource-missing': refuseWith('resource_not_found'),
  'wrong-version': refuseWith('version'),
  'error-event': errorEvent('chat', 1),
}

interface Course {
  readonly name: string
  readonly faults: readonly Fault[]
}

interface Seen {
  readonly requests: number
  readonly errors: number
  readonly problem: string | undefined
  readonly healthAway: number
  readonly poisoned: number
  readonly firstTierShare: number
}

function configText(first: string, second: string): string {
  return `auth: {keys: [{name: matrix, key: ${KEY}}, {name: poison, key: poison-${KEY}}]}
models:
  gpt-4o:
    backends:
      - {name: first, endpoint: "${first}", api_key: ${AZURE_KEY}}
      - {name: second, endpoint: "${second}", api_key: ${AZURE_KEY}, priority: 2}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
retry: {timeout: 1s, connect_timeout: 2s, first_output_timeout: 1s, stream_hold: 500ms, idle_timeout: 1s}
health_check: {interval: 500ms, timeout: 400ms, recovery: 300ms}
`
}

function chat(url: string, stream: boolean, headers: Record<string, string>): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ model: 'gpt-4o', stream, messages: [{ role: 'user', content: 'Hello' }] }),
  })
}

/** What was wrong with one answer; undefined: nothing. */
async function problemOf(asked: Promise<Response>, stream: boolean): Promise<string | undefined> {
  try {
    const response = await asked
    const text = await response.text()
    if (response.status !== 200) return `${response.status} ${text.slice(0, 200)}`
    if (stream ? !text.endsWith('data: [DONE]\n\n') || text.includes('"error"') : !text.includes('"choices"')) {
      return `a broken answer: ${text.slice(-200)}`
    }
    return undefined
  } catch (error) {
    return String(error)
  }
}

/** One course: all requests of it, with or without poison beside them. */
async function run({ faults }: Course, requests: number, poison: boolean): Promise<Seen> {
  const clock = systemClock()
  // The first one fails every second request, with two faults every third one differently.
  const plan = faults.map((fault, i) => ({ every: i + 2, fault }))
  const resources = ['first', 'second'].map(
    (name, i): SimulatedResource =>
      createSimulatedResource({
        name,
        keys: [AZURE_KEY],
        deployments: [{ name: 'gpt-4o', kind: 'chat' }],
        clock,
        deltas: 3,
        faultHeader: true,
        ...(i === 0 ? { plan } : {}),
      }),
  )
  const [first, second] = await Promise.all(resources.map(resource => resource.listen()))
  const log = createLog({ clock, level: () => 'error', format: () => 'json', write: () => undefined })
  const proxy = createProxy({
    config: readConfig(configText(first?.url ?? '', second?.url ?? '')),
    version: 'matrix',
    clock,
    random: Math.random,
    log,
    tokenAuthorizer: () => ({
      authorize: () => ({ kind: 'unavailable', reason: 'none here', waitMs: 60_000, permanent: true }),
    }),
  })
  const { port } = await proxy.listen()
  const url = `http://127.0.0.1:${port}`
  let begun = 0
  let errors = 0
  let problem: string | undefined
  let firstTier = 0
  let healthAway = 0
  let poisoned = 0
  let over = false

  const client = async (): Promise<void> => {
    while (begun < requests) {
      const n = begun++
      const stream = n % 2 === 0
      const asked = chat(url, stream, {})
      const wrong = await problemOf(asked, stream)
      if (wrong !== undefined) {
        errors++
        problem ??= wrong
      } else if ((await asked).headers.get('x-proxy-backend') === 'first') firstTier++
    }
  }
  const poisoner = async (): Promise<void> => {
    const words = ['fail=500', 'hang-up', 'fail=403', 'fail=404', 'fail=502']
    while (!over) {
      const word = words[poisoned++ % words.length] ?? ''
      await chat(url, false, { authorization: `Bearer poison-${KEY}`, [FAULT_HEADER]: word }).then(
        response => response.text(),
        () => undefined,
      )
      await sleep(POISON_EVERY_MS)
    }
  }
  const watcher = async (): Promise<void> => {
    while (!over) {
      const response = await fetch(`${url}/health`)
      await response.text()
      if (response.status !== 200) healthAway++
      await sleep(HEALTH_EVERY_MS)
    }
  }
  const beside = poison ? [poisoner(), watcher()] : []
  await Promise.all(Array.from({ length: CLIENTS }, client))
  over = true
  await Promise.all(beside)
  await proxy.shutdown(1_000)
  await Promise.all(resources.map(resource => resource.close()))
  return { requests, errors, problem, healthAway, poisoned, firstTierShare: firstTier / requests }
}

function coursesFrom(env: NodeJS.ProcessEnv): readonly Course[] {
  const wanted = env.FAULTS === undefined ? Object.keys(FAULTS) : env.FAULTS.split(',')
  const named = wanted.flatMap(name => {
    const fault = FAULTS[name]
    return fault === undefined ? [] : [{ name, fault }]
  })
  const alone = named.map(({ name, fault }) => ({ name, faults: [fault] }))
  if (env.PAIRS === '0') return alone
  const pairs = named.flatMap((one, i) =>
    named.slice(i + 1).map(other => ({ name: `${one.name} + ${other.name}`, faults: [one.fault, other.fault] })),
  )
  return [...alone, ...pairs]
}

async function main(env: NodeJS.ProcessEnv): Promise<number> {
  const requests = Number(env.REQUESTS ?? 10_000)
  let failed = 0
  let asked = 0
  const report = (name: string, seen: Seen, mayAsk: string): void => {
    asked += seen.requests
    const wrong = seen.errors > 0 || seen.healthAway > 0
    if (wrong) failed++
    const figures = `${seen.requests} requests, ${seen.errors} client errors, /health away ${seen.healthAway} times`
    process.stdout.write(
      `${wrong ? 'WRONG' : 'ok'} ${name}: ${figures}${mayAsk}${seen.problem ? ` (${seen.problem})` : ''}\n`,
    )
  }
  const sound = await run({ name: 'poison alone', faults: [] }, requests, true)
  const share = sound.firstTierShare
  report(
    'poison beside sound backends',
    sound,
    `, ${sound.poisoned} poisoned, first tier ${(share * 100).toFixed(1)} %`,
  )
  for (const course of coursesFrom(env)) {
    const alone = await run(course, requests, false)
    // With poison beside them a client may meet the time of a throttled backend; what must hold is /health.
    const beside = await run(course, Math.ceil(requests / 10), true)
    report(course.name, { ...alone, requests: alone.requests + beside.requests, healthAway: beside.healthAway }, '')
  }
  process.stdout.write(`${asked} requests asked; ${failed} courses wrong\n`)
  return failed === 0 ? 0 : 1
}

process.exitCode = await main(process.env)
