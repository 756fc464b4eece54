// The faults of a simulated resource (azure/README.md 12) as words: plain data, made here, carried out elsewhere.

/** What a simulated resource does with one request instead of, or on top of, answering it. */
export type Fault =
  | { readonly kind: 'throttle'; readonly waits: Waits }
  | {
      readonly kind: 'fail'
      readonly status: number
      readonly family: ErrorFamily
      readonly headers: Readonly<Record<string, string>>
    }
  | { readonly kind: 'named'; readonly error: NamedError }
  /** The connection is reset before any byte of an answer. */
  | { readonly kind: 'hang_up' }
  /** The request is taken and never answered; with `headers` the head is, and then nothing. */
  | { readonly kind: 'silence'; readonly headers: boolean }
  | { readonly kind: 'reset_after_headers' }
  /**
   * So many whole events (streams) or body bytes, then the connection is cut; `midEvent`: in the middle of the next
   * event.
   */
  | { readonly kind: 'cut_after'; readonly events: number; readonly midEvent: boolean }
  | { readonly kind: 'cut_bytes'; readonly bytes: number }
  /** The stream ends cleanly, but without `[DONE]` or its terminal event. */
  | { readonly kind: 'end_without_terminal'; readonly events: number }
  /** The body in pieces of so many bytes: splits characters, lines and events wherever they fall. */
  | { readonly kind: 'trickle'; readonly bytes: number; readonly delayMs: number }
  /** All events of a stream in one segment. */
  | { readonly kind: 'merge' }
  | { readonly kind: 'wrong_length'; readonly by: number }
  /** Bytes that are no HTTP. */
  | { readonly kind: 'garbage' }
  | {
      readonly kind: 'error_event'
      readonly error: StreamErrorKind
      readonly after: number
      readonly retryAfterS?: number
      readonly done?: boolean
    }
  /** A kept-alive connection is closed just when its next request arrives; a fresh one is answered. */
  | { readonly kind: 'stale_socket' }
  /** The output is cut by the content filter. */
  | { readonly kind: 'filtered_output' }
  /** So much later than usual. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** The resource denies the item that a request names, though it holds it: seen at random on Azure. */
  | { readonly kind: 'denies_item' }

/** What one turn of Responses over WebSocket meets. */
export type TurnFault =
  | {
      readonly kind: 'error_frame'
      /** Left out, Codex ignores the frame and waits. */
      readonly status: number | undefined
      readonly error: { readonly type: string; readonly code: string | null; readonly message: string }
      readonly headers?: Readonly<Record<string, string>>
    }
  /** A message in whatever form. */
  | { readonly kind: 'message'; readonly value: Readonly<Record<string, unknown>> }
  /** After so many events: a close frame, or the bare end of the connection. */
  | { readonly kind: 'close'; readonly after: number; readonly code: number }
  | { readonly kind: 'cut'; readonly after: number }

/** How a 429 names its wait. */
export type Waits =
  | { readonly kind: 'retry_after'; readonly seconds: number }
  | { readonly kind: 'both'; readonly ms: number }
  | { readonly kind: 'ms'; readonly ms: number }
  | { readonly kind: 'none' }
  | { readonly kind: 'date'; readonly seconds: number }
  | { readonly kind: 'reset_requests'; readonly ms: number }
  | { readonly kind: 'provisioned'; readonly ms: number }

export type ErrorFamily = 'model' | 'front' | 'gateway' | 'html' | 'empty' | 'claude'

export type NamedError =
  | 'wrong_key'
  | 'deployment_not_found'
  | 'resource_not_found'
  | 'network_rule'
  | 'content_filter'
  | 'version'
  | 'timeout'

/**
 * Errors inside a stream (azure/README.md 5.4): Azure's nested and OpenAI's flat form, `response.failed` alone, chat's,
 * Claude's.
 */
export type StreamErrorKind =
  | 'nested_throttle'
  | 'flat'
  | 'failed_alone'
  | 'nested_missing_deployment'
  | 'chat'
  | 'claude'
  | 'claude_throttle'

export const throttle = (seconds: number): Fault => ({ kind: 'throttle', waits: { kind: 'retry_after', seconds } })
export const throttleBy = (waits: Waits): Fault => ({ kind: 'throttle', waits })
export const fail = (
  status: number,
  family: ErrorFamily = 'model',
  headers: Readonly<Record<string, string>> = {},
): Fault => ({
  kind: 'fail',
  status,
  family,
  headers,
})
export const refuseWith = (error: NamedError): Fault => ({ kind: 'named', error })
export const hangUp = (): Fault => ({ kind: 'hang_up' })
export const silence = (): Fault => ({ kind: 'silence', headers: false })
export const headersThenSilence = (): Fault => ({ kind: 'silence', headers: true })
export const resetAfterHeaders = (): Fault => ({ kind: 'reset_after_headers' })
export const cutAfter = (events: number, midEvent = false): Fault => ({ kind: 'cut_after', events, midEvent })
export const cutBytes = (bytes: number): Fault => ({ kind: 'cut_bytes', bytes })
export const endWithoutTerminal = (events: number): Fault => ({ kind: 'end_without_terminal', events })
export const trickle = (bytes: number, delayMs = 0): Fault => ({ kind: 'trickle', bytes, delayMs })
export const merge = (): Fault => ({ kind: 'merge' })
export const wrongLength = (by: number): Fault => ({ kind: 'wrong_length', by })
export const garbage = (): Fault => ({ kind: 'garbage' })
export const staleSocket = (): Fault => ({ kind: 'stale_socket' })
export const filteredOutput = (): Fault => ({ kind: 'filtered_output' })
export const denyItem = (): Fault => ({ kind: 'denies_item' })
export const turnError = (
  status: number | undefined,
  code: string,
  headers?: Readonly<Record<string, string>>,
): TurnFault => ({
  kind: 'error_frame',
  status,
  error: { type: 'server_error', code, message: `The turn failed: ${code}.` },
  ...(headers === undefined ? {} : { headers }),
})
export const turnMessage = (value: Readonly<Record<string, unknown>>): TurnFault => ({ kind: 'message', value })
export const closeTurn = (code: number, after = 0): TurnFault => ({ kind: 'close', code, after })
export const cutTurn = (after = 0): TurnFault => ({ kind: 'cut', after })
export const delay = (ms: number): Fault => ({ kind: 'delay', ms })
/** @param after whole events before it: 0 the very first, 1 behind the first start-up event, and so on */
export const errorEvent = (
  error: StreamErrorKind,
  after: number,
  options: { retryAfterS?: number; done?: boolean } = {},
): Fault => ({
  kind: 'error_event',
  error,
  after,
  ...options,
})

/** The header that asks for a fault, where a resource allows it: `x-ms-simulate: throttle=7`. */
export const FAULT_HEADER = 'x-ms-simulate'

/** Reads `word` or `word=number` of the header; undefined where it is no fault. */
export function parseFault(text: string): Fault | undefined {
  const [word, value] = text.split('=', 2)
  const number = value === undefined ? Number.NaN : Number(value)
  const or = (fallback: number): number => (Number.isFinite(number) ? number : fallback)
  switch (word?.trim()) {
    case 'throttle':
      return throttle(or(7))
    case 'fail':
      return fail(or(500))
    case 'hang-up':
      return hangUp()
    case 'silence':
      return silence()
    case 'cut':
      return cutAfter(or(4))
    case 'no-end':
      return endWithoutTerminal(or(4))
    case 'trickle':
      return trickle(or(7))
    case 'delay':
      return delay(or(1_000))
    case 'content-filter':
      return refuseWith('content_filter')
    default:
      return undefined
  }
}
