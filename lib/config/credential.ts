// The credential of a backend: a key, an Entra identity, or none; the rules between `api_key`, `entra` and its options.
// Knows no token endpoint and asks nobody: that is azure's.
import { parseAuthority } from './endpoint.ts'
import { type Place, pathTo, type Report } from './problems.ts'
import type { EntraMode, ParsedBackend, ParsedEntra } from './schema.ts'
import { headerKey, Secret } from './secret.ts'
import type { Parsed } from './sections.ts'
import type { Credential } from './types.ts'

const PUBLIC_CLOUD = 'https://login.microsoftonline.com'
const DEFAULT_SCOPE = 'https://cognitiveservices.azure.com/.default'

export type Env = Readonly<Record<string, string | undefined>>

/** The backend's credential; undefined when a problem was reported. `place` is the backend's own. */
export function readCredential(backend: ParsedBackend, place: Place, env: Env, report: Report): Credential | undefined {
  const { api_key: key, entra, type } = backend
  if (key.given && entra.given) {
    report.problem(entra.place, 'stands beside api_key: a backend has one credential, remove one of them')
    return undefined
  }
  if (entra.given) return entra.value && readEntra(entra.value, entra.place, env, report)
  if (key.given) return key.value === undefined ? undefined : { kind: 'api_key', key: new Secret(headerKey(key.value)) }
  if (type.value === 'openai') return { kind: 'none' }
  const missing = { ...place, path: pathTo(place.path, 'api_key') }
  report.problem(missing, 'is missing: a backend needs api_key, or entra (only type: openai can do without)')
  return undefined
}

type EntraOptions = Extract<ParsedEntra, { kind: 'mapping' }>['options']

function readEntra(entra: ParsedEntra, place: Place, env: Env, report: Report): Credential | undefined {
  if (entra.kind === 'mode') {
    if (entra.mode === 'managed_identity')
      return { kind: 'managed_identity', clientId: undefined, scope: DEFAULT_SCOPE }
    return workloadIdentity(undefined, place, env, report)
  }
  const { options } = entra
  const mode: EntraMode | undefined = options.mode.value ?? (options.client_secret.given ? 'client_secret' : undefined)
  if (mode === undefined) {
    if (!options.mode.given) {
      report.problem(
        options.mode.place,
        'is missing: must be managed_identity or workload_identity, or give a client_secret',
      )
    }
    return undefined
  }
  if (mode === 'managed_identity') {
    refuse(['tenant_id', 'client_secret', 'authority'], mode, options, report)
    return { kind: 'managed_identity', clientId: options.client_id.value, scope: options.scope.value }
  }
  if (mode === 'workload_identity') {
    refuse(['client_secret'], mode, options, report)
    return workloadIdentity(options, place, env, report)
  }
  const tenantId = demand('tenant_id', options.tenant_id, report)
  const clientId = demand('client_id', options.client_id, report)
  const clientSecret = demand('client_secret', options.client_secret, report)
  const authority = readAuthority(options.authority, place, env, report)
  if (tenantId === undefined || clientId === undefined || clientSecret === undefined || authority === undefined) {
    return undefined
  }
  const scope = options.scope.value
  return { kind: 'client_secret', tenantId, clientId, clientSecret: new Secret(clientSecret), authority, scope }
}

// What AKS puts into a pod's environment (azure-openai-wire.md, 2.4); the mapping may name another identity.
function workloadIdentity(
  options: EntraOptions | undefined,
  place: Place,
  env: Env,
  report: Report,
): Credential | undefined {
  const fromEnv = (name: string): string | undefined => {
    const value = lookUp(env, name)
    if (value === undefined) {
      report.problem(place, `workload_identity needs the environment variable ${name}, which is not set`)
    }
    return value
  }
  const tenantId = options?.tenant_id.given ? options.tenant_id.value : fromEnv('AZURE_TENANT_ID')
  const clientId = options?.client_id.given ? options.client_id.value : fromEnv('AZURE_CLIENT_ID')
  const tokenFile = fromEnv('AZURE_FEDERATED_TOKEN_FILE')
  const authority = readAuthority(options?.authority, place, env, report)
  if (tenantId === undefined || clientId === undefined || tokenFile === undefined || authority === undefined) {
    return undefined
  }
  const scope = options?.scope.value ?? DEFAULT_SCOPE
  return { kind: 'workload_identity', tenantId, clientId, tokenFile, authority, scope }
}

function readAuthority(
  option: Parsed<string | undefined> | undefined,
  place: Place,
  env: Env,
  report: Report,
): string | undefined {
  if (option?.given) {
    if (option.value === undefined) return undefined
    const parsed = parseAuthority(option.value)
    if (parsed.kind === 'ok') return parsed.authority
    report.problem(option.place, parsed.message)
    return undefined
  }
  const host = lookUp(env, 'AZURE_AUTHORITY_HOST')
  if (host === undefined) return PUBLIC_CLOUD
  const parsed = parseAuthority(host)
  if (parsed.kind === 'ok') return parsed.authority
  report.problem(place, `the environment variable AZURE_AUTHORITY_HOST ${parsed.message}`)
  return undefined
}

function refuse(
  names: readonly ('tenant_id' | 'client_secret' | 'authority')[],
  mode: EntraMode,
  options: EntraOptions,
  report: Report,
): void {
  for (const name of names) {
    if (options[name].given) report.problem(options[name].place, `has no meaning with mode: ${mode}`)
  }
}

function demand(name: string, option: Parsed<string | undefined>, report: Report): string | undefined {
  if (!option.given) report.problem(option.place, `is missing: mode client_secret needs ${name}`)
  return option.value
}

// Own members only: the environment is an object, and `constructor` is no variable. Set but empty counts as not set.
function lookUp(env: Env, name: string): string | undefined {
  const value = Object.hasOwn(env, name) ? env[name] : undefined
  return value === '' ? undefined : value
}
