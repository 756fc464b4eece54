// Mach-O files (macOS, 64 bit, one architecture): what the signer and the final check need to know of their load
// commands. Names as in Apple's <mach-o/loader.h>.
import { BuildError } from './errors.ts'

const MH_MAGIC_64 = 0xfeed_facf
const MH_EXECUTE = 2
const HEADER_BYTES = 32
const LC_SEGMENT_64 = 0x19
export const LC_CODE_SIGNATURE = 0x1d
/** CPU_TYPE_X86_64, CPU_TYPE_ARM64. */
export const MACHO_CPUS: Readonly<Record<'x64' | 'arm64', number>> = { x64: 0x0100_0007, arm64: 0x0100_000c }

export interface Command {
  readonly type: number
  /** Where it stands in the file, and how long it is. */
  readonly at: number
  readonly size: number
}

export interface MachoSection {
  readonly name: string
  readonly fileAt: number
  readonly size: number
}

export interface MachoSegment extends Command {
  readonly name: string
  readonly vmSize: number
  readonly fileAt: number
  readonly fileSize: number
  readonly sections: readonly MachoSection[]
}

export interface Macho {
  readonly cpu: number
  readonly commands: readonly Command[]
  readonly segments: readonly MachoSegment[]
  /** Where the load commands end. */
  readonly commandsEnd: number
}

function name16(file: Buffer, at: number): string {
  return file.toString('latin1', at, at + 16).replace(/\0.*$/s, '')
}

function segmentAt(file: Buffer, command: Command): MachoSegment {
  const { at } = command
  const sections = Array.from({ length: file.readUInt32LE(at + 64) }, (_, index) => {
    const section = at + 72 + index * 80
    return {
      name: name16(file, section),
      fileAt: file.readUInt32LE(section + 48),
      size: Number(file.readBigUInt64LE(section + 40)),
    }
  })
  return {
    ...command,
    name: name16(file, at + 8),
    vmSize: Number(file.readBigUInt64LE(at + 32)),
    fileAt: Number(file.readBigUInt64LE(at + 40)),
    fileSize: Number(file.readBigUInt64LE(at + 48)),
    sections,
  }
}

/** @throws BuildError when this is no 64-bit Mach-O executable of one architecture */
export function parseMacho(file: Buffer): Macho {
  if (file.length < HEADER_BYTES || file.readUInt32LE(0) !== MH_MAGIC_64 || file.readUInt32LE(12) !== MH_EXECUTE) {
    throw new BuildError('not a 64-bit Mach-O executable')
  }
  const commandsEnd = HEADER_BYTES + file.readUInt32LE(20)
  const commands: Command[] = []
  let at = HEADER_BYTES
  for (let index = 0; index < file.readUInt32LE(16); index++) {
    const size = at + 8 <= file.length ? file.readUInt32LE(at + 4) : 0
    if (size < 8 || at + size > commandsEnd) throw new BuildError('the Mach-O file has a damaged load command')
    commands.push({ type: file.readUInt32LE(at), at, size })
    at += size
  }
  const segments = commands.filter(each => each.type === LC_SEGMENT_64).map(each => segmentAt(file, each))
  return { cpu: file.readUInt32LE(4), commands, segments, commandsEnd }
}

/** @throws BuildError when the file is none for this architecture */
export function checkMacho(file: Buffer, arch: 'x64' | 'arm64'): void {
  if (parseMacho(file).cpu !== MACHO_CPUS[arch]) throw new BuildError(`the Mach-O file is not for ${arch}`)
}

/** A section's content; undefined when there is none of that name. */
export function machoSection(file: Buffer, segment: string, section: string): Buffer | undefined {
  const found = parseMacho(file)
    .segments.find(each => each.name === segment)
    ?.sections.find(each => each.name === section)
  return found === undefined ? undefined : file.subarray(found.fileAt, found.fileAt + found.size)
}
