// Client keys that end soon: said once a day in the log, and handed to metrics and the status page.
import type { Clock, Timer } from '../clock.ts'
import { EXPIRY_WARNING_MS, leftText } from '../config/auth.ts'
import type { ClientKey } from '../config/types.ts'
import type { EndingKey } from '../dashboard/entries.ts'
import type { Log } from '../log.ts'

/** How often a key that ends soon is spoken of. */
const REMIND_MS = 86_400_000

/** The keys that end within a week, and those that have; the soonest first. */
export function endingKeys(keys: readonly ClientKey[], epochMs: number): readonly EndingKey[] {
  return keys
    .flatMap(({ name, expiresEpochMs }) =>
      expiresEpochMs === undefined || expiresEpochMs - epochMs > EXPIRY_WARNING_MS
        ? []
        : [{ key: name, ends_ms: expiresEpochMs }],
    )
    .sort((a, b) => a.ends_ms - b.ends_ms)
}

/**
 * When each name's next key ends, in seconds since the epoch. Two keys may share a name while they rotate; one that has
 * ended already is of no interest then.
 */
export function expiryByName(keys: readonly ClientKey[], epochMs: number): ReadonlyMap<string, number> {
  const byName = new Map<string, number>()
  for (const { name, expiresEpochMs: endsMs } of keys) {
    if (endsMs === undefined) continue
    const known = byName.get(name)
    const isBetter = known === undefined || (known <= epochMs ? endsMs > known : endsMs > epochMs && endsMs < known)
    if (isBetter) byName.set(name, endsMs)
  }
  return new Map([...byName].map(([name, endsMs]) => [name, endsMs / 1000]))
}

export interface KeyExpiryWatch {
  /** Speaks of them now, and once a day from then on. */
  start(): void
  /** After a change of the config; does nothing before the start. */
  check(): void
  stop(): void
}

/** @param keys those of the config in force */
export function createKeyExpiryWatch(clock: Clock, log: Log, keys: () => readonly ClientKey[]): KeyExpiryWatch {
  let timer: Timer | undefined
  const speak = (): void => {
    const epochMs = clock.epochMs()
    for (const { key, ends_ms } of endingKeys(keys(), epochMs)) {
      const expires = new Date(ends_ms).toISOString()
      if (ends_ms <= epochMs) log.warn('client key has expired', { key, expires })
      else log.warn('client key ends soon', { key, expires, left: leftText(ends_ms - epochMs) })
    }
  }
  return {
    start() {
      if (timer !== undefined) return
      timer = clock.every(REMIND_MS, speak)
      speak()
    },
    check() {
      if (timer !== undefined) speak()
    },
    stop() {
      timer?.cancel()
    },
  }
}
