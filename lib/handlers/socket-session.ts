// A session of Responses over WebSocket, from the proxy's 101 to its end: messages of the client in order, each
// `response.create` admitted, limited, logged and counted by itself. What is refused is an error message, and the
// session goes on.
import type { Operation } from '../azure/operations.ts'
import { estimateTokens } from '../balancer/key-limits.ts'
import type { Pool } from '../balancer/pool.ts'
import { lastMember } from '../body/edit.ts'
import { scanJson } from '../body/json-scan.ts'
import { type ReadBody, readerFor } from '../body/read.ts'
import type { Refusal } from '../errors.ts'
import { createClientLink } from '../forward/client-link.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { askAdmission } from './admit.ts'
import { type Binding, bindToState } from './affinity.ts'
import type { ClientSocket } from './realtime.ts'
import { isRefusal, missingModel, resolvePool } from './resolve-model.ts'
import { createSessionBackend } from './socket-backend.ts'
import { errorFrame, refusalFrame, type Turn, turnExchange } from './socket-turn.ts'

export interface SessionOptions {
  readonly exchange: Exchange
  readonly client: ClientSocket
  readonly runtime: Runtime
  readonly operation: Operation
  readonly model: string | undefined
  readonly query: string
}

/** Messages of a client that wait while a backend is being chosen; above it nothing more is read from the client. */
const MAX_WAITING = 16
/** Turns of one session in progress: Azure runs one at a time, OpenAI one a lane. */
const MAX_TURNS = 64
/** A session that has no backend and asks for none is ended after this, in milliseconds. */
const UNUSED_MS = 600_000
const FRAME_MEMBERS: ReadonlySet<string> = new Set(['type', 'stream_id'])

interface Message {
  readonly bytes: Buffer
  readonly release: () => void
}

/** Runs a session to its end. Never rejects for what a client or a backend does. */
export function runSocketSession(options: SessionOptions): Promise<void> {
  const { exchange: session, client: socket, runtime, operation } = options
  const { clock, deadlines } = runtime.shared
  let count = 0
  let over = false
  let draining = false
  let working = false
  const waiting: Message[] = []
  let finish: () => void = () => undefined
  const finished = new Promise<void>(resolve => {
    finish = resolve
  })

  const tearDown = (error: string | undefined): void => {
    if (over) return
    over = true
    session.record.error = error
    for (const message of waiting.splice(0)) message.release()
    backend.leave(error)
    deadlines.remove(watch)
    stopCancel()
    stopDrain()
    finish()
  }
  const end = (code: number, reason: string, error: string | undefined): void => {
    if (over) return
    link.end(code, reason)
    tearDown(error)
  }
  const leaveIfIdle = (): void => {
    const isIdle = backend.turns().length === 0 && waiting.length === 0 && !working && backend.settled() === undefined
    if (draining && isIdle) end(1001, 'The proxy is shutting down.', undefined)
  }

  const refuseTurn = (
    exchange: Exchange,
    frame: object,
    { status, code }: Pick<Refusal, 'status'> & { code: string },
  ): void => {
    exchange.record.status = status
    exchange.record.error = code
    link.say(frame)
    socket.turnEnded(exchange)
  }

  const backend = createSessionBackend({
    ...options,
    link: () => link,
    refuseTurn,
    end,
    onProgress() {
      watchAgain()
      leaveIfIdle()
    },
  })

  const link = createClientLink({
    socket: socket.socket,
    head: socket.head,
    maxMessageBytes: runtime.config.server.maxBodyBytes,
    budget: runtime.shared.bodyBudget,
    after: (ms, run) => void clock.after(ms, run),
    onMessage(bytes, release) {
      waiting.push({ bytes, release })
      if (waiting.length >= MAX_WAITING) link.pause()
      void work()
    },
    onControl(opcode, payload) {
      backend.control(opcode, payload)
      return backend.connected() !== undefined
    },
    onGone: () => tearDown('client_closed'),
    onBytes(bytes) {
      session.record.bytesIn += bytes
    },
  })

  const work = async (): Promise<void> => {
    if (working) return
    working = true
    for (let message = waiting.shift(); message !== undefined; message = waiting.shift()) {
      try {
        await take(message.bytes)
      } catch {
        end(1011, 'The proxy failed to handle this message.', 'internal_error')
      } finally {
        message.release()
      }
      if (!over && waiting.length < MAX_WAITING) link.resume()
    }
    working = false
    leaveIfIdle()
  }

  const take = async (bytes: Buffer): Promise<void> => {
    await backend.settled()
    if (over) return
    const scan = scanJson([bytes], FRAME_MEMBERS)
    if (scan.kind === 'invalid') {
      const message = `The message is no JSON object: ${scan.reason} (at byte ${scan.offset}).`
      link.say(errorFrame({ status: 400, code: 'invalid_json', message }))
      return
    }
    const type = lastMember(scan.members, 'type')?.text
    if (type === 'response.create') return create(bytes, lastMember(scan.members, 'stream_id')?.text)
    const message = 'A session begins with "response.create".'
    if (backend.connected() !== undefined) backend.send(bytes)
    // Some Codex versions acknowledge what no backend answers.
    else if (type !== 'response.processed') {
      link.say(errorFrame({ status: 400, code: 'invalid_request', message, param: 'type' }))
    }
  }

  const create = async (bytes: Buffer, lane: string | undefined): Promise<void> => {
    const exchange = turnExchange(session, ++count, clock.nowMs())
    exchange.record.bytesIn = bytes.length
    const refuse = (refusal: Refusal): void => refuseTurn(exchange, refusalFrame(refusal), refusal)
    const reader = readerFor(operation, 'application/json')
    reader.scanner.push(bytes)
    const verdict = reader.finish([bytes])
    if (verdict.kind === 'refused') return refuse(verdict.refusal)
    const { body: read } = verdict
    const pool = poolFor(exchange, read)
    if (isRefusal(pool)) return refuse(pool)
    exchange.record.model = pool.model.name
    const tokens = estimateTokens(bytes.length, read.maxOutputTokens)
    const admitted = await askAdmission(exchange, tokens, runtime.shared, pool.model.price)
    if (admitted.kind === 'refused') return over ? undefined : refuse(admitted.refusal)
    const { settle } = admitted
    const binding = await bindToState([bytes], read.scan, operation, pool, exchange, runtime)
    const refusal = binding.kind === 'refused' ? binding.refusal : whyElsewhere(binding)
    if (over || refusal !== undefined || binding.kind === 'refused') {
      exchange.record.status = refusal?.status ?? 499
      settle()
      if (refusal !== undefined && !over) refuse(refusal)
      return
    }
    const { onEvents } = binding
    const turn: Turn = {
      exchange,
      pool,
      lane,
      settle,
      onEvents,
      member: undefined,
      lease: undefined,
      askedMs: clock.nowMs(),
      hasOutput: false,
      hasEvent: false,
    }
    await backend.ask({ turn, pool, read, binding, bytes })
  }

  /** The pool of the model that a turn names: every turn of a session asks for the same one. */
  const poolFor = (exchange: Exchange, read: ReadBody): Pool | Refusal => {
    const connected = backend.connected()
    if (draining) {
      const message = 'This proxy is shutting down. Open a new session: another one answers.'
      return { status: 503, code: 'draining', message, retryAfterMs: 1000 }
    }
    if (backend.turns().length >= MAX_TURNS) {
      const message = 'Too many turns of this session are in progress.'
      return { status: 429, code: 'rate_limit_exceeded', message, retryAfterMs: 1000 }
    }
    const name = options.model ?? read.model ?? connected?.pool.model.name
    if (name === undefined) return missingModel()
    const pool = resolvePool(exchange, name, runtime)
    if (isRefusal(pool) || connected === undefined || connected.pool === pool) return pool
    const [serves, asked] = [connected.pool.model.name, pool.model.name]
    return {
      status: 400,
      code: 'invalid_request',
      message: `This session serves the model ${JSON.stringify(serves)}. Open another one for ${JSON.stringify(asked)}.`,
      param: 'model',
    }
  }

  /** State that another resource holds cannot be had on this session. The code makes clients open a new one. */
  const whyElsewhere = (binding: Binding): Refusal | undefined => {
    const connected = backend.connected()
    if (connected === undefined || binding.kind !== 'bound') return undefined
    if (binding.resources.has(connected.member.resourceId)) return undefined
    return {
      status: 400,
      code: 'previous_response_not_found',
      message: 'Another resource holds what the request refers to. Open a new session for it.',
      param: 'previous_response_id',
    }
  }

  /** Silence that is too long for what is awaited; without a turn nothing is, once there is a backend. */
  const watchAgain = (): void => {
    const nowMs = clock.nowMs()
    const [turn] = backend.turns()
    const connected = backend.connected()
    if (turn !== undefined) {
      watch.dueMs = nowMs + (turn.hasEvent ? runtime.forwardDeps.limits.idleMs : turn.pool.model.timeoutMs)
    } else watch.dueMs = connected === undefined ? nowMs + UNUSED_MS : Number.POSITIVE_INFINITY
  }
  const watch = deadlines.add(clock.nowMs() + UNUSED_MS, () => {
    if (link.isFull()) {
      tearDown('client_stalled')
      link.drop()
    } else if (backend.turns().length > 0) backend.timeOut()
    else if (working || backend.settled() !== undefined) watchAgain()
    else end(1000, 'Nothing was asked.', undefined)
  })
  const stopCancel = session.cancellation.onCancel(reason => {
    if (reason === 'shutdown') end(1001, 'The proxy is shutting down.', 'shutdown')
    else tearDown(reason)
  })
  const stopDrain = socket.onDrain(() => {
    draining = true
    leaveIfIdle()
  })
  link.resume()
  return finished
}
