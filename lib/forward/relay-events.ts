// Passes an event stream on, event by event: watched for its protocol's end as it goes, under the time limits of
// silence. Its head has gone out already. No `pipeline`: its streams, listeners and promises cost more than a stream's
// events, and its end comes a turn behind the last of them.
import type { Deadline } from '../clock.ts'
import type { BodySink, ResponseBody } from '../http1/send.ts'
import { type Exchange, NO_USAGE, type Usage } from '../request-context.ts'
import type { EventBody } from './client-framing.ts'
import type { EventStreamWatcher } from './sse-watcher.ts'
import { createEventSink, type EventSink } from './sse-writer.ts'
import type { RelayDeps, RelayOptions, RelayResult, UpstreamBody } from './upstream.ts'
import { CHAT_TAIL_BYTES, createTail, joinUsage, readFirstUsage, readUsage, TAIL_BYTES, type Tail } from './usage.ts'

const COMPLETE: RelayResult = { kind: 'complete' }
const ignore = (): void => undefined

/** What is relayed, and how. Holds nothing of its beginning: a stream may last for minutes, and there are thousands. */
interface Passing {
  readonly exchange: Exchange
  readonly options: RelayOptions
  readonly watcher: EventStreamWatcher
  readonly tail: Tail
  readonly sink: EventSink
  /** Usage that its first events reported. */
  readonly begun: Usage
  /** Monotonic time by which output must have begun. */
  readonly firstOutputDueMs: number
  /** Of a stored response. */
  readonly isRead: boolean
}

/** How upstream's bytes ended. */
type UpstreamEnd = 'whole' | 'broken' | 'idle_timeout' | 'first_output_timeout'

/** An open stream: takes what comes off its connection until upstream, the client or the time ends it. */
class EventRelay implements BodySink {
  readonly #passing: Passing
  readonly #source: ResponseBody
  readonly #deps: RelayDeps
  readonly #patience: Deadline
  readonly #keepalive: Deadline
  #stopWatching: () => void = ignore
  #lastByteMs: number
  /** The client is behind with reading: this says once it has caught up. */
  #full: ReturnType<EventBody['outlet']> | undefined
  #result: RelayResult | undefined
  #resolve: ((result: RelayResult) => void) | undefined

  constructor(passing: Passing, source: ResponseBody, deps: RelayDeps) {
    this.#passing = passing
    this.#source = source
    this.#deps = deps
    const { keepaliveMs } = passing.options
    this.#lastByteMs = deps.clock.nowMs()
    this.#patience = deps.deadlines.add(this.#patienceDueMs(), () => this.#onSilence())
    this.#keepalive = deps.deadlines.add(
      keepaliveMs > 0 ? this.#lastByteMs + keepaliveMs : Number.POSITIVE_INFINITY,
      () => this.#onQuiet(),
    )
    // A response that closes has cancelled its request by then (server/app.ts).
    this.#stopWatching = passing.exchange.cancellation.onCancel(() => this.#giveUp('broken'))
  }

  /** Begins to take. @returns how it ended, at once where all of it was there */
  run(): RelayResult | Promise<RelayResult> {
    if (this.#result !== undefined) return this.#result
    this.#source.attach(this)
    this.#source.resume()
    return (
      this.#result ??
      new Promise(resolve => {
        this.#resolve = resolve
      })
    )
  }

  data(chunk: Buffer): void {
    const { options, watcher, sink } = this.#passing
    const wholeBytes = watcher.push(chunk)
    if (watcher.ended()) sink.body.awaitEnd()
    const hasRoom = sink.take(chunk, wholeBytes)
    this.#lastByteMs = this.#deps.clock.nowMs()
    this.#patience.dueMs = this.#patienceDueMs()
    if (options.keepaliveMs > 0) this.#keepalive.dueMs = this.#lastByteMs + options.keepaliveMs
    if (hasRoom || this.#full !== undefined) return
    this.#source.pause()
    this.#full = sink.body.outlet().once('drain', this.#onDrain)
  }

  end(): void {
    this.#finish('whole')
  }

  /** Where upstream breaks off, the client has got what came until then, and gets an error event. */
  lost(): void {
    this.#finish('broken')
  }

  readonly #onDrain = (): void => {
    this.#full = undefined
    this.#source.resume()
  }

  #patienceDueMs(): number {
    const { options, watcher, firstOutputDueMs } = this.#passing
    const idleDueMs = this.#lastByteMs + options.idleMs
    return watcher.phase().kind === 'starting' ? Math.min(idleDueMs, firstOutputDueMs) : idleDueMs
  }

  #onSilence(): void {
    const { exchange, options, sink } = this.#passing
    // Silence while the client doesn't read is the client's, not the backend's.
    if (sink.body.outlet().writableNeedDrain) exchange.cancellation.cancel('client_stalled')
    else {
      const isIdle = this.#deps.clock.nowMs() - this.#lastByteMs >= options.idleMs
      this.#giveUp(isIdle ? 'idle_timeout' : 'first_output_timeout')
    }
  }

  #onQuiet(): void {
    const { options, sink } = this.#passing
    sink.comment()
    this.#keepalive.dueMs = this.#deps.clock.nowMs() + options.keepaliveMs
  }

  #giveUp(why: UpstreamEnd): void {
    this.#source.destroy()
    this.#finish(why)
  }

  #finish(how: UpstreamEnd): void {
    if (this.#result !== undefined) return
    const { deadlines } = this.#deps
    this.#stopWatching()
    deadlines.remove(this.#patience)
    deadlines.remove(this.#keepalive)
    this.#full?.off('drain', this.#onDrain)
    const result = endStream(this.#passing, how)
    this.#result = result
    this.#resolve?.(result)
  }
}

/** Ends the client's stream as upstream's protocol ended, or says that it did not. */
function endStream({ exchange, options, watcher, tail, sink, begun, isRead }: Passing, how: UpstreamEnd): RelayResult {
  const { response, record } = exchange
  const whole = how === 'whole'
  // However it ended: Azure bills what it has counted, also of a stream that its client left just then.
  record.usage = joinUsage(begun, readUsage(tail.bytes()))
  if (whole) watcher.finish()
  const { reason } = exchange.cancellation
  if (reason === 'client_closed' || reason === 'client_stalled') {
    response.destroy()
    return { kind: 'cancelled', reason }
  }
  // A resumed stream may have nothing left to bring.
  const hasOwnEnd = options.dialect !== 'opaque' && !(isRead && watcher.events() === 0)
  if (watcher.ended() || (whole && !hasOwnEnd)) {
    sink.end()
    if (watcher.lastError() !== undefined) record.error = 'upstream_stream_error'
    return COMPLETE
  }
  if (reason !== undefined) {
    sink.fail({ code: 'draining', message: 'The proxy is shutting down; this response is not complete.' })
    return { kind: 'cancelled', reason }
  }
  if (how === 'idle_timeout' || how === 'first_output_timeout') {
    sink.fail({ code: 'upstream_timeout', message: 'The backend fell silent; this response is not complete.' })
    return { kind: 'cut', detail: how }
  }
  sink.fail({ code: 'upstream_error', message: 'The backend broke off; this response is not complete.' })
  return { kind: 'cut', detail: whole ? 'no_protocol_end' : 'connection_lost' }
}

/**
 * Passes an event stream on to its end, and ends the client's as it must end. At once, where all of it has come
 * already.
 */
export function relayEvents(
  exchange: Exchange,
  source: ResponseBody,
  body: UpstreamBody & { kind: 'events' },
  options: RelayOptions,
  deps: RelayDeps,
): RelayResult | Promise<RelayResult> {
  const { watcher, firstOutputDueMs, isRead } = body
  const tail = createTail(options.dialect === 'chat' ? CHAT_TAIL_BYTES : TAIL_BYTES)
  const sink = createEventSink(exchange, tail, options)
  exchange.record.stream = true
  // Claude tells the prompt's tokens with the first event, and only the output's with the last.
  const begun =
    options.dialect === 'claude' ? readFirstUsage(Buffer.concat(body.held.map(({ chunk }) => chunk))) : NO_USAGE
  for (const { chunk, wholeBytes } of body.held) sink.take(chunk, wholeBytes)
  const passing: Passing = { exchange, options, watcher, tail, sink, begun, firstOutputDueMs, isRead }
  if (body.complete || source.isWhole()) return endStream(passing, 'whole')
  sink.body.flush()
  return new EventRelay(passing, source, deps).run()
}
