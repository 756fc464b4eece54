// Query strings as they stand: parameters read, taken out or replaced, the others left in their order and spelling. A
// name counts as the most lenient backend would read it, since a key's rights must not depend on how a parameter is
// spelt.

/** Values longer than this name nothing. */
const MAX_VALUE_CHARS = 2048
/** A gateway decodes once and the server behind it again; more often nobody does. */
const MAX_DECODINGS = 3

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return undefined
  }
}

/**
 * A parameter's name as the most lenient reader takes it: decoded (twice too), in lower case, up to a NUL. Blanks,
 * control characters and the brackets that make a list (`model[]`, `model[0]`) are left out.
 * @returns undefined for a malformed escape
 */
export function plainName(name: string): string | undefined {
  let plain: string | undefined = name
  if (name.includes('%') || name.includes('+')) {
    plain = decoded(name)
    for (let i = 1; i < MAX_DECODINGS && plain?.includes('%'); i++) plain = decoded(plain) ?? plain
  }
  const bracket = plain?.indexOf('[') ?? -1
  const bare = bracket > 0 ? plain?.slice(0, bracket) : plain
  return bare?.replace(/\0.*|[\x01-\x20\x7f]/gs, '').toLowerCase()
}

function nameOf(part: string): string | undefined {
  const equals = part.indexOf('=')
  return plainName(equals === -1 ? part : part.slice(0, equals))
}

/**
 * Changes each parameter; undefined takes it out. Older parsers take `;` for a separator too (HTML 4.01, appendix
 * B.2.2).
 */
function mapParameters(query: string, change: (part: string) => string | undefined): string {
  if (query === '') return ''
  const changed = (part: string): string | undefined => (part === '' ? undefined : change(part))
  const isKept = (part: string | undefined): part is string => part !== undefined && part !== ''
  return query
    .split('&')
    .map(part => (part.includes(';') ? part.split(';').map(changed).filter(isKept).join(';') : changed(part)))
    .filter(isKept)
    .join('&')
}

/** The query without these parameters, however they are spelt, and without those whose names are malformed. */
export function withoutParameters(query: string, names: ReadonlySet<string>): string {
  return mapParameters(query, part => {
    const name = nameOf(part)
    return name === undefined || names.has(name) ? undefined : part
  })
}

/**
 * One parameter's decoded value, of several the first; undefined where there is none.
 * @param name in lower case
 */
export function queryValue(query: string, name: string): string | undefined {
  if (query === '') return undefined
  for (const part of query.split(/[&;]/)) {
    const equals = part.indexOf('=')
    if (equals === -1 || part.length > MAX_VALUE_CHARS || plainName(part.slice(0, equals)) !== name) continue
    return decoded(part.slice(equals + 1))
  }
  return undefined
}

/**
 * The query with a parameter's value replaced, if it has the parameter; of several one is left, under its plain name.
 */
export function replaceParameter(query: string, name: string, value: string): string {
  let replaced = false
  return mapParameters(query, part => {
    if (nameOf(part) !== name) return part
    if (replaced) return undefined
    replaced = true
    return `${name}=${encodeURIComponent(value)}`
  })
}
