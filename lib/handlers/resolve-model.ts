// The pool that a request goes to: by the model's name and the key's rights, or by the ephemeral key it shows.
import type { Pool } from '../balancer/pool.ts'
import { nearest } from '../config/nearest.ts'
import type { Refusal } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { mayUse, type Runtime } from '../runtime.ts'

/** The refusal of a request that names no model, neither in its body nor in its path. */
export function missingModel(): Refusal {
  return {
    status: 400,
    code: 'missing_model',
    message: 'The request names no model: "model" must be a string.',
    param: 'model',
  }
}

/** Models that are named in a message; the list has all. */
const NAMED_MAX = 8

/**
 * The models that a key may use, for a client that has asked for another one. The nearest name comes first, then the
 * few there are or where to see them.
 */
function usable({ clientKey }: Exchange, asked: string, { pools }: Runtime): string {
  const models = pools.map(({ model }) => model).filter(model => mayUse(clientKey, model))
  const near = nearest(
    asked,
    models.flatMap(({ name, aliases }) => [name, ...aliases]),
  )
  const guess = near === undefined ? '' : ` Did you mean ${JSON.stringify(near)}?`
  if (models.length === 0) return ' This key may use no model here.'
  if (models.length > NAMED_MAX) return `${guess} GET /v1/models lists the ${models.length} models of this key.`
  const names = models.map(({ name }) => JSON.stringify(name)).join(', ')
  return `${guess} This key may use ${names} (GET /v1/models).`
}

/** The pool a name stands for, if the key may use it. */
export function resolvePool(exchange: Exchange, name: string, runtime: Runtime): Pool | Refusal {
  const pool = runtime.pool(name)
  if (pool === undefined) {
    // The name is the client's text: quoted back to it, bounded, and never put into a metric.
    const shownName = runtime.isSecret(name) ? '[secret]' : name
    const quoted = JSON.stringify(shownName.length > 100 ? `${shownName.slice(0, 100)}…` : shownName)
    return {
      status: 404,
      code: 'model_not_found',
      message: `The model ${quoted} does not exist here, or you do not have access to it.${usable(exchange, shownName, runtime)}`,
      param: 'model',
    }
  }
  if (!mayUse(exchange.clientKey, pool.model)) {
    return {
      status: 403,
      code: 'model_not_allowed',
      message: `This key may not use the model ${JSON.stringify(pool.model.name)}.${usable(exchange, '', runtime)}`,
      param: 'model',
    }
  }
  return pool
}

/** Tells a refusal from a pool: only a refusal has a status. */
export function isRefusal(value: Pool | Refusal): value is Refusal {
  return 'status' in value
}

/** The pool of the named model, or with an ephemeral key any pool whose resource issued it. */
export function resolvePoolFor(exchange: Exchange, name: string | undefined, runtime: Runtime): Pool | Refusal {
  const pinnedResource = exchange.ephemeral?.resourceId
  const reachesPinned = (pool: Pool): boolean => pool.members.some(member => member.resourceId === pinnedResource)
  const mayGoTo = (pool: Pool): boolean => reachesPinned(pool) && mayUse(exchange.clientKey, pool.model)
  if (name === undefined)
    return (pinnedResource === undefined ? undefined : runtime.pools.find(mayGoTo)) ?? missingModel()
  const pool = resolvePool(exchange, name, runtime)
  if (isRefusal(pool) || pinnedResource === undefined || reachesPinned(pool)) return pool
  return {
    status: 403,
    code: 'model_not_allowed',
    message: 'This ephemeral key was issued for another model.',
    param: 'model',
  }
}
