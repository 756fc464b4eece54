// The backend's side of a session of Responses over WebSocket. The first turn may move to the next backend while
// nothing of its response has been shown (socket-choice.ts); later turns stay. What passes is read for owners, usage,
// errors and the ends of turns.
import type { ByteRange } from '../body/chunk-list.ts'
import { outcomeDetail, report } from '../forward/attempt-record.ts'
import { type BackendLink, type BackendMessage, createBackendLink } from '../forward/backend-link.ts'
import type { ClientLink } from '../forward/client-link.ts'
import { blameOf, labelOf, type Outcome, transportFailure } from '../forward/outcome.ts'
import type { Upgraded } from '../forward/upstream.ts'
import { readUsage } from '../forward/usage.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import type { ClientSocket } from './realtime.ts'
import { BackendChoice } from './socket-choice.ts'
import { readSocketEvent, type SocketEvent } from './socket-events.ts'
import type { Opened } from './socket-opening.ts'
import { type Connected, ELSEWHERE, errorFrame, type Turn, turnOf, type Wanted } from './socket-turn.ts'

export interface SessionBackendOptions {
  readonly exchange: Exchange
  readonly client: ClientSocket
  readonly runtime: Runtime
  readonly query: string
  link(): ClientLink
  /** Refuses a turn that no backend took. */
  refuseTurn(exchange: Exchange, frame: object, refusal: { readonly status: number; readonly code: string }): void
  /** Ends the session with a close frame. */
  end(code: number, reason: string, error: string | undefined): void
  /** A turn has begun, gone on or ended. */
  onProgress(): void
}

/** After output the backend has done its part, as far as can be seen. */
function afterOutput(turn: Turn, outcome: Outcome): Outcome {
  return turn.hasOutput ? { kind: 'served' } : outcome
}

export class SessionBackend {
  readonly #options: SessionBackendOptions
  readonly #choice: BackendChoice
  readonly #turns: Turn[] = []
  #isOver = false
  #connected: Connected | undefined
  /** The exchange of the turn that chose the backend: all resources were searched for it. */
  #firstTurn: Exchange | undefined

  constructor(options: SessionBackendOptions) {
    this.#options = options
    const { exchange, client, runtime, query } = options
    this.#choice = new BackendChoice({
      exchange,
      client,
      runtime,
      query,
      passOn: raw => this.#passOn(raw, false),
      connect: (opened, wanted) => this.#connect(opened, wanted),
      disconnect: turn => {
        this.#connected?.link.leave()
        this.#connected = undefined
        this.#turns.splice(this.#turns.indexOf(turn), 1)
      },
      refuseTurn: options.refuseTurn,
      end: options.end,
      onProgress: options.onProgress,
    })
  }

  connected(): Connected | undefined {
    return this.#connected
  }

  turns(): readonly Turn[] {
    return this.#turns
  }

  /** Another backend is being asked for the first turn: resolves when that is done. */
  searching(): Promise<void> | undefined {
    return this.#choice.searching()
  }

  /** Asks for an admitted turn: of the backend that serves the session, or of the first one that agrees. */
  async ask(wanted: Wanted): Promise<void> {
    if (this.#connected !== undefined) return this.#begin(wanted, this.#connected)
    this.#firstTurn = wanted.turn.exchange
    await this.#choice.begin(wanted)
  }

  /** Passes a message on that begins no turn. */
  send(bytes: Buffer): void {
    const link = this.#connected?.link
    if (link === undefined || link.send(bytes)) return
    this.#options.link().pause()
    link.onRoom(() => this.#options.link().resume())
  }

  control(opcode: number, payload: Buffer): void {
    this.#connected?.link.control(opcode, payload)
  }

  /** The time for the oldest turn ran out. */
  timeOut(): void {
    const [turn] = this.#turns
    if (turn === undefined) return
    const outcome = transportFailure(turn.hasEvent ? 'idle_timeout' : 'header_timeout', 'silence')
    if (this.#choice.movesOn(turn, outcome)) return
    this.#choice.showHeld()
    turn.exchange.record.status = 504
    turn.exchange.record.error = 'upstream_timeout'
    const message = 'The backend fell silent.'
    this.#options.link().say(errorFrame({ status: 504, code: 'upstream_timeout', message }))
    this.#endTurn(turn, afterOutput(turn, outcome))
    this.#options.end(1011, message, 'upstream_timeout')
  }

  /** The session is over: turns are logged with this error. */
  leave(error: string | undefined): void {
    this.#isOver = true
    const reason = error === 'client_closed' || error === 'client_stalled' ? error : 'shutdown'
    this.#choice.leave(reason, this.#connected !== undefined)
    for (const turn of this.#turns.splice(0)) {
      turn.exchange.record.error ??= error
      turn.exchange.record.status = reason === 'shutdown' ? 503 : 499
      this.#finishTurn(turn, { kind: 'cancelled', reason })
    }
    this.#connected?.link.leave()
  }

  #connect({ member, lease, upgraded, leftOut }: Opened & { kind: 'opened' }, wanted: Wanted): void {
    wanted.turn.lease = lease
    this.#connected = { member, pool: wanted.pool, link: this.#linkTo(upgraded) }
    this.#connected.link.resume()
    this.#begin(wanted, this.#connected, leftOut)
  }

  /** @param leftOut ranges of the message that this member does not get */
  #begin({ turn, read, bytes }: Wanted, { member }: Connected, leftOut: readonly ByteRange[] = []): void {
    const { clock, health } = this.#options.runtime.shared
    turn.member = member
    turn.lease ??= health.lease(member.health)
    turn.askedMs = clock.nowMs()
    const { record } = turn.exchange
    if (record.attempts === 0) record.attempts = 1
    record.backend = member.backend.name
    this.#turns.push(turn)
    this.#options.onProgress()
    this.send(Buffer.concat(read.withModel([bytes], member.backend.deployment, [], leftOut).chunks))
  }

  /** Ends a turn: its lease goes back with the blame, its limits are settled, it is logged. */
  #finishTurn(turn: Turn, outcome: Outcome): void {
    const { exchange, member, lease, askedMs } = turn
    lease?.release(blameOf(outcome, false))
    turn.lease = undefined
    if (member !== undefined) {
      const attempt = { label: labelOf(outcome), detail: outcomeDetail(outcome), askedMs, isFailover: false }
      report(exchange, turn, member, attempt, this.#options.runtime.forwardDeps.onAttempt)
    }
    turn.settle()
    this.#options.client.turnEnded(exchange)
  }

  #endTurn(turn: Turn, outcome: Outcome): void {
    this.#turns.splice(this.#turns.indexOf(turn), 1)
    this.#finishTurn(turn, outcome)
    this.#options.onProgress()
  }

  #passOn(raw: Buffer, more: boolean): void {
    this.#options.exchange.record.bytesOut += raw.length
    const client = this.#options.link()
    if (client.pass(raw, more)) return
    const link = this.#connected?.link
    link?.pause()
    client.onRoom(() => link?.resume())
  }

  #passError({ mended }: SocketEvent & { kind: 'error' }, raw: Buffer): void {
    if (mended === undefined) this.#passOn(raw, false)
    else this.#options.link().say(JSON.parse(mended.toString('utf8')))
  }

  /** Whether it is a later turn of a session, and its model has other resources. */
  #mayBeElsewhere({ exchange, pool, hasOutput, member }: Turn): boolean {
    if (hasOutput || exchange === this.#firstTurn) return false
    return pool.members.some(({ resourceId }) => resourceId !== member?.resourceId)
  }

  #failed(turn: Turn, event: SocketEvent & { kind: 'error' }, raw: Buffer): void {
    const { outcome, status } = event
    if (this.#choice.movesOn(turn, outcome)) return
    this.#choice.showHeld()
    // Other resources can only be searched for it by a session of its own.
    const isElsewhere = outcome.kind === 'state_elsewhere' && this.#mayBeElsewhere(turn)
    if (isElsewhere) this.#options.link().say(errorFrame(ELSEWHERE))
    else this.#passError(event, raw)
    turn.exchange.record.status = status
    turn.exchange.record.error = 'upstream_stream_error'
    this.#endTurn(turn, outcome.kind === 'failed' ? afterOutput(turn, outcome) : outcome)
  }

  #fromBackend({ payload, isWhole, tail, raw }: BackendMessage): void {
    const { clock } = this.#options.runtime.shared
    const event = readSocketEvent(payload, isWhole, clock.epochMs())
    const turn = turnOf(payload, this.#turns)
    if (turn === undefined) {
      if (event.kind === 'error') this.#passError(event, raw)
      else this.#passOn(raw, false)
      return
    }
    const { record, beganMs } = turn.exchange
    turn.hasEvent = true
    record.bytesOut += payload.length
    record.ttfbMs ??= clock.nowMs() - beganMs
    if (event.kind === 'error') {
      this.#failed(turn, event, raw)
      return
    }
    if (turn.member !== undefined) turn.onEvents?.(turn.member, payload)
    this.#options.onProgress()
    if (event.kind === 'start' && this.#choice.hold(raw)) return
    turn.hasOutput ||= event.kind === 'output'
    this.#choice.showHeld()
    this.#passOn(raw, false)
    if (event.kind !== 'end') return
    record.status = 200
    record.usage = readUsage(tail)
    this.#endTurn(turn, { kind: 'served' })
  }

  #lost(closePayload: Buffer | undefined): void {
    const outcome = transportFailure('connection_lost', 'socket closed')
    if (this.#choice.movesOn(this.#turns[0], outcome)) return
    this.#choice.showHeld()
    for (const turn of this.#turns.splice(0)) {
      turn.exchange.record.status = 502
      turn.exchange.record.error = 'cut: connection_lost'
      this.#finishTurn(turn, afterOutput(turn, outcome))
    }
    const isSaid = closePayload !== undefined && closePayload.length >= 2
    if (isSaid) this.#options.end(closePayload.readUInt16BE(0), closePayload.toString('utf8', 2), undefined)
    else this.#options.end(1011, 'The backend broke off.', 'cut: connection_lost')
  }

  #linkTo({ socket, head }: Upgraded): BackendLink {
    const { clock } = this.#options.runtime.shared
    const isCurrent = (): boolean => this.#connected?.link === link && !this.#isOver
    const link: BackendLink = createBackendLink({
      socket,
      head,
      after: (ms, run) => void clock.after(ms, run),
      onMessage: message => void (isCurrent() && this.#fromBackend(message)),
      onPiece: raw => {
        if (!isCurrent()) return
        this.#choice.showHeld()
        this.#passOn(raw, true)
      },
      onControl: raw => void (isCurrent() && this.#passOn(raw, false)),
      onGone: closePayload => void (isCurrent() && this.#lost(closePayload)),
    })
    return link
  }
}
