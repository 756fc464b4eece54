// Files, vector stores and containers that a body names, in `file_id` and fields like it. Each lives in one resource
// (azure/README.md 13.7): the one that was seen to make it, if any.
import { objectKey } from '../balancer/owners.ts'
import type { Pool } from '../balancer/pool.ts'
import { includesBytes } from '../body/chunk-list.ts'
import { closingQuote, decodeString } from '../body/json-string.ts'
import type { Refusal } from '../errors.ts'
import type { Exchange } from '../request-context.ts'
import type { Runtime } from '../runtime.ts'
import { foreignStateRefusal } from './ownership.ts'

/** The fields that name an object by its id, or several by an array of theirs, at any depth. */
const FIELDS: ReadonlySet<string> = new Set([
  'file_id',
  'file_ids',
  'input_file_id',
  'training_file',
  'validation_file',
  'vector_store_id',
  'vector_store_ids',
  'container',
  'container_id',
])
/** One of these stands in every body that names one; the last spells a letter as an escape. */
const MARKS = ['file_id', 'ing_file"', 'ation_file"', 'vector_store_id', '"container', '\\u00'].map(mark =>
  Buffer.from(mark),
)
/** Longer strings are neither a field nor an id; an escaped letter takes six bytes. */
const MAX_STRING_BYTES = 1536
const QUOTE = 0x22
const COLON = 0x3a
const BLANKS: ReadonlySet<number | undefined> = new Set([0x20, 0x09, 0x0a, 0x0d])

interface NamedObject {
  readonly field: string
  readonly id: string
}

/** Whether the string that ends before `at` is the name of a member. */
function isName(bytes: Buffer, at: number): boolean {
  let next = at
  while (BLANKS.has(bytes[next])) next++
  return bytes[next] === COLON
}

/** Every object that the fields name, in every spelling that JSON allows. */
export function objectsIn(chunks: readonly Buffer[]): readonly NamedObject[] {
  if (!MARKS.some(mark => includesBytes(chunks, mark))) return []
  const bytes = chunks.length === 1 ? (chunks[0] ?? Buffer.alloc(0)) : Buffer.concat(chunks)
  const found: NamedObject[] = []
  let field = ''
  let end = -1
  for (let at = bytes.indexOf(QUOTE); at !== -1; at = bytes.indexOf(QUOTE, end + 1)) {
    end = closingQuote(bytes, at + 1)
    const text = end - at <= MAX_STRING_BYTES ? decodeString(bytes, at + 1, end) : null
    if (isName(bytes, end + 1)) field = text !== null && FIELDS.has(text) ? text : ''
    else if (field !== '' && text !== null) found.push({ field, id: text })
  }
  return found
}

/**
 * Finds the resources of the objects that a body names.
 * @returns undefined where none is known, or the refusal of another key's
 */
export function resourcesOfObjects(
  exchange: Exchange,
  chunks: readonly Buffer[],
  runtime: Runtime,
): ReadonlySet<string> | Refusal | undefined {
  const { owners } = runtime.shared
  if (!owners.holdsObjects()) return undefined
  const resources = new Set<string>()
  for (const { field, id } of objectsIn(chunks)) {
    const key = objectKey(id)
    const foreign = foreignStateRefusal(exchange, [key], runtime, field)
    if (foreign !== undefined) return foreign
    const owner = owners.of(key)
    if (owner !== undefined) resources.add(owner)
  }
  return resources.size === 0 ? undefined : resources
}

/** As above; only those that belong to backends of the model. */
export function resourcesForModel(
  exchange: Exchange,
  chunks: readonly Buffer[],
  pool: Pool,
  runtime: Runtime,
): ReadonlySet<string> | Refusal | undefined {
  const found = resourcesOfObjects(exchange, chunks, runtime)
  if (found === undefined || 'status' in found) return found
  const members = pool.members.filter(({ resourceId }) => found.has(resourceId))
  return members.length === 0 ? undefined : new Set(members.map(({ resourceId }) => resourceId))
}
