// Query strings as they stand: one parameter read or taken out, the others left in their order and spelling.

/** Values longer than this name nothing. */
const MAX_VALUE_CHARS = 2048

/** One parameter's decoded value, or undefined. */
export function queryValue(query: string, name: string): string | undefined {
  for (const part of query.split('&')) {
    const equals = part.indexOf('=')
    if (equals === -1 || part.slice(0, equals) !== name || part.length > MAX_VALUE_CHARS) continue
    try {
      return decodeURIComponent(part.slice(equals + 1).replaceAll('+', ' '))
    } catch {
      return undefined
    }
  }
  return undefined
}

/** The query without a parameter. */
export function withoutParameter(query: string, name: string): string {
  return query
    .split('&')
    .filter(part => part.split('=', 1)[0] !== name)
    .join('&')
}

/** The query with a parameter's value replaced, if it has the parameter. */
export function replaceParameter(query: string, name: string, value: string): string {
  return query
    .split('&')
    .map(part => (part.split('=', 1)[0] === name ? `${name}=${encodeURIComponent(value)}` : part))
    .join('&')
}
