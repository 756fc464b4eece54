// `stream_usage`: asks the upstream for usage in the name of a client that did not, so that streams can be accounted for.
import { readErrorBody } from '../azure/errors.ts'
import type { UpstreamAnswer } from '../forward/attempt-result.ts'
import { sliceBytes } from '../forward/chunk-list.ts'
import type { ScannedObject } from '../forward/json-scan.ts'
import { lastMember } from '../forward/model-field.ts'

/** The body member that carries it; also the name of the quirk of a backend that refuses it. */
export const STREAM_OPTIONS = 'stream_options'

/** No sane client sends more options than this; what is longer is left alone. */
const MAX_OPTIONS_BYTES = 4096

/**
 * The `stream_options` to send, as JSON text: the client's own and `include_usage`. Undefined where the client asked for usage
 * itself, or where its options are no object (then the upstream has to say so).
 */
export function optionsAskingUsage(chunks: readonly Buffer[], scan: ScannedObject): string | undefined {
  const member = lastMember(scan.members, STREAM_OPTIONS)
  if (member === undefined || member.kind === 'null') return '{"include_usage":true}'
  if (member.kind !== 'object' || member.end - member.start > MAX_OPTIONS_BYTES) return undefined
  const own: unknown = JSON.parse(sliceBytes(chunks, member.start, member.end, MAX_OPTIONS_BYTES).toString('utf8'))
  if (typeof own !== 'object' || own === null || Reflect.get(own, 'include_usage') === true) return undefined
  return JSON.stringify({ ...own, include_usage: true })
}

/** Whether an answer is a 400 about that option: API versions before 2024-09 and `data_sources` refuse it. */
export function refusesStreamOptions({ status, body }: UpstreamAnswer): boolean {
  if (status !== 400 || body.kind !== 'whole') return false
  const error = readErrorBody(Buffer.concat(body.chunks))
  return /stream_options|include_usage/.test(`${error.param ?? ''} ${error.message}`)
}
