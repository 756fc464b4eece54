// One `response.create` of a WebSocket: an exchange of its own, admitted, limited, logged and counted like a request.
import type { Lease } from '../balancer/health.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import type { ReadBody } from '../body/read.ts'
import type { Refusal } from '../errors.ts'
import { waitHeaders } from '../errors.ts'
import type { BackendLink } from '../forward/backend-link.ts'
import { createCancellation, createRecord, type Exchange } from '../request-context.ts'
import type { Binding } from './affinity.ts'

/** A turn on its way through a backend. */
export interface Turn {
  readonly exchange: Exchange
  readonly pool: Pool
  /** The lane it runs in (`stream_id`), where the API has them. */
  readonly lane: string | undefined
  /** Gives back what it took of its key's limits. */
  readonly settle: () => void
  member: Member | undefined
  lease: Lease | undefined
  /** Monotonic time at which the backend was asked. */
  askedMs: number
  /** An event beyond the start-up ones has come. */
  hasOutput: boolean
  /** Any event has come. */
  hasEvent: boolean
  /** Remembers what its events show. */
  readonly onEvents: ((member: Member, events: Buffer) => void) | undefined
}

/** A turn that has been admitted, with what it asks. */
export interface Wanted {
  readonly turn: Turn
  readonly pool: Pool
  readonly read: ReadBody
  readonly binding: Binding & { kind: 'free' | 'pinned' }
  readonly bytes: Buffer
}

/** The backend that serves the session. */
export interface Connected {
  readonly member: Member
  readonly pool: Pool
  readonly link: BackendLink
}

/**
 * The exchange of a turn: the session's client and head, with a record and a cancellation of its own.
 * @param session the handshake's
 * @param count tells the turns of a session apart in the log
 */
export function turnExchange(session: Exchange, count: number, nowMs: number): Exchange {
  const record = createRecord()
  record.key = session.record.key
  record.stream = true
  return {
    id: `${session.id}/${count}`,
    request: session.request,
    response: session.response,
    cancellation: createCancellation(),
    record,
    beganMs: nowMs,
    lingerAndClose: () => undefined,
    client: session.client,
    clientKey: session.clientKey,
    ephemeral: undefined,
    isAnthropic: false,
  }
}

/** What an error frame says. */
export interface FrameError {
  readonly status: number
  readonly type?: string
  readonly code: string | null
  readonly message: string
  readonly param?: string | null
  readonly headers?: Readonly<Record<string, string>>
}

/**
 * An error as clients of Responses over WebSocket read it: nested and with `status`, without which Codex ignores it and
 * waits five minutes (azure/README.md 13.1).
 */
export function errorFrame({ status, type, code, message, param = null, headers }: FrameError): object {
  const known = type ?? (status === 429 ? 'rate_limit_error' : status >= 500 ? 'server_error' : 'invalid_request_error')
  return {
    type: 'error',
    status,
    error: { type: known, code, message, param },
    ...(headers === undefined ? {} : { headers }),
  }
}

/** One of the proxy's own refusals as a frame; its wait stands in `headers`, where Codex reads it. */
export function refusalFrame({ status, code, message, param, retryAfterMs, headers = [] }: Refusal): object {
  const list = [...headers, ...(retryAfterMs === undefined ? [] : waitHeaders(retryAfterMs))]
  const named = Object.fromEntries(
    Array.from({ length: list.length / 2 }, (_, i) => [list[2 * i] ?? '', list[2 * i + 1] ?? '']),
  )
  return errorFrame({
    status,
    code,
    message,
    param: param ?? null,
    ...(list.length === 0 ? {} : { headers: named }),
  })
}

/** The refusal of a turn whose state another resource holds than the session's: clients then open a new session. */
export const ELSEWHERE = {
  status: 400,
  code: 'previous_response_not_found',
  message: 'Another resource holds what the request refers to. Open a new session for it.',
  param: 'previous_response_id',
} as const

/** The turn in progress that a backend's message belongs to: the oldest of its lane. */
export function turnOf(payload: Buffer, turns: readonly Turn[]): Turn | undefined {
  if (turns.length < 2) return turns[0]
  const lane = /"stream_id"\s*:\s*"([^"\\]{1,256})"/.exec(payload.toString('latin1'))?.[1]
  return turns.find(turn => turn.lane === lane) ?? turns[0]
}
