// One request as the handlers understand it, and what forwarding needs to know of it as it goes.
import type { Dialect } from '../azure/operations.ts'
import type { Member, Pool, TurnOptions } from '../balancer/pool.ts'
import type { BackendConfig } from '../config/types.ts'
import type { Upgraded } from './attempt.ts'
import type { UpstreamAnswer } from './attempt-result.ts'
import type { ChunkList } from './chunk-list.ts'
import type { RelayEnd } from './relay-terms.ts'

/** One request as the handlers understand it. */
export interface Ask {
  readonly pool: Pool
  readonly method: string
  readonly dialect: Dialect
  readonly wantsStream: boolean
  /** The body is known to be a JSON object. */
  readonly json: boolean
  /** False for reads of stored objects, whose 404 is the client's. */
  readonly creates: boolean
  /** Path and query at a backend. */
  path(backend: BackendConfig): string
  body(member: Member): ChunkList
  /** The last body asked for usage in the client's name: its event is taken out of the answer again. */
  dropsUsageEvent?(): boolean
  /** No further attempt can need the body. */
  releaseBody(): void
  /** Which members it may go to, and which it had better not. */
  readonly turn: TurnOptions
  /** The state it names lives in one resource: no failover beyond `turn.allow`, and a wait instead of a wrong answer. */
  readonly bound: boolean
  /** It carries state whose home is not known: a resource that cannot read it passes it on to the next one. */
  readonly searches: boolean
  /** Sees the first bytes of an answer that is passed on, and whose it is. */
  onServed?(member: Member, answer: UpstreamAnswer): void
  /** Sees whole events of an answer's stream. */
  readonly onEvents?: ((member: Member, events: Buffer) => void) | undefined
  /** Looks at an answer before it is judged final; `again` asks the same backend once more with a changed body. */
  onRefused?(member: Member, answer: UpstreamAnswer): 'again' | undefined
  /** The backend turned out not to offer the operation. */
  onUnsupported?(member: Member): void
  /** It asks for a WebSocket: the headers that do, and what becomes of a backend's agreement. */
  readonly upgrade?: {
    readonly headers: readonly string[]
    open(member: Member, upgraded: Upgraded): Promise<RelayEnd>
  }
}
