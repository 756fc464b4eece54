// A request for an object that lives in one resource, passed on byte for byte. Its body is held for the attempt; the
// upstream response is shown to the caller before it goes out.
import { resourceObjectPath } from '../azure/operations.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { type HeldBody, takeBody } from '../body/take.ts'
import { type Refusal, refuse } from '../errors.ts'
import { forward } from '../forward/forward.ts'
import type { UpstreamResponse } from '../forward/upstream.ts'
import { type Exchange, NO_USAGE } from '../request-context.ts'
import { mayUse, type Runtime } from '../runtime.ts'

/** Where an object lives. */
export interface ObjectPlace {
  readonly pool: Pool
  /** Undefined: any resource of the pool will do. */
  readonly resources: ReadonlySet<string> | undefined
}

export interface ObjectRequest {
  /** Known, or to be read from the body. */
  readonly place: ObjectPlace | ((chunks: readonly Buffer[]) => ObjectPlace | Refusal)
  readonly only?: (member: Member) => boolean
  readonly avoid?: (member: Member) => boolean
  readonly path: readonly string[]
  readonly query: string
  /** It makes something, so that a resource without the route is passed over. */
  readonly isCreate: boolean
  /** Looks at the body before it goes anywhere. */
  readonly refusalFor?: (chunks: readonly Buffer[]) => Refusal | undefined
  onServed(member: Member, upstreamResponse: UpstreamResponse): void
}

/**
 * The pool of a model that the key may use, one of whose backends belongs to these resources; undefined: there is none.
 */
export function poolOf(
  exchange: Exchange,
  runtime: Runtime,
  resources: ReadonlySet<string> | undefined,
): Pool | undefined {
  const usable = runtime.pools.filter(pool => mayUse(exchange.clientKey, pool.model))
  if (resources === undefined) return usable[0]
  return usable.find(pool => pool.members.some(member => resources.has(member.resourceId)))
}

const NO_SCANNER = { push: () => undefined }

/** The first object's own id in a response of one piece; undefined where there is none to be read. */
export function idIn({ status, body }: UpstreamResponse): string | undefined {
  if (status >= 300 || body.kind !== 'whole') return undefined
  try {
    const value: unknown = JSON.parse(Buffer.concat(body.chunks).toString('utf8'))
    const id: unknown = Object(value) === value ? Reflect.get(Object(value), 'id') : undefined
    return typeof id === 'string' ? id : undefined
  } catch {
    return undefined
  }
}

/** Takes the body, and passes the request on. */
export async function relayObject(exchange: Exchange, object: ObjectRequest, runtime: Runtime): Promise<void> {
  const { request, record } = exchange
  const { config, shared, forwardDeps } = runtime
  const taken = await takeBody(exchange, {
    maxBytes: config.server.maxBodyBytes,
    budget: shared.bodyBudget,
    deadlines: shared.deadlines,
    nowMs: () => shared.clock.nowMs(),
    scanner: NO_SCANNER,
  })
  if (taken.kind === 'gone') {
    record.error = exchange.cancellation.reason ?? 'client_closed'
    return
  }
  if (taken.kind === 'refused') return refuse(exchange, taken.refusal)
  let held: HeldBody | undefined = taken.body
  const { chunks } = taken.body
  const place =
    object.refusalFor?.(chunks) ?? (typeof object.place === 'function' ? object.place(chunks) : object.place)
  if ('status' in place) {
    taken.body.release()
    return refuse(exchange, place)
  }
  const { pool, resources } = place
  const { only, avoid, path, query, isCreate, onServed } = object
  await forward(
    exchange,
    {
      pool,
      method: request.method ?? 'GET',
      dialect: 'opaque',
      wantsStream: false,
      isCreate,
      operation: undefined,
      pinnedResources: resources,
      only,
      avoid,
      stateOwnerUnknown: false,
      itemOwners: undefined,
      foreignReasoning: undefined,
      promptHash: undefined,
      usageOption: undefined,
      prepare: ({ backend }) => ({
        path: resourceObjectPath(path, backend, query),
        body: { chunks: held?.chunks ?? [], byteLength: held?.bytes ?? 0 },
        isJson: false,
      }),
      releaseBody() {
        held?.release()
        held = undefined
      },
      observer: { onResponse: onServed, onEvents: undefined },
    },
    forwardDeps,
  )
  // What an object tells of tokens was paid for when it was made.
  record.usage = NO_USAGE
}
