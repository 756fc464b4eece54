// Requests from other sites' pages. With authentication off a browser inside the network needs no key: any web page it
// shows could then give orders here.
import type { IncomingMessage } from 'node:http'
import type { Refusal } from '../errors.ts'

const READING: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS'])

function hostOf(origin: string): string | undefined {
  try {
    return new URL(origin).host
  } catch {
    return undefined
  }
}

/**
 * Whether a request that changes something was sent by a page of another web site. What is no browser sends neither
 * header.
 * @param allowed the origins of `server.cors_origins`
 */
function isFromElsewhere({ headers }: IncomingMessage, allowed: readonly string[]): boolean {
  const { origin, host } = headers
  if (origin !== undefined && (allowed.includes('*') || allowed.includes(origin))) return false
  // Fetch Metadata, which a page cannot forge: right also where a front has changed the Host.
  const site = headers['sec-fetch-site']
  if (site !== undefined) return site !== 'same-origin' && site !== 'none'
  return origin !== undefined && hostOf(origin) !== host?.toLowerCase()
}

/** @returns how a request of another site's page is refused, where authentication is off; undefined: it may pass */
export function foreignPageRefusal(request: IncomingMessage, allowed: readonly string[]): Refusal | undefined {
  if (READING.has(request.method ?? '') || !isFromElsewhere(request, allowed)) return undefined
  return {
    status: 403,
    code: 'invalid_request',
    message:
      'A page of another web site sent this, and authentication is off: see auth.enabled and server.cors_origins.',
    pointless: true,
  }
}

/** An order without the type of JSON may come from a form of any page, in old browsers without a word of its origin. */
export function formRefusal({ method, headers }: IncomingMessage): Refusal | undefined {
  if (READING.has(method ?? '') || /^application\/json\s*(?:;|$)/i.test(headers['content-type'] ?? '')) return undefined
  return {
    status: 400,
    code: 'invalid_request',
    message: 'Send this as content-type: application/json.',
    pointless: true,
  }
}
