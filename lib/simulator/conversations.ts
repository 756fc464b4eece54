// Conversations of the Responses API: kept in one resource, with the items that were said in them (azure/README.md
// 13.4).
import type { SimulatedResponse } from './chat.ts'
import { modelError, type WholeResponse } from './errors.ts'
import { digest } from './text.ts'

type Json = Readonly<Record<string, unknown>>

/** Conversations kept per resource; the oldest is forgotten. */
const MAX_CONVERSATIONS = 10_000
/** Items a request may add. */
const MAX_ITEMS_A_REQUEST = 20

interface Conversation {
  readonly createdS: number
  metadata: unknown
  items: Json[]
}

export interface ConversationStore {
  /** Why a response may not be made in this conversation. */
  check(named: unknown): WholeResponse | undefined
  /** The items of a conversation that a request names, oldest first; empty where it names none. */
  itemsOf(named: unknown): readonly Json[]
  append(named: unknown, items: readonly Json[]): void
  /** Serves a request below `/conversations`. */
  serve(
    method: string,
    path: readonly string[],
    body: Json,
    query: URLSearchParams,
    createdS: number,
  ): SimulatedResponse
}

const json = (value: unknown, status = 200): SimulatedResponse => ({
  kind: 'answer',
  answer: { status, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value) },
})

const refused = (answer: WholeResponse): SimulatedResponse => ({ kind: 'answer', answer })

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A page of a list, newest first unless asked otherwise. */
export function listPage(items: readonly Json[], query: URLSearchParams): Json {
  const limit = Math.min(Math.max(Number(query.get('limit') ?? 20), 1), 100)
  const ordered = query.get('order') === 'asc' ? [...items] : [...items].reverse()
  const after = query.get('after')
  const from = after === null ? 0 : ordered.findIndex(({ id }) => id === after) + 1
  const data = ordered.slice(from, from + limit)
  return {
    object: 'list',
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: ordered.length > from + data.length,
  }
}

/** `"conv_…"` or `{"id": "conv_…"}`. */
function idOf(named: unknown): string | undefined {
  if (typeof named === 'string') return named
  return isObject(named) && typeof named.id === 'string' ? named.id : undefined
}

/** The conversations of a resource, kept up to MAX_CONVERSATIONS. */
interface Conversations {
  readonly secret: string
  readonly stored: Map<string, Conversation>
  /** Requests that have made a conversation or items; ids are made of it. */
  made: number
}

/** Why there is no conversation of this id. */
function problem({ stored }: Conversations, id: string): WholeResponse | undefined {
  if (!/^conv_[\w-]+$/.test(id)) return modelError(400, `Invalid conversation id '${id}', Malformed identifier.`)
  return stored.has(id) ? undefined : modelError(404, `Conversation with id '${id}' not found.`)
}

/** The items of a request, each with an id. */
function withIds({ secret, made }: Conversations, given: unknown): Json[] {
  return (Array.isArray(given) ? given.filter(isObject) : []).map((item, i) => ({
    type: 'message',
    status: 'completed',
    ...item,
    id: typeof item.id === 'string' ? item.id : `msg_${digest(`${secret} ${made} ${i} ${JSON.stringify(item)}`)}`,
  }))
}

function shown(id: string, { createdS, metadata }: Conversation): Json {
  return { id, object: 'conversation', created_at: createdS, metadata }
}

function create(conversations: Conversations, body: Json, createdS: number): SimulatedResponse {
  const { secret, stored } = conversations
  conversations.made++
  const id = `conv_${digest(`${secret} conversation ${conversations.made}`, 40)}`
  const conversation: Conversation = {
    createdS,
    metadata: body.metadata ?? {},
    items: withIds(conversations, body.items),
  }
  stored.set(id, conversation)
  const oldest = stored.keys().next()
  if (stored.size > MAX_CONVERSATIONS && oldest.done !== true) stored.delete(oldest.value)
  return json(shown(id, conversation))
}

/** Serves the items of a conversation, or one of them. */
function serveItems(
  conversations: Conversations,
  method: string,
  id: string,
  conversation: Conversation,
  itemId: string | undefined,
  body: Json,
  query: URLSearchParams,
): SimulatedResponse {
  if (itemId === undefined) {
    if (method === 'GET') return json(listPage(conversation.items, query))
    if (!Array.isArray(body.items) || body.items.length > MAX_ITEMS_A_REQUEST) {
      return refused(modelError(400, "Missing required parameter: 'items'.", { param: 'items' }))
    }
    conversations.made++
    const added = withIds(conversations, body.items)
    conversation.items.push(...added)
    return json({ ...listPage(added, new URLSearchParams('order=asc&limit=100')) })
  }
  const item = conversation.items.find(one => one.id === itemId)
  if (item === undefined) return refused(modelError(404, `Item with id '${itemId}' not found.`))
  if (method === 'GET') return json(item)
  conversation.items = conversation.items.filter(one => one !== item)
  return json(shown(id, conversation))
}

/** @param secret tells this resource's ids from those of others */
export function createConversationStore(secret: string): ConversationStore {
  const stored = new Map<string, Conversation>()
  const conversations: Conversations = { secret, stored, made: 0 }

  return {
    check(named) {
      if (named === undefined || named === null) return undefined
      const id = idOf(named)
      return id === undefined
        ? modelError(400, "Invalid type for 'conversation'.", { param: 'conversation', code: 'invalid_type' })
        : problem(conversations, id)
    },
    itemsOf: named => stored.get(idOf(named) ?? '')?.items ?? [],
    append(named, items) {
      stored.get(idOf(named) ?? '')?.items.push(...items)
    },
    serve(method, [id, part, itemId], body, query, createdS) {
      if (id === undefined) return create(conversations, body, createdS)
      const refusal = problem(conversations, id)
      const conversation = stored.get(id)
      if (refusal !== undefined || conversation === undefined) {
        return refused(refusal ?? modelError(404, `Conversation with id '${id}' not found.`))
      }
      if (part === 'items') return serveItems(conversations, method, id, conversation, itemId, body, query)
      if (method === 'DELETE') {
        stored.delete(id)
        return json({ id, object: 'conversation.deleted', deleted: true })
      }
      if (method === 'POST') conversation.metadata = body.metadata ?? conversation.metadata
      return json(shown(id, conversation))
    },
  }
}
