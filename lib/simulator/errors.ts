// Azure's error answers, to the byte where recordings show them (azure/README.md 6).

/** An answer that is there as a whole. */
export interface WholeResponse {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | Buffer
  /** Sent in chunks, without a content-length. */
  readonly chunked?: boolean
  /** Sent with nothing but these headers. */
  readonly bare?: boolean
}

const JSON_TYPE = { 'Content-Type': 'application/json' } as const

/** Family B: the model service, same as OpenAI. */
export function modelError(
  status: number,
  message: string,
  {
    type = 'invalid_request_error',
    param = null,
    code = null,
  }: { type?: string | null; param?: string | null; code?: string | null } = {},
): WholeResponse {
  return { status, headers: JSON_TYPE, body: JSON.stringify({ error: { message, type, param, code } }) }
}

/** Family A: Azure's front end. */
export function frontError(status: number, code: string, message: string): WholeResponse {
  return { status, headers: JSON_TYPE, body: JSON.stringify({ error: { code, message } }) }
}

/** Family C: the API Management layer. */
export function gatewayError(status: number, message: string): WholeResponse {
  return { status, headers: JSON_TYPE, body: JSON.stringify({ statusCode: status, message }) }
}

/** Recorded with exactly four headers. */
export function wrongKey(): WholeResponse {
  const message =
    'Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.'
  return { ...frontError(401, '401', message), bare: true }
}

export function noCredential(): WholeResponse {
  return gatewayError(
    401,
    'Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired.',
  )
}

/** Recorded pretty-printed, chunked, without a content type. */
export function deploymentNotFound(): WholeResponse {
  const error = {
    type: 'invalid_request_error',
    code: 'DeploymentNotFound',
    message:
      'The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again.',
  }
  return { status: 404, headers: {}, body: `${JSON.stringify({ error }, null, 2)}\n`, chunked: true }
}

/** The blank behind `"message":` is Azure's. */
export function resourceNotFound(): WholeResponse {
  return { status: 404, headers: JSON_TYPE, body: '{"error":{"code":"404","message": "Resource not found"}}' }
}

export function versionNotSupported(): WholeResponse {
  return frontError(400, 'BadRequest', 'API version not supported')
}

export function contentFiltered(): WholeResponse {
  const error = {
    message:
      "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.",
    type: null,
    param: 'prompt',
    code: 'content_filter',
    status: 400,
    innererror: {
      code: 'ResponsibleAIPolicyViolation',
      content_filter_result: {
        hate: { filtered: true, severity: 'high' },
        jailbreak: { filtered: false, detected: false },
        self_harm: { filtered: false, severity: 'safe' },
        sexual: { filtered: false, severity: 'safe' },
        violence: { filtered: false, severity: 'safe' },
      },
    },
  }
  return { status: 400, headers: JSON_TYPE, body: JSON.stringify({ error }) }
}

export function networkRule(): WholeResponse {
  return frontError(403, '403', 'Access denied due to Virtual Network/Firewall rules.')
}

export function unparsableJson(): WholeResponse {
  return modelError(400, 'We could not parse the JSON body of your request.')
}

export function serverError(): WholeResponse {
  return modelError(500, 'The server had an error while processing your request. Sorry about that!', {
    type: 'server_error',
  })
}

/** Which limit a 429 is about. */
export type Limit = 'call' | 'token' | 'provisioned'

/**
 * A 429 (azure/README.md 6.3).
 * @param waits the headers that say when to come back; as the caller wants them, or none
 */
export function throttled(limit: Limit, retryAfterS: number, waits: Readonly<Record<string, string>>): WholeResponse {
  const message =
    limit === 'provisioned'
      ? 'Requests have exceeded the throughput limit on your Provisioned-Managed deployment. Please retry after the time given.'
      : `Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded ${limit} rate limit of your current OpenAI S0 pricing tier. Please retry after ${retryAfterS} seconds.`
  const answer = frontError(429, limit === 'provisioned' ? 'rate_limit_reached' : '429', message)
  return { ...answer, headers: { ...answer.headers, ...waits } }
}
