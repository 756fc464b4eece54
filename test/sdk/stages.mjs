// Stages for the suites: the built proxy in front of simulated resources, or its demo, and what a suite finds in its environment.
//   tokens        two sound resources; clients sign in with tokens of a simulated issuer
//   demo          `--demo`
//   one faulty    two resources; one fails, throttles, hangs up or breaks off at every few requests
//   both faulty   two resources that take turns in failing: at every moment one of them is sound
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../dist/lib/clock.js'
import { closeTurn, errorEvent, fail, hangUp, throttleBy, turnError } from '../../dist/lib/simulator/faults.js'
import { createSimulatedIssuer } from '../../dist/lib/simulator/issuer.js'
import { createSimulatedResource } from '../../dist/lib/simulator/resource.js'

const AUDIENCE = 'api://azure-openai-proxy'
const DEPLOYMENTS = [
  { name: 'gpt-4o', kind: 'chat' },
  { name: 'text-embedding-3-small', kind: 'embeddings' },
  { name: 'gpt-6-luna', kind: 'decision' },
  { name: 'claude-sonnet-5', kind: 'claude' },
]
const FAULTS = [
  { every: 7, fault: hangUp() },
  { every: 5, fault: errorEvent('chat', 1) },
  { every: 4, fault: throttleBy({ kind: 'both', ms: 200 }) },
  { every: 3, fault: fail(503) },
]
/** In its own turn a resource fails every request. */
const WORSE = [...FAULTS, { every: 2, fault: fail(500) }, { every: 1, fault: fail(502) }]
const TURN_FAULTS = [turnError(503, 'server_error'), closeTurn(1011), turnError(429, 'rate_limit_exceeded')]
/**
 * How long a resource fails, and how long both are sound before the other begins. An SDK's two retries outlast the
 * former, so that what one resource alone can answer is answered; a failover fits into the latter, also on a busy machine.
 */
const FAILING_MS = 700
const SOUND_MS = 500

/** Lets the resources fail as the mode says. @returns what ends it */
function trouble(mode, resources, plans) {
  const [first, second] = resources
  if (mode === 'one faulty') {
    plans[0].push(...FAULTS)
    const timer = setInterval(() => first.nextTurn(TURN_FAULTS[0]), 1_500)
    return () => clearInterval(timer)
  }
  if (mode !== 'both faulty') return () => undefined
  let failing = 0
  let timer
  const begin = () => {
    const resource = failing === 0 ? first : second
    const plan = plans[failing]
    plan.push(...WORSE)
    resource.nextTurn(...TURN_FAULTS)
    timer = setTimeout(() => {
      plan.length = 0
      resource.clear()
      failing = 1 - failing
      timer = setTimeout(begin, SOUND_MS)
    }, FAILING_MS)
  }
  begin()
  return () => clearTimeout(timer)
}

/** @param more lines of the config */
function configText(urls, auth, more) {
  const backends = urls.map((url, i) => `{name: r${i}, endpoint: "${url}", api_key: azure-key}`).join(', ')
  return `
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
auth: ${auth}
models:
${DEPLOYMENTS.map(({ name }) => `  ${name}: {strip_foreign_reasoning: true, backends: [${backends}]}`).join('\n')}
health_check: {recovery: 300ms}
${more}
`
}

async function startProxy(flags) {
  const child = spawn(process.execPath, ['bin/proxy.js', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] })
  let log = ''
  const port = await new Promise((resolve, reject) => {
    child.on('exit', code => reject(new Error(`the proxy ended with ${code}`)))
    child.stdout.on('data', chunk => {
      if (log.length < 64 * 1024 * 1024) log += chunk
      const found = /"msg":"listening".*?"port":(\d+)|listening.*port=(\d+)/.exec(log)
      if (found !== null) resolve(found[1] ?? found[2])
    })
  })
  return {
    url: `http://127.0.0.1:${port}`,
    log: () => log,
    async stop() {
      const ended = new Promise(resolve => child.on('exit', resolve))
      child.kill('SIGTERM')
      await ended
    },
  }
}

/**
 * Runs `use` on a stage.
 * @param use is given the environment of a suite
 * @returns its result, and how often the proxy saved a request by a failover or asked a backend in vain
 */
export async function onStage(mode, use) {
  const folder = mkdtempSync(join(tmpdir(), 'sdk-'))
  const config = join(folder, 'config.yaml')
  const plans = [[], []]
  const clock = systemClock()
  const resources =
    mode === 'demo'
      ? []
      : plans.map((plan, i) =>
          createSimulatedResource({
            name: `r${i}`,
            clock,
            keys: ['azure-key'],
            deployments: DEPLOYMENTS,
            plan,
            // Codex' own provider sends them.
            takesItemMetadata: true,
          }),
        )
  const urls = await Promise.all(resources.map(async resource => (await resource.listen()).url))
  const issuer = mode === 'tokens' ? createSimulatedIssuer({ clock, audience: AUDIENCE }) : undefined
  const issued = await issuer?.listen()
  const auth =
    issued === undefined
      ? '{keys: [{name: suite, key: suite-key}]}'
      : `{tokens: [{name: apps, issuer: "${issued.issuer}", audience: "${AUDIENCE}", subjects: [client-app]}]}`
  // One that fails may throttle while the other has not yet proved that it is back: then requests wait for a moment.
  // What agents need of a resource that fails, its encrypted reasoning, is left out meanwhile.
  const more = mode === 'both faulty' ? 'retry: {max_wait: 2s}' : ''
  writeFileSync(config, configText(urls, auth, more), { mode: 0o600 })
  const proxy = await startProxy(mode === 'demo' ? ['--demo', '--port', '0'] : ['--config', config])
  const endTrouble = trouble(mode, resources, plans)
  try {
    const result = await use({
      PROXY_URL: proxy.url,
      PROXY_KEY: mode === 'demo' ? 'demo-key' : 'suite-key',
      PROXY_MODE: mode,
      ...(issued === undefined
        ? {}
        : {
            TOKEN_URL: issued.tokenUrl,
            WRONG_TOKEN: issuer.token({ claims: { aud: 'https://cognitiveservices.azure.com' } }),
          }),
    })
    return { result, saved: proxy.log().match(/"attempts":[2-9]/g)?.length ?? 0, log: proxy.log() }
  } finally {
    endTrouble()
    await proxy.stop()
    await Promise.all([issuer, ...resources].map(server => server?.close()))
    rmSync(folder, { recursive: true })
  }
}
