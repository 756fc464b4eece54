// From the options as read to the Config: defaults that depend on other options, and the rules that join several of
// them. Every rule reports and goes on; the Config counts only when nothing was reported.

import { addressRanges, type BuildSources, buildAuth } from './auth.ts'
import { buildHeaders } from './backend-headers.ts'
import { readCredential } from './credential.ts'
import { buildEgress, ownRoute, type PemSources, routeFor } from './egress.ts'
import { isLoopback, parseEndpoint } from './endpoint.ts'
import { resolvePath } from './interpolate.ts'
import { type Place, pathTo, type Report } from './problems.ts'
import type { ParsedBackend, ParsedConfig, ParsedModel } from './schema.ts'
import { Secret } from './secret.ts'
import type { Parsed } from './sections.ts'
import type { BackendConfig, Config, EgressConfig, ModelConfig, Price, TracingConfig } from './types.ts'

// The documented floor for a stream's first output, when the config names none.
const FIRST_OUTPUT_MIN_MS = 120_000

// Names go into a header, log lines and labels.
const BACKEND_NAME_MAX_CHARS = 128

type BackendSources = PemSources & { readonly egress: EgressConfig }

/** Builds the Config, with everything wrong between the options reported. Meaningless once anything was reported. */
export function buildConfig(options: ParsedConfig, sources: BuildSources & PemSources, report: Report): Config {
  const { server, retry, health_check: health, logging, metrics, usage } = options
  const { tls } = server.value
  const { cert, key } = tls.value ?? {}
  const absolute = (path: string) => resolvePath(sources.file, path)
  if (server.value.max_body.value > server.value.max_buffered.value) {
    const { max_body: body, max_buffered: buffered } = server.value
    report.problem(
      (body.given ? body : buffered).place,
      'max_body must not be larger than max_buffered: such a body could never be held for replay',
    )
  }
  const egress = buildEgress(options.egress, sources, report)
  const models = buildModels(options, { ...sources, egress }, report)
  return {
    server: {
      port: server.value.port.value,
      host: server.value.host.value,
      workers: server.value.workers.value,
      maxBodyBytes: server.value.max_body.value,
      maxBufferedBytes: server.value.max_buffered.value,
      maxConnections: server.value.max_connections.value,
      shutdownGraceMs: server.value.shutdown_grace.value,
      streamKeepaliveMs: server.value.stream_keepalive.value,
      tls:
        cert?.value === undefined || key?.value === undefined
          ? undefined
          : { certFile: absolute(cert.value), keyFile: absolute(key.value) },
      watch: server.value.watch.value,
      trustedProxies: addressRanges(server.value.trusted_proxies.value),
      extraOperations: server.value.extra_operations.value.map(({ value }) => value),
      corsOrigins: server.value.cors_origins.value.map(origin => origin.value),
    },
    auth: buildAuth(options, sources, report),
    models,
    egress,
    retry: {
      maxAttempts: retry.value.max_attempts.value,
      connectTimeoutMs: retry.value.connect_timeout.value,
      streamHoldMs: retry.value.stream_hold.value,
      idleTimeoutMs: retry.value.idle_timeout.value,
      budget: retry.value.budget.value,
      maxWaitMs: retry.value.max_wait.value,
      connectionMaxAgeMs: retry.value.connection_max_age.value,
    },
    healthCheck: {
      enabled: health.value.enabled.value,
      intervalMs: health.value.interval.value,
      timeoutMs: health.value.timeout.value,
      recoveryMs: health.value.recovery.value,
    },
    logging: {
      level: logging.value.level.value,
      format: logging.value.format.value,
      file: logging.value.file.value === undefined ? undefined : absolute(logging.value.file.value),
    },
    metrics: { enabled: metrics.value.enabled.value },
    tracing: buildTracing(options, report),
    usage: { file: absolute(usage.value.file.value ?? 'usage.jsonl') },
  }
}

function buildModels(options: ParsedConfig, sources: BackendSources, report: Report): readonly ModelConfig[] {
  const { models, retry } = options
  if (models.empty) {
    report.problem(models.place, 'needs at least one model: a name, and its backends below it')
  }
  const all = models.value ?? new Map<string, Parsed<ParsedModel>>()
  checkAliases(all, report)
  return [...all].map(([name, { value: model, place }]) => {
    const timeoutMs = model.timeout.value ?? retry.value.timeout.value
    return {
      name,
      aliases: model.aliases.value.map(alias => alias.value),
      balance: model.balance.value,
      timeoutMs,
      firstOutputTimeoutMs: retry.value.first_output_timeout.value ?? Math.max(FIRST_OUTPUT_MIN_MS, timeoutMs),
      streamUsage: model.stream_usage.value,
      stripForeignReasoning: model.strip_foreign_reasoning.value,
      price: buildPrice(model.price.value),
      backends: buildBackends(name, model, place, sources, report),
    }
  })
}

/** Where OTLP/HTTP takes traces below a base URL (OTLP specification, "Endpoint URLs for OTLP/HTTP"). */
const TRACES_PATH = '/v1/traces'

function buildTracing({ tracing: { value: tracing } }: ParsedConfig, report: Report): TracingConfig {
  const { value, place } = tracing.otlp
  const headers = [...(tracing.headers.value ?? [])].map(([name, header]) => ({
    name: name.toLowerCase(),
    value: new Secret(header.value),
  }))
  const off = { url: undefined, sample: tracing.sample.value, headers }
  if (value === undefined) return off
  if (!/^https?:\/\//i.test(value) || !URL.canParse(value) || new URL(value).hash !== '') {
    report.problem(place, 'must be a URL that begins with http:// or https://, such as http://localhost:4318')
    return off
  }
  const url = new URL(value)
  const path = url.pathname.replace(/\/+$/, '')
  url.pathname = path.endsWith(TRACES_PATH) ? path : `${path}${TRACES_PATH}`
  return { ...off, url: url.href }
}

function buildPrice(price: ParsedModel['price']['value']): Price | undefined {
  const input = price?.input.value
  if (price === undefined || input === undefined) return undefined
  return { input, cachedInput: price.cached_input.value ?? input, output: price.output.value ?? 0 }
}

function checkAliases(models: ReadonlyMap<string, Parsed<ParsedModel>>, report: Report): void {
  const taken = new Map<string, Place>([...models].map(([name, { place }]) => [name, place]))
  for (const { value: model } of models.values()) {
    for (const { value: alias, place } of model.aliases.value) {
      const first = taken.get(alias)
      if (first === undefined) taken.set(alias, place)
      else report.problem(place, `this name already stands on line ${first.line}: names and aliases must differ`)
    }
  }
}

function buildBackends(
  modelName: string,
  model: ParsedModel,
  modelPlace: Place,
  sources: BackendSources,
  report: Report,
): readonly BackendConfig[] {
  const { backends } = model
  if (backends.empty) {
    report.problem(backends.place, 'needs at least one backend')
  }
  const names = new Map<string, Place>()
  /**
   * The number that the next backend of a name gets: tried from 2 on for each, ten thousand alike took half a minute.
   */
  const repeats = new Map<string, number>()
  for (const { value } of backends.value ?? []) {
    const { value: name, place } = value.name
    if (name === undefined) continue
    const first = names.get(name)
    if (first === undefined) names.set(name, place)
    else
      report.problem(place, `this name already stands on line ${first.line}: a model's backends need different names`)
  }
  return (backends.value ?? []).flatMap(taken => {
    const backend = buildBackend(taken, modelName, modelPlace, names, repeats, sources, report)
    return backend === undefined ? [] : [backend]
  })
}

function buildBackend(
  { value: options, place }: Parsed<ParsedBackend>,
  modelName: string,
  modelPlace: Place,
  names: Map<string, Place>,
  repeats: Map<string, number>,
  sources: BackendSources,
  report: Report,
): BackendConfig | undefined {
  const type = options.type.value
  const credential = readCredential(options, place, sources.env, report)
  const deployment = options.deployment.value ?? modelName
  if (deployment === '.' || deployment === '..') {
    // As a path segment these would climb out of the deployment, however they are escaped (RFC 3986, 5.2.4).
    const here = options.deployment.given
      ? options.deployment.place
      : { ...modelPlace, path: pathTo(place.path, 'deployment') }
    report.problem(here, 'must be the name of a deployment, which "." and ".." cannot be')
  }
  if (type === 'openai' && options.api_version.given) {
    report.problem(options.api_version.place, 'has no meaning with type: openai: remove it')
  }
  if (options.endpoint.value === undefined) return undefined
  const parsed = parseEndpoint(options.endpoint.value, type)
  if (parsed.kind === 'invalid') {
    report.problem(options.endpoint.place, parsed.message)
    return undefined
  }
  const route = routeFor(sources.egress, parsed.endpoint, ownRoute(options, sources, report))
  const endpoint = { ...parsed.endpoint, route }
  if (credential === undefined) return undefined
  if (endpoint.protocol === 'http:' && !isLoopback(endpoint.hostname) && credential.kind !== 'none') {
    report.warning(
      options.endpoint.place,
      'plain http: the credential and all prompts travel readable over the network',
    )
  }
  const name = options.name.value ?? unusedName(`${shortHost(endpoint.host)}/${deployment}`, { names, repeats }, place)
  return {
    name,
    type,
    endpoint,
    credential,
    deployment,
    apiVersion: options.api_version.value ?? 'v1',
    weight: options.weight.value,
    priority: options.priority.value,
    maxInFlight: options.max_in_flight.value,
    headers: buildHeaders(options, type, credential, report),
  }
}

// Two defaulted names of a model are alike when one deployment is used through two keys: legal, so the second gets
// "#2".
/** Without the suffix that all of Azure's resources share: what tells them apart is in front of it. */
function shortHost(host: string): string {
  return host.replace(/\.(?:openai|cognitiveservices|services\.ai)\.azure\.(?:com|us|cn)$/, '')
}

function unusedName(
  wanted: string,
  { names, repeats }: { readonly names: Map<string, Place>; readonly repeats: Map<string, number> },
  place: Place,
): string {
  const base = wanted.replaceAll(/[^\x21-\x7e]+/g, escapeUtf8).slice(0, BACKEND_NAME_MAX_CHARS)
  let name = base
  let next = repeats.get(base) ?? 2
  for (; names.has(name); next++) name = `${base}#${next}`
  repeats.set(base, next)
  names.set(name, place)
  return name
}

function escapeUtf8(characters: string): string {
  return encodeURIComponent(characters)
}
