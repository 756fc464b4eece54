// The address a request comes from: the peer's, or what trusted proxies in front say in X-Forwarded-For.
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { type AddressRanges, plainAddress } from '../config/addresses.ts'

/** Proxies that are walked past; a chain has two or three. */
const MAX_HOPS = 64

/** An entry of X-Forwarded-For as an address; Application Gateway adds the port. undefined: it is none. */
function entryAddress(entry: string): string | undefined {
  const text = entry.trim()
  const bracketed = /^\[([^\]]+)\](?::\d{1,5})?$/.exec(text)?.[1]
  const withPort = /^([\d.]+):\d{1,5}$/.exec(text)?.[1]
  return plainAddress(bracketed ?? withPort ?? text)
}

/**
 * The client's address in plain form: IPv4 is written as IPv4. X-Forwarded-For is walked from the right, past the
 * trusted proxies, each of which added the address it saw. Entries left of the first other address are the client's own
 * claim.
 * @param trusted undefined: the header is not read
 * @returns undefined when the connection was gone before anything was known of it
 */
export function clientAddress(request: IncomingMessage, trusted: AddressRanges | undefined): string | undefined {
  const peer = request.socket.remoteAddress
  if (peer === undefined) return undefined
  let address = isIP(peer) === 4 ? peer : (plainAddress(peer) ?? peer)
  if (trusted === undefined || !trusted.contains(address)) return address
  const header = request.headers['x-forwarded-for']
  if (header === undefined) return address
  const entries = (Array.isArray(header) ? header.join(',') : header).split(',')
  for (const entry of entries.reverse().slice(0, MAX_HOPS)) {
    const next = entryAddress(entry)
    // "unknown" and the like: nothing left of it can be believed.
    if (next === undefined) return address
    address = next
    if (!trusted.contains(address)) return address
  }
  return address
}
