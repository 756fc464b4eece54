// The addresses of one name: in which order, and when the next one is tried (RFC 8305, Happy Eyeballs). Knows no
// sockets.
import { isIP } from 'node:net'
import type { Clock, Timer } from '../clock.ts'

/** The next address is tried this long after the one before (RFC 8305 section 5, Connection Attempt Delay). */
const NEXT_ADDRESS_MS = 250
/** Addresses tried of one name: more are no help within a connect timeout. */
const MAX_ADDRESSES = 8

/** Addresses in the resolver's order, families in turn (RFC 8305 section 4). */
export function inTurn(addresses: readonly string[]): readonly string[] {
  const [first] = addresses
  if (first === undefined) return addresses
  const family = isIP(first)
  const same = addresses.filter(address => isIP(address) === family)
  const other = addresses.filter(address => isIP(address) !== family)
  if (other.length === 0) return addresses.slice(0, MAX_ADDRESSES)
  const mixed: string[] = []
  for (let i = 0; i < Math.max(same.length, other.length); i++) {
    for (const address of [same[i], other[i]]) if (address !== undefined) mixed.push(address)
  }
  return mixed.slice(0, MAX_ADDRESSES)
}

/**
 * Tries addresses one after another: the next one a little after the one before, or as soon as that fails.
 * @param attempt begins with one address; calls `failed` once if that comes to nothing
 * @param exhausted all have failed; the code is that of the first, which the resolver likes best
 * @returns no further address is tried
 */
export function tryInTurn(
  addresses: readonly string[],
  clock: Clock,
  attempt: (address: string, failed: (code: string) => void) => void,
  exhausted: (code: string) => void,
): () => void {
  let at = 0
  let failures = 0
  let firstCode: string | undefined
  let timer: Timer | undefined
  let stopped = false
  const next = (): void => {
    const address = addresses[at++]
    if (stopped || address === undefined) return
    timer?.cancel()
    if (at < addresses.length) timer = clock.after(NEXT_ADDRESS_MS, next)
    attempt(address, code => {
      firstCode ??= code
      failures++
      if (stopped) return
      if (at < addresses.length) next()
      else if (failures === addresses.length) exhausted(firstCode)
    })
  }
  next()
  return () => {
    stopped = true
    timer?.cancel()
  }
}
