// The headers by which a browser lets a page of another origin read a response (Fetch standard, "CORS protocol"). Set
// where the config allows the page's origin; an upstream's own are then left out, since they speak of the upstream's
// origins.

/** The header that grants reading; where it is set already, the proxy answers for CORS itself. */
export const ALLOW_ORIGIN = 'access-control-allow-origin'
const PREFIX = 'access-control-'

/**
 * An upstream's flat header list without its CORS headers; its `vary` also names the origin.
 * @param list names in lower case
 */
export function withoutUpstreamCors(list: readonly string[]): string[] {
  const kept: string[] = []
  for (let i = 0; i + 1 < list.length; i += 2) {
    const name = list[i] ?? ''
    const value = list[i + 1] ?? ''
    const lowerCase = name.toLowerCase()
    if (lowerCase.startsWith(PREFIX)) continue
    kept.push(name, lowerCase === 'vary' && !/\borigin\b/i.test(value) ? `${value}, origin` : value)
  }
  return kept
}
