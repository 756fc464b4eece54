// Client keys and token issuers from the options as read: who may call, with which rights, from where and until when.
import { AddressRanges } from './addresses.ts'
import type { Env } from './credential.ts'
import { isLoopback } from './endpoint.ts'
import { resolvePath } from './interpolate.ts'
import { nearest } from './nearest.ts'
import { type Place, pathTo, type Report } from './problems.ts'
import { didYouMean } from './readers.ts'
import type { ParsedConfig, ParsedKey, ParsedTokenIssuer } from './schema.ts'
import { sha256 } from './secret.ts'
import type { Parsed } from './sections.ts'
import type { AuthConfig, ClientKey, ClientKeyLimits, KeySource, TokenIssuer } from './types.ts'

/** What a config is built from besides its own text. */
export interface BuildSources {
  /** The config's path: relative paths inside start in its folder. */
  readonly file: string
  readonly env: Env
  /** Wall clock in milliseconds, for what ends soon; undefined: nothing is said of it. */
  readonly nowEpochMs?: number | undefined
}

/** A key that ends within this time is spoken of: time enough to make and hand out another. */
export const EXPIRY_WARNING_MS = 7 * 86_400_000

/** The key of the template: everybody knows it. */
const PLACEHOLDER_KEY = 'change-me'

/** Where an issuer publishes what it is (OpenID Connect Discovery 1.0, section 4). */
const DISCOVERY_PATH = '/.well-known/openid-configuration'

/** Tenants of Entra that stand for many: their tokens name another issuer each. */
const MANY_TENANTS = /^https:\/\/login\.[a-z.]+\/(?:common|organizations|consumers)(?:\/|$)/i
const ENTRA_TENANT = /^https:\/\/(?:login\.microsoftonline\.(?:com|us)|login\.windows\.net|sts\.windows\.net)\/([^/]+)/i
const GUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

/** Builds `auth`, with everything wrong in it reported. */
export function buildAuth(options: ParsedConfig, sources: BuildSources, report: Report): AuthConfig {
  const { enabled, keys, tokens, shared_responses: shared } = options.auth.value
  const known = new Map<string, string>()
  for (const [name, { value: model }] of options.models.value ?? []) {
    known.set(name, name)
    for (const alias of model.aliases.value) known.set(alias.value, name)
  }
  if (enabled.value && (!keys.given || keys.empty) && (!tokens.given || tokens.empty)) {
    report.problem(
      keys.place,
      'auth.enabled is true and there is no key: add one (or auth.tokens), or set auth.enabled to false',
    )
  }
  return {
    enabled: enabled.value,
    keys: buildKeys(keys.value, known, sources, report),
    tokens: tokens.value.flatMap(entry => buildIssuer(entry, known, sources, report) ?? []),
    sharedResponses: shared.value,
  }
}

/** Ranges that were read one by one; undefined: none are given. */
export function addressRanges(list: readonly Parsed<string>[] | undefined): AddressRanges | undefined {
  return list === undefined || list.length === 0 ? undefined : new AddressRanges(list.map(({ value }) => value))
}

function buildKeys(
  keys: readonly Parsed<ParsedKey>[],
  known: ReadonlyMap<string, string>,
  { nowEpochMs }: BuildSources,
  report: Report,
): readonly ClientKey[] {
  const seen = new Map<string, Place>()
  return keys.flatMap(({ value: key, place }) => {
    const digest = readDigest(key, place, report)
    const models = readAllowedModels(key.models, known, report)
    if (key.from.empty) report.problem(key.from.place, 'is empty: name the addresses, or remove it to allow all')
    if (digest === undefined || key.name.value === undefined) return []
    const first = seen.get(digest.toString('hex'))
    if (first !== undefined)
      report.problem(place, `the same key already stands on line ${first.line}: remove one of them`)
    else seen.set(digest.toString('hex'), place)
    const expiresEpochMs = key.expires.value
    if (expiresEpochMs !== undefined && nowEpochMs !== undefined) {
      const leftMs = expiresEpochMs - nowEpochMs
      if (leftMs <= 0) report.warning(key.expires.place, 'this key has expired: it is refused')
      else if (leftMs <= EXPIRY_WARNING_MS) {
        report.warning(key.expires.place, `this key ends in ${leftText(leftMs)}: give its clients another one`)
      }
    }
    return [
      {
        name: key.name.value,
        digest,
        models,
        admin: key.admin.value,
        limits: readLimits(key.limits),
        from: addressRanges(key.from.value),
        expiresEpochMs,
      },
    ]
  })
}

/** What is left of a key's life: `3 days`, `5 hours`. */
export function leftText(leftMs: number): string {
  const hours = Math.max(Math.ceil(leftMs / 3_600_000), 1)
  const [count, unit] = hours > 48 ? [Math.floor(hours / 24), 'day'] : [hours, 'hour']
  return `${count} ${unit}${count === 1 ? '' : 's'}`
}

function readLimits({ value }: ParsedKey['limits']): ClientKeyLimits {
  return {
    requestsPerMinute: value.requests_per_minute.value,
    tokensPerMinute: value.tokens_per_minute.value,
    concurrent: value.concurrent.value,
    tokensPerDay: value.tokens_per_day.value,
    tokensPerMonth: value.tokens_per_month.value,
    costPerMonth: value.cost_per_month.value,
  }
}

function readDigest({ key, key_sha256: hash }: ParsedKey, place: Place, report: Report): Buffer | undefined {
  if (key.given && hash.given) {
    report.problem(hash.place, 'stands beside key: give one of them')
    return undefined
  }
  if (!key.given && !hash.given) {
    report.problem({ ...place, path: pathTo(place.path, 'key') }, 'is missing: give key, or key_sha256')
    return undefined
  }
  const digest = hash.value === undefined ? undefined : Buffer.from(hash.value, 'hex')
  const found = digest ?? (key.value === undefined ? undefined : sha256(key.value.trim()))
  if (found?.equals(sha256(PLACEHOLDER_KEY)) === true) {
    report.problem(
      (hash.given ? hash : key).place,
      'is the key of the template, which everybody knows: make one with "azure-openai-proxy --new-key NAME"',
    )
  }
  return found
}

function readAllowedModels(
  models: ParsedKey['models'],
  known: ReadonlyMap<string, string>,
  report: Report,
): readonly string[] | undefined {
  if (models.value === undefined) return undefined
  if (models.empty) {
    report.problem(models.place, 'is empty: name the models this key may use, or remove it to allow all')
  }
  const allowed = new Set<string>()
  for (const { value: name, place } of models.value) {
    const model = known.get(name)
    if (model !== undefined) allowed.add(model)
    else report.problem(place, `there is no such model${didYouMean(nearest(name, known.keys()))}`)
  }
  return [...allowed]
}

function buildIssuer(
  { value: entry, place }: Parsed<ParsedTokenIssuer>,
  known: ReadonlyMap<string, string>,
  { file }: BuildSources,
  report: Report,
): TokenIssuer | undefined {
  const models = readAllowedModels(entry.models, known, report)
  const { name, issuer, audience, subjects, claim } = entry
  if (subjects.empty)
    report.problem(subjects.place, 'is empty: name who may call, or remove it to allow all of the audience')
  if (audience.empty) report.problem(audience.place, 'is empty: name the audience that tokens for this proxy have')
  if (audience.value?.some(one => one.endsWith('/.default')) === true) {
    report.problem(audience.place, 'is a scope: the audience is what stands before /.default')
  }
  if (name.value === undefined || issuer.value === undefined || audience.value === undefined) return undefined
  const keys = readKeySource(entry, issuer.value, file, place, report)
  if (keys === undefined) return undefined
  checkTenant(issuer.value, issuer.place, report)
  return {
    name: name.value,
    issuer: issuer.value,
    audiences: audience.value,
    keys,
    subjects: subjects.value?.map(subject => subject.value),
    claim: claim.value,
    models,
    admin: entry.admin.value,
    limits: readLimits(entry.limits),
  }
}

function checkTenant(issuer: string, place: Place, report: Report): void {
  if (MANY_TENANTS.test(issuer)) {
    report.problem(place, 'must name one tenant by its id: "common", "organizations" and "consumers" stand for many')
    return
  }
  const tenant = ENTRA_TENANT.exec(issuer)?.[1]
  if (tenant !== undefined && !GUID.test(tenant)) {
    report.warning(
      place,
      "Entra's tokens name the tenant by its id (a GUID): one that is named otherwise fits no token",
    )
  }
}

function readKeySource(
  { jwks }: ParsedTokenIssuer,
  issuer: string,
  file: string,
  place: Place,
  report: Report,
): KeySource | undefined {
  if (jwks.given) {
    if (jwks.value === undefined) return undefined
    if (!/^[a-z][a-z0-9+.-]+:\/\//i.test(jwks.value)) return { kind: 'file', path: resolvePath(file, jwks.value) }
    return isFetchable(jwks.value, jwks.place, report) ? { kind: 'url', url: jwks.value } : undefined
  }
  const url = `${issuer.replace(/\/$/, '')}${DISCOVERY_PATH}`
  const here = { ...place, path: pathTo(place.path, 'issuer') }
  return isFetchable(url, here, report) ? { kind: 'discovery', url, issuer } : undefined
}

// An attacker who can change these bytes on their way can let anybody in.
function isFetchable(text: string, place: Place, report: Report): boolean {
  if (!URL.canParse(text)) {
    report.problem(place, 'must be an https URL, or beside it jwks must name the URL or the file of its keys')
    return false
  }
  const { protocol, hostname, username, password, hash } = new URL(text)
  if (username !== '' || password !== '' || hash !== '') {
    report.problem(place, 'must be a URL without a user name, password and fragment')
    return false
  }
  if (protocol === 'https:' || (protocol === 'http:' && isLoopback(hostname.replace(/^\[(.*)\]$/, '$1')))) return true
  report.problem(
    place,
    'must be an https URL (plain http only to this machine): else anybody on the way could sign tokens',
  )
  return false
}
