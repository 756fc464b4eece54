// IP addresses and ranges of them in CIDR notation (RFC 4632, RFC 4291), for `from` and `trusted_proxies`.
import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { inspect } from 'node:util'

/** An IPv4 address that came over an IPv6 socket (RFC 4291 section 2.5.5.2). */
const MAPPED = /^::ffff:(\d{1,3}(?:\.\d{1,3}){3})$/i
const IPV4_BITS = 32
const IPV6_BITS = 128

/** An address in its plain form: no zone, IPv4 written as IPv4. Gives undefined for anything that is no address. */
export function plainAddress(text: string): string | undefined {
  const zone = text.indexOf('%')
  const bare = zone === -1 ? text : text.slice(0, zone)
  const address = MAPPED.exec(bare)?.[1] ?? bare
  return isIP(address) === 0 ? undefined : address
}

/** Ranges of addresses. Holds their texts too, so that two configs can be compared. */
export class AddressRanges {
  readonly ranges: readonly string[]
  readonly #list = new BlockList()

  /** @param ranges each one accepted by `isAddressRange` */
  constructor(ranges: readonly string[]) {
    this.ranges = ranges
    for (const range of ranges) {
      const { address, bits } = parseRange(range) ?? {}
      if (address === undefined || bits === undefined) throw new Error('this is no range of addresses')
      this.#list.addSubnet(address, bits, isIPv4(address) ? 'ipv4' : 'ipv6')
    }
  }

  /** Whether an address, in any of its forms, is in one of the ranges. */
  contains(text: string): boolean {
    const address = plainAddress(text)
    return address !== undefined && this.#list.check(address, isIPv4(address) ? 'ipv4' : 'ipv6')
  }

  [inspect.custom](): string {
    return this.ranges.join(', ')
  }
}

function parseRange(text: string): { readonly address: string; readonly bits: number } | undefined {
  const [written = '', length, ...more] = text.split('/')
  const address = written.includes('%') ? undefined : plainAddress(written)
  if (address === undefined || more.length > 0) return undefined
  const isMapped = isIPv6(written) && isIPv4(address)
  const most = isIPv4(address) ? IPV4_BITS : IPV6_BITS
  if (length === undefined) return { address, bits: most }
  if (!/^\d{1,3}$/.test(length)) return undefined
  const bits = Number(length) - (isMapped ? IPV6_BITS - IPV4_BITS : 0)
  return bits >= 0 && bits <= most ? { address, bits } : undefined
}

/** Whether a text is an address or a range: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`. */
export function isAddressRange(text: string): boolean {
  return parseRange(text) !== undefined
}
