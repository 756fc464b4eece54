// A client of the fault matrix: a kept connection, one request after another, and a judgement of each answer.
import net, { type Socket } from 'node:net'
import { createMessageReader } from '../bench/message-reader.ts'

export interface Answer {
  /** 0: none came. */
  readonly status: number
  readonly head: string
  readonly body: string
  /** The connection ended before the answer did. */
  readonly cut: boolean
}

export interface MatrixClient {
  /** @param request a whole HTTP request; not before the one before is answered */
  ask(request: string): Promise<Answer>
  close(): void
}

export function createMatrixClient(port: number): MatrixClient {
  let socket: Socket | undefined
  let answered: ((answer: Answer) => void) | undefined
  let head = ''
  let body = ''

  const done = (cut: boolean): void => {
    const tell = answered
    answered = undefined
    tell?.({ status: Number(head.slice(9, 12)), head, body, cut })
  }
  const connect = (): Socket => {
    const fresh = net.connect({ port, host: '127.0.0.1', noDelay: true })
    const read = createMessageReader({
      head(text) {
        head = text
      },
      body(bytes, from, to) {
        body += bytes.toString('latin1', from, to)
      },
      end() {
        if (/\r\nconnection: close/i.test(head)) drop(fresh)
        done(false)
      },
    })
    const drop = (old: Socket): void => {
      old.destroy()
      if (socket === old) socket = undefined
    }
    const lost = (): void => {
      if (socket !== fresh) return
      drop(fresh)
      done(true)
    }
    fresh.on('data', bytes => {
      try {
        read(bytes)
      } catch {
        lost()
      }
    })
    fresh.on('error', lost)
    fresh.on('close', lost)
    return fresh
  }
  return {
    ask(request) {
      head = ''
      body = ''
      return new Promise(resolve => {
        answered = resolve
        socket ??= connect()
        socket.write(request, 'latin1')
      })
    },
    close() {
      const old = socket
      socket = undefined
      old?.destroy()
    },
  }
}
