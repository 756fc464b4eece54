// A backend on bare sockets: it answers soundly, byte for byte, unless a fault strikes, which may write anything.
import net, { type Socket } from 'node:net'
import tls from 'node:tls'
import { createMessageReader } from '../bench/message-reader.ts'
import type { Certificate } from '../fixtures/certificate.ts'
import { OPERATIONS, type Operation, REASONING } from './answers.ts'

/** A request that has come whole. */
export interface AskedRequest {
  readonly operation: Operation
  readonly socket: Socket
  /** Its connection has served a request before. */
  readonly reused: boolean
  /** The client's number of it; 0 for requests that are not counted. */
  readonly turn: number
  /** The poison that its client has put into it, by its number. */
  readonly poison: number | undefined
}

export type Strike = (asked: AskedRequest) => void

/** The client's number of a request, and its poison. */
export const TURN_HEADER = 'x-ms-matrix-turn'
export const POISON_HEADER = 'x-ms-matrix-poison'

const TURN = new RegExp(`\\r\\n${TURN_HEADER}: *(\\d+)`, 'i')
const POISON = new RegExp(`\\r\\n${POISON_HEADER}: *(\\d+)`, 'i')
const STREAMS = Buffer.from('"stream":true')
const ENCRYPTED = Buffer.from('"encrypted_content"')

/** A message with its length. */
export function message(status: number, headers: Readonly<Record<string, string>>, body: string | Buffer): Buffer {
  const bytes = Buffer.from(body)
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  const head = `HTTP/1.1 ${status} Said\r\n${lines.join('')}Content-Length: ${bytes.length}\r\n\r\n`
  return Buffer.concat([Buffer.from(head, 'latin1'), bytes])
}

/** A stream's head. */
export const EVENTS_HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n'
/** Each event as a chunk of its own. */
export const chunks = (events: readonly string[]): string =>
  events.map(event => `${Buffer.byteLength(event).toString(16)}\r\n${event}\r\n`).join('')
export const LAST_CHUNK = '0\r\n\r\n'

function soundAnswer({ streams, startUp, output, whole }: Operation, closes: boolean): Buffer {
  const closing: Readonly<Record<string, string>> = closes ? { Connection: 'close' } : {}
  if (!streams) return message(200, { 'Content-Type': 'application/json', ...closing }, whole)
  const head = `${EVENTS_HEAD}${closes ? 'Connection: close\r\n' : ''}\r\n`
  return Buffer.from(`${head}${chunks([...startUp, ...output])}${LAST_CHUNK}`)
}

const everyOperation = [...OPERATIONS, REASONING]
const SOUND = new Map(everyOperation.map(each => [each, soundAnswer(each, false)]))
const SOUND_CLOSING = new Map(everyOperation.map(each => [each, soundAnswer(each, true)]))
const PROBED = message(200, { 'Content-Type': 'application/json' }, '{"data":[],"object":"list"}')
const UNKNOWN = message(
  404,
  { 'Content-Type': 'application/json' },
  '{"error":{"code":"404","message":"no such test"}}',
)

function operationOf(head: string, body: Buffer): Operation | undefined {
  const streams = body.includes(STREAMS)
  const path = head.slice(head.indexOf(' ') + 1, head.indexOf(' ', head.indexOf(' ') + 1))
  if (path.startsWith('/openai/v1/responses') && body.includes(ENCRYPTED)) return REASONING
  return OPERATIONS.find(
    each => each.streams === streams && path.endsWith(each.path.replace(/^\/v1/, '')) && path.includes('/v1/'),
  )
}

export interface MatrixBackend {
  readonly port: number
  /** Requests so far that make something. */
  asked(): number
  close(): Promise<void>
}

export interface MatrixBackendOptions {
  /** Speaks TLS with it. */
  readonly certificate: Certificate | undefined
  /** Every answer ends its connection, so that every request needs a new one. */
  readonly closes: boolean
  /** What a request meets in place of its answer. */
  readonly strikeFor: (asked: AskedRequest) => Strike | undefined
}

export async function startMatrixBackend(options: MatrixBackendOptions): Promise<MatrixBackend> {
  const { certificate, closes, strikeFor } = options
  const sockets = new Set<Socket>()
  let count = 0

  const answer = (socket: Socket, head: string, body: Buffer, reused: boolean): void => {
    // It crossed with the end of its connection: it meets nothing here, and comes again on a fresh one.
    if (socket.writableEnded) return
    const operation = head.startsWith('GET ') ? undefined : operationOf(head, body)
    if (operation === undefined) {
      socket.write(head.startsWith('GET ') ? PROBED : UNKNOWN)
      return
    }
    count++
    const poison = POISON.exec(head)?.[1]
    const asked = {
      operation,
      socket,
      reused,
      turn: Number(TURN.exec(head)?.[1] ?? 0),
      poison: poison === undefined ? undefined : Number(poison),
    }
    const strike = strikeFor(asked)
    if (strike === undefined) {
      socket.write((closes ? SOUND_CLOSING : SOUND).get(operation) ?? UNKNOWN)
      if (closes) socket.end()
    } else strike(asked)
  }

  const take = (socket: Socket): void => {
    let served = 0
    let head = ''
    let body: Buffer[] = []
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    const read = createMessageReader({
      head(text) {
        head = text
        body = []
      },
      body: (bytes, from, to) => void body.push(bytes.subarray(from, to)),
      end: () => answer(socket, head, Buffer.concat(body), served++ > 0),
    })
    socket.on('data', bytes => {
      try {
        read(bytes)
      } catch {
        socket.destroy()
      }
    })
  }
  const server =
    certificate === undefined ? net.createServer({ noDelay: true }, take) : tls.createServer(certificate, take)
  server.on('tlsClientError', () => undefined)
  const port = await listen(server)
  return {
    port,
    asked: () => count,
    close: () => closeServer(server, sockets),
  }
}

/** Listens at a free port of this machine. */
export function listen(server: net.Server): Promise<number> {
  return new Promise(resolve => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      resolve(address === null || typeof address === 'string' ? 0 : address.port)
    })
  })
}

export function closeServer(server: net.Server, sockets: ReadonlySet<Socket>): Promise<void> {
  return new Promise(resolve => {
    server.close(() => resolve())
    for (const socket of sockets) socket.destroy()
  })
}
