// Stored responses: read, delete, cancel, list their inputs. They live in one resource each; the id says nothing about which.
import { storedResponsePath } from '../azure/operations.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { refuse } from '../errors.ts'
import { forward } from '../forward/forward.ts'
import type { Exchange } from '../request-context.ts'
import { type Gateway, mayUse } from '../runtime.ts'
import { isResponseId, placesOf } from './affinity.ts'

export interface StoredResponseRoute {
  readonly id: string
  readonly action: '' | 'cancel' | 'input_items'
  readonly query: string
}

/** The pool whose members include the resource; any of its deployments will do. */
function poolWith(exchange: Exchange, gateway: Gateway, resources: ReadonlySet<string> | undefined): Pool | undefined {
  const usable = gateway.pools.filter(pool => mayUse(exchange.clientKey, pool.model))
  if (resources === undefined) return usable[0]
  return usable.find(pool => pool.members.some(member => resources.has(member.resourceId)))
}

/** Serves one such request. Unknown everywhere: upstream's own 404. */
export async function handleStoredResponse(
  exchange: Exchange,
  { id, action, query }: StoredResponseRoute,
  gateway: Gateway,
): Promise<void> {
  const { request, record } = exchange
  request.resume()
  const members = gateway.membersFor(exchange.clientKey)
  const found = isResponseId(id) ? await gateway.ownerFinder.find(id, members) : ({ kind: 'nowhere' } as const)
  const places = placesOf(found)
  if (places !== undefined && 'status' in places) return refuse(exchange, places)
  const pool = poolWith(exchange, gateway, places)
  if (pool === undefined) {
    return refuse(exchange, {
      status: 404,
      code: 'model_not_found',
      message: 'This key may use no model, so there is no response it could reach.',
    })
  }
  const method = request.method ?? 'GET'
  const wantsStream = method === 'GET' && /(^|&)stream=true(&|$)/.test(query)
  record.stream = wantsStream
  const { owners } = gateway.parts
  await forward(
    exchange,
    {
      pool,
      method,
      dialect: wantsStream ? 'responses' : 'opaque',
      wantsStream,
      json: false,
      creates: false,
      path: backend => storedResponsePath(id, action, backend, query),
      body: () => ({ chunks: [], byteLength: 0 }),
      releaseBody: () => undefined,
      turn: places === undefined ? {} : { allow: (member: Member) => places.has(member.resourceId) },
      bound: places !== undefined,
      searches: false,
      onServed(_member, answer) {
        if (method === 'DELETE' && answer.status < 300) owners.forget(id)
      },
    },
    gateway.forwardDeps,
  )
}
