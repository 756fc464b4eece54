// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// The mistakes that people make in a config, one each: every message stands at the line to change and says what to do,
// none shows a secret, and one mistake is one message.
import t from 'tap'
import { parseConfig } from '../../lib/config/load.ts'
import { configOptions } from '../../lib/config/schema.ts'

const CONFIG = `auth:
  keys:
    - name: team-a
      key: client-key-aaaaaaaa
models:
  gpt-4o:
    backends:
      - endpoint: https://contoso-swc.openai.azure.com
        api_key: 0123456789abcdef0123456789abcdef
        deployment: gpt-4o
      - endpoint: https://contoso-weu.openai.azure.com
        api_key: 1123456789abcdef0123456789abcdef
server:
  port: 3000
`
const KEY = '        api_key: 0123456789abcdef0123456789abcdef\n'

/** The config with one place changed. */
function changed(from: string, to: string): string {
  if (!CONFIG.includes(from)) throw new Error(`no ${from}`)
  return CONFIG.replace(from, to)
}

const backend = (line: string): string => changed(KEY, `${KEY}        ${line}\n`)
const model = (line: string): string => changed('    backends:\n', `    ${line}\n    backends:\n`)
const key = (line: string): string => changed('aaaaaaaa\n', `aaaaaaaa\n      ${line}\n`)
const server = (line: string): string => changed('server:\n', `server:\n  ${line}\n`)
const top = (line: string): string => `${CONFIG}${line}\n`

/** All messages with their lines, problems first. */
function said(text: string): { readonly problems: readonly string[]; readonly warnings: readonly string[] } {
  const read = parseConfig(text, {
    file: 'c.yaml',
    env: {},
    readSecretFile: () => {
      throw Object.assign(new Error('none'), { code: 'ENOENT' })
    },
  })
  const lines = (list: readonly { line: number; path: string; message: string }[]) =>
    list.map(({ line, path, message }) => `${line} ${path} ${message}`)
  if (read.kind === 'invalid') return { problems: lines(read.problems), warnings: [] }
  return { problems: [], warnings: lines(read.warnings) }
}

/** Each is one problem, and this one. */
const PROBLEMS: readonly (readonly [mistake: string, text: string, says: RegExp])[] = [
  ['one blank too few', changed(KEY, KEY.slice(1)), /^9 .*indentation .* column 8, .* column 9 or 5/],
  ['two blanks too few', changed(KEY, KEY.slice(2)), /^9 .*indentation .* column 7, .* column 5 or 9/],
  ['one blank too many', changed(KEY, ` ${KEY}`), /^9 .*indentation .* column 10, .* column 9/],
  ['two blanks too many', changed(KEY, `  ${KEY}`), /^9 .*indentation .* column 11, .* column 9/],
  [
    'a dash too far left',
    changed('      - endpoint: https://contoso-weu', '     - endpoint: https://contoso-weu'),
    /^11 .*indentation .* column 6, .* column 7/,
  ],
  ['a tab', changed(KEY, `\t${KEY.trim()}\n`), /^9 .*a tab cannot indent YAML: use spaces/],
  [
    'no blank after a colon',
    changed('deployment: gpt-4o', 'deployment:gpt-4o'),
    /^10 .*the blank after ":" is missing/,
  ],
  ['no colon', changed('deployment: gpt-4o', 'deployment gpt-4o'), /^10 .*the ":" after the key is missing/],
  ['a quote that is never closed', changed('name: team-a', 'name: "team-a'), /^3 .*a quote is opened and never closed/],
  [
    'client keys as texts',
    changed('    - name: team-a\n      key: client-key-aaaaaaaa\n', '    - client-key-aaaaaaaa\n'),
    /^3 auth\.keys\[0\] .*\(not shown\): write "- name: NAME"/,
  ],
  [
    'models as a list',
    changed('  gpt-4o:\n    backends:\n', '  - name: gpt-4o\n    backends:\n'),
    /^6 models .*not a list: write each model as "NAME:"/,
  ],
  ['a number for a word', server('workers: all'), /^14 server\.workers must be auto or a whole number/],
  ['one share of one', top('retry: {budget: 0.2}'), /the unit is missing, as in 20%/],
  ['a single address', key('from: 10.0.0.0/8'), /must be a list .* write \[…\] around it/],
  ['a price alone', model('price: 2.5'), /write \{input: …, cached_input: …, output: …\}, per million tokens/],
  ['metrics: true', top('metrics: true'), /write metrics\.enabled/],
  ['a level of another logger', top('logging: {level: warning}'), /did you mean "warn"/],
  ['a format of another logger', top('logging: {format: pretty}'), /did you mean "text"/],
  ['a policy of another balancer', model('balance: least_connections'), /did you mean "least_busy"/],
  ['the identity of the system', changed(KEY, '        entra: system\n'), /did you mean "managed_identity"/],
  [
    'a key with the word Bearer',
    changed('0123456789abcdef0123456789abcdef', '"Bearer 0123456789abcdef"'),
    /write it without the word Bearer/,
  ],
  [
    'a key with a blank inside',
    changed('0123456789abcdef0123456789abcdef', '0123456789 abcdef'),
    /holds a blank: was more than the key copied/,
  ],
  [
    'a key with its header',
    changed('0123456789abcdef0123456789abcdef', '"api-key: 0123456789abcdef"'),
    /begins with the name of a header: write the value alone/,
  ],
  [
    'a template of another tool',
    changed('0123456789abcdef0123456789abcdef', '"{{ env.KEY }}"'),
    /a variable is written \$\{NAME\} here/,
  ],
  [
    'the URL of an operation',
    changed(
      'https://contoso-swc.openai.azure.com',
      'https://contoso-swc.openai.azure.com/openai/deployments/gpt-4o-prod/chat/completions?api-version=2024-10-21',
    ),
    /cut it before "\/openai" .* it says deployment: gpt-4o-prod and api_version: 2024-10-21: write that beside it/,
  ],
  [
    'a LiteLLM file',
    'model_list:\n  - model_name: gpt-4o\nlitellm_settings: {}\ngeneral_settings: {master_key: sk-1234}\n',
    /this is a LiteLLM config: deploy\/migrate\.md/,
  ],
  [
    'channels of one-api',
    'channels:\n  - {type: 3, key: aaaa, base_url: "https://a.example"}\n',
    /one-api: deploy\/migrate\.md/,
  ],
  [
    'a list of channels of one-api',
    '[{"id": 1, "type": 3, "key": "aaaa"}]\n',
    /begin with a copy of config\.template\.yaml/,
  ],
  ['a manifest', 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n', /Kubernetes manifest/],
  ['a compose file', 'services:\n  proxy: {image: x}\n', /no config of the proxy/],
  ['a file of Bifrost', '{"providers": {"azure": {}}}', /another gateway/],
  ['a file of Portkey', 'strategy: {mode: loadbalance}\ntargets: []\n', /Portkey/],
]

t.test('one mistake is one message, which says what to do', async t => {
  for (const [mistake, text, says] of PROBLEMS) {
    const { problems } = said(text)
    t.equal(problems.length, 1, `${mistake}: ${problems.join(' | ')}`)
    t.match(problems[0], says, mistake)
    t.notMatch(problems.join('\n'), /aaaaaaaa|0123456789abcdef|sk-1234/, `${mistake}: no secret`)
  }
})

t.test('a model or its backends that stand too far left are told where they belong', async t => {
  const left = said(changed('  gpt-4o:\n', 'gpt-4o:\n')).problems
  t.match(left.join('\n'), /6 gpt-4o unknown key: this is a model: indent it/)
  const shallow = said(changed('    backends:', '  backends:')).problems
  t.match(shallow.join('\n'), /8 models\.backends .* indent it to stand below its model's name/)
})

/** Unknown keys, and what each is here. */
const NAMES: readonly (readonly [text: (line: string) => string, names: string, says: RegExp])[] = [
  [
    backend,
    'api_base base_url baseURL url azure_endpoint azureOpenAIEndpoint host resource_name target_uri',
    /here it is called "endpoint"/,
  ],
  [backend, 'azure_deployment deployment_name deployment-id model engine', /here it is called "deployment"/],
  [backend, 'azure_api_key key secret token', /here it is called "api_key"/],
  [backend, 'version openai_api_version', /here it is called "api_version"/],
  [backend, 'order tier', /here it is called "priority"/],
  [backend, 'max_parallel_requests max_concurrent', /here it is called "max_in_flight"/],
  [backend, 'extra_headers', /here it is called "headers"/],
  [backend, 'rpm tpm', /learnt from its answers/],
  [backend, 'tenant_id client_secret', /write it under "entra"/],
  [backend, 'managed_identity azure_ad_token credential', /write "entra: managed_identity"/],
  [backend, 'ssl_verify insecure', /always verified/],
  [backend, 'timeout', /models\.NAME\.timeout/],
  [backend, 'retries max_retries', /retry\.max_attempts/],
  [backend, 'enabled disabled', /eject it on the status page/],
  [model, 'strategy routing_strategy load_balancing lb', /here it is called "balance"/],
  [model, 'fallbacks fallback', /priority: 2 is the fallback/],
  [model, 'endpoint api_key deployment weight max_in_flight', /write it into an item of "backends"/],
  [model, 'max_wait', /under "retry"/],
  [model, 'rpm tpm limits', /auth\.keys\[\]\.limits/],
  [key, 'value token api_key', /here it is called "key"/],
  [key, 'hash sha256', /"key_sha256"/],
  [key, 'expiry expires_at valid_until', /"expires"/],
  [key, 'allowed_ips ip_whitelist', /here it is called "from"/],
  [key, 'roles is_admin', /"admin"/],
  [key, 'rpm requests_per_minute', /write it as requests_per_minute under "limits"/],
  [key, 'tpm tokens_per_minute', /write it as tokens_per_minute under "limits"/],
  [key, 'max_budget', /write it as cost_per_month under "limits"/],
  [server, 'listen bind address', /here it is called "host"/],
  [server, 'ssl', /here it is called "tls"/],
  [server, 'cert', /under "tls"/],
  [server, 'cors', /"cors_origins"/],
  [server, 'max_body_size', /"max_body"/],
  [server, 'timeout', /retry\.timeout/],
  [server, 'log_level', /logging\.level/],
  [server, 'health_check logging retry', /stands at the top level: move it out to the left margin/],
  [top, 'log logger', /here it is called "logging"/],
  [top, 'port host workers', /under "server"/],
  [top, 'keys api_keys', /auth\.keys/],
  [top, 'admin_key master_key', /admin: true/],
  [top, 'backends endpoints upstreams', /models\.NAME\.backends/],
  [top, 'timeout retries', /under "retry"/],
  [top, 'proxy http_proxy', /under "egress"/],
  [top, 'tls ssl', /server\.tls/],
  [top, 'cache redis database_url', /needs none/],
  [top, 'rate_limit limits quota', /auth\.keys\[\]\.limits/],
  [top, 'otel telemetry', /"tracing"/],
  [top, 'model_list litellm_settings', /LiteLLM config/],
]

t.test('names of other tools, and options of other sections, are told what they are here', async t => {
  for (const [text, names, says] of NAMES) {
    for (const name of names.split(' ')) {
      const found = said(text(`${name}: x`)).problems.filter(line => /unknown key/.test(line))
      t.equal(found.length, 1, name)
      t.match(found[0], says, name)
    }
  }
  const limits = said(key('limits: {rpm: 1, tpm: 1, max_parallel_requests: 1, budget: 1, tokens_per_hour: 1}')).problems
  for (const says of [
    /rpm .*"requests_per_minute"/,
    /tpm .*"tokens_per_minute"/,
    /"concurrent"/,
    /"cost_per_month"/,
    /windows are/,
  ]) {
    t.match(limits.join('\n'), says)
  }
})

t.test('no name that is told to be called otherwise is an option, and what it is told to be called is one', async t => {
  const options = new Set(configOptions().map(({ path }) => path.split('.').at(-1)?.replace('[]', '') ?? ''))
  for (const [text, names, says] of NAMES) {
    const called = /called "(\w+)"/.exec(said(text(`${names.split(' ')[0]}: x`)).problems.join('\n'))?.[1]
    if (called !== undefined) t.ok(options.has(called), `${called} (${says})`)
  }
})

const WARNED: readonly (readonly [mistake: string, text: string, says: RegExp])[] = [
  ...['$AZURE_KEY', 'os.environ/AZURE_KEY', '$env:AZURE_KEY', 'env.AZURE_KEY', '"%AZURE_KEY%"', '"{{AZURE_KEY}}"'].map(
    text => [text, changed('0123456789abcdef0123456789abcdef', text), /write \$\{AZURE_KEY\}/] as const,
  ),
  ['a portal', changed('https://contoso-swc.openai.azure.com', 'https://ai.azure.com/x'), /address of a portal/],
  ["LiteLLM's prefix", changed('deployment: gpt-4o', 'deployment: azure/gpt-4o'), /cut "azure\/" off/],
  ['a blank in a deployment', changed('deployment: gpt-4o', 'deployment: gpt-4o eu'), /no name that Azure gives/],
]

t.test('what is allowed and cannot be meant is warned of', async t => {
  for (const [mistake, text, says] of WARNED) {
    const { problems, warnings } = said(text)
    t.same(problems, [], mistake)
    t.match(warnings.join('\n'), says, mistake)
  }
  t.same(said(CONFIG), { problems: [], warnings: [] }, 'and nothing else is')
})

t.test('a guess at the indentation is made only for what is no YAML, and never where the blocks are sound', async t => {
  for (const text of [
    'a:\n- b: 1\n  c: 2\n- d\ne: 3\n',
    'a:\n    - - 1\n      - 2\n    - x: |\n        any: thing\n       less\n      y: 1\n',
    'a: {b: 1,\n  c: [1,\n2]}\nd: "x: y"\n',
    '# comment\n\na: # more\n  b: 1\n',
  ]) {
    t.notMatch(said(text).problems.join('\n'), /indentation does not fit: this line/, text)
  }
})
