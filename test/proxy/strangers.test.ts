// Requests that anyone may send without a key, or behind what he has sent before: odd heads, requests upon requests,
// and nothing read.
import { once } from 'node:events'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { chatEvent, DONE, startHeldBackend } from '../fixtures/held-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { type BackendText, CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const NO_PROBES = 'health_check: {enabled: false}'

function start(t: Test, backends: readonly BackendText[], server = '', rest = ''): Promise<RunningProxy> {
  const text = configFor(backends, { rest: `${NO_PROBES}\n${rest}` })
  return runProxy(t, server === '' ? text : text.replace('server: {', `server: {${server}, `))
}

const CHAT_BODY = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
const chatHead = (more: readonly string[] = [], length: number = CHAT_BODY.length): string[] => [
  'POST /v1/chat/completions HTTP/1.1',
  'Host: proxy',
  `Authorization: Bearer ${CLIENT_KEY}`,
  'Content-Type: application/json',
  `Content-Length: ${length}`,
  ...more,
]
const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`

/** The status lines in what came, in order. */
function statuses(read: string): number[] {
  return [...read.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => Number(status))
}

t.test('headers', async t => {
  const { url, resource } = await startResource(t)
  const running = await start(t, [{ url }])

  t.test('up to 512 pass, more are 431, however short they are', async t => {
    for (const [extra, status] of [
      [510, 200],
      [511, 431],
      [5_000, 431],
    ] as const) {
      const client = connect(running)
      client.send(['GET /livez HTTP/1.1', 'Host: a', 'Connection: close', ...Array(extra).fill('a:b')])
      t.same(statuses(await client.closed), [status], `${extra + 2} headers`)
    }
  })

  t.test('no head is written again from a cut list: a body never becomes the next request', async t => {
    const before = resource.requests.length
    const inner = `${chatHead().join('\r\n')}\r\n\r\n${CHAT_BODY}`
    for (const upgrade of ['h2c', 'websocket', 'anything']) {
      for (const extra of [1_100, 2_100]) {
        const client = connect(running)
        const many = Array(extra).fill('a:b')
        const asking = ['Connection: Upgrade', `Upgrade: ${upgrade}`, ...many, `Content-Length: ${inner.length}`]
        client.send(['POST /nothing HTTP/1.1', 'Host: a', ...asking], inner)
        t.same(statuses(await client.closed), [431], `${upgrade}, ${extra}`)
      }
    }
    t.equal(resource.requests.length, before)
  })

  t.test('two Host headers are malformed, equal ones too; none is, where HTTP/1.1 is spoken', async t => {
    for (const [hosts, status] of [
      [['Host: a', 'host: b'], 400],
      [['Host: a', 'HOST: a'], 400],
      [[], 400],
      [['Host: a'], 200],
    ] as const) {
      const client = connect(running)
      client.send(['GET /livez HTTP/1.1', ...hosts, 'Connection: close'])
      t.same(statuses(await client.closed), [status], `${hosts}`)
    }
  })

  t.test('a body in another transfer coding is refused, not taken for what it holds', async t => {
    const before = resource.requests.length
    for (const [coding, status] of [
      ['gzip, chunked', 400],
      ['chunked, chunked', 400],
      ['Chunked', 200],
    ] as const) {
      const client = connect(running)
      const [line = '', ...lines] = chatHead().filter(text => !text.startsWith('Content-Length'))
      client.send(
        [line, ...lines, `Transfer-Encoding: ${coding}`, 'Connection: close'],
        `${CHAT_BODY.length.toString(16)}\r\n${CHAT_BODY}\r\n0\r\n\r\n`,
      )
      t.same(statuses(await client.closed), [status], coding)
    }
    t.equal(resource.requests.length, before + 1)
  })

  t.test('a client that asks for h2c with each request leaves one listener, not one a request', async t => {
    const accepted = once(running.proxy.listener.server, 'connection')
    const client = connect(running)
    const [socket]: Socket[] = await accepted
    if (socket === undefined) throw new Error('no connection')
    let seen = 0
    for (let i = 1; i <= 15; i++) {
      client.send([
        'GET /livez HTTP/1.1',
        'Host: a',
        'Connection: Upgrade, HTTP2-Settings',
        'Upgrade: h2c',
        'HTTP2-Settings: AA',
      ])
      while (statuses(await client.until('HTTP/1.1 200')).length < i) await once(client.socket, 'data')
      if (i === 2) seen = socket.listenerCount('error')
    }
    t.equal(socket.listenerCount('error'), seen)
    client.socket.destroy()
  })
})

t.test('behind a request that is being answered', async t => {
  const held = await startHeldBackend(t)
  const running = await start(t, [{ url: held.url }])

  /** Sends a chat and, in the same write, something behind it. */
  const chatAnd = async (behind: string) => {
    const client = connect(running)
    client.socket.write(`${chatHead().join('\r\n')}\r\n\r\n${CHAT_BODY}${behind}`)
    return { client, first: await held.next() }
  }

  for (const [what, behind, status] of [
    ['a CONNECT', 'CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n', 405],
    ['garbage', '\u0000\u0001 nonsense\r\n\r\n', 400],
    ['a request line that is none', 'GET\r\n\r\n', 400],
    [
      'a handshake without its headers',
      'GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
      401,
    ],
  ] as const) {
    t.test(`${what} is answered after it`, async t => {
      const { client, first } = await chatAnd(behind)
      first.response.writeHead(200, { 'content-type': 'application/json' }).end('{"id":"first"}')
      const read = await client.closed
      t.same(statuses(read), [200, status])
      t.match(read, '{"id":"first"}')
    })
  }

  t.test('further garbage is not answered again', async t => {
    const { client, first } = await chatAnd('\u0000nonsense\r\n\r\n')
    for (let i = 0; i < 5; i++) client.socket.write('more nonsense\r\n\r\n')
    await (await running.chat({ model: 'none' })).text()
    first.response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
    t.same(statuses(await client.closed), [200, 400])
  })

  t.test('an answer in progress is not broken by it', async t => {
    const client = connect(running)
    const body = CHAT_BODY.replace('{', '{"stream":true,')
    client.send(chatHead([], body.length), body)
    const first = await held.next()
    first.stream()
    first.response.write(chatEvent('one'))
    await client.until('one')
    client.socket.write('\u0000nonsense\r\n\r\n')
    first.response.end(`${chatEvent('two')}${DONE}`)
    const read = await client.closed
    t.same(statuses(read), [200, 400])
    t.match(read, /one[\s\S]*two[\s\S]*\[DONE\]/)
  })
})

t.test('a body whose framing is broken gets its 400, and the log says so', async t => {
  const { url } = await startResource(t)
  const running = await start(t, [{ url }])
  const client = connect(running)
  const logged = running.line('request')
  const head = chatHead().filter(line => !line.startsWith('Content-Length'))
  client.send([...head, 'Transfer-Encoding: chunked'], '5\r\n{"mod\r\nnonsense\r\n')
  const read = await client.until('invalid_request')
  t.same(statuses(read), [400])
  client.socket.destroy()
  t.match(await logged, { status: 400, error: 'invalid_request' })
})

t.test('one request at a time', async t => {
  const held = await startHeldBackend(t)
  const running = await start(t, [{ url: held.url }])

  t.test('pipelined chats reach a backend one after the other, and are answered in their order', async t => {
    const client = connect(running)
    const one = `${chatHead().join('\r\n')}\r\n\r\n${CHAT_BODY}`
    client.socket.write(one.repeat(20))
    for (let i = 0; i < 20; i++) {
      const request = await held.next()
      t.equal(running.proxy.app.inFlight(), 1)
      request.response.writeHead(200, { 'content-type': 'application/json' }).end(`{"id":"answer ${i}"}`)
      await client.until(`answer ${i}`)
    }
    const read = await client.until('answer 19')
    t.same(statuses(read), Array(20).fill(200))
    t.same(
      [...read.matchAll(/answer (\d+)/g)].map(([, i]) => Number(i)),
      Array.from({ length: 20 }, (_, i) => i),
    )
    client.socket.destroy()
  })

  t.test('bodies of those that wait are read when their turn has come', async t => {
    const client = connect(running)
    const one = `${chatHead().join('\r\n')}\r\n\r\n${CHAT_BODY}`
    const half = Math.floor(CHAT_BODY.length / 2)
    client.socket.write(`${one}${one.slice(0, one.length - half)}`)
    const first = await held.next()
    client.socket.write(one.slice(one.length - half))
    first.response.writeHead(200, { 'content-type': 'application/json' }).end('{"id":"one"}')
    const second = await held.next()
    t.equal(second.body, first.body)
    second.response.writeHead(200, { 'content-type': 'application/json' }).end('{"id":"two"}')
    t.same(statuses(await client.until('two')), [200, 200])
    client.socket.write(one)
    const third = await held.next()
    third.response.writeHead(200, { 'content-type': 'application/json' }).end('{"id":"three"}')
    t.same(statuses(await client.until('three')), [200, 200, 200], 'and the connection goes on')
    client.socket.destroy()
  })

  t.test('two thousand in one write: a hundred wait, then the connection closes', async t => {
    const client = connect(running)
    client.socket.write(get('/livez').repeat(1_985))
    const read = await client.closed
    t.same(new Set(statuses(read)), new Set([200]))
    const count = statuses(read).length
    t.ok(count > 50 && count <= 202, `${count} answered`)
    t.match(read.slice(read.lastIndexOf('HTTP/1.1')), /connection: close/i)
  })

  t.test('who leaves takes those that wait along', async t => {
    const client = connect(running)
    const one = `${chatHead().join('\r\n')}\r\n\r\n${CHAT_BODY}`
    client.socket.write(one.repeat(5))
    const first = await held.next()
    const before = held.count()
    client.socket.destroy()
    await first.closed
    t.equal(held.count(), before, 'none of them is begun')
    t.equal(running.proxy.app.inFlight(), 0)
  })
})

t.test('a client that reads nothing is let go after idle_timeout, of short answers too', async t => {
  const { url } = await startResource(t)
  const clock = createFakeClock()
  const text = configFor([{ url }], { rest: `${NO_PROBES}\nretry: {idle_timeout: 3m}` })
  const running = await runProxy(t, text, { clock })
  const socket = connect(running).socket
  socket.pause()
  const [accepted]: Socket[] = await once(running.proxy.listener.server, 'connection')
  if (accepted === undefined) throw new Error('no connection')
  const gone = once(accepted, 'close')
  const served = (): number => running.lines.filter(({ path }) => path === '/dashboard').length
  /** Whether one response stays while others are served: one that is merely under way would be finished by then. */
  const isFull = async (): Promise<boolean> => {
    const before = served()
    for (let i = 0; i < 10; i++) {
      await (await fetch(`${running.url}/livez`)).text()
      if (running.proxy.app.inFlight() === 0 || served() !== before) return false
    }
    return true
  }
  const stalled = (): boolean => running.lines.some(({ error }) => error === 'client_stalled')
  // The page is 50 KB and more: sooner or later the kernel takes no more of it. It may take a while to say so.
  while (!stalled()) {
    do socket.write(get('/dashboard'))
    while (!(await isFull()))
    const before = served()
    clock.advance(2 * 60_000)
    await (await fetch(`${running.url}/livez`)).text()
    if (served() !== before) continue
    t.notOk(stalled(), 'it has its time')
    clock.advance(2 * 60_000)
    await until(() => served() !== before)
  }
  await gone
  t.match(
    running.lines.find(({ error }) => error === 'client_stalled'),
    { status: 499, path: '/dashboard' },
  )
  t.equal(running.proxy.app.inFlight(), 0)
  socket.destroy()
})

t.test('connections above server.max_connections are closed, said once, and a reload moves the limit', async t => {
  const { url } = await startResource(t)
  const running = await start(t, [{ url }], 'max_connections: 3')
  const clients = [connect(running), connect(running), connect(running)]
  for (const client of clients) {
    client.socket.write(get('/livez'))
    await client.until('200 OK')
  }
  for (let i = 0; i < 3; i++) t.equal(await connect(running).closed, '')
  t.equal(running.lines.filter(({ msg }) => String(msg).startsWith('connections refused')).length, 1)
  clients[0]?.socket.write(get('/livez'))
  t.equal(statuses((await clients[0]?.until('200 OK')) ?? '')[0], 200, 'who is in stays in')

  const config = running.proxy.runtime().config
  running.proxy.reload({ ...config, server: { ...config.server, maxConnections: 10 } }, undefined)
  const late = connect(running)
  late.socket.write(get('/livez'))
  t.match(await late.until('200 OK'), '200')
  for (const { socket } of [...clients, late]) socket.destroy()
})

t.test('with authentication off, a page of another site gives no orders', async t => {
  const { url } = await startResource(t)
  const text = configFor([{ url }], { rest: NO_PROBES }).replace('auth: {', 'auth: {enabled: false, ')
  const running = await runProxy(t, text)
  const order = JSON.stringify({ model: 'gpt-4o', backend: 'b1' })
  const own = `127.0.0.1:${running.port}`
  const steer = async (lines: readonly string[]): Promise<number> => {
    const client = connect(running)
    const head = ['POST /dashboard/backends/eject HTTP/1.1', `Host: ${own}`, 'Connection: close', ...lines]
    client.send([...head, `Content-Length: ${order.length}`], order)
    return statuses(await client.closed)[0] ?? 0
  }
  const json = 'Content-Type: application/json'
  for (const [lines, status] of [
    [['Content-Type: text/plain', 'Origin: https://evil.example', 'Sec-Fetch-Site: cross-site'], 403],
    [[json, 'Origin: https://evil.example'], 403],
    [[json, 'Sec-Fetch-Site: same-site', `Origin: http://${own}`], 403],
    [[json, 'Origin: null'], 403],
    [['Content-Type: text/plain'], 400],
    [['Content-Type: application/x-www-form-urlencoded'], 400],
    [[], 400],
    [[json, `Origin: http://${own}`], 200],
    [[json, 'Sec-Fetch-Site: same-origin', 'Origin: https://front.example'], 200],
    [[`${json}; charset=utf-8`], 200],
  ] as const) {
    t.equal(await steer(lines), status, lines.join(', '))
  }
  const chat = await running.chat({ headers: { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' } })
  t.equal(chat.status, 403, 'nor does it chat at the expense of others')
})
