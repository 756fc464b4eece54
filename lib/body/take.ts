// Takes a request's body once, as the list of buffers that came off the socket, and holds it for replay. Two limits:
// one request's (server.max_body), and all requests' together (server.max_buffered).
import type { IncomingMessage } from 'node:http'
import type { Deadline, Deadlines } from '../clock.ts'
import type { Refusal } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { type BodyDecoder, CODINGS, type Coding, codingOf, createBodyDecoder, decoderBytes } from './decode.ts'

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

/**
 * A request whose bytes can be had as the parser brings them. Its stream would buffer them until the next turn of the
 * queue, and tell of them in four events.
 */
export interface DirectBody {
  /** @returns false: some of it waits in the stream already, or its end does */
  takeDirectly(taker: (chunk: Buffer) => void): boolean
  /** Leaves what still comes to the stream. */
  stopTaking(): void
}

function isDirect(request: IncomingMessage): request is IncomingMessage & DirectBody {
  return 'takeDirectly' in request
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

/** Plain bytes as they come, held within both limits. One for every request: a class, whose methods are made once. */
class Holder implements HeldBody {
  readonly chunks: Buffer[] = []
  bytes = 0
  private readonly options: TakeOptions
  private readonly coding: Coding | undefined
  private decoders = 0
  private released = false

  constructor(options: TakeOptions, coding: Coding | undefined) {
    this.options = options
    this.coding = coding
  }

  /** @returns what a piece breaks, if anything; nothing of it is held then */
  take(plain: Buffer): Refusal | undefined {
    const { maxBytes, budget, scanner } = this.options
    if (this.bytes + plain.length > maxBytes) return tooLarge(maxBytes)
    if (!budget.reserve(plain.length)) return OVERLOADED
    this.bytes += plain.length
    if (!this.reserveForDecoder()) return OVERLOADED
    this.chunks.push(plain)
    scanner.push(plain)
    return undefined
  }

  /** Reserves what a decoder may take for itself. @returns whether there was room */
  reserveForDecoder(): boolean {
    const more = this.coding === undefined ? 0 : decoderBytes(this.coding, this.bytes) - this.decoders
    if (more > 0 && !this.options.budget.reserve(more)) return false
    this.decoders += more
    return true
  }

  /** Gives the decoder's own memory back. */
  decoderGone(): void {
    this.options.budget.release(this.decoders)
    this.decoders = 0
  }

  release(): void {
    if (this.released) return
    this.released = true
    // Emptied, not dropped: the request's own functions are suspended with it for as long as its response streams.
    this.chunks.length = 0
    this.options.budget.release(this.bytes)
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
  const holder = new Holder(options, coding)
  if (!holder.reserveForDecoder()) return Promise.resolve({ kind: 'refused', refusal: OVERLOADED })
  if (request.headers.expect !== undefined) response.writeContinue()
  return new Promise(resolve => {
    new Receiver(exchange, options, { declared, coding, holder }, resolve)
  })
}

/** Reads a body off its request; calls `done` once. */
class Receiver {
  private readonly exchange: Exchange
  private readonly options: TakeOptions
  /** The length that the head declares, in bytes; 0 for none. */
  private readonly declared: number
  private readonly holder: Holder
  private readonly done: (taken: TakenBody) => void
  private readonly decoder: BodyDecoder | undefined
  private readonly beganMs: number
  private readonly deadline: Deadline
  private readonly stopWatching: () => void
  private readonly direct: boolean
  private wireBytes = 0
  private finished = false

  constructor(
    exchange: Exchange,
    options: TakeOptions,
    { declared, coding, holder }: { declared: number; coding: Coding | undefined; holder: Holder },
    done: (taken: TakenBody) => void,
  ) {
    const { request, cancellation } = exchange
    this.exchange = exchange
    this.options = options
    this.declared = declared
    this.holder = holder
    this.done = done
    this.decoder =
      coding === undefined
        ? undefined
        : createBodyDecoder(coding, {
            data: plain => this.hold(plain),
            end: () => this.whole(),
            broken: () => this.refuse(BROKEN),
            drain: () => request.resume(),
          })
    this.beganMs = options.nowMs()
    this.deadline = options.deadlines.add(this.beganMs + BODY_SILENCE_MS, () => this.refuse(TOO_LATE))
    this.stopWatching = cancellation.onCancel(() => this.finish({ kind: 'gone' }))
    request.on('error', this.onError)
    // Of an encoded body the decoder sets the pace, and without a length only the stream tells the end.
    this.direct = coding === undefined && declared > 0 && isDirect(request) && request.takeDirectly(this.onData)
    if (!this.direct) request.on('data', this.onData).on('end', this.onEnd)
  }

  private readonly onData = (chunk: Buffer): void => {
    const { exchange, options, declared, decoder } = this
    this.wireBytes += chunk.length
    exchange.record.bytesIn = this.wireBytes
    if (this.wireBytes > options.maxBytes) {
      this.refuse(tooLarge(options.maxBytes))
      return
    }
    // Mostly it is whole with its first piece.
    if (this.wireBytes !== declared) {
      this.deadline.dueMs = Math.min(options.nowMs() + BODY_SILENCE_MS, this.beganMs + BODY_TOTAL_MS)
    }
    if (decoder === undefined) this.hold(chunk)
    else if (!decoder.write(chunk)) exchange.request.pause()
    // Nothing can follow: the end is not waited for, which would come a turn later.
    if (this.wireBytes === declared) this.onEnd()
  }

  private readonly onEnd = (): void => {
    if (this.decoder === undefined) this.whole()
    else this.decoder.end()
  }

  private readonly onError = (): void => this.finish({ kind: 'gone' })

  private hold(plain: Buffer): void {
    if (this.finished) return
    const refusal = this.holder.take(plain)
    if (refusal !== undefined) this.refuse(refusal)
  }

  private whole(): void {
    this.finish({ kind: 'body', body: this.holder })
  }

  private refuse(refusal: Refusal): void {
    this.finish({ kind: 'refused', refusal })
  }

  private finish(taken: TakenBody): void {
    if (this.finished) return
    this.finished = true
    this.options.deadlines.remove(this.deadline)
    this.stopWatching()
    const { request } = this.exchange
    request.off('error', this.onError)
    if (!this.direct) request.off('data', this.onData).off('end', this.onEnd)
    else if (isDirect(request)) request.stopTaking()
    this.decoder?.destroy()
    this.holder.decoderGone()
    if (taken.kind !== 'body') this.holder.release()
    this.done(taken)
  }
}
