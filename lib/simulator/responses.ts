// The Responses API with its state, which lives in one resource (azure/README.md 1.4, 1.5, 4.3, 5.3, 13.4). It has
// create, stream, read, resume, delete, cancel, list inputs, items that can be referred to, and reasoning that only its
// maker can decrypt.
import { createHmac } from 'node:crypto'
import { promptText, type SimulatedResponse } from './chat.ts'
import { type ConversationStore, createConversationStore, listPage } from './conversations.ts'
import { modelError, type WholeResponse } from './errors.ts'
import type { PromptCache } from './prompt-cache.ts'
import { checkForm, inputItemsOf, namedItem, undecryptable, unknownItem } from './response-checks.ts'
import { makeResponse } from './response-object.ts'
import { outputOf } from './structured.ts'
import { countTokens, digest, pieces } from './text.ts'

type Json = Readonly<Record<string, unknown>>

/** Responses kept per resource; the oldest is forgotten, as if its 30 days were over. */
const MAX_STORED = 10_000
/** Items that can be referred to, per resource. */
const MAX_ITEMS = 100_000

interface Stored {
  readonly response: Json
  readonly input: readonly Json[]
  /** The events of its stream, kept when it was made with stream and background. */
  readonly events: readonly string[] | undefined
}

/** What a WebSocket remembers: its latest response, whether stored or not. */
export interface SocketMemory {
  latest: { readonly id: string; readonly entry: Stored } | undefined
}

export interface ResponsesOptions {
  readonly createdS: number
  readonly deltas: number
  readonly cache: PromptCache | undefined
  readonly socket?: SocketMemory | undefined
}

export interface ResponseStore {
  readonly conversations: ConversationStore
  check(body: Json, socket?: SocketMemory): WholeResponse | undefined
  create(body: Json, options: ResponsesOptions): SimulatedResponse
  read(id: string): SimulatedResponse
  /** @param startingAfter the last sequence number the client has seen */
  resume(id: string, startingAfter: number): SimulatedResponse
  remove(id: string): SimulatedResponse
  cancel(id: string): SimulatedResponse
  inputItems(id: string, query: URLSearchParams): SimulatedResponse
  /** Encrypts a text so that only this resource can read it. */
  seal(text: string): string
  size(): number
}

const pretty = (value: unknown, status = 200): SimulatedResponse => ({
  kind: 'answer',
  answer: { status, headers: { 'Content-Type': 'application/json' }, body: `${JSON.stringify(value, null, 2)}\n` },
})

const refused = (answer: WholeResponse): SimulatedResponse => ({ kind: 'answer', answer })

function unknownResponse(id: string): WholeResponse {
  return modelError(404, `Response with id '${id}' not found.`)
}

/** Encrypts reasoning as only the holder of a secret can, and knows what it has encrypted. */
interface Sealing {
  seal(text: string): string
  opens(sealed: string): boolean
}

/** @param secret what this resource encrypts reasoning with: another resource has another one */
function createSealing(secret: string): Sealing {
  const seal = (text: string): string => {
    const mac = createHmac('sha256', secret).update(text).digest('base64url')
    return `gAAAAA${Buffer.from(text).toString('base64url')}.${mac}`
  }
  return {
    seal,
    opens(sealed) {
      const text = Buffer.from(sealed.slice(6).split('.')[0] ?? '', 'base64url').toString()
      return seal(text) === sealed
    },
  }
}

/** The responses that are stored, and the items that can be referred to; the oldest go first. */
interface KeptResponses {
  readonly stored: Map<string, Stored>
  readonly items: Map<string, Json>
}

function remember({ stored }: KeptResponses, id: string, entry: Stored): void {
  stored.set(id, entry)
  const oldest = stored.keys().next()
  if (stored.size > MAX_STORED && oldest.done !== true) stored.delete(oldest.value)
}

function rememberItems({ items }: KeptResponses, kept: readonly Json[]): void {
  for (const item of kept) if (typeof item.id === 'string') items.set(item.id, item)
  while (items.size > MAX_ITEMS) {
    const oldest = items.keys().next()
    if (oldest.done !== true) items.delete(oldest.value)
  }
}

/** Why no response can follow the one that is named. */
function checkPrevious(
  stored: KeptResponses['stored'],
  previous: unknown,
  socket: SocketMemory | undefined,
): WholeResponse | undefined {
  if (previous === undefined || previous === null) return undefined
  if (typeof previous !== 'string') {
    return modelError(400, "Invalid type for 'previous_response_id': expected a string.", {
      param: 'previous_response_id',
      code: 'invalid_type',
    })
  }
  if (stored.has(previous) || socket?.latest?.id === previous) return undefined
  return modelError(400, `Previous response with id '${previous}' not found.`, {
    param: 'previous_response_id',
    code: 'previous_response_not_found',
  })
}

/** Why a request's references to state cannot be served: its previous response, conversation, items, reasoning. */
function checkState(
  { stored, items }: KeptResponses,
  conversations: ConversationStore,
  { opens }: Sealing,
  body: Json,
  socket: SocketMemory | undefined,
): WholeResponse | undefined {
  const refusal = checkPrevious(stored, body.previous_response_id, socket) ?? conversations.check(body.conversation)
  if (refusal !== undefined) return refusal
  if (typeof body.previous_response_id === 'string' && body.conversation !== undefined) {
    return modelError(400, "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.", {
      param: 'conversation',
    })
  }
  const spoken = conversations.itemsOf(body.conversation)
  for (const item of inputItemsOf(body.input)) {
    const named = namedItem(item)
    if (named !== undefined && !items.has(named) && !spoken.some(({ id }) => id === named)) {
      return unknownItem(named, body.store === false)
    }
    const sealed = item.encrypted_content
    if (typeof sealed === 'string' && !opens(sealed)) return undecryptable(item, sealed)
  }
  return undefined
}

/** The requests for a response that is stored. */
function createReads(
  stored: KeptResponses['stored'],
): Pick<ResponseStore, 'read' | 'resume' | 'remove' | 'cancel' | 'inputItems'> {
  return {
    read(id) {
      const entry = stored.get(id)
      return entry === undefined ? refused(unknownResponse(id)) : pretty(entry.response)
    },
    resume(id, startingAfter) {
      const entry = stored.get(id)
      if (entry === undefined) return refused(unknownResponse(id))
      if (entry.events === undefined) {
        return refused(
          modelError(
            400,
            'This response cannot be streamed because it was not created with background=true and stream=true.',
          ),
        )
      }
      return { kind: 'events', events: entry.events.slice(startingAfter + 1), startUp: 0, terminal: 1 }
    },
    remove(id) {
      if (!stored.delete(id)) return refused(unknownResponse(id))
      return pretty({ object: 'response.deleted', id, deleted: true })
    },
    cancel(id) {
      const entry = stored.get(id)
      if (entry === undefined) return refused(unknownResponse(id))
      if (entry.response.background !== true)
        return refused(modelError(400, 'Only responses created with background=true can be cancelled.'))
      return pretty(entry.response)
    },
    inputItems(id, query) {
      const entry = stored.get(id)
      return entry === undefined ? refused(unknownResponse(id)) : pretty(listPage(entry.input, query))
    },
  }
}

/**
 * @param secret what this resource encrypts reasoning with: another resource has another one
 */
export function createResponseStore(secret: string, takesItemMetadata = false): ResponseStore {
  const kept: KeptResponses = { stored: new Map(), items: new Map() }
  const conversations = createConversationStore(secret)
  const sealing = createSealing(secret)
  const { seal } = sealing
  let made = 0

  return {
    ...createReads(kept.stored),
    conversations,
    size: () => kept.stored.size,
    seal,
    check: (body, socket) =>
      checkForm(body, takesItemMetadata) ?? checkState(kept, conversations, sealing, body, socket),
    create(body, { createdS, deltas, cache, socket }) {
      made++
      const { previous_response_id: named } = body
      const latest = socket?.latest?.id === named ? socket?.latest?.entry : undefined
      const previous = typeof named === 'string' ? (latest ?? kept.stored.get(named)) : undefined
      const before = [...(previous?.input ?? []), ...conversations.itemsOf(body.conversation)]
      const prompt = `${before.length === 0 ? '' : JSON.stringify(before)}${promptText(body)}`
      const promptTokens = countTokens(prompt)
      const given = inputItemsOf(body.input)
      const result = makeResponse({
        body,
        seed: digest(`${secret} ${made} ${prompt}`, 40),
        createdS,
        promptChars: prompt.length,
        promptTokens,
        cachedTokens: Math.min(cache?.ask(prompt) ?? 0, promptTokens),
        output: outputOf(body, [...before, ...given]),
        words: pieces(prompt, deltas),
        seal,
        silent: socket !== undefined && body.generate === false,
      })
      const input = [...before, ...given, ...result.items].map((item: Json, i) => ({
        ...item,
        id: item.id ?? `item_${digest(`${result.id} ${i}`, 12)}`,
      }))
      const entry = { response: result.response, input, events: body.background === true ? result.events : undefined }
      if (body.store !== false) {
        remember(kept, result.id, entry)
        rememberItems(kept, input)
      }
      conversations.append(body.conversation, input.slice(before.length))
      if (socket !== undefined) socket.latest = { id: result.id, entry }
      return body.stream === true
        ? { kind: 'events', events: result.events, startUp: result.startUp, terminal: 1 }
        : pretty(result.response)
    },
  }
}
