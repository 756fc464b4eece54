// The faults of the matrix: every row of the outcome table (lib/README.md) that one of two backends can meet, and how a
// client must fare. A row that needs more than a backend's answer has its own tests: a client that leaves
// (proxy/cancellation), a stored response elsewhere (proxy/responses-state).
import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import type { WholeResponse } from '../../lib/simulator/errors.ts'
import { errorEvents, faultResponse } from '../../lib/simulator/fault-responses.ts'
import { type Fault, fail, type NamedError, refuseWith, throttleBy, type Waits } from '../../lib/simulator/faults.ts'
import { type AskedRequest, chunks, EVENTS_HEAD, LAST_CHUNK, message, type Strike } from './backend.ts'

/** A connection that fails on its way. */
export type ConnectFault =
  /** The resolver's error, or its silence. */
  | { readonly at: 'resolver'; readonly code: string | undefined }
  /** An address where nobody listens, as after a move. */
  | { readonly at: 'address' }
  /** The socket's error, or its silence. */
  | { readonly at: 'socket'; readonly code: string | undefined }
  /** Another port answers: nobody, something that speaks no TLS, or TLS with a certificate that is none for this. */
  | { readonly at: 'port'; readonly port: OtherPort }
  /** The egress proxy says this to CONNECT, and hangs up; undefined: it says nothing. */
  | { readonly at: 'egress'; readonly says: string | undefined }
  | { readonly at: 'egress_port' }

export type OtherPort = 'closed' | 'plain' | 'hangs_up' | 'silent' | 'untrusted' | 'wrong_name' | 'expired'

/** How a request may end that has met the fault. */
export type Expected =
  /** As if nothing were. */
  | 'unseen'
  /** It had output: an error event, or a cut; never as if it were whole. */
  | 'honest_end'
  /** With the backend's own answer: the request is the client's mistake. */
  | 'passed_on'

export interface MatrixFault {
  readonly name: string
  readonly strike?: Strike
  readonly connect?: ConnectFault
  /** The requests it can strike; left out: all. */
  readonly fits?: (asked: AskedRequest) => boolean
  /** It strikes every so many requests in its worse times: those that take a time limit are dear. */
  readonly every: number
  readonly expected: Expected
  /** The backend is throttled, not out: its client may be sent away while the other one is out. */
  readonly throttles: boolean
  /** It holds the backend so long that it strikes only once or twice. */
  readonly holdsLong: boolean
  /** It may meet a request at one backend and spare it at the next, whichever is asked first. */
  readonly roams: boolean
  /** Asked are turns with encrypted reasoning. */
  readonly reasoning: boolean
  /** One of the faults that are put together in pairs: one of each kind. */
  readonly inPairs: boolean
}

type More = Partial<Omit<MatrixFault, 'name' | 'strike' | 'connect'>>

const plainly = (more: More): Omit<MatrixFault, 'name'> => ({
  every: 2,
  expected: 'unseen',
  throttles: false,
  holdsLong: false,
  roams: false,
  reasoning: false,
  inPairs: false,
  ...more,
})
const answered = (name: string, strike: Strike, more: More = {}): MatrixFault => ({
  name,
  strike,
  ...plainly({ roams: true, ...more }),
})
const unconnected = (name: string, connect: ConnectFault, more: More = {}): MatrixFault => ({
  name,
  connect,
  ...plainly(more),
})

/** Every so many requests where each strike costs ten seconds of the proxy's time. */
const DEAR = 25

const HTML = '<!DOCTYPE html><html><body><h1>An error page of some box in between</h1></body></html>'
const JSON_TYPE = { 'Content-Type': 'application/json' }
const HTML_TYPE = { 'Content-Type': 'text/html; charset=utf-8' }

/** A whole message. */
const says =
  (status: number, body: string, headers: Readonly<Record<string, string>> = JSON_TYPE): Strike =>
  ({ socket }) =>
    void socket.write(message(status, headers, body))
const answers =
  ({ status, headers, body }: WholeResponse): Strike =>
  ({ socket }) =>
    void socket.write(message(status, headers, body))
/** An answer of the simulator's; what it says of times is made anew each time. */
const simulated =
  (fault: Fault, epochMs: () => number): Strike =>
  asked => {
    const answer = faultResponse(fault, epochMs())
    if (answer !== undefined) answers(answer)(asked)
  }
/** These bytes, and the connection stays, ends or is reset. */
const bytes =
  (text: string, then: 'stays' | 'ends' | 'reset' = 'stays'): Strike =>
  ({ socket }) => {
    if (then === 'ends') socket.end(text, 'latin1')
    else if (then === 'stays') socket.write(text, 'latin1')
    else if (text === '') reset(socket)
    else socket.write(text, 'latin1', () => reset(socket))
  }
/** Over TLS node can only close. */
const reset = (socket: Socket): void => void (socket instanceof TLSSocket ? socket.destroy() : socket.resetAndDestroy())
const errorOf = (message: string, more: object = {}): string =>
  JSON.stringify({ error: { message, type: 'server_error', param: null, code: null, ...more } })

const streams = ({ operation }: AskedRequest): boolean => operation.streams
const isWhole = ({ operation }: AskedRequest): boolean => !operation.streams
const inDialect =
  (dialect: string) =>
  ({ operation }: AskedRequest): boolean =>
    operation.streams && operation.dialect === dialect

/** A stream that shows so much of its start-up, then this; the connection stays, ends or is reset. */
const stream =
  (startUp: number, events: readonly string[], then: 'whole' | 'stays' | 'ends' | 'reset' = 'whole'): Strike =>
  asked => {
    const shown = chunks([...asked.operation.startUp.slice(0, startUp), ...events])
    const text = `${EVENTS_HEAD}\r\n${shown}${then === 'whole' ? LAST_CHUNK : ''}`
    bytes(text, then === 'whole' ? 'stays' : then)(asked)
  }
/** A stream that shows its start-up and so much output. */
const withOutput =
  (count: number, events: readonly string[], then: 'whole' | 'stays' | 'ends' | 'reset'): Strike =>
  asked =>
    stream(9, [...asked.operation.output.slice(0, count), ...events], then)(asked)
/** The sound answer's first part under a head that promises all of it. */
const halfOf =
  (
    share: number,
    then: 'stays' | 'ends' | 'reset',
    length: 'promised' | 'too short' | 'unknown' = 'promised',
  ): Strike =>
  asked => {
    const { whole } = asked.operation
    const part = whole.slice(0, Math.ceil(whole.length * share))
    const said = length === 'unknown' ? '' : `Content-Length: ${length === 'promised' ? whole.length : part.length}\r\n`
    const text = `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n${said}\r\n${length === 'too short' ? whole : part}`
    bytes(text, then)(asked)
  }
const chatError = (error: unknown): string => `data: ${JSON.stringify({ error })}\n\n`
const overloaded = { message: 'That model is currently overloaded.', type: 'server_error', param: null, code: null }
const tooMany = { message: 'Rate limit reached.', type: 'too_many_requests', param: null, code: 'rate_limit_exceeded' }
const NO_DEPLOYMENT = 'Could not find an existing deployment to match the model in the request.'

/** No connection is made: to the name, the address, the port, through TLS. */
const UNCONNECTED: readonly MatrixFault[] = [
  unconnected('refused', { at: 'port', port: 'closed' }, { inPairs: true }),
  unconnected('no such name', { at: 'resolver', code: 'ENOTFOUND' }),
  unconnected('the resolver fails', { at: 'resolver', code: 'EAI_AGAIN' }),
  unconnected('the resolver is silent', { at: 'resolver', code: undefined }, { every: DEAR, holdsLong: true }),
  unconnected('the name means an old address', { at: 'address' }),
  unconnected('no route', { at: 'socket', code: 'EHOSTUNREACH' }),
  unconnected('no network', { at: 'socket', code: 'ENETUNREACH' }),
  unconnected('reset while connecting', { at: 'socket', code: 'ECONNRESET' }),
  unconnected('a connection is never made', { at: 'socket', code: undefined }, { every: DEAR, inPairs: true }),
  unconnected('no TLS there', { at: 'port', port: 'plain' }),
  unconnected('hangs up in the handshake', { at: 'port', port: 'hangs_up' }),
  unconnected('silent in the handshake', { at: 'port', port: 'silent' }, { every: DEAR }),
  unconnected('a certificate of nobody', { at: 'port', port: 'untrusted' }),
  unconnected('a certificate of another name', { at: 'port', port: 'wrong_name' }),
  unconnected('a certificate that has ended', { at: 'port', port: 'expired' }),
]

const refusal = (status: number, more = ''): string =>
  `HTTP/1.1 ${status} Said\r\n${more}Content-Type: text/html\r\nContent-Length: ${HTML.length}\r\n\r\n${HTML}`

/** The egress proxy of one backend; the other is reached without. */
const WAY_OUT: readonly MatrixFault[] = [
  unconnected('egress proxy: dead', { at: 'egress_port' }, { inPairs: true }),
  unconnected('egress proxy: wants a password', {
    at: 'egress',
    says: refusal(407, 'Proxy-Authenticate: Basic realm="out"\r\n'),
  }),
  unconnected('egress proxy: refuses the host', { at: 'egress', says: refusal(403) }),
  unconnected('egress proxy: cannot connect', { at: 'egress', says: refusal(502) }),
  unconnected('egress proxy: a page', { at: 'egress', says: refusal(302, 'Location: http://login.example/\r\n') }),
  unconnected('egress proxy: no HTTP', { at: 'egress', says: '220 mail.example ESMTP\r\n\r\n' }),
  unconnected('egress proxy: hangs up', { at: 'egress', says: '' }),
  unconnected('egress proxy: silent', { at: 'egress', says: undefined }, { every: DEAR }),
]

/** This machine's own shortages. */
const SHORTAGES: readonly MatrixFault[] = ['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL'].map((code, i) =>
  unconnected(`our own ${code}`, { at: 'socket', code }, { inPairs: i === 0 }),
)

/** The connection stands, and no head comes. */
const NO_HEAD: readonly MatrixFault[] = [
  answered('reset', bytes('', 'reset'), { inPairs: true }),
  answered('closed without a word', bytes('', 'ends')),
  answered('a used connection is reset', bytes('', 'reset'), { fits: ({ reused }) => reused, inPairs: true }),
  answered('a used connection is closed', bytes('', 'ends'), { fits: ({ reused }) => reused }),
  answered('silence', () => undefined, { every: DEAR, inPairs: true }),
  answered('a slow head', slowHead, { every: DEAR, inPairs: true }),
  answered('a head cut off', bytes('HTTP/1.1 200 OK\r\nContent-Type: appl', 'reset')),
  answered('no HTTP', bytes('this is no HTTP\r\n\r\n', 'ends'), { inPairs: true }),
  answered('HTTP/2 in return', bytes('\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d', 'ends')),
  answered('two lengths', bytes('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}'), {}),
  answered(
    'a length beside chunks',
    bytes('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n'),
  ),
  answered('no number as length', bytes('HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}')),
  answered('an encoding that is none', bytes('HTTP/1.1 200 OK\r\nTransfer-Encoding: zipped\r\n\r\n{}')),
  answered('a folded header', bytes('HTTP/1.1 200 OK\r\nX-A: 1\r\n Content-Length: 2\r\n\r\n{}', 'ends')),
  answered('a head without end', bytes(`HTTP/1.1 200 OK\r\n${'X-A: 0123456789\r\n'.repeat(8_000)}`, 'ends')),
  answered('a status that is none', bytes('HTTP/1.1 99 Odd\r\nContent-Length: 2\r\n\r\n{}')),
]

/** Its head comes a byte at a time, and ends after any time limit. */
function slowHead({ socket }: AskedRequest): void {
  const head = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Slow: '
  let at = 0
  const timer = setInterval(() => {
    if (socket.destroyed) clearInterval(timer)
    else socket.write(head[at++] ?? 'x')
  }, 5)
}

const server = (
  status: number,
  body: string,
  headers: Readonly<Record<string, string>>,
  more: More = {},
): MatrixFault =>
  answered(
    `${status}${body === '' ? ', empty' : ''} ${Object.values(headers).join(' ')}`.trim(),
    says(status, body, headers),
    more,
  )

/** Failures by status. */
const SERVER: readonly MatrixFault[] = [
  server(500, errorOf('The server had an error.'), {}, { inPairs: true }),
  server(500, '', {}),
  server(500, '{"statusCode":500,"message":"Internal server error","activityId":"1"}', JSON_TYPE),
  server(502, HTML, HTML_TYPE),
  server(503, '', {}),
  server(503, 'upstream connect error or disconnect/reset before headers', { 'Content-Type': 'text/plain' }),
  server(503, errorOf('Busy.'), { 'Retry-After': '1' }, { inPairs: true }),
  server(503, errorOf('Busy.'), { 'Retry-After': 'soon' }),
  server(503, errorOf('Busy.'), { 'Retry-After': '604800' }, { holdsLong: true }),
  server(504, HTML, HTML_TYPE),
  ...[520, 521, 522, 523, 524, 525, 526, 527, 529].map(status => server(status, HTML, HTML_TYPE)),
  server(501, errorOf('No.'), JSON_TYPE),
  server(599, '', {}),
  server(424, errorOf('The container failed.'), JSON_TYPE),
  server(408, '{"error":{"code":"Timeout","message":"The operation was timeout."}}', JSON_TYPE, { inPairs: true }),
  server(421, '', {}, { inPairs: true }),
  server(421, HTML, HTML_TYPE),
]

/** Throttles, with every way of naming the wait and of naming it wrongly. */
function throttles(epochMs: () => number): readonly MatrixFault[] {
  const throttled = (name: string, waits: Waits, more: More = {}): MatrixFault =>
    answered(`429 ${name}`, simulated(throttleBy(waits), epochMs), { throttles: true, ...more })
  const named = (headers: Readonly<Record<string, string>>, more: More = {}): MatrixFault =>
    answered(
      `429 ${Object.entries(headers)
        .map(pair => pair.join(': '))
        .join(', ')}`,
      says(429, errorOf('Slow down.', { code: '429' }), { ...JSON_TYPE, ...headers }),
      { throttles: true, ...more },
    )
  const forbidden = (
    name: string,
    body: string,
    headers: Readonly<Record<string, string>>,
    more: More = {},
  ): MatrixFault => answered(`403 ${name}`, says(403, body, { ...JSON_TYPE, ...headers }), { throttles: true, ...more })
  const quota = '{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 07:01:20."}'
  return [
    throttled('in milliseconds', { kind: 'ms', ms: 100 }, { inPairs: true }),
    throttled('in seconds', { kind: 'retry_after', seconds: 1 }),
    throttled('in both', { kind: 'both', ms: 300 }),
    throttled('of provisioned capacity', { kind: 'provisioned', ms: 200 }),
    throttled('by a date', { kind: 'date', seconds: 1 }),
    throttled('by x-ratelimit-reset-requests', { kind: 'reset_requests', ms: 100 }),
    throttled('without a time', { kind: 'none' }, { every: DEAR, inPairs: true }),
    throttled('for a day', { kind: 'retry_after', seconds: 86_400 }, { holdsLong: true }),
    ...['-1', '0', 'soon', '', '1e3', '0x10', '99999999999999999999', 'Thu, 01 Jan 1970 00:00:00 GMT', '1, 2'].map(
      wait => named({ 'Retry-After': wait }, { every: DEAR, holdsLong: /9{9}/.test(wait) }),
    ),
    named({ 'retry-after-ms': '-5', 'Retry-After': '1' }),
    named({ 'retry-after-ms': 'NaN', 'x-ratelimit-reset-tokens': '1s' }, { every: DEAR }),
    named({ 'x-ratelimit-reset-tokens': '6m0s', 'retry-after-ms': '100' }),
    answered('429 of a firewall, a page', says(429, HTML, HTML_TYPE), { every: DEAR, throttles: true }),
    forbidden('of a quota', quota, { 'Retry-After': '1' }),
    forbidden('of a quota without a time', quota, {}, { every: DEAR }),
    forbidden('with Retry-After', errorOf('Later.'), { 'Retry-After': '1' }),
  ]
}

/** Refusals of our credentials, account, network, deployment, operation; pages; what is not offered. */
function refusals(epochMs: () => number): readonly MatrixFault[] {
  const refused = (name: string, error: NamedError, more: More = {}): MatrixFault =>
    answered(name, simulated(refuseWith(error), epochMs), more)
  const front = (code: string, message: string): string => JSON.stringify({ error: { code, message } })
  const operation = 'The chatCompletion operation does not work with the specified model, x.'
  return [
    refused('401 wrong key', 'wrong_key', { inPairs: true }),
    answered(
      '401 of API Management',
      says(401, '{"statusCode":401,"message":"Access denied due to missing subscription key."}'),
    ),
    answered('401 no role', says(401, front('PermissionDenied', 'The principal lacks the required data action.'))),
    answered('401, a page', says(401, HTML, HTML_TYPE)),
    answered('402', simulated(fail(402), epochMs)),
    answered('407', says(407, HTML, { ...HTML_TYPE, 'Proxy-Authenticate': 'Basic' })),
    answered('407, empty', says(407, '', {})),
    refused('403 of network rules', 'network_rule', { inPairs: true }),
    answered(
      '403 keys are switched off',
      says(403, front('AuthenticationTypeDisabled', 'Key based authentication is disabled.')),
    ),
    answered('403 suspended', says(403, front('403', 'Your resource has been temporarily blocked.'))),
    answered('403 of API Management', says(403, '{"statusCode":403,"message":"Forbidden"}')),
    answered("403 in OpenAI's shape", says(403, errorOf('Country not supported.', { type: 'request_forbidden' }))),
    answered('403 of a firewall, a page', says(403, HTML, HTML_TYPE), { inPairs: true }),
    answered('403 of a firewall, a text', says(403, 'The request is blocked.', { 'Content-Type': 'text/plain' })),
    answered('403 of a firewall, empty', says(403, '', {})),
    answered('470', says(470, 'HTTP  request. Action: Deny.', { 'Content-Type': 'text/plain' })),
    refused('404 no deployment', 'deployment_not_found', { inPairs: true }),
    answered('404 no deployment, v1', says(404, errorOf(NO_DEPLOYMENT, { type: 'invalid_request_error' }))),
    answered('400 no deployment, v1', says(400, errorOf(NO_DEPLOYMENT, { type: 'invalid_request_error' }))),
    answered('404 no model', says(404, errorOf('No such model.', { code: 'model_not_found' }))),
    answered(
      '404 no model, Claude',
      says(404, '{"type":"error","error":{"type":"not_found_error","message":"model: x"}}'),
    ),
    answered('410 deprecated', says(410, front('ModelDeprecated', 'The model has been deprecated.'))),
    answered('400 OperationNotSupported', says(400, front('OperationNotSupported', operation)), { inPairs: true }),
    refused('400 unknown version', 'version'),
    refused('404 no resource', 'resource_not_found', { inPairs: true }),
    answered('404 no resource, API Management', says(404, '{"statusCode":404,"message":"Resource not found"}')),
    answered('404, a page', says(404, HTML, HTML_TYPE), { inPairs: true }),
    answered('404, a text', says(404, 'default backend - 404', { 'Content-Type': 'text/plain' })),
    answered('410, a page', says(410, HTML, HTML_TYPE)),
    answered('404, empty', says(404, '', {})),
    answered('301', says(301, '', { Location: 'https://elsewhere.example/' })),
    answered('302 to a login', says(302, HTML, { ...HTML_TYPE, Location: 'https://login.example/' }), {}),
    answered('307', says(307, '', { Location: 'https://elsewhere.example/' })),
    answered('300', says(300, HTML, HTML_TYPE)),
    answered('200, a page', says(200, HTML, HTML_TYPE), { inPairs: true }),
    answered('200, a page that calls itself JSON', says(200, HTML)),
    answered('200, a page that calls itself a stream', says(200, HTML, { 'Content-Type': 'text/event-stream' }), {
      fits: streams,
    }),
    answered('200, a page without a type', says(200, HTML, {})),
  ]
}

/** A 200 that goes wrong before any output. */
const BEFORE_OUTPUT: readonly MatrixFault[] = [
  answered('200 whose body is an error', says(200, errorOf('The server had an error.')), {
    fits: isWhole,
    inPairs: true,
  }),
  answered(
    '200 whose body is an error without a length',
    bytes(`HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n${errorOf('No.')}`, 'ends'),
    { fits: isWhole },
  ),
  answered('200 whose body is a throttle', says(200, errorOf('Slow.', tooMany)), {
    fits: isWhole,
    throttles: true,
    every: DEAR,
  }),
  answered('200 whose body names no deployment', says(200, errorOf(NO_DEPLOYMENT)), { fits: isWhole }),
  answered('200 whose body is an error text', says(200, '{"error":"overloaded"}'), { fits: isWhole }),
  answered(
    '200 whose body is API Management’s error',
    says(200, '{"statusCode":500,"message":"Internal server error"}'),
    { fits: isWhole },
  ),
  answered('200 whose stream is an error object', says(200, errorOf('No.')), { fits: streams }),
  answered(
    '200 that ends after its head',
    bytes('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n', 'ends'),
  ),
  answered(
    '200 that is reset after its head',
    bytes('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n', 'reset'),
    { inPairs: true },
  ),
  answered(
    '200 and no body in time',
    bytes('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n'),
    { every: DEAR, fits: isWhole },
  ),
  answered('half a body, reset', halfOf(0.5, 'reset'), { fits: isWhole }),
  answered('half a body, closed', halfOf(0.5, 'ends'), { fits: isWhole }),
  answered('half a body, silent', halfOf(0.5, 'stays'), { every: DEAR, fits: isWhole }),
  answered('half a body of no length, closed', halfOf(0.5, 'ends', 'unknown'), { fits: isWhole }),
  answered('a body one byte short', halfOf(0.99, 'ends'), { fits: isWhole }),
  answered('a length that is too short', halfOf(0.5, 'stays', 'too short'), { fits: isWhole }),
  answered(
    'a chunk size that is none',
    bytes('HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n{}\r\n'),
  ),
  answered(
    'a chunk cut off',
    bytes(
      'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"id":',
      'ends',
    ),
  ),
  answered(
    'a chunk longer than it says',
    bytes(
      'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{"id":1}\r\n0\r\n\r\n',
    ),
  ),
  answered('a stream of nothing', stream(0, []), { fits: streams }),
  answered('a stream of start-up alone', stream(9, []), { fits: streams, inPairs: true }),
  answered('a stream of pings alone', stream(0, [': ping\n\n', ': ping\n\n']), { fits: streams }),
  answered('a stream closed in its start-up', stream(1, [], 'ends'), { fits: streams }),
  answered('a stream reset in its start-up', stream(9, [], 'reset'), { fits: streams, inPairs: true }),
  answered('a stream reset in an event', stream(1, ['data: {"choices":[{"del'], 'reset'), { fits: streams }),
  answered('a stream reset after its head', stream(0, [], 'reset'), { fits: streams }),
]

/** Error events before any output, in every form that is known. */
const ERROR_EVENTS: readonly MatrixFault[] = [
  ...(
    [
      ['an error object', [chatError(overloaded)]],
      ['an error object and [DONE]', [chatError(overloaded), 'data: [DONE]\n\n']],
      ['a throttle', [chatError(tooMany)]],
      ['an error text', [chatError('overloaded')]],
      ['an error object of a named event', [`event: error\ndata: ${JSON.stringify({ error: overloaded })}\n\n`]],
      ['a named event with any data', ['event: error\ndata: out of memory\n\n']],
      ['a named event, flat', ['event: error\ndata: {"message":"overloaded"}\n\n']],
      ['an error field', ['error: {"code":500,"message":"slot unavailable","type":"server_error"}\n\n']],
      ['an object named error', ['data: {"object":"error","message":"overloaded","code":50000}\n\n']],
      ['API Management', ['data: {"statusCode":500,"message":"Internal server error"}\n\n']],
      ['no deployment', [chatError({ message: NO_DEPLOYMENT, type: 'invalid_request_error' })]],
      ['CRLF lines', [`data: ${JSON.stringify({ error: overloaded })}\r\n\r\n`]],
      ['a byte order mark', [`\uFEFFdata: ${JSON.stringify({ error: overloaded })}\n\n`]],
    ] as const
  ).flatMap(([name, events]) =>
    [0, 9]
      .filter(after => after === 0 || !name.startsWith('a byte'))
      .map(after =>
        answered(`chat stream: ${name}, ${after === 0 ? 'first' : 'after start-up'}`, stream(after, events), {
          fits: inDialect('chat'),
          throttles: name === 'a throttle',
          every: name === 'a throttle' ? DEAR : 2,
          inPairs: name === 'an error object' && after > 0,
        }),
      ),
  ),
  ...(['nested_throttle', 'nested_missing_deployment', 'flat', 'failed_alone'] as const).flatMap(kind =>
    [0, 1, 2].map(after =>
      answered(`response stream: ${kind} after ${after}`, stream(after, errorEvents(kind, after, false)), {
        fits: inDialect('responses'),
        throttles: kind === 'nested_throttle',
        every: kind === 'nested_throttle' ? DEAR : 2,
        inPairs: after === 1 && kind === 'nested_throttle',
      }),
    ),
  ),
  ...(['claude', 'claude_throttle'] as const).flatMap(kind =>
    [0, 1].map(after =>
      answered(`message stream: ${kind} after ${after}`, stream(after, errorEvents(kind, after, false)), {
        fits: inDialect('claude'),
        throttles: kind === 'claude_throttle',
        every: kind === 'claude_throttle' ? DEAR : 2,
        inPairs: after === 1 && kind === 'claude',
      }),
    ),
  ),
]

/** Trouble after output has gone out: no second chance, but an honest end. */
const AFTER_OUTPUT: readonly MatrixFault[] = [
  answered('output, then reset', withOutput(2, [], 'reset'), { fits: streams, expected: 'honest_end' }),
  answered('output, then closed', withOutput(2, [], 'ends'), { fits: streams, expected: 'honest_end' }),
  answered("output, then an end without the protocol's", withOutput(2, [], 'whole'), {
    fits: streams,
    expected: 'honest_end',
  }),
  answered('output, then silence', withOutput(2, [], 'stays'), { fits: streams, expected: 'honest_end', every: DEAR }),
  answered(
    'output, then an error event',
    withOutput(2, ['event: error\ndata: {"error":{"message":"lost"}}\n\n'], 'whole'),
    { fits: streams, expected: 'honest_end' },
  ),
]

const invalid = (status: number, message: string, code: string | null): MatrixFault =>
  answered(`${status} ${code ?? message}`, says(status, errorOf(message, { type: 'invalid_request_error', code })), {
    expected: 'passed_on',
  })

/** Answers that are the client's own, good or bad. */
function clientsOwn(epochMs: () => number): readonly MatrixFault[] {
  return [
    invalid(400, 'Too long.', 'context_length_exceeded'),
    invalid(400, 'Unknown parameter.', 'unknown_parameter'),
    answered('400 content filter', simulated(refuseWith('content_filter'), epochMs), { expected: 'passed_on' }),
    invalid(409, 'Conflict.', null),
    invalid(413, 'Too large.', null),
    invalid(415, 'Unsupported type.', null),
    invalid(422, 'Unprocessable.', null),
    answered('400 no JSON', says(400, 'Bad request', { 'Content-Type': 'text/plain' }), { expected: 'passed_on' }),
    answered('a 4xx too long to be judged', says(400, 'x'.repeat(300 * 1024), { 'Content-Type': 'text/plain' }), {
      expected: 'passed_on',
      every: 20,
    }),
  ]
}

const CANNOT_DECRYPT = errorOf(
  'The encrypted content could not be verified. Reason: Encrypted content could not be decrypted or parsed.',
  {
    type: 'invalid_request_error',
    code: 'invalid_encrypted_content',
  },
)

/** State that another resource holds. */
const STATE: readonly MatrixFault[] = [
  answered('another resource made the reasoning', says(400, CANNOT_DECRYPT), { reasoning: true }),
]

/** All of them. @param epochMs the wall clock of those that name a date */
export function matrixFaults(epochMs: () => number): readonly MatrixFault[] {
  return [
    ...UNCONNECTED,
    ...WAY_OUT,
    ...SHORTAGES,
    ...NO_HEAD,
    ...SERVER,
    ...throttles(epochMs),
    ...refusals(epochMs),
    ...BEFORE_OUTPUT,
    ...ERROR_EVENTS,
    ...AFTER_OUTPUT,
    ...clientsOwn(epochMs),
    ...STATE,
  ]
}

/** What breaks whoever gets such a request. */
export const POISONS: readonly Strike[] = [
  says(500, errorOf('The server had an error.')),
  bytes('', 'reset'),
  says(403, HTML, HTML_TYPE),
  says(404, HTML, HTML_TYPE),
  says(502, HTML, HTML_TYPE),
  bytes('this is no HTTP\r\n\r\n', 'ends'),
  says(200, HTML, HTML_TYPE),
  says(401, errorOf('Incorrect API key.')),
  says(200, errorOf('The server had an error.')),
]
