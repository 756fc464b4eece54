// Words of an upstream's error for an operator: status, code and message, without secrets and without the client's own
// text. Pure.
import type { UpstreamError } from './errors.ts'

/** What went out with the request: an error may repeat any of it. */
export interface Sent {
  /** Names and values in turn; the credential is among them. */
  readonly headers: readonly string[]
  readonly body: readonly Buffer[]
}

/** As much of a message as is read at all: it may be as long as the request that it repeats. */
const READ_CHARS = 1_000
/** As much of it as is shown: Azure's longest own sentences on keys, networks and deployments fit. */
const SHOWN_CHARS = 200
/** Longer bodies are not searched for what an error repeats (some 5 ms): the code must do then. */
const SEARCHED_BYTES = 1024 * 1024
/** So many words in a row are no coincidence; fewer are a repetition where they are a whole JSON string. */
const ECHO_WORDS = 3
/** What stands in place of a cut. */
const CUT = '\u2026'

/** Headers whose values are no secret and no text of the client's. */
const PLAIN_HEADERS = new Set(['accept', 'accept-encoding', 'connection', 'content-length', 'content-type', 'host'])
/** A shorter value would hide pieces of common words. */
const SECRET_MIN_CHARS = 4

const CODE = /^[\w.-]{1,64}$/

/** Keys, tokens and ids by their form: a masked key, an address, a known prefix, a UUID, a long run with a digit. */
const SECRET_FORMS = [
  /\*{3}/,
  /@/,
  /(?:^|[^\w])(?:sk|pk|eyJ)[-_]?[\w-]{8}/,
  /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/i,
]
const LONG_RUN = /[A-Za-z0-9]{20,}/g
const BEARER = /\bbearer \S+/gi
const URL_TAIL = /\b(https?:\/\/)(?:[^\s/@]{0,100}@)?([\w.:[\]-]{1,200})[/?#]\S*/gi
const QUERY = /\?\S+/g
/** Quoted text is the client's, unless it is a single name. */
const QUOTED = /(^|[\s(:=[])(["'`])(.*?)\2(?=$|[\s.,;:)\]])/g
const NAME = /^[\w.:/-]{1,64}$/

function looksSecret(word: string): boolean {
  if (SECRET_FORMS.some(form => form.test(word))) return true
  return (word.match(LONG_RUN) ?? []).some(run => /\d/.test(run))
}

function tidied(message: string): string {
  return message
    .slice(0, READ_CHARS)
    .replace(/\s+/g, ' ')
    .replace(/[^\x20-\x7e]+/g, CUT)
    .replace(QUOTED, (_whole, before: string, quote: string, inner: string) =>
      NAME.test(inner) ? `${before}${quote}${inner}${quote}` : `${before}${CUT}`,
    )
    .replace(BEARER, `Bearer ${CUT}`)
    .replace(URL_TAIL, `$1$2/${CUT}`)
    .replace(QUERY, `?${CUT}`)
    .split(' ')
    .map(word => (looksSecret(word) ? CUT : word))
    .join(' ')
    .trim()
}

function withoutSecrets(text: string, headers: readonly string[]): string {
  let left = text
  for (let i = 0; i + 1 < headers.length; i += 2) {
    if (PLAIN_HEADERS.has(headers[i]?.toLowerCase() ?? '')) continue
    const value = headers[i + 1]?.replace(/^bearer /i, '') ?? ''
    if (value.length >= SECRET_MIN_CHARS) left = left.replaceAll(value, CUT)
  }
  return left
}

/** A word without the punctuation around it. */
function bare(word: string): string {
  return word.replace(/^[^\w\u2026]+|[^\w\u2026]+$/g, '')
}

/** Whether a text is a whole JSON string of the body, and neither a key nor the name of the model or of a role. */
function isStringIn(body: string, text: string): boolean {
  const quoted = `"${text}"`
  for (let at = body.indexOf(quoted); at !== -1; at = body.indexOf(quoted, at + quoted.length)) {
    const isKey = /^\s*:/.test(body.slice(at + quoted.length, at + quoted.length + 8))
    const isName = /"(?:model|role|type)"\s*:\s*$/.test(body.slice(Math.max(0, at - 16), at))
    if (!isKey && !isName) return true
  }
  return false
}

/** Cuts what the request's body says too. @returns undefined where the body is too long to be searched */
function withoutEcho(text: string, chunks: readonly Buffer[]): string | undefined {
  let bytes = 0
  for (const chunk of chunks) bytes += chunk.length
  if (bytes > SEARCHED_BYTES) return undefined
  if (bytes === 0) return text
  const body = Buffer.concat(chunks)
    .toString('latin1')
    .toLowerCase()
    .replace(/\\[nrt]|\s+/g, ' ')
    .replaceAll('\\/', '/')
  const words = text.split(' ')
  const names = words.map(word => bare(word).toLowerCase())
  const isCut = words.map(() => false)
  for (let length = 1; length <= ECHO_WORDS; length++) {
    for (let from = 0; from + length <= words.length; from++) {
      const part = names.slice(from, from + length).join(' ')
      const repeats = length === ECHO_WORDS ? part.length > ECHO_WORDS && body.includes(part) : isStringIn(body, part)
      if (repeats && part !== '') isCut.fill(true, from, from + length)
    }
  }
  return words
    .map((word, i) => (isCut[i] ? CUT : word))
    .join(' ')
    .replace(/\u2026(?: \u2026)+/g, CUT)
}

/** At most `SHOWN_CHARS`, cut between words. */
function shortened(text: string): string {
  if (text.length <= SHOWN_CHARS) return text
  const end = text.lastIndexOf(' ', SHOWN_CHARS - 1)
  return `${text.slice(0, end > 0 ? end : SHOWN_CHARS - 1)}${CUT}`
}

/**
 * An upstream's error for log, status page and --probe: `401: Access denied due to invalid subscription key.` A private
 * key, an id or the client's own words that the error repeats are cut.
 * @param prefix the status, or where it was said
 * @param sent what the error may repeat; left out where that is not at hand: only the code is shown
 */
export function errorText(prefix: string, { code, message }: UpstreamError, sent?: Sent): string {
  const named = code !== undefined && CODE.test(code) && !prefix.startsWith(code) ? code : undefined
  const head = named === undefined ? prefix : `${prefix} ${named}`
  if (sent === undefined || message === '') return head
  const said = withoutEcho(shortened(withoutSecrets(tidied(message), sent.headers)), sent.body)
  return said === undefined || bare(said).replaceAll(CUT, '').trim() === '' ? head : `${head}: ${said}`
}
