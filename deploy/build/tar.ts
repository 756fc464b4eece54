// Tar archives (POSIX ustar), written and read. Written so that equal input gives equal bytes: no user, no clock,
// sorted by name.
import { BuildError } from './errors.ts'

const BLOCK = 512
/** Tar pads its end to this multiple; readers complain of less. */
const RECORD = 10_240

/** A file of an archive. */
export interface Entry {
  /** With / between its parts, relative. */
  readonly path: string
  readonly bytes: Buffer
  readonly executable: boolean
}

/** @returns the entries in the order of their paths' code units, whatever the locale */
export function sortEntries(entries: readonly Entry[]): readonly Entry[] {
  return [...entries].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
}

function splitPath(path: string): readonly [name: string, prefix: string] {
  if (Buffer.byteLength(path) <= 100) return [path, '']
  for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) {
    const prefix = path.slice(0, at)
    const name = path.slice(at + 1)
    if (Buffer.byteLength(prefix) <= 155 && Buffer.byteLength(name) <= 100) return [name, prefix]
  }
  throw new BuildError(`the path is too long for a tar archive: ${path}`)
}

function header(entry: Entry, mtimeSeconds: number): Buffer {
  const block = Buffer.alloc(BLOCK)
  const [name, prefix] = splitPath(entry.path)
  const octal = (value: number, offset: number, digits: number): void => {
    block.write(value.toString(8).padStart(digits, '0'), offset, 'latin1')
  }
  block.write(name, 0)
  octal(entry.executable ? 0o755 : 0o644, 100, 7)
  octal(0, 108, 7)
  octal(0, 116, 7)
  octal(entry.bytes.length, 124, 11)
  octal(mtimeSeconds, 136, 11)
  block.fill(' ', 148, 156)
  block.write('0', 156)
  block.write('ustar\x0000', 257, 'latin1')
  block.write('root', 265)
  block.write('root', 297)
  octal(0, 329, 7)
  octal(0, 337, 7)
  block.write(prefix, 345)
  let sum = 0
  for (const byte of block) sum += byte
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return block
}

/**
 * @param mtimeSeconds the time every file gets, in seconds since 1970
 * @returns an uncompressed archive, sorted
 * @throws BuildError on a path that does not fit
 */
export function writeTar(entries: readonly Entry[], mtimeSeconds: number): Buffer {
  const parts: Buffer[] = []
  let length = 0
  const add = (bytes: Buffer): void => {
    parts.push(bytes)
    length += bytes.length
  }
  for (const entry of sortEntries(entries)) {
    add(header(entry, mtimeSeconds))
    add(entry.bytes)
    add(Buffer.alloc((BLOCK - (entry.bytes.length % BLOCK)) % BLOCK))
  }
  const end = Math.ceil((length + 2 * BLOCK) / RECORD) * RECORD
  add(Buffer.alloc(end - length))
  return Buffer.concat(parts, length)
}

function text(block: Buffer, start: number, end: number): string {
  const bytes = block.subarray(start, end)
  const zero = bytes.indexOf(0)
  return bytes.toString('utf8', 0, zero === -1 ? bytes.length : zero)
}

/**
 * The regular files of an uncompressed archive; what else it holds is passed over.
 * @throws BuildError when it is cut off or no tar archive
 */
export function readTar(archive: Buffer): readonly Entry[] {
  const entries: Entry[] = []
  let at = 0
  while (at + BLOCK <= archive.length) {
    const block = archive.subarray(at, at + BLOCK)
    if (block.every(byte => byte === 0)) return entries
    if (block.toString('latin1', 257, 262) !== 'ustar') throw new BuildError('not a tar archive')
    const size = Number.parseInt(text(block, 124, 136), 8)
    const start = at + BLOCK
    if (!Number.isSafeInteger(size) || start + size > archive.length) throw new BuildError('the tar archive is cut off')
    const type = text(block, 156, 157)
    if (type === '0' || type === '') {
      const prefix = text(block, 345, 500)
      const name = text(block, 0, 100)
      entries.push({
        path: prefix === '' ? name : `${prefix}/${name}`,
        bytes: archive.subarray(start, start + size),
        executable: (Number.parseInt(text(block, 100, 108), 8) & 0o100) !== 0,
      })
    }
    at = start + Math.ceil(size / BLOCK) * BLOCK
  }
  throw new BuildError('the tar archive is cut off')
}
