// A fake Azure OpenAI that is not the bottleneck: a raw socket server in a process of its own that answers prepared
// bytes. What is answered, the request's header chooses (payloads.ts). Its second port can be made to fail.
import net, { type AddressInfo, type Socket } from 'node:net'
import tls from 'node:tls'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createMessageReader } from './message-reader.ts'
import {
  ANSWER_HEADER,
  AZURE_KEY,
  DONE,
  EVENT,
  EVENTS_PER_BURST,
  expectedBody,
  nowUs,
  SLOW_EVENTS_PER_S,
  stampedEvent,
} from './payloads.ts'

export type ToUpstream = { readonly kind: 'fail'; readonly on: boolean } | { readonly kind: 'count' }

export type FromUpstream =
  | {
      readonly kind: 'listening'
      readonly port: number
      readonly secondPort: number
      /** The first port's answers over TLS 1.3, in the smallest records there are. */
      readonly tlsPort: number
      /** PEM of the certificate, signed by itself. */
      readonly certificate: string
    }
  /** Since the last count: what could be answered, its body bytes, and how often the second port was asked. */
  | { readonly kind: 'counted'; readonly requests: number; readonly bodyBytes: number; readonly askedSecond: number }

/** What Azure's front end adds to every answer. */
const AZURE_HEADERS = [
  'Content-Type: application/json',
  'apim-request-id: 7d1a5a0e-54d7-4f4a-9c1b-2f6d2f0c1a11',
  'Strict-Transport-Security: max-age=31536000; includeSubDomains; preload',
  'x-content-type-options: nosniff',
  'x-ms-region: East US 2',
  'x-ratelimit-limit-requests: 100000',
  'x-ratelimit-limit-tokens: 10000000',
  'x-ratelimit-remaining-requests: 99999',
  'x-ratelimit-remaining-tokens: 9999000',
  'x-ms-deployment-name: bench',
  'x-request-id: 5f7c4c52-1e07-4d7f-a3df-8b8f44c1b6a5',
  'Date: Tue, 19 Nov 2024 07:06:40 GMT',
]

function whole(status: string, body: Buffer): Buffer {
  const head = [`HTTP/1.1 ${status}`, ...AZURE_HEADERS, `Content-Length: ${body.length}`].join('\r\n')
  return Buffer.concat([Buffer.from(`${head}\r\n\r\n`), body])
}

function chunk(bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')])
}

const STREAM_HEAD = Buffer.from(
  `${['HTTP/1.1 200 OK', ...AZURE_HEADERS, 'Transfer-Encoding: chunked'].join('\r\n').replace('application/json', 'text/event-stream; charset=utf-8')}\r\n\r\n`,
)
const STREAM_END = Buffer.concat([chunk(DONE), Buffer.from('0\r\n\r\n')])
const SMALL = whole('200 OK', expectedBody('chat'))
const VECTORS = whole('200 OK', expectedBody('embeddings'))
const BURST = Buffer.concat([STREAM_HEAD, ...Array.from({ length: EVENTS_PER_BURST }, () => chunk(EVENT)), STREAM_END])
const PROBED = whole('200 OK', Buffer.from('{"data":[],"object":"list"}'))
const FAILED = whole(
  '500 Internal Server Error',
  Buffer.from('{"error":{"message":"The server had an error.","code":null}}'),
)
const REFUSED = whole('401 Unauthorized', Buffer.from('{"error":{"code":"401","message":"not what Azure expects"}}'))

const SOUND = new RegExp(`^POST /openai/deployments/[^ ]+\\?api-version=[^]*\\r\\napi-key: *${AZURE_KEY}`, 'i')
const WANTED = new RegExp(`\\r\\n${ANSWER_HEADER}: *([a-z]+)(?:=(\\d+))?`, 'i')

/** Slow streams speak in this many groups, one after the other: independent streams would not all speak at once. */
const GROUPS = 100
const GROUP_EVERY_US = 1e6 / SLOW_EVENTS_PER_S / GROUPS
const TICK_MS = 1
/** OpenSSL makes no smaller TLS records (SSL_CTX_set_max_send_fragment). */
const LEAST_RECORD_BYTES = 512

interface SlowStream {
  readonly socket: Socket
  left: number
}

/** @returns begins a stream on a connection, of so many seconds */
function createSlowStreams(): (socket: Socket, seconds: number) => void {
  const groups = Array.from({ length: GROUPS }, () => new Set<SlowStream>())
  let ticking: NodeJS.Timeout | undefined
  let open = 0
  let begun = 0
  let due = 0
  let dueUs = 0

  const speak = (group: Set<SlowStream>): void => {
    for (const stream of group) {
      if (stream.left-- > 0 && !stream.socket.destroyed) {
        stream.socket.write(chunk(stampedEvent(nowUs())))
        continue
      }
      group.delete(stream)
      open--
      if (!stream.socket.destroyed) stream.socket.write(STREAM_END)
    }
  }
  const tick = (): void => {
    for (; dueUs <= nowUs(); dueUs += GROUP_EVERY_US) speak(groups[due++ % GROUPS] ?? new Set())
    if (open > 0) return
    clearInterval(ticking)
    ticking = undefined
  }
  return (socket, seconds) => {
    socket.write(STREAM_HEAD)
    groups[begun++ % GROUPS]?.add({ socket, left: seconds * SLOW_EVENTS_PER_S })
    open++
    if (ticking !== undefined) return
    dueUs = nowUs()
    ticking = setInterval(tick, TICK_MS)
  }
}

function listen(
  onConnection: (socket: Socket) => void,
  secured?: { readonly cert: string; readonly key: string },
): Promise<number> {
  const take = (socket: Socket): void => {
    socket.on('error', () => socket.destroy())
    // Writes that follow each other would leave as one record: this cuts them into one for every two or three events.
    if (socket instanceof tls.TLSSocket) socket.setMaxSendFragment(LEAST_RECORD_BYTES)
    onConnection(socket)
  }
  const server =
    secured === undefined
      ? net.createServer({ noDelay: true }, take)
      : tls.createServer({ ...secured, noDelay: true, minVersion: 'TLSv1.3' }, take)
  server.on('tlsClientError', () => undefined)
  return new Promise(resolve => {
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => resolve((server.address() as AddressInfo).port))
  })
}

async function run(tell: (message: FromUpstream) => void): Promise<void> {
  const addSlow = createSlowStreams()
  let failing = false
  let requests = 0
  let bodyBytes = 0
  let askedSecond = 0

  const serve = (socket: Socket, second: boolean): void => {
    let head = ''
    const answer = (): void => {
      if (head.startsWith('GET ')) {
        socket.write(second && failing ? FAILED : PROBED)
        return
      }
      if (second) askedSecond++
      if (second && failing) socket.write(FAILED)
      else if (!SOUND.test(head)) socket.write(REFUSED)
      else {
        requests++
        const [, wanted, seconds] = WANTED.exec(head) ?? []
        if (wanted === 'slow') addSlow(socket, Number(seconds))
        else socket.write(wanted === 'embeddings' ? VECTORS : wanted === 'burst' ? BURST : SMALL)
      }
    }
    const read = createMessageReader({
      head(text) {
        head = text
      },
      body(_bytes, from, to) {
        bodyBytes += to - from
      },
      end: answer,
    })
    socket.on('data', bytes => {
      try {
        read(bytes)
      } catch {
        socket.destroy()
      }
    })
  }

  const port = await listen(socket => serve(socket, false))
  const secondPort = await listen(socket => serve(socket, true))
  const { cert, key } = makeCertificate('127.0.0.1')
  const tlsPort = await listen(socket => serve(socket, false), { cert, key })
  process.on('message', (message: ToUpstream) => {
    if (message.kind === 'fail') failing = message.on
    else {
      tell({ kind: 'counted', requests, bodyBytes, askedSecond })
      requests = bodyBytes = askedSecond = 0
    }
  })
  tell({ kind: 'listening', port, secondPort, tlsPort, certificate: cert })
}

// The process that started it is gone: so is its reason to be.
process.on('disconnect', () => process.exit())
await run(message => process.send?.(message))
