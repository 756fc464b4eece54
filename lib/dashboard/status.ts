// The figures of the live status page: rolling windows for each backend, the last requests, the last changes.
// Everything here has a bound. One a process; several processes' snapshots are merged (merge.ts).
import type { Clock } from '../clock.ts'
import type {
  AttemptEntry,
  BackendState,
  ChangeEntry,
  EndingKey,
  KeyEntry,
  ProxyEntry,
  RequestEntry,
  Sequenced,
} from './entries.ts'
import { bucketOf } from './histogram.ts'
import { createStepWindow, type MutableStep, STEP_MS, type StepCounts, type StepWindow } from './window.ts'

/** Finished requests kept: what fits a screen and a look back. */
export const MAX_REQUESTS = 100
/** Changes of state kept: an hour of a backend that goes in and out every half minute. */
export const MAX_CHANGES = 100
/**
 * Backends counted at once. A config names them, so this is no limit for real ones; it holds if a caller passes other
 * names.
 */
export const MAX_BACKENDS = 2_000

/** Steps of one backend that were not empty, by their distance from the newest: 0 is now. */
export type SparseSteps = Readonly<Record<number, StepCounts>>

export interface BackendCounts extends BackendState {
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
  /** Client keys that end within a week. */
  readonly keys_ending: readonly EndingKey[]
  /** Newest first. */
  readonly requests: readonly (RequestEntry & Sequenced)[]
  /** Requests finished so far, by process: what is missing in `requests` was too much to keep. */
  readonly finished: Readonly<Record<string, number>>
  /** Newest first. */
  readonly changes: readonly (ChangeEntry & Sequenced)[]
  readonly proxy: ProxyEntry
  /** Filled in when the snapshots of all processes are merged. */
  readonly keys: readonly KeyEntry[]
}

/** Whether a value that came from another process is a snapshot: that of an ended one is null. */
export function isStatusSnapshot(value: unknown): value is StatusSnapshot {
  return typeof value === 'object' && value !== null && 'backends' in value
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
  readonly states: () => readonly BackendState[]
  /** Client keys of the config that end soon. */
  readonly keysEnding?: () => readonly EndingKey[]
  /**
   * Names this process among those whose snapshots are merged; unique over restarts too, so that a viewer notices them.
   */
  readonly source: string
  /** Which proxy this is; left out: one that nobody has named. */
  readonly proxy?: () => Omit<ProxyEntry, 'started_ms' | 'workers'>
}

const UNNAMED = {
  host: '',
  version: '',
  reloaded_ms: null,
  reload_failed: null,
  certificate_ends_ms: null,
  certificates: [],
}

/** The last `max` entries, and how many there were. */
interface Recent<T> {
  /**
   * Keeps the entry itself, which must not change any more: it is numbered when it is read, not copied when it comes.
   */
  add(entry: T): void
  count(): number
  /** Newest first. */
  list(): readonly (T & Sequenced)[]
}

function createRecent<T extends object>(max: number, source: string): Recent<T> {
  const ring: T[] = []
  let next = 0
  let count = 0
  return {
    add(entry) {
      ring[next] = entry
      next = next + 1 === max ? 0 : next + 1
      count++
    },
    count: () => count,
    list() {
      const newestFirst = [...ring.slice(0, next).reverse(), ...ring.slice(next).reverse()]
      return newestFirst.map((entry, i) => ({ ...entry, source, seq: count - i }))
    },
  }
}

const FAILED: ReadonlySet<string> = new Set(['failed', 'timeout', 'misconfigured', 'cut'])

function sparse(steps: readonly (StepCounts | undefined)[]): SparseSteps {
  const found: Record<number, StepCounts> = {}
  steps.forEach((counts, i) => {
    if (counts !== undefined) found[steps.length - 1 - i] = counts
  })
  return found
}

/** Adds the tokens of a finished request to the step it ended in. */
function countRequest(counts: MutableStep, { prompt_tokens, cached_tokens, completion_tokens }: RequestEntry): void {
  counts.prompt_tokens += prompt_tokens ?? 0
  if (cached_tokens !== null) {
    counts.cacheable_tokens += prompt_tokens ?? 0
    counts.cached_tokens += cached_tokens
  }
  counts.completion_tokens += completion_tokens ?? 0
}

/** Adds an attempt's outcome and first byte to the step it ended in. */
function countAttempt(counts: MutableStep, { outcome, ttfbMs }: AttemptEntry): void {
  counts.attempts++
  if (outcome === 'throttled') counts.throttled++
  else if (FAILED.has(outcome)) counts.errors++
  if (ttfbMs === undefined) return
  const bucket = bucketOf(ttfbMs)
  counts.ttfb[bucket] = (counts.ttfb[bucket] ?? 0) + 1
}

/** One rolling window a backend of a model, MAX_BACKENDS at most. */
interface Windows {
  find(model: string, backend: string): StepWindow | undefined
  /** The same, made at the first use; undefined: there is no room for one more. */
  of(model: string, backend: string): StepWindow | undefined
}

function createWindows(states: () => readonly BackendState[]): Windows {
  // By model, then by backend: one key of both, made for each request and attempt, took half a µs.
  const windows = new Map<string, Map<string, StepWindow>>()
  let backends = 0

  const find = (model: string, backend: string): StepWindow | undefined => windows.get(model)?.get(backend)

  const keep = (model: string, backend: string, window: StepWindow): void => {
    const ofModel = windows.get(model) ?? new Map<string, StepWindow>()
    windows.set(model, ofModel)
    if (!ofModel.has(backend)) backends++
    ofModel.set(backend, window)
  }

  /** Forgets what no config names any more; called only when there are too many. */
  const makeRoom = (): void => {
    const named = states().map(({ model, backend }) => ({ model, backend, window: find(model, backend) }))
    windows.clear()
    backends = 0
    for (const { model, backend, window } of named) if (window !== undefined) keep(model, backend, window)
  }

  return {
    find,
    of(model, backend) {
      const found = find(model, backend)
      if (found !== undefined) return found
      if (backends >= MAX_BACKENDS) makeRoom()
      if (backends >= MAX_BACKENDS) return undefined
      const made = createStepWindow()
      keep(model, backend, made)
      return made
    },
  }
}

export function createStatus({
  clock,
  states,
  keysEnding = () => [],
  source,
  proxy = () => UNNAMED,
}: StatusOptions): Status {
  const windows = createWindows(states)
  const requests = createRecent<RequestEntry>(MAX_REQUESTS, source)
  const changes = createRecent<ChangeEntry>(MAX_CHANGES, source)
  const beganMs = clock.nowMs()
  // The monotonic clock, set once by the wall clock: steps never go back, and those of other processes have the same
  // numbers.
  const offsetMs = clock.epochMs() - beganMs

  const alignedMs = (): number => clock.nowMs() + offsetMs
  const stepNow = (): number => Math.floor(alignedMs() / STEP_MS)

  return {
    requestDone(entry) {
      requests.add(entry)
      const { model, backend } = entry
      if (model === null || backend === null) return
      const counts = windows.of(model, backend)?.at(stepNow())
      if (counts !== undefined) countRequest(counts, entry)
    },
    attemptDone(entry) {
      const counts = windows.of(entry.model, entry.backend)?.at(stepNow())
      if (counts !== undefined) countAttempt(counts, entry)
    },
    stateChanged: changes.add,
    snapshot() {
      const step = stepNow()
      return {
        step,
        into_step_ms: alignedMs() - step * STEP_MS,
        time_ms: clock.epochMs(),
        age_ms: clock.nowMs() - beganMs,
        backends: states().map(health => ({
          ...health,
          // A copy: what is handed out must not change under the reader.
          steps: structuredClone(sparse(windows.find(health.model, health.backend)?.read(step) ?? [])),
        })),
        keys_ending: keysEnding(),
        requests: requests.list(),
        finished: { [source]: requests.count() },
        changes: changes.list(),
        proxy: { ...proxy(), started_ms: Math.round(clock.epochMs() - (clock.nowMs() - beganMs)), workers: 1 },
        keys: [],
      }
    },
  }
}
