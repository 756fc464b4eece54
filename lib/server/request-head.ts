// Demands on a request's head, before anything else looks at it.
import type { IncomingMessage } from 'node:http'
import type { Refusal } from '../errors.ts'

/** Headers of one request; SDKs send about 20. Node is set to keep all, so that none is cut off in silence. */
export const MAX_HEADERS = 512

function hostsIn(rawHeaders: readonly string[]): number {
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]
    if (name?.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  return hosts
}

/** @returns how a head is refused; undefined: it is sound */
export function headRefusal({ headers, httpVersion, rawHeaders }: IncomingMessage): Refusal | undefined {
  // Names and values in turn.
  if (rawHeaders.length > 2 * MAX_HEADERS) {
    const message = `The request has more than ${MAX_HEADERS} headers.`
    return { status: 431, code: 'request_headers_too_large', message, close: true }
  }
  if (httpVersion !== '1.1' && httpVersion !== '1.0') {
    const message = 'The request line names no version of HTTP/1 that is known here.'
    return { status: 400, code: 'invalid_request', message, close: true }
  }
  // RFC 9112 section 3.2: without a Host, or with two, a request is malformed.
  const hosts = hostsIn(rawHeaders)
  if (hosts > 1) {
    return { status: 400, code: 'invalid_request', message: 'The Host header stands more than once.', close: true }
  }
  if (hosts === 0 && httpVersion === '1.1') {
    return { status: 400, code: 'invalid_request', message: 'The Host header is missing.', close: true }
  }
  // A body in another transfer coding would be taken for what it holds (RFC 9112 section 6.1).
  const coding = headers['transfer-encoding']
  if (coding !== undefined && coding.trim().toLowerCase() !== 'chunked') {
    const message = 'The only Transfer-Encoding that is known here is "chunked".'
    return { status: 400, code: 'invalid_request', message, close: true }
  }
  return undefined
}
