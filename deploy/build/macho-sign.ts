// An ad-hoc signature for a Mach-O executable, made anywhere: macOS on arm64 runs no code without one. It names nobody;
// it holds the hash of every page, which the system checks when it loads them. Structures as in Apple's
// <kern/cs_blobs.h>; big endian.
import { createHash } from 'node:crypto'
import { BuildError } from './errors.ts'
import { LC_CODE_SIGNATURE, MACHO_CPUS, type Macho, type MachoSegment, parseMacho } from './macho.ts'

const EMBEDDED_SIGNATURE = 0xfade_0cc0
const CODE_DIRECTORY = 0xfade_0c02
/** 2.4: with the executable segment's fields. */
const DIRECTORY_VERSION = 0x2_0400
const ADHOC = 0x2
const SHA256 = 2
const HASH_BYTES = 32
const PAGE_BITS = 12
const PAGE_BYTES = 1 << PAGE_BITS
const MAIN_BINARY = 1n
const COMMAND_BYTES = 16
/** With its one index entry, padded to where the next blob may begin. */
const SUPERBLOB_BYTES = 24
const DIRECTORY_BYTES = 88
/** What linkers align the signature's start and its hashes to. */
const ALIGNMENT = 16

function segment(macho: Macho, name: string): MachoSegment {
  const found = macho.segments.find(each => each.name === name)
  if (found === undefined) throw new BuildError(`the Mach-O file has no segment ${name}`)
  return found
}

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to
}

/** The load commands of a file without its signature's, and where its content ends. */
function withoutSignature(file: Buffer, macho: Macho): { readonly file: Buffer; readonly end: number } {
  const linkedit = segment(macho, '__LINKEDIT')
  const linkeditEnd = linkedit.fileAt + linkedit.fileSize
  if (macho.segments.some(each => each.fileAt + each.fileSize > linkeditEnd)) {
    throw new BuildError('__LINKEDIT is not the last segment of the Mach-O file')
  }
  const command = macho.commands.find(each => each.type === LC_CODE_SIGNATURE)
  if (command === undefined) return { file: file.subarray(0, linkeditEnd), end: linkeditEnd }
  const start = file.readUInt32LE(command.at + 8)
  if (start + file.readUInt32LE(command.at + 12) < linkeditEnd) {
    throw new BuildError('the signature is not at the end of the Mach-O file')
  }
  const copy = Buffer.from(file.subarray(0, start))
  copy.copy(copy, command.at, command.at + command.size, macho.commandsEnd)
  copy.fill(0, macho.commandsEnd - command.size, macho.commandsEnd)
  copy.writeUInt32LE(copy.readUInt32LE(16) - 1, 16)
  copy.writeUInt32LE(copy.readUInt32LE(20) - command.size, 20)
  return { file: copy, end: start }
}

/** Where the hashes begin, counted from the signature's start. */
function hashesStart(identifier: string): number {
  return align(SUPERBLOB_BYTES + DIRECTORY_BYTES + identifier.length + 1, ALIGNMENT)
}

function pageHashes(content: Buffer): readonly Buffer[] {
  const hashes: Buffer[] = []
  for (let at = 0; at < content.length; at += PAGE_BYTES) {
    hashes.push(
      createHash('sha256')
        .update(content.subarray(at, at + PAGE_BYTES))
        .digest(),
    )
  }
  return hashes
}

function signatureOf(content: Buffer, text: MachoSegment, identifier: string): Buffer {
  const hashes = pageHashes(content)
  const hashesAt = hashesStart(identifier) - SUPERBLOB_BYTES
  const directory = Buffer.alloc(hashesAt + hashes.length * HASH_BYTES)
  const fields = [CODE_DIRECTORY, directory.length, DIRECTORY_VERSION, ADHOC, hashesAt, DIRECTORY_BYTES, 0]
  for (const [index, value] of [...fields, hashes.length, content.length].entries()) {
    directory.writeUInt32BE(value, index * 4)
  }
  directory.set([HASH_BYTES, SHA256, 0, PAGE_BITS], 36)
  directory.writeBigUInt64BE(BigInt(text.fileAt), 64)
  directory.writeBigUInt64BE(BigInt(text.fileSize), 72)
  directory.writeBigUInt64BE(MAIN_BINARY, 80)
  directory.write(identifier, DIRECTORY_BYTES, 'latin1')
  directory.set(Buffer.concat(hashes), hashesAt)
  const superblob = Buffer.alloc(SUPERBLOB_BYTES)
  for (const [index, value] of [
    EMBEDDED_SIGNATURE,
    SUPERBLOB_BYTES + directory.length,
    1,
    0,
    SUPERBLOB_BYTES,
  ].entries()) {
    superblob.writeUInt32BE(value, index * 4)
  }
  return Buffer.concat([superblob, directory])
}

/**
 * Signs an executable; an older signature is taken out.
 * @param identifier what the signature calls the program
 * @returns a new file, whose signature is its last part
 * @throws BuildError when the file has no room for the load command, or is built in a way that is not expected
 */
export function signMacho(original: Buffer, identifier: string): Buffer {
  const { file, end } = withoutSignature(original, parseMacho(original))
  const macho = parseMacho(file)
  const linkedit = segment(macho, '__LINKEDIT')
  const text = segment(macho, '__TEXT')
  const firstSection = Math.min(
    ...macho.segments.flatMap(each => each.sections.filter(({ fileAt }) => fileAt > 0).map(({ fileAt }) => fileAt)),
  )
  if (macho.commandsEnd + COMMAND_BYTES > firstSection) {
    throw new BuildError('the Mach-O file has no room for a signature command')
  }
  const start = align(end, ALIGNMENT)
  const pages = Math.ceil(start / PAGE_BYTES)
  const size = hashesStart(identifier) + pages * HASH_BYTES
  const content = Buffer.alloc(start)
  file.copy(content)
  content.writeUInt32LE(LC_CODE_SIGNATURE, macho.commandsEnd)
  content.writeUInt32LE(COMMAND_BYTES, macho.commandsEnd + 4)
  content.writeUInt32LE(start, macho.commandsEnd + 8)
  content.writeUInt32LE(size, macho.commandsEnd + 12)
  content.writeUInt32LE(macho.commands.length + 1, 16)
  content.writeUInt32LE(content.readUInt32LE(20) + COMMAND_BYTES, 20)
  const linkeditSize = start + size - linkedit.fileAt
  const vmPage = macho.cpu === MACHO_CPUS.arm64 ? 0x4000 : 0x1000
  // A segment that was mapped far enough stays as it is.
  const vmSize = linkedit.vmSize < linkeditSize ? align(linkeditSize, vmPage) : linkedit.vmSize
  content.writeBigUInt64LE(BigInt(vmSize), linkedit.at + 32)
  content.writeBigUInt64LE(BigInt(linkeditSize), linkedit.at + 48)
  const out = Buffer.alloc(start + size)
  content.copy(out)
  signatureOf(content, text, identifier).copy(out, start)
  return out
}

/**
 * Checks a signature as the system does: every page against its hash, and that nothing but the signature stands behind
 * them.
 * @returns the identifier and the flags
 * @throws BuildError on the first thing that is wrong
 */
export function verifyMacho(file: Buffer): { readonly identifier: string; readonly flags: number } {
  const wrong = (what: string): never => {
    throw new BuildError(`the signature of the Mach-O file is wrong: ${what}`)
  }
  const macho = parseMacho(file)
  const found = macho.commands.filter(each => each.type === LC_CODE_SIGNATURE)
  const command = found[0]
  if (command === undefined || found.length > 1) return wrong(`${found.length} load commands`)
  const start = file.readUInt32LE(command.at + 8)
  const size = file.readUInt32LE(command.at + 12)
  const linkedit = segment(macho, '__LINKEDIT')
  if (start + size !== file.length) wrong('it is not the end of the file')
  if (linkedit.fileAt + linkedit.fileSize !== file.length || linkedit.vmSize < linkedit.fileSize) wrong('__LINKEDIT')
  if (start % ALIGNMENT !== 0 || file.readUInt32BE(start) !== EMBEDDED_SIGNATURE) wrong('no embedded signature')
  const blobs = Array.from({ length: file.readUInt32BE(start + 8) }, (_, index) => ({
    slot: file.readUInt32BE(start + 12 + index * 8),
    at: start + file.readUInt32BE(start + 16 + index * 8),
  }))
  const directory = blobs.find(each => each.slot === 0)?.at
  if (directory === undefined || file.readUInt32BE(directory) !== CODE_DIRECTORY) return wrong('no code directory')
  const word = (index: number): number => file.readUInt32BE(directory + index * 4)
  if (directory + word(1) > file.length || word(2) < DIRECTORY_VERSION) wrong('the code directory')
  if (file[directory + 36] !== HASH_BYTES || file[directory + 37] !== SHA256 || file[directory + 39] !== PAGE_BITS) {
    wrong('the kind of its hashes')
  }
  if (word(8) !== start) wrong('it does not cover all that stands before it')
  const text = segment(macho, '__TEXT')
  if (Number(file.readBigUInt64BE(directory + 72)) !== text.fileSize) wrong('the size of __TEXT')
  const hashes = pageHashes(file.subarray(0, start))
  if (hashes.length !== word(7)) wrong('the number of pages')
  const hashesAt = directory + word(4)
  for (const [page, hash] of hashes.entries()) {
    const at = hashesAt + page * HASH_BYTES
    if (!hash.equals(file.subarray(at, at + HASH_BYTES))) wrong(`page ${page} has another hash`)
  }
  const identifierAt = directory + word(5)
  return { identifier: file.toString('latin1', identifierAt, file.indexOf(0, identifierAt)), flags: word(3) }
}
