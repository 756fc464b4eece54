// `backends[].headers`: headers that a backend's requests carry besides the client's, such as a gateway's subscription
// key.
import { pathTo, type Report } from './problems.ts'
import type { ParsedBackend } from './schema.ts'
import { Secret } from './secret.ts'
import type { BackendHeader, BackendType, Credential } from './types.ts'

/** RFC 9110 section 5.6.2. */
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/
/** What the proxy writes itself, or what belongs to one connection: a second value would make two readers disagree. */
const RESERVED =
  /^(host|content-length|transfer-encoding|connection|keep-alive|upgrade|te|trailer|expect|proxy-.*|accept-encoding|http2-settings|sec-websocket-.*)$/
/** Azure answers 431 to more custom request headers than this (azure/README.md 3.3). */
const MAX_CUSTOM_HEADERS = 10

/** The header that a credential takes. */
function credentialHeader(credential: Credential, type: BackendType): string | undefined {
  if (credential.kind === 'none') return undefined
  return credential.kind === 'api_key' && type === 'azure' ? 'api-key' : 'authorization'
}

/** A backend's own headers, with what is wrong with them reported. */
export function buildHeaders(
  { headers }: ParsedBackend,
  type: BackendType,
  credential: Credential,
  report: Report,
): readonly BackendHeader[] {
  const given = [...(headers.value ?? [])]
  const seen = new Set<string>()
  const built = given.flatMap(([written, { value, place }]): BackendHeader[] => {
    const at = { ...place, path: pathTo(headers.place.path, written) }
    const name = written.toLowerCase()
    if (!TOKEN.test(name)) report.problem(at, 'is no name of a header: letters, digits and hyphens')
    else if (RESERVED.test(name)) report.problem(at, 'is written by the proxy itself: remove it')
    else if (name === credentialHeader(credential, type)) {
      report.problem(at, "is the header of this backend's api_key or entra: remove one of them")
    } else if (seen.has(name)) report.problem(at, 'stands here twice, in another spelling: remove one of them')
    else {
      seen.add(name)
      return [{ name, value: new Secret(value.trim()) }]
    }
    return []
  })
  if (type === 'azure' && built.length > MAX_CUSTOM_HEADERS) {
    report.problem(
      headers.place,
      `are more than ${MAX_CUSTOM_HEADERS}: Azure refuses requests with more custom headers`,
    )
  }
  return built
}
