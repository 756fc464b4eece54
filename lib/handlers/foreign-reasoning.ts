// `strip_foreign_reasoning`: an encrypted reasoning item whose maker cannot serve is left out, and the turn goes on
// elsewhere. The model loses what it had thought then, not what was said.
import { isAvailable } from '../balancer/health.ts'
import type { Member, Pool } from '../balancer/pool.ts'
import { withoutElements } from '../body/array-elements.ts'
import type { ByteRange } from '../body/chunk-list.ts'
import type { ScannedObject } from '../body/json-scan.ts'
import type { Binding, OwnedItem } from './affinity.ts'
import { type EncryptedItem, reasoningElements } from './named-state.ts'

/** How one request does without the reasoning of others. */
export interface Stripping {
  /** The ranges of the body to leave out for this member. */
  rangesFor(member: Member): readonly ByteRange[]
  /** It can read all of the reasoning, as far as is known. */
  canRead(member: Member): boolean
  /**
   * A member cannot read an item. True: ask it once more, without reasoning, because no other that may read it is
   * there.
   */
  onDenied(member: Member): boolean
}

/** The ranges without the elements at these places; undefined where one of them is not only reasoning. */
function rangesWithout(
  chunks: readonly Buffer[],
  scan: ScannedObject,
  places: readonly ByteRange[],
): readonly ByteRange[] | undefined {
  const found = reasoningElements(chunks, scan, places)
  if (found === undefined) return undefined
  return withoutElements(found.elements, found.gone).map(({ start, end }) => ({
    start: start + found.base,
    end: end + found.base,
  }))
}

/** Makers are known: each member gets the items that it has made. */
function ofKnownMakers(
  chunks: readonly Buffer[],
  scan: ScannedObject,
  items: readonly OwnedItem[],
): Stripping | undefined {
  if (
    rangesWithout(
      chunks,
      scan,
      items.map(({ place }) => place),
    ) === undefined
  )
    return undefined
  // The latest item is the one that matters most, and its maker's prompt cache is warm.
  const latestMaker = items.at(-1)?.resourceId
  const byResource = new Map<string, readonly ByteRange[]>()
  return {
    canRead: ({ resourceId }) => resourceId === latestMaker,
    rangesFor({ resourceId }) {
      const known = byResource.get(resourceId)
      if (known !== undefined) return known
      const foreign = items.filter(item => item.resourceId !== resourceId).map(({ place }) => place)
      const ranges = rangesWithout(chunks, scan, foreign) ?? []
      byResource.set(resourceId, ranges)
      return ranges
    },
    onDenied: () => false,
  }
}

/** Makers are unknown: the members are tried in turn, and the last one that is there does without. */
function ofUnknownMakers(
  chunks: readonly Buffer[],
  scan: ScannedObject,
  {
    pool,
    items,
    nowMs,
  }: { readonly pool: Pool; readonly items: readonly EncryptedItem[]; readonly nowMs: () => number },
): Stripping | undefined {
  const ranges = rangesWithout(
    chunks,
    scan,
    items.map(({ place }) => place),
  )
  if (ranges === undefined) return undefined
  const denied = new Set<string>()
  let strips = false
  return {
    canRead: () => true,
    rangesFor: () => (strips ? ranges : []),
    onDenied({ resourceId }) {
      denied.add(resourceId)
      const others = pool.members.filter(member => !denied.has(member.resourceId))
      // All of them said so: then nobody is out whose word is missing, and the client hears it.
      if (others.length === 0 || others.some(({ health }) => isAvailable(health, nowMs()))) return false
      strips = true
      return true
    },
  }
}

/** Undefined where nothing is left out: the option is off, or the request needs more than reasoning of one resource. */
export function strippingFor(
  chunks: readonly Buffer[],
  scan: ScannedObject | undefined,
  binding: Binding,
  pool: Pool,
  nowMs: () => number,
): Stripping | undefined {
  if (!pool.model.stripForeignReasoning || scan === undefined || binding.kind === 'refused') return undefined
  if (binding.kind === 'free') {
    const { itemsToSearch } = binding
    return itemsToSearch.length === 0 ? undefined : ofUnknownMakers(chunks, scan, { pool, items: itemsToSearch, nowMs })
  }
  return binding.encrypted === undefined ? undefined : ofKnownMakers(chunks, scan, binding.encrypted)
}
