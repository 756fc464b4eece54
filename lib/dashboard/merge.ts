// Several processes' snapshots as one: counts are added, of requests and changes the newest stay. Pure.
import type { BackendState, CertificateEntry, ProxyEntry, Sequenced } from './entries.ts'
import { type BackendCounts, MAX_CHANGES, MAX_REQUESTS, type SparseSteps, type StatusSnapshot } from './status.ts'
import { addStep, emptyStep, type MutableStep, STEPS } from './window.ts'

const GRAVITY = { healthy: 0, throttled: 1, trial: 2, ejected: 3 } as const

/**
 * Processes tell each other what they learn, but not at once: meanwhile the graver word counts, and of equals the
 * longer one.
 */
function graver(one: BackendState, other: BackendState): BackendState {
  const difference = GRAVITY[one.state] - GRAVITY[other.state]
  if (difference !== 0) return difference > 0 ? one : other
  const until = ({ until_ms }: BackendState): number => until_ms ?? Number.POSITIVE_INFINITY
  return until(one) >= until(other) ? one : other
}

function newest<T>(values: readonly (T | null)[], timeOf: (value: T) => number): T | null {
  return values.reduce((a, b) => (a === null || (b !== null && timeOf(b) > timeOf(a)) ? b : a), null)
}

/** What one process has met last is the newer certificate. */
function mergeCertificates(proxies: readonly ProxyEntry[]): ProxyEntry['certificates'] {
  const byName = new Map<string, CertificateEntry>()
  for (const entry of proxies.flatMap(({ certificates }) => certificates)) {
    const known = byName.get(entry.cert)
    if (known === undefined || known.ends_ms < entry.ends_ms) byName.set(entry.cert, entry)
  }
  return [...byName.values()]
}

/** Workers hear of a reload one after the other: the newest word counts. */
function mergeProxies(proxies: readonly ProxyEntry[]): ProxyEntry {
  const [first] = proxies
  if (first === undefined) throw new Error('there is one snapshot at least')
  return {
    ...first,
    started_ms: Math.min(...proxies.map(({ started_ms }) => started_ms)),
    workers: proxies.reduce((sum, { workers }) => sum + workers, 0),
    reloaded_ms: newest(
      proxies.map(({ reloaded_ms }) => reloaded_ms),
      ms => ms,
    ),
    reload_failed: newest(
      proxies.map(({ reload_failed }) => reload_failed),
      ({ time_ms }) => time_ms,
    ),
    certificates: mergeCertificates(proxies),
  }
}

/** The key of a backend's place in a model. */
function placeOf({ model, backend }: BackendState): string {
  return JSON.stringify([model, backend])
}

/** @param late by how many steps `steps` is behind those it is added to */
function addSteps(into: Map<number, MutableStep>, steps: SparseSteps, late: number): void {
  for (const [distance, counts] of Object.entries(steps)) {
    const at = Number(distance) + late
    if (at >= STEPS) continue
    const found = into.get(at) ?? emptyStep()
    addStep(found, counts)
    into.set(at, found)
  }
}

function newestFirst<T extends Sequenced & { readonly time_ms: number }>(
  lists: readonly (readonly T[])[],
  max: number,
) {
  return lists
    .flat()
    .sort((a, b) => b.time_ms - a.time_ms || b.seq - a.seq)
    .slice(0, max)
}

/** News takes some hundredths of a second: meanwhile another process may see the same change. */
const ECHO_MS = 1_000

type Change = StatusSnapshot['changes'][number]

/** Without changes that another process has seen a moment before. @param changes the newest first */
function withoutEchoes(changes: readonly Change[]): readonly Change[] {
  const last = new Map<string, Change>()
  const isEcho = (change: Change): boolean => {
    const place = JSON.stringify([change.model, change.backend])
    const before = last.get(place)
    const isSame = before?.kind === change.kind && before.reason === change.reason
    if (isSame && before.source !== change.source && change.time_ms - before.time_ms <= ECHO_MS) return true
    last.set(place, change)
    return false
  }
  return changes
    .toReversed()
    .filter(change => !isEcho(change))
    .reverse()
}

interface Merging {
  state: BackendState
  inFlight: number
  headroom: BackendState['headroom']
  readonly steps: Map<number, MutableStep>
}

/**
 * One snapshot of all. Backends stand in the order in which they are first named.
 * @param snapshots at least one, taken at about the same time on one machine
 */
export function mergeSnapshots(snapshots: readonly [StatusSnapshot, ...StatusSnapshot[]]): StatusSnapshot {
  const [first, ...others] = snapshots
  if (others.length === 0) return first
  const newest = snapshots.reduce((a, b) =>
    b.step > a.step || (b.step === a.step && b.into_step_ms > a.into_step_ms) ? b : a,
  )
  const places = new Map<string, Merging>()
  for (const { step, backends } of snapshots) {
    for (const { steps, ...state } of backends) {
      const place = placeOf(state)
      let merging = places.get(place)
      if (merging === undefined) {
        merging = { state, inFlight: 0, headroom: null, steps: new Map() }
        places.set(place, merging)
      }
      const asked = merging.state.asked || state.asked
      merging.state = { ...graver(merging.state, state), asked }
      merging.inFlight += state.in_flight
      if ((state.headroom?.at_ms ?? Number.NEGATIVE_INFINITY) > (merging.headroom?.at_ms ?? Number.NEGATIVE_INFINITY))
        merging.headroom = state.headroom
      addSteps(merging.steps, steps, Math.max(newest.step - step, 0))
    }
  }
  const backends = [...places.values()].map(
    ({ state, inFlight, headroom, steps }): BackendCounts => ({
      ...state,
      in_flight: inFlight,
      headroom,
      steps: Object.fromEntries(steps),
    }),
  )
  return {
    step: newest.step,
    into_step_ms: newest.into_step_ms,
    time_ms: newest.time_ms,
    age_ms: Math.max(...snapshots.map(({ age_ms }) => age_ms)),
    backends,
    // All processes have one config.
    keys_ending: newest.keys_ending,
    requests: newestFirst(
      snapshots.map(({ requests }) => requests),
      MAX_REQUESTS,
    ),
    proxy: mergeProxies(snapshots.map(({ proxy }) => proxy)),
    keys: first.keys,
    finished: Object.assign({}, ...snapshots.map(({ finished }) => finished)),
    changes: withoutEchoes(
      newestFirst(
        snapshots.map(({ changes }) => changes),
        MAX_CHANGES * snapshots.length,
      ),
    ).slice(0, MAX_CHANGES),
  }
}
