// One keep-alive connection of the load generator: sends a prepared request, checks every byte of the answer, tells
// when it is whole. Connects again by itself after a failure.
import net, { type Socket } from 'node:net'
import tls from 'node:tls'
import { createMessageReader } from './message-reader.ts'
import { DONE, EVENT, nowUs, STAMP_FROM, STAMP_TO } from './payloads.ts'

/** Checks an answer's body as it comes. */
export interface BodyCheck {
  begin(): void
  /** @returns whether these bytes are right */
  take(bytes: Buffer, from: number, to: number): boolean
  /** @returns whether nothing is missing */
  whole(): boolean
}

/** The body is these bytes. */
export function sameBytes(expected: Buffer): BodyCheck {
  let at = 0
  return {
    begin() {
      at = 0
    },
    take(bytes, from, to) {
      const begun = at
      at += to - from
      return at <= expected.length && bytes.compare(expected, begun, at, from, to) === 0
    },
    whole: () => at === expected.length,
  }
}

/**
 * The body is so many events, each with the time at which it was sent, and the end of the stream.
 * @param onEvent called with an event's time on its way, in µs, as soon as its last byte is here
 */
export function stampedEvents(count: number, onEvent: (delayUs: number) => void): BodyCheck {
  const eventsBytes = count * EVENT.length
  let at = 0
  let sentUs = 0
  return {
    begin() {
      at = 0
    },
    take(bytes, from, to) {
      for (let i = from; i < to; ) {
        if (at >= eventsBytes) {
          const begun = at - eventsBytes
          at += to - i
          return at <= eventsBytes + DONE.length && bytes.compare(DONE, begun, begun + to - i, i, to) === 0
        }
        const place = at % EVENT.length
        const inStamp = place >= STAMP_FROM && place < STAMP_TO
        const end = inStamp ? STAMP_TO : place < STAMP_FROM ? STAMP_FROM : EVENT.length
        const step = Math.min(to - i, end - place)
        if (place === STAMP_FROM) sentUs = 0
        if (inStamp) sentUs = sentUs * 10 ** step + Number(bytes.toString('latin1', i, i + step))
        else if (bytes.compare(EVENT, place, place + step, i, i + step) !== 0) return false
        i += step
        at += step
        if (at % EVENT.length === 0) onEvent(nowUs() - sentUs)
      }
      return true
    },
    whole: () => at === eventsBytes + DONE.length,
  }
}

export interface Client {
  /** Sends the request; not before the one before is done. */
  send(): void
  close(): void
}

/** `resumed`: from the last connection's ticket, as a client comes back. */
export type Handshake = 'full' | 'resumed'

export interface ClientOptions {
  readonly port: number
  readonly request: Buffer
  readonly check: BodyCheck
  /** It speaks TLS, and trusts any certificate: only the target is measured. */
  readonly secure: boolean
  /** A connection for each request, with a handshake of this kind; left out: connections are kept. */
  readonly handshakes?: Handshake | undefined
  /** The head of a good answer is here. */
  readonly onHead?: () => void
  /** @param problem undefined: every byte was as it must be */
  readonly onDone: (problem: string | undefined) => void
}

export function createClient(options: ClientOptions): Client {
  const { port, request, check, secure, handshakes, onHead, onDone } = options
  let socket: Socket | undefined
  let waiting = false
  let session: Buffer | undefined

  const open = (): Socket => {
    if (!secure) return net.connect({ port, host: '127.0.0.1', noDelay: true })
    const fresh = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, session })
    fresh.setNoDelay(true)
    if (handshakes === 'resumed') {
      fresh.on('session', ticket => {
        session = ticket
      })
    }
    return fresh
  }

  const done = (problem: string | undefined): void => {
    if (problem !== undefined) {
      socket?.destroy()
      socket = undefined
    }
    if (!waiting) return
    waiting = false
    onDone(problem)
  }

  const connect = (): Socket => {
    let sound = true
    const fresh = open()
    const read = createMessageReader({
      head(text) {
        check.begin()
        if (!text.startsWith('HTTP/1.1 200')) throw new Error(text.slice(0, text.indexOf('\r\n')))
        onHead?.()
      },
      body(bytes, from, to) {
        sound = check.take(bytes, from, to) && sound
      },
      end() {
        const problem = !sound ? 'other bytes' : check.whole() ? undefined : 'bytes are missing'
        sound = true
        if (handshakes !== undefined) {
          fresh.destroy()
          socket = undefined
        }
        done(problem)
      },
    })
    fresh.on('data', bytes => {
      try {
        read(bytes)
      } catch (error) {
        done(error instanceof Error ? error.message : 'no HTTP')
      }
    })
    fresh.on('error', error => {
      if (fresh === socket) done(error.message)
    })
    fresh.on('close', () => {
      if (fresh !== socket) return
      socket = undefined
      done('closed before its answer was whole')
    })
    return fresh
  }

  return {
    send() {
      waiting = true
      socket ??= connect()
      socket.write(request)
    },
    close() {
      waiting = false
      const old = socket
      socket = undefined
      old?.destroy()
    },
  }
}
