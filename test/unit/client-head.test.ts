// The head of an upstream response, written as text: the same bytes as from node:http, the same decisions of node:http.
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import net from 'node:net'
import t, { type Test } from 'tap'
import { writeUpstreamHead } from '../../lib/forward/client-head.ts'
import { createResponseClass } from '../../lib/server/client-response.ts'

const Response = createResponseClass()

type Answer = (response: ServerResponse) => void

/** What goes over the wire for one request, until the connection closes. */
async function wire(t: Test, ours: boolean, request: string, answer: Answer): Promise<string> {
  const server = http.createServer(ours && Response !== undefined ? { ServerResponse: Response } : {})
  server.on('request', (message: IncomingMessage, response: ServerResponse) => {
    message.resume()
    answer(response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const socket = net.connect(typeof address === 'object' && address !== null ? address.port : 0, '127.0.0.1')
  t.teardown(() => {
    socket.destroy()
    server.close()
  })
  socket.end(request)
  let text = ''
  for await (const piece of socket) text += String(piece)
  return text
}

/** The lines of a head in an order of their own: that of different names says nothing (RFC 9110 section 5.3). */
function sorted(text: string): readonly string[] {
  const [head = '', ...body] = text.split('\r\n\r\n')
  const [status = '', ...lines] = head.split('\r\n')
  return [status, ...lines.toSorted(), ...body]
}

const GET = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
const DATE = ['Date', 'Sat, 28 Nov 2026 10:00:00 GMT']
const PASSED = [
  'X-Ms-Region',
  'East US',
  'apim-request-id',
  'a',
  'set-cookie',
  'a=1',
  'Set-Cookie',
  'b=2',
  'x-empty',
  '',
]

const CASES: Readonly<Record<string, { request?: string; status?: number; headers: readonly string[]; body: string }>> =
  {
    'a body of known length': { headers: [...DATE, 'Content-Length', '2', ...PASSED], body: 'ok' },
    'a body without a length': { headers: [...DATE, ...PASSED], body: 'ok' },
    'no body': { status: 204, headers: [...DATE, ...PASSED], body: '' },
    'not modified, with the length of what a GET would bring': {
      status: 304,
      headers: [...DATE, 'content-length', '7', 'etag', '"x"'],
      body: '',
    },
    'a head alone': { request: GET.replace('GET', 'HEAD'), headers: [...DATE, 'content-length', '7'], body: '' },
    'an error with a wait': { status: 429, headers: [...DATE, 'Retry-After', '1', 'content-length', '2'], body: 'no' },
    'the connection is to close': {
      request: GET.replace('Host', 'Connection: close\r\nHost'),
      headers: [...DATE, 'content-length', '2'],
      body: 'ok',
    },
    'a client of HTTP/1.0': { request: GET.replace('1.1', '1.0'), headers: [...DATE, ...PASSED], body: 'ok' },
    'the connection closed by the response': {
      headers: [...DATE, 'Connection', 'close', 'content-length', '2'],
      body: 'ok',
    },
  }

for (const [name, { request = GET, status = 200, headers, body }] of Object.entries(CASES)) {
  t.test(`${name}: the same lines as from node:http`, async t => {
    const answer: Answer = response => {
      writeUpstreamHead(response, status, [...headers])
      response.end(body === '' ? undefined : body)
    }
    const [ours, nodes] = [await wire(t, true, request, answer), await wire(t, false, request, answer)]
    t.same(sorted(ours), sorted(nodes))
    t.match(ours, new RegExp(`^HTTP/1.1 ${status} `))
  })
}

t.test('without a Date of the upstream node:http adds its own, once', async t => {
  const ours = await wire(t, true, GET, response => {
    writeUpstreamHead(response, 200, ['content-length', '0'])
    response.end()
  })
  t.equal(ours.match(/^date: /gim)?.length, 1)
})

t.test('bytes above ASCII stay what they were', async t => {
  const ours = await wire(t, true, GET, response => {
    writeUpstreamHead(response, 200, ['content-length', '0', 'x-name', 'caf\u00e9'])
    response.end()
  })
  t.match(Buffer.from(ours, 'utf8').toString('utf8'), /x-name: caf\ufffd/, 'one byte, as latin1 has it')
})

t.test('what was written before does not come again', async t => {
  const ours = await wire(t, true, `${GET}${GET}`, response => {
    writeUpstreamHead(response, 200, ['content-length', '0', 'x-once', '1'])
    response.end()
  })
  t.equal(ours.match(/x-once/g)?.length, 2)
})

t.test('a response of the proxy itself is written by node:http, which refuses what would split a head', async t => {
  await wire(t, true, GET, response => {
    t.throws(() => response.writeHead(200, ['x', 'a\r\nb: c']), { code: 'ERR_INVALID_CHAR' })
    response.end()
  })
})
