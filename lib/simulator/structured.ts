// Output of a simulated model where the request fixes its form: an instance of a JSON schema, or a call of a tool. A
// function of the request alone.

type Json = Readonly<Record<string, unknown>>

/** Schemas that refer to themselves end here, with null or an empty list. */
const MAX_DEPTH = 12

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

const FORMATS: Readonly<Record<string, string>> = {
  'date-time': '2026-01-02T03:04:05Z',
  date: '2026-01-02',
  time: '03:04:05Z',
  duration: 'P1D',
  email: 'someone@example.com',
  hostname: 'example.com',
  ipv4: '192.0.2.1',
  ipv6: '2001:db8::1',
  uri: 'https://example.com/',
  url: 'https://example.com/',
  uuid: '00000000-0000-4000-8000-000000000000',
}

/** `#/$defs/Name`, the only form of reference that structured outputs know. */
function resolve(reference: string, root: unknown): unknown {
  return reference
    .replace(/^#\/?/, '')
    .split('/')
    .filter(part => part !== '')
    .reduce<unknown>(
      (at, part) => (isObject(at) ? at[part.replaceAll('~1', '/').replaceAll('~0', '~')] : undefined),
      root,
    )
}

function text(schema: Json): string {
  const { format, minLength } = schema
  const known = typeof format === 'string' ? FORMATS[format] : undefined
  if (known !== undefined) return known
  return 'x'.repeat(typeof minLength === 'number' ? Math.max(minLength, 1) : 1)
}

function number(schema: Json, isWhole: boolean): number {
  const { minimum, exclusiveMinimum, maximum } = schema
  const least =
    typeof minimum === 'number' ? minimum : typeof exclusiveMinimum === 'number' ? exclusiveMinimum + 1 : undefined
  const value = least ?? (typeof maximum === 'number' ? Math.min(maximum, 1) : 1)
  return isWhole ? Math.ceil(value) : value
}

/**
 * The simplest value that a schema allows. The first of an enum, of `anyOf` and of types that are not null; every
 * property; one element of a list; "x", 1, true.
 * @param root what `$ref` is resolved in
 */
export function instanceOf(schema: unknown, root: unknown = schema, depth = 0): unknown {
  if (!isObject(schema) || depth > MAX_DEPTH) return null
  const within = (inner: unknown): unknown => instanceOf(inner, root, depth + 1)
  if (typeof schema.$ref === 'string') return within(resolve(schema.$ref, root))
  if ('const' in schema) return schema.const
  if (Array.isArray(schema.enum)) return schema.enum[0]
  for (const name of ['anyOf', 'oneOf', 'allOf'] as const) {
    const choices: unknown = schema[name]
    if (!Array.isArray(choices) || choices.length === 0) continue
    if (name !== 'allOf')
      return within(choices.find(choice => !isObject(choice) || choice.type !== 'null') ?? choices[0])
    const parts = choices.map(within)
    return parts.every(isObject) ? Object.assign({}, ...parts) : parts[0]
  }
  const types: unknown = schema.type
  const type: unknown = Array.isArray(types) ? (types.find(one => one !== 'null') ?? 'null') : types
  switch (type) {
    case 'string':
      return text(schema)
    case 'integer':
    case 'number':
      return number(schema, type === 'integer')
    case 'boolean':
      return true
    case 'null':
      return null
    case 'array':
      if (schema.maxItems === 0 || depth >= MAX_DEPTH) return []
      return Array.from({ length: Math.max(Number(schema.minItems ?? 1), 1) }, () => within(schema.items ?? {}))
    default:
  }
  if (type !== 'object' && !isObject(schema.properties)) return 'x'
  const properties = isObject(schema.properties) ? schema.properties : {}
  return Object.fromEntries(Object.entries(properties).map(([name, inner]) => [name, within(inner)]))
}

/** What an answer consists of. */
export type Output =
  | { readonly kind: 'words' }
  /** Text that must be exactly this. */
  | { readonly kind: 'json'; readonly text: string }
  | {
      readonly kind: 'call'
      readonly name: string
      readonly arguments: string
      readonly named: boolean
      readonly legacy: boolean
    }

interface Tool {
  readonly name: string
  readonly parameters: unknown
}

/** Chat nests a function below `function`, Responses and the older `functions` do not. */
function toolOf(value: unknown): Tool | undefined {
  if (!isObject(value)) return undefined
  const fields = isObject(value.function) ? value.function : value
  if ('type' in value && value.type !== 'function') return undefined
  return typeof fields.name === 'string' ? { name: fields.name, parameters: fields.parameters } : undefined
}

function nameIn(choice: unknown): string | undefined {
  if (!isObject(choice)) return undefined
  const fields = isObject(choice.function) ? choice.function : choice
  return typeof fields.name === 'string' ? fields.name : undefined
}

/** Tools that the conversation has called already: a model that must call one goes on to the next. */
function calledIn(conversation: readonly unknown[]): ReadonlySet<string> {
  const names = conversation.flatMap(entry => {
    if (!isObject(entry)) return []
    if (entry.type === 'function_call') return [nameIn(entry)]
    return Array.isArray(entry.tool_calls) ? entry.tool_calls.map(nameIn) : []
  })
  return new Set(names.filter(name => name !== undefined))
}

function callOf(tool: Tool, named: boolean, legacy: boolean): Output {
  const given = instanceOf(tool.parameters ?? {})
  return { kind: 'call', name: tool.name, arguments: JSON.stringify(isObject(given) ? given : {}), named, legacy }
}

function forcedCall(body: Json, conversation: readonly unknown[]): Output | undefined {
  const listed: readonly unknown[] = Array.isArray(body.tools) ? body.tools : []
  const tools = listed.map(toolOf).filter(tool => tool !== undefined)
  const { tool_choice: choice, function_call: legacy } = body
  if (Array.isArray(body.functions) && isObject(legacy)) {
    const tool = body.functions.map(toolOf).find(one => one?.name === legacy.name)
    return tool === undefined ? undefined : callOf(tool, true, true)
  }
  const allowed = isObject(choice) && choice.type === 'allowed_tools' ? (choice.allowed_tools ?? choice) : undefined
  if (choice === 'required' || (isObject(allowed) && allowed.mode === 'required')) {
    const names: readonly unknown[] | undefined =
      isObject(allowed) && Array.isArray(allowed.tools) ? allowed.tools.map(nameIn) : undefined
    const usable = names === undefined ? tools : tools.filter(({ name }) => names.includes(name))
    const called = calledIn(conversation)
    const tool = usable.find(({ name }) => !called.has(name)) ?? usable.at(-1)
    return tool === undefined ? undefined : callOf(tool, false, false)
  }
  const name = nameIn(choice)
  const tool = name === undefined ? undefined : tools.find(one => one.name === name)
  return tool === undefined ? undefined : callOf(tool, true, false)
}

/** Texts searched for a schema end here. */
const MAX_TEXT_CHARS = 256 * 1024
/** Braces at which a schema is looked for. */
const MAX_BRACES = 64

/** The end of the JSON object that begins at `start`, its brace included; -1: the text ends before. */
function objectEnd(whole: string, start: number): number {
  let depth = 0
  let quoted = false
  for (let at = start; at < whole.length; at++) {
    const char = whole[at]
    if (char === '\\') at++
    else if (char === '"') quoted = !quoted
    else if (!quoted && char === '{') depth++
    else if (!quoted && char === '}' && --depth === 0) return at + 1
  }
  return -1
}

/** The first JSON schema of an object that a text shows, as instructor and the like put it into a prompt. */
function schemaIn(whole: string): Json | undefined {
  if (!whole.includes('"properties"')) return undefined
  let tries = 0
  for (let start = whole.indexOf('{'); start !== -1 && tries < MAX_BRACES; start = whole.indexOf('{', start + 1)) {
    tries++
    const end = objectEnd(whole, start)
    if (end === -1) return undefined
    try {
      const value: unknown = JSON.parse(whole.slice(start, end))
      if (isObject(value) && isObject(value.properties)) return value
    } catch {
      // It was no JSON: a schema may begin later.
    }
  }
  return undefined
}

/** The texts of a conversation. */
function textsIn(conversation: readonly unknown[]): readonly string[] {
  return conversation.flatMap(entry => {
    const content: unknown = isObject(entry) ? entry.content : undefined
    if (typeof content === 'string') return [content]
    if (!Array.isArray(content)) return []
    return content.flatMap(part => (isObject(part) && typeof part.text === 'string' ? [part.text] : []))
  })
}

/** A schema that stands in the prompt, and whether the answer is wanted in a code block of Markdown. */
function askedInWords(
  conversation: readonly unknown[],
): { readonly schema: Json; readonly fenced: boolean } | undefined {
  const whole = textsIn(conversation).join('\n').slice(0, MAX_TEXT_CHARS)
  const schema = schemaIn(whole)
  return schema === undefined ? undefined : { schema, fenced: whole.includes('```json') }
}

/**
 * What a request of chat or Responses makes the model say.
 * @param conversation the messages or items, earlier turns included
 */
export function outputOf(body: Json, conversation: readonly unknown[]): Output {
  const call = forcedCall(body, conversation)
  if (call !== undefined) return call
  const format: unknown = isObject(body.text) ? body.text.format : body.response_format
  if (!isObject(format) || format.type === 'json_object') {
    const asked = askedInWords(conversation)
    if (asked === undefined) return isObject(format) ? { kind: 'json', text: '{"answer":"x"}' } : { kind: 'words' }
    const json = JSON.stringify(instanceOf(asked.schema))
    if (isObject(format)) return { kind: 'json', text: json }
    return asked.fenced ? { kind: 'json', text: `\`\`\`json\n${json}\n\`\`\`` } : { kind: 'words' }
  }
  if (format.type !== 'json_schema') return { kind: 'words' }
  const schema: unknown = isObject(format.json_schema) ? format.json_schema.schema : format.schema
  return { kind: 'json', text: JSON.stringify(instanceOf(schema ?? {})) }
}

/** A text in the pieces of 16 characters in which it is streamed. */
export function piecesOf(whole: string): string[] {
  return whole.match(/[\s\S]{1,16}/g) ?? ['']
}
