// Verifies the tokens of clients against the config's issuers. A token that was found right is remembered by its digest
// until it ends, so that its signature is computed once.
import type { Clock } from '../clock.ts'
import type { TokenIssuer } from '../config/types.ts'
import { claimsFault, furtherFault, isSubject, LEEWAY_S, type TokenFault } from './claims.ts'
import type { IssuerKeyCache, IssuerKeys } from './issuer-keys.ts'
import { type ParsedToken, parseToken, type VerificationKey, verifySignature } from './jwt.ts'

export type TokenVerdict =
  | { readonly kind: 'valid'; readonly issuer: TokenIssuer }
  | { readonly kind: 'refused'; readonly fault: TokenFault }
  /** The issuer's keys are not there yet. @property waitMs until they are asked for again */
  | { readonly kind: 'unavailable'; readonly waitMs: number }

export interface TokenVerifier {
  /**
   * Judges a token: at once when the keys are there, as they are but for the first moments.
   * @param digest a digest of the text, under which it is remembered
   */
  verify(text: string, digest: string): TokenVerdict | Promise<TokenVerdict>
}

export interface TokenVerifierOptions {
  readonly clock: Clock
  readonly issuers: readonly TokenIssuer[]
  readonly keys: Pick<IssuerKeyCache, 'of'>
}

/** Tokens remembered, about 250 bytes each; the one used longest ago is forgotten first, and verified again. */
export const MAX_REMEMBERED_TOKENS = 10_000
/** Keys tried for a token without a key id: each costs up to 60 µs. */
const MAX_TRIED_KEYS = 8
/** The least wait that is named when keys are missing. */
const MIN_WAIT_MS = 1_000

interface Remembered {
  readonly issuer: TokenIssuer
  readonly endsEpochMs: number
}

type Signed = 'yes' | 'no' | 'unknown_key'

function signedBy(token: ParsedToken, keys: readonly VerificationKey[]): Signed {
  const fitting = keys.filter(
    ({ kid, algorithms }) => algorithms.includes(token.algorithm) && (token.kid === undefined || kid === token.kid),
  )
  if (fitting.length === 0) return 'unknown_key'
  return fitting.slice(0, MAX_TRIED_KEYS).some(key => verifySignature(token, key)) ? 'yes' : 'no'
}

/** Verifies for one config; what it remembers ends with it. */
export function createTokenVerifier({ clock, issuers, keys }: TokenVerifierOptions): TokenVerifier {
  const remembered = new Map<string, Remembered>()

  const recall = (digest: string): TokenIssuer | undefined => {
    const found = remembered.get(digest)
    if (found === undefined) return undefined
    remembered.delete(digest)
    if (found.endsEpochMs <= clock.epochMs()) return undefined
    // A Map keeps insertion order: re-inserting on use makes its first key the one used longest ago.
    remembered.set(digest, found)
    return found.issuer
  }

  const remember = (digest: string, issuer: TokenIssuer, { claims }: ParsedToken): void => {
    if (typeof claims.exp !== 'number') return
    remembered.set(digest, { issuer, endsEpochMs: (claims.exp + LEEWAY_S) * 1000 })
    const oldest = remembered.keys().next()
    if (remembered.size > MAX_REMEMBERED_TOKENS && oldest.done !== true) remembered.delete(oldest.value)
  }

  /** @param lastLook no more keys are fetched for this token */
  const judge = (
    token: ParsedToken,
    digest: string,
    lastLook: boolean,
  ): TokenVerdict | { readonly kind: 'wait'; readonly until: Promise<unknown> } => {
    const nowS = clock.epochMs() / 1000
    const loading: Promise<void>[] = []
    let fault: TokenFault | undefined
    let missing: IssuerKeys | undefined
    for (const issuer of issuers) {
      const wrong = claimsFault(token.claims, issuer, nowS)
      if (wrong !== undefined) {
        fault = furtherFault(fault, wrong)
        continue
      }
      const source = keys.of(issuer.keys)
      const held = source.held()
      const signed = held === undefined ? undefined : signedBy(token, held)
      if (signed === 'yes') {
        if (isSubject(token.claims, issuer)) {
          remember(digest, issuer, token)
          return { kind: 'valid', issuer }
        }
        fault = furtherFault(fault, 'subject')
        continue
      }
      if (signed === undefined) missing = source
      else fault = furtherFault(fault, signed === 'no' ? 'signature' : 'unknown_key')
      // A wrong signature asks too: an issuer may have replaced a key under its old id, or names none.
      const load = lastLook ? undefined : held === undefined ? source.load() : source.loadUnknown()
      if (load !== undefined) loading.push(load)
    }
    if (loading.length > 0) return { kind: 'wait', until: Promise.all(loading) }
    if (missing !== undefined) return { kind: 'unavailable', waitMs: Math.max(missing.waitMs(), MIN_WAIT_MS) }
    return { kind: 'refused', fault: fault ?? 'issuer' }
  }

  return {
    verify(text, digest) {
      const known = recall(digest)
      if (known !== undefined) return { kind: 'valid', issuer: known }
      const token = parseToken(text)
      if (typeof token === 'string') return { kind: 'refused', fault: token }
      const first = judge(token, digest, false)
      if (first.kind !== 'wait') return first
      return first.until.then((): TokenVerdict => {
        const second = judge(token, digest, true)
        return second.kind === 'wait' ? { kind: 'unavailable', waitMs: MIN_WAIT_MS } : second
      })
    },
  }
}
