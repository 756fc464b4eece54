// Zip archives (PKWARE APPNOTE 6.3), deflated. Equal input gives equal bytes: one time for all files, sorted by name.
import { crc32, deflateRawSync } from './compress.ts'
import { BuildError } from './errors.ts'
import { type Entry, sortEntries } from './tar.ts'

/** 2.0: deflate. */
const VERSION_NEEDED = 20
/** Made on Unix, so that the permissions in the external attributes count. */
const MADE_BY = (3 << 8) | VERSION_NEEDED
const DEFLATE = 8
const UTF8_NAMES = 0x0800
/** Beyond this zip64 is needed, which no archive here comes near. */
const MAX_BYTES = 0xffff_ffff
/** Zip knows no time before 1980-01-01T00:00:00Z. */
const MIN_SECONDS = 315_532_800

/** @returns MS-DOS date and time of a UTC time, in one number */
function dosTime(seconds: number): number {
  const time = new Date(Math.max(seconds, MIN_SECONDS) * 1_000)
  const date = ((time.getUTCFullYear() - 1980) << 9) | ((time.getUTCMonth() + 1) << 5) | time.getUTCDate()
  const clock = (time.getUTCHours() << 11) | (time.getUTCMinutes() << 5) | (time.getUTCSeconds() >> 1)
  return ((date << 16) | clock) >>> 0
}

/**
 * @param mtimeSeconds the time every file gets, in seconds since 1970
 * @throws BuildError beyond 4 GB
 */
export function writeZip(entries: readonly Entry[], mtimeSeconds: number): Buffer {
  const files: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const { path, bytes, executable } of sortEntries(entries)) {
    const name = Buffer.from(path)
    const packed = deflateRawSync(bytes)
    if (offset + packed.length > MAX_BYTES || bytes.length > MAX_BYTES)
      throw new BuildError('too large for a zip archive')
    // The same 26 bytes stand in front of the file and in the directory.
    const common = Buffer.alloc(26)
    common.writeUInt16LE(VERSION_NEEDED, 0)
    common.writeUInt16LE(UTF8_NAMES, 2)
    common.writeUInt16LE(DEFLATE, 4)
    common.writeUInt32LE(dosTime(mtimeSeconds), 6)
    common.writeUInt32LE(crc32(bytes), 10)
    common.writeUInt32LE(packed.length, 14)
    common.writeUInt32LE(bytes.length, 18)
    common.writeUInt16LE(name.length, 22)
    files.push(Buffer.from('PK\x03\x04', 'latin1'), common, name, packed)
    const start = Buffer.alloc(6)
    start.write('PK\x01\x02', 'latin1')
    start.writeUInt16LE(MADE_BY, 4)
    const rest = Buffer.alloc(14)
    rest.writeUInt32LE((((executable ? 0o100755 : 0o100644) << 16) >>> 0) as number, 6)
    rest.writeUInt32LE(offset, 10)
    directory.push(start, common, rest, name)
    offset += 4 + common.length + name.length + packed.length
  }
  const index = Buffer.concat(directory)
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06', 'latin1')
  end.writeUInt16LE(entries.length, 8)
  end.writeUInt16LE(entries.length, 10)
  end.writeUInt32LE(index.length, 12)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...files, index, end])
}
