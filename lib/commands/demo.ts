// `--demo`: three simulated Azure OpenAI resources and a proxy in front of them, in one process. One is healthy, one
// slow, one fails and throttles now and then, so that failover can be watched in the log. No account, no config.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../clock.ts'
import { loadConfig } from '../config/load.ts'
import { makeCertificate } from '../simulator/certificate.ts'
import { fail, throttle } from '../simulator/faults.ts'
import { createSimulatedIssuer } from '../simulator/issuer.ts'
import { createSimulatedResource, type SimulatedDeployment, type SimulatedResource } from '../simulator/resource.ts'
import type { ExitCode } from './exit-code.ts'
import { serveLoaded } from './serve.ts'

const KEY = 'demo-key'
/** A key that is no admin's, and that stored responses of the other are hidden from. */
const USER_KEY = 'demo-user-key'
const AUDIENCE = 'api://demo-proxy'
/** As long as a demo runs. */
const TOKEN_LIFETIME_S = 86_400
const DEFAULT_PORT = 3000

const DEPLOYMENTS = [
  { name: 'gpt-4o', kind: 'chat', requestsPerMinute: 600, tokensPerMinute: 600_000 },
  { name: 'text-embedding-3-small', kind: 'embeddings', requestsPerMinute: 600, tokensPerMinute: 600_000 },
  { name: 'gpt-35-turbo-instruct', kind: 'completion' },
  { name: 'gpt-image-1', kind: 'image' },
  { name: 'gpt-4o-mini-tts', kind: 'speech' },
  { name: 'gpt-4o-transcribe', kind: 'transcription' },
  { name: 'gpt-realtime', kind: 'realtime' },
  { name: 'gpt-6-luna', kind: 'decision' },
  { name: 'claude-sonnet-5', kind: 'claude' },
] as const satisfies readonly SimulatedDeployment[]

/** Other names under which clients' examples ask for them. */
const ALIASES: Readonly<Record<string, string>> = { 'gpt-4o': 'gpt-4o-mini', 'gpt-4o-transcribe': 'whisper-1' }

function simulatedResources(): readonly SimulatedResource[] {
  const clock = systemClock()
  const common = {
    clock,
    deployments: DEPLOYMENTS,
    promptCache: true,
    deltas: 24,
    takesItemMetadata: true,
    forbidden: [KEY, USER_KEY],
  }
  return [
    createSimulatedResource({
      ...common,
      name: 'sound',
      keys: ['key-of-sound'],
      region: 'East US 2',
      firstDelayMs: 80,
      eventDelayMs: 25,
    }),
    createSimulatedResource({
      ...common,
      name: 'slow',
      keys: ['key-of-slow'],
      region: 'Sweden Central',
      firstDelayMs: 700,
      eventDelayMs: 90,
    }),
    createSimulatedResource({
      ...common,
      name: 'moody',
      keys: ['key-of-moody'],
      region: 'West Europe',
      firstDelayMs: 80,
      eventDelayMs: 25,
      plan: [
        { every: 2, fault: throttle(4) },
        { every: 3, fault: fail(503) },
      ],
    }),
  ]
}

/** The demo's config, as a user would write it. */
function configText(
  port: number,
  urls: readonly (readonly [name: string, url: string])[],
  issuer: string,
  files: TlsFiles | undefined,
): string {
  const backends = urls
    .map(([name, url]) => {
      // An older api_version has no Responses API: so no stored response ever depends on the resource that fails.
      const version = name === 'moody' ? ', api_version: "2024-10-21"' : ''
      return `      - {name: ${name}, endpoint: "${url}", api_key: key-of-${name}${version}}`
    })
    .join('\n')
  const models = DEPLOYMENTS.map(({ name }) => {
    const alias = ALIASES[name]
    return `  ${name}:\n${alias === undefined ? '' : `    aliases: [${alias}]\n`}    backends:\n${backends}`
  })
  return `
server: {port: ${port}, shutdown_grace: 5s${files === undefined ? '' : `, tls: ${JSON.stringify({ cert: files.cert, key: files.key })}`}}
auth:
  keys:
    - {name: demo, key: ${KEY}, admin: true}
    - {name: demo-user, key: ${USER_KEY}, limits: {requests_per_minute: 600}}
  tokens: [{name: demo-apps, issuer: "${issuer}", audience: "${AUDIENCE}", subjects: [demo-app]}]
models:
${models.join('\n')}
health_check: {recovery: 8s, interval: 10s}
logging: {format: text}
`
}

/** The demo's own certificate, in a folder that is gone with it. */
interface TlsFiles {
  readonly folder: string
  readonly cert: string
  readonly key: string
}

function writeCertificate(): TlsFiles {
  const folder = mkdtempSync(join(tmpdir(), 'azure-openai-proxy-demo-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const files = { folder, cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem') }
  const { cert, key } = makeCertificate('Azure OpenAI Proxy demo', { names: ['localhost'] })
  writeFileSync(files.cert, cert)
  writeFileSync(files.key, key, { mode: 0o600 })
  return files
}

/** How each runtime is made to trust the certificate. */
function trustLines({ cert }: TlsFiles): string {
  return `
Its certificate is self-made: ${cert}
  curl --cacert ${cert} · Node NODE_EXTRA_CA_CERTS=${cert} · Python and Go SSL_CERT_FILE=${cert}
`
}

function welcome(port: number, token: string, files: TlsFiles | undefined): string {
  const url = `${files === undefined ? 'http' : 'https'}://localhost:${port}`
  const text = plainWelcome(url, token)
  return files === undefined
    ? text
    : `${text.replaceAll('curl ', `curl --cacert ${files.cert} `)}${trustLines(files)}\n`
}

function plainWelcome(url: string, token: string): string {
  return `
Azure OpenAI Proxy, demo mode: three simulated Azure OpenAI resources behind ${url}
("sound" is well, "slow" is slow, "moody" fails and throttles now and then).

Live status page: ${url}/dashboard   (in a browser; it opens with the key ${KEY})

Paste into another terminal:

curl ${url}/v1/chat/completions \\
  -H "Authorization: Bearer ${KEY}" -H "Content-Type: application/json" \\
  -d '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'

curl -N ${url}/v1/chat/completions \\
  -H "Authorization: Bearer ${KEY}" -H "Content-Type: application/json" \\
  -d '{"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'

curl ${url}/v1/embeddings \\
  -H "Authorization: Bearer ${KEY}" -H "Content-Type: application/json" \\
  -d '{"model": "text-embedding-3-small", "input": "Hello"}'

curl ${url}/v1/responses \\
  -H "Authorization: Bearer ${KEY}" -H "Content-Type: application/json" \\
  -d '{"model": "gpt-4o", "input": "Hello"}'

The same without a key, with a token as Entra ID issues them:

curl ${url}/v1/chat/completions \\
  -H "Authorization: Bearer ${token}" -H "Content-Type: application/json" \\
  -d '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}'

The key ${KEY} is an admin's; ${USER_KEY} is not, opens no status page, and does not see what ${KEY} has stored.
Also there: gpt-35-turbo-instruct (completions), gpt-image-1, gpt-4o-mini-tts, gpt-4o-transcribe, gpt-realtime,
gpt-6-luna (decisions), claude-sonnet-5 (/v1/messages); ${url}/metrics

Watch the log below: attempts=2 is a failover that nobody noticed. Ctrl-C ends the demo.

`
}

/** Serves until a signal. */
export async function demo({
  port,
  tls,
  version,
}: {
  readonly port: number | undefined
  readonly tls: boolean
  readonly version: string
}): Promise<ExitCode> {
  const resources = simulatedResources()
  const listening = await Promise.all(
    resources.map(async resource => [resource.name, (await resource.listen()).url] as const),
  )
  const issuer = createSimulatedIssuer({
    clock: systemClock(),
    tenant: 'demo-tenant',
    audience: AUDIENCE,
    // An RSA key takes a noticeable part of the start to make.
    algorithm: 'ES256',
    lifetimeS: TOKEN_LIFETIME_S,
  })
  const { issuer: issuerUrl } = await issuer.listen()
  const token = issuer.token({ claims: { azp: 'demo-app' } })
  const files = tls ? writeCertificate() : undefined
  const text = configText(port ?? DEFAULT_PORT, listening, issuerUrl, files)
  const texts = new Map<string, string>()
  const loaded = loadConfig({
    file: 'demo.yaml',
    env: {},
    readFile: path => (path.endsWith('demo.yaml') ? Buffer.from(text) : readFileSync(path)),
    onRead: (path, read) => texts.set(path, read),
  })
  if (loaded.kind === 'invalid') throw new Error(`the demo's own config is wrong: ${loaded.problems[0]?.message ?? ''}`)
  try {
    return await serveLoaded({ ...loaded, texts: [...texts] }, version, bound =>
      process.stdout.write(welcome(bound, token, files)),
    )
  } finally {
    await Promise.all([issuer, ...resources].map(simulated => simulated.close()))
  }
}
