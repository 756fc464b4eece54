// The beginning of a good response that is no event stream: a web page, perhaps nothing but an error object, or a
// response. Pure.

/** As much of a response tells a page from an error from a response. */
const BEGINNING_BYTES = 256
/** What HTML documents begin with; a content type that says otherwise, or is left out, does not make an API of them. */
const PAGE = /^(?:<!doctype\s+html|<html[\s>]|<\?xml[^>]*\?>\s*(?:<!doctype\s+html|<html[\s>]))/i
const PAGE_BEGINS = ['<!doctype html', '<html>', '<html ', '<?xml ']
const XML_BEGINS = '<?xml '

/** UTF-8's, as latin1. */
const BYTE_ORDER_MARK = '\xef\xbb\xbf'

/** Members that a lone error object may begin with (azure/README.md 6.1). */
const ERROR_MEMBERS = [
  'error',
  'errors',
  'detail',
  'object',
  'type',
  'request_id',
  'status',
  'code',
  'message',
  'param',
  'statusCode',
  'activityId',
]
/** Those that no sound answer begins with. */
const TELLING: ReadonlySet<string> = new Set(['error', 'statusCode', 'errors', 'detail'])
const FIRST_MEMBER = /^\{\s*(?:"([^"\\]*)("?))?/

export type Beginning =
  /** HTML. */
  | 'page'
  /** May be an error object and nothing else: worth the wait for its end. */
  | 'perhaps_error'
  /** Too little has come to tell. */
  | 'unknown'
  | 'answer'

/** The first characters, as latin1. */
function firstCharacters(chunks: readonly Buffer[]): string {
  let text = ''
  for (const chunk of chunks) {
    text += chunk.toString('latin1', 0, BEGINNING_BYTES - text.length)
    if (text.length >= BEGINNING_BYTES) break
  }
  return text
}

function beginningOfObject(text: string): Beginning {
  const [all = '', name, closed] = FIRST_MEMBER.exec(text) ?? []
  if (closed !== '"' && all.length < text.length) return 'answer'
  if (name === undefined) return 'unknown'
  if (closed === '') return ERROR_MEMBERS.some(known => known.startsWith(name)) ? 'unknown' : 'answer'
  if (TELLING.has(name)) return 'perhaps_error'
  if (!ERROR_MEMBERS.includes(name)) return 'answer'
  if (text.includes('"error"')) return 'perhaps_error'
  return text.length < BEGINNING_BYTES ? 'unknown' : 'answer'
}

/**
 * What a response's first bytes say of it.
 * @param chunks the response as far as it has come; only its first 256 bytes are looked at
 */
export function beginningOfAnswer(chunks: readonly Buffer[]): Beginning {
  const all = firstCharacters(chunks)
  if (BYTE_ORDER_MARK.startsWith(all)) return 'unknown'
  const text = (all.startsWith(BYTE_ORDER_MARK) ? all.slice(BYTE_ORDER_MARK.length) : all).trimStart()
  // Blanks alone keep a connection alive while the response is made: they are passed on as they come.
  if (text === '') return 'answer'
  if (text.startsWith('{')) return beginningOfObject(text)
  if (!text.startsWith('<')) return 'answer'
  if (PAGE.test(text)) return 'page'
  const lower = text.toLowerCase().replace(/\s+/g, ' ')
  const mayBecomeOne = PAGE_BEGINS.some(begins => begins.startsWith(lower)) || lower.startsWith(XML_BEGINS)
  return mayBecomeOne && text.length < BEGINNING_BYTES ? 'unknown' : 'answer'
}
