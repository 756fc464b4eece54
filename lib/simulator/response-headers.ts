// The headers that Azure puts on its answers (azure/README.md 4.4 and 13.9).
import type { IncomingMessage } from 'node:http'
import { digest } from './text.ts'

/**
 * The headers of every answer.
 * @param count tells the resource's answers apart
 */
export function commonHeaders(
  request: IncomingMessage,
  name: string,
  count: number,
  region = 'East US 2',
): Record<string, string> {
  const id = digest(`${name} ${count}`, 32)
  const uuid = `${id.slice(0, 8)}-${id.slice(8, 12)}-${id.slice(12, 16)}-${id.slice(16, 20)}-${id.slice(20)}`
  const echoed = request.headers['x-ms-client-request-id']
  return {
    'apim-request-id': uuid,
    'x-request-id': uuid,
    ...(typeof echoed === 'string' ? { 'x-ms-client-request-id': echoed } : {}),
    'x-ms-region': region,
    'Strict-Transport-Security': 'max-age=31536000; includeSubDomains; preload',
    'x-content-type-options': 'nosniff',
  }
}

/** The headers that only a model's answer has. */
export function servedHeaders(operation: string, model: string, streams: boolean): Record<string, string> {
  return {
    'x-ms-served-model': model,
    'x-ms-rai-invoked': 'true',
    'x-ms-is-spilled-over': 'false',
    'skip-error-remapping': 'true',
    'x-accel-buffering': 'no',
    'openai-processing-ms': '1',
    ...(operation.startsWith('responses')
      ? { 'azureai-fe-is-streaming': streams ? 'True' : 'False' }
      : { 'azureml-model-session': `d20260620024045-${digest(model, 8)}` }),
  }
}
