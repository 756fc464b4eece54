// Everything that creates an answer from a model named in the path or the body: chat, embeddings, responses and their kin.
import { type Operation, operationPath, readsModelFromBody } from '../azure/operations.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { type HeldBody, takeBody } from '../forward/body.ts'
import type { Exchange } from '../forward/exchange.ts'
import { type Ask, type BackendBody, forward } from '../forward/forward.ts'
import { createJsonScanner, type ScannedObject } from '../forward/json-scan.ts'
import { lastMember, MODEL, setMembers } from '../forward/model-field.ts'
import { promptHash } from '../forward/prompt-key.ts'
import { type Refusal, refuse } from '../forward/refuse.ts'
import { type Binding, bindToState } from './bind-state.ts'
import { type Gateway, mayUse } from './gateway.ts'
import { optionsAskingUsage, refusesStreamOptions, STREAM_OPTIONS } from './stream-usage.ts'

/** Top-level members that routing needs; everything else in a body is skipped as bytes. */
const WANTED: ReadonlySet<string> = new Set([
  MODEL,
  'stream',
  STREAM_OPTIONS,
  'prompt_cache_key',
  'previous_response_id',
  'tools',
  'instructions',
  'messages',
  'input',
  'prompt',
])

export interface InferenceRoute {
  readonly operation: Operation
  /** The deployment in the path names the model and wins over the body. */
  readonly model: string | undefined
  /** Without `?`, api-version and credentials. */
  readonly query: string
}

/** The refusal of a request that names no model, neither in its body nor in its path. */
export function missingModel(): Refusal {
  return {
    status: 400,
    code: 'missing_model',
    message: 'The request names no model: "model" must be a string.',
    param: 'model',
  }
}

/** The pool a name stands for, if the key may use it. */
export function choosePool(exchange: Exchange, name: string, gateway: Gateway): Pool | Refusal {
  const pool = gateway.pool(name)
  if (pool === undefined) {
    // The name is the client's text: shown back to it, bounded, and never put into a metric.
    const shown = JSON.stringify(name.length > 100 ? `${name.slice(0, 100)}…` : name)
    return {
      status: 404,
      code: 'model_not_found',
      message: `The model ${shown} does not exist here, or you do not have access to it.`,
      param: 'model',
    }
  }
  if (!mayUse(exchange.clientKey, pool.model)) {
    return {
      status: 403,
      code: 'model_not_allowed',
      message: `This key may not use the model ${JSON.stringify(pool.model.name)}.`,
      param: 'model',
    }
  }
  return pool
}

/** Tells a refusal from a pool: only a refusal has a status. */
export function isRefusal(value: Pool | Refusal): value is Refusal {
  return 'status' in value
}

/** The body for one backend: the deployment put in where the backend reads it there, usage asked for where that is wanted. */
function bodyFor(
  member: Member,
  held: HeldBody,
  scan: ScannedObject,
  operation: Operation,
  usageOptions: string | undefined,
): BackendBody {
  const { backend } = member
  const changes: [string, string][] = []
  if (readsModelFromBody(operation, backend)) changes.push([MODEL, JSON.stringify(backend.deployment)])
  if (usageOptions !== undefined) changes.push([STREAM_OPTIONS, usageOptions])
  const dropUsageEvent = usageOptions !== undefined
  if (changes.length === 0) return { chunks: held.chunks, byteLength: held.bytes, dropUsageEvent }
  const { chunks, byteLength } = setMembers(held.chunks, scan, changes)
  return { chunks, byteLength, dropUsageEvent }
}

/** Serves one such request, from its first body byte to its last answer byte. */
export async function handleInference(exchange: Exchange, route: InferenceRoute, gateway: Gateway): Promise<void> {
  const { record } = exchange
  const { operation } = route
  const { config, parts } = gateway
  const scanner = createJsonScanner(WANTED)
  const taken = await takeBody(exchange, {
    maxBytes: config.server.maxBodyBytes,
    budget: parts.bodyBudget,
    deadlines: parts.deadlines,
    nowMs: () => parts.clock.nowMs(),
    scanner,
  })
  if (taken.kind === 'gone') {
    record.error = exchange.cancellation.reason ?? 'client_closed'
    return
  }
  if (taken.kind === 'refused') return refuse(exchange, taken.refusal)

  // Dropped as soon as an answer is passed on: a stream lasts minutes, its request need not.
  let held: HeldBody | undefined = taken.body
  const releaseBody = (): void => {
    held?.release()
    held = undefined
  }
  try {
    const scan = scanner.end()
    if (scan.kind === 'invalid') {
      return refuse(exchange, {
        status: 400,
        code: 'invalid_json',
        message: `The request body is not a JSON object: ${scan.reason} (at byte ${scan.offset}).`,
      })
    }
    const name = route.model ?? lastMember(scan.members, MODEL)?.text
    if (name === undefined) return refuse(exchange, missingModel())
    const pool = choosePool(exchange, name, gateway)
    if (isRefusal(pool)) return refuse(exchange, pool)
    record.model = pool.model.name
    const wantsStream = lastMember(scan.members, 'stream')?.kind === 'true'
    record.stream = wantsStream

    const binding = await bindToState(taken.body.chunks, scan, operation, pool, exchange, gateway)
    if (binding.kind === 'refused') return refuse(exchange, binding.refusal)

    await forward(
      exchange,
      askFor({ route, pool, scan, wantsStream, binding, body: () => held, releaseBody }, gateway),
      gateway.forwardDeps,
    )
  } finally {
    releaseBody()
  }
}

interface Parsed {
  readonly route: InferenceRoute
  readonly pool: Pool
  readonly scan: ScannedObject
  readonly wantsStream: boolean
  readonly binding: Binding & { kind: 'free' | 'bound' }
  readonly body: () => HeldBody | undefined
  readonly releaseBody: () => void
}

function askFor({ route, pool, scan, wantsStream, binding, body, releaseBody }: Parsed, { parts }: Gateway): Ask {
  const { operation, query } = route
  const { quirks } = parts
  const chunks = body()?.chunks ?? []
  const usageOptions =
    pool.model.streamUsage && wantsStream && operation.name === 'chat/completions'
      ? optionsAskingUsage(chunks, scan)
      : undefined
  const optionsFor = (member: Member): string | undefined =>
    quirks.lacks(member.standing.id, STREAM_OPTIONS) ? undefined : usageOptions
  const hash = pool.model.balance === 'prompt_cache' ? promptHash(chunks, scan) : undefined
  return {
    pool,
    method: 'POST',
    dialect: operation.dialect,
    wantsStream,
    json: true,
    creates: true,
    path: backend => operationPath(operation, backend, query),
    body(member) {
      const held = body()
      if (held === undefined) throw new Error('the body was let go of before its last attempt')
      return bodyFor(member, held, scan, operation, optionsFor(member))
    },
    releaseBody,
    turn: {
      ...(binding.kind === 'bound' ? { allow: (member: Member) => binding.resources.has(member.resourceId) } : {}),
      ...(hash === undefined ? {} : { promptHash: hash }),
      avoid: member => quirks.lacks(member.standing.id, operation.name),
    },
    bound: binding.kind === 'bound',
    searches: binding.kind === 'free' && binding.searches,
    onServed: binding.onServed,
    ...(binding.onEvents === undefined ? {} : { onEvents: binding.onEvents }),
    onRefused(member, answer) {
      if (optionsFor(member) === undefined || !refusesStreamOptions(answer)) return undefined
      quirks.note(member.standing.id, STREAM_OPTIONS)
      return 'again'
    },
    onUnsupported: member => quirks.note(member.standing.id, operation.name),
  }
}
