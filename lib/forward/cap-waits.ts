// The waits that an upstream's own response names, on their way to a client: SDKs ignore long ones, or sleep through
// them (azure/README.md 6.6).
import { namedWaitMs } from '../azure/waits.ts'

/**
 * Cuts, in place, the waits of an upstream's own response to the longest that a client may be given: `retry-after`
 * (seconds or a date) and `retry-after-ms` above `maxMs`. What is within it, or says no time at all, stays as it is.
 * @param epochMs the wall clock, for dates
 */
export function capWaits(headers: string[], maxMs: number, epochMs: number): void {
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i]?.toLowerCase()
    if (name !== 'retry-after' && name !== 'retry-after-ms') continue
    const value = headers[i + 1] ?? ''
    const perUnitMs = name === 'retry-after' ? 1000 : 1
    const waitMs = namedWaitMs({ [name]: value }, epochMs) ?? Number.parseFloat(value) * perUnitMs
    if (waitMs > maxMs) headers[i + 1] = String(maxMs / perUnitMs)
  }
}
