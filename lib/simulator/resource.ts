// One simulated Azure OpenAI resource: a region's front end with its keys, deployments, limits and stored responses. It is
// strict: what Azure would refuse, it refuses; what only a careless proxy would send, it notes in `violations`.
//
//   const resource = createSimulatedResource({ name: 'eu', keys: ['k'], deployments: [{ name: 'gpt-4o', kind: 'chat' }], clock })
//   const { url } = await resource.listen()
//   resource.next(throttle(7))           // the next request is throttled; then all is well again
//   resource.requests                    // what it was sent
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import type { Reply } from './chat.ts'
import {
  type AskedBody,
  checkAsked,
  checkKind,
  createDeployments,
  type Deployment,
  estimateOf,
  namedDeployment,
  readAsked,
  replyTo,
  type SimulatedDeployment,
} from './deployments.ts'
import {
  type Answer,
  contentFiltered,
  deploymentNotFound,
  frontError,
  gatewayError,
  modelError,
  networkRule,
  resourceNotFound,
  serverError,
  throttled,
  versionNotSupported,
  wrongKey,
} from './errors.ts'
import {
  type ErrorFamily,
  FAULT_HEADER,
  type Fault,
  type NamedError,
  parseFault,
  type StreamErrorKind,
  type Waits,
} from './faults.ts'
import type { RateLimitOptions } from './rate-limit.ts'
import { openRealtime } from './realtime.ts'
import { createResponseStore, type ResponseStore } from './responses.ts'
import { type Access, type Asked, checkAccess, checkHead, isAnswer, readSurface } from './surface.ts'
import { digest } from './text.ts'
import { pause, sendAnswer, sendEvents, type WriteOptions } from './writer.ts'

export type { SimulatedDeployment } from './deployments.ts'

export interface SimulatedResourceOptions {
  readonly name: string
  readonly keys: readonly string[]
  readonly deployments: readonly SimulatedDeployment[]
  readonly clock: Clock
  readonly region?: string
  /** Whether an Entra access token is good here. */
  readonly acceptsToken?: (token: string) => boolean
  /** Before an answer; for a stream before its first output. */
  readonly firstDelayMs?: number
  readonly eventDelayMs?: number
  /** Words of an answer. */
  readonly deltas?: number
  readonly filter?: 'default' | 'async' | 'off'
  /** Models Azure's prompt cache, so that `cached_tokens` mean something. */
  readonly promptCache?: boolean
  /** Texts that must not arrive here, such as the keys of the proxy's own clients. */
  readonly forbidden?: readonly string[]
  /** Obeys the header `x-ms-simulate`. */
  readonly faultHeader?: boolean
  /** Every so many requests that create something, this fault: for demonstrations. */
  readonly plan?: readonly { readonly every: number; readonly fault: Fault }[]
}

/** A request as it arrived. */
export interface ReceivedRequest {
  readonly method: string
  readonly url: string
  readonly rawHeaders: readonly string[]
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
  /** The client left before its answer was whole. */
  aborted: boolean
  /** It came on a connection that had served a request before. */
  readonly reused: boolean
}

export interface SimulatedResource {
  readonly name: string
  listen(port?: number, host?: string): Promise<{ readonly url: string; readonly port: number }>
  /** Closes the listener and every connection: from now on connects are refused. */
  close(): Promise<void>
  /** For the next request that is not token-free, or that matches; several wait in line. */
  next(...faults: readonly Fault[]): void
  /** For every such request until `clear()`. */
  always(fault: Fault): void
  clear(): void
  /** The last thousand. */
  readonly requests: readonly ReceivedRequest[]
  readonly violations: readonly string[]
  /** Connections that are open now. */
  connections(): number
  resize(deployment: string, limits: Partial<RateLimitOptions>): void
  storedResponses(): number
}

const MAX_REQUESTS = 1_000
/** Sub-routes of responses that are asked of a model, not of a stored response. */
const CREATES = new Set(['responses/compact', 'responses/input_tokens'])
const MAX_BODY_BYTES = 128 * 1024 * 1024
function waitHeaders(
  waits: Waits,
  epochMs: number,
): { readonly seconds: number; readonly headers: Record<string, string> } {
  switch (waits.kind) {
    case 'retry_after':
      return { seconds: waits.seconds, headers: { 'retry-after': String(waits.seconds) } }
    case 'both':
    case 'provisioned':
      return {
        seconds: Math.ceil(waits.ms / 1000),
        headers: { 'retry-after': String(Math.ceil(waits.ms / 1000)), 'retry-after-ms': String(waits.ms) },
      }
    case 'ms':
      return { seconds: Math.ceil(waits.ms / 1000), headers: { 'retry-after-ms': String(waits.ms) } }
    case 'none':
      return { seconds: 1, headers: {} }
    case 'date':
      return {
        seconds: waits.seconds,
        headers: { 'retry-after': new Date(epochMs + waits.seconds * 1000).toUTCString() },
      }
    case 'reset_requests':
      return { seconds: Math.ceil(waits.ms / 1000), headers: { 'x-ratelimit-reset-requests': String(waits.ms) } }
  }
}

function failure(status: number, family: ErrorFamily, headers: Readonly<Record<string, string>>): Answer {
  const plain = ((): Answer => {
    switch (family) {
      case 'model':
        return status === 500
          ? serverError()
          : modelError(status, 'The server is currently overloaded.', { type: 'server_error' })
      case 'front':
        return status === 408
          ? frontError(408, 'Timeout', 'The operation was timeout.')
          : frontError(status, 'ServiceUnavailable', 'Service unavailable.')
      case 'gateway':
        return gatewayError(status, 'Internal server error')
      case 'html':
        return {
          status,
          headers: { 'Content-Type': 'text/html' },
          body: '<html><body><h1>Bad Gateway</h1></body></html>',
        }
      case 'empty':
        return { status, headers: {}, body: '' }
    }
  })()
  return { ...plain, headers: { ...plain.headers, ...headers } }
}

function named(error: NamedError): Answer {
  switch (error) {
    case 'wrong_key':
      return wrongKey()
    case 'deployment_not_found':
      return deploymentNotFound()
    case 'resource_not_found':
      return resourceNotFound()
    case 'network_rule':
      return networkRule()
    case 'content_filter':
      return contentFiltered()
    case 'version':
      return versionNotSupported()
    case 'timeout':
      return frontError(408, 'Timeout', 'The operation was timeout.')
  }
}

/** The events that a stream error consists of (wire reference, 5.4). */
function errorEvents(kind: StreamErrorKind, sequence: number, done: boolean): string[] {
  const responses = (type: string, fields: object): string =>
    `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: sequence, ...fields })}\n\n`
  switch (kind) {
    case 'nested_throttle': {
      const error = {
        type: 'too_many_requests',
        code: 'rate_limit_exceeded',
        message: 'Your requests to gpt-5 for gpt-5 in East US 2 have exceeded token rate limit.',
        param: null,
        headers: { 'x-ms-fe-error': 'true' },
      }
      return [
        responses('error', { error }),
        responses('response.failed', {
          response: { id: 'resp_1', status: 'failed', error: { code: error.code, message: error.message } },
        }),
      ]
    }
    case 'nested_missing_deployment':
      return [
        responses('error', {
          error: {
            type: 'invalid_request_error',
            code: null,
            message: 'Could not find an existing deployment to match the model in the request.',
            param: null,
          },
        }),
      ]
    case 'flat':
      return [responses('error', { code: 'server_error', message: 'The server had an error.', param: null })]
    case 'failed_alone':
      return [
        responses('response.failed', {
          response: {
            id: 'resp_1',
            status: 'failed',
            error: { code: 'server_error', message: 'The server had an error.' },
          },
        }),
      ]
    case 'chat': {
      const error = {
        message: 'That model is currently overloaded with other requests.',
        type: 'server_error',
        param: null,
        code: null,
      }
      return [`data: ${JSON.stringify({ error })}\n\n`, ...(done ? ['data: [DONE]\n\n'] : [])]
    }
  }
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue
    bytes += chunk.length
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

function modelList(deployments: readonly Deployment[], id: string | undefined): Reply {
  const models = deployments.map(({ model, kind }) => ({
    id: model,
    object: 'model',
    status: 'succeeded',
    lifecycle_status: 'generally-available',
    created_at: 1_732_000_000,
    updated_at: 1_732_000_000,
    capabilities: {
      fine_tune: false,
      inference: true,
      completion: kind === 'completion',
      chat_completion: kind === 'chat',
      embeddings: kind === 'embeddings',
    },
    deprecation: { inference: 1_900_000_000 },
  }))
  const found = id === undefined ? { data: models, object: 'list' } : models.find(model => model.id === id)
  if (found === undefined) return { kind: 'answer', answer: resourceNotFound() }
  return {
    kind: 'answer',
    answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(found) },
  }
}

export function createSimulatedResource(options: SimulatedResourceOptions): SimulatedResource {
  const { clock, name } = options
  const access: Access = { keys: options.keys, acceptsToken: options.acceptsToken }
  const store: ResponseStore = createResponseStore(`secret of ${name}`)
  const deployments = createDeployments(options.deployments, clock, options.promptCache === true)
  const issuedKeys = new Set<string>()
  const requests: ReceivedRequest[] = []
  const violations: string[] = []
  const sockets = new Map<Socket, number>()
  let waiting: Fault[] = []
  let standing: Fault | undefined
  let created = 0
  let served = 0
  let host = ''

  const planned = (): Fault | undefined => options.plan?.find(({ every }) => created % every === 0)?.fault

  const faultFor = (request: IncomingMessage, creates: boolean, reused: boolean): Fault | undefined => {
    if (options.faultHeader === true) {
      const asked = request.headers[FAULT_HEADER]
      const fault = typeof asked === 'string' ? parseFault(asked) : undefined
      if (fault !== undefined) return fault
    }
    if (!creates) return undefined
    created++
    const first = waiting[0]
    // Only a connection that was used before can be found closed.
    if (first?.kind === 'stale_socket' && !reused) return standing ?? planned()
    return waiting.shift() ?? standing ?? planned()
  }

  const commonHeaders = (): Record<string, string> => {
    served++
    const id = digest(`${name} ${served}`, 32)
    const uuid = `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`
    return {
      'apim-request-id': uuid,
      'x-request-id': uuid,
      'x-ms-region': options.region ?? 'East US 2',
      'Strict-Transport-Security': 'max-age=31536000; includeSubDomains; preload',
      'x-content-type-options': 'nosniff',
    }
  }

  const createdS = (): number => Math.floor(clock.epochMs() / 1000)

  const issueKey = (): string => {
    const key = `ek_${digest(`${name} ${issuedKeys.size} ${clock.epochMs()}`, 40)}`
    issuedKeys.add(key)
    return key
  }

  /** The deployment that is asked, if it exists, can do it, and has something left. */
  const admitTo = (
    asked: Asked,
    wanted: string | undefined,
    estimate: number,
    headers: Record<string, string>,
    check: () => Answer | undefined,
  ): Deployment | Answer => {
    const deployment = deployments.find(candidate => candidate.name === wanted)
    if (deployment === undefined) return deploymentNotFound()
    headers['x-ms-deployment-name'] = deployment.name
    const refusal = checkKind(asked.operation, deployment) ?? check()
    if (refusal !== undefined) return refusal
    const admission = deployment.limit.admit(estimate)
    Object.assign(headers, deployment.limit.headers())
    if (admission.kind !== 'refused') return deployment
    const waits: Waits = { kind: admission.limit === 'provisioned' ? 'provisioned' : 'both', ms: admission.waitMs }
    const { seconds, headers: named } = waitHeaders(waits, clock.epochMs())
    return throttled(admission.limit, seconds, named)
  }

  /** A request for a deployment, from its checks to its reply. */
  const create = (
    asked: Asked,
    contentType: string,
    bytes: Buffer,
    fault: Fault | undefined,
    headers: Record<string, string>,
  ): Reply => {
    const read: AskedBody | Answer = readAsked(asked.operation, contentType, bytes)
    if (isAnswer(read)) return { kind: 'answer', answer: read }
    const wanted = asked.deployment ?? namedDeployment(asked.operation, read, asked.query)
    // An ephemeral key stands for its session, whose deployment it need not name again.
    const implied = asked.operation === 'realtime/calls' && wanted === undefined
    const deployment = admitTo(
      asked,
      implied ? deployments.find(({ kind }) => kind === 'realtime')?.name : wanted,
      estimateOf(asked.operation, read),
      headers,
      () => checkAsked(asked, read, store),
    )
    if (isAnswer(deployment)) return { kind: 'answer', answer: deployment }
    return replyTo(asked, read, deployment, {
      createdS: createdS(),
      deltas: options.deltas ?? 12,
      filter: options.filter ?? 'default',
      cutByFilter: fault?.kind === 'filtered_output',
      store,
      issueKey,
    })
  }

  const isIssued =
    (asked: Asked) =>
    (token: string): boolean =>
      asked.operation.startsWith('realtime') && issuedKeys.has(token)

  const readState = (method: string, asked: Asked): Reply => {
    const [, id = '', action] = asked.operation.split('/')
    if (asked.operation === 'models') return modelList(deployments, undefined)
    if (asked.operation.startsWith('models/')) return modelList(deployments, id)
    if (method === 'DELETE' && action === undefined) return store.remove(id)
    if (method === 'POST' && action === 'cancel') return store.cancel(id)
    if (method === 'GET' && action === 'input_items') return store.inputItems(id, asked.query)
    if (method === 'GET' && action === undefined) {
      return asked.query.get('stream') === 'true'
        ? store.resume(id, Number(asked.query.get('starting_after') ?? -1))
        : store.read(id)
    }
    return { kind: 'answer', answer: resourceNotFound() }
  }

  const creates = (method: string, asked: Asked): boolean =>
    method === 'POST' &&
    (!asked.operation.includes('responses/') || CREATES.has(asked.operation)) &&
    !asked.operation.startsWith('models')

  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { socket } = request
    const before = sockets.get(socket) ?? 0
    sockets.set(socket, before + 1)
    const body = await readBody(request)
    const method = request.method ?? ''
    const received: ReceivedRequest = {
      method,
      url: request.url ?? '',
      rawHeaders: request.rawHeaders,
      headers: request.headers,
      body,
      aborted: false,
      reused: before > 0,
    }
    requests.push(received)
    if (requests.length > MAX_REQUESTS) requests.shift()
    response.on('close', () => {
      if (!response.writableFinished) received.aborted = true
    })

    const headers = commonHeaders()
    const asked = readSurface(request.url ?? '')
    const fault = faultFor(request, method === 'POST' && (isAnswer(asked) || creates(method, asked)), before > 0)
    const writing: WriteOptions = {
      clock,
      headers,
      fault,
      firstDelayMs: options.firstDelayMs ?? 0,
      eventDelayMs: options.eventDelayMs ?? 0,
    }
    const head = checkHead(request, host, options.forbidden ?? [])
    for (const violation of head.violations) violations.push(`${method} ${request.url ?? ''}: ${violation}`)

    switch (fault?.kind) {
      case 'hang_up':
      case 'stale_socket':
        socket.resetAndDestroy()
        return
      case 'garbage':
        socket.end('this is no HTTP\r\n\r\n')
        return
      case 'silence':
        if (fault.headers) {
          response.writeHead(200, { ...headers, 'Content-Type': 'application/json' })
          response.flushHeaders()
        }
        return
      case 'throttle': {
        const { seconds, headers: waits } = waitHeaders(fault.waits, clock.epochMs())
        return sendAnswer(
          response,
          throttled(fault.waits.kind === 'provisioned' ? 'provisioned' : 'call', seconds, waits),
          writing,
        )
      }
      case 'fail':
        return sendAnswer(response, failure(fault.status, fault.family, fault.headers), writing)
      case 'named':
        return sendAnswer(response, named(fault.error), writing)
      case 'delay':
        await pause(clock, fault.ms)
        break
      default:
    }

    if (head.refusal !== undefined) return sendAnswer(response, head.refusal, writing)
    if (isAnswer(asked)) return sendAnswer(response, asked, writing)
    const denied = checkAccess(request, asked.surface, access, isIssued(asked))
    if (denied !== undefined) return sendAnswer(response, denied, writing)
    const reply = creates(method, asked)
      ? create(asked, request.headers['content-type'] ?? '', body, fault, headers)
      : readState(method, asked)
    if (reply.kind === 'answer') {
      await pause(clock, creates(method, asked) ? writing.firstDelayMs : 0)
      return sendAnswer(response, reply.answer, writing)
    }
    if (fault?.kind !== 'error_event') return sendEvents(response, reply, writing)
    const events = [
      ...reply.events.slice(0, fault.after),
      ...errorEvents(fault.error, fault.after, fault.done === true),
    ]
    if (fault.retryAfterS !== undefined) headers['retry-after'] = String(fault.retryAfterS)
    return sendEvents(response, { ...reply, events }, writing)
  }

  /** A WebSocket handshake: what is wrong with it is answered as HTTP, as Azure does. */
  const upgrade = async (request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> => {
    const refuse = (answer: Answer): void => {
      const body = Buffer.from(answer.body)
      const headers = Object.entries({ ...answer.headers, 'Content-Length': String(body.length), Connection: 'close' })
      const lines = headers.map(([header, value]) => `${header}: ${value}`)
      socket.end(
        Buffer.concat([Buffer.from(`HTTP/1.1 ${answer.status} Refused\r\n${lines.join('\r\n')}\r\n\r\n`), body]),
      )
    }
    const asked = readSurface(request.url ?? '')
    const fault = faultFor(request, true, false)
    const { violations: found, refusal } = checkHead(request, host, options.forbidden ?? [])
    for (const violation of found) violations.push(`upgrade ${request.url ?? ''}: ${violation}`)
    const received = { method: 'GET', url: request.url ?? '', rawHeaders: request.rawHeaders, headers: request.headers }
    requests.push({ ...received, body: Buffer.alloc(0), aborted: false, reused: false })
    switch (fault?.kind) {
      case 'hang_up':
        socket.destroy()
        return
      case 'silence':
        return
      case 'throttle': {
        const { seconds, headers: waits } = waitHeaders(fault.waits, clock.epochMs())
        return refuse(throttled('call', seconds, waits))
      }
      case 'fail':
        return refuse(failure(fault.status, fault.family, fault.headers))
      case 'named':
        return refuse(named(fault.error))
      default:
    }
    await pause(clock, options.firstDelayMs ?? 0)
    if (refusal !== undefined) return refuse(refusal)
    if (isAnswer(asked)) return refuse(asked)
    if (asked.operation !== 'realtime') return refuse(resourceNotFound())
    const denied = checkAccess(request, asked.surface, access, isIssued(asked))
    if (denied !== undefined) return refuse(denied)
    const wanted = asked.query.get(asked.surface === 'v1' ? 'model' : 'deployment') ?? undefined
    const headers: Record<string, string> = {}
    const deployment = admitTo(asked, wanted, 1, headers, () => undefined)
    if (isAnswer(deployment)) return refuse(deployment)
    openRealtime(request, socket, head, {
      model: deployment.model,
      onViolation: what => violations.push(`realtime: ${what}`),
    })
  }

  const server = http.createServer(
    { keepAliveTimeout: 120_000, requestTimeout: 0, maxHeaderSize: 64 * 1024 },
    (request, response) => {
      response.on('error', () => undefined)
      serve(request, response).catch(() => response.destroy())
    },
  )
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    upgrade(request, socket, head).catch(() => socket.destroy())
  })
  server.on('connection', socket => {
    sockets.set(socket, 0)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
  })

  return {
    name,
    requests,
    violations,
    listen(port = 0, address = '127.0.0.1') {
      return new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, address, () => {
          const bound = server.address() as AddressInfo
          host = `${address}:${bound.port}`
          resolve({ url: `http://${host}`, port: bound.port })
        })
      })
    },
    close() {
      return new Promise(resolve => {
        server.close(() => resolve())
        for (const socket of sockets.keys()) socket.destroy()
      })
    },
    next(...faults) {
      waiting.push(...faults)
    },
    always(fault) {
      standing = fault
    },
    clear() {
      waiting = []
      standing = undefined
    },
    connections: () => sockets.size,
    resize(deployment, limits) {
      deployments.find(candidate => candidate.name === deployment)?.limit.resize(limits)
    },
    storedResponses: () => store.size(),
  }
}
