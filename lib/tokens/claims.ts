// Compares a token's claims with what the config accepts: issuer, audience, times, subject. Pure.
import type { TokenIssuer } from '../config/types.ts'

/** What is wrong with a token. The order of FAULTS tells how far it came. */
export type TokenFault =
  | 'malformed'
  | 'algorithm'
  | 'issuer'
  | 'audience'
  | 'no_expiry'
  | 'not_yet_valid'
  | 'expired'
  | 'unknown_key'
  | 'signature'
  | 'subject'

const FAULTS: readonly TokenFault[] = [
  'malformed',
  'algorithm',
  'issuer',
  'audience',
  'no_expiry',
  'not_yet_valid',
  'expired',
  'unknown_key',
  'signature',
  'subject',
]

/** Of two faults the one that says more: a token that failed at a later check was closer to being right. */
export function furtherFault(a: TokenFault | undefined, b: TokenFault): TokenFault {
  return a !== undefined && FAULTS.indexOf(a) >= FAULTS.indexOf(b) ? a : b
}

type Claims = Readonly<Record<string, unknown>>

/** Clocks of clients, issuers and this machine may differ by this much. */
export const LEEWAY_S = 60

/**
 * Hosts that issue Entra's tokens, in all clouds (learn.microsoft.com/entra/identity-platform/access-tokens). A tenant
 * is identified by its id, which is the same for every host and version that a token may name.
 */
const ENTRA_HOSTS: ReadonlySet<string> = new Set([
  'login.microsoftonline.com',
  'login.windows.net',
  'sts.windows.net',
  'login.microsoftonline.us',
  'login.partner.microsoftonline.cn',
  'login.chinacloudapi.cn',
  'sts.chinacloudapi.cn',
])

/** `https://sts.windows.net/TENANT/` (version 1) or `https://login.microsoftonline.com/TENANT/v2.0` (version 2). */
const ENTRA_ISSUER = /^https:\/\/([a-z.]+)\/([\w.-]+)(?:\/v2\.0)?\/?$/i

/** The tenant in an issuer of Entra's, in lower case; undefined for every other issuer. */
export function entraTenant(issuer: string): string | undefined {
  const [, host = '', tenant = ''] = ENTRA_ISSUER.exec(issuer) ?? []
  return ENTRA_HOSTS.has(host.toLowerCase()) ? tenant.toLowerCase() : undefined
}

function withoutSlash(text: string): string {
  return text.endsWith('/') ? text.slice(0, -1) : text
}

/** Whether two texts name one issuer: the same URL, or the same Entra tenant in the form of version 1 or 2. */
export function sameIssuer(a: string, b: string): boolean {
  if (withoutSlash(a) === withoutSlash(b)) return true
  const tenant = entraTenant(a)
  return tenant !== undefined && tenant === entraTenant(b)
}

/**
 * An audience in the one form that is compared: Entra writes an app's id bare (version 2) or after `api://` (version
 * 1).
 */
function bareAudience(audience: string): string {
  return withoutSlash(audience.replace(/^api:\/\//i, ''))
}

function meantFor(aud: unknown, accepted: readonly string[]): boolean {
  const named: readonly unknown[] = Array.isArray(aud) ? aud : [aud]
  return named.some(
    one => typeof one === 'string' && accepted.some(audience => bareAudience(audience) === bareAudience(one)),
  )
}

function isTime(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value)
}

/**
 * What is wrong with the claims; undefined: nothing so far, the signature and the subject are still to be checked.
 * @param nowS wall clock, in seconds
 */
export function claimsFault(claims: Claims, accepted: TokenIssuer, nowS: number): TokenFault | undefined {
  const { iss, aud, exp, nbf, iat } = claims
  if (typeof iss !== 'string' || !sameIssuer(iss, accepted.issuer)) return 'issuer'
  if (!meantFor(aud, accepted.audiences)) return 'audience'
  if (!isTime(exp)) return 'no_expiry'
  for (const begins of [nbf, iat]) {
    if (begins === undefined) continue
    if (!isTime(begins) || begins > nowS + LEEWAY_S) return 'not_yet_valid'
  }
  return exp + LEEWAY_S <= nowS ? 'expired' : undefined
}

/** The claims that name the calling application, in the order in which they are looked for. */
const CALLER_CLAIMS = ['azp', 'appid', 'sub'] as const

/**
 * The values of the claim that `subjects` is compared with; `scp` is a list written as one text (RFC 8693 section 4.2).
 */
function subjectValues(claims: Claims, claim: string | undefined): readonly string[] {
  const name = claim ?? CALLER_CLAIMS.find(candidate => typeof claims[candidate] === 'string')
  const value = name === undefined || !Object.hasOwn(claims, name) ? undefined : claims[name]
  if (Array.isArray(value)) return value.filter(item => typeof item === 'string')
  if (typeof value !== 'string') return []
  return name === 'scp' || name === 'scope' ? value.split(' ') : [value]
}

const GUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

function sameSubject(a: string, b: string): boolean {
  return a === b || (GUID.test(a) && a.toLowerCase() === b.toLowerCase())
}

/** Whether the token's holder is among the subjects; without a list everybody of that audience is. */
export function isSubject(claims: Claims, { subjects, claim }: Pick<TokenIssuer, 'subjects' | 'claim'>): boolean {
  if (subjects === undefined) return true
  const values = subjectValues(claims, claim)
  return subjects.some(subject => values.some(value => sameSubject(value, subject)))
}
