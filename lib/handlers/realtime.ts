// Realtime sessions: a WebSocket opened at the backend that the balancer chooses, with failover until a backend agrees;
// then frames pass untouched. A session that no backend opens is answered with a plain HTTP error.
import { type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { realtimePath } from '../azure/operations.ts'
import type { Member } from '../balancer/pool.ts'
import { type Refusal, refuse } from '../errors.ts'
import { forward } from '../forward/forward.ts'
import { responseHeaders } from '../forward/headers.ts'
import { tunnel } from '../forward/tunnel.ts'
import type { Upgraded } from '../forward/upstream.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { admit } from './admit.ts'
import { KEY_PROTOCOL } from './ephemeral-keys.ts'
import { isRefusal, resolvePoolFor } from './resolve-model.ts'

export interface RealtimeRoute {
  readonly model: string | undefined
  readonly query: string
}

/** The client's end of a WebSocket that is asked for and not yet agreed to. */
export interface ClientSocket {
  readonly socket: Duplex
  readonly head: Buffer
  /** Answers with plain HTTP as long as nothing has been agreed. */
  readonly response: ServerResponse
  /** The socket is the tunnel's from now on. */
  takeOver(): void
  /** Calls when the server begins to drain, at once if it has; returns how to take that back. */
  onDrain(run: () => void): () => void
  /** A request inside the session has ended: it is logged and counted by itself. */
  turnEnded(turn: Exchange): void
}

/**
 * The headers of RFC 6455 that go upstream as the client sent them; the response's accept key is made from the client's
 * own.
 */
const HANDSHAKE = ['sec-websocket-key', 'sec-websocket-version', 'sec-websocket-extensions'] as const

/** What asks a backend to upgrade; a sub-protocol that holds a key stays here. */
export function upgradeHeaders(headers: Exchange['request']['headers']): string[] {
  const list = ['connection', 'Upgrade', 'upgrade', 'websocket']
  for (const name of HANDSHAKE) {
    const value = headers[name]
    if (typeof value === 'string') list.push(name, value)
  }
  const protocols = (headers['sec-websocket-protocol'] ?? '')
    .split(',')
    .map(item => item.trim())
    .filter(item => item !== '' && !item.startsWith(KEY_PROTOCOL))
  if (protocols.length > 0) list.push('sec-websocket-protocol', protocols.join(', '))
  return list
}

/** Why a handshake is none of RFC 6455, if so. */
export function handshakeProblem({ request }: Exchange): Refusal | undefined {
  const { headers } = request
  if (headers['sec-websocket-key'] === undefined || headers['sec-websocket-version'] !== '13') {
    return {
      status: 400,
      code: 'invalid_request',
      message: 'This is no WebSocket handshake of version 13 (RFC 6455).',
      headers: ['sec-websocket-version', '13'],
    }
  }
  return undefined
}

/** The 101 as the backend gave it, with what the proxy adds to every response. */
function agreement(exchange: Exchange, member: Member, { response: upstreamResponse }: Upgraded): string {
  const { headers: list, values } = responseHeaders(upstreamResponse)
  if (values['x-request-id'] === undefined) list.push('x-request-id', exchange.id)
  list.push('x-proxy-backend', encodeURI(member.backend.name), 'x-proxy-attempts', String(exchange.record.attempts))
  const lines = [`HTTP/1.1 101 ${STATUS_CODES[101] ?? ''}`, 'connection: Upgrade', 'upgrade: websocket']
  for (let i = 0; i < list.length; i += 2) lines.push(`${list[i]}: ${list[i + 1]}`)
  return `${lines.join('\r\n')}\r\n\r\n`
}

/** Serves GET /v1/realtime, from the client's handshake to the end of its session. */
export async function handleRealtime(
  exchange: Exchange,
  { model, query }: RealtimeRoute,
  client: ClientSocket | undefined,
  runtime: Runtime,
): Promise<void> {
  const { record, cancellation } = exchange
  if (client === undefined) {
    return refuse(exchange, {
      status: 426,
      code: 'upgrade_required',
      message: 'A realtime session is a WebSocket: ask for an upgrade.',
      headers: ['upgrade', 'websocket'],
    })
  }
  const problem = handshakeProblem(exchange)
  if (problem !== undefined) return refuse(exchange, problem)
  const pool = resolvePoolFor(exchange, model, runtime)
  if (isRefusal(pool)) return refuse(exchange, pool)
  record.model = pool.model.name
  const settle = await admit(exchange, 0, runtime.shared, pool.model.price)
  if (settle === undefined) return
  const { clock } = runtime.shared
  const pinnedResource = exchange.ephemeral?.resourceId
  try {
    await forward(
      exchange,
      {
        pool,
        method: 'GET',
        dialect: 'opaque',
        wantsStream: false,
        isCreate: true,
        operation: 'realtime',
        pinnedResources: pinnedResource === undefined ? undefined : new Set([pinnedResource]),
        stateOwnerUnknown: false,
        itemOwners: undefined,
        foreignReasoning: undefined,
        promptHash: undefined,
        usageOption: undefined,
        prepare: ({ backend }) => ({
          path: realtimePath(backend, query),
          body: { chunks: [], byteLength: 0 },
          isJson: false,
        }),
        releaseBody: () => undefined,
        observer: undefined,
        upgrade: {
          headers: upgradeHeaders(exchange.request.headers),
          open(member, upgraded) {
            client.takeOver()
            record.status = 101
            record.stream = true
            record.ttfbMs = clock.nowMs() - exchange.beganMs
            client.socket.write(agreement(exchange, member, upgraded))
            return tunnel({
              client: client.socket,
              backend: upgraded.socket,
              clientHead: client.head,
              backendHead: upgraded.head,
              cancellation,
              clock,
              idleMs: runtime.forwardDeps.limits.idleMs,
              onBytes(direction, bytes) {
                if (direction === 'in') record.bytesIn += bytes
                else record.bytesOut += bytes
              },
            })
          },
        },
      },
      runtime.forwardDeps,
    )
  } finally {
    settle()
  }
}
