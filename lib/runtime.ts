// The handlers' view of one config: its models over state that outlives it. Built anew on reload, swapped at once; the
// parts that are handed in (health, sockets, owners, counters) stay.
import {
  type Authorizer,
  authorizerFor,
  credentialId,
  resourceId,
  type TokenAuthorizerFactory,
  wayId,
} from './azure/credentials.ts'
import { type Operation, v1Operation } from './azure/operations.ts'
import type { HealthRegistry } from './balancer/health.ts'
import type { KeyLimiter, LimitName } from './balancer/key-limits.ts'
import { isEphemeralKey, type Owners } from './balancer/owners.ts'
import { createPool, hashText, type Member, type Pool } from './balancer/pool.ts'
import type { UnsupportedOperations } from './balancer/unsupported.ts'
import type { WaitQueue } from './balancer/wait-queue.ts'
import type { WarmPlaces } from './balancer/warm-places.ts'
import type { BodyBudget } from './body/take.ts'
import type { Clock, Deadlines, Random } from './clock.ts'
import { knownSecrets } from './config/known-secrets.ts'
import type { BackendConfig, ClientKey, Config, ModelConfig, Principal, TokenIssuer } from './config/types.ts'
import type { AttemptReport } from './forward/attempt-record.ts'
import type { ForwardDeps } from './forward/forward.ts'
import type { RequestName } from './forward/headers.ts'
import { createOwnerFinder, type OwnerFinder } from './forward/resource-query.ts'
import type { NameMemory, Transport } from './http1/send.ts'
import type { IssuerKeyCache } from './tokens/issuer-keys.ts'
import { looksLikeToken } from './tokens/jwt.ts'
import { createTokenVerifier, type TokenVerifier } from './tokens/verifier.ts'

/** State and sockets that live as long as the process, whatever the config. */
export interface SharedState {
  readonly clock: Clock
  readonly random: Random
  readonly health: HealthRegistry
  readonly owners: Owners
  readonly unsupported: UnsupportedOperations
  readonly waitQueue: WaitQueue
  readonly warmPlaces: WarmPlaces
  readonly transport: Transport
  readonly deadlines: Deadlines
  readonly requestNames: NameMemory<RequestName>
  readonly bodyBudget: BodyBudget
  readonly tokenAuthorizer: TokenAuthorizerFactory
  readonly keyLimiter: KeyLimiter
  readonly issuerKeys: IssuerKeyCache
  onAttempt(report: AttemptReport): void
  onKeyLimited(key: string, limit: LimitName): void
}

export interface Runtime {
  readonly config: Config
  readonly shared: SharedState
  readonly pools: readonly Pool[]
  /** `server.extra_operations`, by name. */
  readonly extraOperations: ReadonlyMap<string, Operation>
  /** By public name or alias. */
  pool(name: string): Pool | undefined
  /** Every member of the models a key may use. */
  membersFor(key: Principal | undefined): readonly Member[]
  readonly forwardDeps: ForwardDeps
  readonly ownerFinder: OwnerFinder
  authorizer(member: Member): Authorizer
  readonly tokenVerifier: TokenVerifier
  /** Whether a text is a key that nobody may be shown: a client's, a backend's, or an ephemeral one. */
  isSecret(text: string): boolean
}

/** Identifies a deployment across models and reloads: resource, credential, deployment, and the way to it. */
export function deploymentId(backend: BackendConfig): string {
  const way = wayId(backend)
  return `${resourceId(backend)} ${backend.type} ${backend.deployment}${way === '' ? '' : ` ${way}`}`
}

/** Whether a key may use a model; no key means that authentication is off. */
export function mayUse(key: Principal | undefined, model: ModelConfig): boolean {
  return key?.models === undefined || key.models.includes(model.name)
}

/** Identifies a key or an issuer across reloads. It is made of a digest: not for logs. */
export function principalId(principal: ClientKey | TokenIssuer): string {
  return 'digest' in principal
    ? `key ${principal.digest.toString('base64')}`
    : `tokens ${principal.issuer} ${principal.name}`
}

/** The key or issuer of the config that has this id and is not over; undefined: it was withdrawn, or has expired. */
export function principalOf({ auth }: Config, id: string, epochMs: number): ClientKey | TokenIssuer | undefined {
  const found = [...auth.keys, ...auth.tokens].find(principal => principalId(principal) === id)
  const isOver = found !== undefined && 'expiresEpochMs' in found && (found.expiresEpochMs ?? Infinity) <= epochMs
  return isOver ? undefined : found
}

/**
 * What prompts are hashed with: where and which, not as whom, so that a rotated key leaves every prompt at its warm
 * cache.
 * @param seen how often each was asked for: one deployment may stand twice in a model, with two keys
 */
function hashSeedOf({ endpoint, type, deployment }: BackendConfig, seen: Map<string, number>): number {
  const text = `${endpoint.url} ${type} ${deployment}`
  const before = seen.get(text) ?? 0
  seen.set(text, before + 1)
  return hashText(before === 0 ? text : `${text} #${before + 1}`)
}

/**
 * The pools of the config's models; the health of a deployment is the same in every pool, before and after a reload.
 */
function createPools(
  config: Config,
  { clock, random, health: healthRegistry, waitQueue, warmPlaces }: SharedState,
): readonly Pool[] {
  return config.models.map(model => {
    const seeds = new Map<string, number>()
    const members = model.backends.map((backend): Member => {
      const health = healthRegistry.of(deploymentId(backend))
      return {
        backend,
        health,
        resourceId: resourceId(backend),
        weight: backend.weight,
        hashSeed: hashSeedOf(backend, seeds),
        get inFlight() {
          return health.inFlight
        },
      }
    })
    return createPool({
      model,
      members,
      health: healthRegistry,
      clock,
      random,
      retryBudget: config.retry.budget,
      waiting: () => waitQueue.waiting({ model }),
      warmPlaces,
    })
  })
}

/** One authorizer a credential: a token is fetched once, however many backends want it. */
function createAuthorizers(
  pools: readonly Pool[],
  tokenAuthorizer: TokenAuthorizerFactory,
): (member: Member) => Authorizer {
  const byCredential = new Map<string, Authorizer>()
  const byMember = new Map<Member, Authorizer>()
  const authorizerOf = ({ backend }: Member): Authorizer => {
    const id = `${backend.type} ${credentialId(backend.credential)}`
    const made = byCredential.get(id) ?? authorizerFor(backend, tokenAuthorizer)
    byCredential.set(id, made)
    return made
  }
  for (const pool of pools) for (const member of pool.members) byMember.set(member, authorizerOf(member))
  return member => byMember.get(member) ?? authorizerOf(member)
}

/** What forwarding a request needs, with the limits of this config. */
function forwardDepsOf(
  { retry, server }: Config,
  shared: SharedState,
  authorizer: (member: Member) => Authorizer,
): ForwardDeps {
  return {
    clock: shared.clock,
    transport: shared.transport,
    deadlines: shared.deadlines,
    requestNames: shared.requestNames,
    health: shared.health,
    waitQueue: shared.waitQueue,
    unsupported: shared.unsupported,
    authorizer,
    limits: {
      maxAttempts: retry.maxAttempts,
      maxWaitMs: retry.maxWaitMs,
      connectMs: retry.connectTimeoutMs,
      streamHoldMs: retry.streamHoldMs,
      idleMs: retry.idleTimeoutMs,
      keepaliveMs: server.streamKeepaliveMs,
    },
    onAttempt: shared.onAttempt,
  }
}

export function createRuntime(config: Config, shared: SharedState): Runtime {
  const { clock } = shared
  const pools = createPools(config, shared)
  const byName = new Map(pools.flatMap(pool => [pool.model.name, ...pool.model.aliases].map(name => [name, pool])))
  shared.health.setModels(
    pools.map(({ model, members }) => ({ name: model.name, members: members.map(({ health }) => health) })),
  )
  shared.waitQueue.moveTo(pools)
  shared.issuerKeys.retain(config.auth.enabled ? config.auth.tokens.map(({ keys }) => keys) : [])
  const authorizer = createAuthorizers(pools, shared.tokenAuthorizer)
  const isKnown = knownSecrets(config)
  return {
    config,
    shared,
    pools,
    extraOperations: new Map(config.server.extraOperations.map(name => [name, v1Operation(name)])),
    pool: name => byName.get(name),
    membersFor: key => pools.filter(pool => mayUse(key, pool.model)).flatMap(pool => pool.members),
    authorizer,
    tokenVerifier: createTokenVerifier({ clock, issuers: config.auth.tokens, keys: shared.issuerKeys }),
    // A model's name is public, and stands in the path of every request of Azure's SDKs: no digests are made of it.
    isSecret: text =>
      !byName.has(text) && (isKnown(text) || isEphemeralKey(text, shared.owners) || looksLikeToken(text)),
    forwardDeps: forwardDepsOf(config, shared, authorizer),
    ownerFinder: createOwnerFinder({
      owners: shared.owners,
      transport: shared.transport,
      deadlines: shared.deadlines,
      clock,
      authorizer,
      connectMs: config.retry.connectTimeoutMs,
    }),
  }
}

/** The names under which a deployment is known, one for each pool it is in. */
export function namesOf(deployment: string, { pools }: Runtime): { model: string; backend: string } {
  const found = pools.flatMap(pool =>
    pool.members
      .filter(member => member.health.id === deployment)
      .map(member => ({ model: pool.model.name, backend: member.backend.name })),
  )
  return {
    model: found.map(({ model }) => model).join(','),
    backend: [...new Set(found.map(({ backend }) => backend))].join(','),
  }
}
