// PE files (Windows, 64 bit): taking out a signature that the change makes void, the checksum, and finding the
// resource. Layout: Microsoft's "PE Format".
import { BuildError } from './errors.ts'

/** IMAGE_FILE_MACHINE_AMD64, IMAGE_FILE_MACHINE_ARM64. */
export const PE_MACHINES: Readonly<Record<'x64' | 'arm64', number>> = { x64: 0x8664, arm64: 0xaa64 }
const PE32_PLUS = 0x20b
const CHECKSUM_AT = 64
const DIRECTORIES_AT = 112
const RESOURCES = 2
const SECURITY = 4
const SECTION_BYTES = 40
const RT_RCDATA = 10

interface Pe {
  readonly machine: number
  /** Where the optional header starts. */
  readonly optionalAt: number
  readonly sections: readonly { readonly address: number; readonly size: number; readonly fileAt: number }[]
}

function parse(file: Buffer): Pe {
  const headerAt = file.length > 64 && file.toString('latin1', 0, 2) === 'MZ' ? file.readUInt32LE(60) : -1
  if (headerAt < 0 || headerAt + 264 > file.length || file.toString('latin1', headerAt, headerAt + 4) !== 'PE\0\0') {
    throw new BuildError('not a PE file')
  }
  const optionalAt = headerAt + 24
  if (file.readUInt16LE(optionalAt) !== PE32_PLUS) throw new BuildError('not a 64-bit PE file')
  const sectionsAt = optionalAt + file.readUInt16LE(headerAt + 20)
  const sections = Array.from({ length: file.readUInt16LE(headerAt + 6) }, (_, index) => {
    const at = sectionsAt + index * SECTION_BYTES
    return { address: file.readUInt32LE(at + 12), size: file.readUInt32LE(at + 16), fileAt: file.readUInt32LE(at + 20) }
  })
  return { machine: file.readUInt16LE(headerAt + 4), optionalAt, sections }
}

/**
 * The sum Windows keeps in the header: 16-bit words added with carry, the field itself counted as zero, plus the
 * length.
 */
export function peChecksum(file: Buffer): number {
  const field = parse(file).optionalAt + CHECKSUM_AT
  let sum = 0
  for (let at = 0; at < file.length; at += 2) {
    if (at === field || at === field + 2) continue
    sum += at + 1 < file.length ? file.readUInt16LE(at) : (file[at] ?? 0)
    if (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  }
  return sum + file.length
}

/** @returns a copy with the right checksum in its header */
export function withChecksum(file: Buffer): Buffer {
  const out = Buffer.from(file)
  out.writeUInt32LE(peChecksum(file), parse(file).optionalAt + CHECKSUM_AT)
  return out
}

/**
 * Takes the Authenticode signature out: it stands at the end of the file, and would be void after any change.
 * @throws BuildError when it stands somewhere else
 */
export function withoutSignature(file: Buffer): Buffer {
  const entryAt = parse(file).optionalAt + DIRECTORIES_AT + SECURITY * 8
  const start = file.readUInt32LE(entryAt)
  const size = file.readUInt32LE(entryAt + 4)
  if (size === 0) return file
  if (start + size !== file.length) throw new BuildError('the PE file has a signature that is not at its end')
  const out = Buffer.from(file.subarray(0, start))
  out.writeUInt32LE(0, entryAt)
  out.writeUInt32LE(0, entryAt + 4)
  return out
}

/** @returns whether the header names a signature */
export function isSigned(file: Buffer): boolean {
  return file.readUInt32LE(parse(file).optionalAt + DIRECTORIES_AT + SECURITY * 8 + 4) !== 0
}

/** @throws BuildError when the file is none for this architecture */
export function checkPe(file: Buffer, arch: 'x64' | 'arm64'): void {
  if (parse(file).machine !== PE_MACHINES[arch]) throw new BuildError(`the PE file is not for ${arch}`)
}

/**
 * A raw-data resource by name, as FindResource gives it.
 * @returns undefined when there is none
 */
export function peResource(file: Buffer, name: string): Buffer | undefined {
  const { optionalAt, sections } = parse(file)
  const offsetOf = (address: number): number => {
    const section = sections.find(each => address >= each.address && address < each.address + each.size)
    return section === undefined ? file.length : address - section.address + section.fileAt
  }
  const root = offsetOf(file.readUInt32LE(optionalAt + DIRECTORIES_AT + RESOURCES * 8))
  /** The entries of a directory: identified by number or name, each leading to a directory or to data. */
  const entries = (at: number): readonly { readonly key: number | string; readonly to: number }[] => {
    if (at + 16 > file.length) return []
    const count = file.readUInt16LE(at + 12) + file.readUInt16LE(at + 14)
    return Array.from({ length: count }, (_, index) => {
      const id = file.readUInt32LE(at + 16 + index * 8)
      const to = root + (file.readUInt32LE(at + 20 + index * 8) & 0x7fff_ffff)
      if (id < 0x8000_0000) return { key: id, to }
      const nameAt = root + (id & 0x7fff_ffff)
      return { key: file.toString('utf16le', nameAt + 2, nameAt + 2 + file.readUInt16LE(nameAt) * 2), to }
    })
  }
  const type = entries(root).find(entry => entry.key === RT_RCDATA)
  const named = type === undefined ? undefined : entries(type.to).find(entry => entry.key === name)
  const data = named === undefined ? undefined : entries(named.to)[0]?.to
  if (data === undefined) return undefined
  const start = offsetOf(file.readUInt32LE(data))
  return file.subarray(start, start + file.readUInt32LE(data + 4))
}
