// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// `${NAME}`, `${NAME:-default}`, `${file:PATH}` and `$${` in one string. Pure but for the file reader it is given;
// never puts a value it inserted into a message.
import { dirname, isAbsolute, join } from 'node:path'

/** Where inserted values come from. */
export interface InterpolationSources {
  /** The config file's path: relative paths start in its folder. */
  readonly file: string
  readonly env: Readonly<Record<string, string | undefined>>
  /** The text of a mounted secret; throws when it cannot be read. */
  readonly readSecretFile: (path: string) => string
}

/** The finished text (`inserted`: something came from outside), or every reason why there is none. */
export type Interpolated =
  | { readonly kind: 'ok'; readonly text: string; readonly inserted: boolean; readonly files: readonly string[] }
  | { readonly kind: 'failed'; readonly messages: readonly string[]; readonly files: readonly string[] }

/**
 * Largest mounted secret, in bytes: keys and certificates are a few KB; a device or a log mounted by mistake is not
 * read.
 */
export const SECRET_FILE_MAX_BYTES = 256 * 1024

const PIECE = /\$\$\{|\$\{([^}]*)\}|\$\{/g
const NAME = /^([A-Za-z_][A-Za-z0-9_]*)(:-([\s\S]*))?$/
const FILE = 'file:'

/** Replaces every `${…}` of `text`. What is inserted is plain text: it is neither YAML nor searched for `${` again. */
export function interpolate(text: string, sources: InterpolationSources): Interpolated {
  const messages: string[] = []
  const files: string[] = []
  let inserted = false
  const result = text.replaceAll(PIECE, (piece, inner: string | undefined) => {
    if (piece === '$${') return '${'
    inserted = true
    const value = lookUp(inner, sources, files)
    if (value.kind === 'ok') return value.text
    messages.push(value.message)
    return ''
  })
  return messages.length === 0 ? { kind: 'ok', text: result, inserted, files } : { kind: 'failed', messages, files }
}

/** A path of the config as the program opens it: relative ones start in the config file's folder. */
export function resolvePath(file: string, path: string): string {
  return isAbsolute(path) ? path : join(dirname(file), path)
}

type LookedUp = { readonly kind: 'ok'; readonly text: string } | { readonly kind: 'failed'; readonly message: string }

function lookUp(inner: string | undefined, sources: InterpolationSources, files: string[]): LookedUp {
  if (inner === undefined) return failed('"${" is never closed: write ${NAME}, or $${ for a literal ${')
  if (inner.includes('${')) return failed('one ${…} inside another is not supported')
  if (inner.startsWith(FILE)) {
    const path = inner.slice(FILE.length).trim()
    if (path === '') return failed('${file:} names no file: write ${file:PATH}')
    const resolved = resolvePath(sources.file, path)
    files.push(resolved)
    return readBounded(resolved, sources.readSecretFile)
  }
  const match = NAME.exec(inner)
  const name = match?.[1]
  if (match === null || name === undefined) {
    return failed(
      '${…} must hold the name of an environment variable (letters, digits, _), NAME:-default or file:PATH; a literal ${ is written $${',
    )
  }
  const value = Object.hasOwn(sources.env, name) ? sources.env[name] : undefined
  const fallback = match[2] === undefined ? undefined : (match[3] ?? '')
  // As in the shell: `:-` also replaces an empty value.
  if (fallback !== undefined && (value === undefined || value === '')) return { kind: 'ok', text: fallback }
  if (value !== undefined) return { kind: 'ok', text: value }
  return failed(`the environment variable ${name} is not set: set it, or write \${${name}:-default}`)
}

function readBounded(path: string, read: (path: string) => string): LookedUp {
  const shown = JSON.stringify(path)
  try {
    const text = read(path)
    if (text.length > SECRET_FILE_MAX_BYTES) {
      return failed(`the file ${shown} is larger than ${SECRET_FILE_MAX_BYTES / 1024}KB`)
    }
    // Editors and `echo` end a file with a line break that is no part of the secret.
    return { kind: 'ok', text: text.replace(/\r?\n$/, '') }
  } catch (error) {
    return failed(`the file ${shown} cannot be read (${errorCode(error)})`)
  }
}

/** The system's code of a failed file operation (`ENOENT`), never its message: that could quote what was read. */
export function errorCode(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^[A-Z0-9_]{1,40}$/.test(code) ? code : 'unreadable'
}

function failed(message: string): LookedUp {
  return { kind: 'failed', message }
}
