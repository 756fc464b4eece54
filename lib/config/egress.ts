// The way to backends and token endpoints: the outbound proxy and who goes around it, private CAs, client certificates.
// From the config and, where that says nothing, from the environment. Pure but for the PEM reader it is given.
import { createHash, createPrivateKey, X509Certificate } from 'node:crypto'
import { isIP } from 'node:net'
import { AddressRanges, isAddressRange } from './addresses.ts'
import type { Env } from './credential.ts'
import { isLoopback } from './endpoint.ts'
import { errorCode, resolvePath } from './interpolate.ts'
import type { Place, Report } from './problems.ts'
import type { ParsedBackend, ParsedEgress } from './schema.ts'
import { Secret } from './secret.ts'
import type { Parsed } from './sections.ts'
import type { EgressConfig, EgressProxy, Endpoint, Route } from './types.ts'

/** Where PEM files come from. */
export interface PemSources {
  readonly file: string
  readonly env: Env
  readonly readSecretFile: (path: string) => string
  /** Called with every file that the config depends on. */
  readonly onFile?: (path: string) => void
}

type ParsedProxy =
  | { readonly kind: 'ok'; readonly proxy: EgressProxy | 'none' }
  | { readonly kind: 'invalid'; readonly message: string }

const DEFAULT_PORTS = { 'https:': 443, 'http:': 80 } as const
const PROXY_FORM =
  'the URL of a proxy, such as http://proxy.example.com:3128 or http://user:password@host:port, or none'

/**
 * Takes a proxy's URL apart; `host:port` alone is plain http. The message quotes nothing: the URL may hold a password.
 */
export function parseProxy(text: string): ParsedProxy {
  if (text === 'none') return { kind: 'ok', proxy: 'none' }
  const invalid = (message: string): ParsedProxy => ({ kind: 'invalid', message })
  const whole = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`
  if (/^socks/i.test(whole)) return invalid('names a SOCKS proxy: only http:// and https:// proxies are supported')
  if (!/^https?:\/\/[^\s\\/][^\s\\]*$/i.test(whole) || !URL.canParse(whole)) return invalid(`must be ${PROXY_FORM}`)
  const url = new URL(whole)
  if (url.hostname === '' || url.port === '0') return invalid(`must be ${PROXY_FORM}`)
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '') {
    return invalid('must end behind the port: a proxy has no path')
  }
  const protocol = url.protocol === 'https:' ? 'https:' : 'http:'
  const authorization = basicAuthorization(url)
  if (authorization === 'invalid') return invalid('holds a user name or password with a broken %-escape')
  return {
    kind: 'ok',
    proxy: {
      protocol,
      hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? DEFAULT_PORTS[protocol] : Number(url.port),
      url: `${protocol}//${url.host}`,
      authorization,
    },
  }
}

/** RFC 7617: user and password as UTF-8, as the URL's %-escapes name them. */
function basicAuthorization({ username, password }: URL): Secret | undefined | 'invalid' {
  if (username === '' && password === '') return undefined
  try {
    const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
    return new Secret(`Basic ${Buffer.from(pair, 'utf8').toString('base64')}`)
  } catch {
    return 'invalid'
  }
}

/** Own members only, as the environment is an object; empty counts as not set, lower case wins (as curl has it). */
function fromEnv(env: Env, name: string): { readonly name: string; readonly text: string } | undefined {
  for (const spelt of [name.toLowerCase(), name.toUpperCase()]) {
    const text = Object.hasOwn(env, spelt) ? env[spelt]?.trim() : undefined
    if (text !== undefined && text !== '') return { name: spelt, text }
  }
  return undefined
}

function proxyFromEnv(env: Env, name: string, place: Place, report: Report): EgressProxy | undefined {
  const found = fromEnv(env, name)
  if (found === undefined) return undefined
  const parsed = parseProxy(found.text)
  if (parsed.kind === 'ok') return parsed.proxy === 'none' ? undefined : parsed.proxy
  report.warning(place, `the environment variable ${found.name} is not heeded: it ${parsed.message}`)
  return undefined
}

function given(option: Parsed<string | undefined>, report: Report): EgressProxy | 'none' | undefined {
  if (option.value === undefined) return undefined
  const parsed = parseProxy(option.value)
  if (parsed.kind === 'ok') return parsed.proxy
  report.problem(option.place, parsed.message)
  return undefined
}

/** Items of a list or of a text with commas or blanks, as NO_PROXY has them. */
function itemsOf(texts: readonly string[]): readonly string[] {
  return texts.flatMap(text => text.split(/[\s,]+/)).filter(item => item !== '')
}

interface Bypass {
  readonly host: string
  readonly port: number | undefined
}

/** `host:port` taken apart; an IPv6 address with a port stands in brackets. */
function bypassOf(item: string): Bypass {
  const [, bracketed, bracketedPort] = /^\[([^\]]+)\](?::(\d{1,5}))?$/.exec(item) ?? []
  if (bracketed !== undefined) return { host: bracketed, port: bracketedPort ? Number(bracketedPort) : undefined }
  const [, name, port] = /^([^:]*):(\d{1,5})$/.exec(item) ?? []
  return name === undefined ? { host: item, port: undefined } : { host: name, port: Number(port) }
}

/**
 * Whether a host is reached without the proxy.
 * @param rules hosts (with their subdomains), `.suffixes`, addresses and ranges, each with a port or without; `*`:
 * every host
 */
export function goesAround(rules: readonly string[], hostname: string, port: number): boolean {
  const host = hostname.toLowerCase().replace(/\.$/, '')
  return rules.some(rule => {
    const bypass = bypassOf(rule.toLowerCase())
    if (bypass.port !== undefined && bypass.port !== port) return false
    if (bypass.host === '*' || bypass.host === '') return true
    if (isAddressRange(bypass.host)) return isIP(host) !== 0 && new AddressRanges([bypass.host]).contains(host)
    const name = bypass.host.replace(/^\*?\./, '').replace(/\.$/, '')
    return host === name || (isIP(host) === 0 && host.endsWith(`.${name}`))
  })
}

/** Reads a PEM file that must hold this mark; undefined when the problem is reported. */
function readPem(path: string, mark: string, place: Place, sources: PemSources, report: Report): Secret | undefined {
  const absolute = resolvePath(sources.file, path)
  sources.onFile?.(absolute)
  try {
    const text = sources.readSecretFile(absolute)
    if (text.includes(mark)) return new Secret(text)
    report.problem(place, `must name a PEM file that holds "${mark}", and this file does not`)
  } catch (error) {
    const why = `names a file that cannot be read (${errorCode(error)})`
    report.problem(place, `${why}; a relative path starts in the config's folder`)
  }
  return undefined
}

const CERTIFICATE = '-----BEGIN CERTIFICATE-----'
const PRIVATE_KEY = 'PRIVATE KEY-----'

/**
 * Node has read it at the start already; here it is kept for routes with CAs of their own, and read again on reload.
 */
function extraCas(place: Place, sources: PemSources, report: Report): readonly Secret[] {
  const { NODE_EXTRA_CA_CERTS: path } = sources.env
  if (path === undefined || path === '') return []
  try {
    return [new Secret(sources.readSecretFile(path))]
  } catch (error) {
    report.warning(place, `NODE_EXTRA_CA_CERTS names a file that cannot be read (${errorCode(error)})`)
    return []
  }
}

/** The way out for everything that has none of its own. */
export function buildEgress(egress: Parsed<ParsedEgress>, sources: PemSources, report: Report): EgressConfig {
  const { proxy, no_proxy: noProxy, ca } = egress.value
  const { env } = sources
  const own = given(proxy, report)
  const fromEnvironment = !proxy.given
  if (env.NODE_TLS_REJECT_UNAUTHORIZED === '0') {
    report.warning(
      egress.place,
      'NODE_TLS_REJECT_UNAUTHORIZED=0 is not heeded: certificates are always verified; name the CA in egress.ca instead',
    )
  }
  const named = own === 'none' ? undefined : own
  return {
    httpsProxy: fromEnvironment ? proxyFromEnv(env, 'https_proxy', proxy.place, report) : named,
    httpProxy: fromEnvironment ? proxyFromEnv(env, 'http_proxy', proxy.place, report) : named,
    noProxy: itemsOf(noProxy.value ?? [fromEnv(env, 'no_proxy')?.text ?? '']),
    ca: [
      ...extraCas(ca.place, sources, report),
      ...(ca.value ?? []).flatMap(path => readPem(path, CERTIFICATE, ca.place, sources, report) ?? []),
    ],
  }
}

/** A digest of what makes a route; shows nothing of it. */
function idOf(route: Omit<Route, 'id'>): string {
  const { proxy, ca, identity, serverName } = route
  const parts = [
    proxy?.url ?? '',
    proxy?.authorization?.reveal() ?? '',
    ...ca.map(text => text.reveal()),
    identity?.cert.reveal() ?? '',
    identity?.key.reveal() ?? '',
    serverName ?? '',
  ]
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 16)
}

type OwnRoute = Partial<Pick<Route, 'ca' | 'identity' | 'serverName'>> & {
  readonly proxy?: EgressProxy | 'none' | undefined
}

/**
 * The route to a host; undefined: straight, with the system's CAs.
 * @param own what a backend says for itself; its proxy goes before everything else
 */
export function routeFor(
  egress: EgressConfig,
  { protocol, hostname, port }: Pick<Endpoint, 'protocol' | 'hostname' | 'port'>,
  own: OwnRoute = {},
): Route | undefined {
  const usual = protocol === 'https:' ? egress.httpsProxy : egress.httpProxy
  const around = isLoopback(hostname) || goesAround(egress.noProxy, hostname, port)
  const proxy = own.proxy === 'none' ? undefined : (own.proxy ?? (around ? undefined : usual))
  const usesTls = protocol === 'https:' || proxy?.protocol === 'https:'
  const ca = usesTls ? [...egress.ca, ...(own.ca ?? [])] : []
  const route = { proxy, ca, identity: own.identity, serverName: own.serverName }
  if (proxy === undefined && ca.length === 0 && own.identity === undefined && own.serverName === undefined)
    return undefined
  return { id: idOf(route), ...route }
}

function checkPair(cert: Secret, key: Secret, place: Place, report: Report): void {
  try {
    if (new X509Certificate(cert.reveal()).checkPrivateKey(createPrivateKey(key.reveal()))) return
    report.problem(place, 'does not fit the certificate of tls.cert: name the key that it was issued for')
  } catch {
    // What cannot be read as a key at all, such as one with a passphrase.
    if (/END CERTIFICATE/.test(cert.reveal())) {
      report.problem(place, 'cannot be read together with tls.cert: a PEM key without a passphrase is needed')
    }
  }
}

/** What a backend says of its own route. */
export function ownRoute({ proxy, tls }: ParsedBackend, sources: PemSources, report: Report): OwnRoute {
  const { ca, cert, key, server_name: serverName } = tls.value ?? {}
  const read = (option: Parsed<string | undefined> | undefined, mark: string): Secret | undefined =>
    option?.value === undefined ? undefined : readPem(option.value, mark, option.place, sources, report)
  const [certText, keyText] = [read(cert, CERTIFICATE), read(key, PRIVATE_KEY)]
  if (cert !== undefined && key !== undefined && cert.given !== key.given) {
    const there = cert.given ? cert : key
    report.problem(there.place, 'stands alone: a client certificate needs both tls.cert and tls.key')
  }
  if (certText !== undefined && keyText !== undefined && key !== undefined) {
    checkPair(certText, keyText, key.place, report)
  }
  return {
    proxy: given(proxy, report),
    ca: (ca?.value ?? []).flatMap(path =>
      ca === undefined ? [] : (readPem(path, CERTIFICATE, ca.place, sources, report) ?? []),
    ),
    identity: certText === undefined || keyText === undefined ? undefined : { cert: certText, key: keyText },
    serverName: serverName?.value,
  }
}
