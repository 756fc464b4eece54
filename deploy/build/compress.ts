// Compression whose bytes depend on the input alone (and on the zlib of the Node that runs it, which the build pins).
import { deflateRawSync as deflateRaw, gzipSync } from 'node:zlib'

/** The best compression: an archive is made once and fetched often. */
const LEVEL = 9
/** RFC 1952: the byte that names the system which compressed; 255 is "unknown". */
const OS_AT = 9
const OS_UNKNOWN = 255

/** @returns gzip without a time, a name or a system in its header */
export function gzip(bytes: Buffer): Buffer {
  const packed = gzipSync(bytes, { level: LEVEL })
  packed.writeUInt32LE(0, 4)
  packed[OS_AT] = OS_UNKNOWN
  return packed
}

/** @returns the raw deflate stream a zip archive holds */
export function deflateRawSync(bytes: Buffer): Buffer {
  return deflateRaw(bytes, { level: LEVEL })
}

const CRC_TABLE: readonly number[] = Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = (value & 1) === 1 ? (value >>> 1) ^ 0xedb8_8320 : value >>> 1
  return value >>> 0
})

/** The CRC-32 of zip and gzip (node:zlib has one only since Node 22). */
export function crc32(bytes: Buffer): number {
  let crc = 0xffff_ffff
  for (const byte of bytes) crc = (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8)
  return (crc ^ 0xffff_ffff) >>> 0
}
