// Our own HTTP client and Node's, over the same agents: whatever a backend does, both must mean the same by it. covers:
// lib/http1/send.ts, lib/http1/agents.ts, lib/http1/connection.ts
import { once } from 'node:events'
import https from 'node:https'
import net, { type AddressInfo, type Server } from 'node:net'
import t, { type Test } from 'tap'
import { systemClock } from '../../lib/clock.ts'
import { createTransport, type Transport } from '../../lib/http1/send.ts'
import { makeCertificate } from '../../lib/simulator/certificate.ts'
import {
  cutAfter,
  cutBytes,
  endWithoutTerminal,
  errorEvent,
  type Fault,
  fail,
  filteredOutput,
  garbage,
  hangUp,
  merge,
  refuseWith,
  resetAfterHeaders,
  staleSocket,
  throttle,
  throttleBy,
  trickle,
  wrongLength,
} from '../../lib/simulator/faults.ts'
import { type Answered, ask } from '../fixtures/ask-transport.ts'
import { createNodeTransport } from '../fixtures/node-client.ts'
import { jsonAnswer, type RawRequest, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const CLIENTS: Readonly<Record<'ours' | 'node', () => Transport>> = {
  ours: () => createTransport(systemClock()),
  node: () => createNodeTransport(systemClock()),
}
function portOf(server: Server): number {
  const { port } = server.address() as AddressInfo
  return port
}

const NO_PROBES = 'health_check: {enabled: false, recovery: 60s}'

const FAULTS: Readonly<Record<string, Fault | undefined>> = {
  'no fault': undefined,
  'a throttle': throttle(7),
  'a throttle by milliseconds': throttleBy({ kind: 'ms', ms: 1_500 }),
  'a 500': fail(500),
  'a 503 of the front': fail(503, 'front'),
  'a 502 page': fail(502, 'html'),
  'an empty 504': fail(504, 'empty'),
  'a wrong key': refuseWith('wrong_key'),
  'no deployment': refuseWith('deployment_not_found'),
  'a hang-up': hangUp(),
  'a reset after the headers': resetAfterHeaders(),
  'a cut after two events': cutAfter(2),
  'a cut within an event': cutAfter(1, true),
  'a cut after ten bytes': cutBytes(10),
  'no terminal event': endWithoutTerminal(3),
  'byte by byte': trickle(1),
  'all at once': merge(),
  'a length too long': wrongLength(5),
  garbage: garbage(),
  'a stale socket': staleSocket(),
  'a filtered output': filteredOutput(),
  'an error event': errorEvent('chat', 0),
  'an error event after output': errorEvent('chat', 3),
}

/** What a client and the log see of one request with this fault at the first of two backends. */
async function outcomeOf(t: Test, transport: Transport, fault: Fault | undefined, stream: boolean): Promise<unknown> {
  const [first, second] = [await startResource(t), await startResource(t)]
  const text = configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest: NO_PROBES })
  const running = await runProxy(t, text, { transport })
  // A connection of the first backend rests already, as nearly always.
  await (await running.chat()).arrayBuffer()
  if (fault !== undefined) first.resource.next(fault)
  const response = await running.chat({ stream })
  const body = await response.text().catch(() => 'cut')
  await until(() => running.lines.filter(({ msg }) => msg === 'request').length === 2)
  const changes = running.lines
    .filter(({ msg }) => /^backend /.test(String(msg)))
    .map(({ msg, reason, for_ms: forMs }) => ({ msg, reason, forMs }))
  const line = running.lines.findLast(({ msg }) => msg === 'request')
  return {
    status: response.status,
    backend: response.headers.get('x-proxy-backend'),
    attempts: response.headers.get('x-proxy-attempts'),
    // Ids and times differ from run to run.
    body: body.replaceAll(/"(id|system_fingerprint)":"[^"]*"|"created":\d+|req_\w+|[0-9a-f]{8}-[0-9a-f-]{27}/g, ''),
    error: line?.error,
    changes,
  }
}

for (const [what, fault] of Object.entries(FAULTS)) {
  t.test(`${what} means the same to both clients`, async t => {
    for (const stream of [false, true]) {
      const ours = await outcomeOf(t, CLIENTS.ours(), fault, stream)
      const node = await outcomeOf(t, CLIENTS.node(), fault, stream)
      t.strictSame(ours, node, stream ? 'streamed' : 'whole')
    }
  })
}

const CHUNKED = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'
const SCRIPTS: Readonly<Record<string, (request: RawRequest) => void>> = {
  'a plain answer': request => request.send(jsonAnswer('"a"')),
  'chunks with extensions and trailers': request =>
    request.send(`${CHUNKED}3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n`),
  'an answer until the close': request => request.socket.end('HTTP/1.1 200 OK\r\n\r\nhello'),
  'interim answers': request =>
    request.send(`HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n${jsonAnswer()}`),
  'no body by status': request => request.send('HTTP/1.1 204 No Content\r\n\r\n'),
  'a close in the head': request => request.socket.end('HTTP/1.1 200 OK\r\nContent-Le'),
  'a close in the body': request => request.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc'),
  'a close in a chunk': request => request.socket.end(`${CHUNKED}9\r\nabc`),
  'a reset at once': request => void request.socket.resetAndDestroy(),
  'another protocol': request => request.socket.end('SSH-2.0-OpenSSH_9.2\r\n\r\n'),
  'a size that is none': request => request.send(`${CHUNKED}zz\r\nabc\r\n`),
  'length and chunks together': request =>
    request.send('HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n'),
  'two lengths': request => request.send('HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd'),
  'a blank before the colon': request => request.send('HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 0\r\n\r\n'),
  'Connection: close': request => request.send(jsonAnswer('{}', ['Connection: close'])),
}

/** An answer as both clients can tell it: where something is wrong, only that and how much came before. */
function told(answered: Answered): unknown {
  if (answered.kind === 'whole') return { kind: answered.kind, status: answered.head.status, body: answered.body }
  if (answered.kind === 'failed') return { kind: answered.kind, stale: answered.stale }
  return { kind: answered.kind }
}

t.test('bytes on the wire mean the same to both clients, on a new connection and on a used one', async t => {
  for (const [what, script] of Object.entries(SCRIPTS)) {
    const seen: Record<string, unknown[]> = { ours: [], node: [] }
    for (const [name, create] of Object.entries(CLIENTS)) {
      const backend = await startRawBackend(t)
      const transport = create()
      t.teardown(() => transport.close())
      for (const used of [false, true]) {
        if (used) {
          const warm = ask(transport, backend.url)
          const first = await backend.next()
          first.send(jsonAnswer())
          await warm.answered
          await until(() => transport.sockets().free >= 1)
        }
        const asked = ask(transport, backend.url, { fresh: !used })
        script(await backend.next())
        seen[name]?.push(told(await asked.answered))
        await until(() => transport.sockets().busy === 0)
      }
    }
    t.strictSame(seen.ours, seen.node, what)
  }
})

t.test('a connection that is never made fails for both clients, each time', async t => {
  const gone = net.createServer()
  await once(gone.listen(0, '127.0.0.1'), 'listening')
  const refusing = `http://127.0.0.1:${portOf(gone)}`
  await new Promise(resolve => gone.close(resolve))
  const { cert, key } = makeCertificate('127.0.0.1')
  const strange = https.createServer({ cert, key }, (_request, response) => response.end('{}'))
  await once(strange.listen(0, '127.0.0.1'), 'listening')
  t.teardown(() => strange.close())
  for (const [client, made] of Object.entries(CLIENTS)) {
    const transport = made()
    t.teardown(() => transport.close())
    for (const url of [refusing, `https://127.0.0.1:${portOf(strange)}`]) {
      for (const time of ['first', 'second']) {
        t.match(await ask(transport, url).answered, { kind: 'failed', stale: false }, `${client}: ${url}, ${time}`)
      }
    }
    t.strictSame(transport.sockets(), { busy: 0, free: 0 }, client)
  }
})

t.test('both clients keep, age and count the same connections', async t => {
  for (const create of Object.values(CLIENTS)) {
    const backend = await startRawBackend(t)
    const transport = create()
    const once = async (): Promise<number> => {
      const { answered } = ask(transport, backend.url)
      const request = await backend.next()
      request.send(jsonAnswer())
      await answered
      await until(() => transport.sockets().busy === 0)
      return request.connection
    }
    t.equal(await once(), 0)
    t.strictSame(transport.sockets(), { busy: 0, free: 1 })
    t.equal(await once(), 0, 'used again')
    transport.close()
    await until(() => transport.sockets().free === 0)
  }
})
