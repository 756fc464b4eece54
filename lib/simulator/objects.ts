// Objects that live in one resource and belong to no model: files, uploads, batches, vector stores, fine-tuning jobs,
// evals, containers, stored chat completions. In their least form: made, listed, read, changed, removed
// (azure/README.md 13.7).
import type { IncomingHttpHeaders } from 'node:http'
import type { SimulatedResponse } from './chat.ts'
import { listPage } from './conversations.ts'
import { frontError, modelError, resourceNotFound, unparsableJson, type WholeResponse } from './errors.ts'
import { formFields, parseForm } from './multipart.ts'
import { digest } from './text.ts'

type Json = Readonly<Record<string, unknown>>

interface Kept {
  readonly value: Json
  readonly content: Buffer | undefined
}

/** Objects kept per resource; the oldest is forgotten. */
const MAX_OBJECTS = 10_000

/** Each kind's path, the beginning of its ids and what it is called. */
const KINDS: readonly {
  readonly path: string
  readonly prefix: string
  readonly object: string
  readonly called: string
}[] = [
  { path: 'files', prefix: 'file-', object: 'file', called: 'File' },
  { path: 'uploads', prefix: 'upload_', object: 'upload', called: 'Upload' },
  { path: 'batches', prefix: 'batch_', object: 'batch', called: 'Batch' },
  { path: 'vector_stores', prefix: 'vs_', object: 'vector_store', called: 'Vector store' },
  { path: 'containers', prefix: 'cntr_', object: 'container', called: 'Container' },
  { path: 'evals', prefix: 'eval_', object: 'eval', called: 'Eval' },
  { path: 'fine_tuning/jobs', prefix: 'ftjob-', object: 'fine_tuning.job', called: 'Fine-tuning job' },
  { path: 'chat/completions', prefix: 'chatcmpl-', object: 'chat.completion', called: 'Chat completion' },
]
/** The first id segment that a sub-collection gives to what is made in it. */
const PART_PREFIX: Readonly<Record<string, string>> = {
  files: 'cfile_',
  file_batches: 'vsfb_',
  parts: 'part_',
  runs: 'evalrun_',
}

export interface ObjectRequest {
  readonly method: string
  /** `files/file-1/content` */
  readonly operation: string
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  readonly query: URLSearchParams
  readonly createdS: number
}

export interface ObjectStore {
  /** The refusal of a body that names a file, vector store or container which is not here. */
  missingIn(body: Json): WholeResponse | undefined
  serve(request: ObjectRequest): SimulatedResponse
  size(): number
}

/** Whether an operation is one of these; `POST chat/completions` creates and is not. */
export function isObjectOperation(method: string, operation: string): boolean {
  if (operation === 'chat/completions') return method === 'GET'
  return KINDS.some(({ path }) => operation === path || operation.startsWith(`${path}/`))
}

const json = (value: unknown, status = 200): SimulatedResponse => ({
  kind: 'answer',
  answer: { status, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value) },
})
const refused = (answer: WholeResponse): SimulatedResponse => ({ kind: 'answer', answer })

function parse(text: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(text === '' ? '{}' : text)
    return typeof value === 'object' && value !== null ? { ...value } : undefined
  } catch {
    return undefined
  }
}

/** The fields of a body in either form, and the file in it. */
function readBody(
  headers: IncomingHttpHeaders,
  body: Buffer,
): { fields: Json; file: Buffer | undefined; filename: string | undefined } | undefined {
  const type = headers['content-type'] ?? ''
  if (!/^multipart\//i.test(type)) {
    const fields = parse(body.toString('utf8'))
    return fields === undefined ? undefined : { fields, file: undefined, filename: undefined }
  }
  const parts = parseForm(type, body)
  if (parts === undefined) return undefined
  const file = parts.find(({ filename }) => filename !== undefined)
  return { fields: formFields(parts), file: file?.body, filename: file?.filename }
}

/** The objects of a resource: kept up to MAX_OBJECTS, by id. */
interface Shelf {
  readonly kept: Map<string, Kept>
  /** Keeps an object, new or changed. @returns its value */
  keep(id: string, value: Json, content: Buffer | undefined): Json
  /** The values that were made under a path. */
  under(path: string): readonly Json[]
  newId(prefix: string): string
}

/** @param secret tells this resource's ids from those of others */
function createShelf(secret: string): Shelf {
  const kept = new Map<string, Kept>()
  let made = 0
  return {
    kept,
    keep(id, value, content) {
      kept.set(id, { value, content })
      const oldest = kept.keys().next()
      if (kept.size > MAX_OBJECTS && oldest.done !== true) kept.delete(oldest.value)
      return value
    },
    under: path => [...kept.values()].filter(({ value }) => value.in === path).map(({ value }) => value),
    newId: prefix => `${prefix}${digest(`${secret} object ${++made}`)}`,
  }
}

function missing(called: string, id: string): SimulatedResponse {
  return refused(modelError(404, `No such ${called} object: ${id}`, { param: 'id' }))
}

/** Every object that a body names, at any depth: its kind, as the refusal says it, and its id. */
function namedIn(value: unknown): readonly { readonly called: string; readonly id: string }[] {
  if (Array.isArray(value)) return value.flatMap(namedIn)
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([name, inner]) => {
    const ids = (Array.isArray(inner) ? inner : [inner]).filter(id => typeof id === 'string')
    if (name === 'file_id' || name === 'file_ids') return ids.map(id => ({ called: 'File', id }))
    if (name === 'vector_store_ids') return ids.map(id => ({ called: 'Vector store', id }))
    if (name === 'container' && typeof inner === 'string') return [{ called: 'Container', id: inner }]
    return namedIn(inner)
  })
}

/** Makes an object of a kind. */
function create(
  { kept, keep, newId }: Shelf,
  kind: (typeof KINDS)[number],
  { headers, body, createdS }: ObjectRequest,
): SimulatedResponse {
  const read = readBody(headers, body)
  if (read === undefined) return refused(unparsableJson())
  const { fields, file, filename } = read
  const input = fields.input_file_id ?? fields.training_file
  if (typeof input === 'string' && !kept.has(input)) return missing('File', input)
  if (kind.path === 'files' && file === undefined) {
    return refused(modelError(400, "Missing required parameter: 'file'.", { param: 'file' }))
  }
  const prefix = kind.path === 'files' && fields.purpose === 'assistants' ? 'assistant-' : kind.prefix
  const id = newId(prefix)
  const more = file === undefined ? {} : { bytes: file.length, filename }
  const status = kind.path === 'batches' ? 'validating' : 'processed'
  const value = { status, ...fields, ...more, id, object: kind.object, created_at: createdS, in: kind.path }
  return json(keep(id, value, file), kind.path === 'batches' ? 201 : 200)
}

/** Serves a sub-collection of an object, or an action on it. */
function servePart(
  { kept, keep, under, newId }: Shelf,
  { value }: Kept,
  [part = '', partId, action]: readonly string[],
  { method, headers, body, query, createdS }: ObjectRequest,
): SimulatedResponse {
  const path = `${String(value.id)}/${part}`
  const prefix = PART_PREFIX[part]
  if (partId !== undefined && action === undefined && method !== 'POST') {
    const found = kept.get(partId)
    if (found === undefined) return missing('Part', partId)
    if (method === 'DELETE') kept.delete(partId)
    return json(method === 'DELETE' ? { id: partId, deleted: true } : found.value)
  }
  if (method === 'GET') return json(listPage(under(path), query))
  if (prefix === undefined) {
    // cancel, complete, pause, resume, search: what is asked is taken for done.
    return json(keep(String(value.id), { ...value, status: part === 'cancel' ? 'cancelled' : 'completed' }, undefined))
  }
  const read = readBody(headers, body)
  if (read === undefined) return refused(unparsableJson())
  const named = read.fields.file_id
  const id = typeof named === 'string' ? named : newId(prefix)
  return json(keep(`${id}`, { ...read.fields, id, object: part, created_at: createdS, in: path }, read.file))
}

/** @param secret tells this resource's ids from those of others */
export function createObjectStore(secret: string): ObjectStore {
  const shelf = createShelf(secret)
  const { kept, keep, under } = shelf

  return {
    size: () => kept.size,
    missingIn(body) {
      const named = namedIn(body).find(({ id }) => !kept.has(id))
      if (named === undefined) return undefined
      const { called, id } = named
      const text = called === 'File' ? `No such File object: ${id}` : `${called} with id ['${id}'] not found.`
      return modelError(404, text, { param: 'id' })
    },
    serve(request) {
      const { method, operation, headers, query } = request
      const kind = KINDS.find(({ path }) => operation === path || operation.startsWith(`${path}/`))
      if (kind === undefined) return refused(resourceNotFound())
      if (kind.path === 'evals' && headers['aoai-evals'] !== 'preview') {
        return refused(frontError(400, 'BadRequest', 'The header aoai-evals: preview is required.'))
      }
      const rest = operation.slice(kind.path.length + 1)
      if (rest === '') return method === 'POST' ? create(shelf, kind, request) : json(listPage(under(kind.path), query))
      const [id = '', ...parts] = rest.split('/')
      const found = kept.get(id)
      if (found === undefined) return missing(kind.called, id)
      if (parts[0] === 'content') {
        const headersOut = { 'Content-Type': 'application/octet-stream' }
        return refused({ status: 200, headers: headersOut, body: found.content ?? Buffer.alloc(0) })
      }
      if (parts.length > 0) return servePart(shelf, found, parts, request)
      if (method === 'DELETE') {
        kept.delete(id)
        return json({ id, object: `${kind.object}.deleted`, deleted: true })
      }
      if (method !== 'POST') return json(found.value)
      const read = readBody(headers, request.body)
      return read === undefined
        ? refused(unparsableJson())
        : json(keep(id, { ...found.value, ...read.fields }, found.content))
    },
  }
}
