// The parts of a request's body that routing needs, in each of its forms: JSON, a multipart form, or the SDP of a call.
// Found by scanning bytes as they pass; everything else in a body is skipped.
import type { Operation } from '../azure/operations.ts'
import type { Refusal } from '../errors.ts'
import { type ByteRange, type ChunkList, type Replacement, replaceBytes, sliceBytes, viewBytes } from './chunk-list.ts'
import { lastMember, MODEL, setMembers } from './edit.ts'
import { type JsonMember, jsonScannerFor, type ScannedObject, scanJson } from './json-scan.ts'
import { parseBoundary } from './multipart-headers.ts'
import { createMultipartScanner, type ScannedForm, setField } from './multipart-scan.ts'
import type { BodyScanner } from './take.ts'

const STREAM = 'stream'
/** The member that asks for usage in a chat stream (`include_usage`). */
export const STREAM_OPTIONS = 'stream_options'
/** A realtime session's settings, which name the model one level down. */
const SESSION = 'session'
const OUTPUT_LIMITS = ['max_completion_tokens', 'max_output_tokens', 'max_tokens'] as const

/** Top-level members that routing needs; everything else in a body is skipped as bytes. */
const WANTED: ReadonlySet<string> = new Set([
  MODEL,
  STREAM,
  STREAM_OPTIONS,
  'prompt_cache_key',
  'previous_response_id',
  'conversation',
  'store',
  'tools',
  'instructions',
  'system',
  'messages',
  'input',
  'prompt',
  ...OUTPUT_LIMITS,
])
const WANTED_OF_SESSION: ReadonlySet<string> = new Set([SESSION, MODEL])
const WANTED_FIELDS: ReadonlySet<string> = new Set([MODEL, STREAM])

const scannerOfWanted = jsonScannerFor(WANTED)
const scannerOfSession = jsonScannerFor(WANTED_OF_SESSION)

/** A session's settings with instructions and tools; longer ones are refused by every backend. */
const MAX_SESSION_BYTES = 256 * 1024
/** Digits of a number that is looked at; longer ones are no token count. */
const MAX_NUMBER_BYTES = 12

export interface ReadBody {
  /** The members of a JSON body; undefined for other forms. */
  readonly scan: ScannedObject | undefined
  readonly model: string | undefined
  readonly wantsStream: boolean
  /** The output limit it names, in tokens. */
  readonly maxOutputTokens: number | undefined
  /** The body with this model and, for JSON, these further members (name and JSON text), and without these ranges. */
  withModel(
    chunks: readonly Buffer[],
    model: string | undefined,
    more: readonly [string, string][],
    removed?: readonly ByteRange[],
  ): ChunkList
}

export type BodyVerdict =
  | { readonly kind: 'ok'; readonly body: ReadBody }
  | { readonly kind: 'refused'; readonly refusal: Refusal }

/** Sees a body's bytes as they come, and says at their end what it was. */
export interface BodyReader {
  readonly scanner: BodyScanner
  finish(chunks: readonly Buffer[]): BodyVerdict
}

function refused(code: 'invalid_json' | 'invalid_multipart', message: string): BodyVerdict {
  return { kind: 'refused', refusal: { status: 400, code, message } }
}

/** The text of a model's name; one that is too long to be captured is no name of any model, and stands for itself. */
function nameOf(member: JsonMember | undefined): string | undefined {
  if (member?.kind !== 'string') return undefined
  return member.text ?? longName(member.end - member.start - 2)
}

function longName(bytes: number): string {
  return `… (a name of ${bytes} bytes)`
}

function wholeNumber(chunks: readonly Buffer[], member: JsonMember | undefined): number | undefined {
  if (member?.kind !== 'number') return undefined
  const text = sliceBytes(chunks, member.start, member.end, MAX_NUMBER_BYTES).toString('latin1')
  return /^\d+$/.test(text) ? Number(text) : undefined
}

function outputLimit(chunks: readonly Buffer[], members: readonly JsonMember[]): number | undefined {
  for (const name of OUTPUT_LIMITS) {
    const limit = wholeNumber(chunks, lastMember(members, name))
    if (limit !== undefined) return limit
  }
  return undefined
}

function jsonReader(): BodyReader {
  const scanner = scannerOfWanted()
  return {
    scanner,
    finish(chunks) {
      const scan = scanner.end()
      if (scan.kind === 'invalid') return notAnObject(scan)
      const { members } = scan
      return {
        kind: 'ok',
        body: {
          scan,
          model: nameOf(lastMember(members, MODEL)),
          wantsStream: lastMember(members, STREAM)?.kind === 'true',
          maxOutputTokens: outputLimit(chunks, members),
          withModel: (held, model, more, removed) =>
            setMembers(held, scan, model === undefined ? more : [[MODEL, JSON.stringify(model)], ...more], removed),
        },
      }
    },
  }
}

function notAnObject({ reason, offset }: { readonly reason: string; readonly offset: number }): BodyVerdict {
  return refused('invalid_json', `The request body is not a JSON object: ${reason} (at byte ${offset}).`)
}

function formReader(contentType: string): BodyReader {
  const boundary = parseBoundary(contentType)
  if (boundary.kind === 'invalid') {
    const verdict = refused('invalid_multipart', `The content type is not multipart/form-data: ${boundary.reason}.`)
    return { scanner: { push: () => undefined }, finish: () => verdict }
  }
  const scanner = createMultipartScanner(boundary.boundary, new Set([...WANTED_FIELDS, SESSION]))
  return {
    scanner,
    finish(chunks) {
      const form = scanner.end()
      if (form.kind === 'invalid') {
        return refused('invalid_multipart', `The form is broken: ${form.reason} (at byte ${form.offset}).`)
      }
      const last = (name: string): string | undefined => {
        const field = form.fields.findLast(other => other.name === name)
        return field && (field.text ?? longName(field.end - field.start))
      }
      const inSession = sessionModels(chunks, form)
      return {
        kind: 'ok',
        body: {
          scan: undefined,
          model: last(MODEL) ?? nameOf(inSession.at(-1)),
          wantsStream: last(STREAM)?.trim().toLowerCase() === 'true',
          maxOutputTokens: undefined,
          withModel(held, model) {
            if (model === undefined) return replaceBytes(held, [])
            const places = inSession.map(({ start, end }) => ({
              start,
              end,
              bytes: Buffer.from(JSON.stringify(model)),
            }))
            return places.length > 0 ? replaceBytes(held, places) : setField(held, form, MODEL, model)
          },
        },
      }
    },
  }
}

/** Models named inside a form's `session` fields, with absolute places. */
function sessionModels(chunks: readonly Buffer[], form: ScannedForm): readonly JsonMember[] {
  return form.fields.flatMap(field => (field.name === SESSION ? nestedModels(chunks, field.start, field.end) : []))
}

/** The `model` members of the JSON object that lies in [start, end). */
function nestedModels(chunks: readonly Buffer[], start: number, end: number): readonly JsonMember[] {
  if (end - start > MAX_SESSION_BYTES) return []
  const scan = scanJson(viewBytes(chunks, start, end), new Set([MODEL]))
  if (scan.kind === 'invalid') return []
  return scan.members.map(member => ({ ...member, start: member.start + start, end: member.end + start }))
}

/** `{"session": {"model": …}}`, and the older form with `model` at the top. */
function sessionReader(): BodyReader {
  const scanner = scannerOfSession()
  return {
    scanner,
    finish(chunks) {
      const scan = scanner.end()
      if (scan.kind === 'invalid') return notAnObject(scan)
      const nested = scan.members.flatMap(({ name, kind, start, end }) =>
        name === SESSION && kind === 'object' ? nestedModels(chunks, start, end) : [],
      )
      const top = scan.members.filter(({ name }) => name === MODEL)
      const places = [...nested, ...top].sort((a, b) => a.start - b.start)
      return {
        kind: 'ok',
        body: {
          scan: undefined,
          model: (nested.at(-1) ?? top.at(-1))?.text,
          wantsStream: false,
          maxOutputTokens: undefined,
          withModel(held, model) {
            if (model === undefined) return replaceBytes(held, [])
            const bytes = Buffer.from(JSON.stringify(model))
            if (places.length === 0) return setMembers(held, scan, [[MODEL, JSON.stringify(model)]])
            return replaceBytes(
              held,
              places.map(({ start, end }): Replacement => ({ start, end, bytes })),
            )
          },
        },
      }
    },
  }
}

/** A body that says nothing of a model: the query has to. */
function opaqueReader(): BodyReader {
  const body: ReadBody = {
    scan: undefined,
    model: undefined,
    wantsStream: false,
    maxOutputTokens: undefined,
    withModel: held => replaceBytes(held, []),
  }
  return { scanner: { push: () => undefined }, finish: () => ({ kind: 'ok', body }) }
}

/** The reader for an operation's body, by the form it may have and the content type it came with. */
export function readerFor(operation: Operation, contentType: string | undefined): BodyReader {
  const isForm = contentType !== undefined && /^\s*multipart\//i.test(contentType)
  switch (operation.body) {
    case 'json':
      return jsonReader()
    case 'multipart':
      // Image edits may come as JSON, with their images by URL or file id (Azure's dated specification lists that
      // form).
      return isForm || !/json/i.test(contentType ?? '') ? formReader(contentType ?? '') : jsonReader()
    case 'session':
      return sessionReader()
    case 'sdp':
      return isForm ? formReader(contentType ?? '') : opaqueReader()
  }
}
