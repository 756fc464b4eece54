// One backend's last 15 minutes, in steps of 10 seconds. Each step is a few numbers; old steps are used again.
import { addHistogram, type Histogram } from './histogram.ts'

/** Length of a step: short enough to see a fault begin, long enough that a quiet backend's step is not empty. */
export const STEP_MS = 10_000
/** Steps kept: 15 minutes, as far as an operator called to a fault looks back. */
export const STEPS = 90

/** What happened in one step. */
export interface StepCounts {
  readonly attempts: number
  /** Attempts that failed; throttled ones are not among them. */
  readonly errors: number
  readonly throttled: number
  readonly prompt_tokens: number
  /** Prompt tokens of responses that said how many were cached: embeddings, for one, do not. */
  readonly cacheable_tokens: number
  readonly cached_tokens: number
  readonly completion_tokens: number
  /** First-byte durations. */
  readonly ttfb: Histogram
}

export type MutableStep = { -readonly [K in Exclude<keyof StepCounts, 'ttfb'>]: StepCounts[K] } & {
  ttfb: Record<number, number>
}

/** A step in which nothing has happened yet; a new object each time. */
export function emptyStep(): MutableStep {
  return {
    attempts: 0,
    errors: 0,
    throttled: 0,
    prompt_tokens: 0,
    cacheable_tokens: 0,
    cached_tokens: 0,
    completion_tokens: 0,
    ttfb: {},
  }
}

/** Adds one step's counts to another, which is changed. */
export function addStep(into: MutableStep, from: StepCounts): void {
  into.attempts += from.attempts
  into.errors += from.errors
  into.throttled += from.throttled
  into.prompt_tokens += from.prompt_tokens
  into.cacheable_tokens += from.cacheable_tokens
  into.cached_tokens += from.cached_tokens
  into.completion_tokens += from.completion_tokens
  addHistogram(into.ttfb, from.ttfb)
}

/** A rolling window; steps are numbered by the caller, and a number lower than one seen before counts as the latest. */
export interface StepWindow {
  /** The step to count into. */
  at(step: number): MutableStep
  /** The last STEPS steps up to `step`, oldest first; undefined where nothing happened. */
  read(step: number): readonly (StepCounts | undefined)[]
}

export function createStepWindow(): StepWindow {
  const kept: ({ readonly step: number; readonly counts: MutableStep } | undefined)[] = new Array(STEPS)
  let latest = 0
  return {
    at(step) {
      latest = Math.max(latest, step)
      const slot = latest % STEPS
      const found = kept[slot]
      if (found?.step === latest) return found.counts
      const counts = emptyStep()
      kept[slot] = { step: latest, counts }
      return counts
    },
    read(step) {
      return Array.from({ length: STEPS }, (_, i) => {
        const wanted = step - STEPS + 1 + i
        const found = kept[((wanted % STEPS) + STEPS) % STEPS]
        return found?.step === wanted ? found.counts : undefined
      })
    },
  }
}
