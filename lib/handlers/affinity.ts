// Requests that name state of the Responses API must reach the resource that holds it; the state that upstream
// responses show is remembered. Ids are never changed.
import type { Operation } from '../azure/operations.ts'
import { objectKey } from '../balancer/owners.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import type { ByteRange } from '../body/chunk-list.ts'
import { lastMember } from '../body/edit.ts'
import type { ScannedObject } from '../body/json-scan.ts'
import type { Refusal } from '../errors.ts'
import type { OwnerLookup } from '../forward/resource-query.ts'
import type { UpstreamResponse } from '../forward/upstream.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { referencedItems } from './item-references.ts'
import { resourcesForModel } from './named-objects.ts'
import {
  announcedResponse,
  type EncryptedItem,
  type NamedState,
  readNamedState,
  type ShownState,
  shownByEvents,
  stateShownBy,
} from './named-state.ts'
import { foreignStateRefusal, makerFor, mayMeetForeignState } from './ownership.ts'

/** Where a request may go because of the state it names, and what to remember of its response. */
export type Binding =
  | ({
      readonly kind: 'free'
      /**
       * It carries state whose owner is not known and of which nothing can be asked: the resources are tried in turn.
       */
      readonly ownerUnknown: boolean
      /** What is looked for, where it is nothing but encrypted items. */
      readonly itemsToSearch: readonly EncryptedItem[]
    } & Learning)
  /** Only these resources hold what the request names. */
  | ({
      readonly kind: 'pinned'
      readonly resources: ReadonlySet<string>
      /** It names items that these resources made: one that denies them is asked once more (azure/README.md 13.4). */
      readonly byItems: boolean
      /** Bound by encrypted items alone: these may be left out where their owner cannot serve. */
      readonly encrypted: readonly OwnedItem[] | undefined
      /** Another resource is known to have made an encrypted item that the request brings along. */
      readonly bringsForeign: boolean
    } & Learning)
  | { readonly kind: 'refused'; readonly refusal: Refusal }

/** An encrypted item whose maker is known. */
export interface OwnedItem {
  readonly resourceId: string
  readonly place: ByteRange
}

/** What to remember of the response. */
interface Learning {
  /** @param leftOut encrypted items were left out for this member: it need not be able to read them */
  readonly onServed: (member: Member, upstreamResponse: UpstreamResponse, leftOut?: boolean) => void
  readonly onEvents: ((member: Member, events: Buffer) => void) | undefined
}

/** When a resource could not be asked, clients come back after this. */
const UNSURE_WAIT_MS = 5_000
const BUSY_WAIT_MS = 1_000

const PREVIOUS = 'previous_response_id'
const CONVERSATION = 'conversation'

const NOTHING: Learning = { onServed: () => undefined, onEvents: undefined }

/**
 * A refusal for an owner that could not be made out, or the resources to go to; undefined: anyone will say it is
 * unknown.
 */
export function resourcesOf(found: OwnerLookup): ReadonlySet<string> | Refusal | undefined {
  switch (found.kind) {
    case 'owner':
      return new Set([found.resourceId])
    case 'nowhere':
      return undefined
    case 'unsure':
      return {
        status: 503,
        code: 'no_backend',
        message: 'The resource that may hold this response cannot be asked at the moment.',
        retryAfterMs: UNSURE_WAIT_MS,
      }
    case 'busy':
      return {
        status: 503,
        code: 'overloaded',
        message: 'Too many responses are being looked for at once. Try again in a moment.',
        retryAfterMs: BUSY_WAIT_MS,
      }
  }
}

const FREE: Binding = { kind: 'free', ownerUnknown: false, itemsToSearch: [], ...NOTHING }

/** A request that names files, vector stores or containers goes to the resource that made them. */
function pinnedToObjects(resources: ReadonlySet<string>, learning: Learning): Binding {
  return { kind: 'pinned', resources, byItems: false, encrypted: undefined, bringsForeign: false, ...learning }
}

/** The id under which an item's owner is remembered; items have a name space of their own. */
export function itemKey(id: string): string {
  return `item ${id}`
}

function piecesOf({ body }: UpstreamResponse): readonly Buffer[] {
  if (body.kind === 'whole') return body.chunks
  return body.kind === 'flowing' ? body.held : body.held.map(held => held.chunk)
}

/**
 * Remembers what the response shows as the member's own, and made by this key; `items` too that the request named,
 * since it could read them.
 */
function learningFor(
  named: NamedState,
  stores: boolean,
  maker: string | undefined,
  { owners }: Runtime['shared'],
): Learning & { readonly onEvents: (member: Member, events: Buffer) => void } {
  const learn = ({ resourceId }: Member, { response, items, encrypted, containers }: ShownState): void => {
    if (response !== undefined) owners.learn(response, resourceId, maker)
    for (const id of items) {
      const key = itemKey(id)
      // An item that was there before this response, whose maker is not known, does not become this key's.
      owners.learn(key, resourceId, owners.of(key) === undefined ? maker : undefined)
    }
    for (const digest of encrypted) owners.learn(digest, resourceId)
    // The code interpreter makes a container by itself, and puts files into it that clients fetch.
    for (const id of containers) owners.learn(objectKey(id), resourceId, maker)
  }
  /** Used, not made. */
  const use = ({ resourceId }: Member, items: readonly string[], encrypted: readonly string[]): void => {
    for (const id of items) owners.learn(itemKey(id), resourceId)
    for (const digest of encrypted) owners.learn(digest, resourceId)
  }
  return {
    onServed(member, upstreamResponse, leftOut = false) {
      if (upstreamResponse.status >= 300) return
      const encrypted = leftOut ? [] : named.encrypted.map(({ digest }) => digest)
      use(member, named.items, encrypted)
      const pieces = piecesOf(upstreamResponse)
      if (upstreamResponse.body.kind === 'whole') learn(member, stateShownBy(pieces, stores))
      else learn(member, { response: announcedResponse(pieces), items: [], encrypted: [], containers: [] })
    },
    onEvents(member, events) {
      const shown = shownByEvents(events, stores)
      if (shown !== undefined) learn(member, shown)
    },
  }
}

/** The known owners of these keys among the members; undefined for an unknown one. */
function ownersOf(keys: readonly string[], pool: Pool, { owners }: Runtime['shared']): readonly (string | undefined)[] {
  return keys.map(key => {
    const owner = owners.of(key)
    return owner !== undefined && pool.members.some(({ resourceId }) => resourceId === owner) ? owner : undefined
  })
}

function ownedItems(
  encrypted: readonly EncryptedItem[],
  owners: readonly (string | undefined)[],
): readonly OwnedItem[] | undefined {
  const owned = encrypted.flatMap(({ place }, i) => {
    const resourceId = owners[i]
    return resourceId === undefined ? [] : [{ resourceId, place }]
  })
  return owned.length === encrypted.length ? owned : undefined
}

/** Where items lead, of which no resource can be asked: to the one that made them, or through all of them in turn. */
function bindToItems(named: NamedState, pool: Pool, learning: Learning, runtime: Runtime): Binding {
  const { shared } = runtime
  const makers = ownersOf(named.items.map(itemKey), pool, shared)
  const sealers = ownersOf(
    named.encrypted.map(({ digest }) => digest),
    pool,
    shared,
  )
  const known = new Set([...makers, ...sealers].filter(owner => owner !== undefined))
  const resources = new Set(pool.members.map(({ resourceId }) => resourceId))
  const encrypted = named.items.length === 0 ? ownedItems(named.encrypted, sealers) : undefined
  if (known.size > 1 && encrypted !== undefined && pool.model.stripForeignReasoning) {
    // Nobody can read all of it; each gets what is its own.
    return { kind: 'pinned', resources: known, byItems: false, encrypted, bringsForeign: false, ...learning }
  }
  // With one resource there is nothing to find out, but it may deny an item that it has just made.
  if (known.size !== 1 && resources.size > 1) {
    return {
      kind: 'free',
      ownerUnknown: true,
      itemsToSearch: named.items.length === 0 ? named.encrypted : [],
      ...learning,
    }
  }
  return {
    kind: 'pinned',
    resources: known.size === 1 ? known : resources,
    byItems: named.items.length > 0,
    encrypted,
    bringsForeign: false,
    ...learning,
  }
}

/** The texts of every occurrence of a member: of two, the upstream may believe the first. */
function textsOf({ members }: ScannedObject, wanted: string): readonly string[] {
  return members.flatMap(({ name, text }) => (name === wanted && text !== undefined ? [text] : []))
}

function conversationsIn(scan: ScannedObject, { conversation }: NamedState): readonly string[] {
  const texts = textsOf(scan, CONVERSATION)
  return conversation === undefined ? texts : [...texts, conversation]
}

/** Finds out where a request must go because of the state it names; at once where it names none, as most do. */
export function bindToState(
  chunks: readonly Buffer[],
  scan: ScannedObject | undefined,
  operation: Operation,
  pool: Pool,
  exchange: Exchange,
  runtime: Runtime,
): Binding | Promise<Binding> {
  if (scan === undefined || (operation.dialect !== 'responses' && operation.dialect !== 'chat')) return FREE
  const objects = resourcesForModel(exchange, chunks, pool, runtime)
  if (objects !== undefined && 'status' in objects) return { kind: 'refused', refusal: objects }
  if (operation.dialect === 'chat') return objects === undefined ? FREE : pinnedToObjects(objects, NOTHING)
  const named = readNamedState(chunks, scan)
  const stores = lastMember(scan.members, 'store')?.kind !== 'false'
  const foreign = mayMeetForeignState(exchange, runtime)
    ? (foreignStateRefusal(exchange, textsOf(scan, PREVIOUS), runtime, PREVIOUS) ??
      foreignStateRefusal(exchange, conversationsIn(scan, named), runtime, CONVERSATION) ??
      foreignStateRefusal(exchange, referencedItems(chunks, scan.members, 'input').map(itemKey), runtime, 'input'))
    : undefined
  if (foreign !== undefined) return { kind: 'refused', refusal: foreign }
  const learning = learningFor(named, stores, makerFor(exchange), runtime.shared)
  const stored = named.previousResponse ?? named.conversation
  if (stored === undefined) {
    const namesItems = named.items.length > 0 || named.encrypted.length > 0
    const binding: Binding = namesItems
      ? bindToItems(named, pool, learning, runtime)
      : { kind: 'free', ownerUnknown: false, itemsToSearch: [], ...learning }
    return binding.kind === 'free' && objects !== undefined ? pinnedToObjects(objects, learning) : binding
  }
  return runtime.ownerFinder.find(stored, pool.members, exchange.clientKey?.name).then((found): Binding => {
    if (found.kind === 'busy') exchange.record.error = 'lookup_busy'
    const places = resourcesOf(found)
    if (places !== undefined && 'status' in places) return { kind: 'refused', refusal: places }
    if (places === undefined) return { kind: 'free', ownerUnknown: false, itemsToSearch: [], ...learning }
    const sealers = ownersOf(
      named.encrypted.map(({ digest }) => digest),
      pool,
      runtime.shared,
    )
    const bringsForeign = sealers.some(owner => owner !== undefined && !places.has(owner))
    const byItems = named.items.length > 0
    return { kind: 'pinned', resources: places, byItems, encrypted: undefined, bringsForeign, ...learning }
  })
}
