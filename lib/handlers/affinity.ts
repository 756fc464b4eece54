// Requests that name state of the Responses API must reach the resource that holds it; what answers show of such state is
// remembered. Ids are never changed.

import { createHash } from 'node:crypto'
import { isObjectId } from '../azure/ids.ts'
import type { Operation } from '../azure/operations.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { viewBytes } from '../body/chunk-list.ts'
import { lastMember } from '../body/edit.ts'
import { findStringsOfKey } from '../body/json-key-search.ts'
import type { ScannedObject } from '../body/json-scan.ts'
import type { Refusal } from '../errors.ts'
import type { OwnerLookup } from '../forward/resource-query.ts'
import type { UpstreamResponse } from '../forward/upstream.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'

export type Binding =
  /** Any backend will do. */
  | ({
      readonly kind: 'free'
      /** It carries reasoning that only its maker can read, and the maker is not known. */
      readonly searches: boolean
    } & Learning)
  /** Only these resources hold what the request names. */
  | ({ readonly kind: 'bound'; readonly resources: ReadonlySet<string> } & Learning)
  | { readonly kind: 'refused'; readonly refusal: Refusal }

/** What to remember of the answer. */
interface Learning {
  readonly onServed: (member: Member, upstreamResponse: UpstreamResponse) => void
  readonly onEvents: ((member: Member, events: Buffer) => void) | undefined
}

/** Reasoning items looked at in one request or answer: an agent's turn has a handful. */
const MAX_ITEMS = 64
/** The beginning of a body in which they are looked for. */
const MAX_SEARCH_BYTES = 4 * 1024 * 1024
/** When a resource could not be asked, clients come back after this. */
const UNSURE_WAIT_MS = 5_000
const BUSY_WAIT_MS = 1_000

const ENCRYPTED = 'encrypted_content'
const ENCRYPTED_MARK = Buffer.from(`"${ENCRYPTED}"`)
const ASKS_ENCRYPTED = Buffer.from('reasoning.encrypted_content')

const NOTHING: Learning = { onServed: () => undefined, onEvents: undefined }

/** The id of the response that an answer's first bytes announce. */
function announcedId(upstreamResponse: UpstreamResponse): string | undefined {
  if (upstreamResponse.status >= 300) return undefined
  const { body } = upstreamResponse
  const pieces =
    body.kind === 'whole' ? body.chunks : body.kind === 'flowing' ? body.held : body.held.map(held => held.chunk)
  for (const piece of pieces) {
    const id = /"id"\s*:\s*"(resp_[\w-]{1,250})"/.exec(piece.toString('latin1'))?.[1]
    // A copy: a match is a slice, which would keep the whole piece in memory for as long as the id is remembered.
    if (id !== undefined) return Buffer.from(id, 'latin1').toString('latin1')
  }
  return undefined
}

function digestsOf(chunks: readonly Buffer[], maxBytes: number): string[] {
  return findStringsOfKey(chunks, ENCRYPTED, MAX_ITEMS, maxBytes).map(({ start, end }) => {
    const hash = createHash('sha256')
    for (const view of viewBytes(chunks, start, end)) hash.update(view)
    return `enc ${hash.digest('base64url')}`
  })
}

function holds(chunks: readonly Buffer[], mark: Buffer): boolean {
  return chunks.some(chunk => chunk.includes(mark))
}

/** A refusal for an owner that could not be made out, or the resources to go to; undefined: anyone will say it is unknown. */
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

const FREE: Binding = { kind: 'free', searches: false, ...NOTHING }

/** Finds out where a request must go because of the state it names; at once where it names none, as most do. */
export function bindToState(
  chunks: readonly Buffer[],
  scan: ScannedObject | undefined,
  operation: Operation,
  pool: Pool,
  exchange: Exchange,
  runtime: Runtime,
): Binding | Promise<Binding> {
  if (operation.dialect !== 'responses' || scan === undefined) return FREE
  const { owners } = runtime.shared
  const learning: Learning = {
    onServed(member, upstreamResponse) {
      const id = announcedId(upstreamResponse)
      if (id !== undefined) owners.learn(id, member.resourceId)
      if (upstreamResponse.body.kind !== 'whole' || !holds(upstreamResponse.body.chunks, ENCRYPTED_MARK)) return
      for (const digest of digestsOf(upstreamResponse.body.chunks, MAX_SEARCH_BYTES))
        owners.learn(digest, member.resourceId)
    },
    onEvents: holds(chunks, ASKS_ENCRYPTED)
      ? (member, events) => {
          if (!events.includes(ENCRYPTED_MARK)) return
          for (const digest of digestsOf([events], MAX_SEARCH_BYTES)) owners.learn(digest, member.resourceId)
        }
      : undefined,
  }

  const previous = lastMember(scan.members, 'previous_response_id')?.text
  if (previous !== undefined && isObjectId(previous)) {
    return runtime.ownerFinder.find(previous, pool.members).then((found): Binding => {
      if (found.kind === 'busy') exchange.record.error = 'lookup_busy'
      const places = resourcesOf(found)
      if (places !== undefined && 'status' in places) return { kind: 'refused', refusal: places }
      return places === undefined
        ? { kind: 'free', searches: false, ...learning }
        : { kind: 'bound', resources: places, ...learning }
    })
  }

  if (!holds(chunks, ENCRYPTED_MARK)) return { kind: 'free', searches: false, ...learning }
  const known = new Set<string>()
  const items = digestsOf(chunks, MAX_SEARCH_BYTES)
  for (const digest of items) {
    const owner = owners.of(digest)
    if (owner !== undefined && pool.members.some(member => member.resourceId === owner)) known.add(owner)
  }
  return known.size === 1
    ? { kind: 'bound', resources: known, ...rememberItems(learning, items, owners) }
    : { kind: 'free', searches: true, ...rememberItems(learning, items, owners) }
}

/** Where a request with encrypted items is served, its items are at home. */
function rememberItems(learning: Learning, digests: readonly string[], owners: Runtime['shared']['owners']): Learning {
  return {
    onEvents: learning.onEvents,
    onServed(member, upstreamResponse) {
      learning.onServed(member, upstreamResponse)
      if (upstreamResponse.status < 300) for (const digest of digests) owners.learn(digest, member.resourceId)
    },
  }
}
