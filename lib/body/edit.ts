// Puts a backend's deployment where the client wrote the model: a few new bytes between views of the body as it came.
// All else of a body goes upstream byte for byte. It must not know how the deployment was chosen, nor whether the
// upstream reads the model from the body at all.
import { type ByteRange, type ChunkList, type Replacement, replaceBytes } from './chunk-list.ts'
import type { JsonMember, ScannedObject } from './json-scan.ts'

/** The member that carries the model in every OpenAI request body. */
export const MODEL = 'model'

/** The member that counts: of duplicates the last one, as JavaScript and Python read them; undefined: there is none. */
export function lastMember(members: readonly JsonMember[], name: string): JsonMember | undefined {
  return members.findLast(member => member.name === name)
}

/**
 * The body with `deployment` as its model. `scan` is the scan of exactly these chunks, with `model` among the wanted
 * names.
 */
export function setModel(chunks: readonly Buffer[], scan: ScannedObject, deployment: string): ChunkList {
  return setMember(chunks, scan, MODEL, JSON.stringify(deployment))
}

/**
 * The body with the top-level member `name` set to `jsonText` (valid JSON). The value of every occurrence is replaced,
 * so that it does not matter which duplicate the upstream believes. Without one, the member is inserted right after the
 * opening brace. `scan` is the scan of exactly these chunks, with `name` among the wanted names. The same list comes
 * back when the values are these bytes already.
 */
export function setMember(chunks: readonly Buffer[], scan: ScannedObject, name: string, jsonText: string): ChunkList {
  return setMembers(chunks, scan, [[name, jsonText]])
}

const NO_BYTES = Buffer.alloc(0)

/**
 * As setMember, for several members in one pass: pairs of name and JSON text, each name once.
 * @param removed ranges that are left out, none of them in a member that changes
 */
export function setMembers(
  chunks: readonly Buffer[],
  scan: ScannedObject,
  changes: readonly (readonly [name: string, jsonText: string])[],
  removed: readonly ByteRange[] = [],
): ChunkList {
  const missing = changes.filter(([name]) => !scan.members.some(member => member.name === name))
  const replacements = scan.members.flatMap(({ name, start, end }): Replacement[] => {
    const change = changes.find(([changed]) => changed === name)
    return change === undefined ? [] : [{ start, end, bytes: Buffer.from(change[1]) }]
  })
  if (missing.length > 0) {
    const text = missing.map(([name, jsonText]) => `${JSON.stringify(name)}:${jsonText}`).join(',')
    const bytes = Buffer.from(scan.empty ? text : `${text},`)
    replacements.unshift({ start: scan.objectStart, end: scan.objectStart, bytes })
  }
  if (removed.length > 0) {
    for (const { start, end } of removed) replacements.push({ start, end, bytes: NO_BYTES })
    replacements.sort((a, b) => a.start - b.start)
  }
  return replaceBytes(chunks, replacements)
}
