// Browser apps of other origins: which may read responses, and the preflight that their browsers send first. No key is
// asked of a preflight, because browsers send none with it.
import type { ServerResponse } from 'node:http'
import { ALLOW_ORIGIN } from '../forward/cors.ts'
import type { Exchange } from '../request-context.ts'

/** Chrome keeps a preflight's response this long, in seconds, and no longer. */
const MAX_AGE_S = 7_200
/** Characters of a preflight's list of headers; SDKs send about ten names. */
const MAX_ASKED_CHARS = 4_096
/** Names of headers, separated by commas (RFC 9110 section 5.6.2). */
const HEADER_NAMES = /^[\w!#$%&'*+.^`|~-]+(?:[ \t]*,[ \t]*[\w!#$%&'*+.^`|~-]+)*$/

/** Read by SDKs and by people: without this list a page's script sees a handful of harmless headers. */
const EXPOSED = [
  'x-request-id',
  'apim-request-id',
  'x-proxy-backend',
  'x-proxy-attempts',
  'x-should-retry',
  'retry-after',
  'retry-after-ms',
  'x-ratelimit-limit-requests',
  'x-ratelimit-limit-tokens',
  'x-ratelimit-remaining-requests',
  'x-ratelimit-remaining-tokens',
  'x-ratelimit-reset-requests',
  'x-ratelimit-reset-tokens',
  'x-ms-region',
  'openai-processing-ms',
  'location',
  'www-authenticate',
].join(', ')

/**
 * The value that grants reading to this origin; undefined: the origin is not allowed, or the request comes from no
 * page.
 */
export function grantFor(origin: string | undefined, allowed: readonly string[]): string | undefined {
  if (origin === undefined || allowed.length === 0) return undefined
  if (allowed.includes('*')) return '*'
  const asked = origin.toLowerCase()
  return allowed.some(one => one.toLowerCase() === asked) ? origin : undefined
}

function grant(response: ServerResponse, value: string): void {
  response.setHeader(ALLOW_ORIGIN, value)
  if (value !== '*') response.setHeader('vary', 'origin')
}

/**
 * Lets the page that sent a request read the response, whatever it will be, and answers a preflight itself.
 * @returns whether the request has its response
 */
export function answerCors(exchange: Exchange, allowed: readonly string[]): boolean {
  const { request, response, record } = exchange
  const { headers, method } = request
  const value = grantFor(headers.origin, allowed)
  if (value === undefined) return false
  grant(response, value)
  if (method !== 'OPTIONS' || headers['access-control-request-method'] === undefined) {
    response.setHeader('access-control-expose-headers', EXPOSED)
    return false
  }
  const asked = headers['access-control-request-headers'] ?? ''
  record.status = 204
  response.writeHead(204, [
    'access-control-allow-methods',
    'GET, POST, DELETE',
    'access-control-max-age',
    String(MAX_AGE_S),
    ...(asked.length <= MAX_ASKED_CHARS && HEADER_NAMES.test(asked) ? ['access-control-allow-headers', asked] : []),
  ])
  response.end()
  return true
}
