// The backend's side of a session of Responses over WebSocket. The first turn may move to the next backend while
// nothing of its response has been shown; later turns stay. What passes is read for owners, usage, errors and the ends
// of turns.
import type { Deadline } from '../clock.ts'
import { outcomeDetail, report } from '../forward/attempt-record.ts'
import { type BackendLink, type BackendMessage, createBackendLink } from '../forward/backend-link.ts'
import type { ClientLink } from '../forward/client-link.ts'
import { blameOf, labelOf, type Outcome, transportFailure } from '../forward/outcome.ts'
import type { Upgraded } from '../forward/upstream.ts'
import { readUsage } from '../forward/usage.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import type { ClientSocket } from './realtime.ts'
import { readSocketEvent, type SocketEvent } from './socket-events.ts'
import { type Choice, createOpening, holdsEnough } from './socket-opening.ts'
import { type Connected, errorFrame, type Turn, turnOf, type Wanted } from './socket-turn.ts'

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

export interface SessionBackend {
  connected(): Connected | undefined
  turns(): readonly Turn[]
  /** Another backend is being asked for the first turn: resolves when that is done. */
  settled(): Promise<void> | undefined
  /** Asks for an admitted turn: of the backend that serves the session, or of the first one that agrees. */
  ask(wanted: Wanted): Promise<void>
  /** Passes a message on that begins no turn. */
  send(bytes: Buffer): void
  control(opcode: number, payload: Buffer): void
  /** The time for the oldest turn ran out. */
  timeOut(): void
  /** The session is over: turns are logged with this error. */
  leave(error: string | undefined): void
}

export function createSessionBackend(options: SessionBackendOptions): SessionBackend {
  const { exchange: session, client: socket, runtime } = options
  const { clock, deadlines, health: registry } = runtime.shared
  const { onAttempt, limits } = runtime.forwardDeps
  let isOver = false
  let connected: Connected | undefined
  let choice: Choice | undefined
  let holdDeadline: Deadline | undefined
  let settled: Promise<void> | undefined
  const turns: Turn[] = []
  /** Ends a turn: its lease goes back with the blame, its limits are settled, it is logged. */
  const settle = (turn: Turn, outcome: Outcome): void => {
    const { exchange, member, lease, askedMs } = turn
    lease?.release(blameOf(outcome, false))
    turn.lease = undefined
    if (member !== undefined) {
      const attempt = { label: labelOf(outcome), detail: outcomeDetail(outcome), askedMs, isFailover: false }
      report(exchange, turn, member, attempt, onAttempt)
    }
    turn.settle()
    socket.turnEnded(exchange)
  }
  const endTurn = (turn: Turn, outcome: Outcome): void => {
    turns.splice(turns.indexOf(turn), 1)
    settle(turn, outcome)
    options.onProgress()
  }

  const passOn = (raw: Buffer, more: boolean): void => {
    session.record.bytesOut += raw.length
    const client = options.link()
    if (client.pass(raw, more)) return
    const link = connected?.link
    link?.pause()
    client.onRoom(() => link?.resume())
  }
  const send = (bytes: Buffer): void => {
    const link = connected?.link
    if (link === undefined || link.send(bytes)) return
    options.link().pause()
    link.onRoom(() => options.link().resume())
  }

  /** The choice of a backend is final: what was held back goes out. */
  const showHeld = (): void => {
    if (choice === undefined) return
    const { held, opening } = choice
    choice = undefined
    stopHolding()
    opening.end()
    for (const raw of held) passOn(raw, false)
  }
  const stopHolding = (): void => {
    if (holdDeadline !== undefined) deadlines.remove(holdDeadline)
    holdDeadline = undefined
  }
  const hold = (current: Choice, raw: Buffer): void => {
    holdDeadline ??= deadlines.add(clock.nowMs() + limits.streamHoldMs, showHeld)
    current.held.push(raw)
    current.heldBytes += raw.length
    if (holdsEnough(current)) showHeld()
  }

  const begin = ({ turn, read, bytes }: Wanted, { member }: Connected): void => {
    turn.member = member
    turn.lease ??= registry.lease(member.health)
    turn.askedMs = clock.nowMs()
    const { record } = turn.exchange
    if (record.attempts === 0) record.attempts = 1
    record.backend = member.backend.name
    turns.push(turn)
    options.onProgress()
    send(Buffer.concat(read.withModel([bytes], member.backend.deployment, []).chunks))
  }

  /** Opens a socket at the next backend, and asks it. */
  const tryNext = async (current: Choice): Promise<void> => {
    const { wanted, opening } = current
    const { turn, pool } = wanted
    const opened = await opening.next()
    if (isOver) {
      if (opened.kind === 'opened') {
        opened.lease.release({ kind: 'none' })
        opened.upgraded.socket.destroy()
      }
      opening.end()
      turn.exchange.record.error ??= session.record.error
      turn.settle()
      socket.turnEnded(turn.exchange)
      return
    }
    if (opened.kind === 'refused') {
      choice = undefined
      opening.end()
      turn.exchange.record.status = opened.status
      turn.settle()
      options.refuseTurn(turn.exchange, opened.frame, opened)
      const reason = 'No backend offers Responses over WebSocket: use HTTP.'
      if (opened.nowhere) options.end(1011, reason, 'upstream_error')
      return
    }
    turn.lease = opened.lease
    connected = { member: opened.member, pool, link: linkTo(opened.upgraded) }
    connected.link.resume()
    begin(wanted, connected)
  }

  /** Nothing has been shown: the first turn goes to another backend. */
  const again = (current: Choice, turn: Turn, outcome: Outcome): void => {
    const { member } = turn
    connected?.link.leave()
    connected = undefined
    turns.splice(turns.indexOf(turn), 1)
    stopHolding()
    current.held.length = 0
    current.heldBytes = 0
    if (member !== undefined) current.opening.gaveUp(turn, member, outcome)
    turn.lease = undefined
    turn.hasEvent = false
    settled = tryNext(current)
      .catch(() => options.end(1011, 'The proxy failed to handle this message.', 'internal_error'))
      .finally(() => {
        settled = undefined
        options.onProgress()
      })
  }
  /** Whether the first turn begins again elsewhere because of this. */
  const movesOn = (turn: Turn | undefined, outcome: Outcome): boolean => {
    if (choice === undefined || turn === undefined || !choice.opening.movesOn(outcome)) return false
    again(choice, turn, outcome)
    return true
  }

  const passError = ({ mended }: SocketEvent & { kind: 'error' }, raw: Buffer): void => {
    if (mended === undefined) passOn(raw, false)
    else options.link().say(JSON.parse(mended.toString('utf8')))
  }
  const failed = (turn: Turn, event: SocketEvent & { kind: 'error' }, raw: Buffer): void => {
    const { outcome, status } = event
    if (movesOn(turn, outcome)) return
    showHeld()
    passError(event, raw)
    turn.exchange.record.status = status
    turn.exchange.record.error = 'upstream_stream_error'
    // After output the backend has done its part, as far as can be seen.
    endTurn(turn, turn.hasOutput && outcome.kind === 'failed' ? { kind: 'served' } : outcome)
  }
  const fromBackend = ({ payload, isWhole, tail, raw }: BackendMessage): void => {
    const event = readSocketEvent(payload, isWhole, clock.epochMs())
    const turn = turnOf(payload, turns)
    if (turn === undefined) {
      if (event.kind === 'error') passError(event, raw)
      else passOn(raw, false)
      return
    }
    const { record, beganMs } = turn.exchange
    turn.hasEvent = true
    record.bytesOut += payload.length
    record.ttfbMs ??= clock.nowMs() - beganMs
    if (event.kind === 'error') {
      failed(turn, event, raw)
      return
    }
    if (turn.member !== undefined) turn.onEvents?.(turn.member, payload)
    options.onProgress()
    if (event.kind === 'start' && choice !== undefined) {
      hold(choice, raw)
      return
    }
    turn.hasOutput ||= event.kind === 'output'
    showHeld()
    passOn(raw, false)
    if (event.kind !== 'end') return
    record.status = 200
    record.usage = readUsage(tail)
    endTurn(turn, { kind: 'served' })
  }
  const lost = (closePayload: Buffer | undefined): void => {
    const outcome = transportFailure('connection_lost', 'socket closed')
    if (movesOn(turns[0], outcome)) return
    showHeld()
    for (const turn of turns.splice(0)) {
      turn.exchange.record.status = 502
      turn.exchange.record.error = 'cut: connection_lost'
      settle(turn, turn.hasOutput ? { kind: 'served' } : outcome)
    }
    const isSaid = closePayload !== undefined && closePayload.length >= 2
    if (isSaid) options.end(closePayload.readUInt16BE(0), closePayload.toString('utf8', 2), undefined)
    else options.end(1011, 'The backend broke off.', 'cut: connection_lost')
  }
  const linkTo = ({ socket: backend, head }: Upgraded): BackendLink => {
    const isCurrent = (): boolean => connected?.link === link && !isOver
    const link: BackendLink = createBackendLink({
      socket: backend,
      head,
      after: (ms, run) => void clock.after(ms, run),
      onMessage: message => void (isCurrent() && fromBackend(message)),
      onPiece(raw) {
        if (!isCurrent()) return
        showHeld()
        passOn(raw, true)
      },
      onControl: raw => void (isCurrent() && passOn(raw, false)),
      onGone: closePayload => void (isCurrent() && lost(closePayload)),
    })
    return link
  }

  return {
    connected: () => connected,
    turns: () => turns,
    settled: () => settled,
    send,
    control: (opcode, payload) => connected?.link.control(opcode, payload),
    async ask(wanted) {
      if (connected !== undefined) return begin(wanted, connected)
      const { turn, pool, binding, read, bytes } = wanted
      const opening = createOpening({ ...options, turn: turn.exchange, pool, binding, scan: read.scan, bytes })
      choice = { opening, wanted, held: [], heldBytes: 0 }
      await tryNext(choice)
    },
    timeOut() {
      const [turn] = turns
      if (turn === undefined) return
      const outcome = transportFailure(turn.hasEvent ? 'idle_timeout' : 'header_timeout', 'silence')
      if (movesOn(turn, outcome)) return
      showHeld()
      turn.exchange.record.status = 504
      turn.exchange.record.error = 'upstream_timeout'
      options.link().say(errorFrame({ status: 504, code: 'upstream_timeout', message: 'The backend fell silent.' }))
      endTurn(turn, turn.hasOutput ? { kind: 'served' } : outcome)
      options.end(1011, 'The backend fell silent.', 'upstream_timeout')
    },
    leave(error) {
      isOver = true
      const reason = error === 'client_closed' || error === 'client_stalled' ? error : 'shutdown'
      choice?.wanted.turn.exchange.cancellation.cancel(reason)
      for (const turn of turns.splice(0)) {
        turn.exchange.record.error ??= error
        turn.exchange.record.status = reason === 'shutdown' ? 503 : 499
        settle(turn, { kind: 'cancelled', reason })
      }
      stopHolding()
      if (connected !== undefined) choice?.opening.end()
      connected?.link.leave()
    },
  }
}
