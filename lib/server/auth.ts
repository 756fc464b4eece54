// Which client key a request carries. Keys are compared as digests, all of them, in constant time.
import { hash, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import type { ClientKey } from '../config/types.ts'
import { protocolKey } from '../handlers/ephemeral-keys.ts'

/** A presented key longer than this is none of ours; hashing megabytes for a stranger is not our business. */
const MAX_KEY_CHARS = 4096

function single(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}

/** The texts a request may mean as its key: `Authorization: Bearer`, `api-key`, `x-api-key`; some clients send two of them. */
function presented(headers: IncomingHttpHeaders): string[] {
  const found: string[] = []
  const bearer = headers.authorization
  if (bearer !== undefined && /^bearer /i.test(bearer)) found.push(bearer.slice(7).trim())
  const apiKey = single(headers['api-key'])
  if (apiKey !== undefined) found.push(apiKey.trim())
  const xApiKey = single(headers['x-api-key'])
  if (xApiKey !== undefined) found.push(xApiKey.trim())
  return found.filter(text => text !== '' && text.length <= MAX_KEY_CHARS)
}

/** The config's key with this text, or undefined. Every key is compared, whether or not one has matched already. */
export function keyOf(text: string, keys: readonly ClientKey[]): ClientKey | undefined {
  const digest = hash('sha256', text, 'buffer')
  let match: ClientKey | undefined
  for (const key of keys) if (timingSafeEqual(key.digest, digest)) match = key
  return match
}

/**
 * The key a request is authenticated by, or undefined: none given, or none that is known.
 * @param webSocket whether it may stand among the sub-protocols, where browsers have to put it
 */
export function authenticate(
  headers: IncomingHttpHeaders,
  keys: readonly ClientKey[],
  webSocket: boolean,
): ClientKey | undefined {
  const inProtocol = webSocket ? protocolKey(headers) : undefined
  const texts = presented(headers)
  if (inProtocol !== undefined && inProtocol.length <= MAX_KEY_CHARS) texts.push(inProtocol)
  for (const text of texts) {
    const key = keyOf(text, keys)
    if (key !== undefined) return key
  }
  return undefined
}
