// Starts the built proxy, in demo mode or in front of two resources that fail and throttle, and runs a command that finds it in its
// environment: PROXY_URL, PROXY_KEY.
//   node suite-stage.mjs demo|faulty COMMAND…
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../dist/lib/clock.js'
import { errorEvent, fail, hangUp, throttleBy } from '../../dist/lib/simulator/faults.js'
import { createSimulatedResource } from '../../dist/lib/simulator/resource.js'

const DEPLOYMENTS = [
  { name: 'gpt-4o', kind: 'chat' },
  { name: 'text-embedding-3-small', kind: 'embeddings' },
  { name: 'gpt-6-luna', kind: 'decision' },
  { name: 'claude-sonnet-5', kind: 'claude' },
]
/** The first of two resources: its requests meet one of these now and then. The other is sound. */
const PLAN = [
  { every: 7, fault: hangUp() },
  { every: 5, fault: errorEvent('chat', 1) },
  { every: 4, fault: throttleBy({ kind: 'both', ms: 300 }) },
  { every: 3, fault: fail(503) },
]

const [mode, command = '', ...args] = process.argv.slice(2)
const folder = mkdtempSync(join(tmpdir(), 'sdk-'))
const config = join(folder, 'config.yaml')
const resources =
  mode === 'demo'
    ? []
    : [PLAN, []].map((plan, i) =>
        createSimulatedResource({ name: `r${i}`, clock: systemClock(), keys: ['k'], deployments: DEPLOYMENTS, plan }),
      )
const urls = await Promise.all(resources.map(async resource => (await resource.listen()).url))
const backends = urls.map((url, i) => `{name: r${i}, endpoint: "${url}", api_key: k}`).join(', ')
writeFileSync(
  config,
  `
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
auth: {keys: [{name: suite, key: suite-key}]}
models:
${DEPLOYMENTS.map(({ name }) => `  ${name}: {backends: [${backends}]}`).join('\n')}
health_check: {recovery: 500ms}
`,
)
const flags = mode === 'demo' ? ['--demo', '--port', '0'] : ['--config', config]
const proxy = spawn(process.execPath, ['bin/proxy.js', ...flags], { stdio: ['ignore', 'pipe', 'inherit'] })
const port = await new Promise((resolve, reject) => {
  let text = ''
  proxy.on('exit', code => reject(new Error(`the proxy ended with ${code}`)))
  proxy.stdout.on('data', chunk => {
    text += chunk
    const found = /"msg":"listening".*?"port":(\d+)|listening.*port=(\d+)/.exec(text)
    if (found !== null) resolve(found[1] ?? found[2])
  })
})
const env = {
  ...process.env,
  PROXY_URL: `http://127.0.0.1:${port}`,
  PROXY_KEY: mode === 'demo' ? 'demo-key' : 'suite-key',
  PROXY_MODE: mode,
}
const code = await new Promise(resolve => {
  spawn(command, args, { stdio: 'inherit', env })
    .on('exit', resolve)
    .on('error', () => resolve(1))
})
const ended = new Promise(resolve => proxy.on('exit', resolve))
proxy.kill('SIGTERM')
await ended
await Promise.all(resources.map(server => server.close()))
rmSync(folder, { recursive: true })
process.exitCode = code ?? 1
