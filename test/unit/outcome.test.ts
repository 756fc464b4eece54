// The meaning of a response, a failure or an error event for the request and for the backend: the table of outcomes,
// row by row. Then the error for a client whom no backend served.
import t, { type Test } from 'tap'
import { readErrorBody, type UpstreamError } from '../../lib/azure/errors.ts'
import type { EjectReason } from '../../lib/balancer/health.ts'
import { errorJson, MAX_NAMED_WAIT_MS, refusalParts, waitHeaders } from '../../lib/errors.ts'
import { exhaustedError, type History } from '../../lib/forward/exhausted.ts'
import {
  blameOf,
  classifyResponse,
  classifyStreamError,
  isPresentable,
  isSuspect,
  labelOf,
  type Outcome,
  transportFailure,
} from '../../lib/forward/outcome.ts'

const NOW = 1_700_000_000_000

const bodyOf = (error: Readonly<Record<string, unknown>>): UpstreamError =>
  readErrorBody(Buffer.from(JSON.stringify({ error })))
const NO_BODY = readErrorBody(Buffer.alloc(0))

function answered(
  status: number,
  {
    headers = {},
    error = NO_BODY,
    isCreate = true,
  }: Partial<{ headers: Record<string, string>; error: UpstreamError; isCreate: boolean }> = {},
): Outcome {
  return classifyResponse(status, headers, error, { isCreate, epochMs: NOW })
}

const DEPLOYMENT_MISSING = bodyOf({
  code: 'DeploymentNotFound',
  message:
    'The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes …',
})
const CONTENT_FILTER = bodyOf({
  code: 'content_filter',
  message: 'The response was filtered …',
  param: 'prompt',
  status: 400,
})
const NOT_HERE = bodyOf({
  code: 'previous_response_not_found',
  message: "Previous response with id 'resp_1' not found.",
})
const NOT_MINE = bodyOf({
  code: null,
  message: 'The encrypted content gAAA could not be verified. Reason: it could not be decrypted or parsed.',
})

t.test('what the backend did as it should goes to the client as it is, and the backend is healthy', t => {
  for (const status of [200, 201, 202, 204, 206, 304, 400, 405, 409, 410, 413, 415, 422, 451]) {
    const outcome = answered(status, { error: bodyOf({ code: 'x', message: 'The request is wrong.' }) })
    t.same(outcome, { kind: 'served' }, `${status}`)
    t.same(blameOf(outcome, false), { kind: 'healthy' })
    t.equal(labelOf(outcome), 'served')
  }
  t.same(answered(400, { error: CONTENT_FILTER }), { kind: 'served' }, 'the content filter')
  t.same(answered(404, { isCreate: false }), { kind: 'served' }, 'a stored object that is not there')
  t.same(answered(404, { isCreate: false, error: bodyOf({ code: '404', message: 'Resource not found' }) }), {
    kind: 'served',
  })
  t.end()
})

t.test('500, 502, 503 and 504 take the backend out for the recovery time, or for as long as it says', t => {
  for (const status of [500, 501, 502, 503, 504, 507, 529]) {
    const plain = blameOf(answered(status), false)
    t.same(
      plain,
      { kind: 'failed', suspect: 'out', timeout: false, reason: 'server_error', detail: `${status}` },
      `${status}`,
    )
    const named = blameOf(answered(status, { headers: { 'retry-after': '7' } }), false)
    t.same(named, {
      kind: 'failed',
      suspect: 'out',
      timeout: false,
      reason: 'server_error',
      detail: `${status}`,
      holdMs: 7_000,
    })
    const exact = blameOf(answered(status, { headers: { 'retry-after': '7', 'retry-after-ms': '50' } }), false)
    t.match(exact, { holdMs: 50 })
    t.equal(labelOf(answered(status)), 'failed')
  }
  t.notOk('holdMs' in answered(503, { headers: { 'x-ratelimit-reset-requests': '5' } }), 'a reset is no Retry-After')
  t.end()
})

t.test('a 408 leaves the backend where it is, and the request goes on', t => {
  const outcome = answered(408)
  t.match(outcome, { kind: 'request_timeout' })
  t.same(blameOf(outcome, false), { kind: 'none' })
  t.equal(labelOf(outcome), 'timeout')
  t.end()
})

t.test('a 429 throttles for the wait it names, else for ten seconds, and does not blame', t => {
  const waits: readonly (readonly [Record<string, string>, number])[] = [
    [{}, 10_000],
    [{ 'retry-after': '3' }, 3_000],
    [{ 'retry-after': '3', 'retry-after-ms': '2500' }, 2_500],
    [{ 'x-ratelimit-reset-requests': '150' }, 150],
    [{ 'x-ratelimit-reset-tokens': '6m0s' }, 360_000],
    [{ 'retry-after': new Date(NOW + 5_000).toUTCString() }, 5_000],
  ]
  for (const [headers, waitMs] of waits) {
    const outcome = answered(429, { headers })
    t.match(outcome, { kind: 'throttled', waitMs }, JSON.stringify(headers))
    t.same(blameOf(outcome, true), { kind: 'throttled', waitMs })
  }
  t.equal(labelOf(answered(429)), 'throttled')
  t.match(answered(429, { isCreate: false }), { kind: 'throttled' }, 'reads are throttled too')
  t.end()
})

t.test('401, 403 and a deployment that is not there are mistakes in the config, and the backend is out', t => {
  for (const status of [401, 403, 407]) {
    const outcome = answered(status, { error: bodyOf({ message: 'Access denied' }) })
    t.match(outcome, { kind: 'misconfigured', reason: 'credentials_refused', detail: `${status}` })
    t.match(blameOf(outcome, true), { kind: 'failed', reason: 'credentials_refused', suspect: 'mark' })
  }
  const missing = [
    DEPLOYMENT_MISSING,
    bodyOf({ code: null, message: 'The API deployment for this resource does not exist.' }),
    bodyOf({ code: 'model_not_found', message: 'The model `x` does not exist' }),
    bodyOf({ message: 'Could not find an existing deployment to match the model in the request.' }),
  ]
  for (const error of missing) {
    for (const status of [404, 400]) {
      t.match(answered(status, { error }), { kind: 'misconfigured', reason: 'deployment_missing' }, error.message)
    }
  }
  t.equal(labelOf(answered(404, { error: DEPLOYMENT_MISSING })), 'misconfigured')
  t.end()
})

t.test('an operation that a backend does not offer is looked for elsewhere without blame', t => {
  const unsupported: readonly (readonly [number, UpstreamError])[] = [
    [404, bodyOf({ code: '404', message: 'Resource not found' })],
    [410, bodyOf({ code: '404', message: 'Resource not found' })],
    [404, readErrorBody(Buffer.from('{"statusCode":404,"message":"Resource not found"}'))],
    [400, bodyOf({ code: 'BadRequest', message: 'API version not supported' })],
    [
      400,
      bodyOf({ message: 'Azure OpenAI Responses API is enabled only for api-version 2025-03-01-preview and later' }),
    ],
  ]
  for (const [status, error] of unsupported) {
    const outcome = answered(status, { error })
    t.match(outcome, { kind: 'unsupported' }, `${status} ${error.message}`)
    t.same(blameOf(outcome, false), { kind: 'none' })
  }
  t.end()
})

const page = (text: string): UpstreamError => readErrorBody(Buffer.from(text))

t.test('a 404 or 410 page of a gateway is a mark, and one answer elsewhere is better', t => {
  for (const status of [404, 410]) {
    for (const error of [NO_BODY, page('default backend - 404'), page('<html>404</html>')]) {
      const outcome = answered(status, { error })
      t.match(outcome, { kind: 'failed', reason: 'not_an_api', suspect: 'mark', detail: `${status} page` })
      t.equal(isPresentable(outcome, status), true, 'if all say so, the client gets it')
    }
  }
  t.end()
})

t.test('a 403 means several things, by its body and its Retry-After', t => {
  const quota = page('{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:02:00."}')
  t.match(answered(403, { error: quota, headers: { 'retry-after': '120' } }), { kind: 'throttled', waitMs: 120_000 })
  t.match(answered(403, { error: quota }), { kind: 'throttled', waitMs: 10_000 }, 'it names no time')
  t.match(answered(403, { headers: { 'retry-after': '3' } }), { kind: 'throttled', waitMs: 3_000 })
  for (const [error, reason] of [
    [bodyOf({ code: '403', message: 'Access denied due to Virtual Network/Firewall rules.' }), 'network_refused'],
    [bodyOf({ message: 'Public access is disabled. Please configure private endpoint.' }), 'network_refused'],
    [bodyOf({ message: 'Your resource has been temporarily blocked' }), 'account_refused'],
    [
      bodyOf({ code: 'AuthenticationTypeDisabled', message: 'Key based authentication is disabled' }),
      'credentials_refused',
    ],
    [page('{"statusCode":403,"message":"Forbidden"}'), 'credentials_refused'],
  ] as const) {
    t.match(answered(403, { error }), { kind: 'misconfigured', reason }, reason)
  }
  for (const text of ['<html>403</html>', 'The request is blocked.', '', '{"message":"Forbidden"}', '{"error":"no"}']) {
    const outcome = answered(403, { error: page(text) })
    t.match(outcome, { kind: 'failed', suspect: 'mark' }, text)
    t.equal(isPresentable(outcome, 403), true)
  }
  t.end()
})

t.test('what speaks of the account, of the way or of the connection is not the client’s', t => {
  t.match(answered(402), { kind: 'misconfigured', reason: 'account_refused' })
  t.match(answered(407), { kind: 'misconfigured', reason: 'credentials_refused' })
  t.match(answered(470), { kind: 'misconfigured', reason: 'network_refused' })
  t.match(answered(421), { kind: 'misdirected' })
  t.same(blameOf(answered(421), false), { kind: 'none' })
  for (const status of [301, 302, 303, 307, 308]) {
    t.match(answered(status), { kind: 'failed', reason: 'not_an_api', suspect: 'out' }, `${status}`)
  }
  for (const status of [301, 402, 407, 421])
    t.equal(isPresentable(answered(status), status), false, `${status}: 502 instead`)
  t.end()
})

t.test('a deployment of the wrong kind is a mistake in the config; if all are, the client gets that 400', t => {
  const outcome = answered(400, { error: bodyOf({ code: 'OperationNotSupported', message: 'The chatCompletion …' }) })
  t.match(outcome, { kind: 'misconfigured', reason: 'operation_not_supported' })
  t.equal(isPresentable(outcome, 400), true)
  t.end()
})

t.test('a model that stands elsewhere in the body is the client’s mistake', t => {
  const elsewhere = bodyOf({ code: 'model_not_found', message: 'no such model', param: 'tools[0].model' })
  t.same(answered(400, { error: elsewhere }), { kind: 'served' })
  t.match(answered(400, { error: bodyOf({ code: 'model_not_found', param: 'model' }) }), { kind: 'misconfigured' })
  t.end()
})

t.test('statuses beyond the standard are failures', t => {
  for (const status of [424, 520, 529, 599, 990]) {
    t.match(answered(status), { kind: 'failed', reason: 'server_error', suspect: 'out' }, `${status}`)
  }
  t.end()
})

t.test('state that another resource holds blames nobody', t => {
  for (const [status, error] of [
    [400, NOT_HERE],
    [404, NOT_HERE],
    [400, NOT_MINE],
    [404, bodyOf({ code: null, message: "Response with id 'resp_x' not found." })],
    [400, bodyOf({ message: "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false." })],
  ] as const) {
    for (const isCreate of [true, false]) {
      const outcome = answered(status, { error, isCreate })
      t.match(outcome, { kind: 'state_elsewhere' }, `${status} ${error.message}`)
      t.same(blameOf(outcome, false), { kind: 'healthy' })
    }
  }
  t.match(answered(500, { error: NOT_HERE }), { kind: 'failed' }, 'a 500 is a failure whatever it says')
  t.end()
})

const TIMEOUTS: readonly EjectReason[] = ['header_timeout', 'first_output_timeout', 'idle_timeout']

t.test('what a request may have caused is blamed on the first backend that meets it, and only marks the others', t => {
  const suspects = [
    ...[...TIMEOUTS, 'connection_lost', 'protocol_error'].map(reason => transportFailure(reason as EjectReason, '')),
    ...[500, 502, 503, 504, 424].map(status => answered(status)),
    answered(401),
    answered(404, { error: DEPLOYMENT_MISSING }),
    classifyStreamError(bodyOf({ code: 'server_error', message: '' }), {}, NOW),
  ]
  for (const outcome of suspects) {
    t.match(blameOf(outcome, false), { kind: 'failed', suspect: 'out' }, JSON.stringify(outcome))
    t.match(blameOf(outcome, true), { kind: 'failed', suspect: 'mark' })
  }
  for (const reason of ['connect_failed', 'connect_timeout'] as const) {
    t.match(
      blameOf(transportFailure(reason, ''), true),
      { kind: 'failed', suspect: 'no' },
      'no request makes a connect fail',
    )
  }
  t.end()
})

t.test('a timeout blames only a backend that answered nobody else meanwhile', t => {
  for (const reason of [...TIMEOUTS, 'connect_timeout'] as const) {
    const outcome = transportFailure(reason, 'none in 2000 ms')
    t.match(blameOf(outcome, false), { kind: 'failed', reason, timeout: true }, reason)
    t.equal(labelOf(outcome), 'timeout')
  }
  t.end()
})

t.test('a request that went away blames nobody', t => {
  for (const reason of ['client_closed', 'shutdown', 'client_stalled'] as const) {
    t.same(blameOf({ kind: 'cancelled', reason }, false), { kind: 'none' })
    t.equal(labelOf({ kind: 'cancelled', reason }), 'cancelled')
  }
  t.end()
})

t.test('an error event before any output throttles or takes out, as it says', t => {
  const throttles = [
    { code: 'rate_limit_exceeded', message: '' },
    { type: 'too_many_requests', message: '' },
    { code: 429, message: '' },
    { message: 'Requests have exceeded call rate limit of your current pricing tier.' },
  ]
  for (const error of throttles) {
    t.match(classifyStreamError(bodyOf(error), {}, NOW), { kind: 'throttled', waitMs: 10_000 }, JSON.stringify(error))
    t.match(
      classifyStreamError(bodyOf(error), { 'retry-after-ms': '300' }, NOW),
      { kind: 'throttled', waitMs: 300 },
      'the wait stands in the headers of the 200',
    )
  }
  t.match(classifyStreamError(bodyOf({ code: 'server_error' }), {}, NOW), { kind: 'failed', reason: 'stream_error' })
  t.match(
    classifyStreamError(NO_BODY, {}, NOW),
    { kind: 'failed', reason: 'stream_error' },
    'it may say nothing at all',
  )
  t.match(classifyStreamError(bodyOf({ code: 'x' }), { 'retry-after': '2' }, NOW), { kind: 'failed', holdMs: 2_000 })
  t.match(classifyStreamError(DEPLOYMENT_MISSING, {}, NOW), { kind: 'misconfigured' })
  t.match(classifyStreamError(NOT_HERE, {}, NOW), { kind: 'state_elsewhere' })
  t.end()
})

t.test("an error event that the request has caused is the client's own", t => {
  for (const error of [
    { code: 'content_filter' },
    { code: 'context_length_exceeded' },
    { code: 'invalid_prompt' },
    { code: 'image_too_large' },
    { type: 'invalid_request_error', message: 'max_tokens is too large' },
  ]) {
    t.same(classifyStreamError(bodyOf(error), {}, NOW), { kind: 'served' }, JSON.stringify(error))
  }
  t.end()
})

t.test('the detail names the status and a code, and never the text of an answer', t => {
  t.match(answered(500, { error: bodyOf({ code: 'InternalServerError', message: 'secret' }) }), {
    detail: '500 InternalServerError',
  })
  for (const code of ['a b', 'x'.repeat(65), 'a\nb', '{"key":"sk-1"}', '']) {
    t.match(answered(500, { error: bodyOf({ code, message: 'secret' }) }), { detail: '500' }, JSON.stringify(code))
    t.match(classifyStreamError(bodyOf({ code, message: 'secret' }), {}, NOW), { detail: 'in stream' })
  }
  t.end()
})

// The client's error.

const throttled: Outcome = { kind: 'throttled', waitMs: 5_000, detail: '429' }
const misconfigured = answered(401)
const lost = transportFailure('connection_lost', 'ECONNRESET')
const tooSlow = transportFailure('header_timeout', '')
const gaveUp = answered(408)
const short: Outcome = { kind: 'shortage', detail: 'EMFILE' }
const noToken: Outcome = { kind: 'no_token', detail: '503', waitMs: 900, permanent: false }
const neverToken: Outcome = { kind: 'no_token', detail: 'invalid_client', waitMs: 900, permanent: true }

const history = (outcomes: Outcome[], more: Partial<History> = {}): History => ({
  outcomes,
  busy: undefined,
  stopped: 'exhausted',
  ...more,
})
const busyFor = (waitMs: number): Partial<History> => ({ busy: { kind: 'throttled', waitMs, isFull: false } })

function told(t: Test, given: History, expected: object, pinned = false): void {
  t.match(exhaustedError('gpt-4o', given, pinned), expected, JSON.stringify(given.outcomes.map(labelOf)))
}

t.test('429 rate_limit_exceeded with the time when the soonest is back, while anybody is merely throttled', t => {
  const expected = { status: 429, code: 'rate_limit_exceeded', retryAfterMs: 4_000, pointless: false }
  for (const outcomes of [
    [],
    [throttled, throttled],
    [lost, throttled],
    [throttled, lost],
    [tooSlow],
    [misconfigured],
  ]) {
    told(t, history(outcomes, busyFor(4_000)), expected)
  }
  told(t, history([throttled], busyFor(0)), { status: 429, retryAfterMs: 1_000 })
  t.end()
})

t.test('a wait of more than a minute is not told, and the answer says that retrying is pointless', t => {
  t.equal(MAX_NAMED_WAIT_MS, 60_000)
  told(t, history([throttled], busyFor(60_000)), { status: 429, pointless: false })
  told(t, history([throttled], busyFor(60_001)), { status: 429, pointless: true })
  t.end()
})

t.test('504 upstream_timeout only when every attempt timed out', t => {
  told(t, history([tooSlow]), { status: 504, code: 'upstream_timeout' })
  told(t, history([tooSlow, transportFailure('connect_timeout', '')]), { status: 504, code: 'upstream_timeout' })
  told(t, history([tooSlow, lost]), { status: 502, code: 'upstream_error' })
  told(t, history([lost, tooSlow]), { status: 502, code: 'upstream_error' })
  t.end()
})

t.test('502 upstream_error when no backend could be reached, or the config is wrong: retrying does not fix that', t => {
  told(t, history([lost]), { status: 502, code: 'upstream_error', pointless: undefined })
  told(t, history([lost, gaveUp, misconfigured]), { status: 502, code: 'upstream_error', pointless: undefined })
  told(t, history([misconfigured, misconfigured]), { status: 502, code: 'upstream_error', pointless: true })
  told(t, history([neverToken]), { status: 502, code: 'upstream_error', pointless: true })
  t.end()
})

t.test('503 with a wait for what passes by itself: nobody asked, no token at the moment, a shortage of our own', t => {
  told(t, history([]), { status: 503, code: 'no_backend', retryAfterMs: 5_000 })
  told(t, history([throttled]), { status: 503, code: 'no_backend', retryAfterMs: 5_000 })
  told(t, history([throttled, lost]), { status: 502 })
  told(t, history([lost], { stopped: 'over_budget' }), { status: 503, code: 'no_backend', retryAfterMs: 5_000 })
  told(t, history([], { stopped: 'over_budget' }), { status: 503, code: 'no_backend', retryAfterMs: 1_000 }, true)
  told(t, history([noToken]), { status: 503, code: 'no_backend', retryAfterMs: 900, pointless: undefined })
  told(t, history([misconfigured, noToken]), { status: 503, pointless: undefined })
  told(t, history([short, short]), { status: 503, code: 'overloaded', retryAfterMs: 1_000 })
  t.same(blameOf(short, false), { kind: 'none' })
  t.match(blameOf(noToken, false), { reason: 'credential_unavailable', holdMs: 900, suspect: 'no' })
  t.equal(isSuspect(noToken), false)
  t.end()
})

t.test("the proxy's own errors have OpenAI's shape", t => {
  const shape = (status: 400 | 429 | 503): unknown =>
    JSON.parse(errorJson({ status, code: 'no_backend', message: 'So it is.' }))
  const error = { message: 'So it is.', param: null, code: 'no_backend' }
  t.same(shape(400), { error: { ...error, type: 'invalid_request_error' } })
  t.same(shape(429), { error: { ...error, type: 'rate_limit_error' } })
  t.same(shape(503), { error: { ...error, type: 'server_error' } })
  t.match(JSON.parse(errorJson({ status: 400, code: 'missing_model', message: '', param: 'model' })), {
    error: { param: 'model' },
  })
  t.end()
})

t.test(
  'a wait is told in whole seconds for everyone and in milliseconds for those who read them, never over a minute',
  t => {
    const told = (ms: number): unknown => waitHeaders(ms)
    t.same(told(4_200), ['retry-after', '5', 'retry-after-ms', '4200'])
    t.same(told(1), ['retry-after', '1', 'retry-after-ms', '1'])
    t.same(told(0), ['retry-after', '1', 'retry-after-ms', '1'])
    t.same(told(-5), ['retry-after', '1', 'retry-after-ms', '1'])
    t.same(told(0.2), ['retry-after', '1', 'retry-after-ms', '1'])
    t.same(told(86_400_000), ['retry-after', '60', 'retry-after-ms', '60000'])
    t.end()
  },
)

t.test('a refusal says its length in bytes, its wait, that retrying is pointless and that the connection ends', t => {
  const { headers, body } = refusalParts({
    status: 503,
    code: 'no_backend',
    message: 'Größer als ASCII',
    retryAfterMs: 2_000,
    pointless: true,
    headers: ['allow', 'GET'],
    close: true,
  })
  t.same(headers, [
    'content-type',
    'application/json',
    'content-length',
    String(Buffer.byteLength(body)),
    'retry-after',
    '2',
    'retry-after-ms',
    '2000',
    'x-should-retry',
    'false',
    'allow',
    'GET',
    'connection',
    'close',
  ])
  t.not(Buffer.byteLength(body), body.length)
  t.end()
})
