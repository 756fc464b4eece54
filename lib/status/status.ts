// What the live status page shows, kept: rolling windows for each backend, the last requests, the last changes. Everything here
// has a bound. One a process; several processes' snapshots are merged (merge.ts).
import type { Clock } from '../clock.ts'
import type { AttemptEntry, BackendStanding, ChangeEntry, RequestEntry } from './entries.ts'
import { bucketOf } from './histogram.ts'
import { createStepWindow, STEP_MS, type StepCounts, type StepWindow } from './window.ts'

/** Finished requests kept: what fits a screen and a look back. */
export const MAX_REQUESTS = 100
/** Changes of state kept: an hour of a backend that goes in and out every half minute. */
export const MAX_CHANGES = 100
/** Backends counted at once. A config names them, so this is no limit for real ones; it holds if a caller passes other names. */
export const MAX_BACKENDS = 2_000

/** Where an entry comes from: a process and its running number there. Request ids will not do, as clients may choose them. */
export interface Sequenced {
  readonly source: string
  readonly seq: number
}

/** Steps of one backend that were not empty, by their distance from the newest: 0 is now. */
export type SparseSteps = Readonly<Record<number, StepCounts>>

export interface BackendCounts extends BackendStanding {
  readonly steps: SparseSteps
}

/** Everything, as plain JSON: it may go from process to process. */
export interface StatusSnapshot {
  /** Number of the newest step, the same in every process of one machine. */
  readonly step: number
  /** How much of the newest step has passed, in milliseconds. */
  readonly into_step_ms: number
  readonly time_ms: number
  /** Since this began to count. */
  readonly age_ms: number
  readonly backends: readonly BackendCounts[]
  /** Newest first. */
  readonly requests: readonly (RequestEntry & Sequenced)[]
  /** Requests finished so far, by process: what is missing in `requests` was too much to keep. */
  readonly finished: Readonly<Record<string, number>>
  /** Newest first. */
  readonly changes: readonly (ChangeEntry & Sequenced)[]
}

export interface Status {
  requestDone(entry: RequestEntry): void
  attemptDone(entry: AttemptEntry): void
  stateChanged(entry: ChangeEntry): void
  snapshot(): StatusSnapshot
}

export interface StatusOptions {
  readonly clock: Clock
  /** How the config's backends stand now, in the order in which they are shown. */
  readonly standings: () => readonly BackendStanding[]
  /** Names this process among those whose snapshots are merged; unique over restarts too, so that a viewer notices them. */
  readonly source: string
}

/** Newest first, at most `max`. */
interface Recent<T> {
  add(entry: T): void
  list(): readonly T[]
}

function createRecent<T>(max: number): Recent<T> {
  const ring: T[] = []
  let next = 0
  return {
    add(entry) {
      ring[next] = entry
      next = (next + 1) % max
    },
    list: () => [...ring.slice(0, next).reverse(), ...ring.slice(next).reverse()],
  }
}

const FAILED: ReadonlySet<string> = new Set(['failed', 'timeout', 'misconfigured', 'cut'])

/** The key of a backend's place in a model. */
export function placeOf({ model, backend }: { readonly model: string; readonly backend: string }): string {
  return JSON.stringify([model, backend])
}

function sparse(steps: readonly (StepCounts | undefined)[]): SparseSteps {
  const found: Record<number, StepCounts> = {}
  steps.forEach((counts, i) => {
    if (counts !== undefined) found[steps.length - 1 - i] = counts
  })
  return found
}

export function createStatus({ clock, standings, source }: StatusOptions): Status {
  const windows = new Map<string, StepWindow>()
  const requests = createRecent<RequestEntry & Sequenced>(MAX_REQUESTS)
  const changes = createRecent<ChangeEntry & Sequenced>(MAX_CHANGES)
  const beganMs = clock.nowMs()
  // The monotonic clock, set once by the wall clock: steps never go back, and those of other processes have the same numbers.
  const offsetMs = clock.epochMs() - beganMs
  let finished = 0
  let changed = 0

  const alignedMs = (): number => clock.nowMs() + offsetMs
  const stepNow = (): number => Math.floor(alignedMs() / STEP_MS)

  /** Forgets what no config names any more; called only when there are too many. */
  const makeRoom = (): void => {
    const named = new Set(standings().map(placeOf))
    for (const place of windows.keys()) if (!named.has(place)) windows.delete(place)
  }

  const windowOf = (place: string): StepWindow | undefined => {
    const found = windows.get(place)
    if (found !== undefined) return found
    if (windows.size >= MAX_BACKENDS) makeRoom()
    if (windows.size >= MAX_BACKENDS) return undefined
    const made = createStepWindow()
    windows.set(place, made)
    return made
  }

  return {
    requestDone(entry) {
      finished++
      requests.add({ ...entry, source, seq: finished })
      const { model, backend, prompt_tokens, cached_tokens, completion_tokens } = entry
      if (model === null || backend === null) return
      const counts = windowOf(placeOf({ model, backend }))?.at(stepNow())
      if (counts === undefined) return
      counts.prompt_tokens += prompt_tokens ?? 0
      if (cached_tokens !== null) {
        counts.cacheable_tokens += prompt_tokens ?? 0
        counts.cached_tokens += cached_tokens
      }
      counts.completion_tokens += completion_tokens ?? 0
    },
    attemptDone(entry) {
      const counts = windowOf(placeOf(entry))?.at(stepNow())
      if (counts === undefined) return
      counts.attempts++
      if (entry.outcome === 'throttled') counts.throttled++
      else if (FAILED.has(entry.outcome)) counts.errors++
      if (entry.ttfbMs === undefined) return
      const bucket = bucketOf(entry.ttfbMs)
      counts.ttfb[bucket] = (counts.ttfb[bucket] ?? 0) + 1
    },
    stateChanged(entry) {
      changed++
      changes.add({ ...entry, source, seq: changed })
    },
    snapshot() {
      const step = stepNow()
      return {
        step,
        into_step_ms: alignedMs() - step * STEP_MS,
        time_ms: clock.epochMs(),
        age_ms: clock.nowMs() - beganMs,
        backends: standings().map(standing => ({
          ...standing,
          // A copy: what is handed out must not change under the reader.
          steps: structuredClone(sparse(windows.get(placeOf(standing))?.read(step) ?? [])),
        })),
        requests: requests.list(),
        finished: { [source]: finished },
        changes: changes.list(),
      }
    },
  }
}
