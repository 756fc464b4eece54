// The simulated issuer of tokens, in virtual time: every token is another one, and those given out before a revocation
// are worth nothing after it.
import type { Exchange } from '../../lib/azure/entra-http.ts'
import type { Engine, Host } from './engine.ts'
import type { WorldPlan } from './plan.ts'

export interface Issuer {
  /** Carries the token requests of one process. */
  exchangeOf(host: Host): Exchange
  /** Whether a backend takes a token now. @param authorization the header's value */
  isValid(authorization: string | undefined): boolean
}

/** What a token request takes. */
const ANSWER_MS = 20
/** A token lives for longer than any world. */
const LIFE_SECONDS = 86_000

export function createIssuer(engine: Engine, { events }: WorldPlan): Issuer {
  /** When each was given out, by its number. */
  const given: number[] = []
  const isFailing = (): boolean =>
    events.some(({ kind, atMs, ...event }) => {
      const forMs = 'forMs' in event ? event.forMs : 0
      return kind === 'issuer_fails' && atMs <= engine.nowMs() && engine.nowMs() < atMs + forMs
    })
  const isRevoked = (givenMs: number): boolean =>
    events.some(({ kind, atMs }) => kind === 'revoke' && givenMs <= atMs && atMs <= engine.nowMs())

  return {
    exchangeOf: host => (_request, signal) =>
      new Promise(resolve => {
        const lost = (): void => resolve({ kind: 'lost', code: 'gave up' })
        signal.addEventListener('abort', lost)
        engine.at(
          engine.nowMs() + ANSWER_MS,
          () => {
            signal.removeEventListener('abort', lost)
            if (isFailing()) {
              resolve({ kind: 'response', response: { status: 503, headers: {}, body: '{"error":"busy"}' } })
              return
            }
            const token = `token-${given.length}`
            given.push(engine.nowMs())
            const body = JSON.stringify({ access_token: token, token_type: 'Bearer', expires_in: LIFE_SECONDS })
            resolve({ kind: 'response', response: { status: 200, headers: {}, body } })
          },
          host,
        )
      }),
    isValid(authorization) {
      const number = /^Bearer token-(\d+)$/.exec(authorization ?? '')?.[1]
      const givenMs = number === undefined ? undefined : given[Number(number)]
      return givenMs !== undefined && !isRevoked(givenMs)
    },
  }
}
