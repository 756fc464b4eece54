// Error objects where a response or an event of one should be, in every common form of the APIs, their gateways and
// compatible servers. Pure.
import { readError, type UpstreamError } from './errors.ts'

type Json = Readonly<Record<string, unknown>>

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Members that an error object alone may have beside `error` (azure/README.md 6.1, and `object: "error"` of compatible
 * servers).
 */
const BESIDE_ERROR: ReadonlySet<string> = new Set([
  'error',
  'object',
  'type',
  'request_id',
  'status',
  'statusCode',
  'activityId',
  'code',
  'message',
  'param',
  'detail',
  'errors',
])

/** Whether an object has no member that an error alone would not have. */
function isOnlyError(value: Json): boolean {
  return Object.keys(value).every(name => BESIDE_ERROR.has(name))
}

/**
 * An error that stands in no member `error`: of API Management (azure/README.md 6.1), of vLLM and other compatible
 * servers (`object: "error"`), of FastAPI (`detail`), and `errors` as GraphQL and JSON:API have them.
 */
function isFlatError({ statusCode, message, object, type, detail, errors }: Json): boolean {
  if (typeof message === 'string') {
    return object === 'error' || type === 'error' || (typeof statusCode === 'number' && statusCode >= 400)
  }
  return (typeof detail === 'string' && detail !== '') || (Array.isArray(errors) && errors.length > 0)
}

/** The error of a body that is nothing else; undefined for any other body. Never throws. */
export function readLoneError(body: Buffer): UpstreamError | undefined {
  try {
    const value: unknown = JSON.parse(body.toString('utf8').replace(/^\uFEFF/, ''))
    if (!isObject(value)) return undefined
    const hasError = value.error !== null && value.error !== undefined
    if (!hasError && !isFlatError(value)) return undefined
    return isOnlyError(value) ? readError(value) : undefined
  } catch {
    return undefined
  }
}

/** An error without `error` and without a type: `{"statusCode","message"}`, `{"code","message"}`, `{"detail"}`. */
function isUntypedError(value: Json): boolean {
  const { message, code, statusCode } = value
  const isCode = (typeof code === 'string' && code !== '') || typeof code === 'number'
  const says = typeof message === 'string' && (isCode || typeof statusCode === 'number')
  return (says && !('choices' in value)) || (isFlatError(value) && isOnlyError(value))
}

/**
 * The error that an event or a message tells of in any common form: `{"error":{…}}`, `{"error":"text"}`, flat, typed or
 * not; undefined where it is none.
 */
export function errorInEvent(value: unknown): UpstreamError | undefined {
  if (!isObject(value)) return undefined
  const { error } = value
  const nested = isObject(error) || error === true || (typeof error === 'string' && error !== '')
  const typed = value.type === 'error' || value.object === 'error'
  return nested || typed || isUntypedError(value) ? readError(value) : undefined
}
