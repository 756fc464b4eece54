// A backend's endpoint: a URL taken apart once, the usual ways of pasting too much of it refused with the cure. Never
// quotes what it was given: a URL may carry a key.
import type { BackendType, Endpoint } from './types.ts'

export type ParsedEndpoint =
  | { readonly kind: 'ok'; readonly endpoint: Endpoint }
  | { readonly kind: 'invalid'; readonly message: string }

const DEFAULT_PORTS = { 'https:': 443, 'http:': 80 } as const
const EXAMPLE = 'https://my-resource.openai.azure.com'

// The proxy appends /openai/… or /v1/… itself, so what follows these segments was pasted from a "target URI".
const AZURE_ROOT =
  /\/openai(?=$|\/(?:v1|deployments|responses|models|chat|completions|embeddings|images|audio|realtime)(?:$|\/))/i
const OPERATION =
  /\/(?:chat\/completions|completions|embeddings|responses|models|realtime|images\/(?:generations|edits|variations)|audio\/(?:speech|transcriptions|translations))$/i

/** Takes a base URL apart; a final slash, and `/v1` for `type: openai`, are dropped. The message says what to write. */
export function parseEndpoint(text: string, type: BackendType): ParsedEndpoint {
  const parsed = parseBaseUrl(text, EXAMPLE)
  if (parsed.kind === 'invalid') return parsed
  const { url, path } = parsed
  if (type === 'openai') {
    const basePath = path.replace(/\/v1$/i, '')
    if (OPERATION.test(basePath)) return tooMuch('/v1')
    return parsed.query ? invalid('cut the query ("?…") off') : { kind: 'ok', endpoint: build(url, basePath) }
  }
  if (AZURE_ROOT.test(path)) return tooMuch('/openai', readFrom(url))
  if (OPERATION.test(path)) return invalid(`is the URL of one operation: write the base URL, such as ${EXAMPLE}`)
  if (parsed.query) return invalid('cut the query ("?…") off; the version goes into api_version')
  if (/\/v1$/i.test(path)) {
    return invalid('ends in /v1: for an OpenAI-compatible server write "type: openai" beside it, for Azure cut /v1 off')
  }
  return { kind: 'ok', endpoint: build(url, path) }
}

/** An Entra authority: `https://host[/path]` without a final slash; plain http only to this machine. */
export function parseAuthority(
  text: string,
): { readonly kind: 'ok'; readonly authority: string } | { readonly kind: 'invalid'; readonly message: string } {
  const parsed = parseBaseUrl(text, 'https://login.microsoftonline.com')
  if (parsed.kind === 'invalid') return parsed
  if (parsed.query) return invalid('must be a URL without a query')
  const endpoint = build(parsed.url, parsed.path)
  if (endpoint.protocol === 'http:' && !isLoopback(endpoint.hostname)) {
    return invalid('must be an https URL: plain http would show the secret to the network')
  }
  return { kind: 'ok', authority: endpoint.url }
}

/** Whether a host name means this machine. */
export function isLoopback(hostname: string): boolean {
  return /^(?:localhost|(?:.+\.)localhost|127(?:\.\d{1,3}){3}|::1)$/i.test(hostname)
}

type ParsedUrl =
  | { readonly kind: 'ok'; readonly url: URL; readonly path: string; readonly query: boolean }
  | { readonly kind: 'invalid'; readonly message: string }

function parseBaseUrl(text: string, example: string): ParsedUrl {
  // URL() forgives blanks, tabs, backslashes and missing slashes; a config should say what it means.
  const url = /^https?:\/\/[^\s\\/][^\s\\]*$/i.test(text) && URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || url.hostname === '') {
    return invalid(`must be a URL that begins with https:// (or http://), such as ${example}`)
  }
  if (url.username !== '' || url.password !== '') {
    return invalid('must not hold a user name or password: credentials have options of their own')
  }
  if (url.port === '0') return invalid('names port 0, which nobody can listen on')
  if (text.includes('#')) return invalid('must not hold a fragment ("#…"): cut it off')
  return {
    kind: 'ok',
    url,
    path: url.pathname.replaceAll(/\/{2,}/g, '/').replace(/\/$/, ''),
    query: text.includes('?'),
  }
}

function build(url: URL, basePath: string): Endpoint {
  const protocol = url.protocol === 'http:' ? 'http:' : 'https:'
  const port = url.port === '' ? DEFAULT_PORTS[protocol] : Number(url.port)
  // URL() already drops the protocol's own port from `host` and puts names into lower case.
  const hostname = url.hostname.replace(/^\[(.*)\]$/, '$1')
  return { protocol, hostname, port, host: url.host, basePath, url: `${protocol}//${url.host}${basePath}` }
}

function tooMuch(from: string, cut = ''): { readonly kind: 'invalid'; readonly message: string } {
  return invalid(
    `holds more than the base URL: cut it before "${from}" (the proxy adds the rest), as in ${EXAMPLE}${cut}`,
  )
}

/** What a pasted "target URI" says beside the base URL, as options to write; empty where it says nothing. */
function readFrom({ pathname, searchParams }: URL): string {
  const deployment = /\/deployments\/([\w.-]{1,64})(?:\/|$)/i.exec(pathname)?.[1]
  const version = /^(?:\d{4}-\d\d-\d\d(?:-preview)?|preview|v1)$/.exec(searchParams.get('api-version') ?? '')?.[0]
  const options = [
    ...(deployment === undefined ? [] : [`deployment: ${deployment}`]),
    ...(version === undefined ? [] : [`api_version: ${version}`]),
  ]
  return options.length === 0 ? '' : `; it says ${options.join(' and ')}: write that beside it`
}

function invalid(message: string): { readonly kind: 'invalid'; readonly message: string } {
  return { kind: 'invalid', message }
}
