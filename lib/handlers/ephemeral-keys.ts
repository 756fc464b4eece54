// Ephemeral keys of realtime sessions. Only the resource that issued one takes it: it is remembered, by the key's
// digest, in the same bounded table as the owners of responses. A client with such a key may use that session and
// nothing else.
import type { IncomingHttpHeaders } from 'node:http'
import { ephemeralKeyId, MAX_KEY_CHARS, type Owners } from '../balancer/owners.ts'
import type { UpstreamResponse } from '../forward/upstream.ts'
import type { EphemeralKey } from '../request-context.ts'

/** A response to `client_secrets` is this short; its session's instructions come back in it. */
const MAX_ANSWER_BYTES = 512 * 1024

/**
 * Browsers cannot set headers on a WebSocket: OpenAI's way is a sub-protocol that holds the key (azure/README.md 10.1).
 */
export const KEY_PROTOCOL = 'openai-insecure-api-key.'

/** The key among a WebSocket's sub-protocols, or undefined. */
export function protocolKey(headers: IncomingHttpHeaders): string | undefined {
  const found = headers['sec-websocket-protocol']
    ?.split(',')
    .map(item => item.trim())
    .find(item => item.startsWith(KEY_PROTOCOL))
  return found?.slice(KEY_PROTOCOL.length)
}

/**
 * The secret in a response of `client_secrets` (`{"value": …}`) or of the older `sessions` (`{"client_secret":
 * {"value": …}}`).
 */
function issuedSecret(upstreamResponse: UpstreamResponse): string | undefined {
  const { body } = upstreamResponse
  if (upstreamResponse.status >= 300 || body.kind !== 'whole' || body.bytes > MAX_ANSWER_BYTES) return undefined
  try {
    const value: unknown = JSON.parse(Buffer.concat(body.chunks).toString('utf8'))
    if (typeof value !== 'object' || value === null) return undefined
    const nested: unknown = Reflect.get(value, 'client_secret')
    const holder = typeof nested === 'object' && nested !== null ? nested : value
    const secret: unknown = Reflect.get(holder, 'value')
    return typeof secret === 'string' && secret.length <= MAX_KEY_CHARS ? secret : undefined
  } catch {
    return undefined
  }
}

/**
 * Remembers which resource issued the secret that a response holds, and for whom.
 * @param mintedBy id of the principal whose rights and limits it has; undefined where authentication is off
 */
export function learnEphemeral(
  upstreamResponse: UpstreamResponse,
  resourceId: string,
  owners: Owners,
  mintedBy: string | undefined,
): void {
  const secret = issuedSecret(upstreamResponse)
  if (secret !== undefined) owners.learn(ephemeralKeyId(secret), resourceId, mintedBy)
}

/** The ephemeral key a request shows, if a resource behind this proxy issued it. */
export function ephemeralKey(headers: IncomingHttpHeaders, owners: Owners): EphemeralKey | undefined {
  const bearer = /^bearer (.+)$/i.exec(headers.authorization ?? '')?.[1]?.trim()
  for (const secret of [bearer, protocolKey(headers)]) {
    if (secret === undefined || secret.length > MAX_KEY_CHARS || !/^[\x21-\x7e]+$/.test(secret)) continue
    const id = ephemeralKeyId(secret)
    const resourceId = owners.of(id)
    if (resourceId !== undefined) return { resourceId, secret, mintedBy: owners.makerOf(id) }
  }
  return undefined
}
