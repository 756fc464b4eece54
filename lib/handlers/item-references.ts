// The items of stored state that a body names instead of holding, in every spelling that JSON allows and at every
// length. Ownership is checked for all of them. Where a request goes is decided by fewer (named-state.ts).
import { arrayElements } from '../body/array-elements.ts'
import { type ByteRange, sliceBytes } from '../body/chunk-list.ts'
import { type JsonMember, jsonScannerFor } from '../body/json-scan.ts'

const ID_MARK = Buffer.from('"id"')
const BACKSLASH = 0x5c
const REFERENCE = 'item_reference'
const REASONING = 'reasoning'
const ITEM_MEMBERS: ReadonlySet<string> = new Set(['id', 'type', 'role', 'content', 'encrypted_content'])
const scannerOfItem = jsonScannerFor(ITEM_MEMBERS)

/**
 * The ids by which an element stands for stored state: a reference, with or without its type, or reasoning without its
 * content.
 */
function idsOf(element: Buffer): readonly string[] {
  // An escape may hide the name; without any, what does not hold it as it stands has no id.
  if (!element.includes(BACKSLASH) && !element.includes(ID_MARK)) return []
  const scanner = scannerOfItem()
  scanner.push(element)
  const result = scanner.end()
  if (result.kind !== 'ok') return []
  const has = (wanted: string): boolean => result.members.some(({ name, kind }) => name === wanted && kind !== 'null')
  const types = result.members.filter(({ name, kind }) => name === 'type' && kind !== 'null')
  // Of two members of one name the upstream may believe either.
  const refers =
    types.some(({ text }) => text === REFERENCE) ||
    (types.length === 0 && !has('role') && !has('content')) ||
    (types.some(({ text }) => text === REASONING) && !has('encrypted_content'))
  return refers ? result.members.flatMap(({ name, text }) => (name === 'id' && text !== undefined ? [text] : [])) : []
}

function idsIn(chunks: readonly Buffer[], { start, end }: ByteRange): readonly string[] {
  const bytes = sliceBytes(chunks, start, end, end - start)
  return arrayElements(bytes, Number.POSITIVE_INFINITY).flatMap(range => idsOf(bytes.subarray(range.start, range.end)))
}

/**
 * The ids of all items that the arrays of this name refer to.
 * @param members of a scan of exactly these chunks that wanted `name`
 */
export function referencedItems(
  chunks: readonly Buffer[],
  members: readonly JsonMember[],
  name: string,
): readonly string[] {
  return members.flatMap(member => (member.name === name && member.kind === 'array' ? idsIn(chunks, member) : []))
}
