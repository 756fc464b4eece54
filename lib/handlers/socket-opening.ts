// The choice of a backend for a session of Responses over WebSocket: one handshake after the other, with failover,
// until a backend agrees. The choice goes on from there while the client has seen nothing of the first turn.
import { randomBytes } from 'node:crypto'
import { responsesSocketPath, speaksV1 } from '../azure/operations.ts'
import type { Lease } from '../balancer/health.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import type { ByteRange } from '../body/chunk-list.ts'
import type { ScannedObject } from '../body/json-scan.ts'
import { promptHash } from '../body/prompt-hash.ts'
import { outcomeDetail, report } from '../forward/attempt-record.ts'
import { tryBackends } from '../forward/forward.ts'
import { blameOf, isSuspect, labelOf, type Outcome } from '../forward/outcome.ts'
import type { ForwardRequest, Upgraded, UpstreamResponse } from '../forward/upstream.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import type { Binding } from './affinity.ts'
import { strippingFor } from './foreign-reasoning.ts'
import { errorFrame, refusalFrame, type Turn } from './socket-turn.ts'

/** Under which a deployment is remembered to have refused a handshake, while it goes on serving POST. */
const SOCKET = 'responses over websocket'

/**
 * Whether a handshake may be tried at this member: only the v1 form and OpenAI-compatible servers have it
 * (azure/README.md 13.1).
 */
export function mayOpenAt({ backend, health }: Member, { shared }: Runtime): boolean {
  return (
    speaksV1(backend) &&
    !shared.unsupported.has({ deployment: health.id, what: SOCKET, apiVersion: backend.apiVersion })
  )
}

/** How the search for a backend ended. */
export type Opened =
  | {
      readonly kind: 'opened'
      readonly member: Member
      readonly lease: Lease
      readonly upgraded: Upgraded
      /** What the first turn does without at this member: reasoning of others (`strip_foreign_reasoning`). */
      readonly leftOut: readonly ByteRange[]
    }
  | {
      readonly kind: 'refused'
      /** What the client is sent. */
      readonly frame: object
      readonly status: number
      readonly code: 'upstream_error' | 'no_backend'
      /** Every backend refused the handshake itself. */
      readonly nowhere: boolean
    }

export interface Opening {
  /** Asks backends that have not been asked yet, until one agrees to the handshake. */
  next(): Promise<Opened>
  /** Whether another backend is worth asking after this. */
  movesOn(outcome: Outcome): boolean
  /** A backend that had agreed turned out not to serve the turn. */
  gaveUp(turn: Turn, member: Member, outcome: Outcome): void
  end(): void
}

export interface OpeningOptions {
  readonly turn: Exchange
  readonly runtime: Runtime
  readonly pool: Pool
  readonly query: string
  readonly binding: Binding & { kind: 'free' | 'pinned' }
  readonly scan: ScannedObject | undefined
  readonly bytes: Buffer
}

/** A key of its own: the proxy reads the frames, and asks for no extension and no sub-protocol. */
function handshakeHeaders(): readonly string[] {
  const headers = ['connection', 'Upgrade', 'upgrade', 'websocket', 'sec-websocket-version', '13']
  return [...headers, 'sec-websocket-key', randomBytes(16).toString('base64')]
}

function isClients({ kind }: Outcome): boolean {
  return kind === 'served' || kind === 'clients_own'
}

/** A backend's own response to a handshake, as the frame that it becomes. */
function handshakeErrorFrame({ status, body }: UpstreamResponse): object {
  const text = body.kind === 'whole' ? Buffer.concat(body.chunks).toString('utf8') : ''
  let error: unknown
  try {
    error = Reflect.get(Object(JSON.parse(text)), 'error')
  } catch {
    error = undefined
  }
  const { type, code, message } = Object(error)
  return errorFrame({
    status,
    ...(typeof type === 'string' ? { type } : {}),
    code: typeof code === 'string' ? code : 'upstream_error',
    message: typeof message === 'string' ? message : `The backend answered the handshake with ${status}.`,
  })
}

/** The handshake as a request of the retry loop. */
function handshakeRequest(
  pool: Pool,
  query: string,
  pinnedResources: ReadonlySet<string> | undefined,
  stateOwnerUnknown: boolean,
  hash: number | undefined,
): ForwardRequest {
  return {
    pool,
    method: 'GET',
    dialect: 'opaque',
    wantsStream: false,
    isCreate: true,
    operation: SOCKET,
    pinnedResources,
    stateOwnerUnknown,
    itemOwners: undefined,
    foreignReasoning: undefined,
    promptHash: hash,
    usageOption: undefined,
    prepare: ({ backend }) => ({
      path: responsesSocketPath(backend, query),
      body: { chunks: [], byteLength: 0 },
      isJson: false,
    }),
    releaseBody: () => undefined,
    observer: undefined,
    upgrade: {
      headers: handshakeHeaders(),
      refusalsMoveOn: true,
      open: () => Promise.reject(new Error('a session opens its backend itself')),
    },
  }
}

/** Prepares the choice for a session's first turn. */
export function createOpening(options: OpeningOptions): Opening {
  const { turn, runtime, pool, query, binding, scan, bytes } = options
  const { forwardDeps } = runtime
  const stripping =
    binding.kind === 'pinned'
      ? strippingFor([bytes], scan, binding, pool, () => runtime.shared.clock.nowMs())
      : undefined
  const pinned = binding.kind === 'pinned' && stripping === undefined ? binding.resources : undefined
  const isPossible = (member: Member): boolean =>
    mayOpenAt(member, runtime) && (pinned === undefined || pinned.has(member.resourceId))
  const ownerUnknown = binding.kind === 'free' && binding.ownerUnknown
  const isCached = pool.model.balance === 'prompt_cache'
  const hash = isCached && scan !== undefined ? promptHash([bytes], scan, turn.request.headers) : undefined
  let firstSuspect: Lease | undefined
  const avoid = stripping === undefined ? undefined : (member: Member): boolean => !stripping.canRead(member)
  const picker = pool.picker({ resources: pinned, only: isPossible, avoid, promptHash: hash })
  const request = handshakeRequest(pool, query, pinned, ownerUnknown, hash)

  return {
    async next() {
      const hadSome = pool.members.some(isPossible)
      const found = await tryBackends(turn, request, picker, forwardDeps)
      if (found.kind === 'upgraded') {
        const { member, lease, upgraded } = found
        return { kind: 'opened', member, lease, upgraded, leftOut: stripping?.rangesFor(member) ?? [] }
      }
      if (found.kind === 'response') found.lease.release({ kind: 'none' })
      const nowhere = hadSome && !pool.members.some(isPossible)
      if (found.kind === 'fallback' || found.kind === 'response') {
        const { status } = found.response
        return { kind: 'refused', frame: handshakeErrorFrame(found.response), status, code: 'upstream_error', nowhere }
      }
      if (found.kind === 'left') {
        return { kind: 'refused', frame: {}, status: 499, code: 'upstream_error', nowhere: false }
      }
      const { refusal } = found
      const code = refusal.code === 'no_backend' ? 'no_backend' : 'upstream_error'
      return { kind: 'refused', frame: refusalFrame(refusal), status: refusal.status, code, nowhere }
    },
    movesOn(outcome) {
      if (outcome.kind === 'state_elsewhere') return ownerUnknown
      return !isClients(outcome) && outcome.kind !== 'cancelled' && pinned === undefined
    },
    gaveUp({ exchange, lease, askedMs }, member, outcome) {
      lease?.release(blameOf(outcome, firstSuspect !== undefined))
      // A second backend that meets the same: it is the request, and nobody is blamed for it.
      if (isSuspect(outcome)) {
        if (firstSuspect === undefined) firstSuspect = lease
        else firstSuspect.withdraw()
      }
      const attempt = { label: labelOf(outcome), detail: outcomeDetail(outcome), askedMs, isFailover: false }
      report(exchange, request, member, attempt, forwardDeps.onAttempt)
      if (outcome.kind === 'state_elsewhere') picker.skipResource(member.resourceId)
    },
    end: () => picker.end(),
  }
}
