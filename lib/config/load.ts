// The config from its file to a frozen Config or a list of problems: the one entrance to this folder.
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs'
import { sep } from 'node:path'
import { createSecureContext } from 'node:tls'
import { buildConfig } from './build.ts'
import type { Env } from './credential.ts'
import { CONFIG_MAX_CHARS, readDocument } from './document.ts'
import { errorCode } from './interpolate.ts'
import { foreignFile } from './other-files.ts'
import { createReport, formatProblem, type Place, type Problem, type Report } from './problems.ts'
import { configReader, SECTION_NAMES } from './schema.ts'
import { Secret } from './secret.ts'
import type { Config } from './types.ts'
import { reportWarnings } from './warnings.ts'

export type { ConfigOption } from './schema.ts'
export { configOptions } from './schema.ts'
export type { Problem }
export { formatProblem }

/**
 * `files`: what the config depends on besides the environment (itself first), also when it is invalid; for watching.
 */
export type LoadResult =
  | {
      readonly kind: 'ok'
      readonly config: Config
      readonly warnings: readonly Problem[]
      readonly files: readonly string[]
    }
  | { readonly kind: 'invalid'; readonly problems: readonly Problem[]; readonly files: readonly string[] }

export interface ParseSources {
  /** The path of the config: named in problems; relative paths inside start in its folder. */
  readonly file: string
  readonly env: Env
  /** Whether every user of this machine may read the file; left out: not known. */
  readonly worldReadable?: boolean | undefined
  /** The text of a mounted secret or a PEM file; throws when it cannot be read. */
  readonly readSecretFile: (path: string) => string
  /** Wall clock in milliseconds: warns of keys that end soon. */
  readonly nowEpochMs?: number | undefined
}

export interface LoadSources {
  readonly file: string
  readonly env: Env
  /** The config's bytes; throws when they cannot be read. Left out: the file system, bounded. */
  readonly readFile?: (path: string) => Uint8Array
  readonly readSecretFile?: (path: string) => string
  readonly nowEpochMs?: number | undefined
  /**
   * Called with every text as it was read, by the path it was asked for; with these texts the same config can be loaded
   * again.
   */
  readonly onRead?: (path: string, text: string) => void
}

/** Bundles of CAs hold a few hundred certificates; a device or a log named by mistake is not read to its end. */
const PEM_FILE_MAX_BYTES = 1024 * 1024

// UTF-8 takes at most 3 bytes for one of JavaScript's characters.
const CONFIG_MAX_BYTES = 3 * CONFIG_MAX_CHARS

/** Reads and checks a config file, synchronously: at start and on reload, bounded in size. Never throws. */
export function loadConfig(sources: LoadSources): LoadResult {
  const { file, env, readFile, readSecretFile = readSecretText, onRead, nowEpochMs } = sources
  const unreadable = (message: string): LoadResult => ({
    kind: 'invalid',
    problems: [{ file, line: 1, column: 1, path: '', message }],
    files: [file],
  })
  let bytes: Uint8Array
  try {
    bytes = (readFile ?? (path => readBounded(path, CONFIG_MAX_BYTES)))(file)
  } catch (error) {
    const code = errorCode(error)
    const cure = code === 'ENOENT' ? ': name one with --config, or begin with a copy of config.template.yaml' : ''
    return unreadable(`the file cannot be read (${code})${cure}`)
  }
  if (bytes.length > CONFIG_MAX_BYTES) return unreadable(`the file is larger than ${CONFIG_MAX_BYTES} bytes`)
  const text = decode(bytes)
  if (text === undefined) return unreadable('the file is not UTF-8 text: save it as UTF-8')
  onRead?.(file, text)
  const readAndReport = (path: string): string => {
    const secret = readSecretFile(path)
    onRead?.(path, secret)
    return secret
  }
  const worldReadable = readFile === undefined ? isWorldReadable(file) : undefined
  return parseConfig(text, { file, env, readSecretFile: readAndReport, nowEpochMs, worldReadable })
}

/**
 * Checks a config's text: a frozen Config, or every problem, sorted by place. Never throws; secrets are in no message.
 */
export function parseConfig(text: string, sources: ParseSources): LoadResult {
  const report = createReport(sources.file)
  const { root, files } = readDocument(text, sources, report)
  const dependsOn = [sources.file, ...files]
  const invalid = (): LoadResult => ({ kind: 'invalid', problems: report.problems(), files: [...new Set(dependsOn)] })
  if (root === undefined) return invalid()
  if (root.kind === 'scalar' && root.value === null) {
    report.problem(root, 'the file is empty: begin with a copy of config.template.yaml')
    return invalid()
  }
  const foreign = root.kind === 'map' ? foreignFile([...root.entries.keys()], SECTION_NAMES) : undefined
  if (foreign !== undefined) {
    report.problem({ ...root, path: '' }, foreign)
    return invalid()
  }
  const options = configReader.read(root, report)
  if (options === undefined) return invalid()
  const config = buildConfig(options, { ...sources, onFile: path => dependsOn.push(path) }, report)
  const { tls } = options.server.value
  if (config.server.tls !== undefined) {
    dependsOn.push(config.server.tls.certFile, config.server.tls.keyFile)
    const { certFile, keyFile } = config.server.tls
    if (tls.value !== undefined) {
      const cert = readPem(certFile, '-----BEGIN CERTIFICATE-----', tls.value.cert.place, sources, report)
      const key = readPem(keyFile, 'PRIVATE KEY-----', tls.value.key.place, sources, report)
      if (cert !== undefined && key !== undefined) checkPair({ cert, key }, tls.value.key.place, report)
    }
  }
  for (const [index, { keys }] of config.auth.tokens.entries()) {
    if (keys.kind !== 'file') continue
    dependsOn.push(keys.path)
    const place = options.auth.value.tokens.value[index]?.value.jwks.place
    if (place !== undefined) checkKeySet(keys.path, place, sources, report)
  }
  if (report.failed()) return invalid()
  reportWarnings(options, config, { text, worldReadable: sources.worldReadable }, report)
  return { kind: 'ok', config: freeze(config), warnings: report.warnings(), files: [...new Set(dependsOn)] }
}

function checkKeySet(path: string, place: Place, sources: ParseSources, report: Report): void {
  try {
    if (!/"keys"\s*:\s*\[/.test(sources.readSecretFile(path))) {
      report.problem(place, 'must name a file that holds a JSON Web Key Set ({"keys": […]}), and this one does not')
    }
  } catch (error) {
    report.problem(
      place,
      `names a file that cannot be read (${errorCode(error)}); a relative path starts in the config's folder`,
    )
  }
}

function readPem(path: string, mark: string, place: Place, sources: ParseSources, report: Report): string | undefined {
  try {
    const text = sources.readSecretFile(path)
    if (text.includes(mark)) return text
    report.problem(place, `must name a PEM file that holds "${mark}", and this file does not`)
  } catch (error) {
    report.problem(
      place,
      `names a file that cannot be read (${errorCode(error)}); a relative path starts in the config's folder`,
    )
  }
  return undefined
}

// As the listener will do it: found here it is a line of --check, found there the end of a process.
function checkPair(files: { readonly cert: string; readonly key: string }, place: Place, report: Report): void {
  try {
    createSecureContext(files)
  } catch (error) {
    const isMismatch = error instanceof Error && error.message.includes('key values mismatch')
    report.problem(
      place,
      isMismatch
        ? 'does not fit the certificate: cert and key must be of one pair'
        : `cannot be used together with the certificate (${errorCode(error)}): both must be PEM, the key without a passphrase`,
    )
  }
}

// Files of /proc and the like say size 0 and hold more.
const READ_BEYOND_BYTES = 64 * 1024

function readSecretText(path: string): string {
  return new TextDecoder().decode(readBounded(path, PEM_FILE_MAX_BYTES))
}

// Windows has no such bits: there the folder's rights decide.
function isWorldReadable(path: string): boolean | undefined {
  try {
    const { mode } = statSync(path)
    return sep === '\\' ? undefined : (mode & 0o004) !== 0
  } catch {
    return undefined
  }
}

// Not readFileSync: a device must not fill the memory, a pipe must not be waited for (O_NONBLOCK: not even to open it).
function readBounded(path: string, maxBytes: number): Uint8Array {
  const file = openSync(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
  try {
    const stat = fstatSync(file)
    if (stat.isDirectory()) throw Object.assign(new Error('a folder'), { code: 'EISDIR' })
    if (!stat.isFile()) throw Object.assign(new Error('no regular file'), { code: 'NO_REGULAR_FILE' })
    const buffer = Buffer.alloc(Math.min(maxBytes, stat.size) + READ_BEYOND_BYTES)
    let length = 0
    while (length < buffer.length) {
      const count = readSync(file, buffer, length, buffer.length - length, null)
      if (count === 0) break
      length += count
    }
    return buffer.subarray(0, length)
  } finally {
    closeSync(file)
  }
}

function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return undefined
  }
}

// Everything but the digests (bytes cannot be frozen) and the secrets (their text is private already).
function freeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || value instanceof Secret) return value
  for (const part of Object.values(value)) freeze(part)
  return Object.freeze(value)
}
