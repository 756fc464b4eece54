// Just enough HTTP/1.1 to tell messages on a connection apart: heads, bodies of known length, chunked bodies. Bodies
// are not collected: their pieces are shown as they come. Much cheaper than a real parser, and good only between
// friends.

export interface MessageEvents {
  /** The start line and the headers, up to and without the blank line. */
  head(text: string): void
  /** A piece of the body: these bytes of the chunk that has just been read. */
  body(bytes: Buffer, from: number, to: number): void
  end(): void
}

const MAX_HEAD_BYTES = 64 * 1024
const CR = 0x0d
const LF = 0x0a
const END_OF_HEAD = Buffer.from('\r\n\r\n')
const NOTHING = Buffer.alloc(0)

function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const letter = byte | 0x20
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1
}

/**
 * Reads one side of one connection.
 * @returns takes what comes from the socket; throws on what is no HTTP message with a length
 */
export function createMessageReader(events: MessageEvents): (chunk: Buffer) => void {
  let state: 'head' | 'length' | 'size' | 'size_rest' | 'data' | 'data_end' | 'trailer' = 'head'
  let pending: Buffer = NOTHING
  let remaining = 0
  let lineBytes = 0

  const ended = (): void => {
    state = 'head'
    events.end()
  }

  /** @returns where in `chunk` the body begins, or its length while the head is not whole */
  const readHead = (chunk: Buffer, at: number): number => {
    const alone = pending.length === 0
    const bytes = alone ? chunk : Buffer.concat([pending, chunk.subarray(at)])
    const from = alone ? at : 0
    const end = bytes.indexOf(END_OF_HEAD, from)
    if (end === -1) {
      pending = Buffer.from(bytes.subarray(from))
      if (pending.length > MAX_HEAD_BYTES) throw new Error('a head without end')
      return chunk.length
    }
    const text = bytes.toString('latin1', from, end)
    const next = chunk.length - (bytes.length - end - END_OF_HEAD.length)
    pending = NOTHING
    const length = /\r\ncontent-length: *(\d+)/i.exec(text)
    const chunked = length === null && /\r\ntransfer-encoding: *chunked/i.test(text)
    remaining = Number(length?.[1] ?? 0)
    events.head(text)
    if (chunked) {
      remaining = 0
      state = 'size'
    } else if (remaining > 0) state = 'length'
    else ended()
    return next
  }

  const readBody = (chunk: Buffer, at: number): number => {
    const to = Math.min(chunk.length, at + remaining)
    events.body(chunk, at, to)
    remaining -= to - at
    return to
  }

  const readSizeLine = (byte: number): void => {
    if (byte === LF) {
      state = remaining === 0 ? 'trailer' : 'data'
      lineBytes = 0
    } else if (state === 'size' && byte !== CR) {
      const digit = hexDigit(byte)
      if (digit !== -1) remaining = remaining * 16 + digit
      else if (byte === 0x3b || byte === 0x20) state = 'size_rest'
      else throw new Error('no chunk size')
    }
  }

  return chunk => {
    let at = 0
    while (at < chunk.length) {
      const byte = chunk[at] ?? 0
      switch (state) {
        case 'head':
          at = readHead(chunk, at)
          break
        case 'length':
          at = readBody(chunk, at)
          if (remaining === 0) ended()
          break
        case 'size':
        case 'size_rest':
          readSizeLine(byte)
          at++
          break
        case 'data':
          at = readBody(chunk, at)
          if (remaining === 0) state = 'data_end'
          break
        case 'data_end':
          if (byte === LF) state = 'size'
          at++
          break
        case 'trailer':
          at++
          if (byte !== LF) {
            if (byte !== CR) lineBytes++
          } else if (lineBytes === 0) ended()
          else lineBytes = 0
      }
    }
  }
}
