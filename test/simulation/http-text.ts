// HTTP/1.1 as the simulated clients and backends speak it: just enough to read what the proxy writes, strictly, as text
// with one character a byte.

export interface ReadMessage {
  /** The request or status line. */
  readonly line: string
  /** By lower-case name. */
  readonly headers: ReadonlyMap<string, string>
  /** Without its chunk framing. */
  readonly body: string
}

export interface MessageReader {
  /** Takes what came; whole messages are reported as they end. @throws when it is no HTTP */
  push(text: string): void
  /** What has come of a message that is not whole yet; undefined between two messages. */
  partial(): ReadMessage | undefined
}

interface Head {
  readonly line: string
  readonly headers: ReadonlyMap<string, string>
}

function parseHead(text: string): Head {
  const [line = '', ...fields] = text.split('\r\n')
  const headers = new Map<string, string>()
  for (const field of fields) {
    const colon = field.indexOf(':')
    if (colon < 1) throw new Error(`no header: ${JSON.stringify(field)}`)
    const name = field.slice(0, colon).toLowerCase()
    if (name === 'content-length' && headers.has(name)) throw new Error('two content-lengths')
    headers.set(name, field.slice(colon + 1).trim())
  }
  return { line, headers }
}

/** Whether a message has no body whatever its headers say: 1xx, 204, 304. */
function isBodiless(line: string): boolean {
  return /^HTTP\/1\.1 (?:1\d\d|204|304)/.test(line)
}

/** @param onMessage called for each message, when all of it has come */
export function createMessageReader(onMessage: (message: ReadMessage) => void): MessageReader {
  let unread = ''
  let head: Head | undefined
  let body = ''
  let left = 0
  let chunked = false
  let inChunk = false

  const done = (): void => {
    if (head === undefined) return
    const message = { ...head, body }
    head = undefined
    body = ''
    onMessage(message)
  }

  const begin = (): boolean => {
    const end = unread.indexOf('\r\n\r\n')
    if (end === -1) return false
    head = parseHead(unread.slice(0, end))
    unread = unread.slice(end + 4)
    const { headers, line } = head
    chunked = headers.get('transfer-encoding') === 'chunked'
    const length = headers.get('content-length')
    if (chunked && length !== undefined) throw new Error('a length beside chunks')
    left = isBodiless(line) ? 0 : Number(length ?? 0)
    inChunk = false
    if (!chunked && left === 0) done()
    return true
  }

  /** Takes one chunk's size line, data and end. */
  const chunk = (): boolean => {
    if (!inChunk) {
      const end = unread.indexOf('\r\n')
      if (end === -1) return false
      const size = unread.slice(0, end)
      if (!/^[0-9a-f]+$/i.test(size)) throw new Error(`no chunk size: ${JSON.stringify(size.slice(0, 20))}`)
      left = Number.parseInt(size, 16)
      unread = unread.slice(end + 2)
      inChunk = true
    }
    const wanted = left + 2
    if (unread.length < wanted) return false
    if (unread.slice(left, wanted) !== '\r\n') throw new Error('a chunk without its end')
    body += unread.slice(0, left)
    unread = unread.slice(wanted)
    inChunk = false
    if (left === 0) done()
    return true
  }

  const whole = (): boolean => {
    if (unread === '') return false
    const take = Math.min(left, unread.length)
    body += unread.slice(0, take)
    unread = unread.slice(take)
    left -= take
    if (left === 0) done()
    return true
  }

  return {
    push(text) {
      unread += text
      while (head === undefined ? begin() : chunked ? chunk() : whole());
    },
    partial() {
      if (head === undefined) return undefined
      // What has come of an unfinished chunk was shown to the client as well.
      return { ...head, body: chunked && inChunk ? body + unread.slice(0, left) : body }
    },
  }
}

/** The status of a response's line. */
export function statusOf({ line }: ReadMessage): number {
  return Number(line.slice(9, 12))
}

/** The data of an event stream as its events, without comments and blank lines. */
export function eventsOf(body: string): readonly string[] {
  return body.split('\n\n').filter(event => event !== '' && !event.startsWith(':'))
}
