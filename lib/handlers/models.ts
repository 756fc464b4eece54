// The model list in OpenAI's form: public names and aliases that the key may use (azure/README.md 10.2).

import { refuse } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { mayUse, type Runtime } from '../runtime.ts'
import { isRefusal, resolvePool } from './resolve-model.ts'
import { sendJson } from './send.ts'

interface ModelObject {
  readonly id: string
  readonly object: 'model'
  readonly created: number
  readonly owned_by: string
}

/**
 * Clients want a time; the models' own is not known here, so all have the one of the Azure OpenAI service's v1 surface.
 */
const CREATED_S = 1_753_920_000

function modelObject(id: string): ModelObject {
  return { id, object: 'model', created: CREATED_S, owned_by: 'azure-openai' }
}

/** GET /v1/models. */
export function handleModels(exchange: Exchange, { pools }: Runtime): void {
  const data = pools
    .filter(pool => mayUse(exchange.clientKey, pool.model))
    .flatMap(pool => [pool.model.name, ...pool.model.aliases])
    .map(modelObject)
  sendJson(exchange, 200, { object: 'list', data })
}

/** GET /v1/models/{id}. */
export function handleModel(exchange: Exchange, id: string, runtime: Runtime): void {
  const pool = resolvePool(exchange, id, runtime)
  if (isRefusal(pool)) refuse(exchange, pool)
  else sendJson(exchange, 200, modelObject(id))
}
