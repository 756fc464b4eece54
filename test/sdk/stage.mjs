// Starts an issuer of tokens, two simulated resources and the built proxy, and runs a command that finds them in its environment.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../dist/lib/clock.js'
import { createSimulatedIssuer } from '../../dist/lib/simulator/issuer.js'
import { createSimulatedResource } from '../../dist/lib/simulator/resource.js'

const AUDIENCE = 'api://azure-openai-proxy'
const clock = systemClock()
const issuer = createSimulatedIssuer({ clock, audience: AUDIENCE })
const { issuer: issuerUrl, tokenUrl } = await issuer.listen()
const resources = ['one', 'two'].map(name =>
  createSimulatedResource({
    name,
    clock,
    keys: ['azure-key'],
    deployments: [
      { name: 'gpt-4o', kind: 'chat' },
      { name: 'text-embedding-3-small', kind: 'embeddings' },
    ],
  }),
)
const urls = await Promise.all(resources.map(async resource => (await resource.listen()).url))
const backends = urls.map(url => `{endpoint: "${url}", api_key: azure-key}`).join(', ')
const folder = mkdtempSync(join(tmpdir(), 'sdk-'))
const config = join(folder, 'config.yaml')
writeFileSync(
  config,
  `
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
auth: {tokens: [{name: apps, issuer: "${issuerUrl}", audience: "${AUDIENCE}", subjects: [client-app]}]}
models:
  gpt-4o: {backends: [${backends}]}
  text-embedding-3-small: {backends: [${backends}]}
`,
)

const proxy = spawn(process.execPath, ['bin/proxy.js', '--config', config], { stdio: ['ignore', 'pipe', 'inherit'] })
const port = await new Promise((resolve, reject) => {
  let text = ''
  proxy.on('exit', code => reject(new Error(`the proxy ended with ${code}`)))
  proxy.stdout.on('data', chunk => {
    text += chunk
    const found = /"msg":"listening","port":(\d+)/.exec(text)?.[1]
    if (found !== undefined) resolve(found)
  })
})

const [command = '', ...args] = process.argv.slice(2)
const env = {
  ...process.env,
  PROXY_URL: `http://127.0.0.1:${port}`,
  TOKEN_URL: tokenUrl,
  WRONG_TOKEN: issuer.token({ claims: { aud: 'https://cognitiveservices.azure.com' } }),
}
const code = await new Promise(resolve => {
  spawn(command, args, { stdio: 'inherit', env })
    .on('exit', resolve)
    .on('error', () => resolve(1))
})
const ended = new Promise(resolve => proxy.on('exit', resolve))
proxy.kill('SIGTERM')
await ended
await Promise.all([issuer, ...resources].map(server => server.close()))
rmSync(folder, { recursive: true })
process.exitCode = code ?? 1
