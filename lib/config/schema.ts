// Every option of the config: its kind, its range, its default. Rules that join several options are in build.ts; what
// each option is for, and why its default is what it is, says config.template.yaml.
import { isAddressRange } from './addresses.ts'
import type { Node } from './document.ts'
import type { Report } from './problems.ts'
import {
  choice,
  decimal,
  duration,
  flag,
  moment,
  percent,
  type Reader,
  size,
  text,
  textOrList,
  whole,
} from './readers.ts'
import { defaulted, group, list, listed, mapOf, optional, required, type Section, section } from './sections.ts'
import { keyCure, workersOrAuto } from './special-readers.ts'

// Bytes beyond ASCII pass in a header, and blanks around its value are none of it (RFC 9110 section 5.5): warned of.
const HEADER_TEXT = /^ *[\x21-\x7e\u00a1-\u{10ffff}]+ *$/u
// In the x-proxy-backend header, in log lines and metric labels.
const LABEL = /^[\x20-\x7e]{1,128}$/
// Tenant and client ids are GUIDs or domain names; the tenant becomes a piece of a URL's path.
const ENTRA_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/
// Names of claims are URLs at some issuers.
const CLAIM = /^[\x21-\x7e]{1,256}$/
const HOST = /^[A-Za-z0-9.:%_-]{1,253}$/

const MAX_WORKERS = 1024
const MAX_PER_MINUTE = 1_000_000_000
const MAX_CONCURRENT = 1_000_000
/** Tokens of a day or a month: what a double still counts one by one. */
const MAX_QUOTA_TOKENS = 1_000_000_000_000_000
const MAX_COST = 1_000_000_000
const MAX_PRICE = 1_000_000
const MAX_CONNECTIONS = 1_000_000

const label = text({ allowed: 'a text of at most 128 visible ASCII characters', pattern: LABEL })
const headerSecret = text({
  allowed: 'a key without blanks in it',
  pattern: HEADER_TEXT,
  secret: true,
  cureFor: keyCure,
})
const entraId = text({ allowed: 'an id of letters, digits, dots and hyphens', pattern: ENTRA_ID })
const modelName = text({ allowed: 'the name of a model' })
const path = text({ allowed: 'the path of a file' })
const addressRange = text({
  allowed: 'an IP address or a range such as 10.0.0.0/8 or 2001:db8::/32',
  accepts: isAddressRange,
})
// As browsers write it in the Origin header (RFC 6454 section 6.2): nothing after the port.
const origin = text({
  allowed: '* or an origin such as https://app.example.com, without a path',
  pattern: /^(?:\*|[a-z][a-z0-9+.-]*:\/\/[^/?#@\s]+)$/,
})

/** Where a backend's Entra token comes from, when no mapping says more. */
export type EntraMode = 'managed_identity' | 'workload_identity' | 'client_secret'

const entraSection = section({
  mode: optional(choice(['managed_identity', 'workload_identity', 'client_secret']), 'client_secret, if there is one'),
  tenant_id: optional(entraId),
  client_id: optional(entraId),
  client_secret: optional(text({ allowed: 'a client secret', secret: true })),
  scope: defaulted(
    text({ allowed: 'a scope that ends in /.default', pattern: /^[\x21-\x7e]+\/\.default$/ }),
    'https://cognitiveservices.azure.com/.default',
  ),
  authority: optional(text(), 'AZURE_AUTHORITY_HOST, else https://login.microsoftonline.com'),
})

export type ParsedEntra =
  | { readonly kind: 'mode'; readonly mode: 'managed_identity' | 'workload_identity' }
  | { readonly kind: 'mapping'; readonly options: NonNullable<ReturnType<typeof entraSection.read>> }

const entraWord = choice(['managed_identity', 'workload_identity'])

// A word, or a mapping.
const entra: Reader<ParsedEntra> = {
  allowed: `${entraWord.allowed}, or a mapping`,
  nested: entraSection.nested,
  read(node: Node, report: Report) {
    if (node.kind === 'map') {
      const options = entraSection.read(node, report)
      return options && { kind: 'mapping', options }
    }
    const mode = entraWord.read(node, report)
    return mode && { kind: 'mode', mode }
  },
}

const headerValue = text({
  allowed: 'a text of visible ASCII characters and blanks',
  pattern: /^[\x20-\x7e]+$/,
  secret: true,
})
// May hold a password.
const proxyUrl = text({ allowed: 'the URL of a proxy, or none', secret: true })
const pemFiles = textOrList('the path of a PEM file, or a list of them')

const egressFields = {
  proxy: optional(proxyUrl, 'HTTPS_PROXY and HTTP_PROXY of the environment'),
  no_proxy: optional(
    textOrList('hosts, .suffixes, address ranges or *, as a list or with commas'),
    'NO_PROXY of the environment',
  ),
  ca: optional(pemFiles, "the system's CAs"),
}

const API_VERSION = /^(?:v1|preview|20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?:-preview)?)$/

const backendFields = {
  name: optional(label, 'HOST/DEPLOYMENT, without .openai.azure.com and the like'),
  endpoint: required(text({ allowed: 'a URL such as https://my-resource.openai.azure.com' })),
  api_key: optional(headerSecret),
  entra: optional(entra),
  deployment: optional(text({ allowed: 'the name of a deployment' }), "the model's name"),
  api_version: optional(
    text({ allowed: 'v1, preview or a version such as 2024-10-21 or 2025-04-01-preview', pattern: API_VERSION }),
    'v1',
  ),
  type: defaulted(choice(['azure', 'openai']), 'azure'),
  weight: defaulted(whole(1, 1000), 1),
  priority: defaulted(whole(1, 100), 1),
  max_in_flight: optional(whole(1, MAX_CONCURRENT), 'no limit'),
  headers: optional(mapOf(headerValue, 'header names'), 'no header'),
  proxy: optional(proxyUrl, 'that of egress.proxy'),
  tls: optional(
    section({
      ca: optional(pemFiles),
      cert: optional(path),
      key: optional(path),
      server_name: optional(text({ allowed: 'a host name', pattern: HOST })),
    }),
    "the system's CAs and egress.ca, no client certificate",
  ),
}

const timeout = duration({ min: '10ms', max: '1h' })

const price = section({
  input: required(decimal(0, MAX_PRICE)),
  cached_input: optional(decimal(0, MAX_PRICE), 'that of input'),
  output: optional(decimal(0, MAX_PRICE), '0, as for embeddings'),
})

const modelFields = {
  backends: required(list(section(backendFields))),
  aliases: listed(modelName),
  balance: defaulted(choice(['round_robin', 'least_busy', 'prompt_cache']), 'round_robin'),
  timeout: optional(timeout, 'that of retry.timeout'),
  stream_usage: defaulted(flag(), false),
  strip_foreign_reasoning: defaulted(flag(), false),
  price: optional(price, 'no cost is counted'),
}

const limitFields = {
  requests_per_minute: optional(whole(1, MAX_PER_MINUTE), 'no limit'),
  tokens_per_minute: optional(whole(1, MAX_PER_MINUTE), 'no limit'),
  concurrent: optional(whole(1, MAX_CONCURRENT), 'no limit'),
  tokens_per_day: optional(whole(1, MAX_QUOTA_TOKENS), 'no limit'),
  tokens_per_month: optional(whole(1, MAX_QUOTA_TOKENS), 'no limit'),
  cost_per_month: optional(decimal(0.000_001, MAX_COST), 'no limit'),
}

const keyFields = {
  name: required(label),
  key: optional(headerSecret),
  key_sha256: optional(text({ allowed: 'the 64 hex digits of a SHA-256', pattern: /^[0-9A-Fa-f]{64}$/, secret: true })),
  models: optional(list(modelName), 'all models'),
  admin: defaulted(flag(), false),
  from: optional(list(addressRange), 'from anywhere'),
  expires: optional(moment(), 'it never ends'),
  limits: group(limitFields),
}

const tokenFields = {
  name: required(label),
  issuer: required(text({ allowed: 'the issuer as tokens name it in "iss", without blanks', pattern: HEADER_TEXT })),
  audience: required(textOrList('an audience, or a list of them')),
  jwks: optional(text({ allowed: 'the URL or the file of a JSON Web Key Set' }), "the issuer's own"),
  subjects: optional(list(text({ allowed: 'a value of the claim' })), 'every token of that audience'),
  claim: optional(text({ allowed: 'the name of a claim', pattern: CLAIM }), 'azp, else appid, else sub'),
  models: optional(list(modelName), 'all models'),
  admin: defaulted(flag(), false),
  limits: group(limitFields),
}

/** As it stands in the path behind `/v1/`; no dot segments, no query. */
const operationName = text({
  allowed: 'a path below /v1 such as rerank or team/thing',
  pattern: /^(?!\.)[A-Za-z0-9_-][\w.-]*(?:\/[A-Za-z0-9_-][\w.-]*){0,4}$/,
})

const rootFields = {
  server: group({
    port: defaulted(whole(0, 65_535), 3000),
    host: optional(text({ allowed: 'a host name or IP address without brackets', pattern: HOST }), 'all interfaces'),
    workers: defaulted(workersOrAuto(MAX_WORKERS), 1),
    max_body: defaulted(size({ min: '1KB', max: '1GB' }), '64MB'),
    max_connections: optional(whole(1, MAX_CONNECTIONS), 'half of what the limit of open files leaves'),
    max_buffered: defaulted(size({ min: '1KB', max: '256GB' }), '512MB'),
    shutdown_grace: defaulted(duration({ min: '1ms', max: '1h', zero: 'stop at once' }), '30s'),
    stream_keepalive: defaulted(duration({ min: '10ms', max: '1h', zero: 'off' }), '15s'),
    tls: optional(section({ cert: required(path), key: required(path) }), 'plain HTTP'),
    watch: defaulted(flag(), false),
    trusted_proxies: listed(addressRange),
    cors_origins: listed(origin),
    extra_operations: listed(operationName),
  }),
  auth: group({
    enabled: defaulted(flag(), true),
    keys: listed(section(keyFields)),
    tokens: listed(section(tokenFields)),
    shared_responses: defaulted(flag(), false),
  }),
  models: required(mapOf(section(modelFields), 'model names')),
  egress: group(egressFields),
  retry: group({
    max_attempts: defaulted(whole(1, 10), 3),
    timeout: defaulted(timeout, '2m'),
    connect_timeout: defaulted(duration({ min: '10ms', max: '5m' }), '5s'),
    first_output_timeout: optional(timeout, "2m, or the model's timeout if that is longer"),
    stream_hold: defaulted(duration({ min: '1ms', max: '1m', zero: 'nothing is held back' }), '2s'),
    idle_timeout: defaulted(duration({ min: '10ms', max: '24h' }), '5m'),
    budget: defaulted(percent({ min: '0%', max: '100%' }), '20%'),
    connection_max_age: defaulted(duration({ min: '10ms', max: '24h' }), '5m'),
    max_wait: defaulted(duration({ min: '1ms', max: '5m', zero: 'answer 429 at once' }), '0s'),
  }),
  health_check: group({
    enabled: defaulted(flag(), true),
    interval: defaulted(duration({ min: '10ms', max: '1h' }), '30s'),
    timeout: defaulted(duration({ min: '10ms', max: '5m' }), '5s'),
    recovery: defaulted(duration({ min: '10ms', max: '1h' }), '30s'),
  }),
  logging: group({
    level: defaulted(choice(['debug', 'info', 'warn', 'error']), 'info'),
    format: defaulted(choice(['json', 'text']), 'json'),
    file: optional(path, 'standard output'),
  }),
  metrics: group({ enabled: defaulted(flag(), true) }),
  tracing: group({
    otlp: optional(text({ allowed: 'a URL such as http://localhost:4318' }), 'nothing is traced'),
    sample: defaulted(percent({ min: '0%', max: '100%' }), '100%'),
    headers: optional(mapOf(headerValue, 'header names'), 'no header'),
  }),
  usage: group({ file: optional(path, 'usage.jsonl beside this file') }),
}

/** The whole config as YAML says it. */
export const configReader = section(rootFields)

/** The names of its sections. */
export const SECTION_NAMES: readonly string[] = Object.keys(rootFields)

export type ParsedConfig = Section<typeof rootFields>
export type ParsedEgress = Section<typeof egressFields>
export type ParsedModel = Section<typeof modelFields>
export type ParsedBackend = Section<typeof backendFields>
export type ParsedKey = Section<typeof keyFields>
export type ParsedTokenIssuer = Section<typeof tokenFields>

/** One option as users meet it. */
export interface ConfigOption {
  /** `models.NAME.backends[].endpoint` */
  readonly path: string
  readonly required: boolean
  /** As it would be written, or in words; undefined: there is none. */
  readonly default: string | undefined
  /** What is allowed; completes "must be …". */
  readonly allowed: string
  /** Whether further options stand inside it. */
  readonly hasOptions: boolean
}

/** Every option there is, in the order of the schema; for the template's test and for documentation. */
export function configOptions(): readonly ConfigOption[] {
  return optionsIn('', configReader)
}

function optionsIn(path: string, reader: Reader<unknown>): readonly ConfigOption[] {
  const { nested } = reader
  if (nested.kind === 'value') return []
  if (nested.kind === 'list') return optionsIn(`${path}[]`, nested.item)
  if (nested.kind === 'map') return optionsIn(`${path}.NAME`, nested.item)
  return Object.entries(nested.fields).flatMap(([name, option]) => {
    const here = path === '' ? name : `${path}.${name}`
    const within = optionsIn(here, option.reader)
    const { required: isRequired, defaultText, reader: part } = option
    return [
      { path: here, required: isRequired, default: defaultText, allowed: part.allowed, hasOptions: within.length > 0 },
      ...within,
    ]
  })
}
