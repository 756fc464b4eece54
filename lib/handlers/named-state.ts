// The state that a request of the Responses API names, and the ids in an upstream response. Both are read from bytes;
// only single small items are parsed. It knows no resources.
import { createHash } from 'node:crypto'
import { isObjectId } from '../azure/ids.ts'
import { arrayElements } from '../body/array-elements.ts'
import { type ByteRange, includesBytes, sliceBytes, viewBytes } from '../body/chunk-list.ts'
import { lastMember } from '../body/edit.ts'
import { findStringsOfKey } from '../body/json-key-search.ts'
import type { ScannedObject } from '../body/json-scan.ts'

/**
 * Encrypted items and references looked at in one request or response: an agent's turn has a handful, a long session
 * hundreds.
 */
const MAX_ITEMS = 256
/** Elements of one input that are walked over. */
const MAX_ELEMENTS = 10_000
/** The beginning of a body in which they are looked for. */
const MAX_SEARCH_BYTES = 4 * 1024 * 1024
/**
 * A reference has an id and a type; reasoning without its content has a summary too. Longer elements are no references.
 */
const MAX_REFERENCE_BYTES = 16 * 1024
/** An object that names a conversation holds its id and hardly anything else. */
const MAX_CONVERSATION_BYTES = 1024

const ENCRYPTED = 'encrypted_content'
const CONTAINER = 'container_id'
const CONTAINER_MARK = Buffer.from(`"${CONTAINER}"`)
const ENCRYPTED_MARK = Buffer.from(`"${ENCRYPTED}"`)
const REFERENCE_MARK = Buffer.from('"item_reference"')
const REASONING_MARK = Buffer.from('"reasoning"')
const ID_MARK = Buffer.from('"id"')
const BEGIN_EVENT_MARK = Buffer.from('response.created')
const ITEM_EVENT_MARK = Buffer.from('output_item')
const RESPONSE_ID_MARK = Buffer.from('"resp_')

/** Ids of items, however short: `rs_…`, `msg_…`, `fc_…` and whatever comes; not of responses, calls, conversations. */
const ITEM_ID = /^(?!resp_|call_|conv_)[a-z]{2,12}_[\w-]{1,250}$/

/** An input item that holds encrypted content. */
export interface EncryptedItem {
  /** Under which its maker is remembered. */
  readonly digest: string
  /** The place of its content in the body. */
  readonly place: ByteRange
}

/** The state that a request names, in every form. */
export interface NamedState {
  readonly previousResponse: string | undefined
  readonly conversation: string | undefined
  /** Ids of items that are named instead of sent. */
  readonly items: readonly string[]
  readonly encrypted: readonly EncryptedItem[]
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch {
    return undefined
  }
}

/** A copy: a match is a slice, which would keep a whole socket read in memory for as long as the id is remembered. */
function copied(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1')
}

/** `"conv_…"` or `{"id": "conv_…"}`. */
function conversationOf(chunks: readonly Buffer[], scan: ScannedObject): string | undefined {
  const member = lastMember(scan.members, 'conversation')
  if (member?.kind !== 'object') return member?.text
  if (member.end - member.start > MAX_CONVERSATION_BYTES) return undefined
  const value = parse(sliceBytes(chunks, member.start, member.end, MAX_CONVERSATION_BYTES))
  return isObject(value) && typeof value.id === 'string' ? value.id : undefined
}

/**
 * The id of an item that stands for stored state: a reference, with or without its type, or reasoning without its
 * content.
 */
function referredTo(item: unknown): string | undefined {
  if (!isObject(item) || typeof item.id !== 'string' || !isObjectId(item.id)) return undefined
  if (item.type === 'item_reference') return item.id
  if (item.type === undefined || item.type === null) return Object.keys(item).length <= 2 ? item.id : undefined
  return item.type === 'reasoning' && typeof item.encrypted_content !== 'string' ? item.id : undefined
}

function inputBytes(chunks: readonly Buffer[], scan: ScannedObject): { bytes: Buffer; start: number } | undefined {
  const input = lastMember(scan.members, 'input')
  if (input?.kind !== 'array' || input.end - input.start > MAX_SEARCH_BYTES) return undefined
  return { bytes: sliceBytes(chunks, input.start, input.end, MAX_SEARCH_BYTES), start: input.start }
}

function namedItems(chunks: readonly Buffer[], scan: ScannedObject): readonly string[] {
  const input = inputBytes(chunks, scan)
  if (input === undefined) return []
  const ids: string[] = []
  for (const { start, end } of arrayElements(input.bytes, MAX_ELEMENTS)) {
    if (end - start > MAX_REFERENCE_BYTES || ids.length >= MAX_ITEMS) continue
    const element = input.bytes.subarray(start, end)
    const mayRefer = element.includes(REFERENCE_MARK) || element.includes(REASONING_MARK) || element.length < 300
    if (!mayRefer || !element.includes(ID_MARK)) continue
    const id = referredTo(parse(element))
    if (id !== undefined) ids.push(id)
  }
  return ids
}

function encryptedIn(chunks: readonly Buffer[]): readonly EncryptedItem[] {
  return findStringsOfKey(chunks, ENCRYPTED, MAX_ITEMS, MAX_SEARCH_BYTES).map(place => {
    const hash = createHash('sha256')
    for (const view of viewBytes(chunks, place.start, place.end)) hash.update(view)
    return { digest: `enc ${hash.digest('base64url')}`, place }
  })
}

/**
 * Reads the state that a body names.
 * @param scan of exactly these chunks, with `previous_response_id`, `conversation` and `input` among the wanted
 */
export function readNamedState(chunks: readonly Buffer[], scan: ScannedObject): NamedState {
  const previous = lastMember(scan.members, 'previous_response_id')?.text
  const conversation = conversationOf(chunks, scan)
  return {
    previousResponse: previous !== undefined && isObjectId(previous) ? previous : undefined,
    conversation: conversation !== undefined && isObjectId(conversation) ? conversation : undefined,
    items: includesBytes(chunks, ID_MARK) ? namedItems(chunks, scan) : [],
    encrypted: includesBytes(chunks, ENCRYPTED_MARK) ? encryptedIn(chunks) : [],
  }
}

/**
 * The elements of `input` that hold the encrypted contents at these places, as ranges of the body to take out.
 * @returns undefined where one of them is no reasoning item: a turn cannot do without it
 */
export function reasoningElements(
  chunks: readonly Buffer[],
  scan: ScannedObject,
  places: readonly ByteRange[],
): { readonly elements: readonly ByteRange[]; readonly gone: ReadonlySet<number>; readonly base: number } | undefined {
  const input = inputBytes(chunks, scan)
  if (input === undefined) return undefined
  const elements = arrayElements(input.bytes, MAX_ELEMENTS)
  const gone = new Set<number>()
  for (const place of places) {
    const index = elements.findIndex(
      ({ start, end }) => input.start + start <= place.start && place.end <= input.start + end,
    )
    const element = elements[index]
    if (element === undefined) return undefined
    if (!/"type"\s*:\s*"reasoning"/.test(input.bytes.toString('latin1', element.start, element.end))) return undefined
    gone.add(index)
  }
  return { elements, gone, base: input.start }
}

/** The ids of stored things, and the digests of encrypted ones, that a response's bytes show. */
export interface ShownState {
  readonly response: string | undefined
  readonly items: readonly string[]
  readonly encrypted: readonly string[]
  /** Ids of containers in which code ran. */
  readonly containers: readonly string[]
}

function itemIds(chunks: readonly Buffer[]): readonly string[] {
  return findStringsOfKey(chunks, 'id', MAX_ITEMS, MAX_SEARCH_BYTES)
    .filter(({ start, end }) => end - start <= 256)
    .map(({ start, end }) => sliceBytes(chunks, start, end, 256).toString('latin1'))
    .filter(id => ITEM_ID.test(id))
}

function containersIn(chunks: readonly Buffer[]): readonly string[] {
  if (!includesBytes(chunks, CONTAINER_MARK)) return []
  return findStringsOfKey(chunks, CONTAINER, MAX_ITEMS, MAX_SEARCH_BYTES)
    .map(({ start, end }) => sliceBytes(chunks, start, end, 256).toString('latin1'))
    .filter(isObjectId)
}

function digestsIn(chunks: readonly Buffer[]): readonly string[] {
  return includesBytes(chunks, ENCRYPTED_MARK) ? encryptedIn(chunks).map(({ digest }) => digest) : []
}

/** The id of the stored response that an upstream response's first bytes announce. */
export function announcedResponse(chunks: readonly Buffer[]): string | undefined {
  for (const chunk of chunks) {
    if (!chunk.includes(RESPONSE_ID_MARK)) continue
    const id = /"id"\s*:\s*"(resp_[\w-]{1,250})"/.exec(chunk.toString('latin1'))?.[1]
    if (id !== undefined) return copied(id)
  }
  return undefined
}

/** What a whole response shows. @param stores whether its items can be named later */
export function stateShownBy(chunks: readonly Buffer[], stores: boolean): ShownState {
  return {
    response: announcedResponse(chunks),
    items: stores ? itemIds(chunks) : [],
    encrypted: digestsIn(chunks),
    containers: containersIn(chunks),
  }
}

/** What the events of a stream show: the response as it begins, its items as these are added and done. */
export function shownByEvents(events: Buffer, stores: boolean): ShownState | undefined {
  const begins = events.includes(BEGIN_EVENT_MARK)
  if (!begins && !events.includes(ITEM_EVENT_MARK)) return undefined
  const chunks = [events]
  return {
    response: begins ? announcedResponse(chunks) : undefined,
    items: stores ? itemIds(chunks) : [],
    encrypted: digestsIn(chunks),
    containers: containersIn(chunks),
  }
}
