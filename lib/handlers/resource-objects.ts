// Files, batches, vector stores, fine-tuning, evals, containers, stored completions. They live in one resource and
// belong to no model: a request names a backend, or an object that the proxy has seen made.
import { refuse } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { mayUse, type Runtime } from '../runtime.ts'
import { foreignStateRefusal, makerFor } from './ownership.ts'
import { idIn, poolOf, relayObject } from './relay-object.ts'

export interface ResourceObjectRoute {
  /** `files`, `files/{id}/content` … */
  readonly path: readonly string[]
  readonly query: string
  /** The backend that the query names. */
  readonly backend: string | undefined
}

const BACKEND = 'x-proxy-backend'
/** Longer names are no backend's; they are shown back cut. */
const MAX_SHOWN_CHARS = 100

/** The id under which an object's resource is remembered; objects have a name space of their own. */
function objectKey(id: string): string {
  return `object ${id}`
}

function named({ request }: Exchange, { backend }: ResourceObjectRoute): string | undefined {
  const header = request.headers[BACKEND]
  return (Array.isArray(header) ? header[0] : header) ?? backend
}

/** The resource of the backend with this name, among those that the key may use. */
function resourceNamed(exchange: Exchange, name: string, runtime: Runtime): string | undefined {
  return runtime.pools
    .filter(pool => mayUse(exchange.clientKey, pool.model))
    .flatMap(pool => pool.members)
    .find(({ backend }) => backend.name === name)?.resourceId
}

function refuseUnknown(exchange: Exchange, family: string, name: string | undefined): void {
  const shownName = name === undefined ? '' : JSON.stringify(name.slice(0, MAX_SHOWN_CHARS))
  const message =
    name === undefined
      ? `${JSON.stringify(family)} live in one Azure OpenAI resource and belong to no model: name a backend in a header "${BACKEND}" (or in the query).`
      : `There is no backend ${shownName} that this key may use ("${BACKEND}").`
  refuse(exchange, { status: 404, code: 'unknown_url', message })
}

/** Serves one such request. */
export function handleResourceObject(
  exchange: Exchange,
  route: ResourceObjectRoute,
  runtime: Runtime,
): void | Promise<void> {
  const { path, query } = route
  const { method } = exchange.request
  const { owners } = runtime.shared
  const name = named(exchange, route)
  const family = path[0] ?? ''
  if (path.some(segment => runtime.isSecret(segment)) || (name !== undefined && runtime.isSecret(name))) {
    return refuseUnknown(exchange, family, undefined)
  }
  const keys = path.slice(1).map(objectKey)
  const foreign = foreignStateRefusal(exchange, keys, runtime)
  if (foreign !== undefined) return refuse(exchange, foreign)
  const known = keys.map(key => owners.of(key)).find(owner => owner !== undefined)
  const resourceId = name === undefined ? known : resourceNamed(exchange, name, runtime)
  const resources = resourceId === undefined ? undefined : new Set([resourceId])
  const pool = resources === undefined ? undefined : poolOf(exchange, runtime, resources)
  if (pool === undefined) {
    if (name === undefined && path.join('/') === 'chat/completions') {
      const message = 'This URL takes POST only, or, for stored completions, a backend’s name in x-proxy-backend.'
      return refuse(exchange, { status: 405, code: 'method_not_allowed', message, headers: ['allow', 'POST'] })
    }
    return refuseUnknown(exchange, family, name)
  }
  return relayObject(
    exchange,
    {
      pool,
      resources,
      path,
      query,
      isCreate: false,
      onServed(member, upstreamResponse) {
        if (upstreamResponse.status >= 300) return
        const last = keys.at(-1)
        if (method === 'DELETE' && last !== undefined) owners.forget(last)
        const made = method === 'POST' ? idIn(upstreamResponse) : undefined
        if (made === undefined) return
        const key = objectKey(made)
        // What was there before this request does not become this key's.
        owners.learn(key, member.resourceId, keys.includes(key) ? undefined : makerFor(exchange))
      },
    },
    runtime,
  )
}
