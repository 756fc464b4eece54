// W3C Trace Context (level 1): the header `traceparent` read and written, and the ids of new spans. Pure.
import type { Random } from '../clock.ts'

/** One request's place in its trace. */
export interface Trace {
  /** 32 hex digits, of the caller where it named one. */
  readonly traceId: string
  /** 16 hex digits: the span of this request. */
  readonly spanId: string
  /** The caller's span; undefined: this request begins the trace. */
  readonly parentId: string | undefined
  /** Wall clock at the request's head, in milliseconds. */
  readonly beganEpochMs: number
  /** In the order of the attempts; each is ended when its outcome is known. */
  readonly attempts: AttemptSpan[]
}

export interface AttemptSpan {
  readonly spanId: string
  readonly backend: string
  readonly beganEpochMs: number
  endedEpochMs: number | undefined
  /** What the attempt meant (forward/outcome.ts), and what was seen. */
  label: string | undefined
  detail: string
}

/** Attempts kept of a request; a config has no more than ten backends' worth of retries. */
const MAX_ATTEMPT_SPANS = 64

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/
const NOTHING = /^0+$/

function hex(digits: number, random: Random): string {
  let text = ''
  while (text.length < digits)
    text += Math.floor(random() * 0x1_0000_0000)
      .toString(16)
      .padStart(8, '0')
  // All zeroes is no id (section 3.2.2.3).
  return NOTHING.test(text) ? `${text.slice(1)}1` : text
}

/**
 * Begins a request's trace: the caller's sampled flag holds, roots are sampled by chance.
 * @param header the caller's `traceparent`, as it came
 * @param sample the share of roots, 0 to 1
 * @returns undefined for what is not sampled: the caller's header then passes as it is
 */
export function beginTrace(
  header: string | undefined,
  { random, epochMs, sample }: { readonly random: Random; readonly epochMs: number; readonly sample: number },
): Trace | undefined {
  const [, version = 'ff', traceId = '', parentId = '', flags = ''] = TRACEPARENT.exec(header ?? '') ?? []
  const isGiven = version !== 'ff' && !NOTHING.test(traceId) && !NOTHING.test(parentId) && traceId !== ''
  const isSampled = isGiven ? (Number.parseInt(flags, 16) & 1) === 1 : random() < sample
  if (!isSampled) return undefined
  return {
    traceId: isGiven ? traceId : hex(32, random),
    spanId: hex(16, random),
    parentId: isGiven ? parentId : undefined,
    beganEpochMs: epochMs,
    attempts: [],
  }
}

/** Begins an attempt's span. @returns the `traceparent` that goes upstream, as the attempt's child */
export function beginAttempt(
  trace: Trace,
  backend: string,
  { random, epochMs }: { readonly random: Random; readonly epochMs: number },
): string {
  const spanId = hex(16, random)
  if (trace.attempts.length < MAX_ATTEMPT_SPANS) {
    trace.attempts.push({
      spanId,
      backend,
      beganEpochMs: epochMs,
      endedEpochMs: undefined,
      label: undefined,
      detail: '',
    })
  }
  return `00-${trace.traceId}-${spanId}-01`
}
