// The URL that a mistaken one most likely meant: a prefix forgotten, doubled or another product's, a word misspelt.
// Pure.
import { allOperations } from '../azure/operations.ts'
import { nearest } from '../config/nearest.ts'

/** Longer paths are no typing errors, and strangers may send them: looking closer would cost more than they do. */
const MAX_PATH_CHARS = 128
/** Segments that may stand before an API's own: `/api/openai/v1/…`. */
const MAX_PREFIX_SEGMENTS = 6

const BELOW_V1: ReadonlySet<string> = new Set([...allOperations().map(({ name }) => name), 'models', 'realtime'])
const OWN: ReadonlySet<string> = new Set(['health', 'livez', 'readyz', 'metrics', 'dashboard'])
/** Prefixes of this API and of others, below which a misspelt word is looked for. */
const PREFIXES: ReadonlySet<string> = new Set([
  'v1',
  'openai',
  'api',
  'models',
  'deployments',
  'v2',
  'openai.azure.com',
])

function known(path: string): string | undefined {
  if (BELOW_V1.has(path)) return `/v1/${path}`
  if (/^responses\/[^/]+$/.test(path)) return '/v1/responses/{id}'
  return undefined
}

/**
 * @param path of a request that nothing is served at, without its query
 * @returns the path to use instead, or undefined where none is near
 */
export function nearestUrl(path: string): string | undefined {
  if (path.length > MAX_PATH_CHARS) return undefined
  const segments = path
    .toLowerCase()
    .split('/')
    .filter(segment => segment !== '')
  const last = segments.at(-1)
  for (let from = 0; from < Math.min(segments.length, MAX_PREFIX_SEGMENTS); from++) {
    const found = known(segments.slice(from).join('/'))
    if (found !== undefined) return found
  }
  if (last !== undefined && OWN.has(last)) return `/${last}`
  let from = 0
  while (PREFIXES.has(segments[from] ?? '')) from++
  const rest = segments.slice(from).join('/')
  if (rest === '') return undefined
  const below = nearest(rest, BELOW_V1)
  if (below !== undefined) return `/v1/${below}`
  const own = from === 0 ? nearest(rest, OWN) : undefined
  return own === undefined ? undefined : `/${own}`
}
