// The lines of a log, plain or gzipped, one by one and in constant memory.
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'

/** A log line has about 500 bytes; what goes on without an end for this long is no log. */
export const MAX_LINE_BYTES = 1024 * 1024
const NEWLINE = 0x0a

function isGzip(start: Buffer): boolean {
  return start[0] === 0x1f && start[1] === 0x8b
}

/** Chunks until at least two bytes are there: enough to tell gzip (RFC 1952, 2.3.1), whatever the file is called. */
async function peek(chunks: AsyncIterator<Buffer>): Promise<{ readonly start: Buffer; readonly done: boolean }> {
  let start: Buffer = Buffer.alloc(0)
  while (start.length < 2) {
    const { done, value } = await chunks.next()
    if (done === true) return { start, done: true }
    start = start.length === 0 ? value : Buffer.concat([start, value])
  }
  return { start, done: false }
}

/** Cuts chunks into lines; a last line without an end is one too. */
async function splitLines(chunks: AsyncIterable<Buffer>, onLine: (line: string) => void): Promise<void> {
  let rest: Buffer = Buffer.alloc(0)
  let tooLong = false
  for await (const chunk of chunks) {
    let from = 0
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, from)) {
      const line = chunk.toString('utf8', from, end)
      // Bytes are joined before they are decoded: a character may lie on the edge.
      if (rest.length > 0) onLine(Buffer.concat([rest, chunk.subarray(from, end)]).toString('utf8'))
      else if (!tooLong) onLine(line)
      rest = Buffer.alloc(0)
      tooLong = false
      from = end + 1
    }
    const left = chunk.subarray(from)
    if (tooLong || rest.length + left.length > MAX_LINE_BYTES) {
      // Counted as one broken line, at once.
      if (!tooLong) onLine('{')
      tooLong = true
      rest = Buffer.alloc(0)
    } else if (left.length > 0) rest = Buffer.concat([rest, left])
  }
  if (rest.length > 0) onLine(rest.toString('utf8'))
}

async function* joined(start: Buffer, chunks: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  yield start
  for (;;) {
    const { done, value } = await chunks.next()
    if (done === true) return
    yield value
  }
}

/**
 * Calls `onLine` for each line of a stream of bytes; gzip is recognised by its first bytes.
 * @throws what reading throws, a cut gzip file's error among it, after the lines that could be read
 */
export async function readLines(source: Readable, onLine: (line: string) => void): Promise<void> {
  const chunks: AsyncIterator<Buffer> = source[Symbol.asyncIterator]()
  const { start, done } = await peek(chunks)
  if (done && start.length === 0) return
  const all = joined(start, chunks)
  if (!isGzip(start)) return splitLines(all, onLine)
  await pipeline(all, createGunzip(), plain => splitLines(plain, onLine))
}
