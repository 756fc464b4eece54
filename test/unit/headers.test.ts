// Headers that pass and headers that stay, both ways.
import t from 'tap'
import type { BackendType } from '../../lib/config/types.ts'
import { capWaits } from '../../lib/forward/cap-waits.ts'
import {
  createRequestNames,
  isEncoded,
  MAX_CUSTOM_HEADERS,
  type ResponseHeaders,
  responseHeaders,
  upstreamHeaders,
} from '../../lib/forward/headers.ts'

const HOP_BY_HOP = [
  'Connection',
  'Keep-Alive',
  'Proxy-Connection',
  'Proxy-Authorization',
  'Proxy-Authenticate',
  'TE',
  'Trailer',
  'Transfer-Encoding',
  'Upgrade',
]
const CREDENTIALS = ['Authorization', 'api-key', 'X-API-Key', 'Ocp-Apim-Subscription-Key', 'Cookie']

const flat = (names: readonly string[], value = 'v'): string[] => names.flatMap(name => [name, value])
const namesOf = (headers: readonly string[]): readonly string[] => headers.filter((_, i) => i % 2 === 0)
const requestNames = createRequestNames()
const toUpstream = (raw: readonly string[], type: BackendType): string[] => upstreamHeaders(raw, type, requestNames)
const toClient = (rawHeaders: readonly string[]): ResponseHeaders =>
  responseHeaders({ rawHeaders, names: namesOf(rawHeaders).map(name => name.toLowerCase()) })

t.test('hop-by-hop headers pass in neither direction, nor what Connection names', t => {
  const raw = [...flat(HOP_BY_HOP), 'Connection', 'x-mine, X-Other', 'X-Mine', '1', 'x-other', '2', 'x-ms-kept', '3']
  t.same(toUpstream(raw, 'azure'), ['x-ms-kept', '3'])
  t.same(toUpstream(raw, 'openai'), ['x-ms-kept', '3'])
  t.same(toClient(raw).headers, ['x-ms-kept', '3'])
  t.end()
})

t.test("the client's credentials never go upstream, in whatever case they are written", t => {
  for (const type of ['azure', 'openai'] as const) {
    for (const write of [
      (name: string) => name,
      (name: string) => name.toUpperCase(),
      (name: string) => name.toLowerCase(),
    ]) {
      t.same(toUpstream(flat(CREDENTIALS.map(write), 'sk-secret'), type), [])
    }
  }
  t.end()
})

t.test("a backend's credentials never come back to a client", t => {
  const echoed = flat(['Authorization', 'API-Key', 'x-api-key', 'Ocp-Apim-Subscription-Key'], 'azure-key')
  t.same(toClient([...echoed, 'content-type', 'text/plain']).headers, ['content-type', 'text/plain'])
  t.end()
})

t.test('x-ms-* and OpenAI-* pass, in their own spelling and order', t => {
  const raw = ['X-MS-Client-Request-Id', 'a', 'OpenAI-Beta', 'b', 'openai-organization', 'c']
  t.same(toUpstream(raw, 'azure'), raw)
  t.same(toClient(raw).headers, raw)
  t.end()
})

t.test('x-stainless-* stays here for Azure and passes to others', t => {
  const raw = flat(['X-Stainless-Lang', 'x-stainless-retry-count'])
  t.same(toUpstream(raw, 'azure'), [])
  t.same(toUpstream(raw, 'openai'), raw)
  t.end()
})

t.test('at most ten custom headers go to Azure, first those that mean something to it', t => {
  t.equal(MAX_CUSTOM_HEADERS, 10)
  const custom = flat(Array.from({ length: 15 }, (_, i) => `x-custom-${i}`))
  const important = flat(['x-ms-a', 'openai-beta', 'traceparent', 'idempotency-key'])
  const standard = flat(['accept', 'content-type', 'user-agent'])
  const passed = namesOf(toUpstream([...custom, ...standard, ...important], 'azure'))
  t.equal(passed.length, 13)
  for (const name of namesOf([...standard, ...important])) t.ok(passed.includes(name), name)
  t.same(
    passed.filter(name => name.startsWith('x-custom-')),
    Array.from({ length: 6 }, (_, i) => `x-custom-${i}`),
  )
  t.equal(namesOf(toUpstream(custom.slice(0, 20), 'azure')).length, 10, 'ten are not too many')
  t.equal(namesOf(toUpstream(custom, 'openai')).length, 15, 'others have no such limit')
  t.end()
})

t.test('what the upstream request gets anew, and what a hop before said of the client, stays here', t => {
  const raw = flat([
    'Host',
    'Content-Length',
    'Expect',
    'Accept-Encoding',
    'X-Forwarded-For',
    'Forwarded',
    'Via',
    'X-Real-IP',
    'Sec-Fetch-Mode',
  ])
  t.same(toUpstream(raw, 'azure'), [])
  t.same(toUpstream(raw, 'openai'), [])
  t.end()
})

t.test('Content-Type goes once', t => {
  t.same(toUpstream(['content-type', 'a/b', 'Content-Type', 'c/d'], 'azure'), ['content-type', 'a/b'])
  t.end()
})

t.test("an answer keeps everything else, cookies twice too; this proxy's own headers are not doubled", t => {
  const raw = ['Set-Cookie', 'a', 'Set-Cookie', 'b', 'apim-request-id', 'c', 'x-ratelimit-remaining-tokens', '5']
  t.same(toClient([...raw, 'X-Proxy-Backend', 'inner', 'x-proxy-attempts', '9']).headers, raw)
  t.match(toClient(['X-Request-Id', 'a', 'Content-Length', '12']), {
    values: { 'x-request-id': 'a' },
    contentLength: 12,
  })
  t.match(toClient(raw), { values: { 'x-request-id': undefined }, contentLength: undefined })
  t.end()
})

t.test("a longer wait than a client may be told is cut in an upstream's own answer; any other stays as it is", t => {
  const nowMs = Date.parse('Fri, 31 Dec 2027 23:59:00 GMT')
  const capped = (name: string, value: string): string | undefined => {
    const headers = [name, value]
    capWaits(headers, 60_000, nowMs)
    return headers[1]
  }
  t.equal(capped('Retry-After', '60'), '60')
  t.equal(capped('Retry-After', '61'), '60')
  t.equal(capped('retry-after', '86400000000000'), '60')
  t.equal(capped('Retry-After', 'Fri, 31 Dec 2999 23:59:59 GMT'), '60')
  t.equal(capped('retry-after-ms', '60000'), '60000')
  t.equal(capped('retry-after-ms', '86400000'), '60000')
  t.equal(capped('retry-after', '90 seconds'), '60', 'clients that read only the number')
  t.equal(capped('x-other', '99999999'), '99999999')
  for (const date of [
    'Fri, 31 Dec 2027 23:59:05 GMT',
    'Fri, 31 Dec 2027 23:00:00 GMT',
    'Friday, 31-Dec-27 23:59:05 GMT',
    'Fri Dec 31 23:59:05 2027',
  ]) {
    t.equal(capped('Retry-After', date), date)
  }
  t.equal(capped('Retry-After', 'soon'), 'soon')
  t.equal(capped('Retry-After', ''), '')
  t.end()
})

t.test("what speaks of the upstream's host, or to its front, does not reach a client", t => {
  const raw = [
    'Alt-Svc',
    'h3=":443"',
    'Strict-Transport-Security',
    'max-age=1; includeSubDomains',
    'Public-Key-Pins',
    'a',
  ]
  const more = [
    'Public-Key-Pins-Report-Only',
    'b',
    'X-Accel-Redirect',
    '/x',
    'x-accel-buffering',
    'yes',
    'x-accelerate',
    'c',
  ]
  t.same(toClient([...raw, ...more]).headers, ['x-accelerate', 'c'])
  t.end()
})

t.test('an answer is encoded when it says so, and identity is no encoding', t => {
  for (const coding of ['gzip', 'br', 'GZIP', 'identity, gzip', 'aws-chunked']) {
    t.equal(isEncoded({ 'content-encoding': coding }), true, coding)
  }
  for (const coding of [undefined, '', 'identity', ' Identity '])
    t.equal(isEncoded({ 'content-encoding': coding }), false)
  t.end()
})
