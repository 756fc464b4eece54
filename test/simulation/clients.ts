// The simulated clients: they send what the plan says, read (or do not read) what comes, and keep it for the checks.
import type { Engine } from './engine.ts'
import { createMessageReader, type MessageReader, type ReadMessage, statusOf } from './http-text.ts'
import { arrive, type Peer } from './network.ts'
import type { RequestEvent, WorldPlan } from './plan.ts'
import { KEYS, MODEL, type Process, type Processes } from './processes.ts'

/** What a client got. */
export interface ClientResult {
  readonly status: number
  readonly headers: ReadonlyMap<string, string>
  readonly body: string
  /** Whole by HTTP's framing, cut off, or left by the client itself. */
  readonly end: 'whole' | 'cut' | 'left'
  readonly atMs: number
}

/** A request on its way. */
export interface Asking {
  readonly id: string
  readonly event: RequestEvent
  readonly process: Process
  readonly sentMs: number
  /** What it began with: a reload does not concern it. */
  readonly runtime: unknown
  /** The backends of its model in the config of then. */
  readonly backends: ReadonlySet<string>
  /** The proxy has begun to answer; the first line it wrote. */
  wroteMs: number | undefined
  /** When the client went away, where it did so before its answer was whole. */
  leftMs: number | undefined
  result: ClientResult | undefined
  /** The process died under it. */
  orphaned: boolean
}

export interface ClientsDeps {
  readonly engine: Engine
  readonly plan: WorldPlan
  readonly processes: () => Processes
  readonly latencyMs: number
  /** The head of an answer has just been written. */
  onHead(asking: Asking, text: string): void
  onResult(asking: Asking): void
  trace(text: () => string): void
}

export interface Clients {
  send(event: RequestEvent): Asking | undefined
  /** A request of an operator: what it answered does not matter to anybody. */
  steer(process: number, path: string, body: string): void
  /** A GET without a key; `undefined` where there was no answer. */
  get(process: number, path: string, done: (message: ReadMessage | undefined) => void): void
  readonly all: ReadonlyMap<string, Asking>
  /** Those without a result. */
  readonly underWay: ReadonlySet<Asking>
  open(): number
  closeAll(): void
}

interface Connection {
  readonly process: Process
  peer: Peer
  asking: Asking | undefined
  reader: MessageReader
  closed: boolean
}

/** Read by nobody yet: what a client that stalls leaves in its window. */
const STALLED_WINDOW_BYTES = 600

export function createClients(deps: ClientsDeps): Clients {
  const { engine, plan, latencyMs } = deps
  const byNumber = new Map<number, Connection>()
  const connections = new Set<Connection>()
  const all = new Map<string, Asking>()
  const underWay = new Set<Asking>()

  const settle = (connection: Connection, end: ClientResult['end'], message: ReadMessage | undefined): void => {
    const { asking } = connection
    connection.asking = undefined
    if (asking === undefined || asking.result !== undefined) return
    underWay.delete(asking)
    asking.orphaned = asking.process.host.gone
    asking.result = {
      status: message === undefined ? 0 : statusOf(message),
      headers: message?.headers ?? new Map(),
      body: message?.body ?? '',
      end,
      atMs: engine.nowMs(),
    }
    deps.onResult(asking)
  }

  const connect = (
    process: Process,
    windowBytes: number | undefined,
    onMessage?: (message: ReadMessage) => void,
  ): Connection => {
    const reader = createMessageReader(message => {
      if (statusOf(message) === 100) return
      onMessage?.(message)
      settle(connection, 'whole', message)
      if (message.headers.get('connection') === 'close') connection.peer.end()
    })
    const { socket, peer } = arrive(
      engine,
      {
        host: process.host,
        latencyMs,
        ...(windowBytes === undefined ? {} : { windowBytes }),
        watch: {
          wrote(text) {
            const { asking } = connection
            if (asking === undefined || asking.wroteMs !== undefined || !text.startsWith('HTTP/1.1 ')) return
            asking.wroteMs = engine.nowMs()
            deps.onHead(asking, text)
          },
          destroyed: () => undefined,
        },
      },
      {
        data: text => reader.push(text),
        gone() {
          connection.closed = true
          connections.delete(connection)
          settle(connection, 'cut', reader.partial())
          connection.peer.end()
        },
      },
    )
    const connection: Connection = { process, peer, asking: undefined, reader, closed: false }
    connections.add(connection)
    // The process hears of it as of anything else.
    engine.at(engine.nowMs(), () => void process.proxy.listener.server.emit('connection', socket), process.host)
    return connection
  }

  const connectionFor = (event: RequestEvent): Connection | undefined => {
    const kept = byNumber.get(event.connection)
    if (
      kept !== undefined &&
      !kept.closed &&
      !kept.peer.closed &&
      !kept.process.host.gone &&
      event.stallMs === undefined
    ) {
      return kept.asking === undefined ? kept : undefined
    }
    const living = deps.processes().all
    const process = living[event.process] ?? living.find(candidate => candidate !== undefined)
    if (process === undefined) return undefined
    const made = connect(process, event.stallMs === undefined ? undefined : STALLED_WINDOW_BYTES)
    byNumber.set(event.connection, made)
    return made
  }

  const bodyOf = ({ form, id, connection }: RequestEvent, previous: string | undefined): string => {
    const parts = [`"model":"${MODEL}"`]
    if (form === 'stream' || form === 'create_stream') parts.push('"stream":true')
    if (plan.settings.balance === 'prompt_cache') parts.push(`"prompt_cache_key":"k${connection % 3}"`)
    if (previous !== undefined) parts.push(`"previous_response_id":"${previous}"`)
    if (form === 'chat' || form === 'stream') parts.push(`"messages":[{"role":"user","content":"${id}"}]`)
    else parts.push(`"input":"${id}"`)
    return `{${parts.join(',')}}`
  }

  const headOf = (method: string, path: string, key: string, id: string, length: number): string =>
    [
      `${method} ${path} HTTP/1.1`,
      'host: proxy.test',
      `authorization: Bearer ${key}`,
      `x-request-id: ${id}`,
      `x-client-request-id: ${id}`,
      'content-type: application/json',
      `content-length: ${length}`,
      '\r\n',
    ].join('\r\n')

  const textFor = (event: RequestEvent): string | undefined => {
    const { form, id, key, about } = event
    const known = about === undefined ? undefined : responseIdOf(all.get(about))
    if ((form === 'follow_up' || form === 'read') && known === undefined) return undefined
    if (form === 'read') return headOf('GET', `/v1/responses/${known}`, KEYS[key], id, 0)
    const path =
      form === 'embeddings'
        ? '/v1/embeddings'
        : form === 'chat' || form === 'stream'
          ? '/v1/chat/completions'
          : '/v1/responses'
    const body = bodyOf(event, known)
    return headOf('POST', path, KEYS[key], id, body.length) + body
  }

  return {
    all,
    underWay,
    open: () => connections.size,
    closeAll() {
      for (const { peer } of connections) peer.end()
    },
    send(event) {
      const text = textFor(event)
      const connection = text === undefined ? undefined : connectionFor(event)
      if (connection === undefined || text === undefined) return undefined
      const asking: Asking = {
        id: event.id,
        event,
        process: connection.process,
        sentMs: engine.nowMs(),
        runtime: connection.process.proxy.runtime(),
        backends: new Set(
          connection.process.proxy
            .runtime()
            .pool(MODEL)
            ?.members.map(({ backend }) => backend.name),
        ),
        wroteMs: undefined,
        leftMs: undefined,
        result: undefined,
        orphaned: false,
      }
      connection.asking = asking
      all.set(event.id, asking)
      underWay.add(asking)
      connection.peer.write(text)
      const { leavesAfterMs, stallMs } = event
      if (leavesAfterMs !== undefined) {
        engine.outside(engine.nowMs() + leavesAfterMs, () => {
          if (asking.result !== undefined) return
          asking.leftMs = engine.nowMs()
          const partial = connection.reader.partial()
          connection.peer.reset()
          connection.closed = true
          connections.delete(connection)
          settle(connection, 'left', partial)
        })
      }
      if (stallMs !== undefined) {
        connection.peer.pause()
        engine.outside(engine.nowMs() + stallMs, () => connection.peer.resume())
      }
      return asking
    },
    steer(index, path, body) {
      const process = deps.processes().all[index] ?? deps.processes().all.find(candidate => candidate !== undefined)
      if (process === undefined) return
      const connection = connect(process, undefined, () => connection.peer.end())
      connection.peer.write(headOf('POST', path, KEYS.admin, 'operator', body.length) + body)
    },
    get(index, path, done) {
      const process = deps.processes().all[index]
      if (process === undefined) return done(undefined)
      const connection = connect(process, undefined, message => {
        connection.peer.end()
        done(message)
      })
      connection.peer.write(headOf('GET', path, KEYS.good, 'watch', 0))
    },
  }
}

/** The id of the response that a request made, as its client saw it. */
export function responseIdOf(asking: Asking | undefined): string | undefined {
  return asking?.result === undefined ? undefined : /"id":"(resp_\w+)"/.exec(asking.result.body)?.[1]
}
