// One request of a simulated resource: the fault that was asked for first, then the checks of a strict front end, then
// the reply; the same order for a plain request and for a WebSocket handshake.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Clock } from '../clock.ts'
import { commonHeaders, servedHeaders } from './answer-headers.ts'
import type { Reply } from './chat.ts'
import {
  type AskedBody,
  checkAsked,
  checkKind,
  type Deployment,
  estimateOf,
  namedDeployment,
  readAsked,
  replyTo,
} from './deployments.ts'
import { type Answer, deploymentNotFound, resourceNotFound, throttled } from './errors.ts'
import { errorEvents, faultAnswer, waitHeaders } from './fault-answers.ts'
import type { Fault, TurnFault, Waits } from './faults.ts'
import { modelList } from './model-list.ts'
import { createObjectStore, isObjectOperation } from './objects.ts'
import { openRealtime } from './realtime.ts'
import { firstNamedItem, unknownItem } from './response-checks.ts'
import { createResponseStore, type SocketMemory } from './responses.ts'
import { openResponsesSocket, SOCKET_LIFE_MS } from './responses-socket.ts'
import { type Access, type Asked, checkAccess, checkHead, creates, isAnswer, readSurface } from './surface.ts'
import { digest } from './text.ts'
import { pause, sendAnswer, sendEvents, type WriteOptions } from './writer.ts'

/** What a resource is, as far as serving is concerned. */
export interface ServiceOptions {
  readonly name: string
  readonly keys: readonly string[]
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
  /** Texts that must not arrive here, such as the keys of the proxy's own clients. */
  readonly forbidden?: readonly string[]
  /** Takes the metadata that Codex puts into items, as OpenAI does; Azure was seen to refuse it. */
  readonly takesItemMetadata?: boolean
  /** How long a session of Responses over WebSocket lasts; an hour if left out. */
  readonly socketLifeMs?: number
}

export interface ServiceDeps {
  readonly options: ServiceOptions
  readonly deployments: readonly Deployment[]
  /** The resource's own host, with its port. */
  host(): string
  /** Notes what only a careless proxy would send. */
  onViolation(what: string): void
  /** The fault that a request meets. @param creates it is not token-free */
  faultFor(request: IncomingMessage, creates: boolean, reused: boolean): Fault | undefined
  turnFault(): TurnFault | undefined
}

export interface Service {
  /** @param reused the connection has served a request before */
  serve(request: IncomingMessage, response: ServerResponse, body: Buffer, reused: boolean): Promise<void>
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void>
  storedResponses(): number
}

/** The stores and limits of one resource, as what serves its requests. */
export function createService(deps: ServiceDeps): Service {
  const { options, deployments, onViolation } = deps
  const { clock, name } = options
  const access: Access = { keys: options.keys, acceptsToken: options.acceptsToken }
  const store = createResponseStore(`secret of ${name}`, options.takesItemMetadata === true)
  const objects = createObjectStore(`secret of ${name}`)
  const issuedKeys = new Set<string>()
  let served = 0

  const createdS = (): number => Math.floor(clock.epochMs() / 1000)

  const issueKey = (): string => {
    const key = `ek_${digest(`${name} ${issuedKeys.size} ${clock.epochMs()}`, 40)}`
    issuedKeys.add(key)
    return key
  }
  const isIssued =
    (asked: Asked) =>
    (token: string): boolean =>
      asked.operation.startsWith('realtime') && issuedKeys.has(token)

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
    if (asked.surface !== 'anthropic') headers['x-ms-deployment-name'] = deployment.name
    const refusal = checkKind(asked.operation, deployment) ?? check()
    if (refusal !== undefined) return refusal
    const admission = deployment.limit.admit(estimate)
    // Claude deployments tell no rates.
    if (asked.surface !== 'anthropic') Object.assign(headers, deployment.limit.headers())
    if (admission.kind !== 'refused') return deployment
    const waits: Waits = { kind: admission.limit === 'provisioned' ? 'provisioned' : 'both', ms: admission.waitMs }
    const { seconds, headers: named } = waitHeaders(waits, clock.epochMs())
    return throttled(admission.limit, seconds, named)
  }

  /** A request for a deployment, from its checks to its reply. */
  const create = (
    asked: Asked,
    request: IncomingMessage,
    bytes: Buffer,
    fault: Fault | undefined,
    headers: Record<string, string>,
  ): Reply => {
    const read: AskedBody | Answer = readAsked(asked.operation, request.headers['content-type'] ?? '', bytes)
    if (isAnswer(read)) return { kind: 'answer', answer: read }
    const wanted = asked.deployment ?? namedDeployment(asked.operation, read, asked.query)
    // An ephemeral key stands for its session, whose deployment it need not name again.
    const implied = asked.operation === 'realtime/calls' && wanted === undefined
    const named = fault?.kind === 'denies_item' ? firstNamedItem(read.fields.input) : undefined
    const deployment = admitTo(
      asked,
      implied ? deployments.find(({ kind }) => kind === 'realtime')?.name : wanted,
      estimateOf(asked.operation, read),
      headers,
      () =>
        checkAsked(asked, read, request.headers, store) ??
        (named === undefined ? undefined : unknownItem(named, read.fields.store === false)),
    )
    if (isAnswer(deployment)) return { kind: 'answer', answer: deployment }
    const reply = replyTo(asked, read, deployment, {
      createdS: createdS(),
      deltas: options.deltas ?? 12,
      filter: options.filter ?? 'default',
      cutByFilter: fault?.kind === 'filtered_output',
      store,
      issueKey,
    })
    if (asked.surface === 'anthropic') headers['request-id'] = `req_${digest(`${name} ${served}`)}`
    else if (reply.kind === 'events' || reply.answer.status < 400) {
      Object.assign(headers, servedHeaders(asked.operation, deployment.model, reply.kind === 'events'))
    }
    return reply
  }

  /** A turn of Responses over WebSocket: admitted and limited like a request. */
  const createTurn = (asked: Asked, body: Readonly<Record<string, unknown>>, memory: SocketMemory): Reply => {
    const { generate: _, ...fields } = body
    const read: AskedBody = { fields, parts: undefined }
    const wanted = typeof fields.model === 'string' ? fields.model : undefined
    const deployment = admitTo(asked, wanted, estimateOf('responses', read), {}, () => store.check(fields, memory))
    if (isAnswer(deployment)) return { kind: 'answer', answer: deployment }
    const { cache } = deployment
    return store.create(body, { createdS: createdS(), deltas: options.deltas ?? 12, cache, socket: memory })
  }

  const readState = (method: string, asked: Asked, request: IncomingMessage, body: Buffer): Reply => {
    const { operation, query } = asked
    const [family = '', id = '', action] = operation.split('/')
    if (isObjectOperation(method, operation)) {
      return objects.serve({ method, operation, headers: request.headers, body, query, createdS: createdS() })
    }
    if (family === 'conversations') {
      const read = method === 'POST' ? readAsked('conversations', 'application/json', body) : { fields: {} }
      if (isAnswer(read)) return { kind: 'answer', answer: read }
      return store.conversations.serve(method, operation.split('/').slice(1), read.fields, query, createdS())
    }
    if (operation === 'models') return modelList(deployments, undefined)
    if (family === 'models') return modelList(deployments, id)
    if (method === 'DELETE' && action === undefined) return store.remove(id)
    if (method === 'POST' && action === 'cancel') return store.cancel(id)
    if (method === 'GET' && action === 'input_items') return store.inputItems(id, query)
    if (method === 'GET' && action === undefined) {
      return query.get('stream') === 'true'
        ? store.resume(id, Number(query.get('starting_after') ?? -1))
        : store.read(id)
    }
    return { kind: 'answer', answer: resourceNotFound() }
  }

  /** Why a request is not let in, whatever it asks; the violations in its head are noted. */
  const refusalFor = (request: IncomingMessage, asked: Asked | Answer): Answer | undefined => {
    const { violations, refusal } = checkHead(request, deps.host(), options.forbidden ?? [])
    for (const violation of violations) onViolation(`${request.method} ${request.url ?? ''}: ${violation}`)
    if (refusal !== undefined) return refusal
    return isAnswer(asked) ? asked : checkAccess(request, asked.surface, access, isIssued(asked))
  }

  const serve: Service['serve'] = async (request, response, body, reused) => {
    const { socket } = request
    const method = request.method ?? ''
    const headers = commonHeaders(request, name, ++served, options.region)
    const asked = readSurface(method, request.url ?? '')
    const makes = method === 'POST' && (isAnswer(asked) || creates(method, asked))
    const fault = deps.faultFor(request, makes, reused)
    const writing: WriteOptions = {
      clock,
      headers,
      fault,
      firstDelayMs: options.firstDelayMs ?? 0,
      eventDelayMs: options.eventDelayMs ?? 0,
    }
    const refusal = refusalFor(request, asked)
    if (fault?.kind === 'hang_up' || fault?.kind === 'stale_socket') {
      socket.resetAndDestroy()
      return
    }
    if (fault?.kind === 'garbage') {
      socket.end('this is no HTTP\r\n\r\n')
      return
    }
    if (fault?.kind === 'silence') {
      if (!fault.headers) return
      response.writeHead(200, { ...headers, 'Content-Type': 'application/json' })
      response.flushHeaders()
      return
    }
    const instead = faultAnswer(fault, clock.epochMs())
    if (instead !== undefined) return sendAnswer(response, instead, writing)
    if (fault?.kind === 'delay') await pause(clock, fault.ms)
    if (refusal !== undefined || isAnswer(asked)) {
      return sendAnswer(response, refusal ?? resourceNotFound(), writing)
    }
    const reply = makes ? create(asked, request, body, fault, headers) : readState(method, asked, request, body)
    if (reply.kind === 'answer') {
      await pause(clock, makes ? writing.firstDelayMs : 0)
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
  const upgrade: Service['upgrade'] = async (request, socket, head) => {
    const refuse = (answer: Answer): void => {
      const body = Buffer.from(answer.body)
      const headers = Object.entries({ ...answer.headers, 'Content-Length': String(body.length), Connection: 'close' })
      const lines = headers.map(([header, value]) => `${header}: ${value}`)
      socket.end(
        Buffer.concat([Buffer.from(`HTTP/1.1 ${answer.status} Refused\r\n${lines.join('\r\n')}\r\n\r\n`), body]),
      )
    }
    const asked = readSurface('GET', request.url ?? '')
    const fault = deps.faultFor(request, true, false)
    const refusal = refusalFor(request, asked)
    if (fault?.kind === 'hang_up') {
      socket.destroy()
      return
    }
    if (fault?.kind === 'silence') return
    const instead = faultAnswer(fault, clock.epochMs())
    if (instead !== undefined) return refuse(instead)
    await pause(clock, options.firstDelayMs ?? 0)
    if (refusal !== undefined || isAnswer(asked)) return refuse(refusal ?? resourceNotFound())
    if (asked.operation === 'responses' && asked.surface === 'v1') {
      return openResponsesSocket(request, socket, head, {
        clock,
        firstDelayMs: options.firstDelayMs ?? 0,
        eventDelayMs: options.eventDelayMs ?? 0,
        lifeMs: options.socketLifeMs ?? SOCKET_LIFE_MS,
        onViolation: what => onViolation(`responses socket: ${what}`),
        turnFault: deps.turnFault,
        answer: (body, memory) => createTurn(asked, body, memory),
      })
    }
    if (asked.operation !== 'realtime') return refuse(resourceNotFound())
    const wanted = asked.query.get(asked.surface === 'v1' ? 'model' : 'deployment') ?? undefined
    const deployment = admitTo(asked, wanted, 1, {}, () => undefined)
    if (isAnswer(deployment)) return refuse(deployment)
    openRealtime(request, socket, head, {
      model: deployment.model,
      onViolation: what => onViolation(`realtime: ${what}`),
    })
  }

  return { serve, upgrade, storedResponses: store.size }
}
