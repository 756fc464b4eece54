// Loads the config for a command, or says on standard error what is wrong with it.
import { formatProblem, type LoadResult, loadConfig } from '../config/load.ts'
import type { Config } from '../config/types.ts'
import type { TlsFiles } from '../server/listener.ts'
import type { FileTexts } from '../workers/messages.ts'

/** Reads a config, and keeps what was read, so that a worker can load the very same. */
export function loadAndKeep(file: string): { readonly result: LoadResult; readonly texts: FileTexts } {
  const texts = new Map<string, string>()
  const result = loadConfig({
    file,
    env: process.env,
    nowEpochMs: Date.now(),
    onRead: (path, text) => texts.set(path, text),
  })
  return { result, texts: [...texts] }
}

/** Loads a config from texts that were kept: the files of now may be others, or wrong. */
export function loadFromTexts(file: string, texts: FileTexts): LoadResult {
  const kept = new Map(texts)
  const read = (path: string): string => {
    const text = kept.get(path)
    if (text === undefined) throw new Error(`${path} was not kept`)
    return text
  }
  return loadConfig({ file, env: process.env, readFile: path => Buffer.from(read(path)), readSecretFile: read })
}

/**
 * The listener's certificate and key, as they were when the config was found sound: the files of now may be half
 * renewed.
 */
export function tlsFrom(tls: Config['server']['tls'], texts: FileTexts): TlsFiles | undefined {
  if (tls === undefined) return undefined
  const kept = new Map(texts)
  const bytes = (path: string): Buffer => Buffer.from(kept.get(path) ?? '')
  return { cert: bytes(tls.certFile), key: bytes(tls.keyFile) }
}

/** @returns the result when the config is sound; undefined when its problems have been printed */
export function loadOrReport(file: string): (LoadResult & { kind: 'ok'; texts: FileTexts }) | undefined {
  const { result, texts } = loadAndKeep(file)
  if (result.kind === 'ok') {
    for (const warning of result.warnings) process.stderr.write(`warning: ${formatProblem(warning)}\n`)
    return { ...result, texts }
  }
  for (const problem of result.problems) process.stderr.write(`${formatProblem(problem)}\n`)
  return undefined
}
