// A request's headers are those that node:http would have made; its body comes past the stream's buffer.
import { once } from 'node:events'
import http, { IncomingMessage, type ServerResponse } from 'node:http'
import net, { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { DirectBody } from '../../lib/body/take.ts'
import { createRequestClass } from '../../lib/server/client-request.ts'
import { seededRandom } from '../fixtures/seeded-random.ts'

/** A message as Node's parser fills it: whatever the class, the raw headers are handed to it in one go. */
function headersOf(Message: typeof IncomingMessage, rawHeaders: readonly string[]) {
  const message = new Message(new Socket())
  const fill: unknown = Reflect.get(message, '_addHeaderLines')
  if (typeof fill === 'function') fill.call(message, [...rawHeaders], rawHeaders.length)
  return message.headers
}

const NAMES =
  'age authorization content-length content-type etag expires from host if-modified-since if-unmodified-since last-modified location max-forwards proxy-authorization referer retry-after server user-agent set-cookie cookie date vary origin expect accept upgrade if-match connection cache-control if-none-match accept-encoding accept-language x-forwarded-for x-forwarded-host x-forwarded-proto content-encoding transfer-encoding x-request-id api-key constructor __proto__ toString hasOwnProperty x'.split(
    ' ',
  )

t.test('headers are what node:http makes of them', async t => {
  const Message = createRequestClass()
  const seed = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)
  const random = seededRandom(seed)
  const recased = (name: string): string =>
    random() < 0.5 ? name : name.replace(/[a-z]/g, letter => (random() < 0.3 ? letter.toUpperCase() : letter))
  for (const name of NAMES) {
    for (const raw of [
      [name, 'a'],
      [name, 'a', name.toUpperCase(), 'b'],
      [name, '', name, 'b', name, ''],
    ]) {
      t.same(headersOf(Message, raw), headersOf(IncomingMessage, raw), name)
    }
  }
  for (let run = 0; run < 500; run++) {
    const raw = Array.from({ length: Math.floor(random() * 20) }, () => [
      recased(NAMES[Math.floor(random() * NAMES.length)] ?? 'x'),
      random() < 0.1 ? '' : String(run),
    ]).flat()
    const [ours, nodes] = [headersOf(Message, raw), headersOf(IncomingMessage, raw)]
    if (JSON.stringify(ours) !== JSON.stringify(nodes)) t.same(ours, nodes, `FUZZ_SEED=${seed}`)
  }
})

t.test('they are made once, and a request is still an IncomingMessage', async t => {
  const message = new (createRequestClass())(new Socket())
  message.rawHeaders = ['Host', 'a']
  t.equal(message.headers, message.headers)
  t.ok(message instanceof IncomingMessage)
})

/** A server whose requests are ours; `handle` is given each. */
async function serve(t: Test, handle: (request: IncomingMessage & DirectBody, response: ServerResponse) => void) {
  const server = http.createServer({ IncomingMessage: createRequestClass() })
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    if (!('takeDirectly' in request)) throw new Error('a request of another class')
    handle(request as IncomingMessage & DirectBody, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const socket = net.connect(typeof address === 'object' && address !== null ? address.port : 0, '127.0.0.1')
  t.teardown(() => {
    socket.destroy()
    server.close()
  })
  return socket
}

const HEAD = 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n'

t.test('a body is handed over as it comes, and the next request of the connection has its own', async t => {
  const taken: string[] = []
  const socket = await serve(t, (request, response) => {
    let bytes = ''
    const isDirect = request.takeDirectly(chunk => {
      bytes += String(chunk)
      if (bytes.length < 6) socket.write('def')
      else {
        request.stopTaking()
        taken.push(bytes)
        response.end('ok')
      }
    })
    t.equal(isDirect, true)
  })
  socket.write(`${HEAD}abc`)
  await once(socket, 'data')
  socket.write(`${HEAD}uvwxyz`)
  await once(socket, 'data')
  t.same(taken, ['abcdef', 'uvwxyz'])
})

t.test('what has been taken over no longer goes to the stream, and is thrown away by resume()', async t => {
  const socket = await serve(t, (request, response) => {
    request.takeDirectly(chunk => {
      t.equal(String(chunk), 'abc')
      request.stopTaking()
      request.on('end', () => response.end('ok')).resume()
      socket.write('def')
    })
  })
  socket.write(`${HEAD}abc`)
  t.match(String((await once(socket, 'data'))[0]), /^HTTP\/1.1 200 /)
})

t.test('a body that waits in the stream already, or has come whole, is not handed over', async t => {
  const answers: boolean[] = []
  const socket = await serve(t, (request, response) => {
    setImmediate(() => {
      answers.push(request.takeDirectly(() => t.fail('handed over twice')))
      request.on('end', () => response.end('ok')).resume()
      if (!request.complete) socket.write('def')
    })
  })
  socket.write(`${HEAD}abc`)
  await once(socket, 'data')
  socket.write(`${HEAD}uvwxyz`)
  await once(socket, 'data')
  t.same(answers, [false, false])
})

t.test('a client that leaves in the middle of its body destroys the request as ever', async t => {
  const errors: string[] = []
  const left = new Promise<void>(resolve => {
    void serve(t, (request, response) => {
      request.on('error', (error: NodeJS.ErrnoException) => errors.push(error.code ?? ''))
      response.on('close', resolve)
      request.takeDirectly(() => request.socket.destroy())
    }).then(socket => socket.on('error', () => undefined).write(`${HEAD}abc`))
  })
  await left
  t.same(errors, ['ECONNRESET'])
})

t.test('a body that came with its head is read to its end by whoever iterates over it', async t => {
  const socket = await serve(t, (request, response) => {
    void (async () => {
      let text = ''
      for await (const chunk of request) text += String(chunk)
      response.end(text)
    })()
  })
  socket.write(`${HEAD}abcdef`)
  t.match(String((await once(socket, 'data'))[0]), /abcdef$/)
})
