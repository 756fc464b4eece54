// Fetches an issuer's key set: by OpenID Connect discovery, from a URL, or from a file. Bounded in size; the caller
// bounds it in time. No redirect is followed.
import { createReadStream } from 'node:fs'
import type { Exchange } from '../azure/entra-http.ts'
import { isLoopback } from '../config/endpoint.ts'
import type { KeySource } from '../config/types.ts'
import { sameIssuer } from './claims.ts'
import type { FetchedKeys, KeyFetcher } from './issuer-keys.ts'
import { parseKeySet } from './jwt.ts'

/** Bytes of a key set or a discovery document. Entra's common set has about 30 KB. */
export const MAX_KEY_SET_BYTES = 256 * 1024
/** For connecting; issuers are far away and behind DNS. */
const CONNECT_MS = 5_000

interface Problem {
  readonly problem: string
}

function failed(reason: string): FetchedKeys {
  return { kind: 'failed', reason }
}

function keysIn(text: string): FetchedKeys {
  const keys = parseKeySet(text)
  return keys === undefined
    ? failed('the response is no JSON Web Key Set with a key for RS256, PS256 or ES256')
    : { kind: 'keys', keys }
}

/** Reads at most MAX_KEY_SET_BYTES of a file: a device named by mistake must not fill the memory. */
async function readKeyFile(path: string, signal: AbortSignal): Promise<FetchedKeys> {
  const chunks: Buffer[] = []
  try {
    for await (const chunk of createReadStream(path, { end: MAX_KEY_SET_BYTES, signal })) chunks.push(chunk)
  } catch (error) {
    const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : 'unreadable'
    return failed(`the file cannot be read (${code})`)
  }
  const bytes = Buffer.concat(chunks)
  return bytes.length > MAX_KEY_SET_BYTES ? failed('the file is too large') : keysIn(bytes.toString('utf8'))
}

/** The key set's URL in a discovery document (OpenID Connect Discovery 1.0, section 3), or why it cannot be used. */
function keySetUrl(text: string, discovery: URL, issuer: string): URL | Problem {
  let document: unknown
  try {
    document = JSON.parse(text)
  } catch {
    return { problem: 'the discovery document is no JSON' }
  }
  if (typeof document !== 'object' || document === null) return { problem: 'the discovery document is no JSON object' }
  const named: unknown = Reflect.get(document, 'issuer')
  // Section 4.3: a document of another issuer must not be used.
  if (typeof named !== 'string' || !sameIssuer(named, issuer)) {
    return { problem: 'the discovery document is that of another issuer' }
  }
  const uri: unknown = Reflect.get(document, 'jwks_uri')
  if (typeof uri !== 'string' || !URL.canParse(uri)) return { problem: 'the discovery document names no jwks_uri' }
  const url = new URL(uri)
  // Plain http is for an issuer on this machine that names this machine.
  const isPlainHere = [url, discovery].every(
    ({ protocol, hostname }) => protocol === 'http:' && isLoopback(hostname.replace(/^\[(.*)\]$/, '$1')),
  )
  return url.protocol === 'https:' || isPlainHere ? url : { problem: 'its jwks_uri is no https URL' }
}

/** Makes the fetcher of the program: files from the disk, URLs by the way out that the config names. */
export function createKeyFetcher(exchange: Exchange): KeyFetcher {
  const get = async (url: URL, signal: AbortSignal): Promise<string | Problem> => {
    const request = { method: 'GET', url, headers: {}, body: '', connectMs: CONNECT_MS } as const
    const exchanged = await exchange(request, signal, MAX_KEY_SET_BYTES)
    if (exchanged.kind === 'lost') return { problem: `${url.host} cannot be reached (${exchanged.code})` }
    const { status, body } = exchanged.response
    return status === 200 ? body : { problem: `${url.host} answers ${status}` }
  }
  const fromUrl = async (url: URL, signal: AbortSignal): Promise<FetchedKeys> => {
    const text = await get(url, signal)
    return typeof text === 'string' ? keysIn(text) : failed(text.problem)
  }
  return async (source: KeySource, signal) => {
    if (source.kind === 'file') return readKeyFile(source.path, signal)
    const url = new URL(source.url)
    if (source.kind === 'url') return fromUrl(url, signal)
    const text = await get(url, signal)
    if (typeof text !== 'string') return failed(text.problem)
    const keySet = keySetUrl(text, url, source.issuer)
    return keySet instanceof URL ? fromUrl(keySet, signal) : failed(keySet.problem)
  }
}
