// From counts to the figures that people read: rates of the last minute, shares and percentiles of the last five. Pure.
import type { Figures, StatusView, StepHistory } from './entries.ts'
import { percentile } from './histogram.ts'
import type { SparseSteps, StatusSnapshot } from './status.ts'
import { addStep, emptyStep, type MutableStep, STEP_MS, STEPS, type StepCounts } from './window.ts'

/** Whole steps behind the current one that a rate counts: one minute. */
const RATE_STEPS = 6
/** Whole steps behind the current one that shares and percentiles count: five minutes, as calls are rare and slow. */
const SHARE_STEPS = 30
/** Rates of a process that has just begun are over this time at least, so that a first request is not a storm. */
const MIN_RATE_MS = 10_000

function sumOf(steps: SparseSteps, wholeSteps: number): StepCounts {
  const sum = emptyStep()
  for (let distance = 0; distance <= wholeSteps; distance++) {
    const counts = steps[distance]
    if (counts !== undefined) addStep(sum, counts)
  }
  return sum
}

function tokensOf(counts: StepCounts | undefined): number {
  return counts === undefined ? 0 : counts.prompt_tokens + counts.completion_tokens
}

function rounded(ms: number | null): number | null {
  return ms === null ? null : Math.round(ms)
}

function share(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole
}

function historyOf(steps: SparseSteps, length: number): StepHistory {
  const newestLast = Array.from({ length }, (_, i) => steps[length - 1 - i])
  return {
    requests: newestLast.map(counts => counts?.attempts ?? 0),
    errors: newestLast.map(counts => (counts === undefined ? 0 : counts.errors + counts.throttled)),
    tokens: newestLast.map(tokensOf),
    ttfb_p50_ms: newestLast.map(counts => (counts === undefined ? null : rounded(percentile(counts.ttfb, 0.5)))),
  }
}

function figuresOf(steps: SparseSteps, rateMs: number, historySteps: number): Figures {
  const minute = sumOf(steps, RATE_STEPS)
  const recent = sumOf(steps, SHARE_STEPS)
  return {
    requests_per_s: minute.attempts / (rateMs / 1_000),
    error_share: share(recent.errors, recent.attempts),
    throttled_share: share(recent.throttled, recent.attempts),
    ttfb_p50_ms: rounded(percentile(recent.ttfb, 0.5)),
    ttfb_p95_ms: rounded(percentile(recent.ttfb, 0.95)),
    tokens_per_min: tokensOf(minute) / (rateMs / 60_000),
    cached_share: share(recent.cached_tokens, recent.cacheable_tokens),
    history: historyOf(steps, historySteps),
  }
}

/**
 * What the page shows of a snapshot.
 * @param historySteps how many of the newest steps to give; STEPS is all there are
 */
export function viewOf(snapshot: StatusSnapshot, historySteps: number = STEPS): StatusView {
  const { step, into_step_ms, time_ms, age_ms, backends, keys_ending, proxy, keys } = snapshot
  const rateMs = Math.max(Math.min(RATE_STEPS * STEP_MS + into_step_ms, age_ms), MIN_RATE_MS)
  const all: Record<number, MutableStep> = {}
  const inFlight = new Map<number, number>()
  for (const { steps, deployment, in_flight } of backends) {
    inFlight.set(deployment, in_flight)
    for (const [distance, counts] of Object.entries(steps)) {
      const found = all[Number(distance)] ?? emptyStep()
      addStep(found, counts)
      all[Number(distance)] = found
    }
  }
  return {
    time_ms,
    step,
    step_ms: STEP_MS,
    steps: STEPS,
    totals: { ...figuresOf(all, rateMs, historySteps), in_flight: [...inFlight.values()].reduce((a, b) => a + b, 0) },
    keys_ending,
    backends: backends.map(({ steps, ...state }) => ({ ...state, ...figuresOf(steps, rateMs, historySteps) })),
    proxy,
    keys,
  }
}
