// Answers of a simulated backend: as bytes with their times, and what a client may see of it.
import type { ErrorForm, StreamBreak, Trouble, Wait } from './plan.ts'

/** One answer, as far as the backend means to bring it. */
export interface Answer {
  readonly status: number
  readonly pieces: readonly { readonly afterMs: number; readonly text: string }[]
  /** What becomes of the connection afterwards. */
  readonly after: 'keep' | 'close' | 'reset' | 'silence'
  /** What a client sees of it, without framing, when it is passed on as it is. */
  readonly payload: string
  /** It ends as its protocol ends. */
  readonly whole: boolean
  readonly isStream: boolean
  /** It is a 429 or the like: for so long after its arrival nothing more may come. */
  readonly throttleMs: number | undefined
  /** The wait that it names, whatever its status. */
  readonly namedMs: number | undefined
}

/** What is asked for, as far as an answer depends on it. */
export interface Asked {
  /** Stands in the answer's text: no two answers of a world are alike. */
  readonly marker: string
  readonly form: 'chat' | 'responses' | 'embeddings' | 'models' | 'stored'
  readonly stream: boolean
  readonly wantsUsage: boolean
  readonly responseId: string
  readonly serviceMs: number
  readonly pieces: number
  readonly epochMs: number
  /** The end of a stream comes as one piece. */
  readonly together: boolean
  /** Between two events of a stream, and between the halves of a body where that comes in two. */
  readonly gapMs: number | undefined
  /** The last event of a stream lacks the blank line at its end. */
  readonly bareEnd: boolean
  /** The connection has brought an answer before. */
  readonly reused: boolean
}

/** Between two events of a stream, where nothing else is said. */
const GAP_MS = 20
/** The last output, the event that finishes, the protocol's end, and that of the chunks. */
const TOGETHER = 4

function head(status: number, fields: readonly string[]): string {
  return `HTTP/1.1 ${status} X\r\n${fields.join('\r\n')}\r\n\r\n`
}

function whole(
  asked: Asked,
  status: number,
  body: string,
  {
    type = 'application/json',
    fields = [] as readonly string[],
    throttleMs = undefined as number | undefined,
    namedMs = undefined as number | undefined,
  } = {},
): Answer {
  const text = head(status, [`content-type: ${type}`, ...fields, `content-length: ${body.length}`]) + body
  const { gapMs, serviceMs } = asked
  const half = text.length - Math.ceil(body.length / 2)
  return {
    status,
    pieces:
      gapMs === undefined || status >= 300
        ? [{ afterMs: serviceMs, text }]
        : [
            { afterMs: serviceMs, text: text.slice(0, half) },
            { afterMs: 2 * gapMs, text: text.slice(half) },
          ],
    after: 'keep',
    payload: body,
    whole: true,
    isStream: false,
    throttleMs,
    namedMs,
  }
}

function none(asked: Asked, after: Answer['after'], text = ''): Answer {
  const pieces = [{ afterMs: asked.serviceMs, text }]
  const unnamed = { throttleMs: undefined, namedMs: undefined }
  return { status: 0, pieces, after, payload: '', whole: false, isStream: false, ...unnamed }
}

function chunkOf(text: string): string {
  return `${text.length.toString(16)}\r\n${text}\r\n`
}

/** The events of a sound stream: what starts it, what carries output, what ends it. */
function eventsFor({ form, marker, pieces, responseId }: Asked): { start: string[]; output: string[]; end: string[] } {
  const output: string[] = []
  if (form === 'responses') {
    for (let i = 0; i < pieces; i++) {
      output.push(
        `event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"${marker} ${i}"}\n\n`,
      )
    }
    const response = (status: string): string =>
      `{"id":"${responseId}","object":"response","status":"${status}","output":[]}`
    return {
      start: [`event: response.created\ndata: {"type":"response.created","response":${response('in_progress')}}\n\n`],
      output,
      end: [`event: response.completed\ndata: {"type":"response.completed","response":${response('completed')}}\n\n`],
    }
  }
  const chunk = (delta: string, finish: string): string =>
    `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":${delta},"finish_reason":${finish}}]}\n\n`
  for (let i = 0; i < pieces; i++) output.push(chunk(`{"content":"${marker} ${i}"}`, 'null'))
  return {
    start: [chunk('{"role":"assistant","content":""}', 'null')],
    output,
    end: [chunk('{}', '"stop"'), 'data: [DONE]\n\n'],
  }
}

const USAGE_EVENT =
  'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}\n\n'

function stream(asked: Asked, broken: StreamBreak | undefined): Answer {
  const { start, output, end } = eventsFor(asked)
  const sent: string[] = []
  let shown = ''
  let after: Answer['after'] = 'keep'
  let isWhole = broken === undefined
  const add = (events: readonly string[], visible = true): void => {
    for (const event of events) {
      sent.push(chunkOf(event))
      if (visible) shown += event
    }
  }
  add(start)
  switch (broken) {
    case 'before_output':
      after = 'reset'
      break
    case 'silent_before_output':
      after = 'silence'
      break
    case 'error_event':
      add([
        asked.form === 'responses'
          ? 'event: error\ndata: {"type":"error","code":"server_error","message":"broken"}\n\n'
          : 'data: {"error":{"message":"broken","type":"server_error","code":"server_error"}}\n\n',
      ])
      break
    case 'after_output':
      add(output)
      after = 'reset'
      break
    case 'silent_after_output':
      add(output)
      after = 'silence'
      break
    case 'no_end':
      add(output)
      break
    default: {
      const [last = '', finish = ''] = [...end].reverse()
      add(output)
      if (end.length > 1) add([finish])
      if (asked.wantsUsage) add([USAGE_EVENT], false)
      add([asked.bareEnd ? last.slice(0, -1) : last])
      isWhole = true
    }
  }
  if (after === 'keep') sent.push('0\r\n\r\n')
  const opening = head(200, ['content-type: text/event-stream', 'transfer-encoding: chunked'])
  if (asked.together && sent.length > TOGETHER) sent.push(sent.splice(-TOGETHER).join(''))
  // The head comes with the first event, as Azure sends it.
  const pieces = sent.map((text, i) => ({
    afterMs: i === 0 ? asked.serviceMs : (asked.gapMs ?? GAP_MS),
    text: i === 0 ? opening + text : text,
  }))
  const unnamed = { throttleMs: undefined, namedMs: undefined }
  return { status: 200, pieces, after, payload: shown, whole: isWhole, isStream: true, ...unnamed }
}

/** The answer of a backend that nothing is wrong with. */
export function soundAnswer(asked: Asked): Answer {
  const { form, marker, responseId } = asked
  if (asked.stream) return stream(asked, undefined)
  switch (form) {
    case 'models':
      return whole(asked, 200, '{"object":"list","data":[]}')
    case 'embeddings':
      return whole(asked, 200, `{"object":"list","data":[{"index":0,"embedding":[0.5]}],"model":"${marker}"}`)
    case 'responses':
      return whole(
        asked,
        200,
        `{"id":"${responseId}","object":"response","status":"completed","output":[],"marker":"${marker}"}`,
      )
    case 'stored':
      return whole(asked, 200, `{"id":"${responseId}","object":"response","status":"completed","marker":"${marker}"}`)
    default: {
      const choice = `{"index":0,"message":{"role":"assistant","content":"${marker}"},"finish_reason":"stop"}`
      const usage = '{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}'
      return whole(asked, 200, `{"id":"c","object":"chat.completion","choices":[${choice}],"usage":${usage}}`)
    }
  }
}

/** "This resource does not hold that response" (Azure's words for a read, and for a response to continue). */
export function foreignState(asked: Asked, id: string, isRead: boolean): Answer {
  const message = isRead ? `Response with id '${id}' not found.` : `Previous response with id '${id}' not found.`
  const code = isRead ? 'null' : '"previous_response_not_found"'
  const body = `{"error":{"message":"${message}","type":"invalid_request_error","param":null,"code":${code},"m":"${asked.marker}"}}`
  return whole(asked, isRead ? 404 : 400, body)
}

const MESSAGES: Readonly<Record<number, string>> = {
  401: 'Access denied due to invalid subscription key or wrong API endpoint.',
  402: 'Your account is not active.',
  403: 'Access denied due to Virtual Network/Firewall rules.',
  407: 'Proxy authentication is needed.',
  429: 'Requests to this deployment have exceeded the call rate limit. Please retry later.',
}

function errorBody(marker: string, status: number, form: ErrorForm): { body: string; type: string } {
  const message = MESSAGES[status] ?? 'The server had an error while processing your request.'
  const json = (body: string): { body: string; type: string } => ({ body, type: 'application/json' })
  switch (form) {
    case 'apim':
      return json(`{"statusCode":${status},"message":"${message}","m":"${marker}"}`)
    case 'openai':
      return json(
        `{"error":{"message":"${message}","type":"requests","param":null,"code":"rate_limit_exceeded","m":"${marker}"}}`,
      )
    case 'deployment_missing':
      return json(
        `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist.","m":"${marker}"}}`,
      )
    case 'not_supported':
      return json(
        `{"error":{"code":"OperationNotSupported","message":"The operation does not work with the specified model.","m":"${marker}"}}`,
      )
    case 'gateway':
    case 'firewall':
      return { body: `<html><body><h1>${status}</h1>${marker}</body></html>`, type: 'text/html' }
    default:
      return json(`{"error":{"code":"${status}","message":"${message}","m":"${marker}"}}`)
  }
}

/** The header of a wait, and how long it really says at its arrival. */
function waitFields(wait: Wait | undefined, epochMs: number): { fields: string[]; ms: number | undefined } {
  if (wait === undefined) return { fields: [], ms: undefined }
  switch (wait.form) {
    case 'retry-after-ms':
      return { fields: [`retry-after-ms: ${wait.ms}`], ms: wait.ms }
    case 'retry-after': {
      const seconds = Math.ceil(wait.ms / 1000)
      return { fields: [`retry-after: ${seconds}`], ms: seconds * 1000 }
    }
    case 'date': {
      const at = Math.ceil((epochMs + wait.ms) / 1000) * 1000
      return { fields: [`retry-after: ${new Date(at).toUTCString()}`], ms: at - epochMs }
    }
    case 'reset':
      return { fields: [`x-ratelimit-reset-requests: ${wait.ms}`], ms: wait.ms }
    case 'words':
      return { fields: ['retry-after: in a moment'], ms: undefined }
    case 'negative':
      return { fields: ['retry-after-ms: -1'], ms: undefined }
    default:
      return { fields: [], ms: undefined }
  }
}

/** What a 429 without a readable wait means. */
const UNNAMED_THROTTLE_MS = 10_000
/** No wait is believed for longer than a day. */
const MOST_BELIEVED_MS = 86_400_000
/** After so long a request may look whether a longer wait still holds. */
export const LONGEST_WAIT_MS = 300_000

/** An error answer with a wait in its header. */
export function errorAnswer(asked: Asked, status: number, form: ErrorForm, wait: Wait | undefined): Answer {
  const { body, type } = errorBody(asked.marker, status, form)
  const { fields, ms } = waitFields(wait, asked.epochMs + asked.serviceMs)
  const isThrottle = status === 429 || (status === 403 && ms !== undefined)
  const throttleMs = isThrottle ? Math.min(ms ?? UNNAMED_THROTTLE_MS, LONGEST_WAIT_MS) : undefined
  return whole(asked, status, body, { type, fields, throttleMs, namedMs: ms && Math.min(ms, MOST_BELIEVED_MS) })
}

const OVERSIZED_BYTES = 300_000
/** Read at once from a socket. */
const PIECE_BYTES = 60_000

function oversized(asked: Asked): Answer {
  const body = `{"detail":"${asked.marker} ${'x'.repeat(OVERSIZED_BYTES)}"}`
  const answer = whole(asked, 422, body)
  const text = answer.pieces[0]?.text ?? ''
  const pieces: { afterMs: number; text: string }[] = []
  for (let at = 0; at < text.length; at += PIECE_BYTES) {
    pieces.push({ afterMs: at === 0 ? asked.serviceMs : 1, text: text.slice(at, at + PIECE_BYTES) })
  }
  return { ...answer, pieces }
}

/** The answer of a backend with this trouble; undefined where the trouble does not show in answers to this. */
export function troubledAnswer(asked: Asked, trouble: Trouble): Answer | undefined {
  switch (trouble.kind) {
    case 'hang':
      return none(asked, 'silence')
    case 'reset':
      return none(asked, 'reset')
    case 'close':
      return none(asked, 'close')
    case 'garbage':
      return none(asked, 'close', 'SSH-2.0-nobody\r\n\r\n')
    case 'status':
      return errorAnswer(asked, trouble.status, trouble.form, trouble.wait)
    case 'web_page': {
      const fields = trouble.status === 302 ? ['location: https://login.test/'] : []
      return whole(asked, trouble.status, `<html>${asked.marker}</html>`, { type: 'text/html', fields })
    }
    case 'error_object':
      return whole(
        asked,
        200,
        `{"error":{"message":"broken ${asked.marker}","type":"server_error","code":"server_error"}}`,
      )
    case 'oversized_error':
      return oversized(asked)
    case 'misdirected':
      return asked.reused ? errorAnswer({ ...asked, serviceMs: 2 }, 421, 'azure', undefined) : undefined
    case 'stream':
      return asked.stream ? stream(asked, trouble.break) : undefined
    default:
      return undefined
  }
}
