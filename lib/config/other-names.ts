// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// Words that people bring from other tools and from other sections, and what they are here. Pure tables.

import { plain } from './nearest.ts'
import { foreignSection } from './other-files.ts'

/** Words for one thing, separated by blanks, and the end of the sentence "unknown key: …". */
type Row = readonly [words: string, cure: string]

const called = (words: string, name: string): Row => [words, `here it is called "${name}"`]
const under = (words: string, section: string, name: string): Row => [words, `write it as ${name} under "${section}"`]
const inside = (words: string, section: string): Row => [words, `write it under "${section}"`]

/** Rows of one section; the section is known by an option that it alone has. */
const SECTIONS: readonly { readonly mark: string; readonly rows: readonly Row[] }[] = [
  {
    mark: 'deployment',
    rows: [
      called(
        'api_base base_url url uri azure_endpoint azure_openai_endpoint openai_api_base api_url host hostname resource resource_name resource_url target target_uri server address',
        'endpoint',
      ),
      called('azure_api_key azure_openai_api_key openai_api_key azure_key key secret token auth_key', 'api_key'),
      called(
        'azure_deployment azure_deployment_id azure_deployment_name azure_openai_deployment deployment_name deployment_id model model_name model_id engine',
        'deployment',
      ),
      called('version openai_api_version azure_api_version azure_openai_api_version', 'api_version'),
      called('order tier level', 'priority'),
      called('weight_percent share ratio percentage', 'weight'),
      called(
        'max_parallel_requests max_concurrent max_concurrent_requests max_concurrency concurrency concurrent parallel max_requests',
        'max_in_flight',
      ),
      called('extra_headers custom_headers request_headers http_headers default_headers header', 'headers'),
      called('proxy_url http_proxy https_proxy', 'proxy'),
      [
        'managed_identity use_managed_identity azure_ad_token azure_ad_token_provider azure_credential identity credential credentials use_azure_ad auth authentication',
        'without a key write "entra: managed_identity" (or workload_identity, or a mapping with client_secret)',
      ],
      inside('tenant_id client_id client_secret scope authority', 'entra'),
      under('ca ca_cert ca_bundle ca_file', 'tls', 'ca'),
      under('cert client_cert certificate', 'tls', 'cert'),
      under('client_key', 'tls', 'key'),
      [
        'ssl_verify verify verify_ssl tls_verify insecure insecure_skip_verify skip_verify',
        'certificates are always verified: name the CA in tls.ca instead',
      ],
      [
        'rpm tpm rpm_limit tpm_limit rate_limit rate_limits',
        "Azure's own limits are learnt from its answers: leave it out; max_in_flight bounds one backend, auth.keys[].limits a client",
      ],
      [
        'timeout request_timeout stream_timeout',
        'it stands at the model (models.NAME.timeout), or as retry.timeout for all',
      ],
      ['retries max_retries num_retries', 'it stands at the top level as retry.max_attempts'],
      ['region location', 'the resource knows its region: leave it out, or call it so in "name"'],
      ['provider kind', 'here it is called "type": azure (the default) or openai'],
      ['enabled disabled active', 'take the backend out of the file and reload, or eject it on the status page'],
      ['cooldown cooldown_time', 'it stands at the top level as health_check.recovery'],
      ['stream max_tokens temperature top_p', 'a client says that in its request: leave it out'],
    ],
  },
  {
    mark: 'backends',
    rows: [
      called('model_alias model_aliases alias names', 'aliases'),
      called(
        'strategy routing routing_strategy load_balancing load_balancer loadbalance lb policy algorithm balancer balancing',
        'balance',
      ),
      called('endpoints deployments channels targets providers upstreams servers resources', 'backends'),
      called('cost costs pricing prices input_cost_per_token model_info', 'price'),
      called('request_timeout', 'timeout'),
      [
        'fallback fallbacks',
        'a backend with another deployment and priority: 2 is the fallback of those with priority 1: write it into "backends"',
      ],
      [
        'endpoint api_key deployment api_version entra weight priority max_in_flight headers proxy tls type api_base base_url url',
        'it belongs to a backend: write it into an item of "backends"',
      ],
      ['max_wait max_attempts retries max_retries num_retries', 'it stands at the top level, under "retry"'],
      ['rpm tpm limits rate_limit rate_limits quota', 'limits stand at the client keys: auth.keys[].limits'],
      ['max_tokens temperature stream', 'a client says that in its request: leave it out'],
      ['litellm_params', 'this is of a LiteLLM config: deploy/migrate.md says what each of its options is here'],
    ],
  },
  {
    mark: 'key_sha256',
    rows: [
      called('value token secret api_key client_key virtual_key', 'key'),
      called('hash sha256 sha_256 key_hash hashed', 'key_sha256'),
      called('alias key_alias id user user_id label team', 'name'),
      called('allowed_models model_list access', 'models'),
      called('allowed_ips allow_ips ip_allowlist ip_whitelist whitelist cidr cidrs ips subnet', 'from'),
      called('expiry expire expiration expires_at expired_time valid_until duration ttl', 'expires'),
      called('role roles is_admin permissions', 'admin'),
      under('rpm rpm_limit requests_per_minute rate rate_limit', 'limits', 'requests_per_minute'),
      under('tpm tpm_limit tokens_per_minute', 'limits', 'tokens_per_minute'),
      under('max_parallel_requests concurrent concurrency max_concurrent', 'limits', 'concurrent'),
      under('tokens_per_day', 'limits', 'tokens_per_day'),
      under('tokens_per_month quota remain_quota', 'limits', 'tokens_per_month'),
      under('cost_per_month max_budget budget budget_limit', 'limits', 'cost_per_month'),
      [
        'budget_duration reset_interval',
        'limits count UTC days and months: limits.tokens_per_day, tokens_per_month, cost_per_month',
      ],
    ],
  },
  {
    mark: 'requests_per_minute',
    rows: [
      called('rpm rpm_limit rate requests', 'requests_per_minute'),
      called('tpm tpm_limit tokens', 'tokens_per_minute'),
      called('max_parallel_requests max_concurrent concurrency parallel max_in_flight', 'concurrent'),
      called('budget max_budget cost', 'cost_per_month'),
      called('quota', 'tokens_per_month'),
      [
        'tokens_per_hour tokens_per_second requests_per_day requests_per_hour requests_per_second requests_per_month cost_per_day budget_duration',
        'windows are requests_per_minute, tokens_per_minute, tokens_per_day, tokens_per_month and cost_per_month',
      ],
    ],
  },
  {
    mark: 'workers',
    rows: [
      called('listen bind address listen_address bind_address interface ip', 'host'),
      called('processes threads num_workers cluster', 'workers'),
      called('ssl https', 'tls'),
      under('cert certificate ssl_cert ssl_certfile cert_file', 'tls', 'cert'),
      under('key private_key ssl_key ssl_keyfile key_file', 'tls', 'key'),
      called('cors allowed_origins allow_origins cors_allowed_origins', 'cors_origins'),
      called('max_body_size body_limit body_size_limit client_max_body_size max_request_size', 'max_body'),
      called('trust_proxy real_ip trusted_proxy', 'trusted_proxies'),
      called('grace_period grace shutdown_timeout drain_timeout', 'shutdown_grace'),
      ['timeout request_timeout read_timeout write_timeout', 'it stands at the top level as retry.timeout'],
      ['log_level', 'it stands at the top level as logging.level'],
      ['keys api_keys api_key', 'it stands at the top level as auth.keys'],
      [
        'prefix base_path path root_path',
        'the proxy answers at /v1 and /openai alone: a path in front is the business of a proxy in front',
      ],
    ],
  },
  {
    mark: 'max_attempts',
    rows: [
      called('max_retries num_retries retries count attempts tries', 'max_attempts'),
      called('request_timeout', 'timeout'),
      [
        'backoff initial_backoff max_backoff delay interval',
        'the next backend is asked at once: leave it out (max_wait waits for capacity)',
      ],
      ['recovery cooldown cooldown_time', 'it stands at the top level as health_check.recovery'],
    ],
  },
  {
    mark: 'recovery',
    rows: [
      called('cooldown cooldown_time', 'recovery'),
      called('period every frequency', 'interval'),
      ['path url endpoint', 'what is asked costs no token and is the same everywhere: leave it out'],
    ],
  },
  {
    mark: 'no_proxy',
    rows: [called('http_proxy https_proxy url proxy_url', 'proxy'), called('ca_file ca_bundle ca_cert', 'ca')],
  },
  {
    mark: 'otlp',
    rows: [
      called('endpoint url exporter collector otlp_endpoint', 'otlp'),
      called('sampling sample_rate sampling_rate ratio sampler', 'sample'),
      ['enabled', 'tracing is on where otlp is given: leave it out'],
      ['service_name', 'spans are of the service azure-openai-proxy: leave it out'],
    ],
  },
]

/** Sections that are told by their last name in the path: they have no option of their own. */
const BY_PATH: Readonly<Record<string, readonly Row[]>> = {
  logging: [
    called('path filename output destination', 'file'),
    called('severity log_level', 'level'),
    called('encoding style', 'format'),
  ],
  metrics: [['path port address endpoint url', "figures stand at /metrics of the proxy's own port: leave it out"]],
  usage: [called('path filename db database', 'file')],
  tls: [
    called('ca_file ca_cert ca_bundle cacert', 'ca'),
    called('cert_file certificate certfile crt pem client_cert', 'cert'),
    called('key_file private_key keyfile client_key', 'key'),
    called('servername sni hostname', 'server_name'),
    ['verify insecure reject_unauthorized skip_verify', 'certificates are always verified: name the CA in ca instead'],
  ],
  entra: [called('type kind identity', 'mode'), called('secret', 'client_secret'), called('tenant', 'tenant_id')],
}

/** What stands in other files or at other places than the top level. */
const TOP: readonly Row[] = [
  ['log logger logs', 'here it is called "logging"'],
  ['model', 'here it is called "models"'],
  [
    'port host listen address bind workers threads',
    'it stands under "server" (server.port, server.host, server.workers)',
  ],
  [
    'keys api_keys apikeys clients users consumers virtual_keys',
    'client keys are a list under "auth": auth.keys, each with name and key',
  ],
  ['admin_key master_key admin_keys', 'a key in auth.keys with admin: true is one'],
  [
    'backends endpoints upstreams providers deployments resources targets servers channels azure openai azure_openai',
    'backends stand under their model: models.NAME.backends',
  ],
  [
    'timeout retries max_retries num_retries max_attempts request_timeout',
    'it stands under "retry" (retry.timeout, retry.max_attempts)',
  ],
  ['proxy http_proxy https_proxy no_proxy ca', 'it stands under "egress" (egress.proxy, egress.no_proxy, egress.ca)'],
  ['tls ssl https cert', 'it stands under "server": server.tls, with cert and key'],
  ['cors', 'it stands under "server": server.cors_origins'],
  [
    'limits rate_limit rate_limits ratelimit quotas quota budgets',
    'limits stand at the client keys: auth.keys[].limits',
  ],
  ['balance strategy load_balancing routing', 'it stands at each model: models.NAME.balance'],
  ['otel opentelemetry telemetry traces', 'here it is called "tracing"'],
  ['prometheus', 'here it is called "metrics"'],
  ['db database database_url redis cache caching storage', 'the proxy needs none, and caches no answers: leave it out'],
  ['environment_variables env', 'variables come from the environment of the process; here they are written ${NAME}'],
]

function find(word: string, rows: readonly Row[]): string | undefined {
  return rows.find(([words]) => words.split(' ').some(each => plain(each) === word))?.[1]
}

/**
 * What an unknown key most likely means, as the end of a sentence; undefined where nothing is known of it.
 * @param path of the section that holds it; empty for the top level
 * @param options the section's own
 */
export function meantByOther(name: string, path: string, options: readonly string[]): string | undefined {
  const word = plain(name)
  if (path === '') return find(word, TOP) ?? foreignSection(name)
  const section = /([a-z]+)$/.exec(path)?.[1] ?? ''
  const byPath = Object.hasOwn(BY_PATH, section) ? BY_PATH[section] : undefined
  if (byPath !== undefined) return find(word, byPath)
  return find(word, SECTIONS.find(({ mark }) => options.includes(mark))?.rows ?? [])
}
