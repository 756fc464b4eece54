// ELF files (64 bit, little endian): takes out the symbols and debug data that a release does not need. Finds the
// resource that makes an executable of a runtime. Own code rather than strip: the bytes must not depend on the tools of
// a machine, and strip for arm64 is rarely installed on x64.
import { BuildError } from './errors.ts'

const HEADER_BYTES = 64
const SECTION_BYTES = 64
const SEGMENT_BYTES = 56
const SHF_ALLOC = 2n
const SHT_STRTAB = 3
const SHT_NOBITS = 8
const PT_LOAD = 1
const PT_NOTE = 4
/** e_machine of the two architectures. */
export const ELF_MACHINES: Readonly<Record<'x64' | 'arm64', number>> = { x64: 62, arm64: 183 }

interface Section {
  readonly header: Buffer
  readonly name: string
  readonly type: number
  readonly loaded: boolean
}

interface Segment {
  readonly type: number
  readonly offset: number
  readonly size: number
}

function number(file: Buffer, at: number): number {
  return Number(file.readBigUInt64LE(at))
}

function checkHeader(file: Buffer): void {
  const sound =
    file.length >= HEADER_BYTES &&
    file.toString('latin1', 0, 4) === '\x7fELF' &&
    file[4] === 2 &&
    file[5] === 1 &&
    file.readUInt16LE(54) === SEGMENT_BYTES
  if (!sound) throw new BuildError('not a 64-bit ELF file')
}

function segmentsOf(file: Buffer): readonly Segment[] {
  const start = number(file, 32)
  return Array.from({ length: file.readUInt16LE(56) }, (_, index) => {
    const at = start + index * SEGMENT_BYTES
    return { type: file.readUInt32LE(at), offset: number(file, at + 8), size: number(file, at + 32) }
  })
}

function sectionsOf(file: Buffer): readonly Section[] {
  const start = number(file, 40)
  const count = file.readUInt16LE(60)
  if (file.readUInt16LE(58) !== SECTION_BYTES || start + count * SECTION_BYTES > file.length) {
    throw new BuildError('the ELF file has no sections')
  }
  const headers = Array.from({ length: count }, (_, index) =>
    file.subarray(start + index * SECTION_BYTES, start + (index + 1) * SECTION_BYTES),
  )
  const names = headers[file.readUInt16LE(62)]
  if (names === undefined) throw new BuildError('the ELF file has no section names')
  const namesAt = number(names, 24)
  return headers.map(header => {
    const nameAt = namesAt + header.readUInt32LE(0)
    return {
      header,
      name: file.toString('latin1', nameAt, file.indexOf(0, nameAt)),
      type: header.readUInt32LE(4),
      loaded: (header.readBigUInt64LE(8) & SHF_ALLOC) !== 0n,
    }
  })
}

/**
 * Leaves what is loaded into memory; symbols, debug data and comments go.
 * @returns a new file
 * @throws BuildError when the sections are not in the usual order: those that are loaded, then those that are not
 */
export function stripElf(file: Buffer): Buffer {
  checkHeader(file)
  const sections = sectionsOf(file)
  const firstUnloaded = sections.findIndex((section, index) => index > 0 && !section.loaded)
  const kept = firstUnloaded === -1 ? sections : sections.slice(0, firstUnloaded)
  if (firstUnloaded !== -1 && sections.slice(firstUnloaded).some(section => section.loaded)) {
    throw new BuildError('the ELF file has sections in an order that is not expected, so it cannot be stripped')
  }
  const ends = [
    HEADER_BYTES,
    number(file, 32) + file.readUInt16LE(56) * SEGMENT_BYTES,
    ...segmentsOf(file)
      .filter(each => each.type === PT_LOAD)
      .map(each => each.offset + each.size),
    ...kept.filter(each => each.type !== SHT_NOBITS).map(each => number(each.header, 24) + number(each.header, 32)),
  ]
  const end = Math.max(...ends)
  let names = '\0'
  const headers = kept.map(({ header, name }, index) => {
    const copy = Buffer.from(header)
    copy.writeUInt32LE(index === 0 ? 0 : names.length, 0)
    if (index > 0) names += `${name}\0`
    return copy
  })
  const namesHeader = Buffer.alloc(SECTION_BYTES)
  namesHeader.writeUInt32LE(names.length, 0)
  names += '.shstrtab\0'
  namesHeader.writeUInt32LE(SHT_STRTAB, 4)
  namesHeader.writeBigUInt64LE(BigInt(end), 24)
  namesHeader.writeBigUInt64LE(BigInt(names.length), 32)
  namesHeader.writeBigUInt64LE(1n, 48)
  const tableAt = Math.ceil((end + names.length) / 8) * 8
  const out = Buffer.concat([
    file.subarray(0, end),
    Buffer.from(names.padEnd(tableAt - end, '\0'), 'latin1'),
    ...headers,
    namesHeader,
  ])
  out.writeBigUInt64LE(BigInt(tableAt), 40)
  out.writeUInt16LE(headers.length + 1, 60)
  out.writeUInt16LE(headers.length, 62)
  return out
}

/**
 * The resource of an executable: Node looks for a note of that name (postject's own layout: name, then content).
 * @returns undefined when there is none
 */
export function elfResource(file: Buffer, name: string): Buffer | undefined {
  checkHeader(file)
  for (const { type, offset, size } of segmentsOf(file)) {
    if (type !== PT_NOTE) continue
    let at = offset
    while (at + 12 <= offset + size) {
      const nameBytes = file.readUInt32LE(at)
      const contentBytes = file.readUInt32LE(at + 4)
      const contentAt = at + 12 + Math.ceil(nameBytes / 4) * 4
      if (file.toString('latin1', at + 12, at + 12 + nameBytes).replace(/\0+$/, '') === name) {
        return file.subarray(contentAt, contentAt + contentBytes)
      }
      at = contentAt + Math.ceil(contentBytes / 4) * 4
    }
  }
  return undefined
}

/** @throws BuildError when the file is none for this architecture */
export function checkElf(file: Buffer, arch: 'x64' | 'arm64'): void {
  checkHeader(file)
  if (file.readUInt16LE(18) !== ELF_MACHINES[arch]) throw new BuildError(`the ELF file is not for ${arch}`)
}
