// Files, batches, vector stores, fine-tuning, evals, containers, stored completions. They live in one resource and
// belong to no model: a request names a backend, or an object that the proxy has seen made.
import { objectKey } from '../balancer/owners.ts'
import { type Refusal, refuse } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import { mayUse, type Runtime } from '../runtime.ts'
import { resourcesOfObjects } from './named-objects.ts'
import { foreignStateRefusal, makerFor } from './ownership.ts'
import { idIn, type ObjectPlace, poolOf, relayObject } from './relay-object.ts'

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

/** Kinds whose bodies name objects; an upload, which may be large, is none. */
const NAMING: ReadonlySet<string> = new Set(['batches', 'vector_stores', 'fine_tuning', 'evals', 'containers'])

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

function unknownRefusal(family: string, name: string | undefined): Refusal {
  const shownName = name === undefined ? '' : JSON.stringify(name.slice(0, MAX_SHOWN_CHARS))
  const message =
    name === undefined
      ? `${JSON.stringify(family)} live in one Azure OpenAI resource and belong to no model: name a backend in a header "${BACKEND}" (or in the query).`
      : `There is no backend ${shownName} that this key may use ("${BACKEND}").`
  return { status: 404, code: 'unknown_url', message }
}

/**
 * Where a request goes whose body may name objects: another key's are refused. Where neither path nor header says,
 * those objects do.
 */
function placeByBody(
  exchange: Exchange,
  family: string,
  known: ObjectPlace | undefined,
  runtime: Runtime,
): (chunks: readonly Buffer[]) => ObjectPlace | Refusal {
  return chunks => {
    const resources = resourcesOfObjects(exchange, chunks, runtime)
    if (resources !== undefined && 'status' in resources) return resources
    if (known !== undefined) return known
    const pool = resources === undefined ? undefined : poolOf(exchange, runtime, resources)
    return pool === undefined ? unknownRefusal(family, undefined) : { pool, resources }
  }
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
    return refuse(exchange, unknownRefusal(family, undefined))
  }
  const keys = path.slice(1).map(objectKey)
  const foreign = foreignStateRefusal(exchange, keys, runtime)
  if (foreign !== undefined) return refuse(exchange, foreign)
  const known = keys.map(key => owners.of(key)).find(owner => owner !== undefined)
  const resourceId = name === undefined ? known : resourceNamed(exchange, name, runtime)
  const resources = resourceId === undefined ? undefined : new Set([resourceId])
  const pool = resources === undefined ? undefined : poolOf(exchange, runtime, resources)
  const place = pool === undefined ? undefined : { pool, resources }
  const mayName = method === 'POST' && NAMING.has(family) && owners.holdsObjects()
  if (place === undefined && (name !== undefined || !mayName)) {
    if (name === undefined && path.join('/') === 'chat/completions') {
      const message = 'This URL takes POST only, or, for stored completions, a backend’s name in x-proxy-backend.'
      return refuse(exchange, { status: 405, code: 'method_not_allowed', message, headers: ['allow', 'POST'] })
    }
    return refuse(exchange, unknownRefusal(family, name))
  }
  return relayObject(
    exchange,
    {
      place: place !== undefined && !mayName ? place : placeByBody(exchange, family, place, runtime),
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
