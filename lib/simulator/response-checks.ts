// Azure's refusals of a request of the Responses API, in its own words (azure/README.md 1.5, 6.2, 13.4).
import { modelError, type WholeResponse } from './errors.ts'

type Json = Readonly<Record<string, unknown>>

const KNOWN = new Set([
  'background',
  'client_metadata',
  'context_management',
  'conversation',
  'include',
  'input',
  'instructions',
  'max_output_tokens',
  'max_tool_calls',
  'metadata',
  'model',
  'parallel_tool_calls',
  'previous_response_id',
  'prompt',
  'prompt_cache_key',
  'prompt_cache_retention',
  'reasoning',
  'safety_identifier',
  'service_tier',
  'store',
  'stream',
  'stream_options',
  'temperature',
  'text',
  'tool_choice',
  'tools',
  'top_logprobs',
  'top_p',
  'truncation',
  'user',
])
/** Members of input items that Azure is known to refuse (openai/codex issues 29469 and 30161). */
const REFUSED_IN_ITEMS = ['internal_chat_message_metadata_passthrough', 'metadata'] as const

/** What Azure says of an item that it does not hold; also, at random, of one that it has just made. */
export function unknownItem(id: string, storesNothing: boolean): WholeResponse {
  const more = storesNothing
    ? ' Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item from your input.'
    : ''
  return modelError(400, `Item with id '${id}' not found.${more}`, { param: 'input' })
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The items of an input, in either of its forms. */
export function inputItemsOf(input: unknown): readonly Json[] {
  if (Array.isArray(input)) return input.filter(isObject)
  if (typeof input !== 'string') return []
  return [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: input }] }]
}

/** The id of an item that is named instead of sent: a reference, or reasoning without its content. */
export function namedItem(item: Json): string | undefined {
  const isState = item.type === 'item_reference' || (item.type === 'reasoning' && item.encrypted_content === undefined)
  return isState && typeof item.id === 'string' ? item.id : undefined
}

/**
 * Why Azure refuses the body, whatever state it names.
 * @param takesItemMetadata lets members of items pass that OpenAI takes and Azure was seen to refuse
 */
export function checkForm(body: Json, takesItemMetadata = false): WholeResponse | undefined {
  for (const name of Object.keys(body)) {
    if (!KNOWN.has(name))
      return modelError(400, `Unknown parameter: '${name}'.`, { param: name, code: 'unknown_parameter' })
  }
  const { input, background, store } = body
  if (input === undefined && body.prompt === undefined && body.conversation === undefined) {
    return modelError(400, "Missing required parameter: 'input'.", {
      param: 'input',
      code: 'missing_required_parameter',
    })
  }
  if (typeof input !== 'string' && !Array.isArray(input) && input !== undefined) {
    return modelError(400, "Invalid type for 'input': expected one of an array of objects or string.", {
      param: 'input',
      code: 'invalid_type',
    })
  }
  if (background === true && store === false)
    return modelError(400, "Background mode requires 'store' to be true.", { param: 'store' })
  for (const [i, item] of inputItemsOf(input).entries()) {
    const param = takesItemMetadata ? undefined : REFUSED_IN_ITEMS.find(name => name in item)
    if (param !== undefined) {
      const path = `input[${i}].${param}`
      return modelError(400, `Unknown parameter: '${path}'.`, { param: path, code: 'unknown_parameter' })
    }
    if (item.type === 'item_reference' && typeof item.id !== 'string') {
      const path = `input[${i}].id`
      return modelError(400, `Missing required parameter: '${path}'.`, {
        param: path,
        code: 'missing_required_parameter',
      })
    }
  }
  return undefined
}

/** What a resource says of encrypted content that another one made. */
export function undecryptable(item: Json, sealed: string): WholeResponse {
  // Both texts are Azure's; which one comes when is not known.
  const text =
    item.type === 'compaction'
      ? `The encrypted content for item ${String(item.id ?? 'cmp')} could not be verified. Reason: Encrypted content organization_id did not match the target organization.`
      : `The encrypted content ${sealed.slice(0, 4)}…${sealed.slice(-3)} could not be verified. Reason: Encrypted content could not be decrypted or parsed.`
  return modelError(400, text, { code: 'invalid_encrypted_content' })
}

/** The first item that an input names. */
export function firstNamedItem(input: unknown): string | undefined {
  return inputItemsOf(input)
    .map(namedItem)
    .find(id => id !== undefined)
}
