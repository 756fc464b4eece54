// Durations counted in buckets whose width grows with the duration. A percentile costs a few numbers and can be added
// up over steps and processes. Pure.

/** Buckets for one doubling: a percentile is off by one bucket at most, 19 %, and mostly by far less. */
const PER_DOUBLING = 4
/** The longest duration with a bucket of its own, in milliseconds: the 600 s that the longest calls take. */
const MAX_MS = 600_000
/** One for below 1 ms, and the rest up to MAX_MS: 78. */
export const BUCKETS = Math.ceil(Math.log2(MAX_MS) * PER_DOUBLING) + 1

/** Counts by bucket; a missing bucket is empty. */
export type Histogram = Readonly<Record<number, number>>

/** The bucket of a duration in milliseconds. */
export function bucketOf(ms: number): number {
  if (!(ms >= 1)) return 0
  return Math.min(Math.floor(Math.log2(ms) * PER_DOUBLING) + 1, BUCKETS - 1)
}

/** The duration at `part` (0 to 1) of a bucket's width, in milliseconds. */
function withinBucket(bucket: number, part: number): number {
  return bucket === 0 ? part : 2 ** ((bucket - 1 + part) / PER_DOUBLING)
}

/** Adds what is in `from` to `into`, which is changed. */
export function addHistogram(into: Record<number, number>, from: Histogram): void {
  for (const bucket of Object.keys(from)) {
    const index = Number(bucket)
    into[index] = (into[index] ?? 0) + (from[index] ?? 0)
  }
}

/**
 * The duration in milliseconds that `share` of those counted are not longer than; null when nothing was counted.
 * @param share 0.5 for the median
 */
export function percentile(histogram: Histogram, share: number): number | null {
  let total = 0
  for (let bucket = 0; bucket < BUCKETS; bucket++) total += histogram[bucket] ?? 0
  if (total === 0) return null
  const wanted = Math.max(1, Math.ceil(total * share))
  let seen = 0
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    const here = histogram[bucket] ?? 0
    // Those in one bucket are taken as spread evenly over it.
    if (here > 0 && seen + here >= wanted) return withinBucket(bucket, (wanted - seen - 0.5) / here)
    seen += here
  }
  return null
}
