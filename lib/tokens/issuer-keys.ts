// The key sets of issuers, each fetched once for all requests: at the start, hourly in the background, and for an
// unknown key id. Keys that are there serve on while their issuer is down. How a set is fetched is handed in.
import { afterRunning, type Clock, type Random, type Timer } from '../clock.ts'
import type { KeySource } from '../config/types.ts'
import type { VerificationKey } from './jwt.ts'

export type FetchedKeys =
  | { readonly kind: 'keys'; readonly keys: readonly VerificationKey[] }
  /** @property reason for people; holds nothing that was fetched */
  | { readonly kind: 'failed'; readonly reason: string }

/** Makes one fetch; ends soon once the signal is aborted. May reject. */
export type KeyFetcher = (source: KeySource, signal: AbortSignal) => Promise<FetchedKeys>

/** One issuer's keys. */
export interface IssuerKeys {
  /** The keys that are there, however old; undefined: none was ever fetched. */
  held(): readonly VerificationKey[] | undefined
  /**
   * Resolves when a fetch has ended that may bring first keys; undefined: the last one failed, and its wait is not
   * over.
   */
  load(): Promise<void> | undefined
  /** The same for a key id that is not among them; undefined: asked for such a key too recently. */
  loadUnknown(): Promise<void> | undefined
  /** Milliseconds until the next fetch after a failure. */
  waitMs(): number
}

export interface IssuerKeyCache {
  /** The keys of a source; fetched from the first call on. */
  of(source: KeySource): IssuerKeys
  /** Forgets all other sources, and fetches these: after a change of the config. Files are read again at once. */
  retain(sources: readonly KeySource[]): void
  /** Ends every timer and fetch. */
  close(): void
}

export interface IssuerKeyCacheOptions {
  readonly clock: Clock
  readonly random: Random
  readonly fetch: KeyFetcher
  /** Once when a source begins to fail, once when it works again. Plain words, no secret. */
  readonly onProblem: (message: string, state: 'failing' | 'working') => void
}

/** Entra replaces keys any day and asks clients to look at least once a day; an hour costs nothing. */
const RENEW_MS = 3_600_000
/** A file costs nothing to read: a new one is in force within a minute. */
const RENEW_FILE_MS = 60_000
/** Tokens with an invented key id must not make us ask the issuer all the time. */
const UNKNOWN_KEY_MS = 60_000
const UNKNOWN_KEY_FILE_MS = 1_000
/** A whole fetch: discovery and key set. */
const FETCH_TIMEOUT_MS = 10_000
/** First wait after a failure; doubles up to the longest. */
const FIRST_BACK_OFF_MS = 1_000
const LONGEST_BACK_OFF_MS = 60_000
/** Renewals are spread by this share, so that many proxies do not ask in step. */
const JITTER = 0.2

/** The text under which two sources are one. */
export function keySourceId(source: KeySource): string {
  return source.kind === 'file' ? `file ${source.path}` : `${source.kind} ${source.url}`
}

function describe(source: KeySource): string {
  return source.kind === 'file' ? 'a file' : new URL(source.url).host
}

interface Keeper extends IssuerKeys {
  renew(): void
  close(): void
}

/** One fetch, ended by its time or by `closing`; a fetch that rejects has failed. */
async function fetchInTime(
  source: KeySource,
  closing: AbortSignal,
  { clock, fetch }: Pick<IssuerKeyCacheOptions, 'clock' | 'fetch'>,
): Promise<FetchedKeys> {
  const ending = new AbortController()
  const end = (): void => ending.abort()
  const timeout = afterRunning(clock, FETCH_TIMEOUT_MS, end)
  closing.addEventListener('abort', end)
  const late = new Promise<FetchedKeys>(resolve => {
    const reason = `it took longer than ${FETCH_TIMEOUT_MS / 1000} s`
    ending.signal.addEventListener('abort', () => resolve({ kind: 'failed', reason }))
  })
  const fetched = await Promise.race([fetch(source, ending.signal), late]).catch(
    (): FetchedKeys => ({ kind: 'failed', reason: 'fetching them went wrong' }),
  )
  timeout.cancel()
  closing.removeEventListener('abort', end)
  return fetched
}

function createKeeper(source: KeySource, { clock, random, fetch, onProblem }: IssuerKeyCacheOptions): Keeper {
  const isFile = source.kind === 'file'
  const closing = new AbortController()
  let keys: readonly VerificationKey[] | undefined
  let failures = 0
  let nextMs = Number.NEGATIVE_INFINITY
  let unknownAtMs = Number.NEGATIVE_INFINITY
  let underWay: Promise<void> | undefined
  let timer: Timer | undefined

  const schedule = (delayMs: number): void => {
    timer?.cancel()
    nextMs = clock.nowMs() + delayMs
    if (!closing.signal.aborted) timer = clock.after(delayMs, () => begin())
  }

  const take = (fetched: FetchedKeys): void => {
    if (closing.signal.aborted) return
    if (fetched.kind === 'keys') {
      keys = fetched.keys
      if (failures > 0) onProblem(`the keys of ${describe(source)} for client tokens are fetched again`, 'working')
      failures = 0
      schedule((isFile ? RENEW_FILE_MS : RENEW_MS) * (1 - JITTER * random()))
      return
    }
    if (failures === 0) {
      const rest = keys === undefined ? 'there are none yet' : 'the ones that are there serve on'
      onProblem(
        `the keys of ${describe(source)} for client tokens could not be fetched, ${rest}: ${fetched.reason}`,
        'failing',
      )
    }
    failures++
    const doubled = Math.min(FIRST_BACK_OFF_MS * 2 ** Math.min(failures - 1, 16), LONGEST_BACK_OFF_MS)
    schedule(doubled * (1 - JITTER * random()))
  }

  const fetchOnce = async (): Promise<void> => {
    const fetched = await fetchInTime(source, closing.signal, { clock, fetch })
    underWay = undefined
    take(fetched)
  }

  const begin = (): Promise<void> => {
    timer?.cancel()
    underWay ??= fetchOnce()
    return underWay
  }

  return {
    held: () => keys,
    load() {
      if (underWay !== undefined) return underWay
      return clock.nowMs() >= nextMs && !closing.signal.aborted ? begin() : undefined
    },
    loadUnknown() {
      if (underWay !== undefined) return underWay
      const nowMs = clock.nowMs()
      const restMs = isFile ? UNKNOWN_KEY_FILE_MS : UNKNOWN_KEY_MS
      // While the issuer is failing, its own wait counts.
      if (nowMs - unknownAtMs < restMs || (failures > 0 && nowMs < nextMs) || closing.signal.aborted) return undefined
      unknownAtMs = nowMs
      return begin()
    },
    waitMs: () => Math.max(nextMs - clock.nowMs(), 0),
    renew() {
      if (keys === undefined || isFile) begin()
    },
    close() {
      timer?.cancel()
      closing.abort()
    },
  }
}

/** Keeps the key sets of all issuers of the config. */
export function createIssuerKeyCache(options: IssuerKeyCacheOptions): IssuerKeyCache {
  const keepers = new Map<string, Keeper>()
  const keeperOf = (source: KeySource): Keeper => {
    const id = keySourceId(source)
    const known = keepers.get(id)
    if (known !== undefined) return known
    const made = createKeeper(source, options)
    keepers.set(id, made)
    return made
  }
  return {
    of: keeperOf,
    retain(sources) {
      const wanted = new Set(sources.map(keySourceId))
      for (const [id, keeper] of keepers) {
        if (wanted.has(id)) continue
        keeper.close()
        keepers.delete(id)
      }
      for (const source of sources) keeperOf(source).renew()
    },
    close() {
      for (const keeper of keepers.values()) keeper.close()
      keepers.clear()
    },
  }
}
