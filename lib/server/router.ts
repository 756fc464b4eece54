// From a request line to what is asked for. Pure: knows the proxy's own URLs and the forms Azure's clients use, nothing
// else.
import { isObjectId } from '../azure/ids.ts'
import { allOperations, type Operation, operationNamed } from '../azure/operations.ts'
import { queryValue, withoutParameters } from '../azure/query.ts'
import { nearestUrl } from './nearest-url.ts'

export type Route =
  | {
      readonly kind: 'inference'
      readonly operation: Operation
      readonly model: string | undefined
      readonly query: string
    }
  | {
      readonly kind: 'stored_response'
      readonly id: string
      readonly action: '' | 'cancel' | 'input_items'
      readonly query: string
    }
  /** A conversation or its items: the path below `conversations`, whose first segment is the id. */
  | { readonly kind: 'conversation'; readonly path: readonly string[]; readonly query: string }
  /** What lives in one resource and belongs to no model. */
  | {
      readonly kind: 'resource_object'
      /** `files`, `files/{id}/content` … */
      readonly path: readonly string[]
      readonly query: string
      /** The backend that the query names, as the header may do. */
      readonly backend: string | undefined
    }
  | { readonly kind: 'models' }
  | { readonly kind: 'model'; readonly id: string }
  | { readonly kind: 'realtime'; readonly model: string | undefined; readonly query: string }
  /** Responses over WebSocket; as plain HTTP the same URL takes POST only. */
  | { readonly kind: 'responses_socket'; readonly model: string | undefined; readonly query: string }
  | { readonly kind: 'health' }
  | { readonly kind: 'livez' }
  | { readonly kind: 'readyz' }
  | { readonly kind: 'root' }
  | { readonly kind: 'metrics' }
  | { readonly kind: 'dashboard'; readonly path: string; readonly query: string }
  | { readonly kind: 'method_not_allowed'; readonly allow: string }
  | { readonly kind: 'unknown_url'; readonly hint: string | undefined; readonly near?: string }
  /** What stands in an id's place cannot be one. */
  | { readonly kind: 'no_object_id' }
  /** A percent escape in the path is broken: nobody could say what it names. */
  | { readonly kind: 'malformed' }

/** Ids and model names in a path are at most this long, in characters; longer ones name nothing. */
const MAX_SEGMENT = 512

/** What lives in one resource and is not routed by model: said so, instead of a bare 404. */
const RESOURCE_BOUND = new Set([
  'files',
  'batches',
  'fine_tuning',
  'vector_stores',
  'uploads',
  'assistants',
  'threads',
  'containers',
  'evals',
])

const UNKNOWN: Route = { kind: 'unknown_url', hint: undefined }

const MALFORMED: Route = { kind: 'malformed' }

/** A path segment's text; a route where it has none. */
function decoded(segment: string): string | Route {
  if (segment.length > MAX_SEGMENT) return UNKNOWN
  if (!segment.includes('%')) return segment
  try {
    return decodeURIComponent(segment)
  } catch {
    return MALFORMED
  }
}

/** An object's id in a path, or the route that refuses it. */
function objectId(segment: string): string | Route {
  const id = decoded(segment)
  return typeof id !== 'string' || isObjectId(id) ? id : { kind: 'no_object_id' }
}

/** Names the backend for what lives in one resource; a header too. */
const BACKEND = 'x-proxy-backend'

/** Query parameters that stay here: the api-version is the backend's, and credentials never go upstream. */
const OWN_PARAMETERS: ReadonlySet<string> = new Set(['api-version', 'api-key', 'subscription-key', BACKEND])
/** A realtime session's model goes upstream as the backend's own name for it, and under one name. */
const MODEL_PARAMETERS: ReadonlySet<string> = new Set(['model', 'deployment'])

/** The client's query as it goes upstream: its own order and spelling, less what stays here. */
function upstreamQuery(query: string): string {
  return withoutParameters(query, OWN_PARAMETERS)
}

function get(method: string, route: Route): Route {
  return method === 'GET' || method === 'HEAD' ? route : { kind: 'method_not_allowed', allow: 'GET, HEAD' }
}

function post(method: string, route: Route): Route {
  return method === 'POST' ? route : { kind: 'method_not_allowed', allow: 'POST' }
}

function storedResponse(method: string, rest: readonly string[], query: string): Route {
  const id = objectId(rest[0] ?? '')
  if (typeof id !== 'string') return id
  const action = rest[1]
  if (action === undefined) {
    if (method !== 'GET' && method !== 'DELETE') return { kind: 'method_not_allowed', allow: 'GET, DELETE' }
    return { kind: 'stored_response', id, action: '', query }
  }
  if (rest.length > 2) return UNKNOWN
  if (action === 'cancel') return post(method, { kind: 'stored_response', id, action, query })
  if (action === 'input_items') return get(method, { kind: 'stored_response', id, action, query })
  return UNKNOWN
}

/** The methods of a conversation's paths, by their number of segments: none, its id, `items`, an item's id. */
const CONVERSATION_METHODS = [['POST'], ['GET', 'POST', 'DELETE'], ['GET', 'POST'], ['GET', 'DELETE']] as const

function conversation(method: string, segments: readonly string[], query: string): Route {
  const methods: readonly string[] | undefined = CONVERSATION_METHODS[segments.length]
  if (methods === undefined || (segments.length > 1 && segments[1] !== 'items')) return UNKNOWN
  const path: string[] = []
  for (const segment of segments) {
    const id = objectId(segment)
    if (typeof id !== 'string') return id
    path.push(id)
  }
  if (!methods.includes(method)) return { kind: 'method_not_allowed', allow: methods.join(', ') }
  return { kind: 'conversation', path, query }
}

const OBJECT_METHODS = new Set(['GET', 'POST', 'DELETE'])

function resourceObject(method: string, segments: readonly string[], query: string): Route {
  const path: string[] = []
  for (const segment of segments) {
    const id = objectId(segment)
    if (typeof id !== 'string') return id
    path.push(id)
  }
  if (!OBJECT_METHODS.has(method)) return { kind: 'method_not_allowed', allow: 'GET, POST, DELETE' }
  return { kind: 'resource_object', path, query, backend: undefined }
}

/** `server.extra_operations`, by name. */
type Extra = ReadonlyMap<string, Operation>
const NO_EXTRA: Extra = new Map()

/** The API's surface, below whichever prefix the client uses. */
function api(method: string, segments: readonly string[], query: string, extra: Extra = NO_EXTRA): Route {
  const [family, second] = segments
  const name = segments.join('/')
  const operation = operationNamed(name) ?? extra.get(name)
  if (operation?.name === 'responses' && method === 'GET') return { kind: 'responses_socket', model: undefined, query }
  // The list of stored completions: a GET of the path that is POST for models.
  if (operation?.name === 'chat/completions' && method === 'GET') return resourceObject(method, segments, query)
  if (operation !== undefined) return post(method, { kind: 'inference', operation, model: undefined, query })
  if (family === 'responses' && second !== undefined) return storedResponse(method, segments.slice(1), query)
  if (family === 'models') {
    if (second === undefined) return get(method, { kind: 'models' })
    // Names with slashes ("org/model") are allowed in the path as they are.
    const id = decoded(segments.slice(1).join('/'))
    return typeof id === 'string' ? get(method, { kind: 'model', id }) : id
  }
  if (family === 'realtime' && second === undefined) {
    const model = queryValue(query, 'model') ?? queryValue(query, 'deployment')
    return get(method, { kind: 'realtime', model, query: withoutParameters(query, MODEL_PARAMETERS) })
  }
  if (family === 'conversations') return conversation(method, segments.slice(1), query)
  const isStoredChat = /^chat\/completions\/[^/]+(\/messages)?$/.test(name)
  return family !== undefined && (RESOURCE_BOUND.has(family) || isStoredChat)
    ? resourceObject(method, segments, query)
    : UNKNOWN
}

function deployment(method: string, segments: readonly string[], query: string): Route {
  const model = decoded(segments[0] ?? '')
  if (typeof model !== 'string') return model
  if (model === '') return UNKNOWN
  const route = api(method, segments.slice(1), query)
  if (route.kind === 'inference') return { ...route, model }
  if (route.kind === 'realtime' || route.kind === 'responses_socket') return { ...route, model }
  return route.kind === 'method_not_allowed' || route.kind === 'stored_response' ? route : UNKNOWN
}

function byPath(method: string, path: string, query: string, extra: Extra): Route {
  // Some SDK versions put `//` before the path when their endpoint ends with a slash, and some clients end with one.
  const segments = path.split('/').filter(segment => segment !== '')
  const [first, second] = segments
  if (first === 'v1') return api(method, segments.slice(1), query, extra)
  if (first === 'openai') {
    if (second === 'deployments') return deployment(method, segments.slice(2), query)
    return api(method, segments.slice(second === 'v1' ? 2 : 1), query, extra)
  }
  if (first === 'anthropic' && second === 'v1') {
    const operation = operationNamed(segments.slice(2).join('/'))
    return operation?.dialect === 'claude'
      ? post(method, { kind: 'inference', operation, model: undefined, query })
      : UNKNOWN
  }
  if (first === 'dashboard') return { kind: 'dashboard', path: segments.slice(1).join('/'), query }
  if (first === undefined) return method === 'GET' || method === 'HEAD' ? { kind: 'root' } : UNKNOWN
  if (segments.length !== 1) return UNKNOWN
  switch (first) {
    case 'health':
      return get(method, { kind: 'health' })
    case 'livez':
      return get(method, { kind: 'livez' })
    case 'readyz':
      return get(method, { kind: 'readyz' })
    case 'metrics':
      return get(method, { kind: 'metrics' })
    default:
      return UNKNOWN
  }
}

/**
 * What nearly every request asks for, word for word: taking its URL apart costs 2 µs, finding it here next to nothing.
 */
const PLAIN: ReadonlyMap<string, Route> = new Map(
  allOperations().map(operation => [
    `/v1/${operation.name}`,
    { kind: 'inference', operation, model: undefined, query: '' },
  ]),
)

function withHint(found: Route, path: string): Route {
  if (found.kind !== 'unknown_url' || found.hint !== undefined) return found
  const near = nearestUrl(path)
  return near === undefined ? found : { kind: 'unknown_url', hint: undefined, near }
}

/**
 * Step 2 of a request (lib/README.md): the route that its line asks for.
 * @param target the request line's target: a path with a query, or an absolute URL, which counts by its path
 * @param extra operations that the config adds
 */
export function route(method: string, target: string, extra: Extra = NO_EXTRA): Route {
  const plain = method === 'POST' ? PLAIN.get(target) : undefined
  if (plain !== undefined) return plain
  let path = target
  if (!path.startsWith('/')) {
    const origin = /^https?:\/\/[^/?#]*/i.exec(path)
    if (origin === null) return UNKNOWN
    path = path.slice(origin[0].length)
  }
  const fragment = path.indexOf('#')
  if (fragment !== -1) path = path.slice(0, fragment)
  const mark = path.indexOf('?')
  const bare = mark === -1 ? path : path.slice(0, mark)
  const query = mark === -1 ? '' : upstreamQuery(path.slice(mark + 1))
  const found = withHint(byPath(method, bare, query, extra), bare)
  if (found.kind !== 'resource_object' || mark === -1) return found
  return { ...found, backend: queryValue(path.slice(mark + 1), BACKEND) }
}
