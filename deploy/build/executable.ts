// From a runtime to an executable of the program, and the check that it is one.
import { inject } from 'postject'
import { checkElf, elfResource, stripElf } from './elf.ts'
import { BuildError } from './errors.ts'
import { checkMacho, machoSection } from './macho.ts'
import { signMacho, verifyMacho } from './macho-sign.ts'
import { checkPe, isSigned, peChecksum, peResource, withChecksum, withoutSignature } from './pe.ts'
import type { Platform } from './platforms.ts'

/**
 * What Node looks for in itself: the resource, and the mark that says whether there is one (Node's SEA documentation).
 */
const RESOURCE = 'NODE_SEA_BLOB'
const FUSE = 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2'
const MACHO_SEGMENT = 'NODE_SEA'
const IDENTIFIER = 'azure-openai-proxy'

/** What has to be done before something is put into a runtime: it would be void or impossible after. */
export function prepare(runtime: Buffer, { format }: Platform): Buffer {
  if (format === 'elf') return stripElf(runtime)
  if (format === 'pe') return withoutSignature(runtime)
  return runtime
}

function signed(file: Buffer, { format }: Platform): Buffer {
  if (format === 'macho') return signMacho(file, IDENTIFIER)
  if (format === 'pe') return withChecksum(file)
  return file
}

function resourceOf(file: Buffer, { format }: Platform): Buffer | undefined {
  if (format === 'elf') return elfResource(file, RESOURCE)
  if (format === 'pe') return peResource(file, RESOURCE)
  return machoSection(file, MACHO_SEGMENT, `__${RESOURCE}`)
}

/**
 * Checks an executable by its bytes alone: format and architecture, the fuse, the blob, the signature where one is
 * needed.
 * @throws BuildError on the first thing that is wrong
 */
export function inspect(file: Buffer, platform: Platform, blob: Buffer): void {
  if (platform.format === 'elf') checkElf(file, platform.arch)
  if (platform.format === 'macho') checkMacho(file, platform.arch)
  if (platform.format === 'pe') checkPe(file, platform.arch)
  const fuse = file.indexOf(`${FUSE}:`)
  if (fuse === -1 || file[fuse + FUSE.length + 1] !== '1'.charCodeAt(0)) {
    throw new BuildError(`${platform.name}: the fuse that makes Node look for the program is not set`)
  }
  if (resourceOf(file, platform)?.equals(blob) !== true) {
    throw new BuildError(`${platform.name}: the program is not found where Node looks for it`)
  }
  if (platform.format === 'macho') verifyMacho(file)
  if (platform.format === 'pe' && (isSigned(file) || withChecksum(file).compare(file) !== 0)) {
    throw new BuildError(`${platform.name}: signature or checksum ${peChecksum(file)} is not as it should be`)
  }
}

/**
 * Puts the program into a prepared runtime. The library keeps some 700 MB until its process ends.
 * @param path the runtime, which becomes the executable
 * @throws BuildError when it cannot be done
 */
export async function putIn(path: string, platform: Platform, blob: Buffer): Promise<void> {
  const options = platform.format === 'macho' ? { machoSegmentName: MACHO_SEGMENT } : {}
  await inject(path, RESOURCE, blob, { sentinelFuse: FUSE, ...options }).catch((error: unknown) => {
    // It does not pass on why a file could not be written; a full disk is the usual reason.
    const why = error instanceof Error ? error.message : String(error)
    const hint = why.includes('write') ? ' (no space left on the device?)' : ''
    throw new BuildError(`${platform.name}: the program could not be put into the runtime: ${why}${hint}`)
  })
}

/**
 * Signs and checks an executable.
 * @param file the runtime with the program in it
 * @throws BuildError when it would not work
 */
export function finish(file: Buffer, platform: Platform, blob: Buffer): Buffer {
  const executable = signed(file, platform)
  inspect(executable, platform, blob)
  return executable
}
