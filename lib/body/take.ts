// Takes a request's body once, as the list of buffers that came off the socket, and holds it for replay under two limits:
// one request's (server.max_body) and all requests' together (server.max_buffered).
import type { Deadlines } from '../clock.ts'
import type { Refusal } from '../errors.ts'
import type { Exchange } from '../request-context.ts'

/** Request bytes held for replay, all requests together. */
export interface BodyBudget {
  /** Takes `bytes` if they still fit. */
  reserve(bytes: number): boolean
  release(bytes: number): void
  heldBytes(): number
}

export function createBodyBudget(maxBytes: () => number): BodyBudget {
  let held = 0
  return {
    reserve(bytes) {
      if (held + bytes > maxBytes()) return false
      held += bytes
      return true
    },
    release(bytes) {
      held -= bytes
    },
    heldBytes: () => held,
  }
}

/** Is shown each piece as it comes, to find what it needs without holding a copy. */
export interface BodyScanner {
  push(chunk: Buffer): void
}

export interface HeldBody {
  readonly chunks: readonly Buffer[]
  readonly bytes: number
  /** Lets go of the chunks, whoever still has the list, and gives their bytes back to the budget; once no further attempt can need them. */
  release(): void
}

export type TakenBody =
  | { readonly kind: 'body'; readonly body: HeldBody }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** The client left, or broke its own framing: nobody to answer. */
  | { readonly kind: 'gone' }

/** Silence allowed inside a request's body; a slow uplink sends something within it, a stuck or hostile one does not. */
const BODY_SILENCE_MS = 30_000
/** The whole body must have come by then: 64 MB at 1 Mbit/s take nine minutes. */
const BODY_TOTAL_MS = 600_000
/** When a body budget is full, others finish within moments. */
const OVERLOADED_WAIT_MS = 1_000

export interface TakeOptions {
  readonly maxBytes: number
  readonly budget: BodyBudget
  readonly deadlines: Deadlines
  readonly nowMs: () => number
  readonly scanner: BodyScanner
}

function tooLarge(maxBytes: number): Refusal {
  return {
    status: 413,
    code: 'request_too_large',
    message: `The request body is larger than the ${maxBytes} bytes this proxy accepts (server.max_body).`,
    close: true,
  }
}

/**
 * Reads the body to its end. Refuses with 413, 408 or 503 `overloaded`; a declared length over the limit is refused before a
 * byte is read. What was reserved is given back on every way but success.
 */
export function takeBody(exchange: Exchange, options: TakeOptions): Promise<TakenBody> {
  const { request, response, record, cancellation } = exchange
  const { maxBytes, budget, deadlines, nowMs, scanner } = options
  if (cancellation.reason !== undefined) return Promise.resolve({ kind: 'gone' })
  const declared = Number(request.headers['content-length'] ?? 0)
  if (declared > maxBytes) return Promise.resolve({ kind: 'refused', refusal: tooLarge(maxBytes) })
  if (request.headers.expect !== undefined) response.writeContinue()

  return new Promise(resolve => {
    const chunks: Buffer[] = []
    const beganMs = nowMs()
    let bytes = 0
    let settled = false

    const settle = (taken: TakenBody): void => {
      if (settled) return
      settled = true
      deadlines.remove(deadline)
      stopWatching()
      request.off('data', onData).off('end', onEnd).off('error', onError)
      if (taken.kind !== 'body') budget.release(bytes)
      resolve(taken)
    }
    const deadline = deadlines.add(beganMs + BODY_SILENCE_MS, () =>
      settle({
        kind: 'refused',
        refusal: {
          status: 408,
          code: 'request_timeout',
          message: 'The request body did not arrive in time.',
          close: true,
        },
      }),
    )
    const onData = (chunk: Buffer): void => {
      if (bytes + chunk.length > maxBytes) {
        settle({ kind: 'refused', refusal: tooLarge(maxBytes) })
        return
      }
      if (!budget.reserve(chunk.length)) {
        settle({
          kind: 'refused',
          refusal: {
            status: 503,
            code: 'overloaded',
            message: 'The proxy holds as many request bytes as it may (server.max_buffered). Try again in a moment.',
            retryAfterMs: OVERLOADED_WAIT_MS,
            close: true,
          },
        })
        return
      }
      bytes += chunk.length
      record.bytesIn = bytes
      deadline.dueMs = Math.min(nowMs() + BODY_SILENCE_MS, beganMs + BODY_TOTAL_MS)
      chunks.push(chunk)
      scanner.push(chunk)
      // Nothing can follow: the end is not waited for, which would come a turn later.
      if (bytes === declared) onEnd()
    }
    const onEnd = (): void => {
      let held = true
      settle({
        kind: 'body',
        body: {
          chunks,
          bytes,
          release() {
            if (!held) return
            held = false
            // Emptied, not dropped: the request's own functions are suspended with it for as long as its answer streams.
            chunks.length = 0
            budget.release(bytes)
          },
        },
      })
    }
    const onError = (): void => settle({ kind: 'gone' })
    const stopWatching = cancellation.onCancel(() => settle({ kind: 'gone' }))
    request.on('data', onData).on('end', onEnd).on('error', onError)
  })
}
