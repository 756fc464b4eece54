// Operations of a model, and the URLs under which Azure OpenAI and OpenAI-compatible servers answer it. The only file
// that builds an upstream path. It knows nothing of sockets, clients or which backend is chosen.
import type { BackendConfig } from '../config/types.ts'

/** How an event stream of the operation is framed and ends; `opaque`: not known, only the transport tells. */
export type Dialect = 'chat' | 'responses' | 'claude' | 'opaque'

/**
 * One thing that can be asked, whichever URL form the client used. `name` is the path after the version or deployment.
 * `perDeployment`: the dated surface has it under `/deployments/{deployment}/` (Azure REST specs, inference 2024-10-21
 * and 2025-04-01-preview). Elsewhere the upstream reads the deployment from the body's `model`, as the v1 surface
 * always does.
 */
export interface Operation {
  readonly name: string
  readonly perDeployment: boolean
  readonly dialect: Dialect
  /**
   * Served below `/openai/v1` whatever the backend's api_version, or below `/anthropic/v1`; left out: in the backend's
   * own form.
   */
  readonly surface?: 'v1' | 'anthropic'
  /**
   * `session`: JSON whose model stands in `session.model`; `sdp`: an offer, alone or in a form, its model in the query.
   */
  readonly body: 'json' | 'multipart' | 'session' | 'sdp'
}

const json = (name: string, dialect: Dialect, perDeployment = true): Operation => ({
  name,
  perDeployment,
  dialect,
  body: 'json',
})
const multipart = (name: string): Operation => ({ name, perDeployment: true, dialect: 'opaque', body: 'multipart' })

/** Claude deployments of Foundry (azure/README.md 13.3). */
const claude = (name: string): Operation => ({
  name,
  perDeployment: false,
  dialect: 'claude',
  surface: 'anthropic',
  body: 'json',
})

/** A JSON operation of the v1 surface alone, routed by the `model` of its body. */
export function v1Operation(name: string): Operation {
  return { name, perDeployment: false, dialect: 'opaque', surface: 'v1', body: 'json' }
}

const ALL: readonly Operation[] = [
  json('chat/completions', 'chat'),
  json('embeddings', 'opaque'),
  json('responses', 'responses', false),
  json('responses/compact', 'responses', false),
  json('responses/input_tokens', 'responses', false),
  json('completions', 'chat'),
  json('images/generations', 'opaque'),
  multipart('images/edits'),
  multipart('images/variations'),
  json('audio/speech', 'opaque'),
  multipart('audio/transcriptions'),
  multipart('audio/translations'),
  { name: 'realtime/client_secrets', perDeployment: false, dialect: 'opaque', body: 'session' },
  { name: 'realtime/calls', perDeployment: false, dialect: 'opaque', body: 'sdp' },
  v1Operation('decisions'),
  claude('messages'),
  claude('messages/count_tokens'),
]

const BY_NAME: ReadonlyMap<string, Operation> = new Map(ALL.map(operation => [operation.name, operation]))

/** The operation of that name (`chat/completions`), or undefined. */
export function operationNamed(name: string): Operation | undefined {
  return BY_NAME.get(name)
}

/** Every operation, for tests and for lists shown to people. */
export function allOperations(): readonly Operation[] {
  return ALL
}

/** Whether this API version is of the v1 surface; every other one is a date and means the classic surface. */
function isV1(apiVersion: string): boolean {
  return apiVersion === 'v1' || apiVersion === 'preview'
}

/**
 * Whether the backend finds the deployment in the request's body (v1 surface, Responses, OpenAI-compatible servers) and
 * not in the URL. Source: Azure API lifecycle page for v1; Responses how-to for the dated form.
 */
export function readsModelFromBody(operation: Operation, backend: BackendConfig): boolean {
  return backend.type === 'openai' || isV1(backend.apiVersion) || !operation.perDeployment
}

function withQuery(path: string, apiVersion: string | undefined, query: string): string {
  if (apiVersion === undefined) return query === '' ? path : `${path}?${query}`
  return query === '' ? `${path}?api-version=${apiVersion}` : `${path}?${query}&api-version=${apiVersion}`
}

/** `v1` is the default of the v1 surface and need not be said; `preview` must be (Azure v1 spec, `api-version`). */
function v1Version(apiVersion: string): string | undefined {
  return apiVersion === 'preview' ? 'preview' : undefined
}

function surfacePath(backend: BackendConfig, resourcePath: string, query: string): string {
  const base = backend.endpoint.basePath
  if (backend.type === 'openai') return withQuery(`${base}/v1/${resourcePath}`, undefined, query)
  if (isV1(backend.apiVersion)) {
    return withQuery(`${base}/openai/v1/${resourcePath}`, v1Version(backend.apiVersion), query)
  }
  return withQuery(`${base}/openai/${resourcePath}`, backend.apiVersion, query)
}

/**
 * The path and query under which a backend answers an operation.
 * @param query the client's query without `api-version` and credentials, without `?`; empty for none
 */
export function operationPath(operation: Operation, backend: BackendConfig, query: string): string {
  const { basePath: base } = backend.endpoint
  if (operation.surface !== undefined && backend.type === 'azure') {
    const version = operation.surface === 'v1' ? v1Version(backend.apiVersion) : undefined
    const prefix = operation.surface === 'v1' ? 'openai/v1' : 'anthropic/v1'
    return withQuery(`${base}/${prefix}/${operation.name}`, version, query)
  }
  if (readsModelFromBody(operation, backend)) return surfacePath(backend, operation.name, query)
  const { basePath } = backend.endpoint
  const deployment = encodeURIComponent(backend.deployment)
  return withQuery(`${basePath}/openai/deployments/${deployment}/${operation.name}`, backend.apiVersion, query)
}

/**
 * The path of a stored response or one of its sub-resources: `responses/{id}`, `responses/{id}/cancel`,
 * `responses/{id}/input_items` (Responses how-to, azure/README.md 1.4). The id is percent-encoded, so it stays one
 * segment.
 */
export function storedResponsePath(
  id: string,
  action: '' | 'cancel' | 'input_items',
  backend: BackendConfig,
  query: string,
): string {
  const item = `responses/${encodeURIComponent(id)}`
  return surfacePath(backend, action === '' ? item : `${item}/${action}`, query)
}

/** The path of what lives in one resource and belongs to no model: `files/{id}/content`, `conversations/{id}/items`. */
export function resourceObjectPath(path: readonly string[], backend: BackendConfig, query: string): string {
  return surfacePath(backend, path.map(encodeURIComponent).join('/'), query)
}

/** Whether the backend is asked in the v1 form, which alone has conversations. */
export function speaksV1(backend: BackendConfig): boolean {
  return backend.type === 'openai' || isV1(backend.apiVersion)
}

/**
 * The path that shows whether a resource holds a stored object, by the object's id: a conversation, or else a response.
 */
export function storedObjectPath(id: string, backend: BackendConfig): string {
  if (id.startsWith('conv_')) return surfacePath(backend, `conversations/${encodeURIComponent(id)}`, '')
  return storedResponsePath(id, '', backend, '')
}

/**
 * A token-free question that shows network, TLS and credential of a resource: the model list (azure/README.md 8). The
 * dated list is asked with the oldest version that all resources know, since the backend's own may be newer than the
 * list's surface.
 */
export function probePath(backend: BackendConfig): string {
  if (backend.type === 'openai' || isV1(backend.apiVersion)) return surfacePath(backend, 'models', '')
  return withQuery(`${backend.endpoint.basePath}/openai/models`, backend.apiVersion, '')
}

/** Where Responses over WebSocket is asked for (upgrade of the URL that a POST goes to). */
export function responsesSocketPath(backend: BackendConfig, query: string): string {
  return surfacePath(backend, 'responses', query)
}

/**
 * Where realtime sessions are opened (WebSocket upgrade). The dated surface names the deployment in the query
 * (`deployment`), the v1 surface and OpenAI as `model`. Source: Azure realtime how-to, azure/README.md 10.1.
 */
export function realtimePath(backend: BackendConfig, query: string): string {
  const name = encodeURIComponent(backend.deployment)
  const rest = query === '' ? '' : `&${query}`
  if (backend.type === 'openai' || isV1(backend.apiVersion)) {
    return surfacePath(backend, 'realtime', `model=${name}${rest}`)
  }
  return surfacePath(backend, 'realtime', `deployment=${name}${rest}`)
}
