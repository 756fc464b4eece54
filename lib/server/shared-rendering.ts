// One rendering for all who ask at once. GET /metrics needs no key, so what it costs must not grow with how often it is
// asked for.
import type { Clock, Timer } from '../clock.ts'

/** Renderings begin at least so far apart: ten a second at most. */
export const RENDERING_MS = 100

/**
 * Makes a value for everyone who asks before its making begins; nobody gets one older than the question.
 * @returns asks for the next one
 */
export function createSharedRendering<T>(clock: Clock, make: () => Promise<T>): () => Promise<T> {
  let lastBeganMs = Number.NEGATIVE_INFINITY
  let next: Promise<T> | undefined
  let making = false
  let timer: Timer | undefined
  let begin: () => void = () => undefined

  const schedule = (): void => {
    if (making || timer !== undefined || next === undefined) return
    const waitMs = lastBeganMs + RENDERING_MS - clock.nowMs()
    if (waitMs <= 0) begin()
    else {
      timer = clock.after(waitMs, () => {
        timer = undefined
        begin()
      })
    }
  }

  return () => {
    next ??= new Promise<T>((resolve, reject) => {
      begin = () => {
        next = undefined
        making = true
        lastBeganMs = clock.nowMs()
        const made = (): void => {
          making = false
          schedule()
        }
        make().then(resolve, reject).finally(made)
      }
    })
    const asked = next
    schedule()
    return asked
  }
}
