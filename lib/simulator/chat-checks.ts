// Azure's refusals of a chat request, in its own words (azure/README.md 6.2).
import { modelError, type WholeResponse } from './errors.ts'

type Json = Readonly<Record<string, unknown>>

const KNOWN = new Set([
  'audio',
  'data_sources',
  'frequency_penalty',
  'function_call',
  'functions',
  'logit_bias',
  'logprobs',
  'max_completion_tokens',
  'max_tokens',
  'messages',
  'metadata',
  'modalities',
  'model',
  'n',
  'parallel_tool_calls',
  'prediction',
  'presence_penalty',
  'prompt_cache_key',
  'prompt_cache_retention',
  'reasoning_effort',
  'response_format',
  'safety_identifier',
  'seed',
  'service_tier',
  'stop',
  'store',
  'stream',
  'stream_options',
  'temperature',
  'tool_choice',
  'tools',
  'top_logprobs',
  'top_p',
  'user',
  'user_security_context',
  'verbosity',
  'web_search_options',
])

const MAX_MESSAGES = 2_048
const MAX_TOOLS = 128

/** Why Azure refuses the request, if it does. */
export function checkChat(body: Json, apiVersion: string): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name)) return modelError(400, `Unrecognized request argument supplied: ${name}`)
  }
  const { messages, tools, stream, stream_options: streamOptions } = body
  if (messages === undefined)
    return modelError(400, "Missing required parameter: 'messages'.", {
      param: 'messages',
      code: 'missing_required_parameter',
    })
  if (!Array.isArray(messages))
    return modelError(400, "Invalid type for 'messages': expected an array of objects.", {
      param: 'messages',
      code: 'invalid_type',
    })
  if (messages.length === 0) {
    return modelError(
      400,
      "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
      {
        param: 'messages',
        code: 'empty_array',
      },
    )
  }
  if (messages.length > MAX_MESSAGES)
    return modelError(400, "Invalid 'messages': array too long.", { param: 'messages', code: 'array_above_max_length' })
  for (const [i, message] of messages.entries()) {
    if (typeof message !== 'object' || message === null || typeof Reflect.get(message, 'role') !== 'string') {
      return modelError(400, `Missing required parameter: 'messages[${i}].role'.`, {
        param: `messages[${i}].role`,
        code: 'missing_required_parameter',
      })
    }
  }
  if (Array.isArray(tools) && tools.length > MAX_TOOLS)
    return modelError(400, "Invalid 'tools': array too long.", { param: 'tools', code: 'array_above_max_length' })
  if (streamOptions !== undefined && streamOptions !== null) {
    // Older versions do not know the option, and it needs a stream (azure/README.md 1.2).
    if (/^20(22|23)-|^2024-0[1-8]/.test(apiVersion))
      return modelError(400, 'Unrecognized request argument supplied: stream_options')
    if (stream !== true) {
      return modelError(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", {
        param: 'stream_options',
      })
    }
    if (body.data_sources !== undefined)
      return modelError(400, 'Validation error: stream_options is not supported with data_sources.', {
        param: 'stream_options',
      })
  }
  if (stream !== undefined && stream !== null && typeof stream !== 'boolean') {
    return modelError(400, "Invalid type for 'stream': expected a boolean.", { param: 'stream', code: 'invalid_type' })
  }
  return undefined
}
