// A body as a list of chunks, as it came off the socket. Parts of it are read, copied or exchanged without joining the
// rest. Offsets are absolute bytes of the whole list. It must not know what the bytes mean.

/** The bytes from `start` up to `end`, `end` not included. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/** What stands in [start, end) gives way to `bytes`; with an empty range they are inserted before `start`. */
export interface Replacement extends ByteRange {
  readonly bytes: Buffer
}

/** Chunks and the sum of their bytes, for the content-length. */
export interface ChunkList {
  readonly chunks: readonly Buffer[]
  readonly byteLength: number
}

/** The sum of the bytes. */
export function byteLengthOf(chunks: readonly Buffer[]): number {
  let sum = 0
  for (const chunk of chunks) sum += chunk.length
  return sum
}

/** Views of the bytes [start, end), nothing copied; shorter when the list ends before. */
export function viewBytes(chunks: readonly Buffer[], start: number, end: number): readonly Buffer[] {
  const views: Buffer[] = []
  let base = 0
  for (const chunk of chunks) {
    if (base >= end) break
    const from = Math.max(start - base, 0)
    const to = Math.min(end - base, chunk.length)
    if (from < to) views.push(to - from === chunk.length ? chunk : chunk.subarray(from, to))
    base += chunk.length
  }
  return views
}

/** A copy of the bytes [start, end), of the first `maxBytes` at most; shorter when the list ends before. */
export function sliceBytes(chunks: readonly Buffer[], start: number, end: number, maxBytes: number): Buffer {
  return Buffer.concat(viewBytes(chunks, start, Math.min(end, start + maxBytes)))
}

/** Whether the bytes of `range` are exactly `bytes`. */
export function holdsBytes(chunks: readonly Buffer[], range: ByteRange, bytes: Buffer): boolean {
  const length = range.end - range.start
  return length === bytes.length && sliceBytes(chunks, range.start, range.end, length).equals(bytes)
}

/**
 * The list with every replacement made: untouched chunks are the same buffers, cut ones are views of them. Replacements
 * are in ascending order and do not overlap. When each of them would put what is there already, the list itself comes
 * back.
 */
export function replaceBytes(chunks: readonly Buffer[], replacements: readonly Replacement[]): ChunkList {
  let byteLength = byteLengthOf(chunks)
  if (replacements.every(replacement => holdsBytes(chunks, replacement, replacement.bytes)))
    return { chunks, byteLength }
  const out: Buffer[] = []
  let next = 0
  let base = 0
  // Everything before this offset is in `out` or was replaced.
  let done = 0
  for (const chunk of chunks) {
    const end = base + chunk.length
    for (let edit = replacements[next]; edit !== undefined && edit.start < end; edit = replacements[++next]) {
      if (edit.start > done) out.push(chunk.subarray(done - base, edit.start - base))
      out.push(edit.bytes)
      done = edit.end
    }
    if (done < end) {
      out.push(done > base ? chunk.subarray(done - base) : chunk)
      done = end
    }
    base = end
  }
  for (let edit = replacements[next]; edit !== undefined; edit = replacements[++next]) out.push(edit.bytes)
  for (const { start, end, bytes } of replacements) byteLength += bytes.length - (end - start)
  return { chunks: out, byteLength }
}

/** Whether these bytes stand anywhere in the list, also across the border of two chunks. */
export function includesBytes(chunks: readonly Buffer[], bytes: Buffer): boolean {
  const overlap = bytes.length - 1
  let before: Buffer = Buffer.alloc(0)
  for (const chunk of chunks) {
    if (chunk.includes(bytes)) return true
    if (before.length > 0 && Buffer.concat([before, chunk.subarray(0, overlap)]).includes(bytes)) return true
    const joined = chunk.length >= overlap ? chunk : Buffer.concat([before, chunk])
    before = joined.subarray(Math.max(joined.length - overlap, 0))
  }
  return false
}
