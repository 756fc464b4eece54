// Stored responses: read, delete, cancel, list their inputs. They live in one resource each; the id says nothing about
// which.
import { storedResponsePath } from '../azure/operations.ts'
import { queryValue } from '../azure/query.ts'
import { refuse } from '../errors.ts'
import { forward } from '../forward/forward.ts'
import { type Exchange, NO_USAGE } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { resourcesOf } from './affinity.ts'
import { foreignStateRefusal } from './ownership.ts'
import { poolOf } from './relay-object.ts'

export interface StoredResponseRoute {
  readonly id: string
  readonly action: '' | 'cancel' | 'input_items'
  readonly query: string
}

/** Serves one such request. Unknown everywhere: upstream's own 404. */
export async function handleStoredResponse(
  exchange: Exchange,
  { id, action, query }: StoredResponseRoute,
  runtime: Runtime,
): Promise<void> {
  const { request, record } = exchange
  request.resume()
  const foreign = foreignStateRefusal(exchange, [id], runtime)
  if (foreign !== undefined) return refuse(exchange, foreign)
  const members = runtime.membersFor(exchange.clientKey)
  const found = await runtime.ownerFinder.find(id, members, exchange.clientKey?.name)
  const places = resourcesOf(found)
  if (places !== undefined && 'status' in places) return refuse(exchange, places)
  const pool = poolOf(exchange, runtime, places)
  if (pool === undefined) {
    return refuse(exchange, {
      status: 404,
      code: 'model_not_found',
      message: 'This key may use no model, so there is no response it could reach.',
    })
  }
  const method = request.method ?? 'GET'
  const wantsStream = method === 'GET' && queryValue(query, 'stream') === 'true'
  record.stream = wantsStream
  const { owners } = runtime.shared
  await forward(
    exchange,
    {
      pool,
      method,
      dialect: wantsStream ? 'responses' : 'opaque',
      wantsStream,
      isCreate: false,
      operation: undefined,
      pinnedResources: places,
      stateOwnerUnknown: false,
      itemOwners: undefined,
      foreignReasoning: undefined,
      promptHash: undefined,
      usageOption: undefined,
      prepare: ({ backend }) => ({
        path: storedResponsePath(id, action, backend, query),
        body: { chunks: [], byteLength: 0 },
        isJson: false,
      }),
      releaseBody: () => undefined,
      observer: {
        onResponse(_member, response) {
          if (method === 'DELETE' && response.status < 300) owners.forget(id)
        },
        onEvents: undefined,
      },
    },
    runtime.forwardDeps,
  )
  // What was read again was paid for when it was made.
  record.usage = NO_USAGE
}
