// The two headers of multipart/form-data that matter here (RFC 7578, RFC 2046): the boundary of the whole, and what a
// part is called. Text that two parsers could read in two ways is malformed: the upstream must take the same field for
// the model that was checked here. It must not know where the parts lie.

/** Characters of a boundary (RFC 2046, 5.1.1). */
export const MAX_BOUNDARY_LENGTH = 70

/** A header value and its parameters, names in lower case. */
interface HeaderParameters {
  readonly value: string
  readonly parameters: ReadonlyMap<string, string>
}

/** The boundary that a content type names, or why there is none. */
export type Boundary =
  | { readonly kind: 'ok'; readonly boundary: string }
  | { readonly kind: 'invalid'; readonly reason: string }

/** What the headers of a part say of it; a file is a part with a file name, whatever it is called. */
export type PartHeaders =
  | { readonly kind: 'ok'; readonly name: string; readonly file: boolean; readonly encoded: boolean }
  | { readonly kind: 'invalid'; readonly reason: string }

/** Takes the value of a request's content-type header. Any boundary of printable ASCII is accepted, quoted or not. */
export function parseBoundary(contentType: string): Boundary {
  const parsed = parseParameters(contentType)
  if (parsed === undefined) return { kind: 'invalid', reason: 'the content type is malformed' }
  if (parsed.value !== 'multipart/form-data')
    return { kind: 'invalid', reason: 'the content type is not multipart/form-data' }
  const boundary = parsed.parameters.get('boundary')
  if (boundary === undefined || boundary === '')
    return { kind: 'invalid', reason: 'the content type names no boundary' }
  if (boundary.length > MAX_BOUNDARY_LENGTH) {
    return { kind: 'invalid', reason: `the boundary is longer than ${MAX_BOUNDARY_LENGTH} characters` }
  }
  if (!/^[\x20-\x7e]*[\x21-\x7e]$/.test(boundary)) return { kind: 'invalid', reason: 'the boundary is malformed' }
  return { kind: 'ok', boundary }
}

/**
 * Takes a part's header lines, the blank line at their end left out. RFC 7578 knows no `name*` (RFC 5987): who sends
 * one may mean another name than the one that was read here, so it is refused. `encoded`: a content-transfer-encoding
 * that changes the bytes, which nobody sends any more (4.7).
 */
export function parsePartHeaders(block: Buffer): PartHeaders {
  // A line that begins with a blank continues the one before (RFC 5322, 2.2.3).
  const lines = block
    .toString('utf8')
    .replaceAll(/\r\n[ \t]+/g, ' ')
    .split('\r\n')
  let disposition: string | undefined
  let encoded = false
  for (const line of lines) {
    if (/[\r\n\0]/.test(line)) return { kind: 'invalid', reason: 'the headers of a part are malformed' }
    const colon = line.indexOf(':')
    const name = line.slice(0, Math.max(colon, 0)).trim().toLowerCase()
    const value = line.slice(colon + 1)
    if (name === 'content-transfer-encoding') encoded = !/^(?:7bit|8bit|binary)$/i.test(value.trim())
    if (name !== 'content-disposition') continue
    if (disposition !== undefined) return { kind: 'invalid', reason: 'a part has two content-dispositions' }
    disposition = value
  }
  if (disposition === undefined) return { kind: 'invalid', reason: 'a part has no name' }
  const parsed = parseParameters(disposition)
  if (parsed === undefined) return { kind: 'invalid', reason: 'the content-disposition of a part is malformed' }
  const name = parsed.parameters.get('name')
  const names = [...parsed.parameters.keys()]
  if (name === undefined || names.some(key => key.startsWith('name*')))
    return { kind: 'invalid', reason: 'a part has no name' }
  return { kind: 'ok', name, file: names.some(key => /^filename(?:\*|$)/.test(key)), encoded }
}

// value; name=token; name="quoted \" string". Undefined when malformed or when a parameter is there twice.
function parseParameters(header: string): HeaderParameters | undefined {
  const parameters = new Map<string, string>()
  const first = header.indexOf(';')
  const value = (first === -1 ? header : header.slice(0, first)).trim().toLowerCase()
  let rest = first === -1 ? '' : header.slice(first)
  while (rest !== '') {
    // A backslash in a quoted string takes the next character as it is (RFC 2045, 5.1; RFC 822, 3.3).
    const match = /^[ \t]*;[ \t]*(?:([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))[ \t]*)?(?=;|$)/s.exec(
      rest,
    )
    if (match === null) return undefined
    const [whole, name, quoted, token] = match
    rest = rest.slice(whole.length)
    if (name === undefined) {
      // A lone semicolon at the end says nothing.
      if (rest.trim() === '') break
      continue
    }
    if (parameters.has(name.toLowerCase())) return undefined
    parameters.set(name.toLowerCase(), quoted?.replaceAll(/\\(.)/gs, '$1') ?? token ?? '')
  }
  return { value, parameters }
}
