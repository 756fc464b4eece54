// A session of Responses over WebSocket, from the proxy's 101 to its end. The client's messages go in order; each
// `response.create` is admitted, limited, logged and counted by itself. What is refused is an error message, and the
// session goes on.
import type { Operation } from '../azure/operations.ts'
import { estimateTokens } from '../balancer/key-limits.ts'
import type { Pool } from '../balancer/pool.ts'
import { lastMember } from '../body/edit.ts'
import { scanJson } from '../body/json-scan.ts'
import { type ReadBody, readerFor } from '../body/read.ts'
import type { Deadline } from '../clock.ts'
import type { Refusal } from '../errors.ts'
import { type ClientLink, createClientLink } from '../forward/client-link.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { askAdmission } from './admit.ts'
import { type Binding, bindToState } from './affinity.ts'
import type { ClientSocket } from './realtime.ts'
import { isRefusal, missingModel, resolvePool } from './resolve-model.ts'
import { SessionBackend } from './socket-backend.ts'
import { ELSEWHERE, errorFrame, refusalFrame, type Turn, turnExchange } from './socket-turn.ts'

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
  return new Promise(resolve => new SocketSession(options, resolve).start())
}

/** A session: the client's messages in their order, the turns they begin, and the reasons to end it. */
class SocketSession {
  readonly #options: SessionOptions
  readonly #session: Exchange
  readonly #socket: ClientSocket
  readonly #runtime: Runtime
  readonly #finish: () => void
  readonly #backend: SessionBackend
  readonly #link: ClientLink
  readonly #watch: Deadline
  readonly #waiting: Message[] = []
  #count = 0
  #over = false
  #draining = false
  #working = false
  #stopCancel: () => void = () => undefined
  #stopDrain: () => void = () => undefined

  constructor(options: SessionOptions, finish: () => void) {
    this.#options = options
    this.#session = options.exchange
    this.#socket = options.client
    this.#runtime = options.runtime
    this.#finish = finish
    this.#backend = new SessionBackend({
      ...this.#options,
      link: () => this.#link,
      refuseTurn: (exchange, frame, refusal) => this.#refuseTurn(exchange, frame, refusal),
      end: (code, reason, error) => this.#end(code, reason, error),
      onProgress: () => {
        this.#watchAgain()
        this.#leaveIfIdle()
      },
    })
    this.#link = createClientLink({
      socket: this.#socket.socket,
      head: this.#socket.head,
      maxMessageBytes: this.#runtime.config.server.maxBodyBytes,
      budget: this.#runtime.shared.bodyBudget,
      after: (ms, run) => void this.#runtime.shared.clock.after(ms, run),
      onMessage: (bytes, release) => {
        this.#waiting.push({ bytes, release })
        if (this.#waiting.length >= MAX_WAITING) this.#link.pause()
        void this.#work()
      },
      onControl: (opcode, payload) => {
        this.#backend.control(opcode, payload)
        return this.#backend.connected() !== undefined
      },
      onGone: () => this.#tearDown('client_closed'),
      onBytes: bytes => {
        this.#session.record.bytesIn += bytes
      },
    })
    this.#watch = this.#runtime.shared.deadlines.add(this.#runtime.shared.clock.nowMs() + UNUSED_MS, () => {
      if (this.#link.isFull()) {
        this.#tearDown('client_stalled')
        this.#link.drop()
      } else if (this.#backend.turns().length > 0) this.#backend.timeOut()
      else if (this.#working || this.#backend.searching() !== undefined) this.#watchAgain()
      else this.#end(1000, 'Nothing was asked.', undefined)
    })
  }

  /** Begins to read, and listens for the reasons to end. */
  start(): void {
    this.#stopCancel = this.#session.cancellation.onCancel(reason => {
      if (reason === 'shutdown') this.#end(1001, 'The proxy is shutting down.', 'shutdown')
      else this.#tearDown(reason)
    })
    this.#stopDrain = this.#socket.onDrain(() => {
      this.#draining = true
      this.#leaveIfIdle()
    })
    this.#link.resume()
  }

  #tearDown(error: string | undefined): void {
    if (this.#over) return
    this.#over = true
    this.#session.record.error = error
    for (const message of this.#waiting.splice(0)) message.release()
    this.#backend.leave(error)
    this.#runtime.shared.deadlines.remove(this.#watch)
    this.#stopCancel()
    this.#stopDrain()
    this.#finish()
  }

  #end(code: number, reason: string, error: string | undefined): void {
    if (this.#over) return
    this.#link.end(code, reason)
    this.#tearDown(error)
  }

  #leaveIfIdle(): void {
    const isIdle =
      this.#backend.turns().length === 0 &&
      this.#waiting.length === 0 &&
      !this.#working &&
      this.#backend.searching() === undefined
    if (this.#draining && isIdle) this.#end(1001, 'The proxy is shutting down.', undefined)
  }

  #refuseTurn(exchange: Exchange, frame: object, { status, code }: Pick<Refusal, 'status'> & { code: string }): void {
    exchange.record.status = status
    exchange.record.error = code
    this.#link.say(frame)
    this.#socket.turnEnded(exchange)
  }

  async #work(): Promise<void> {
    if (this.#working) return
    this.#working = true
    for (let message = this.#waiting.shift(); message !== undefined; message = this.#waiting.shift()) {
      try {
        await this.#take(message.bytes)
      } catch {
        this.#end(1011, 'The proxy failed to handle this message.', 'internal_error')
      } finally {
        message.release()
      }
      if (!this.#over && this.#waiting.length < MAX_WAITING) this.#link.resume()
    }
    this.#working = false
    this.#leaveIfIdle()
  }

  async #take(bytes: Buffer): Promise<void> {
    await this.#backend.searching()
    if (this.#over) return
    const scan = scanJson([bytes], FRAME_MEMBERS)
    if (scan.kind === 'invalid') {
      const message = `The message is no JSON object: ${scan.reason} (at byte ${scan.offset}).`
      this.#link.say(errorFrame({ status: 400, code: 'invalid_json', message }))
      return
    }
    const type = lastMember(scan.members, 'type')?.text
    if (type === 'response.create') return this.#create(bytes, lastMember(scan.members, 'stream_id')?.text)
    const message = 'A session begins with "response.create".'
    if (this.#backend.connected() !== undefined) this.#backend.send(bytes)
    // Some Codex versions acknowledge what no backend answers.
    else if (type !== 'response.processed') {
      this.#link.say(errorFrame({ status: 400, code: 'invalid_request', message, param: 'type' }))
    }
  }

  async #create(bytes: Buffer, lane: string | undefined): Promise<void> {
    const exchange = turnExchange(this.#session, ++this.#count, this.#runtime.shared.clock.nowMs())
    exchange.record.bytesIn = bytes.length
    const refuse = (refusal: Refusal): void => this.#refuseTurn(exchange, refusalFrame(refusal), refusal)
    const reader = readerFor(this.#options.operation, 'application/json')
    reader.scanner.push(bytes)
    const verdict = reader.finish([bytes])
    if (verdict.kind === 'refused') return refuse(verdict.refusal)
    const { body: read } = verdict
    const pool = this.#poolFor(exchange, read)
    if (isRefusal(pool)) return refuse(pool)
    exchange.record.model = pool.model.name
    const tokens = estimateTokens(bytes.length, read.maxOutputTokens)
    const admitted = await askAdmission(exchange, tokens, this.#runtime.shared, pool.model.price)
    if (admitted.kind === 'refused') return this.#over ? undefined : refuse(admitted.refusal)
    const { settle } = admitted
    const binding = await bindToState([bytes], read.scan, this.#options.operation, pool, exchange, this.#runtime)
    const refusal = binding.kind === 'refused' ? binding.refusal : this.#whyElsewhere(binding)
    if (this.#over || refusal !== undefined || binding.kind === 'refused') {
      exchange.record.status = refusal?.status ?? 499
      settle()
      if (refusal !== undefined && !this.#over) refuse(refusal)
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
      askedMs: this.#runtime.shared.clock.nowMs(),
      hasOutput: false,
      hasEvent: false,
    }
    await this.#backend.ask({ turn, pool, read, binding, bytes })
  }

  /** The pool of the model that a turn names: every turn of a session asks for the same one. */
  #poolFor(exchange: Exchange, read: ReadBody): Pool | Refusal {
    const connected = this.#backend.connected()
    if (this.#draining) {
      const message = 'This proxy is shutting down. Open a new session: another one answers.'
      return { status: 503, code: 'draining', message, retryAfterMs: 1000 }
    }
    if (this.#backend.turns().length >= MAX_TURNS) {
      const message = 'Too many turns of this session are in progress.'
      return { status: 429, code: 'rate_limit_exceeded', message, retryAfterMs: 1000 }
    }
    const name = this.#options.model ?? read.model ?? connected?.pool.model.name
    if (name === undefined) return missingModel()
    const pool = resolvePool(exchange, name, this.#runtime)
    if (isRefusal(pool) || connected === undefined || connected.pool === pool) return pool
    const [serves, asked] = [connected.pool.model.name, pool.model.name]
    return {
      status: 400,
      code: 'invalid_request',
      message: `This session serves the model ${JSON.stringify(serves)}. Open another one for ${JSON.stringify(asked)}.`,
      param: 'model',
    }
  }

  /**
   * State that another resource holds cannot be had on this session. The code makes clients open a new one, and send
   * there all that they know instead of an id. So a resumed Codex session goes on: its warm-up turn chose a backend
   * before its encrypted reasoning, made by another one, was to be seen.
   */
  #whyElsewhere(binding: Binding): Refusal | undefined {
    const connected = this.#backend.connected()
    if (connected === undefined || binding.kind !== 'pinned') return undefined
    if (binding.resources.has(connected.member.resourceId) && !binding.bringsForeign) return undefined
    return ELSEWHERE
  }

  /** Silence that is too long for what is awaited; without a turn nothing is, once there is a backend. */
  #watchAgain(): void {
    const nowMs = this.#runtime.shared.clock.nowMs()
    const [turn] = this.#backend.turns()
    const connected = this.#backend.connected()
    if (turn !== undefined) {
      this.#watch.dueMs = nowMs + (turn.hasEvent ? this.#runtime.forwardDeps.limits.idleMs : turn.pool.model.timeoutMs)
    } else this.#watch.dueMs = connected === undefined ? nowMs + UNUSED_MS : Number.POSITIVE_INFINITY
  }
}
