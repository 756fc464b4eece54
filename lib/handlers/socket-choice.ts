// The choice of the backend that serves a session of Responses over WebSocket. While the client has seen nothing of the
// first turn, its start-up events are held back, and another backend may still take over.
import type { Deadline } from '../clock.ts'
import type { Outcome } from '../forward/outcome.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import type { ClientSocket } from './realtime.ts'
import { createOpening, type Opened, type Opening } from './socket-opening.ts'
import type { Turn, Wanted } from './socket-turn.ts'

/** What the choice needs of its session. */
export interface ChoiceOptions {
  readonly exchange: Exchange
  readonly client: ClientSocket
  readonly runtime: Runtime
  readonly query: string
  /** Sends a message that was held back to the client. */
  passOn(raw: Buffer): void
  /** A backend has agreed to the handshake: it gets the turn. */
  connect(opened: Opened & { kind: 'opened' }, wanted: Wanted): void
  /** The backend of the first turn is left, for another one. */
  disconnect(turn: Turn): void
  /** Refuses a turn that no backend took. */
  refuseTurn(exchange: Exchange, frame: object, refusal: { readonly status: number; readonly code: string }): void
  /** Ends the session with a close frame. */
  end(code: number, reason: string, error: string | undefined): void
  /** The search for another backend has ended. */
  onProgress(): void
}

/** What is left of the choice of a backend, until the first output: enough to begin again elsewhere. */
interface OpenChoice {
  readonly opening: Opening
  readonly wanted: Wanted
  /** Start-up events that the client has not seen. */
  readonly held: Buffer[]
  heldBytes: number
}

/** Limits on start-up events held back, as for event streams. */
const HOLD_MAX_EVENTS = 64
const HOLD_MAX_BYTES = 4 * 1024 * 1024

export class BackendChoice {
  readonly #options: ChoiceOptions
  #choice: OpenChoice | undefined
  #holdDeadline: Deadline | undefined
  #searching: Promise<void> | undefined
  #isOver = false

  constructor(options: ChoiceOptions) {
    this.#options = options
  }

  /** Another backend is being asked for the first turn: resolves when that is done. */
  searching(): Promise<void> | undefined {
    return this.#searching
  }

  /** Asks one backend after the other for the session's first turn; resolves when one agrees, or none does. */
  async begin(wanted: Wanted): Promise<void> {
    const { turn, pool, binding, read, bytes } = wanted
    const opening = createOpening({ ...this.#options, turn: turn.exchange, pool, binding, scan: read.scan, bytes })
    this.#choice = { opening, wanted, held: [], heldBytes: 0 }
    await this.#tryNext(this.#choice)
  }

  /** Keeps a start-up event from the client, up to the limits and `retry.stream_hold`. @returns false: not any more */
  hold(raw: Buffer): boolean {
    const choice = this.#choice
    if (choice === undefined) return false
    const { shared, forwardDeps } = this.#options.runtime
    const untilMs = shared.clock.nowMs() + forwardDeps.limits.streamHoldMs
    this.#holdDeadline ??= shared.deadlines.add(untilMs, () => this.showHeld())
    choice.held.push(raw)
    choice.heldBytes += raw.length
    if (choice.held.length >= HOLD_MAX_EVENTS || choice.heldBytes > HOLD_MAX_BYTES) this.showHeld()
    return true
  }

  /** The choice is final: what was held back goes out. */
  showHeld(): void {
    if (this.#choice === undefined) return
    const { held, opening } = this.#choice
    this.#choice = undefined
    this.#stopHolding()
    opening.end()
    for (const raw of held) this.#options.passOn(raw)
  }

  /** Whether the first turn begins again at another backend because of this; if so, it does. */
  movesOn(turn: Turn | undefined, outcome: Outcome): boolean {
    const choice = this.#choice
    if (choice === undefined || turn === undefined || !choice.opening.movesOn(outcome)) return false
    this.#again(choice, turn, outcome)
    return true
  }

  /**
   * The session is over: no backend is asked any more.
   * @param isConnected a backend has the turn: then nobody else ends the choice
   */
  leave(reason: 'client_closed' | 'client_stalled' | 'shutdown', isConnected: boolean): void {
    this.#isOver = true
    this.#choice?.wanted.turn.exchange.cancellation.cancel(reason)
    this.#stopHolding()
    if (isConnected) this.#choice?.opening.end()
  }

  #stopHolding(): void {
    if (this.#holdDeadline !== undefined) this.#options.runtime.shared.deadlines.remove(this.#holdDeadline)
    this.#holdDeadline = undefined
  }

  /** Opens a socket at the next backend, and asks it. */
  async #tryNext({ wanted, opening }: OpenChoice): Promise<void> {
    const opened = await opening.next()
    if (this.#isOver) this.#giveUp(opened, opening, wanted.turn)
    else if (opened.kind === 'refused') this.#refuse(opened, opening, wanted.turn)
    else this.#options.connect(opened, wanted)
  }

  /** The session ended while a backend was asked. */
  #giveUp(opened: Opened, opening: Opening, turn: Turn): void {
    const { exchange: session, client } = this.#options
    if (opened.kind === 'opened') {
      opened.lease.release({ kind: 'none' })
      opened.upgraded.socket.destroy()
    }
    opening.end()
    turn.exchange.record.error ??= session.record.error
    turn.settle()
    client.turnEnded(turn.exchange)
  }

  #refuse(refused: Opened & { kind: 'refused' }, opening: Opening, turn: Turn): void {
    this.#choice = undefined
    opening.end()
    turn.exchange.record.status = refused.status
    turn.settle()
    this.#options.refuseTurn(turn.exchange, refused.frame, refused)
    const reason = 'No backend offers Responses over WebSocket: use HTTP.'
    if (refused.nowhere) this.#options.end(1011, reason, 'upstream_error')
  }

  /** Nothing has been shown: the first turn goes to another backend. */
  #again(choice: OpenChoice, turn: Turn, outcome: Outcome): void {
    const { disconnect, end, onProgress } = this.#options
    const { member } = turn
    disconnect(turn)
    this.#stopHolding()
    choice.held.length = 0
    choice.heldBytes = 0
    if (member !== undefined) choice.opening.gaveUp(turn, member, outcome)
    turn.lease = undefined
    turn.hasEvent = false
    this.#searching = this.#tryNext(choice)
      .catch(() => end(1011, 'The proxy failed to handle this message.', 'internal_error'))
      .finally(() => {
        this.#searching = undefined
        onProgress()
      })
  }
}
