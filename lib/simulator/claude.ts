// Claude as Foundry serves it: Anthropic's Messages API with its own stream and its own errors (azure/README.md 13.3).
import type { IncomingHttpHeaders } from 'node:http'
import type { SimulatedResponse } from './chat.ts'
import type { WholeResponse } from './errors.ts'
import type { PromptCache } from './prompt-cache.ts'
import { instanceOf, piecesOf } from './structured.ts'
import { countTokens, digest, pieces } from './text.ts'

type Json = Readonly<Record<string, unknown>>

const KNOWN = new Set([
  'cache_control',
  'container',
  'context_management',
  'mcp_servers',
  'max_tokens',
  'messages',
  'metadata',
  'model',
  'output_config',
  'output_format',
  'service_tier',
  'stop_sequences',
  'stream',
  'system',
  'temperature',
  'thinking',
  'tool_choice',
  'tools',
  'top_k',
  'top_p',
])

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** An error of the model's own service. @param type `invalid_request_error`, `overloaded_error` … */
export function claudeError(status: number, type: string, message: string): WholeResponse {
  const id = `req_${digest(`${status} ${message}`)}`
  return {
    status,
    headers: { 'Content-Type': 'application/json', 'request-id': id },
    body: JSON.stringify({ type: 'error', error: { type, message }, request_id: id }),
  }
}

/** What Claude deployments say elsewhere, and what `/anthropic` says of paths that it does not have. */
export function notSupported(): WholeResponse {
  return {
    status: 404,
    headers: { 'Content-Type': 'application/json' },
    body: '{"error":{"code":"api_not_supported","message":"Requested API is currently not supported"}}',
  }
}

/** Anthropic's type of an error with this status. */
export function claudeErrorType(status: number): string {
  switch (status) {
    case 401:
      return 'authentication_error'
    case 403:
      return 'permission_error'
    case 404:
      return 'not_found_error'
    case 429:
      return 'rate_limit_error'
    case 529:
      return 'overloaded_error'
    default:
      return status >= 500 ? 'api_error' : 'invalid_request_error'
  }
}

/** Why the request is refused, if it is. @param counts it asks for `count_tokens` only */
export function checkClaude(body: Json, headers: IncomingHttpHeaders, counts: boolean): WholeResponse | undefined {
  const wrong = (message: string): WholeResponse => claudeError(400, 'invalid_request_error', message)
  if (headers['anthropic-version'] === undefined) return wrong('anthropic-version: header is required')
  for (const name of Object.keys(body)) if (!KNOWN.has(name)) return wrong(`${name}: Extra inputs are not permitted`)
  if (!Array.isArray(body.messages)) return wrong('messages: Field required')
  if (body.messages.length === 0) return wrong('messages: at least one message is required')
  if (!counts && typeof body.max_tokens !== 'number') return wrong('max_tokens: Field required')
  return undefined
}

function promptOf(body: Json): string {
  return JSON.stringify([body.tools ?? [], body.system ?? '', body.messages ?? []])
}

/** How many tokens a prompt has, without an answer. */
export function countClaude(body: Json): SimulatedResponse {
  const value = { input_tokens: countTokens(promptOf(body)) }
  const headers = { 'Content-Type': 'application/json' }
  return { kind: 'answer', answer: { status: 200, headers, body: JSON.stringify(value) } }
}

/** A block of the answer, and the deltas that it is streamed in. */
interface Block {
  readonly empty: Json
  readonly whole: Json
  readonly deltas: readonly Json[]
}

function textBlock(deltas: readonly string[]): Block {
  return {
    empty: { type: 'text', text: '' },
    whole: { type: 'text', text: deltas.join('') },
    deltas: deltas.map(text => ({ type: 'text_delta', text })),
  }
}

function thinkingBlock(seed: string): Block {
  const thinking = 'The question is clear.'
  const signature = `EqQB${digest(seed, 60)}`
  return {
    empty: { type: 'thinking', thinking: '', signature: '' },
    whole: { type: 'thinking', thinking, signature },
    deltas: [
      { type: 'thinking_delta', thinking },
      { type: 'signature_delta', signature },
    ],
  }
}

function toolBlock(tool: Json, seed: string): Block {
  const given = instanceOf(tool.input_schema ?? {})
  const input = isObject(given) ? given : {}
  const common = { type: 'tool_use', id: `toolu_${digest(seed)}`, name: tool.name }
  return {
    empty: { ...common, input: {} },
    whole: { ...common, input },
    deltas: piecesOf(JSON.stringify(input)).map(partial_json => ({ type: 'input_json_delta', partial_json })),
  }
}

function forcedTool({ tools, tool_choice: choice }: Json): Json | undefined {
  const listed = Array.isArray(tools) ? tools.filter(isObject) : []
  if (!isObject(choice)) return undefined
  if (choice.type === 'any') return listed[0]
  return choice.type === 'tool' ? listed.find(({ name }) => name === choice.name) : undefined
}

function schemaOf({ output_config: config, output_format: older }: Json): unknown {
  const format = isObject(config) && isObject(config.format) ? config.format : older
  return isObject(format) && format.type === 'json_schema' ? format.schema : undefined
}

export interface ClaudeOptions {
  readonly model: string
  readonly deltas: number
  readonly cache: PromptCache | undefined
}

const event = (type: string, fields: Json): string => `event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`

/** Answers a request that checkClaude let through. */
export function claude(body: Json, { model, deltas, cache }: ClaudeOptions): SimulatedResponse {
  const prompt = promptOf(body)
  const promptTokens = countTokens(prompt)
  const cachedTokens = Math.min(cache?.ask(prompt) ?? 0, promptTokens)
  const seed = digest(prompt)
  const tool = forcedTool(body)
  const schema = schemaOf(body)
  const isLimited = Number(body.max_tokens) < deltas
  const words = pieces(prompt, isLimited ? Math.max(Number(body.max_tokens), 1) : deltas)
  const said =
    tool !== undefined
      ? toolBlock(tool, seed)
      : textBlock(schema === undefined ? words : piecesOf(JSON.stringify(instanceOf(schema))))
  const thinks = isObject(body.thinking) && body.thinking.type !== 'disabled' && tool === undefined
  const blocks = thinks ? [thinkingBlock(seed), said] : [said]
  // The input side leaves out what came from the cache.
  const input = {
    input_tokens: promptTokens - cachedTokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cachedTokens,
    cache_creation: { ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 0 },
    service_tier: 'standard',
  }
  const outputTokens = blocks.reduce((sum, block) => sum + block.deltas.length, 0)
  const base = { id: `msg_${seed}`, type: 'message', role: 'assistant', model }
  const reason = tool !== undefined ? 'tool_use' : isLimited ? 'max_tokens' : 'end_turn'
  if (body.stream !== true) {
    const usage = { ...input, output_tokens: outputTokens }
    const message = {
      ...base,
      content: blocks.map(({ whole }) => whole),
      stop_reason: reason,
      stop_sequence: null,
      usage,
    }
    return {
      kind: 'answer',
      answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(message) },
    }
  }
  const begun = { ...base, content: [], stop_reason: null, stop_sequence: null, usage: { ...input, output_tokens: 1 } }
  const events = [event('message_start', { message: begun })]
  for (const [index, { empty, deltas: parts }] of blocks.entries()) {
    events.push(event('content_block_start', { index, content_block: empty }))
    if (index === 0) events.push(event('ping', {}))
    for (const delta of parts) events.push(event('content_block_delta', { index, delta }))
    events.push(event('content_block_stop', { index }))
  }
  const usage = { output_tokens: outputTokens }
  events.push(event('message_delta', { delta: { stop_reason: reason, stop_sequence: null }, usage }))
  events.push(event('message_stop', {}))
  return { kind: 'events', events, startUp: 3, terminal: 1 }
}
