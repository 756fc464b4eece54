// A packed request body made plain as it comes (RFC 9110 section 8.4): piece by piece, off the event loop, never ahead
// of its reader.
import zlib from 'node:zlib'
import { createZstdFrames } from './zstd-frames.ts'

/** A coding that can be undone. */
export type Coding = 'gzip' | 'deflate' | 'br' | 'zstd'

/** Of a body's Content-Encoding. A stack of codings is nobody's habit, and a way to grow a bomb. */
export type CodingFound =
  | { readonly kind: 'plain' }
  | { readonly kind: 'coded'; readonly coding: Coding }
  | { readonly kind: 'unsupported' }

const KB = 1024
const MB = 1024 * KB

/** One piece of plain bytes. */
const CHUNK_BYTES = 64 * KB
/** Smaller pieces are copied: they would keep a whole chunk in memory. */
const SMALL_BYTES = 16 * KB
/** A decoder of gzip or deflate: 32 KB of window and its tables (zlib's zconf.h). */
const INFLATE_BYTES = 64 * KB
/** The largest window of brotli (RFC 7932 section 9.1); its decoder's buffer grows with what has come. */
const BROTLI_MAX_BYTES = 16 * MB
/** The largest window that "zstd" may have as a content coding (RFC 9659), as a power of two. */
const ZSTD_WINDOW_LOG = 23
const ZSTD_BYTES = 2 ** ZSTD_WINDOW_LOG

/** A transform of node:zlib. */
type Engine = zlib.Gunzip | zlib.BrotliDecompress

/** node:zlib's zstd, which came with Node 22.15 and is unknown to the types of Node 20. */
function zstdEngine(): Engine | undefined {
  const create: unknown = Reflect.get(zlib, 'createZstdDecompress')
  const windowLog: unknown = Reflect.get(zlib.constants, 'ZSTD_d_windowLogMax')
  if (typeof create !== 'function' || typeof windowLog !== 'number') return undefined
  return Reflect.apply(create, zlib, [{ chunkSize: CHUNK_BYTES, params: { [windowLog]: ZSTD_WINDOW_LOG } }])
}

const HAS_ZSTD = typeof Reflect.get(zlib, 'createZstdDecompress') === 'function'

/** The codings that this Node can undo, as an Accept-Encoding lists them. */
export const CODINGS: readonly Coding[] = HAS_ZSTD ? ['gzip', 'deflate', 'br', 'zstd'] : ['gzip', 'deflate', 'br']

/** What a Content-Encoding header asks for. */
export function codingOf(header: string | undefined): CodingFound {
  const name = header?.trim().toLowerCase() ?? ''
  if (name === '' || name === 'identity') return { kind: 'plain' }
  // RFC 9110 section 8.4.1.3: an old name for the same.
  const coding = CODINGS.find(known => known === name || (known === 'gzip' && name === 'x-gzip'))
  return coding === undefined ? { kind: 'unsupported' } : { kind: 'coded', coding }
}

/**
 * The memory that a decoder may take for itself.
 * @param plainBytes it has brought so far
 */
export function decoderBytes(coding: Coding, plainBytes: number): number {
  switch (coding) {
    case 'br':
      return Math.min(BROTLI_MAX_BYTES, INFLATE_BYTES + plainBytes)
    case 'zstd':
      return ZSTD_BYTES
    default:
      return INFLATE_BYTES
  }
}

/**
 * "deflate" means zlib's format (RFC 9110 section 8.4.1.2), but some clients send the bare one: two bytes tell them
 * apart.
 */
function isZlib(first: Buffer): boolean {
  const [head = 0, flags = 0] = first
  return (head & 0x0f) === 8 && ((head << 8) | flags) % 31 === 0
}

function engineFor(coding: Coding, first: Buffer): Engine | undefined {
  const options = { chunkSize: CHUNK_BYTES }
  switch (coding) {
    case 'gzip':
      return zlib.createGunzip(options)
    case 'deflate':
      return isZlib(first) ? zlib.createInflate(options) : zlib.createInflateRaw(options)
    case 'br':
      return zlib.createBrotliDecompress(options)
    case 'zstd':
      return zstdEngine()
  }
}

/** Hears what becomes of a packed body. After `end` or `broken` nothing more comes. */
export interface DecoderEvents {
  /** A piece of plain bytes, the listener's own. */
  data(plain: Buffer): void
  end(): void
  /** The bytes are not of this coding, end too early, or go on behind its end. */
  broken(): void
  /** After a `write` that gave false: more may be written. */
  drain(): void
}

export interface BodyDecoder {
  /** @returns false: nothing more until `drain` */
  write(packed: Buffer): boolean
  /** All of it has been written. */
  end(): void
  /** Nothing more is wanted. */
  destroy(): void
}

/** A decoder for one body. */
export function createBodyDecoder(coding: Coding, events: DecoderEvents): BodyDecoder {
  let engine: Engine | undefined
  let over = false
  let packedBytes = 0
  const frames = coding === 'zstd' ? createZstdFrames() : undefined

  const once = (tell: () => void): void => {
    if (over) return
    over = true
    engine?.destroy()
    tell()
  }
  const begin = (first: Buffer): Engine | undefined => {
    const begun = engineFor(coding, first)
    begun?.on('data', (plain: Buffer) => {
      if (!over) events.data(plain.length < SMALL_BYTES ? Buffer.from(plain) : plain)
    })
    begun?.on('drain', () => {
      if (!over) events.drain()
    })
    // Whatever stands behind the end of the packed data was left unread.
    begun?.on('end', () => {
      const whole = begun.bytesWritten === packedBytes && frames?.isWhole() !== false
      once(whole ? events.end : events.broken)
    })
    begun?.on('error', () => once(events.broken))
    return begun
  }

  /** A first byte that tells nothing by itself. */
  let held: Buffer | undefined

  return {
    write(packed) {
      if (over || packed.length === 0) return true
      packedBytes += packed.length
      frames?.push(packed)
      const bytes = held === undefined ? packed : Buffer.concat([held, packed])
      held = undefined
      if (coding === 'deflate' && engine === undefined && bytes.length < 2) {
        held = bytes
        return true
      }
      engine ??= begin(bytes)
      return engine?.write(bytes) ?? true
    },
    end() {
      // Without a byte there is no packed body at all.
      if (engine === undefined) once(events.broken)
      else engine.end()
    },
    destroy() {
      over = true
      engine?.destroy()
    },
  }
}
