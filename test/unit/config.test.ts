// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// The config: what loads and what it becomes; what is refused, where, and what the message names.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { inspect } from 'node:util'
import t from 'tap'
import { parseEndpoint } from '../../lib/config/endpoint.ts'
import { formatProblem, type LoadResult, loadConfig, type Problem, parseConfig } from '../../lib/config/load.ts'
import { nearest } from '../../lib/config/nearest.ts'
import { sha256 } from '../../lib/config/secret.ts'
import type { BackendType, Config, ModelConfig } from '../../lib/config/types.ts'
import { parseDurationMs, parsePercent, parseSizeBytes } from '../../lib/config/units.ts'
import { makeCertificate } from '../fixtures/certificate.ts'

const PAIR = makeCertificate('pair')

type Env = Readonly<Record<string, string | undefined>>
type Files = Readonly<Record<string, string>>

function parse(text: string, env: Env = {}, files: Files = {}): LoadResult {
  const readSecretFile = (path: string) => {
    const content = files[path]
    if (content === undefined) throw Object.assign(new Error('secret content in a message'), { code: 'ENOENT' })
    return content
  }
  return parseConfig(text, { file: 'conf/config.yaml', env, readSecretFile })
}

function load(text: string, env: Env = {}, files: Files = {}): Config {
  const result = parse(text, env, files)
  if (result.kind === 'ok') return result.config
  throw new Error(result.problems.map(formatProblem).join('\n'))
}

function refuse(text: string, env: Env = {}, files: Files = {}): readonly Problem[] {
  const result = parse(text, env, files)
  return result.kind === 'invalid' ? result.problems : []
}

function place({ line, column, path }: Problem): string {
  return `${line}:${column} ${path}`
}

const AUTH = 'auth:\n  keys:\n    - {name: a, key: client-key-1}\n'
const MODELS = 'models:\n  gpt-4:\n    backends:\n      - {endpoint: "https://a.example", api_key: k1}\n'
const REST = AUTH + MODELS

function onlyModel(config: Config): ModelConfig {
  const [model] = config.models
  if (model === undefined) throw new Error('no model')
  return model
}

function modelWith(lines: string): string {
  return `${AUTH}models:\n  gpt-4:\n${lines.replaceAll(/^/gm, '    ')}\n`
}

function backendWith(fields: string): string {
  return `${AUTH}models:\n  gpt-4:\n    backends:\n      - {${fields}}\n`
}

function backend(fields: string, env: Env = {}) {
  const [first] = onlyModel(load(backendWith(fields), env)).backends
  if (first === undefined) throw new Error('no backend')
  return first
}

const FIRST_TABLE = `server:
  port: 3000
auth:
  enabled: true
  keys:
    - name: "default"
      key: "your-api-key"
models:
  gpt-4:
    backends:
      - endpoint: "https://your-resource.openai.azure.com"
        api_key: "your-azure-api-key"
        deployment: "gpt-4"
        api_version: "2025-04-01-preview"
      - endpoint: "https://your-resource-2.openai.azure.com"
        api_key: "your-azure-api-key-2"
        deployment: "gpt-4"
        api_version: "2025-04-01-preview"
  text-embedding-ada-002:
    backends:
      - endpoint: "https://your-resource.openai.azure.com"
        api_key: "your-azure-api-key"
        deployment: "text-embedding-ada-002"
        api_version: "2023-05-15"
retry:
  max_attempts: 3
  timeout: 30s
`

t.test('what loads', async t => {
  t.test('a file of the first table loads as it stands', async t => {
    const config = load(FIRST_TABLE)
    t.match(config, {
      server: {
        port: 3000,
        host: undefined,
        workers: 1,
        maxBodyBytes: 64 * 1024 ** 2,
        maxBufferedBytes: 512 * 1024 ** 2,
      },
      auth: { enabled: true, keys: [{ name: 'default', models: undefined, admin: false }] },
      retry: {
        maxAttempts: 3,
        connectTimeoutMs: 5000,
        streamHoldMs: 2000,
        idleTimeoutMs: 300_000,
        budget: 0.2,
        maxWaitMs: 0,
      },
      healthCheck: { enabled: true, intervalMs: 30_000, timeoutMs: 5000, recoveryMs: 30_000 },
      logging: { level: 'info', format: 'json', file: undefined },
      metrics: { enabled: true },
    })
    t.same(config.auth.keys[0]?.digest, createHash('sha256').update('your-api-key').digest())
    t.same(
      config.models.map(model => [model.name, model.timeoutMs, model.firstOutputTimeoutMs, model.backends.length]),
      [
        ['gpt-4', 30_000, 120_000, 2],
        ['text-embedding-ada-002', 30_000, 120_000, 1],
      ],
    )
    t.match(config.models[0]?.backends[1], {
      name: 'your-resource-2/gpt-4',
      endpoint: { hostname: 'your-resource-2.openai.azure.com', port: 443, basePath: '' },
      apiVersion: '2025-04-01-preview',
      deployment: 'gpt-4',
      credential: { kind: 'api_key' },
      weight: 1,
      priority: 1,
      type: 'azure',
    })
  })

  t.test('every option of the second table reaches the config', async t => {
    const config = load(
      `server: {host: "::1", port: 0, workers: auto, max_body: 512KB, max_buffered: 1.5MB, shutdown_grace: 0s, stream_keepalive: 0s, watch: true,
  tls: {cert: tls/cert.pem, key: /abs/key.pem}}
auth:
  keys:
    - {name: a, key_sha256: ${sha256('x').toString('hex').toUpperCase()}, models: [four, gpt-4], admin: true, limits: {requests_per_minute: 1, tokens_per_minute: 2, concurrent: 3}}
    - {name: a, key: other}
models:
  gpt-4:
    balance: prompt_cache
    aliases: [four, vier]
    timeout: 1.5m
    stream_usage: true
    strip_foreign_reasoning: true
    backends: [{endpoint: "http://127.0.0.1:8080/x/", api_key: k, name: mine, weight: 7, priority: 2, type: openai}]
retry: {max_attempts: 10, timeout: 50ms, connect_timeout: 1s, first_output_timeout: 3m, stream_hold: 0s, idle_timeout: 24h, budget: 12.5%, max_wait: 2s}
health_check: {enabled: false, interval: 50ms, timeout: 50ms, recovery: 50ms}
logging: {level: debug, format: text, file: proxy.log}
metrics: {enabled: false}
`,
      {},
      { 'conf/tls/cert.pem': PAIR.cert, '/abs/key.pem': PAIR.key },
    )
    t.match(config, {
      server: {
        host: '::1',
        port: 0,
        workers: 'auto',
        maxBodyBytes: 512 * 1024,
        maxBufferedBytes: 1.5 * 1024 ** 2,
        shutdownGraceMs: 0,
        streamKeepaliveMs: 0,
        watch: true,
        tls: { certFile: 'conf/tls/cert.pem', keyFile: '/abs/key.pem' },
      },
      auth: {
        keys: [
          {
            digest: sha256('x'),
            models: ['gpt-4'],
            admin: true,
            limits: { requestsPerMinute: 1, tokensPerMinute: 2, concurrent: 3 },
          },
          { name: 'a', digest: sha256('other') },
        ],
      },
      models: [
        {
          balance: 'prompt_cache',
          aliases: ['four', 'vier'],
          timeoutMs: 90_000,
          firstOutputTimeoutMs: 180_000,
          streamUsage: true,
          stripForeignReasoning: true,
          backends: [
            { name: 'mine', weight: 7, priority: 2, type: 'openai', endpoint: { url: 'http://127.0.0.1:8080/x' } },
          ],
        },
      ],
      retry: {
        maxAttempts: 10,
        connectTimeoutMs: 1000,
        streamHoldMs: 0,
        idleTimeoutMs: 86_400_000,
        budget: 0.125,
        maxWaitMs: 2000,
      },
      healthCheck: { enabled: false, intervalMs: 50, timeoutMs: 50, recoveryMs: 50 },
      logging: { level: 'debug', format: 'text', file: 'conf/proxy.log' },
      metrics: { enabled: false },
    })
  })

  t.test('a mark at the beginning, Windows line ends, anchors and empty sections are fine', async t => {
    load(`\uFEFF${REST.replaceAll('\n', '\r\n')}`)
    load(`${REST}server:\nretry:\n`)
    load(`%YAML 1.2\n---\n${REST}`)
    const shared = `${AUTH}models:\n  a: &m\n    backends: [{endpoint: "https://a.example", api_key: k}]\n  b: *m\n`
    t.same(
      load(shared).models.map(model => model.backends[0]?.name),
      ['a.example/a', 'a.example/b'],
    )
  })

  t.test('any text can be the name of a model', async t => {
    const names = ['__proto__', 'constructor', 'null', '3.5', 'true', 'gpt-4.1', 'a/b:c', '模型', 'toString']
    const config = load(
      `${AUTH}models:\n${names.map(name => `  "${name}": {backends: [{endpoint: "https://a.example", api_key: k}]}\n`).join('')}`,
    )
    t.same(
      config.models.map(model => model.name),
      names,
    )
    t.equal(
      config.models[7]?.backends[0]?.name,
      'a.example/%E6%A8%A1%E5%9E%8B',
      'but a backend name can stand in a header',
    )
    t.same(
      load(`${AUTH}models:\n  3.50: {backends: [{endpoint: "https://a.example", api_key: k}]}\n`).models[0]?.name,
      '3.50',
    )
  })

  t.test(
    "a stream's first output has two minutes, or the model's timeout if that is longer, unless it is set",
    async t => {
      const firstOutput = (timeout: string, retry: string) =>
        onlyModel(
          load(
            `${modelWith(`timeout: ${timeout}\nbackends: [{endpoint: "https://a.example", api_key: k}]`)}retry: {${retry}}\n`,
          ),
        ).firstOutputTimeoutMs
      t.equal(firstOutput('10s', ''), 120_000)
      t.equal(firstOutput('10m', ''), 600_000)
      t.equal(firstOutput('10m', 'first_output_timeout: 5s'), 5000)
    },
  )

  t.test(
    'backends without a name get host and deployment, numbered when one deployment is used through two keys',
    async t => {
      const config = load(
        modelWith(`backends:
  - {endpoint: "https://a.example:8443", api_key: k1}
  - {endpoint: "https://a.example:8443/", api_key: k2}
  - {endpoint: "https://b.example:443", api_key: k2, deployment: d}
  - {name: "a.example:8443/gpt-4#2", endpoint: "https://c.example", api_key: k2}`),
      )
      t.same(
        onlyModel(config).backends.map(({ name }) => name),
        ['a.example:8443/gpt-4', 'a.example:8443/gpt-4#3', 'b.example/d', 'a.example:8443/gpt-4#2'],
      )
    },
  )

  t.test('the config is frozen through and through', async t => {
    const config = load(FIRST_TABLE)
    const open: string[] = []
    const visit = (value: unknown, path: string) => {
      if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || path.endsWith('.key')) return
      if (!Object.isFrozen(value)) open.push(path)
      for (const [name, part] of Object.entries(value)) visit(part, `${path}.${name}`)
    }
    visit(config, 'config')
    t.same(open, [])
  })

  t.test('printing the config shows no key', async t => {
    const config = load(FIRST_TABLE)
    t.notMatch(JSON.stringify(config) + inspect(config, { depth: 20 }), /your-(azure-)?api-key/)
  })
})

t.test('credentials', async t => {
  t.test('a key, or none for type openai', async t => {
    const { credential } = backend('endpoint: "https://a.example", api_key: "12345"')
    t.equal(credential.kind === 'api_key' && credential.key.reveal(), '12345')
    t.same(backend('endpoint: "http://localhost:11434/v1", type: openai').credential, { kind: 'none' })
  })

  const scope = 'https://cognitiveservices.azure.com/.default'
  const aks = {
    AZURE_TENANT_ID: 't-1',
    AZURE_CLIENT_ID: 'c-1',
    AZURE_FEDERATED_TOKEN_FILE: '/var/token',
    AZURE_AUTHORITY_HOST: 'https://login.example/',
  }

  t.test('managed identity, with or without a client id', async t => {
    t.same(backend('endpoint: "https://a.example", entra: managed_identity').credential, {
      kind: 'managed_identity',
      clientId: undefined,
      scope,
    })
    t.same(
      backend(
        'endpoint: "https://a.example", entra: {mode: managed_identity, client_id: c-1, scope: "https://x/.default"}',
      ).credential,
      { kind: 'managed_identity', clientId: 'c-1', scope: 'https://x/.default' },
    )
  })

  t.test('workload identity from the environment, which a mapping may overrule', async t => {
    const expected = { kind: 'workload_identity', tenantId: 't-1', clientId: 'c-1', tokenFile: '/var/token', scope }
    t.same(backend('endpoint: "https://a.example", entra: workload_identity', aks).credential, {
      ...expected,
      authority: 'https://login.example',
    })
    t.same(
      backend(
        'endpoint: "https://a.example", entra: {mode: workload_identity, client_id: c-2, authority: "http://127.0.0.1:9/x/"}',
        aks,
      ).credential,
      { ...expected, clientId: 'c-2', authority: 'http://127.0.0.1:9/x' },
    )
    const problems = refuse(backendWith('endpoint: "https://a.example", entra: workload_identity'))
    t.same(
      problems.map(({ message }) => /AZURE_\w+/.exec(message)?.[0]),
      ['AZURE_TENANT_ID', 'AZURE_CLIENT_ID', 'AZURE_FEDERATED_TOKEN_FILE'],
    )
  })

  t.test('a client secret needs no mode', async t => {
    const { credential } = backend(
      'endpoint: "https://a.example", entra: {tenant_id: t.example, client_id: c-1, client_secret: "s~e.c"}',
    )
    t.match(credential, {
      kind: 'client_secret',
      tenantId: 't.example',
      authority: 'https://login.microsoftonline.com',
      scope,
    })
    t.equal(credential.kind === 'client_secret' && credential.clientSecret.reveal(), 's~e.c')
  })
})

t.test('endpoints', async t => {
  const url = (text: string, type: BackendType = 'azure') => {
    const parsed = parseEndpoint(text, type)
    return parsed.kind === 'ok' ? parsed.endpoint.url : parsed.message
  }

  t.test('are taken apart once', async t => {
    t.same(parseEndpoint('HTTPS://A.Example:8443//gw//team/', 'azure'), {
      kind: 'ok',
      endpoint: {
        protocol: 'https:',
        hostname: 'a.example',
        port: 8443,
        host: 'a.example:8443',
        basePath: '/gw/team',
        url: 'https://a.example:8443/gw/team',
      },
    })
    t.match(parseEndpoint('http://[::1]/', 'azure'), {
      endpoint: { hostname: '::1', port: 80, host: '[::1]', basePath: '' },
    })
    t.equal(url('https://gw.azure-api.net/my-openai'), 'https://gw.azure-api.net/my-openai')
    t.equal(url('https://api.openai.com/v1/', 'openai'), 'https://api.openai.com')
    t.equal(url('https://api.groq.com/openai/v1', 'openai'), 'https://api.groq.com/openai')
  })

  const refused: readonly (readonly [text: string, fact: RegExp, type?: BackendType])[] = [
    [
      'https://x.openai.azure.com/openai/deployments/gpt-4/chat/completions?api-version=2024-10-21',
      /cut it before "\/openai"/,
    ],
    ['https://x.openai.azure.com/openai', /cut it before "\/openai"/],
    ['https://x.openai.azure.com/openai/v1/', /cut it before "\/openai"/],
    ['https://x.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview', /base URL/],
    ['https://x.openai.azure.com/?api-version=2024-10-21', /query.*api_version/],
    ['http://localhost:8000/v1', /type: openai/],
    ['https://api.openai.com/v1/chat/completions', /cut it before "\/v1"/, 'openai'],
    ['https://a.example/?x', /query/, 'openai'],
    ['https://a.example/#x', /fragment/],
    ['https://user:hunter2hunter2@a.example', /user name or password/],
    ['https://hunter2hunter2@a.example', /user name or password/],
    ['a.openai.azure.com', /https:\/\//],
    ['ftp://a.example', /https:\/\//],
    ['https://', /https:\/\//],
    ['https:///a.example', /https:\/\//],
    ['https://a.example:0', /port 0/],
    ['https://a.example:99999', /https:\/\//],
    ['https://a b.example', /https:\/\//],
  ]
  for (const [text, fact, type] of refused) {
    t.test(`refused with its cure: ${text}`, async t => {
      const message = url(text, type)
      t.match(message, fact)
      t.notMatch(message, /hunter2/)
    })
  }

  t.test('a key that ends within a week, or has ended, is warned of, where the time is known', async t => {
    const text = `auth: {keys: [{name: a, key: b, expires: 2026-03-08}]}
models: {m: {backends: [{endpoint: "https://r.openai.azure.com", api_key: k}]}}`
    const warnings = (nowEpochMs: number | undefined) => {
      const result = parseConfig(text, { file: 'c.yaml', env: {}, readSecretFile: () => '', nowEpochMs })
      return result.kind === 'ok' ? result.warnings.map(({ path, message }) => `${path} ${message}`) : ['invalid']
    }
    t.same(warnings(undefined), [])
    t.same(warnings(Date.UTC(2026, 2, 1)), [])
    t.match(warnings(Date.UTC(2026, 2, 2)), [/auth\.keys\[0\]\.expires this key ends in 7 days/])
    t.match(warnings(Date.UTC(2026, 2, 8, 20)), [/ends in 4 hours/])
    t.match(warnings(Date.UTC(2026, 2, 9)), [/has expired/])
  })

  t.test('plain http with a credential is warned of, except to this machine', async t => {
    const warnings = (text: string) => {
      const result = parse(backendWith(text))
      return result.kind === 'ok' ? result.warnings.map(place) : 'invalid'
    }
    t.same(warnings('endpoint: "http://a.example", api_key: k'), ['7:20 models.gpt-4.backends[0].endpoint'])
    t.same(warnings('endpoint: "http://127.0.0.1:1", api_key: k'), [])
    t.same(warnings('endpoint: "http://a.example", type: openai'), [])
  })
})

// Each with the places of all its problems, and what the first message must name.
const WRONG: readonly (readonly [claim: string, text: string, places: readonly string[], facts: RegExp])[] = [
  ['an empty file', '', ['1:1 '], /empty/],
  ['a file of comments', '# nothing\n', ['1:1 '], /empty/],
  ['a file that is no mapping', '- 1\n', ['1:1 '], /mapping.*list/],
  ['a tab', `server:\n\tport: 1\n${REST}`, ['2:1 '], /tab.*spaces/],
  ['a quote left open', `server:\n  host: "abc\n${REST}`, ['2:9 '], /quote/],
  ['a bracket left open', `server: [\n${REST}`, ['2:1 '], /./],
  ['no blank after a colon', `server:\n  port:80\n  watch: true\n${REST}`, ['2:3 '], /blank/],
  ['a second document', `${REST}---\na: 1\n`, ['8:1 '], /document/],
  ['YAML 1.1', `%YAML 1.1\n---\n${REST}`, ['1:1 '], /1\.2/],
  ['an unknown tag', `server:\n  port: !env PORT\n${REST}`, ['2:9 '], /\$\{NAME\}/],
  ['a merge key', `server:\n  <<: {port: 1}\n${REST}`, ['2:3 server'], /<</],
  ['an alias without anchor', `server: *x\n${REST}`, ['1:9 server'], /anchor/],
  ['an alias inside its anchor', `server: &x {port: *x}\n${REST}`, ['1:19 server.port'], /inside/],
  ['a YAML key twice', `server:\n  port: 1\n  watch: true\n  port: 2\n${REST}`, ['4:3 server.port'], /line 2/],
  ['a list as key', `? [a]\n: 1\n${REST}`, ['1:3 '], /key/],
  ['a misspelt key', `server:\n  prot: 1\n${REST}`, ['2:3 server.prot'], /"port"/],
  ['a key in camel case', `retry:\n  maxAttempts: 2\n${REST}`, ['2:3 retry.maxAttempts'], /"max_attempts"/],
  ['a misspelt section', `sever:\n  port: 1\n${REST}`, ['1:1 sever'], /"server"/],
  ['an unknown key', `metrics:\n  colour: red\n${REST}`, ['2:3 metrics.colour'], /enabled/],
  [
    'a key named like what every object has',
    `metrics:\n  constructor: red\n${REST}`,
    ['2:3 metrics.constructor'],
    /enabled/,
  ],
  [
    'a text as number',
    `server:\n  port: "80a"\n${REST}`,
    ['2:9 server.port'],
    /whole number from 0 to 65535, not "80a"/,
  ],
  ['a quoted number', `server:\n  port: "80"\n${REST}`, ['2:9 server.port'], /quotes/],
  ['a number too large', `server: {port: 65536}\n${REST}`, ['1:16 server.port'], /65535, not the number 65536/],
  ['a fraction', `retry: {max_attempts: 1.5}\n${REST}`, ['1:23 retry.max_attempts'], /1 to 10/],
  ['no attempts', `retry: {max_attempts: 0}\n${REST}`, ['1:23 retry.max_attempts'], /1 to 10/],
  [
    'yes for true',
    `auth:\n  enabled: yes\n  keys: [{name: a, key: b}]\n${MODELS}`,
    ['2:12 auth.enabled'],
    /true or false, not "yes"/,
  ],
  ['a mapping for a value', `server:\n  port: {a: 1}\n${REST}`, ['2:9 server.port'], /not a mapping/],
  ['nothing for a value', `server:\n  port:\n${REST}`, ['2:3 server.port'], /not nothing/],
  ['a text for a section', `server: 3000\n${REST}`, ['1:9 server'], /mapping.*3000/],
  ['a duration without unit', `retry:\n  timeout: 30\n${REST}`, ['2:12 retry.timeout'], /unit.*30s/],
  ['zero without unit', `server: {stream_keepalive: 0}\n${REST}`, ['1:28 server.stream_keepalive'], /0s/],
  [
    'a duration in words',
    `retry:\n  timeout: 2 minutes\n${REST}`,
    ['2:12 retry.timeout'],
    /500ms, 30s, 2m or 1h.*"2 minutes"/,
  ],
  ['a duration too long', `retry:\n  timeout: 2h\n${REST}`, ['2:12 retry.timeout'], /10ms to 1h.*"2h"/],
  ['zero where it has no meaning', `retry:\n  timeout: 0s\n${REST}`, ['2:12 retry.timeout'], /10ms to 1h/],
  ['next to zero is not zero', `retry:\n  stream_hold: 0.1ms\n${REST}`, ['2:16 retry.stream_hold'], /1ms/],
  ['a size in other units', `server:\n  max_body: 64mb\n${REST}`, ['2:13 server.max_body'], /512KB, 64MB or 1GB/],
  ['a share without percent', `retry:\n  budget: 0.2\n${REST}`, ['2:11 retry.budget'], /20%/],
  ['a share over 100%', `retry:\n  budget: 101%\n${REST}`, ['2:11 retry.budget'], /100%/],
  ['a body larger than the buffer', `server:\n  max_body: 1GB\n${REST}`, ['2:13 server.max_body'], /max_buffered/],
  [
    'an unknown word',
    `logging:\n  level: warning\n${REST}`,
    ['2:10 logging.level'],
    /debug, info, warn or error, not "warning"/,
  ],
  ['TLS without a key', `server:\n  tls: {cert: a.pem}\n${REST}`, ['2:8 server.tls.key'], /missing/],
  ['no keys', MODELS, ['1:1 auth.keys'], /auth\.enabled is true.*false/],
  ['an empty list of keys', `auth:\n  keys: []\n${MODELS}`, ['2:9 auth.keys'], /auth\.enabled/],
  ['a list of bare keys', `auth:\n  keys:\n    - sk-1234567890abcdef\n${MODELS}`, ['3:7 auth.keys[0]'], /mapping/],
  [
    'a key as number',
    `auth:\n  keys: [{name: a, key: 123456}]\n${MODELS}`,
    ['2:25 auth.keys[0].key'],
    /number \(not shown\).*quotes/,
  ],
  ['a key with a blank', `auth:\n  keys: [{name: a, key: "a b"}]\n${MODELS}`, ['2:25 auth.keys[0].key'], /blanks/],
  ['an empty key', `auth:\n  keys: [{name: a, key: ""}]\n${MODELS}`, ['2:25 auth.keys[0].key'], /empty/],
  [
    'key and hash',
    `auth:\n  keys: [{name: a, key: b, key_sha256: ${'ab'.repeat(32)}}]\n${MODELS}`,
    ['2:40 auth.keys[0].key_sha256'],
    /one of them/,
  ],
  ['neither key nor hash', `auth:\n  keys: [{name: a}]\n${MODELS}`, ['2:10 auth.keys[0].key'], /key_sha256/],
  [
    'half a hash',
    `auth:\n  keys: [{name: a, key_sha256: abcdef}]\n${MODELS}`,
    ['2:32 auth.keys[0].key_sha256'],
    /64 hex.*not shown/,
  ],
  [
    'the same key twice, once as hash',
    `auth:\n  keys:\n    - {name: a, key: twice}\n    - {name: b, key_sha256: ${sha256('twice').toString('hex')}}\n${MODELS}`,
    ['4:7 auth.keys[1]'],
    /line 3/,
  ],
  [
    'a key for a model that is not there',
    `auth:\n  keys: [{name: a, key: b, models: [gpt4]}]\n${MODELS}`,
    ['2:37 auth.keys[0].models[0]'],
    /"gpt-4"/,
  ],
  [
    'a key for no model',
    `auth:\n  keys: [{name: a, key: b, models: []}]\n${MODELS}`,
    ['2:36 auth.keys[0].models'],
    /empty/,
  ],
  ['no models', AUTH, ['1:1 models'], /missing/],
  ['an empty mapping of models', `${AUTH}models:\n`, ['4:1 models'], /at least one model/],
  ['an empty name of a model', `${AUTH}models:\n  "": {backends: []}\n`, ['5:3 models'], /empty/],
  ['a model without backends', `${AUTH}models:\n  gpt-4:\n`, ['5:3 models.gpt-4.backends'], /missing/],
  ['an empty list of backends', modelWith('backends: []'), ['6:15 models.gpt-4.backends'], /at least one backend/],
  [
    'one backend without its dash',
    modelWith('backends: {endpoint: "https://a"}'),
    ['6:15 models.gpt-4.backends'],
    /list/,
  ],
  ['a backend without endpoint', backendWith('api_key: k'), ['7:9 models.gpt-4.backends[0].endpoint'], /missing/],
  [
    'a backend without credential',
    backendWith('endpoint: "https://a"'),
    ['7:9 models.gpt-4.backends[0].api_key'],
    /entra/,
  ],
  [
    'two credentials',
    backendWith('endpoint: "https://a", api_key: k, entra: managed_identity'),
    ['7:52 models.gpt-4.backends[0].entra'],
    /api_key/,
  ],
  [
    'an unknown version',
    backendWith('endpoint: "https://a", api_key: k, api_version: latest'),
    ['7:58 models.gpt-4.backends[0].api_version'],
    /v1, preview.*"latest"/,
  ],
  [
    'a month 13',
    backendWith('endpoint: "https://a", api_key: k, api_version: 2024-13-01'),
    ['7:58 models.gpt-4.backends[0].api_version'],
    /2024-10-21/,
  ],
  [
    'a version as number',
    backendWith('endpoint: "https://a", api_key: k, api_version: 2024'),
    ['7:58 models.gpt-4.backends[0].api_version'],
    /quotes/,
  ],
  [
    'a version for type openai',
    backendWith('endpoint: "https://a", type: openai, api_version: v1'),
    ['7:60 models.gpt-4.backends[0].api_version'],
    /openai/,
  ],
  [
    'a deployment that climbs',
    backendWith('endpoint: "https://a", api_key: k, deployment: ".."'),
    ['7:57 models.gpt-4.backends[0].deployment'],
    /"\.\."/,
  ],
  [
    'a weight of zero',
    backendWith('endpoint: "https://a", api_key: k, weight: 0'),
    ['7:53 models.gpt-4.backends[0].weight'],
    /1 to 1000/,
  ],
  [
    'a name for no header',
    backendWith('endpoint: "https://a", api_key: k, name: "ä"'),
    ['7:51 models.gpt-4.backends[0].name'],
    /ASCII/,
  ],
  [
    'a name of two backends',
    modelWith(
      'backends:\n  - {endpoint: "https://a", api_key: k, name: x}\n  - {endpoint: "https://b", api_key: k, name: x}',
    ),
    ['8:51 models.gpt-4.backends[1].name'],
    /line 7/,
  ],
  [
    'entra without mode',
    backendWith('endpoint: "https://a", entra: {client_id: c}'),
    ['7:40 models.gpt-4.backends[0].entra.mode'],
    /managed_identity/,
  ],
  [
    'a secret without tenant',
    backendWith('endpoint: "https://a", entra: {client_id: c, client_secret: s}'),
    ['7:40 models.gpt-4.backends[0].entra.tenant_id'],
    /tenant_id/,
  ],
  [
    'a tenant for a managed identity',
    backendWith('endpoint: "https://a", entra: {mode: managed_identity, tenant_id: t}'),
    ['7:76 models.gpt-4.backends[0].entra.tenant_id'],
    /managed_identity/,
  ],
  [
    'an authority over plain http',
    backendWith(
      'endpoint: "https://a", entra: {tenant_id: t, client_id: c, client_secret: s, authority: "http://login.example"}',
    ),
    ['7:98 models.gpt-4.backends[0].entra.authority'],
    /https/,
  ],
  [
    'a scope without .default',
    backendWith('endpoint: "https://a", entra: {mode: managed_identity, scope: "https://x"}'),
    ['7:72 models.gpt-4.backends[0].entra.scope'],
    /\.default/,
  ],
  ['an alias that is a model', `${MODELS}    aliases: [gpt-4]\n${AUTH}`, ['5:15 models.gpt-4.aliases[0]'], /line 2/],
  [
    'an alias of two models',
    `${AUTH}models:\n  a: {aliases: [x], backends: [{endpoint: "https://a", api_key: k}]}\n  b: {aliases: [x], backends: [{endpoint: "https://a", api_key: k}]}\n`,
    ['6:17 models.b.aliases[0]'],
    /line 5/,
  ],
  ['a variable that is not set', `server:\n  port: \${PORT}\n${REST}`, ['2:9 server.port'], /PORT is not set/],
  ['${ left open', `server:\n  host: "\${PORT"\n${REST}`, ['2:9 server.host'], /closed/],
  ['${} without a name', `server:\n  host: "\${}"\n${REST}`, ['2:9 server.host'], /name/],
  ['${} with a bad name', `server:\n  host: "\${a-b}"\n${REST}`, ['2:9 server.host'], /letters/],
  ['${} inside ${}', `server:\n  host: "\${A:-\${B}}"\n${REST}`, ['2:9 server.host'], /inside/],
  [
    'the name of a property as variable',
    `server:\n  host: \${constructor}\n${REST}`,
    ['2:9 server.host'],
    /constructor is not set/,
  ],
  [
    'a secret file that is not there',
    `server:\n  host: \${file:run/x}\n${REST}`,
    ['2:9 server.host'],
    /conf\/run\/x.*ENOENT/,
  ],
  ['a model named by a variable', `${AUTH}models:\n  "\${X}": {backends: []}\n`, ['5:3 models'], /name/],
  [
    'all of it at once, in the order of the file',
    `server:\n  prot: 1\n  max_body: x\nmodels:\n  gpt-4.1:\n    balance: fair\n    backends:\n      - endpoint: x\n        weight: heavy\n`,
    [
      '1:1 auth.keys',
      '2:3 server.prot',
      '3:13 server.max_body',
      '6:14 models["gpt-4.1"].balance',
      '8:9 models["gpt-4.1"].backends[0].api_key',
      '8:19 models["gpt-4.1"].backends[0].endpoint',
      '9:17 models["gpt-4.1"].backends[0].weight',
    ],
    /auth\.enabled/,
  ],
]

t.test('what is refused, where, and what the message names', async t => {
  for (const [claim, text, places, facts] of WRONG) {
    t.test(claim, async t => {
      const problems = refuse(text)
      t.same(problems.map(place), places)
      t.match(problems[0]?.message, facts)
      t.notMatch(problems.map(formatProblem).join('\n'), /client-key-1|sk-1234567890abcdef|123456/)
    })
  }

  t.test('a problem is one line: file, line, column, path, message', async t => {
    const [problem] = refuse(`server:\n  port: "80a"\n${REST}`)
    t.equal(
      problem && formatProblem(problem),
      'conf/config.yaml:2:9 server.port: must be a whole number from 0 to 65535, not "80a"',
    )
    const [whole] = refuse('')
    t.match(whole && formatProblem(whole), /^conf\/config\.yaml:1:1 the file is empty/)
  })

  t.test('a billion laughs, deep nesting, a giant file and a giant mapping end soon and in a message', async t => {
    let laughs = 'a: &a [x,x,x,x,x,x,x,x,x,x]\n'
    for (const [name, before] of ['ba', 'cb', 'dc', 'ed', 'fe', 'gf', 'hg'])
      laughs += `${name}: &${name} [${`*${before},`.repeat(10)}]\n`
    t.match(refuse(laughs).find(problem => problem.message.includes('repeat more than 20000 values'))?.path, /^[a-h]/)
    const backend = 'endpoint: "http://127.0.0.1:1", api_key: a-long-key'
    const alike = `auth: {enabled: false}\nmodels: {m: {backends: [&b {${backend}},${'*b,'.repeat(16_000)}]}}\n`
    t.match(refuse(alike), [{ message: /repeat more than 20000/ }], 'a list that is valid, and alike in each item')
    t.match(refuse('['.repeat(100_000)), [{ message: /nested/ }])
    t.match(refuse(`a: ${'{a: '.repeat(100)}1${'}'.repeat(100)}\n${REST}`), [{ path: 'a' }, { message: /nested/ }])
    t.match(refuse(`# ${'x'.repeat(1_000_000)}\n`), [{ message: /longer than 1000000/ }])
    const many = Array.from({ length: 60_000 }, (_, index) => `  k${index}: 1\n`).join('')
    t.equal(refuse(`server:\n${many}${REST}`).length, 1000)
  })
})

t.test('${…}', async t => {
  const host = (text: string, env: Env = {}, files: Files = {}) =>
    load(`server:\n  host: ${text}\n${REST}`, env, files).server.host

  t.test('takes from the environment, from files, or the default', async t => {
    t.equal(host('${A}', { A: 'a.example' }), 'a.example')
    t.equal(host('"x${A}-${B:-b}"', { A: '1' }), 'x1-b')
    t.equal(host('${A:-b}', { A: '' }), 'b', 'an empty variable has the default, too')
    t.equal(
      host('${file:x/h}', {}, { 'conf/x/h': 'h1\r\n' }),
      'h1',
      'relative to the config, without the last line break',
    )
    t.equal(host('${file:/x/h}', {}, { '/x/h': 'h2\n' }), 'h2')
    t.equal(host('a:b', {}), 'a:b')
  })

  t.test('gives text where text is wanted, numbers and flags where those are', async t => {
    const config = load(
      `server:\n  port: \${P}\n  watch: "\${W}"\n  max_body: \${S:-1MB}\n  workers: \${N}\n${REST.replace('client-key-1', '"${K}"')}`,
      {
        P: '8080',
        W: 'TRUE',
        N: '2',
        K: '12345678',
      },
    )
    t.match(config.server, { port: 8080, watch: true, maxBodyBytes: 1024 ** 2, workers: 2 })
    t.same(config.auth.keys[0]?.digest, sha256('12345678'))
  })

  t.test('is never YAML, and not looked at twice', async t => {
    const name = (value: string) =>
      onlyModel(load(backendWith('endpoint: "https://a.example", api_key: k, name: "${V}"'), { V: value })).backends[0]
        ?.name
    t.equal(name('x, weight: 7}'), 'x, weight: 7}')
    t.equal(name('*a ${HOME} &b'), '*a ${HOME} &b')
  })

  t.test('is written $${ where it is meant literally', async t => {
    t.equal(
      onlyModel(load(backendWith('endpoint: "https://a.example", api_key: k, name: "a$${B}$"'))).backends[0]?.name,
      'a${B}$',
    )
  })

  t.test('never shows what it inserted', async t => {
    const env = { V: 'short', W: 'hunter2-hunter2', X: 'https://u:hunter2@h' }
    const problems = [
      ...refuse(`server: {port: "\${V}", watch: "\${W}", max_body: "\${W}"}\nlogging: {level: "\${V}"}\n${REST}`, env),
      ...refuse(backendWith('endpoint: "${X}", api_key: "${W} x", api_version: "${V}"'), env),
    ]
    t.equal(problems.length, 7)
    t.notMatch(problems.map(formatProblem).join('\n'), /short|hunter2/)
  })

  t.test('a file that is too large is not taken', async t => {
    t.match(refuse(`server:\n  host: \${file:/big}\n${REST}`, {}, { '/big': 'x'.repeat(300_000) }), [
      { message: /256KB/ },
    ])
  })
})

t.test('a secret is shown in no message, wherever it was pasted', async t => {
  const secret = 'Zq7-hunter2-hunter2'
  for (const text of [
    `server:\n  port: ${secret}\n${REST}`,
    `server:\n  ${secret}: 1\n${REST}`,
    `${secret}\n`,
    `auth:\n  keys:\n    - {name: a, key:${secret}}\n${MODELS}`,
    `auth:\n  keys: {${secret}: a}\n${MODELS}`,
    `auth:\n  keys: [{name: a, kee: ${secret}}]\n${MODELS}`,
    `auth:\n  keys: [{name: a, key: "${secret} x"}]\n${MODELS}`,
    `auth:\n  keys: [{name: a, key: &${secret} x}, *${secret}x]\n${MODELS}`,
    `auth:\n  keys: [{name: a, key: !${secret} x}]\n${MODELS}`,
    `auth:\n  keys: [{name: a, key: "${secret}\n`,
    `auth:\n  keys: [{name: a, key: @${secret}}]\n${MODELS}`,
    `auth:\n  keys: [{name: a, key: |${secret}}]\n${MODELS}`,
    `auth:\n  keys: [{name: a, key_sha256: ${secret}}]\n${MODELS}`,
    backendWith(`endpoint: ${secret}, api_key: k`),
    backendWith(`endpoint: "https://a/openai?key=${secret}", api_key: k`),
    backendWith(`endpoint: "https://a:${secret}@b", api_key: k`),
    backendWith(`endpoint: "https://a", api_key: k, api_version: ${secret}`),
    backendWith(`endpoint: "https://a", entra: ${secret}`),
    backendWith(`endpoint: "https://a", entra: {mode: ${secret}, client_secret: x}`),
    `${AUTH}models:\n  gpt-4:\n    backends:\n      - endpoint: https://a\n        api_key:${secret}\n        weight: 1\n`,
    `${AUTH}models:\n  gpt-4:\n    backends: [{endpoint: "https://a", api_key: "${secret}"}]\n  ${secret}:\n    backends: 1\n`,
  ]) {
    const problems = refuse(text)
    t.ok(problems.length > 0, JSON.stringify(text))
    t.notMatch(problems.map(formatProblem).join('\n'), secret)
  }
})

t.test('quantities', async t => {
  t.same(
    ['500ms', '30s', '1.5m', '1h', '1.1s', '30', '30 s', '-1s', '30S', '1e3s', '', '.5s', 's'].map(parseDurationMs),
    [500, 30_000, 90_000, 3_600_000, 1100, ...Array(8).fill(undefined)],
  )
  t.same(['512KB', '64MB', '1.5GB', '64', '64mb', '64KiB', '10B'].map(parseSizeBytes), [
    512 * 1024,
    64 * 1024 ** 2,
    1.5 * 1024 ** 3,
    ...Array(4).fill(undefined),
  ])
  t.same(['20%', '12.5%', '20', '0.2'].map(parsePercent), [0.2, 0.125, undefined, undefined])
})

t.test('the nearest known word', async t => {
  const known = ['port', 'host', 'api_key', 'max_attempts', 'key', 'key_sha256']
  t.same(
    ['prot', 'hots', 'API-KEY', 'apikey', 'max_atempt', 'kye', 'xyz', 'x'.repeat(100), ''].map(word =>
      nearest(word, known),
    ),
    ['port', 'host', 'api_key', 'api_key', 'max_attempts', 'key', undefined, undefined, undefined],
  )
})

t.test('from the disk', async t => {
  const folder = t.testdir({
    'config.yaml': FIRST_TABLE,
    latin1: Buffer.from([0x61, 0xe4, 0x0a]),
    secret: 'from-a-file\n',
  })

  t.test('a file is read, and the files it depends on are named', async t => {
    const file = `${folder}/with-files.yaml`
    mkdirSync(`${folder}/tls`)
    writeFileSync(`${folder}/tls/cert.pem`, PAIR.cert)
    writeFileSync(`${folder}/tls/key.pem`, PAIR.key)
    writeFileSync(
      file,
      `server: {tls: {cert: tls/cert.pem, key: tls/key.pem}}\n${REST.replace('client-key-1', '"${file:secret}"')}`,
    )
    const result = loadConfig({ file, env: {} })
    t.equal(result.kind, 'ok')
    t.same(result.kind === 'ok' && result.config.auth.keys[0]?.digest, sha256('from-a-file'))
    t.same(result.files, [file, `${folder}/secret`, `${folder}/tls/cert.pem`, `${folder}/tls/key.pem`])

    writeFileSync(`${folder}/tls/cert.pem`, 'no certificate')
    writeFileSync(`${folder}/tls/key.pem`, 'no key')
    const spoilt = loadConfig({ file, env: {} })
    t.match(spoilt, {
      kind: 'invalid',
      problems: [
        { line: 1, column: 22, path: 'server.tls.cert' },
        { line: 1, column: 41, path: 'server.tls.key' },
      ],
    })
    writeFileSync(`${folder}/tls/cert.pem`, makeCertificate('another').cert)
    writeFileSync(`${folder}/tls/key.pem`, PAIR.key)
    t.match(
      loadConfig({ file, env: {} }),
      {
        kind: 'invalid',
        problems: [{ line: 1, column: 41, path: 'server.tls.key', message: /does not fit the cert/ }],
      },
      'two files that are sound and no pair',
    )
    writeFileSync(`${folder}/tls/cert.pem`, '-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n')
    t.match(
      loadConfig({ file, env: {} }),
      { kind: 'invalid', problems: [{ path: 'server.tls.key', message: /cannot be used together/ }] },
      'a certificate that cannot be read',
    )
    t.same(spoilt.files, result.files, 'also when it is invalid: repairing one of them can cure it')
  })

  t.test('a file that is missing, a folder, no UTF-8 or endless is a problem with a reason', async t => {
    const message = (file: string) => {
      const result = loadConfig({ file, env: {} })
      return result.kind === 'invalid' ? result.problems[0]?.message : 'ok'
    }
    t.match(message(`${folder}/config.yaml`), 'ok')
    t.match(message(`${folder}/nowhere.yaml`), /ENOENT/)
    t.match(message(folder), /EISDIR/)
    t.match(message(`${folder}/latin1`), /UTF-8/)
    t.match(message('/dev/zero'), /NO_REGULAR_FILE/)
    t.match(message('/dev/stdin'), /NO_REGULAR_FILE|EISDIR|ENXIO|EACCES/)
    if (process.platform !== 'win32') {
      execFileSync('mkfifo', [`${folder}/pipe`])
      t.match(message(`${folder}/pipe`), /NO_REGULAR_FILE/, 'a pipe that nobody writes to is not waited for')
      writeFileSync(`${folder}/with-pipe.yaml`, REST.replace('client-key-1', '"${file:pipe}"'))
      t.match(message(`${folder}/with-pipe.yaml`), /NO_REGULAR_FILE/, 'as a secret neither')
    }
  })
})
