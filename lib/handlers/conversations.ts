// Conversations of the Responses API: made at one resource, remembered with their maker, and from then on reached where
// they live.
import { speaksV1 } from '../azure/operations.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { scanJson } from '../body/json-scan.ts'
import type { Random } from '../clock.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { mayUse, type Runtime } from '../runtime.ts'
import { itemKey, resourcesOf } from './affinity.ts'
import { referencedItems } from './item-references.ts'
import { stateShownBy } from './named-state.ts'
import { foreignStateRefusal, makerFor, mayMeetForeignState } from './ownership.ts'
import { idIn, poolOf, relayObject } from './relay-object.ts'

export interface ConversationRoute {
  /** Below `conversations`: none, its id, `items`, an item's id. */
  readonly path: readonly string[]
  readonly query: string
}

/** A resource with what it could serve. */
interface Candidate {
  readonly resourceId: string
  readonly pools: readonly Pool[]
  readonly weight: number
}

function resourcesIn(pools: readonly Pool[], usable: (member: Member) => boolean): readonly Candidate[] {
  const candidates = new Map<string, { resourceId: string; pools: Pool[]; weight: number }>()
  for (const pool of pools) {
    for (const member of pool.members.filter(usable)) {
      const { resourceId, weight } = member
      const candidate = candidates.get(resourceId) ?? { resourceId, pools: [], weight: 0 }
      if (!candidate.pools.includes(pool)) candidate.pools.push(pool)
      candidate.weight += weight
      candidates.set(resourceId, candidate)
    }
  }
  return [...candidates.values()]
}

/**
 * The resource where a new conversation is best made: it serves most of the models, so that most of them can go on with
 * it. Among equals weight decides.
 * @param pools of the models that the key may use
 */
export function chooseResource(pools: readonly Pool[], random: Random): Candidate | undefined {
  const capable = resourcesIn(pools, ({ backend }) => speaksV1(backend))
  const candidates = capable.length > 0 ? capable : resourcesIn(pools, () => true)
  const most = Math.max(0, ...candidates.map(({ pools: served }) => served.length))
  const best = candidates.filter(({ pools: served }) => served.length === most)
  let left = random() * best.reduce((sum, { weight }) => sum + weight, 0)
  for (const candidate of best) {
    left -= candidate.weight
    if (left < 0) return candidate
  }
  return best.at(-1)
}

function refuseNoModel(exchange: Exchange): void {
  refuse(exchange, {
    status: 404,
    code: 'model_not_found',
    message: 'This key may use no model, so there is no resource it could reach.',
  })
}

const ITEMS = 'items'
const WANTED: ReadonlySet<string> = new Set([ITEMS])

/** Refuses items of another key's that a body would bring into a conversation. */
function foreignItemsIn(exchange: Exchange, runtime: Runtime): (chunks: readonly Buffer[]) => Refusal | undefined {
  return chunks => {
    if (!mayMeetForeignState(exchange, runtime)) return undefined
    const scan = scanJson(chunks, WANTED)
    const ids = scan.kind === 'ok' ? referencedItems(chunks, scan.members, ITEMS) : []
    return foreignStateRefusal(exchange, ids.map(itemKey), runtime, ITEMS)
  }
}

function create(exchange: Exchange, query: string, runtime: Runtime): void | Promise<void> {
  const { owners, random } = runtime.shared
  const candidate = chooseResource(
    runtime.pools.filter(pool => mayUse(exchange.clientKey, pool.model)),
    random,
  )
  const pool = candidate?.pools.reduce((best, other) => (other.members.length > best.members.length ? other : best))
  if (candidate === undefined || pool === undefined) return refuseNoModel(exchange)
  return relayObject(
    exchange,
    {
      place: { pool, resources: undefined },
      // While the best one is out, any is better than none.
      avoid: ({ resourceId }) => resourceId !== candidate.resourceId,
      path: ['conversations'],
      refusalFor: foreignItemsIn(exchange, runtime),
      query,
      isCreate: true,
      onServed(member, upstreamResponse) {
        const id = idIn(upstreamResponse)
        if (id !== undefined) owners.learn(id, member.resourceId, makerFor(exchange))
      },
    },
    runtime,
  )
}

/** Serves a request for conversations or their items. Unknown everywhere: upstream's own 404. */
export async function handleConversation(
  exchange: Exchange,
  { path, query }: ConversationRoute,
  runtime: Runtime,
): Promise<void> {
  const [id, , item] = path
  if (id === undefined) return create(exchange, query, runtime)
  if (path.some(segment => runtime.isSecret(segment))) return refuseNoModel(exchange)
  const named = item === undefined ? [id] : [id, itemKey(item)]
  const foreign = foreignStateRefusal(exchange, named, runtime)
  if (foreign !== undefined) return refuse(exchange, foreign)
  const places = resourcesOf(
    await runtime.ownerFinder.find(id, runtime.membersFor(exchange.clientKey), exchange.clientKey?.name),
  )
  if (places !== undefined && 'status' in places) return refuse(exchange, places)
  const pool = poolOf(exchange, runtime, places)
  if (pool === undefined) return refuseNoModel(exchange)
  const { owners } = runtime.shared
  const { method } = exchange.request
  return relayObject(
    exchange,
    {
      place: { pool, resources: places },
      path: ['conversations', ...path],
      refusalFor: foreignItemsIn(exchange, runtime),
      query,
      isCreate: false,
      onServed({ resourceId }, upstreamResponse) {
        if (upstreamResponse.status >= 300) return
        if (method === 'DELETE') owners.forget(item === undefined ? id : itemKey(item))
        const { body } = upstreamResponse
        if (method !== 'POST' || body.kind !== 'whole' || path.length < 2) return
        for (const made of stateShownBy(body.chunks, true).items) {
          owners.learn(itemKey(made), resourceId, makerFor(exchange))
        }
      },
    },
    runtime,
  )
}
