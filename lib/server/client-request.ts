// Node's IncomingMessage, made cheaper. A memory of names makes its headers, and a body is handed over as it comes.
import { type IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { DirectBody } from '../body/take.ts'
import { NameMemory } from '../http1/send.ts'

/** Headers of which the first one counts, as node:http has it (IncomingMessage, `message.headers`). */
const FIRST_COUNTS: ReadonlySet<string> = new Set([
  'age',
  'authorization',
  'content-length',
  'content-type',
  'etag',
  'expires',
  'from',
  'host',
  'if-modified-since',
  'if-unmodified-since',
  'last-modified',
  'location',
  'max-forwards',
  'proxy-authorization',
  'referer',
  'retry-after',
  'server',
  'user-agent',
])

interface HeaderName {
  readonly lowerCase: string
  /** What joins several of this name; undefined: the first one counts. */
  readonly separator: string | undefined
}

function lookAt(lowerCase: string): HeaderName {
  const separator = FIRST_COUNTS.has(lowerCase) ? undefined : lowerCase === 'cookie' ? '; ' : ', '
  return { lowerCase, separator }
}

/** What several of a name make; node:http makes a list of this one. */
const LISTED = 'set-cookie'

function joinHeaders(rawHeaders: readonly string[], names: NameMemory<HeaderName>): IncomingHttpHeaders {
  const headers: Record<string, string | string[]> = {}
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = names.of(rawHeaders[i] ?? '')
    if (name === undefined) continue
    const { lowerCase, separator } = name
    const value = rawHeaders[i + 1] ?? ''
    // Not "is it undefined": every object has a `constructor`.
    const before = headers[lowerCase]
    if (lowerCase === LISTED) headers[lowerCase] = Array.isArray(before) ? [...before, value] : [value]
    else if (typeof before !== 'string') headers[lowerCase] = value
    else if (separator !== undefined) headers[lowerCase] = before + separator + value
  }
  return headers
}

/**
 * The class for a listener's requests, with a memory of names of its own. Node makes `headers` for every request, since
 * it looks for `Expect` itself.
 */
export function createRequestClass(): typeof IncomingMessage {
  const names = new NameMemory(lookAt)
  class ClientRequest extends IncomingMessage implements DirectBody {
    joined: IncomingHttpHeaders | undefined = undefined
    private taker: ((chunk: Buffer) => void) | undefined = undefined

    takeDirectly(taker: (chunk: Buffer) => void): boolean {
      if (this.readableFlowing !== null || this.readableLength > 0 || this.complete) return false
      this.taker = taker
      return true
    }

    stopTaking(): void {
      this.taker = undefined
    }

    /** Node's parser calls it with each piece of the body. */
    override push(chunk: Buffer | null): boolean {
      if (this.taker === undefined || chunk === null) return super.push(chunk)
      this.taker(chunk)
      return true
    }
  }
  // To TypeScript `headers` is a plain property, which no accessor may override; to Node it is an accessor too.
  Object.defineProperty(ClientRequest.prototype, 'headers', {
    get(this: ClientRequest) {
      this.joined ??= joinHeaders(this.rawHeaders, names)
      return this.joined
    },
  })
  return ClientRequest
}
