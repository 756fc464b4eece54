// Names to addresses. Each name is looked up once at a time, however many connections want it. While the resolver is
// late or fails, the last good addresses serve. Lookups go through getaddrinfo, because only that honours /etc/hosts,
// search domains and whatever else the machine's name service is made of. It runs on libuv's thread pool, which admits
// half of its threads (rounded up) to it at once. Names that hang must not take all of these places: the slow ones
// share what is left of a reserve.
import dns from 'node:dns'
import type { Clock, Timer } from '../clock.ts'
import { codeOf } from './connect-error.ts'

/** Asks the system; `done` gets every address, or the system's error. */
export type Lookup = (hostname: string, done: (error: Error | null, addresses: readonly string[]) => void) => void

export type Resolution =
  | { readonly kind: 'found'; readonly addresses: readonly string[] }
  /** @property code as the system gave it; `ENOTFOUND`: there is no such name */
  | { readonly kind: 'failed'; readonly code: string }

export interface Resolver {
  /**
   * Calls `done` once, perhaps at once. The caller bounds its own patience.
   * @returns gives the waiting up; the lookup itself cannot be stopped
   */
  resolve(hostname: string, done: (resolution: Resolution) => void): () => void
}

/** libuv's default of four threads admits two lookups (uv_thread_pool's slow work). */
const DEFAULT_PLACES = 2
/** A lookup that takes longer is slow: its name gets one of the places outside the reserve from then on. */
const SLOW_MS = 1_000
/** How long a connection waits for the resolver before it takes the last good address. */
const LATE_MS = 500
/** A response older than this is no help any more: by then the name means something else. */
const GOOD_FOR_MS = 3_600_000
/** Names remembered: endpoints, proxies and token endpoints of one config, many times over. */
const MAX_NAMES = 1_000

/** Places for lookups on a thread pool of this size (the environment's UV_THREADPOOL_SIZE). */
export function lookupPlaces(threadPoolSize: string | undefined): number {
  const threads = /^\d{1,4}$/.test(threadPoolSize ?? '') ? Number(threadPoolSize) : 0
  return threads < 1 ? DEFAULT_PLACES : Math.max(1, Math.floor((threads + 1) / 2))
}

/** The system's own, taken from the module at each call, so that an agent that instruments `dns.lookup` is heeded. */
export const systemLookup: Lookup = (hostname, done) => {
  dns.lookup(hostname, { all: true }, (error, found: unknown) => {
    if (error !== null && error !== undefined) done(error, [])
    else if (Array.isArray(found))
      done(
        null,
        found.map(({ address }) => String(address)),
      )
    else done(null, [String(found)])
  })
}

interface Name {
  readonly hostname: string
  readonly waiting: Set<(resolution: Resolution) => void>
  state: 'idle' | 'queued' | 'asked'
  slow: boolean
  good: readonly string[] | undefined
  goodAtMs: number
}

/** The last good addresses of a name, unless they are too old to help. */
function goodOf({ good, goodAtMs }: Name, nowMs: number): readonly string[] | undefined {
  return good !== undefined && nowMs - goodAtMs <= GOOD_FOR_MS ? good : undefined
}

/** Records what the system answered about a name, and gives what that means for those that wait. */
function resolutionOf(name: Name, error: Error | null, addresses: readonly string[], nowMs: number): Resolution {
  if (error === null && addresses.length > 0) {
    name.good = addresses
    name.goodAtMs = nowMs
    return { kind: 'found', addresses }
  }
  const code = error === null ? 'ENOTFOUND' : codeOf(error)
  const good = code === 'ENOTFOUND' ? undefined : goodOf(name, nowMs)
  return good === undefined ? { kind: 'failed', code } : { kind: 'found', addresses: good }
}

function finish(name: Name, resolution: Resolution): void {
  const waiting = [...name.waiting]
  name.waiting.clear()
  for (const done of waiting) done(resolution)
}

/** Finds a hostname's entry or makes one; beyond MAX_NAMES it forgets those that were asked for longest ago. */
function createNames(): (hostname: string) => Name {
  const names = new Map<string, Name>()
  return hostname => {
    const found = names.get(hostname)
    const name: Name = found ?? {
      hostname,
      waiting: new Set(),
      state: 'idle',
      slow: false,
      good: undefined,
      goodAtMs: 0,
    }
    // Asked for last, forgotten last.
    names.delete(hostname)
    names.set(hostname, name)
    for (const [oldest, { state }] of names) {
      if (names.size <= MAX_NAMES) break
      if (state === 'idle') names.delete(oldest)
    }
    return name
  }
}

type Answered = (name: Name, error: Error | null, addresses: readonly string[]) => void

/**
 * Queues names for the system, which gets at most `places` of them at once, and of the slow ones one less.
 * @param answered called with each response, before its place goes to the next name
 */
function createLookupQueue(clock: Clock, lookup: Lookup, places: number, answered: Answered): (name: Name) => void {
  const queue: Name[] = []
  let asked = 0
  let askedSlow = 0
  // With a single place there is nothing to reserve.
  const slowPlaces = Math.max(places - 1, 1)

  const ask = (name: Name): void => {
    name.state = 'asked'
    asked++
    let countsAsSlow = name.slow
    if (countsAsSlow) askedSlow++
    const becomesSlow = clock.after(SLOW_MS, () => {
      name.slow = true
      if (!countsAsSlow) askedSlow++
      countsAsSlow = true
    })
    const beganMs = clock.nowMs()
    lookup(name.hostname, (error, addresses) => {
      if (name.state !== 'asked') return
      becomesSlow.cancel()
      name.state = 'idle'
      name.slow = clock.nowMs() - beganMs >= SLOW_MS
      asked--
      if (countsAsSlow) askedSlow--
      answered(name, error, addresses)
      next()
    })
  }

  const next = (): void => {
    for (let i = 0; i < queue.length && asked < places; ) {
      const name = queue[i]
      if (name === undefined || (name.slow && askedSlow >= slowPlaces)) {
        i++
        continue
      }
      queue.splice(i, 1)
      // All who wanted it may have left.
      if (name.waiting.size === 0) name.state = 'idle'
      else ask(name)
    }
  }

  return name => {
    name.state = 'queued'
    queue.push(name)
    next()
  }
}

/** @param places how many lookups the system can have in progress */
export function createResolver(clock: Clock, lookup: Lookup = systemLookup, places = DEFAULT_PLACES): Resolver {
  const nameOf = createNames()
  const enqueue = createLookupQueue(clock, lookup, places, (name, error, addresses) =>
    finish(name, resolutionOf(name, error, addresses, clock.nowMs())),
  )
  return {
    resolve(hostname, done) {
      const name = nameOf(hostname)
      let late: Timer | undefined
      const waiter = (resolution: Resolution): void => {
        late?.cancel()
        done(resolution)
      }
      const leave = (): void => {
        late?.cancel()
        name.waiting.delete(waiter)
      }
      name.waiting.add(waiter)
      if (goodOf(name, clock.nowMs()) !== undefined) {
        late = clock.after(LATE_MS, () => {
          const addresses = goodOf(name, clock.nowMs())
          if (addresses === undefined || !name.waiting.delete(waiter)) return
          done({ kind: 'found', addresses })
        })
      }
      if (name.state === 'idle') enqueue(name)
      return leave
    },
  }
}
