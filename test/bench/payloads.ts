// Requests and responses of the benchmark, as prepared bytes: both ends make them from the same lines, so that each can
// check what arrives.

/** What a request looks like and which answer it asks for. */
export type Work = 'chat' | 'history' | 'images' | 'embeddings' | 'burst' | 'slow'

/**
 * `azure`: straight to the upstream, as the rewritten request would look; `gateway`: what a client sends to a proxy.
 */
export type Route = 'azure' | 'gateway'

export const CLIENT_KEY = 'bench-client-key-0123456789abcdef'
export const AZURE_KEY = 'bench-azure-key-0123456789abcdef'
export const MODEL = 'gpt-4o'
export const EMBEDDINGS_MODEL = 'text-embedding-3-small'
export const API_VERSION = '2024-10-21'
/** The request header that chooses the upstream's answer; it passes through nginx and the proxy alike. */
export const ANSWER_HEADER = 'x-bench-answer'

export const EVENTS_PER_BURST = 200
export const SLOW_EVENTS_PER_S = 10
const EVENT_BYTES = 200
const STAMP_DIGITS = 16
const ANSWER_BYTES = 1_024
const HISTORY_BYTES = 100 * 1024
const IMAGES = 4
const IMAGE_BYTES = 2 * 1024 * 1024
const DIMENSIONS = 1_536

/** Letters that repeat late, so that a lost or doubled piece shows. */
function text(length: number): string {
  let out = ''
  for (let i = 0; out.length < length; i++) out += `word${i} `
  return out.slice(0, length)
}

function padded(make: (filler: string) => string, bytes: number): string {
  return make(text(bytes - make('').length))
}

const chatAnswer = (): string =>
  padded(
    filler =>
      JSON.stringify({
        choices: [
          {
            content_filter_results: { hate: { filtered: false, severity: 'safe' } },
            finish_reason: 'stop',
            index: 0,
            message: { content: filler, refusal: null, role: 'assistant' },
          },
        ],
        created: 1_732_000_000,
        id: 'chatcmpl-bench',
        model: 'gpt-4o-2024-11-20',
        object: 'chat.completion',
        usage: { completion_tokens: 100, prompt_tokens: 200, total_tokens: 300 },
      }),
    ANSWER_BYTES,
  )

function embeddingsAnswer(): string {
  const embedding = Array.from({ length: DIMENSIONS }, (_, i) => Math.sin(i + 1) / 10)
  return JSON.stringify({
    object: 'list',
    data: [{ object: 'embedding', index: 0, embedding }],
    model: EMBEDDINGS_MODEL,
    usage: { prompt_tokens: 8, total_tokens: 8 },
  })
}

const STAMP = '0'.repeat(STAMP_DIGITS)
const EVENT_TEXT = padded(
  filler =>
    `data: {"choices":[{"delta":{"content":"${STAMP} ${filler}"},"finish_reason":null,"index":0}],"id":"chatcmpl-bench","object":"chat.completion.chunk"}\n\n`,
  EVENT_BYTES,
)

/** One event; a slow stream puts the time of sending between STAMP_FROM and STAMP_TO. */
export const EVENT = Buffer.from(EVENT_TEXT)
export const STAMP_FROM = EVENT_TEXT.indexOf(STAMP)
export const STAMP_TO = STAMP_FROM + STAMP_DIGITS
export const DONE = Buffer.from('data: [DONE]\n\n')

/** Microseconds of the machine's monotonic clock: the same in every process. */
export function nowUs(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1e6 + nanoseconds / 1e3
}

/** An event that says when it was sent. */
export function stampedEvent(sentUs: number): Buffer {
  const event = Buffer.from(EVENT)
  event.write(String(Math.round(sentUs)).padStart(STAMP_DIGITS, '0'), STAMP_FROM, 'latin1')
  return event
}

/** The body a client must get, but for slow streams, whose events differ by their stamps. */
export function expectedBody(work: Exclude<Work, 'slow'>): Buffer {
  switch (work) {
    case 'embeddings':
      return Buffer.from(embeddingsAnswer())
    case 'burst':
      return Buffer.concat([...Array.from({ length: EVENTS_PER_BURST }, () => EVENT), DONE])
    default:
      return Buffer.from(chatAnswer())
  }
}

function requestBody(work: Work): string {
  switch (work) {
    case 'embeddings':
      return JSON.stringify({ input: text(30), model: EMBEDDINGS_MODEL, encoding_format: 'float' })
    case 'history': {
      // The Python SDK writes `messages` before `model`: a scan for the model has to get past them.
      const turns = Array.from({ length: 50 }, (_, i) => ({
        role: i % 2 === 0 ? 'user' : 'assistant',
        content: `turn ${i}: ${text(HISTORY_BYTES / 50 - 60)}\n"quoted"`,
      }))
      return JSON.stringify({ messages: turns, model: MODEL, temperature: 0.2 })
    }
    case 'images': {
      const image = {
        type: 'image_url',
        image_url: { url: `data:image/png;base64,${'iVBORw0KGgoA'.repeat(IMAGE_BYTES / 12)}` },
      }
      const content = [{ type: 'text', text: 'What is here?' }, ...Array.from({ length: IMAGES }, () => image)]
      return JSON.stringify({ messages: [{ role: 'user', content }], model: MODEL })
    }
    default:
      return padded(
        filler =>
          JSON.stringify({
            messages: [
              { role: 'system', content: 'You answer briefly.' },
              { role: 'user', content: filler },
            ],
            model: MODEL,
            stream: work === 'burst' || work === 'slow',
          }),
        ANSWER_BYTES,
      )
  }
}

/** A whole HTTP request, with the headers that OpenAI's Python client sends. */
export function requestBytes(
  work: Work,
  route: Route,
  answer: string,
): { readonly all: Buffer; readonly bodyBytes: number } {
  const operation = work === 'embeddings' ? 'embeddings' : 'chat/completions'
  const deployment = work === 'embeddings' ? EMBEDDINGS_MODEL : MODEL
  const path =
    route === 'gateway'
      ? `/v1/${operation}`
      : `/openai/deployments/${deployment}/${operation}?api-version=${API_VERSION}`
  const body = Buffer.from(requestBody(work))
  const head = [
    `POST ${path} HTTP/1.1`,
    'Host: 127.0.0.1',
    'Accept-Encoding: gzip, deflate',
    'Connection: keep-alive',
    'Accept: application/json',
    'Content-Type: application/json',
    'User-Agent: OpenAI/Python 1.54.4',
    'X-Stainless-Lang: python',
    'X-Stainless-Package-Version: 1.54.4',
    'X-Stainless-Runtime: CPython',
    route === 'gateway' ? `Authorization: Bearer ${CLIENT_KEY}` : `api-key: ${AZURE_KEY}`,
    `${ANSWER_HEADER}: ${answer}`,
    `Content-Length: ${body.length}`,
  ].join('\r\n')
  return { all: Buffer.concat([Buffer.from(`${head}\r\n\r\n`), body]), bodyBytes: body.length }
}
