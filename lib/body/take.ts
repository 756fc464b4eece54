// Takes a request's body once, as the list of buffers that came off the socket, and holds it for replay. Two limits:
// one request's (server.max_body), and all requests' together (server.max_buffered).
import type { Deadlines } from '../clock.ts'
import type { Refusal } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { CODINGS, type Coding, codingOf, createBodyDecoder, decoderBytes } from './decode.ts'

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
  /**
   * Empties the list in place, so that every holder drops it, and returns the bytes to the budget. Call it when no
   * attempt can need them.
   */
  release(): void
}

export type TakenBody =
  | { readonly kind: 'body'; readonly body: HeldBody }
  | { readonly kind: 'refused'; readonly refusal: Refusal }
  /** The client left, or broke its own framing: nobody to answer. */
  | { readonly kind: 'gone' }

/**
 * Silence allowed inside a request's body; a slow uplink sends something within it, a stuck or hostile one does not.
 */
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

const TOO_LATE: Refusal = {
  status: 408,
  code: 'request_timeout',
  message: 'The request body did not arrive in time.',
  close: true,
}

const OVERLOADED: Refusal = {
  status: 503,
  code: 'overloaded',
  message: 'The proxy holds as many request bytes as it may (server.max_buffered). Try again in a moment.',
  retryAfterMs: OVERLOADED_WAIT_MS,
  close: true,
}

const UNSUPPORTED: Refusal = {
  status: 415,
  code: 'unsupported_encoding',
  message: `The request body's Content-Encoding is not supported: send it plain, or in one of ${CODINGS.join(', ')}.`,
  headers: ['accept-encoding', CODINGS.join(', ')],
  close: true,
}

const BROKEN: Refusal = {
  status: 400,
  code: 'invalid_request',
  message:
    'The request body cannot be unpacked: it is not in the encoding that its Content-Encoding names, or not whole.',
  close: true,
}

/** Plain bytes as they come, held within both limits. */
interface Holder {
  /** @returns what a piece breaks, if anything; nothing of it is held then */
  take(plain: Buffer): Refusal | undefined
  /** Reserves what a decoder may take for itself. @returns whether there was room */
  reserveForDecoder(): boolean
  /** Gives the decoder's own memory back. */
  decoderGone(): void
  /** Gives everything back. */
  drop(): void
  body(): HeldBody
}

function createHolder({ maxBytes, budget, scanner }: TakeOptions, coding: Coding | undefined): Holder {
  const chunks: Buffer[] = []
  let bytes = 0
  let decoders = 0
  const reserveForDecoder = (): boolean => {
    const more = coding === undefined ? 0 : decoderBytes(coding, bytes) - decoders
    if (more > 0 && !budget.reserve(more)) return false
    decoders += more
    return true
  }
  const decoderGone = (): void => {
    budget.release(decoders)
    decoders = 0
  }
  return {
    take(plain) {
      if (bytes + plain.length > maxBytes) return tooLarge(maxBytes)
      if (!budget.reserve(plain.length)) return OVERLOADED
      bytes += plain.length
      if (!reserveForDecoder()) return OVERLOADED
      chunks.push(plain)
      scanner.push(plain)
      return undefined
    },
    reserveForDecoder,
    decoderGone,
    drop() {
      decoderGone()
      budget.release(bytes)
    },
    body() {
      let held = true
      return {
        chunks,
        bytes,
        release() {
          if (!held) return
          held = false
          // Emptied, not dropped: the request's own functions are suspended with it for as long as its response
          // streams.
          chunks.length = 0
          budget.release(bytes)
        },
      }
    },
  }
}

/**
 * Step 4 of a request (lib/README.md). Reads the body to its end, and makes it plain where it came packed. Refuses with
 * 413, 415, 408, 400 or 503 `overloaded`; a declared length over the limit is refused before a byte is read. What was
 * reserved is given back on every way but success.
 */
export function takeBody(exchange: Exchange, options: TakeOptions): Promise<TakenBody> {
  const { request, response, cancellation } = exchange
  if (cancellation.reason !== undefined) return Promise.resolve({ kind: 'gone' })
  const declared = Number(request.headers['content-length'] ?? 0)
  if (declared > options.maxBytes) {
    return Promise.resolve({ kind: 'refused', refusal: tooLarge(options.maxBytes) })
  }
  const found = codingOf(request.headers['content-encoding'])
  if (found.kind === 'unsupported') return Promise.resolve({ kind: 'refused', refusal: UNSUPPORTED })
  const coding = found.kind === 'coded' ? found.coding : undefined
  const holder = createHolder(options, coding)
  if (!holder.reserveForDecoder()) return Promise.resolve({ kind: 'refused', refusal: OVERLOADED })
  if (request.headers.expect !== undefined) response.writeContinue()
  return new Promise(resolve => receive(exchange, options, { declared, coding, holder }, resolve))
}

interface Receiving {
  /** The length that the head declares, in bytes; 0 for none. */
  readonly declared: number
  readonly coding: Coding | undefined
  readonly holder: Holder
}

/** Reads a body off its request; calls `done` once. */
function receive(
  { request, record, cancellation }: Exchange,
  { maxBytes, deadlines, nowMs }: TakeOptions,
  { declared, coding, holder }: Receiving,
  done: (taken: TakenBody) => void,
): void {
  const beganMs = nowMs()
  let wireBytes = 0
  let finished = false

  const finish = (taken: TakenBody): void => {
    if (finished) return
    finished = true
    deadlines.remove(deadline)
    stopWatching()
    request.off('data', onData).off('end', onEnd).off('error', onError)
    decoder?.destroy()
    if (taken.kind === 'body') holder.decoderGone()
    else holder.drop()
    done(taken)
  }
  const refuse = (refusal: Refusal): void => finish({ kind: 'refused', refusal })
  const hold = (plain: Buffer): void => {
    if (finished) return
    const refusal = holder.take(plain)
    if (refusal !== undefined) refuse(refusal)
  }
  const whole = (): void => finish({ kind: 'body', body: holder.body() })
  const decoder =
    coding === undefined
      ? undefined
      : createBodyDecoder(coding, {
          data: hold,
          end: whole,
          broken: () => refuse(BROKEN),
          drain: () => request.resume(),
        })
  const deadline = deadlines.add(beganMs + BODY_SILENCE_MS, () => refuse(TOO_LATE))
  const onData = (chunk: Buffer): void => {
    wireBytes += chunk.length
    record.bytesIn = wireBytes
    if (wireBytes > maxBytes) {
      refuse(tooLarge(maxBytes))
      return
    }
    // Mostly it is whole with its first piece.
    if (wireBytes !== declared) deadline.dueMs = Math.min(nowMs() + BODY_SILENCE_MS, beganMs + BODY_TOTAL_MS)
    if (decoder === undefined) hold(chunk)
    else if (!decoder.write(chunk)) request.pause()
    // Nothing can follow: the end is not waited for, which would come a turn later.
    if (wireBytes === declared) onEnd()
  }
  const onEnd = (): void => (decoder === undefined ? whole() : decoder.end())
  const onError = (): void => finish({ kind: 'gone' })
  const stopWatching = cancellation.onCancel(() => finish({ kind: 'gone' }))
  request.on('data', onData).on('end', onEnd).on('error', onError)
}
