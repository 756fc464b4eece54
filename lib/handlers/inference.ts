// Everything that creates a response from a model named in the path or the body: chat, embeddings, responses and their
// kin.

import type { IncomingHttpHeaders } from 'node:http'
import { type Operation, operationPath, readsModelFromBody } from '../azure/operations.ts'
import { queryValue, replaceParameter, withoutParameters } from '../azure/query.ts'
import { estimateTokens } from '../balancer/key-limits.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { type ByteRange, type ChunkList, sliceBytes } from '../body/chunk-list.ts'
import { lastMember, MODEL } from '../body/edit.ts'
import type { ScannedObject } from '../body/json-scan.ts'
import { promptHash } from '../body/prompt-hash.ts'
import { type ReadBody, readerFor, STREAM_OPTIONS } from '../body/read.ts'
import { type HeldBody, takeBody } from '../body/take.ts'
import type { BackendConfig, ClientKey, TokenIssuer } from '../config/types.ts'
import { refuse } from '../errors.ts'
import { forward } from '../forward/forward.ts'
import type { ForwardRequest } from '../forward/upstream.ts'
import type { Exchange } from '../request-context.ts'
import { principalId, type Runtime } from '../runtime.ts'
import { admit } from './admit.ts'
import { type Binding, bindToState } from './affinity.ts'
import { learnEphemeral } from './ephemeral-keys.ts'
import { strippingFor } from './foreign-reasoning.ts'
import { isRefusal, resolvePoolFor } from './resolve-model.ts'

export interface InferenceRoute {
  readonly operation: Operation
  /** The deployment in the path names the model and wins over the body. */
  readonly model: string | undefined
  /** Without `?`, api-version and credentials. */
  readonly query: string
}

/**
 * The body for one backend: the deployment put in where the backend reads it there, usage asked for where that is
 * wanted.
 */
function bodyFor(
  member: Member,
  held: HeldBody,
  read: ReadBody,
  operation: Operation,
  usageOptions: string | undefined,
  removed: readonly ByteRange[],
): ChunkList {
  const { backend } = member
  const deployment = readsModelFromBody(operation, backend) ? backend.deployment : undefined
  if (deployment === undefined && usageOptions === undefined && removed.length === 0)
    return { chunks: held.chunks, byteLength: held.bytes }
  return read.withModel(
    held.chunks,
    deployment,
    usageOptions === undefined ? [] : [[STREAM_OPTIONS, usageOptions]],
    removed,
  )
}

/** Step 5 of a request (lib/README.md). Serves one such request, from its first body byte to its last response byte. */
export async function handleInference(exchange: Exchange, route: InferenceRoute, runtime: Runtime): Promise<void> {
  const { record } = exchange
  const { operation } = route
  const { config, shared } = runtime
  const reader = readerFor(operation, exchange.request.headers['content-type'])
  const taken = await takeBody(exchange, {
    maxBytes: config.server.maxBodyBytes,
    budget: shared.bodyBudget,
    deadlines: shared.deadlines,
    nowMs: () => shared.clock.nowMs(),
    scanner: reader.scanner,
  })
  if (taken.kind === 'gone') {
    record.error ??= exchange.cancellation.reason ?? 'client_closed'
    return
  }
  if (taken.kind === 'refused') return refuse(exchange, taken.refusal)

  // Dropped as soon as a response is passed on: a stream lasts minutes, its request need not.
  let held: HeldBody | undefined = taken.body
  const releaseBody = (): void => {
    held?.release()
    held = undefined
  }
  try {
    const verdict = reader.finish(taken.body.chunks)
    if (verdict.kind === 'refused') return refuse(exchange, verdict.refusal)
    const { body: read } = verdict
    const name = route.model ?? read.model ?? (operation.body === 'sdp' ? queryValue(route.query, MODEL) : undefined)
    const pool = resolvePoolFor(exchange, name, runtime)
    if (isRefusal(pool)) return refuse(exchange, pool)
    record.model = pool.model.name
    record.stream = read.wantsStream

    const admitted = admit(exchange, estimateTokens(taken.body.bytes, read.maxOutputTokens), shared, pool.model.price)
    const settle = admitted instanceof Promise ? await admitted : admitted
    if (settle === undefined) return
    try {
      const found = bindToState(taken.body.chunks, read.scan, operation, pool, exchange, runtime)
      const binding = found instanceof Promise ? await found : found
      if (binding.kind === 'refused') return refuse(exchange, binding.refusal)
      await forward(
        exchange,
        buildForwardRequest(
          {
            route,
            pool,
            read,
            binding,
            body: () => held,
            releaseBody,
            pinnedResource: exchange.ephemeral?.resourceId,
            principal: exchange.clientKey,
            headers: exchange.request.headers,
          },
          runtime,
        ),
        runtime.forwardDeps,
      )
    } finally {
      settle()
    }
  } finally {
    releaseBody()
  }
}

const DEPLOYMENT: ReadonlySet<string> = new Set(['deployment'])

/** A call's offer may name its model in the query, where the backend reads its own name for it. */
function queryFor(operation: Operation, backend: BackendConfig, query: string): string {
  if (operation.body !== 'sdp') return query
  return replaceParameter(withoutParameters(query, DEPLOYMENT), MODEL, backend.deployment)
}

interface ParsedRequest {
  readonly route: InferenceRoute
  readonly pool: Pool
  readonly read: ReadBody
  readonly binding: Binding & { kind: 'free' | 'pinned' }
  readonly body: () => HeldBody | undefined
  readonly releaseBody: () => void
  /** The resource that issued the ephemeral key it came with. */
  readonly pinnedResource: string | undefined
  /** Whose rights an ephemeral key gets that is issued now. */
  readonly principal: ClientKey | TokenIssuer | undefined
  readonly headers: IncomingHttpHeaders
}

function buildForwardRequest(
  { route, pool, read, binding, body, releaseBody, pinnedResource, principal, headers }: ParsedRequest,
  { shared }: Runtime,
): ForwardRequest {
  const { operation, query } = route
  const { scan, wantsStream } = read
  const chunks = body()?.chunks ?? []
  const usageOptions =
    pool.model.streamUsage && wantsStream && scan !== undefined && operation.name === 'chat/completions'
      ? optionsAskingUsage(chunks, scan)
      : undefined
  const isCached = pool.model.balance === 'prompt_cache'
  const foreignReasoning = strippingFor(chunks, scan, binding, pool, () => shared.clock.nowMs())
  const isPinned = binding.kind === 'pinned' && foreignReasoning === undefined
  return {
    pool,
    method: 'POST',
    dialect: operation.dialect,
    wantsStream,
    isCreate: true,
    operation: operation.name,
    pinnedResources:
      pinnedResource !== undefined ? new Set([pinnedResource]) : isPinned ? binding.resources : undefined,
    stateOwnerUnknown: binding.kind === 'free' && binding.ownerUnknown,
    itemOwners: isPinned && binding.byItems ? binding.resources : undefined,
    foreignReasoning,
    promptHash: isCached && scan !== undefined ? promptHash(chunks, scan, headers) : undefined,
    usageOption: usageOptions?.place,
    prepare(member, { askUsage }) {
      const held = body()
      if (held === undefined) throw new Error('the body was let go of before its last attempt')
      const options = askUsage ? usageOptions?.text : undefined
      return {
        path: operationPath(operation, member.backend, queryFor(operation, member.backend, query)),
        body: bodyFor(member, held, read, operation, options, foreignReasoning?.rangesFor(member) ?? []),
        isJson: scan !== undefined || operation.body === 'session',
      }
    },
    releaseBody,
    observer: {
      onResponse(member, response) {
        if (operation.body === 'session') {
          learnEphemeral(response, member.resourceId, shared.owners, principal && principalId(principal))
        }
        binding.onServed(member, response, (foreignReasoning?.rangesFor(member).length ?? 0) > 0)
      },
      onEvents: binding.onEvents,
    },
  }
}

// `stream_usage`: asks the upstream for usage in the name of a client that did not, so that streams can be accounted
// for.

/** No sane client sends more options than this; what is longer is left alone. */
const MAX_OPTIONS_BYTES = 4096

/** The `stream_options` to send, as JSON text, and whether the client had some of its own. */
export interface UsageOptions {
  readonly text: string
  readonly place: 'added' | 'in_clients'
}

/**
 * The client's own `stream_options` and `include_usage`. Undefined where the client asked for usage itself, or where
 * its options are no object (then the upstream has to say so).
 */
export function optionsAskingUsage(chunks: readonly Buffer[], scan: ScannedObject): UsageOptions | undefined {
  const member = lastMember(scan.members, STREAM_OPTIONS)
  if (member === undefined || member.kind === 'null') return { text: '{"include_usage":true}', place: 'added' }
  if (member.kind !== 'object' || member.end - member.start > MAX_OPTIONS_BYTES) return undefined
  const text = sliceBytes(chunks, member.start, member.end, MAX_OPTIONS_BYTES).toString('utf8')
  try {
    const own: unknown = JSON.parse(text)
    if (typeof own !== 'object' || own === null || Reflect.get(own, 'include_usage') === true) return undefined
    return { text: JSON.stringify({ ...own, include_usage: true }), place: 'in_clients' }
  } catch {
    // The scan skips what a value holds: an invalid escape in it is the upstream's to refuse.
    return undefined
  }
}
