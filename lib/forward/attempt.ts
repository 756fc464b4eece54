// One try at one backend, up to the point where its answer is either the client's or known not to be. Never throws: what it
// met is its result. It knows no pools and sends nothing to the client.
import type { ClientRequest, IncomingMessage } from 'node:http'
import { readErrorBody } from '../azure/errors.ts'
import type { Dialect } from '../azure/operations.ts'
import type { Clock } from '../clock.ts'
import type { Deadline, Deadlines } from './deadlines.ts'
import { type EventStreamWatcher, watchEventStream } from './event-stream.ts'
import type { Cancellation } from './exchange.ts'
import { type AnswerHeaders, answerHeaders } from './headers.ts'
import { classifyAnswer, classifyStreamError, type Outcome, transportFailure } from './outcome.ts'
import type { Transport, WireRequest } from './transport.ts'

/** How long each phase may take, in milliseconds. */
export interface AttemptTimeouts {
  readonly connectMs: number
  readonly headersMs: number
  readonly firstOutputMs: number
  readonly streamHoldMs: number
  readonly idleMs: number
}

export interface AttemptPlan {
  readonly wire: WireRequest
  /** The body as pieces, already rewritten for this backend; empty for none. */
  readonly body: readonly Buffer[]
  readonly dialect: Dialect
  /** The request asked for an event stream: believed when the answer's content type says nothing. */
  readonly wantsStream: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly creates: boolean
  readonly timeouts: AttemptTimeouts
  readonly cancellation: Cancellation
}

/** A piece of an event stream with how many of its bytes belong to whole events. */
export interface HeldPiece {
  readonly chunk: Buffer
  readonly wholeBytes: number
}

export type AnswerBody =
  /** All of it. */
  | { readonly kind: 'whole'; readonly chunks: readonly Buffer[]; readonly bytes: number }
  /** Its beginning; the rest is still coming. */
  | { readonly kind: 'flowing'; readonly held: readonly Buffer[] }
  | {
      readonly kind: 'events'
      readonly held: readonly HeldPiece[]
      readonly watcher: EventStreamWatcher
      /** The response has ended already. */
      readonly complete: boolean
      /** Monotonic time by which output must have begun. */
      readonly firstOutputDueMs: number
    }

export interface UpstreamAnswer {
  readonly status: number
  readonly response: IncomingMessage
  readonly headers: AnswerHeaders
  readonly body: AnswerBody
}

export type AttemptResult =
  | { readonly kind: 'answer'; readonly outcome: Outcome; readonly answer: UpstreamAnswer }
  | { readonly kind: 'no_answer'; readonly outcome: Outcome; readonly headers?: IncomingMessage['headers'] }

export interface AttemptDeps {
  readonly transport: Transport
  readonly deadlines: Deadlines
  readonly clock: Clock
}

/** A short answer of known length is read whole and passed on in one write (and can still fail over while it is read). */
const JOIN_MAX_BYTES = 64 * 1024
/** Error bodies are read whole to tell what they mean; one that is longer is no API's. */
const ERROR_BODY_MAX_BYTES = 256 * 1024
/** An error's body that does not come within this is judged by its status alone. */
const ERROR_BODY_MS = 5_000
/** Limits on start-up events held back (contract, section 5). */
const HOLD_MAX_EVENTS = 64
const HOLD_MAX_BYTES = 4 * 1024 * 1024

const ignore = (): void => undefined

function isEventStream(response: IncomingMessage, wantsStream: boolean): boolean {
  const type = response.headers['content-type']
  if (type !== undefined) return type.toLowerCase().startsWith('text/event-stream')
  // Some gateways lose the content type of streams (wire reference, 5.1).
  return wantsStream && response.headers['content-length'] === undefined
}

function hasNoBody(status: number, method: string): boolean {
  return method === 'HEAD' || status === 204 || status === 304
}

/** System error codes are safe and useful to show; texts may hold anything. */
function detailOf(error: unknown): string {
  if (typeof error === 'object' && error !== null && 'code' in error && typeof error.code === 'string')
    return error.code
  return 'error'
}

function isProtocolError(detail: string): boolean {
  return detail.startsWith('HPE_') || detail === 'ERR_HTTP_INVALID_STATUS_CODE' || detail === 'ERR_INVALID_CHAR'
}

function connectFailed(detail: string): boolean {
  return (
    /^(ECONNREFUSED|ENOTFOUND|EAI_|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL|ETIMEDOUT)/.test(detail) ||
    /^(ERR_TLS|ERR_SSL|CERT_|DEPTH_ZERO|UNABLE_TO|SELF_SIGNED|EPROTO|HOSTNAME_MISMATCH)/.test(detail)
  )
}

/** What a request's own error means. */
export function failureOf(error: unknown): Outcome {
  const detail = detailOf(error)
  if (isProtocolError(detail)) return transportFailure('protocol_error', detail)
  return transportFailure(connectFailed(detail) ? 'connect_failed' : 'connection_lost', detail)
}

/** Up to this size a body joins its head in one string and one write; above, copying costs more than a second write. */
const ONE_WRITE_MAX_BYTES = 16 * 1024

function send(request: ClientRequest, body: readonly Buffer[]): void {
  const [only] = body
  if (body.length === 1 && only !== undefined && only.length <= ONE_WRITE_MAX_BYTES) {
    // node:http joins head and body in one write only when both are strings; latin1 gives each byte back as it was.
    request.end(only.toString('latin1'), 'latin1')
    return
  }
  // No back-pressure is needed: the chunks are held for replay in any case, and are queued by reference. As one list they leave
  // in as few system calls as there can be.
  request.cork()
  for (const chunk of body) request.write(chunk)
  request.end()
  request.uncork()
}

type Tried = AttemptResult | { readonly kind: 'stale_socket' }

function tryOnce(plan: AttemptPlan, deps: AttemptDeps, fresh: boolean): Promise<Tried> {
  const { transport, deadlines, clock } = deps
  const { wire, timeouts, cancellation } = plan

  return new Promise(resolve => {
    const headersDueMs = clock.nowMs() + timeouts.headersMs
    const request = transport.open(wire, fresh)
    let settled = false
    let pending: 'connect_timeout' | 'header_timeout' = 'header_timeout'

    const settle = (result: Tried): void => {
      if (settled) return
      settled = true
      deadlines.remove(deadline)
      stopWatching()
      resolve(result)
    }
    const giveUp = (outcome: Outcome): void => {
      settle({ kind: 'no_answer', outcome })
      request.destroy()
    }
    const deadline: Deadline = {
      dueMs: headersDueMs,
      expire: () => giveUp(transportFailure(pending, pending === 'connect_timeout' ? 'no connection' : 'no headers')),
    }
    // `on`, not `once`: a socket may fail again while it is torn down, and that must not be uncaught.
    request.on('error', error => {
      if (request.reusedSocket && !fresh && !isProtocolError(detailOf(error))) settle({ kind: 'stale_socket' })
      else giveUp(failureOf(error))
    })
    request.once('close', () => giveUp(transportFailure('connection_lost', 'closed')))
    request.once('socket', socket => {
      if (!socket.connecting) return
      pending = 'connect_timeout'
      deadline.dueMs = Math.min(clock.nowMs() + timeouts.connectMs, headersDueMs)
      socket.once(wire.endpoint.protocol === 'https:' ? 'secureConnect' : 'connect', () => {
        pending = 'header_timeout'
        deadline.dueMs = headersDueMs
      })
    })
    request.once('response', response => {
      if (settled) {
        response.destroy()
        return
      }
      response.on('error', ignore)
      deadlines.remove(deadline)
      stopWatching()
      settled = true
      resolve(readAnswer(plan, deps, response))
    })
    deadlines.add(deadline)
    const stopWatching = cancellation.onCancel(reason => queueMicrotask(() => giveUp({ kind: 'cancelled', reason })))
    send(request, plan.body)
  })
}

/**
 * Reads on until it is clear whose answer this is: an event stream to its first output, an error or a short answer to its
 * end, anything else to its first byte.
 */
export function readAnswer(plan: AttemptPlan, deps: AttemptDeps, response: IncomingMessage): Promise<AttemptResult> {
  const status = response.statusCode ?? 0
  const headers = answerHeaders(response.rawHeaders)
  if (hasNoBody(status, plan.wire.method)) {
    response.resume()
    const answer = { status, response, headers, body: { kind: 'whole', chunks: [], bytes: 0 } } as const
    return Promise.resolve({ kind: 'answer', outcome: { kind: 'served' }, answer })
  }
  if (status >= 400) return readError(plan, deps, response, headers)
  if (isEventStream(response, plan.wantsStream)) return readStreamStart(plan, deps, response, headers)
  return readPlain(plan, deps, response, headers)
}

interface Reading {
  readonly onData: (chunk: Buffer) => void
  readonly onEnd: () => void
  /** The connection went, the time ran out, or the client did. */
  readonly onLost: (outcome: Outcome) => void
}

/** Attaches to a response until `stop`; every way to lose it ends in `onLost`, once. */
function read(
  response: IncomingMessage,
  { deadlines, clock }: AttemptDeps,
  { cancellation, idleMs }: { readonly cancellation: Cancellation; readonly idleMs: number },
  reading: Reading,
): { readonly stop: () => void; readonly limit: (dueMs: number) => void } {
  let capMs = Number.POSITIVE_INFINITY
  const onData = (chunk: Buffer): void => {
    deadline.dueMs = Math.min(clock.nowMs() + idleMs, capMs)
    reading.onData(chunk)
  }
  const lose = (outcome: Outcome): void => {
    stop()
    response.destroy()
    reading.onLost(outcome)
  }
  const onEnd = (): void => {
    if (!response.complete) {
      onError()
      return
    }
    stop()
    reading.onEnd()
  }
  const onError = (error?: unknown): void => lose(transportFailure('connection_lost', detailOf(error)))
  const onClose = (): void => lose(transportFailure('connection_lost', 'closed'))
  const deadline: Deadline = {
    dueMs: clock.nowMs() + idleMs,
    expire: () =>
      lose(
        clock.nowMs() >= capMs
          ? transportFailure('first_output_timeout', 'no output')
          : transportFailure('idle_timeout', 'silence'),
      ),
  }
  const stop = (): void => {
    deadlines.remove(deadline)
    stopWatching()
    response.off('data', onData).off('end', onEnd).off('error', onError).off('close', onClose)
  }
  const stopWatching = cancellation.onCancel(reason => queueMicrotask(() => lose({ kind: 'cancelled', reason })))
  deadlines.add(deadline)
  response.on('error', onError).on('close', onClose).on('end', onEnd).on('data', onData)
  return {
    stop,
    limit(dueMs) {
      capMs = dueMs
      deadline.dueMs = Math.min(deadline.dueMs, dueMs)
    },
  }
}

function readError(
  plan: AttemptPlan,
  deps: AttemptDeps,
  response: IncomingMessage,
  headers: AnswerHeaders,
): Promise<AttemptResult> {
  const status = response.statusCode ?? 0
  const judge = (body: Buffer): Outcome =>
    classifyAnswer(status, response.headers, readErrorBody(body), {
      creates: plan.creates,
      epochMs: deps.clock.epochMs(),
    })
  return new Promise(resolve => {
    const chunks: Buffer[] = []
    let bytes = 0
    const unreadable = (outcome?: Outcome): void => {
      if (outcome?.kind === 'cancelled') {
        resolve({ kind: 'no_answer', outcome })
        return
      }
      const judged = judge(Buffer.concat(chunks))
      // What would have been the client's answer never came whole: the connection is the fault then.
      resolve({ kind: 'no_answer', outcome: judged.kind === 'served' ? (outcome ?? judged) : judged })
    }
    const reader = read(
      response,
      deps,
      { cancellation: plan.cancellation, idleMs: Math.min(ERROR_BODY_MS, plan.timeouts.idleMs) },
      {
        onData(chunk) {
          bytes += chunk.length
          chunks.push(chunk)
          if (bytes <= ERROR_BODY_MAX_BYTES) return
          reader.stop()
          response.destroy()
          unreadable(transportFailure('protocol_error', 'oversized error'))
        },
        onEnd() {
          const answer: UpstreamAnswer = { status, response, headers, body: { kind: 'whole', chunks, bytes } }
          resolve({
            kind: 'answer',
            outcome: judge(chunks[0] !== undefined && chunks.length === 1 ? chunks[0] : Buffer.concat(chunks)),
            answer,
          })
        },
        onLost: unreadable,
      },
    )
  })
}

function readPlain(
  plan: AttemptPlan,
  deps: AttemptDeps,
  response: IncomingMessage,
  headers: AnswerHeaders,
): Promise<AttemptResult> {
  const status = response.statusCode ?? 0
  const join = headers.contentLength !== undefined && headers.contentLength <= JOIN_MAX_BYTES
  return new Promise(resolve => {
    const chunks: Buffer[] = []
    let bytes = 0
    const served = (body: AnswerBody): void =>
      resolve({ kind: 'answer', outcome: { kind: 'served' }, answer: { status, response, headers, body } })
    const reader = read(
      response,
      deps,
      { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
      {
        onData(chunk) {
          chunks.push(chunk)
          bytes += chunk.length
          if (join) return
          reader.stop()
          response.pause()
          served({ kind: 'flowing', held: chunks })
        },
        onEnd: () => served({ kind: 'whole', chunks, bytes }),
        onLost: outcome => resolve({ kind: 'no_answer', outcome, headers: response.headers }),
      },
    )
  })
}

function readStreamStart(
  plan: AttemptPlan,
  deps: AttemptDeps,
  response: IncomingMessage,
  headers: AnswerHeaders,
): Promise<AttemptResult> {
  const { clock, deadlines } = deps
  const status = response.statusCode ?? 0
  const watcher = watchEventStream(plan.dialect)
  const beganMs = clock.nowMs()
  const firstOutputDueMs = beganMs + plan.timeouts.firstOutputMs
  return new Promise(resolve => {
    const held: HeldPiece[] = []
    let heldBytes = 0
    let holdOver = false

    const letGo = (complete: boolean): void => {
      reader.stop()
      deadlines.remove(holdDeadline)
      if (!complete) response.pause()
      const body: AnswerBody = { kind: 'events', held, watcher, complete, firstOutputDueMs }
      resolve({ kind: 'answer', outcome: { kind: 'served' }, answer: { status, response, headers, body } })
    }
    const refuse = (outcome: Outcome): void => {
      reader.stop()
      deadlines.remove(holdDeadline)
      response.destroy()
      resolve({ kind: 'no_answer', outcome, headers: response.headers })
    }
    const decide = (): void => {
      const phase = watcher.phase()
      if (phase.kind === 'error') {
        const outcome = classifyStreamError(phase.error, response.headers, clock.epochMs())
        if (outcome.kind === 'served') letGo(false)
        else refuse(outcome)
      } else if (phase.kind === 'output' || watcher.ended()) letGo(false)
      else if (watcher.events() >= HOLD_MAX_EVENTS || heldBytes > HOLD_MAX_BYTES) letGo(false)
      // The hold is on start-up events: as long as none has come, nothing is kept from anyone.
      else if (holdOver && watcher.events() > 0) letGo(false)
    }
    const holdDeadline: Deadline = {
      dueMs: beganMs + plan.timeouts.streamHoldMs,
      expire() {
        holdOver = true
        decide()
      },
    }
    const reader = read(
      response,
      deps,
      { cancellation: plan.cancellation, idleMs: plan.timeouts.idleMs },
      {
        onData(chunk) {
          held.push({ chunk, wholeBytes: watcher.push(chunk) })
          heldBytes += chunk.length
          decide()
        },
        onEnd() {
          deadlines.remove(holdDeadline)
          if (plan.dialect === 'opaque') letGo(true)
          else refuse(transportFailure('connection_lost', 'stream ended before any output'))
        },
        onLost(outcome) {
          deadlines.remove(holdDeadline)
          resolve({ kind: 'no_answer', outcome, headers: response.headers })
        },
      },
    )
    reader.limit(firstOutputDueMs)
    deadlines.add(holdDeadline)
  })
}

/**
 * Makes one attempt. A reused socket that turns out dead before any byte of an answer is nobody's fault: once more, on a
 * fresh one (RFC 9112 section 9.3.1: the far side may close an idle connection at any time).
 */
export async function attempt(plan: AttemptPlan, deps: AttemptDeps): Promise<AttemptResult> {
  const tried = await tryOnce(plan, deps, false)
  if (tried.kind !== 'stale_socket') return tried
  const again = await tryOnce(plan, deps, true)
  return again.kind === 'stale_socket'
    ? { kind: 'no_answer', outcome: transportFailure('connection_lost', 'stale socket') }
    : again
}
