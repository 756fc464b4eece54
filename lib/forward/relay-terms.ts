// On what terms an answer is passed on, and how that may end.
import type { Dialect } from '../azure/operations.ts'
import type { Clock } from '../clock.ts'
import type { Deadlines } from './deadlines.ts'
import type { CancelReason } from './exchange.ts'

export type RelayEnd =
  | { readonly kind: 'complete' }
  /** Upstream's part broke off after the client had seen some of it. */
  | {
      readonly kind: 'cut'
      readonly detail: 'connection_lost' | 'no_protocol_end' | 'idle_timeout' | 'first_output_timeout'
    }
  | { readonly kind: 'cancelled'; readonly reason: CancelReason }

export interface RelayOptions {
  readonly backendName: string
  readonly dialect: Dialect
  readonly idleMs: number
  /** Silence after which an open event stream gets a comment; 0: never. */
  readonly keepaliveMs: number
  /** Takes the one extra usage event out again, where the client had not asked for it (`stream_usage`). */
  readonly dropUsageEvent: boolean
  /** Sees the whole events that go out. */
  readonly onEvents: ((bytes: Buffer) => void) | undefined
}

export interface RelayDeps {
  readonly clock: Clock
  readonly deadlines: Deadlines
}
