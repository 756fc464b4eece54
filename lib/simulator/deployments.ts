// A resource's deployments: what each can do, how its limits count, and which answer an admitted request gets.
import type { IncomingHttpHeaders } from 'node:http'
import type { Clock } from '../clock.ts'
import { checkSpeech, checkTranscription, speech, transcription } from './audio.ts'
import { chat, promptText, type SimulatedResponse } from './chat.ts'
import { checkChat } from './chat-checks.ts'
import { checkClaude, claude, countClaude, notSupported } from './claude.ts'
import { checkCompletion, completion } from './completions.ts'
import { checkDecision, decide } from './decisions.ts'
import { checkEmbeddings, embeddings } from './embeddings.ts'
import { frontError, modelError, unparsableJson, type WholeResponse } from './errors.ts'
import { checkImages, images } from './images.ts'
import { type FormPart, formFields, parseForm } from './multipart.ts'
import { createPromptCache, type PromptCache } from './prompt-cache.ts'
import { createRateLimit, type RateLimit, type RateLimitOptions } from './rate-limit.ts'
import type { ResponseStore } from './responses.ts'
import type { Asked } from './surface.ts'
import { countTokens, digest } from './text.ts'

export type DeploymentKind =
  | 'chat'
  | 'embeddings'
  | 'completion'
  | 'image'
  | 'speech'
  | 'transcription'
  | 'realtime'
  | 'decision'
  | 'claude'

export interface SimulatedDeployment extends Partial<RateLimitOptions> {
  readonly name: string
  readonly kind: DeploymentKind
  /** The versioned model behind it; left out: by its kind. */
  readonly model?: string
}

export interface Deployment {
  readonly name: string
  readonly kind: DeploymentKind
  readonly model: string
  readonly limit: RateLimit
  readonly cache: PromptCache | undefined
}

const DEFAULT_MODEL: Readonly<Record<DeploymentKind, string>> = {
  chat: 'gpt-4.1-mini-2025-04-14',
  embeddings: 'text-embedding-3-small',
  completion: 'gpt-35-turbo-instruct',
  image: 'gpt-image-1',
  speech: 'gpt-4o-mini-tts',
  transcription: 'gpt-4o-transcribe',
  realtime: 'gpt-realtime-2025-08-28',
  decision: 'gpt-6-luna',
  claude: 'claude-sonnet-5',
}

/** Which kind of model an operation works with, and what Azure calls it when it does not. */
const OPERATIONS: ReadonlyMap<string, { readonly kind: DeploymentKind; readonly called: string }> = new Map([
  ['chat/completions', { kind: 'chat', called: 'chatCompletion' }],
  ['responses', { kind: 'chat', called: 'responses' }],
  ['responses/compact', { kind: 'chat', called: 'responses' }],
  ['responses/input_tokens', { kind: 'chat', called: 'responses' }],
  ['embeddings', { kind: 'embeddings', called: 'embeddings' }],
  ['completions', { kind: 'completion', called: 'completion' }],
  ['images/generations', { kind: 'image', called: 'imageGenerations' }],
  ['images/edits', { kind: 'image', called: 'imageEdits' }],
  ['audio/speech', { kind: 'speech', called: 'speech' }],
  ['audio/transcriptions', { kind: 'transcription', called: 'transcriptions' }],
  ['audio/translations', { kind: 'transcription', called: 'translations' }],
  ['realtime/client_secrets', { kind: 'realtime', called: 'realtime' }],
  ['realtime/calls', { kind: 'realtime', called: 'realtime' }],
  ['realtime', { kind: 'realtime', called: 'realtime' }],
  ['decisions', { kind: 'decision', called: 'decisions' }],
  ['v1/messages', { kind: 'claude', called: 'messages' }],
  ['v1/messages/count_tokens', { kind: 'claude', called: 'messages' }],
])

/** What the output is estimated at when a request does not bound it. */
const DEFAULT_OUTPUT_TOKENS = 16

export function createDeployments(
  given: readonly SimulatedDeployment[],
  clock: Clock,
  promptCache: boolean,
): readonly Deployment[] {
  return given.map(({ name, kind, model, requestsPerMinute, tokensPerMinute, provisionedPerSecond }) => ({
    name,
    kind,
    model: model ?? DEFAULT_MODEL[kind],
    limit: createRateLimit(clock, { requestsPerMinute, tokensPerMinute, provisionedPerSecond }),
    cache: promptCache ? createPromptCache(clock) : undefined,
  }))
}

/** A body that was understood: the fields it names and, for a form, its parts. */
export interface AskedBody {
  readonly fields: Readonly<Record<string, unknown>>
  readonly parts: readonly FormPart[] | undefined
}

const FORMS = new Set(['images/edits', 'audio/transcriptions', 'audio/translations'])

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** Reads a body in the form that the operation takes, or refuses it. */
export function readAsked(operation: string, contentType: string, body: Buffer): AskedBody | WholeResponse {
  if (operation === 'realtime/calls') return readCall(contentType, body)
  const isForm = /^multipart\//i.test(contentType)
  if (FORMS.has(operation) && isForm) {
    const parts = parseForm(contentType, body)
    if (parts === undefined) return modelError(400, 'Could not parse multipart form')
    return { fields: formFields(parts), parts }
  }
  if (FORMS.has(operation) && operation !== 'images/edits') {
    return modelError(400, 'Invalid Content-Type header; expected multipart/form-data.')
  }
  if (!/^application\/json\b/i.test(contentType))
    return frontError(415, 'UnsupportedMediaType', 'Unsupported media type.')
  const fields = parseObject(body.toString('utf8'))
  return fields === undefined ? unparsableJson() : { fields, parts: undefined }
}

function readCall(contentType: string, body: Buffer): AskedBody | WholeResponse {
  const offer = body.toString('utf8')
  if (/^application\/sdp\b/i.test(contentType)) {
    return offer.startsWith('v=0') ? { fields: {}, parts: undefined } : modelError(400, 'Invalid SDP offer.')
  }
  const parts = parseForm(contentType, body)
  if (parts === undefined) return frontError(415, 'UnsupportedMediaType', 'Unsupported media type.')
  const { sdp, session } = formFields(parts)
  if (typeof sdp !== 'string' || !sdp.startsWith('v=0')) return modelError(400, 'Invalid SDP offer.')
  const settings = typeof session === 'string' ? parseObject(session) : {}
  return settings === undefined ? unparsableJson() : { fields: { session: settings }, parts }
}

/** The deployment that a body names, where the path does not. */
export function namedDeployment(operation: string, { fields }: AskedBody, query: URLSearchParams): string | undefined {
  const session = fields.session
  const nested = isObject(session) ? session.model : undefined
  const named = operation.startsWith('realtime/') ? (nested ?? query.get('model')) : fields.model
  return typeof named === 'string' ? named : undefined
}

/** Why a deployment cannot do what is asked, as Azure says it. */
export function checkKind(operation: string, { kind, model }: Deployment): WholeResponse | undefined {
  const known = OPERATIONS.get(operation)
  if (known === undefined || known.kind === kind) return undefined
  if (kind === 'claude' || known.kind === 'claude') return notSupported()
  const message = `The ${known.called} operation does not work with the specified model, ${model}. Please choose different model and try again.`
  return frontError(400, 'OperationNotSupported', message)
}

/** Why Azure refuses the body, if it does. */
export function checkAsked(
  asked: Asked,
  { fields, parts }: AskedBody,
  headers: IncomingHttpHeaders,
  store: ResponseStore,
): WholeResponse | undefined {
  switch (asked.operation) {
    case 'decisions':
      return checkDecision(fields)
    case 'v1/messages':
    case 'v1/messages/count_tokens':
      return checkClaude(fields, headers, asked.operation !== 'v1/messages')
    case 'embeddings':
      return checkEmbeddings(fields)
    case 'responses':
      return store.check(fields)
    case 'completions':
      return checkCompletion(fields)
    case 'images/generations':
    case 'images/edits':
      return checkImages(fields, asked.operation === 'images/edits', parts)
    case 'audio/speech':
      return checkSpeech(fields)
    case 'audio/transcriptions':
    case 'audio/translations':
      return checkTranscription(fields, parts ?? [])
    case 'chat/completions':
      return checkChat(fields, asked.apiVersion)
    default:
      return undefined
  }
}

/** Tokens that the limits count a request as, before it is answered. */
export function estimateOf(operation: string, { fields }: AskedBody): number {
  if (operation === 'embeddings') return countTokens(JSON.stringify(fields.input))
  const output = fields.max_completion_tokens ?? fields.max_tokens ?? fields.max_output_tokens ?? DEFAULT_OUTPUT_TOKENS
  return countTokens(promptText(fields)) + Number(output)
}

export interface ResponseOptions {
  readonly createdS: number
  readonly deltas: number
  readonly filter: 'default' | 'async' | 'off'
  readonly cutByFilter: boolean
  readonly store: ResponseStore
  /** Makes an ephemeral key that this resource will take. */
  readonly issueKey: () => string
}

function json(value: unknown): SimulatedResponse {
  return {
    kind: 'answer',
    answer: { status: 200, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value) },
  }
}

/** Answers a request that every check let through. */
export function responseTo(
  asked: Asked,
  body: AskedBody,
  deployment: Deployment,
  options: ResponseOptions,
): SimulatedResponse {
  const { createdS, deltas, filter, cutByFilter, store } = options
  const { fields, parts } = body
  const { model, cache } = deployment
  switch (asked.operation) {
    case 'decisions':
      return decide(fields, model)
    case 'v1/messages':
      return claude(fields, { model, deltas, cache })
    case 'v1/messages/count_tokens':
      return countClaude(fields)
    case 'embeddings':
      return embeddings(fields, model)
    case 'responses':
      return store.create(fields, { createdS, deltas, cache })
    case 'responses/input_tokens':
      return json({ object: 'response.input_tokens', input_tokens: countTokens(promptText(fields)) })
    case 'responses/compact': {
      const id = digest(promptText(fields))
      const tokens = countTokens(promptText(fields))
      return json({
        id: `resp_${id}`,
        object: 'response.compaction',
        created_at: createdS,
        output: [{ id: `cmp_${id}`, type: 'compaction', encrypted_content: store.seal(`compacted ${id}`) }],
        usage: { input_tokens: tokens, output_tokens: 1, total_tokens: tokens + 1 },
      })
    }
    case 'completions':
      return completion(fields, model, createdS, deltas)
    case 'images/generations':
      return images(fields, false, createdS)
    case 'images/edits':
      return images(fields, true, createdS)
    case 'audio/speech':
      return speech(fields)
    case 'audio/transcriptions':
      return transcription(fields, parts ?? [], true)
    case 'audio/translations':
      return transcription(fields, parts ?? [], false)
    case 'realtime/client_secrets':
      return json({
        value: options.issueKey(),
        expires_at: createdS + 600,
        session: { type: 'realtime', object: 'realtime.session', id: `sess_${digest(model)}`, model },
      })
    case 'realtime/calls':
      return {
        kind: 'answer',
        answer: {
          status: 201,
          headers: {
            'Content-Type': 'application/sdp',
            Location: `/openai/v1/realtime/calls/rtc_${digest(`call ${createdS} ${deployment.name}`)}`,
          },
          body: 'v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=simulated\r\nt=0 0\r\n',
        },
      }
    default:
      return chat(fields, { model, apiVersion: asked.apiVersion, createdS, deltas, filter, cache, cutByFilter })
  }
}
