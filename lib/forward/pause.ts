// A wait inside a request that ends early when the request is cancelled.
import type { Clock } from '../clock.ts'
import type { Cancellation } from '../request-context.ts'

/**
 * Waits for so many milliseconds, or until the request is cancelled.
 * @returns whether the request goes on
 */
export async function pause(clock: Clock, cancellation: Cancellation, waitMs: number): Promise<boolean> {
  if (cancellation.reason !== undefined) return false
  await new Promise<void>(resolve => {
    const timer = clock.after(waitMs, () => {
      stopWatching()
      resolve()
    })
    const stopWatching = cancellation.onCancel(() => {
      timer.cancel()
      resolve()
    })
  })
  return cancellation.reason === undefined
}
