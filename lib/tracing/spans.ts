// A finished request as OTLP/HTTP JSON spans (opentelemetry-proto 1.x, JSON mapping), under OpenTelemetry's names for
// GenAI. Pure.
import type { FinishedRequest } from '../request-context.ts'
import type { Trace } from './trace-context.ts'

type Value = { readonly stringValue: string } | { readonly intValue: string } | { readonly boolValue: boolean }

export interface Span {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  /** 2: server, 3: client. */
  readonly kind: 2 | 3
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: readonly { readonly key: string; readonly value: Value }[]
  /** 2: an error. */
  readonly status: { readonly code?: 2; readonly message?: string }
}

/** Longest text of an attribute: a detail may quote an upstream. */
const MAX_TEXT_CHARS = 256

function nano(epochMs: number): string {
  return `${Math.round(epochMs * 1000)}000`
}

function attributesOf(
  given: Readonly<Record<string, string | number | boolean | undefined>>,
): readonly { readonly key: string; readonly value: Value }[] {
  return Object.entries(given).flatMap(([key, value]): readonly { readonly key: string; readonly value: Value }[] => {
    if (value === undefined) return []
    if (typeof value === 'number') return [{ key, value: { intValue: String(Math.round(value)) } }]
    if (typeof value === 'boolean') return [{ key, value: { boolValue: value } }]
    return [{ key, value: { stringValue: value.slice(0, MAX_TEXT_CHARS) } }]
  })
}

/** GenAI's name of what was asked (semantic conventions, `gen_ai.operation.name`). */
function operationOf(path: string): string {
  if (/\/chat\/completions\/?$/.test(path) || /\/messages\/?$/.test(path)) return 'chat'
  if (/\/embeddings\/?$/.test(path)) return 'embeddings'
  if (/\/completions\/?$/.test(path)) return 'text_completion'
  return 'generate_content'
}

/** The spans of a request: one for itself, one for each attempt. */
export function spansOf({ id, method, path, durationMs, record }: FinishedRequest, trace: Trace): readonly Span[] {
  const endedEpochMs = trace.beganEpochMs + durationMs
  const { model, usage, status, error } = record
  const operation = operationOf(path)
  const isFailure = status >= 500 || error !== undefined
  const root: Span = {
    traceId: trace.traceId,
    spanId: trace.spanId,
    ...(trace.parentId === undefined ? {} : { parentSpanId: trace.parentId }),
    name: model === undefined ? `${method} ${path}` : `${operation} ${model}`,
    kind: 2,
    startTimeUnixNano: nano(trace.beganEpochMs),
    endTimeUnixNano: nano(endedEpochMs),
    attributes: attributesOf({
      'gen_ai.operation.name': model === undefined ? undefined : operation,
      'gen_ai.provider.name': model === undefined ? undefined : 'azure.ai.openai',
      'gen_ai.request.model': model,
      'gen_ai.usage.input_tokens': usage.promptTokens,
      'gen_ai.usage.output_tokens': usage.completionTokens,
      'http.request.method': method,
      'url.path': path,
      'http.response.status_code': status,
      'error.type': error ?? (status >= 500 ? String(status) : undefined),
      'proxy.request.id': id,
      'proxy.key': record.key,
      'proxy.attempts': record.attempts,
      'proxy.stream': record.stream,
    }),
    status: isFailure ? { code: 2, ...(error === undefined ? {} : { message: error.slice(0, MAX_TEXT_CHARS) }) } : {},
  }
  return [
    root,
    ...trace.attempts.map((attempt): Span => {
      const { label = 'cancelled', detail } = attempt
      return {
        traceId: trace.traceId,
        spanId: attempt.spanId,
        parentSpanId: trace.spanId,
        name: `${operation} ${attempt.backend}`,
        kind: 3,
        startTimeUnixNano: nano(attempt.beganEpochMs),
        endTimeUnixNano: nano(attempt.endedEpochMs ?? endedEpochMs),
        attributes: attributesOf({
          'gen_ai.operation.name': operation,
          'gen_ai.provider.name': 'azure.ai.openai',
          'gen_ai.request.model': model,
          'proxy.backend': attempt.backend,
          'proxy.outcome': label,
          'error.type': label === 'served' ? undefined : label,
        }),
        status:
          label === 'served' ? {} : { code: 2, ...(detail === '' ? {} : { message: detail.slice(0, MAX_TEXT_CHARS) }) },
      }
    }),
  ]
}

/** The body of `POST /v1/traces`. */
export function exportBody(spans: readonly Span[], version: string): string {
  const resource = attributesOf({ 'service.name': 'azure-openai-proxy', 'service.version': version })
  const scopeSpans = [{ scope: { name: 'azure-openai-proxy', version }, spans }]
  return JSON.stringify({ resourceSpans: [{ resource: { attributes: resource }, scopeSpans }] })
}
