// Meaning of an event in each API's stream: start-up, output, the protocol's end, an error. A row a dialect; a new API
// is a new row. Azure's dialects: azure/README.md 5.
import { errorInEvent } from '../azure/error-objects.ts'
import { readError, type UpstreamError } from '../azure/errors.ts'
import type { Dialect } from '../azure/operations.ts'
import type { StreamEvent } from './sse-reader.ts'

/** What an event means to the client and to the question whether another backend may still be asked. */
export type Meaning =
  /** Nothing that a client would miss if another backend began again. */
  | 'start'
  | 'output'
  /** The protocol's own end. */
  | 'end'
  | UpstreamError

/** How the events of one API are read. */
export interface StreamRules {
  /** Once output has begun, an event whose bytes (as latin1) do not match is more output and is not read. */
  readonly marks: RegExp | undefined
  meaningOf(event: StreamEvent): Meaning
  /**
   * The meaning of a long event of one `data` line, where its beginning says it: a whole response need not be parsed.
   * @param name of the `event` line before the data; undefined without one
   * @param begun the data's first characters
   * @returns undefined where it has to be read
   */
  glance?(name: string | undefined, begun: string): Meaning | undefined
}

/** Events by which servers show that they are alive. */
const PINGS: ReadonlySet<unknown> = new Set(['ping', 'keepalive', 'keep-alive', 'heartbeat'])

type Json = Readonly<Record<string, unknown>>

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function isEmpty(value: unknown): boolean {
  return value === null || value === undefined || value === '' || (Array.isArray(value) && value.length === 0)
}

/** An error's text where its event holds no JSON object. */
function errorFrom(text: string, value: unknown): UpstreamError {
  const error = readError(value)
  return isObject(value) ? error : { ...error, message: typeof value === 'string' ? value : text }
}

/** The error of an event that names itself one, in its `event` line or by llama.cpp's field. */
function namedError({ name, data, errorField }: StreamEvent): UpstreamError | undefined {
  if (errorField !== undefined) return errorFrom(errorField, parse(errorField))
  return data !== undefined && name?.toLowerCase() === 'error' ? errorFrom(data, parse(data)) : undefined
}

function isPing(name: string | undefined, value: unknown): boolean {
  return PINGS.has(name) || (isObject(value) && (PINGS.has(value.type) || Object.keys(value).length === 0))
}

/** Clients end at these characters, whatever stands behind them. */
function saysDone(data: string): boolean {
  return data.trimStart().startsWith('[DONE]')
}

/** Whether a chat chunk carries anything beyond the role, prompt filter results and empty deltas. */
function chatHasOutput(value: unknown): boolean {
  if (!isObject(value) || !Array.isArray(value.choices)) return true
  return value.choices.some((choice: unknown) => {
    if (!isObject(choice)) return true
    if (!isEmpty(choice.finish_reason) || !isEmpty(choice.text)) return true
    if (!isObject(choice.delta)) return false
    return Object.entries(choice.delta).some(([name, part]) => name !== 'role' && !isEmpty(part))
  })
}

const CHAT: StreamRules = {
  marks: /error|\[DONE\]/,
  meaningOf(event) {
    const named = namedError(event)
    if (named !== undefined) return named
    const { name, data } = event
    if (data === undefined || data.trim() === '') return 'start'
    if (saysDone(data)) return 'end'
    const value = parse(data)
    const error = errorInEvent(value)
    if (error !== undefined) return error
    return isPing(name, value) || !chatHasOutput(value) ? 'start' : 'output'
  },
}

const RESPONSES_START: ReadonlySet<string> = new Set(['response.created', 'response.in_progress'])
const RESPONSES_END: ReadonlySet<string> = new Set(['response.completed', 'response.incomplete', 'response.cancelled'])

/** `type` as the first member, which it nearly always is. */
const FIRST_TYPE = /^\s*\{\s*"type"\s*:\s*"([^"\\]*)"/

/**
 * The event's own type, wherever in its data it stands; its `event` line's for a server that leaves it out of the data.
 */
function typeOf(name: string | undefined, data: string): string | undefined {
  const first = FIRST_TYPE.exec(data)?.[1]
  if (first !== undefined) return first
  const value = parse(data)
  if (isObject(value) && typeof value.type === 'string') return value.type
  return name === 'message' ? undefined : name
}

function meaningOfType(type: string): Meaning {
  if (RESPONSES_END.has(type)) return 'end'
  return RESPONSES_START.has(type) ? 'start' : 'output'
}

const RESPONSES: StreamRules = {
  marks: /error|response\.(?:completed|incomplete|cancelled|failed)/,
  meaningOf(event) {
    const named = namedError(event)
    if (named !== undefined) return named
    const { name, data } = event
    // Some gateways put chat's `[DONE]` behind the last event; it says nothing here.
    if (data === undefined || data.trim() === '' || saysDone(data)) return 'start'
    const type = typeOf(name, data)
    if (type === undefined || !type.startsWith('response.')) {
      const value = parse(data)
      const error = errorInEvent(value)
      if (error !== undefined) return error
      return isPing(name, value) ? 'start' : 'output'
    }
    if (type === 'response.failed') {
      const value = parse(data)
      const response = isObject(value) && isObject(value.response) ? value.response : undefined
      return readError(isObject(response?.error) ? response.error : undefined)
    }
    return meaningOfType(type)
  },
  glance(name, begun) {
    const type = FIRST_TYPE.exec(begun)?.[1]
    if (type?.startsWith('response.') !== true || type === 'response.failed') return undefined
    return name?.toLowerCase() === 'error' ? undefined : meaningOfType(type)
  },
}

/** Whether a block of Claude's begins with nothing in it: text and thinking do, a tool's call has a name. */
function isEmptyBlock(value: unknown): boolean {
  const block = isObject(value) ? value.content_block : undefined
  return isObject(block) && isEmpty(block.text) && isEmpty(block.thinking) && block.type !== 'tool_use'
}

/** Anthropic's Messages API (azure/README.md 13.3). */
const CLAUDE: StreamRules = {
  marks: /error|message_stop/,
  meaningOf(event) {
    const named = namedError(event)
    if (named !== undefined) return named
    const { name, data } = event
    if (data === undefined || data.trim() === '') return 'start'
    const value = parse(data)
    const error = errorInEvent(value)
    if (error !== undefined) return error
    const type = isObject(value) && typeof value.type === 'string' ? value.type : name
    if (type === 'message_stop') return 'end'
    if (type === 'message_start' || isPing(name, value)) return 'start'
    return type === 'content_block_start' && isEmptyBlock(value) ? 'start' : 'output'
  },
}

/** Streams of images, speech and transcripts: their ends are not known, but an error looks the same everywhere. */
const OPAQUE: StreamRules = {
  marks: undefined,
  meaningOf(event) {
    const named = namedError(event)
    if (named !== undefined) return named
    const { name, data } = event
    if (data === undefined) return 'start'
    const value = parse(data)
    return errorInEvent(value) ?? (isPing(name, value) ? 'start' : 'output')
  },
}

export const STREAM_RULES: Readonly<Record<Dialect, StreamRules>> = {
  chat: CHAT,
  responses: RESPONSES,
  claude: CLAUDE,
  opaque: OPAQUE,
}
