// Latencies by logarithmic buckets: any number of them in the same small space, read with an error of about one
// percent.

const PER_OCTAVE = 64
const OCTAVES = 40

export interface Histogram {
  /** Takes a value of at least 0, in whatever unit. */
  add(value: number): void
  /** The value below which this share (0 to 1) of all lie; 0 where there are none. */
  quantile(share: number): number
  count(): number
}

export function createHistogram(): Histogram {
  const buckets = new Float64Array(PER_OCTAVE * OCTAVES)
  let count = 0
  const lowerEdge = (bucket: number): number => 2 ** (bucket / PER_OCTAVE) - 1

  return {
    add(value) {
      const bucket = Math.floor(Math.log2(Math.max(0, value) + 1) * PER_OCTAVE)
      const at = Math.min(bucket, buckets.length - 1)
      buckets[at] = (buckets[at] ?? 0) + 1
      count++
    },
    quantile(share) {
      let before = 0
      const wanted = share * count
      for (let bucket = 0; bucket < buckets.length; bucket++) {
        const here = buckets[bucket] ?? 0
        if (here > 0 && before + here >= wanted) {
          // Within a bucket values are taken to be spread evenly.
          return lowerEdge(bucket) + (lowerEdge(bucket + 1) - lowerEdge(bucket)) * ((wanted - before) / here)
        }
        before += here
      }
      return 0
    },
    count: () => count,
  }
}
