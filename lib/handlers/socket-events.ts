// The meaning of a backend's message on a WebSocket of the Responses API: a start, output, an end, an error. Pure.
import { errorInEvent } from '../azure/error-objects.ts'
import { readError, type UpstreamError } from '../azure/errors.ts'
import type { HeaderValues } from '../azure/waits.ts'
import { classifyResponse, classifyStreamError, type Outcome } from '../forward/outcome.ts'

export type SocketEvent =
  /** Nothing that a client would miss if another backend began again. */
  | { readonly kind: 'start' }
  | { readonly kind: 'output' }
  /** The turn is over, whole or cut short by the model. */
  | { readonly kind: 'end' }
  | {
      readonly kind: 'error'
      readonly outcome: Outcome
      /** As the client is to see it. */
      readonly status: number
      readonly code: string | undefined
      /** The message with a status put in, where it had none. */
      readonly mended: Buffer | undefined
      /** `response.failed` instead of an error frame. */
      readonly failed: boolean
    }

type Json = Readonly<Record<string, unknown>>

const START = new Set(['response.created', 'response.in_progress', 'response.queued', 'keepalive'])
const END = new Set(['response.completed', 'response.incomplete', 'response.cancelled'])
/** Enough of a message for its type, where that is its first member. */
const HEAD_BYTES = 128

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parse(message: Buffer): Json {
  try {
    const value: unknown = JSON.parse(message.toString('utf8'))
    return isObject(value) ? value : {}
  } catch {
    return {}
  }
}

/** The type of a message, wherever it stands; of a cut one only where it stands first. */
function typeOf(message: Buffer, isWhole: boolean): string {
  const first = /^\s*\{\s*"type"\s*:\s*"([\w.]+)"/.exec(message.toString('latin1', 0, HEAD_BYTES))?.[1]
  if (first !== undefined) return first
  const { type } = isWhole ? parse(message) : {}
  return typeof type === 'string' ? type : ''
}

function waitsIn(value: Json): HeaderValues {
  const given = isObject(value.headers) ? value.headers : isObject(value.error) ? value.error.headers : undefined
  if (!isObject(given)) return {}
  return Object.fromEntries(
    Object.entries(given).map(([name, text]) => [name.toLowerCase(), typeof text === 'object' ? '' : String(text)]),
  )
}

/** The status of an error that names none, by what it says. */
function inferredStatus(outcome: Outcome, error: UpstreamError): number {
  switch (outcome.kind) {
    case 'throttled':
      return 429
    case 'served':
    case 'state_elsewhere':
      return 400
    case 'misconfigured':
      return 502
    default:
      return error.type === 'invalid_request_error' ? 400 : 503
  }
}

function readErrorFrame(value: Json, epochMs: number): SocketEvent {
  const error = readError(value)
  const headers = waitsIn(value)
  const { status } = value
  if (typeof status === 'number' && status >= 400) {
    const outcome = classifyResponse(status, headers, error, { isCreate: true, epochMs })
    return { kind: 'error', outcome, status, code: error.code, mended: undefined, failed: false }
  }
  const outcome = classifyStreamError(error, headers, epochMs)
  const inferred = inferredStatus(outcome, error)
  const nested = isObject(value.error)
    ? value.error
    : {
        type: error.type ?? 'server_error',
        code: error.code ?? null,
        message: error.message,
        param: error.param ?? null,
      }
  const mended = Buffer.from(JSON.stringify({ ...value, type: 'error', status: inferred, error: nested }))
  return { kind: 'error', outcome, status: inferred, code: error.code, mended, failed: false }
}

/**
 * Reads one message.
 * @param isWhole false: only its beginning is here, for it is long
 * @param epochMs the wall clock, for waits that are dates
 */
export function readSocketEvent(message: Buffer, isWhole: boolean, epochMs: number): SocketEvent {
  const type = typeOf(message, isWhole)
  if (START.has(type)) return { kind: 'start' }
  if (END.has(type)) return { kind: 'end' }
  if (type === 'error' && isWhole) return readErrorFrame(parse(message), epochMs)
  // What stands behind Azure's front may answer in the form of its own errors, as it does over HTTP.
  if (type === '' && isWhole) {
    const value = parse(message)
    if (errorInEvent(value) !== undefined) return readErrorFrame(value, epochMs)
  }
  if (type === 'response.failed') {
    const { response } = isWhole ? parse(message) : {}
    const error = readError(isObject(response) && isObject(response.error) ? response.error : {})
    const outcome = classifyStreamError(error, {}, epochMs)
    const status = inferredStatus(outcome, error)
    return { kind: 'error', outcome, status, code: error.code, mended: undefined, failed: true }
  }
  return { kind: 'output' }
}
