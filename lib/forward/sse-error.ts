// The error event that ends a stream which cannot be finished, in the API's own form. Behind it the stream
// ends; there is never a `[DONE]` or a terminal event that did not come from upstream.
import type { Dialect } from '../azure/operations.ts'

export interface StreamTrouble {
  readonly code: 'upstream_error' | 'upstream_timeout' | 'draining'
  readonly message: string
}

const LAST_SEQUENCE = /"sequence_number"\s*:\s*(\d{1,9})(?!.*"sequence_number")/s

/**
 * The error event's bytes, or undefined where the dialect has none (the connection is cut then). Chat: `data:
 * {"error":…}`, which every SDK throws for. Responses: the flat form of OpenAI's reference and Azure's nested one in
 * one event. Half of the SDKs throw only for the nested form (azure/README.md 5.5). Claude: Anthropic's form, which its
 * SDKs read only under its own `event:` line.
 * @param tail the stream's last bytes, for the sequence number that goes on from there
 */
export function streamErrorEvent(dialect: Dialect, { code, message }: StreamTrouble, tail: Buffer): Buffer | undefined {
  const error = { message, type: 'server_error', param: null, code }
  if (dialect === 'chat') return Buffer.from(`data: ${JSON.stringify({ error })}\n\n`)
  if (dialect === 'claude') {
    const type = code === 'upstream_timeout' ? 'timeout_error' : code === 'draining' ? 'overloaded_error' : 'api_error'
    return Buffer.from(`event: error\ndata: ${JSON.stringify({ type: 'error', error: { type, message } })}\n\n`)
  }
  if (dialect !== 'responses') return undefined
  const last = LAST_SEQUENCE.exec(tail.toString('latin1'))?.[1]
  const event = {
    type: 'error',
    sequence_number: last === undefined ? 0 : Number(last) + 1,
    code,
    message,
    param: null,
    error,
  }
  return Buffer.from(`event: error\ndata: ${JSON.stringify(event)}\n\n`)
}
