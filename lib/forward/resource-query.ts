// Asks the resources which of them holds a stored response: in parallel, token-free, once for all who want to know.
import type { Authorization, Authorizer } from '../azure/credentials.ts'
import { probePath, storedObjectPath } from '../azure/operations.ts'
import type { Owners } from '../balancer/owners.ts'
import type { Member } from '../balancer/pool.ts'
import type { ProbeVerdict } from '../balancer/probes.ts'
import type { Clock, Deadlines } from '../clock.ts'
import type { BackendConfig } from '../config/types.ts'
import type { Transport } from '../http1/send.ts'
import { type Cancellation, createCancellation } from '../request-context.ts'
import { type AttemptDeps, attempt } from './attempt.ts'
import type { Outcome } from './outcome.ts'
import { sameTimeouts } from './upstream.ts'

/** Headers of a question of the proxy's own. */
export function questionHeaders(backend: BackendConfig, authorization: Authorization): string[] {
  const headers = ['host', backend.endpoint.host, 'accept', 'application/json', 'accept-encoding', 'identity']
  for (const { name, value } of backend.headers) headers.push(name, value.reveal())
  if (authorization.kind === 'header') headers.push(authorization.name, authorization.value)
  return headers
}

export type OwnerLookup =
  | { readonly kind: 'owner'; readonly resourceId: string }
  /** Every resource was asked and none holds it. */
  | { readonly kind: 'nowhere' }
  /** None that answered holds it, but these could not be asked. */
  | { readonly kind: 'unsure'; readonly silent: readonly string[] }
  /** As many questions are in progress as may be. */
  | { readonly kind: 'busy' }

export interface OwnerFinderDeps {
  readonly owners: Owners
  readonly transport: Transport
  readonly deadlines: Deadlines
  readonly clock: Clock
  authorizer(member: Member): Authorizer
  readonly connectMs: number
}

/** A resource that takes longer to say whether it has an object cannot be waited for. */
const ANSWER_MS = 5_000
/** Ids that one key may look for at once: nobody else waits for what it does not know. */
export const MAX_LOOKUPS = 32
/**
 * Ids looked for at once by all keys; each asks every resource of the model once, so this bounds what they can cause.
 */
const MAX_LOOKUPS_OF_ALL = 8 * MAX_LOOKUPS
/** An id that was nowhere is not asked for again so soon. */
const NOWHERE_MS = 2_000
/** Statuses that say that an object is not there; a server without the route (405, 410, 501) cannot hold it either. */
const NOT_HERE: ReadonlySet<number> = new Set([400, 404, 405, 410, 501])
/** Such questions remembered. */
const MAX_NOWHERE = 1_000

export interface OwnerFinder {
  /**
   * @param members the backends of all models that come into question; of each resource one is asked
   * @param key the name of the client's key, whose share of the lookups it takes; undefined: no key's
   */
  find(id: string, members: readonly Member[], key: string | undefined): Promise<OwnerLookup>
}

/** One member of each resource. */
function onePerResource(members: readonly Member[]): readonly Member[] {
  const seen = new Map<string, Member>()
  for (const member of members) if (!seen.has(member.resourceId)) seen.set(member.resourceId, member)
  return [...seen.values()]
}

/** Asks one resource for the object. @returns undefined when it cannot say */
async function holdsObject(id: string, member: Member, deps: OwnerFinderDeps): Promise<boolean | undefined> {
  const given = deps.authorizer(member).authorize()
  const authorization = given instanceof Promise ? await given : given
  if (authorization.kind === 'unavailable') return undefined
  const { backend } = member
  const headers = questionHeaders(backend, authorization)
  const result = await attempt(
    {
      wire: { endpoint: backend.endpoint, method: 'GET', path: storedObjectPath(id, backend), headers },
      body: [],
      dialect: 'opaque',
      wantsStream: false,
      isCreate: false,
      timeouts: {
        connectMs: deps.connectMs,
        headersMs: ANSWER_MS,
        firstOutputMs: ANSWER_MS,
        streamHoldMs: ANSWER_MS,
        idleMs: ANSWER_MS,
      },
      cancellation: createCancellation(),
      fresh: false,
    },
    deps,
  )
  if (result.kind === 'no_response') return undefined
  // Only the status matters; a stored response may be megabytes long.
  const { response: upstreamResponse } = result
  if (upstreamResponse.body.kind !== 'whole') upstreamResponse.source.destroy()
  if (upstreamResponse.status === 200) return true
  return NOT_HERE.has(upstreamResponse.status) ? false : undefined
}

export function createOwnerFinder(deps: OwnerFinderDeps): OwnerFinder {
  const underWay = new Map<string, Promise<OwnerLookup>>()
  const nowhere = new Map<string, number>()
  /** Lookups in progress by the key that began them; no entry where there are none. */
  const byKey = new Map<string | undefined, number>()

  const began = (key: string | undefined): void => {
    byKey.set(key, (byKey.get(key) ?? 0) + 1)
  }
  const ended = (key: string | undefined): void => {
    const left = (byKey.get(key) ?? 1) - 1
    if (left === 0) byKey.delete(key)
    else byKey.set(key, left)
  }

  const ask = async (id: string, question: string, members: readonly Member[]): Promise<OwnerLookup> => {
    const resources = onePerResource(members)
    const silent: string[] = []
    const answers = resources.map(async member => {
      const held = await holdsObject(id, member, deps)
      if (held === undefined) silent.push(member.resourceId)
      if (held !== true) throw new Error('not here')
      return member.resourceId
    })
    try {
      const resourceId = await Promise.any(answers)
      deps.owners.learn(id, resourceId)
      return { kind: 'owner', resourceId }
    } catch {
      if (silent.length > 0) return { kind: 'unsure', silent }
      nowhere.set(question, deps.clock.nowMs())
      const oldest = nowhere.keys().next()
      if (nowhere.size > MAX_NOWHERE && oldest.done !== true) nowhere.delete(oldest.value)
      return { kind: 'nowhere' }
    }
  }

  return {
    find(id, members, key) {
      const known = deps.owners.of(id)
      if (known !== undefined && members.some(member => member.resourceId === known)) {
        return Promise.resolve({ kind: 'owner', resourceId: known })
      }
      const resources = new Set(members.map(member => member.resourceId))
      const [only] = resources
      // With one resource there is nothing to find out.
      if (resources.size === 1 && only !== undefined) return Promise.resolve({ kind: 'owner', resourceId: only })
      // Who may ask which resources is part of the question: two keys may see different models.
      const question = `${id}\n${[...resources].sort().join('\n')}`
      const missedMs = nowhere.get(question)
      if (missedMs !== undefined && deps.clock.nowMs() - missedMs < NOWHERE_MS) {
        return Promise.resolve({ kind: 'nowhere' })
      }
      const asked = underWay.get(question)
      if (asked !== undefined) return asked
      if (underWay.size >= MAX_LOOKUPS_OF_ALL || (byKey.get(key) ?? 0) >= MAX_LOOKUPS) {
        return Promise.resolve({ kind: 'busy' })
      }
      began(key)
      const lookup = ask(id, question, members).finally(() => {
        underWay.delete(question)
        ended(key)
      })
      underWay.set(question, lookup)
      return lookup
    },
  }
}

// Asks one resource for its model list: shows network, TLS and credential, and costs no token (azure/README.md 8).

/**
 * What a response to a probe says (azure/README.md 8). A page of a box in front says that something answers, and
 * nothing else.
 */
function verdictOf(status: number, outcome: Outcome): ProbeVerdict {
  if (outcome.kind === 'misconfigured') {
    return { kind: 'out', reason: outcome.reason, detail: outcome.detail, timeout: false }
  }
  if (outcome.kind === 'failed' && outcome.suspect !== 'mark') {
    return { kind: 'out', reason: 'probe_failed', detail: `${outcome.reason}: ${outcome.detail}`, timeout: false }
  }
  return status === 404 || outcome.kind === 'failed' ? { kind: 'unknown' } : { kind: 'alive' }
}

function lostVerdict(outcome: Outcome): ProbeVerdict {
  switch (outcome.kind) {
    case 'failed': {
      const { reason, detail, timeout, suspect } = outcome
      if (suspect === 'mark') return { kind: 'unknown' }
      // These say what to do about it; of the others a probe says only that it failed.
      if (reason === 'egress_refused' || reason === 'not_an_api') return { kind: 'out', reason, detail, timeout }
      return { kind: 'out', reason: 'probe_failed', detail: `${reason}: ${detail}`, timeout }
    }
    case 'misconfigured':
      return { kind: 'out', reason: outcome.reason, detail: outcome.detail, timeout: false }
    case 'shortage':
      return { kind: 'not_asked', shortage: outcome.detail }
    case 'cancelled':
      return { kind: 'not_asked', shortage: undefined }
    default:
      return { kind: 'alive' }
  }
}

/**
 * Asks one resource for its model list.
 * @param timeoutMs for the whole question
 * @param cancellation ends the question: the proxy stops
 */
export async function askProbe(
  member: Member,
  authorizer: Authorizer,
  timeoutMs: number,
  deps: AttemptDeps,
  cancellation: Cancellation = createCancellation(),
): Promise<ProbeVerdict> {
  const { backend } = member
  const given = authorizer.authorize()
  const authorization = given instanceof Promise ? await given : given
  if (authorization.kind === 'unavailable') {
    const { reason: detail, waitMs: holdMs } = authorization
    return { kind: 'withheld', reason: 'credential_unavailable', detail, holdMs }
  }
  const headers = questionHeaders(backend, authorization)
  const result = await attempt(
    {
      wire: { endpoint: backend.endpoint, method: 'GET', path: probePath(backend), headers },
      body: [],
      dialect: 'opaque',
      wantsStream: false,
      isCreate: false,
      timeouts: sameTimeouts(timeoutMs),
      cancellation,
      // An old connection would only show the old address.
      fresh: true,
    },
    deps,
  )
  if (result.kind === 'no_response') return lostVerdict(result.outcome)
  const { outcome, response } = result
  const { status, body, source } = response
  if (body.kind !== 'whole') {
    // The list of a region's base models is long and of no interest; reading it on keeps the connection, if it ends in
    // time.
    const over = (): void => {
      deps.deadlines.remove(late)
      stopWatching()
    }
    const giveUp = (): void => {
      over()
      source.destroy()
    }
    const late = deps.deadlines.add(deps.clock.nowMs() + timeoutMs, giveUp)
    const stopWatching = cancellation.onCancel(() => queueMicrotask(giveUp))
    source.discard(over)
  }
  return verdictOf(status, outcome)
}
