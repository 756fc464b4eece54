// The ends of zstd's frames (RFC 8878 section 3.1): node:zlib takes a cut-off frame for a whole one and says nothing.
// Payloads are skipped, never looked at; whether they are sound is the decoder's to say.

/** Follows packed bytes as they pass. */
export interface ZstdFrames {
  push(bytes: Buffer): void
  /** At least one frame has passed, and nothing of an unfinished one. */
  isWhole(): boolean
}

/** Skippable frames have this magic number, but for its lowest four bits. */
const SKIPPABLE = 0x184d2a50
const DICTIONARY_ID_BYTES = [0, 1, 2, 4] as const
const CONTENT_SIZE_BYTES = [0, 2, 4, 8] as const
const RLE_BLOCK = 1

/** What the next few bytes are. */
type Part = 'magic' | 'skip_size' | 'descriptor' | 'block'

const PART_BYTES: Readonly<Record<Part, number>> = { magic: 4, skip_size: 4, descriptor: 1, block: 3 }

/** Bytes of a frame's header behind its descriptor byte. */
function headerRest(descriptor: number): number {
  const contentSize = descriptor >> 6
  const singleSegment = (descriptor >> 5) & 1
  const ofSize = contentSize === 0 ? singleSegment : (CONTENT_SIZE_BYTES[contentSize] ?? 0)
  return 1 - singleSegment + (DICTIONARY_ID_BYTES[descriptor & 3] ?? 0) + ofSize
}

export function createZstdFrames(): ZstdFrames {
  const head = Buffer.alloc(4)
  let filled = 0
  let part: Part = 'magic'
  let toSkip = 0
  let checksumBytes = 0
  let frames = 0

  const read = (): void => {
    switch (part) {
      case 'magic':
        part = (head.readUInt32LE(0) & ~0xf) >>> 0 === SKIPPABLE ? 'skip_size' : 'descriptor'
        return
      case 'skip_size':
        toSkip = head.readUInt32LE(0)
        part = 'magic'
        frames++
        return
      case 'descriptor':
        toSkip = headerRest(head[0] ?? 0)
        checksumBytes = ((head[0] ?? 0) & 4) === 0 ? 0 : 4
        part = 'block'
        return
      case 'block': {
        const block = head.readUIntLE(0, 3)
        const isLast = (block & 1) === 1
        toSkip = ((block >> 1) & 3) === RLE_BLOCK ? 1 : block >> 3
        if (!isLast) return
        toSkip += checksumBytes
        part = 'magic'
        frames++
      }
    }
  }

  return {
    push(bytes) {
      let at = 0
      while (at < bytes.length) {
        if (toSkip > 0) {
          const skipped = Math.min(toSkip, bytes.length - at)
          toSkip -= skipped
          at += skipped
          continue
        }
        head[filled++] = bytes[at++] ?? 0
        if (filled < PART_BYTES[part]) continue
        filled = 0
        read()
      }
    },
    isWhole: () => frames > 0 && part === 'magic' && filled === 0 && toSkip === 0,
  }
}
