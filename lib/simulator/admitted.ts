// The responses of one simulated resource to admitted requests: the output of a deployment, after its checks and
// limits, and reads of the resource's state.
import type { IncomingHttpHeaders } from 'node:http'
import type { SimulatedResponse } from './chat.ts'
import {
  type AskedBody,
  checkAsked,
  checkKind,
  type Deployment,
  estimateOf,
  namedDeployment,
  readAsked,
  responseTo,
} from './deployments.ts'
import { deploymentNotFound, resourceNotFound, throttled, type WholeResponse } from './errors.ts'
import { waitHeaders } from './fault-responses.ts'
import type { Fault, Waits } from './faults.ts'
import { modelList } from './model-list.ts'
import { isObjectOperation } from './objects.ts'
import { createdAt, issueKey, type ResourceState } from './resource-state.ts'
import { firstNamedItem, unknownItem } from './response-checks.ts'
import { servedHeaders } from './response-headers.ts'
import type { SocketMemory } from './responses.ts'
import { type Asked, isWholeResponse } from './surface.ts'
import { digest } from './text.ts'

/** A request for a deployment. */
export interface AdmissionRequest {
  readonly asked: Asked
  /** The deployment that it names, if any. */
  readonly wanted: string | undefined
  /** Tokens that it may cost. */
  readonly estimate: number
  /** The answer's headers; the deployment's name and rates are added. */
  readonly headers: Record<string, string>
  /** Further checks, once the deployment is known to exist and to fit. */
  check(): WholeResponse | undefined
}

/** The deployment that is asked, if it exists, can do it, and has something left. */
export function admitTo(
  { deployments, options }: ResourceState,
  admission: AdmissionRequest,
): Deployment | WholeResponse {
  const { asked, wanted, estimate, headers } = admission
  const deployment = deployments.find(candidate => candidate.name === wanted)
  if (deployment === undefined) return deploymentNotFound()
  if (asked.surface !== 'anthropic') headers['x-ms-deployment-name'] = deployment.name
  const refusal = checkKind(asked.operation, deployment) ?? admission.check()
  if (refusal !== undefined) return refusal
  const verdict = deployment.limit.admit(estimate)
  // Claude deployments tell no rates.
  if (asked.surface !== 'anthropic') Object.assign(headers, deployment.limit.headers())
  if (verdict.kind !== 'refused') return deployment
  const waits: Waits = { kind: verdict.limit === 'provisioned' ? 'provisioned' : 'both', ms: verdict.waitMs }
  const { seconds, headers: named } = waitHeaders(waits, options.clock.epochMs())
  return throttled(verdict.limit, seconds, named)
}

/** A request that creates something, as it arrived. */
export interface Creation {
  readonly asked: Asked
  readonly requestHeaders: IncomingHttpHeaders
  readonly body: Buffer
  readonly fault: Fault | undefined
  /** The answer's headers; the deployment's own are added. */
  readonly headers: Record<string, string>
}

/** Operations whose bodies may name files, vector stores and containers. */
const NAMES_OBJECTS: ReadonlySet<string> = new Set(['chat/completions', 'responses'])

/** A request for a deployment, from its checks to its reply. */
export function create(
  state: ResourceState,
  { asked, requestHeaders, body, fault, headers }: Creation,
): SimulatedResponse {
  const { deployments, options, store, deltas } = state
  const read: AskedBody | WholeResponse = readAsked(asked.operation, requestHeaders['content-type'] ?? '', body)
  if (isWholeResponse(read)) return { kind: 'answer', answer: read }
  const wanted = asked.deployment ?? namedDeployment(asked.operation, read, asked.query)
  // An ephemeral key stands for its session, whose deployment it need not name again.
  const implied = asked.operation === 'realtime/calls' && wanted === undefined
  const named = fault?.kind === 'denies_item' ? firstNamedItem(read.fields.input) : undefined
  const deployment = admitTo(state, {
    asked,
    wanted: implied ? deployments.find(({ kind }) => kind === 'realtime')?.name : wanted,
    estimate: estimateOf(asked.operation, read),
    headers,
    check: () =>
      checkAsked(asked, read, requestHeaders, store) ??
      (NAMES_OBJECTS.has(asked.operation) ? state.objects.missingIn(read.fields) : undefined) ??
      (named === undefined ? undefined : unknownItem(named, read.fields.store === false)),
  })
  if (isWholeResponse(deployment)) return { kind: 'answer', answer: deployment }
  const reply = responseTo(asked, read, deployment, {
    createdS: createdAt(state),
    deltas,
    filter: options.filter ?? 'default',
    cutByFilter: fault?.kind === 'filtered_output',
    store,
    issueKey: () => issueKey(state),
  })
  if (asked.surface === 'anthropic') headers['request-id'] = `req_${digest(`${options.name} ${state.served}`)}`
  else if (reply.kind === 'events' || reply.answer.status < 400) {
    Object.assign(headers, servedHeaders(asked.operation, deployment.model, reply.kind === 'events'))
  }
  return reply
}

/** A turn of Responses over WebSocket: admitted and limited like a request. */
export function createTurn(
  state: ResourceState,
  asked: Asked,
  body: Readonly<Record<string, unknown>>,
  memory: SocketMemory,
): SimulatedResponse {
  const { store, deltas } = state
  const { generate: _, ...fields } = body
  const read: AskedBody = { fields, parts: undefined }
  const deployment = admitTo(state, {
    asked,
    wanted: typeof fields.model === 'string' ? fields.model : undefined,
    estimate: estimateOf('responses', read),
    headers: {},
    check: () => store.check(fields, memory),
  })
  if (isWholeResponse(deployment)) return { kind: 'answer', answer: deployment }
  const { cache } = deployment
  return store.create(body, { createdS: createdAt(state), deltas, cache, socket: memory })
}

/** A request for what the resource keeps: objects, conversations, models, stored responses. */
export function readState(
  state: ResourceState,
  method: string,
  asked: Asked,
  headers: IncomingHttpHeaders,
  body: Buffer,
): SimulatedResponse {
  const { operation, query } = asked
  const { objects, store, deployments } = state
  const [family = '', id = ''] = operation.split('/')
  if (isObjectOperation(method, operation)) {
    return objects.serve({ method, operation, headers, body, query, createdS: createdAt(state) })
  }
  if (family === 'conversations') {
    const read = method === 'POST' ? readAsked('conversations', 'application/json', body) : { fields: {} }
    if (isWholeResponse(read)) return { kind: 'answer', answer: read }
    return store.conversations.serve(method, operation.split('/').slice(1), read.fields, query, createdAt(state))
  }
  if (operation === 'models') return modelList(deployments, undefined)
  if (family === 'models') return modelList(deployments, id)
  return readResponse(state, method, asked)
}

/** A request for a response that is stored. */
function readResponse({ store }: ResourceState, method: string, { operation, query }: Asked): SimulatedResponse {
  const [, id = '', action] = operation.split('/')
  if (method === 'DELETE' && action === undefined) return store.remove(id)
  if (method === 'POST' && action === 'cancel') return store.cancel(id)
  if (method === 'GET' && action === 'input_items') return store.inputItems(id, query)
  if (method === 'GET' && action === undefined) {
    return query.get('stream') === 'true' ? store.resume(id, Number(query.get('starting_after') ?? -1)) : store.read(id)
  }
  return { kind: 'answer', answer: resourceNotFound() }
}
