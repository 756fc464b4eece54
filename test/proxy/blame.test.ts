// A request that is itself the trouble: whatever it provokes, the backends stay in for everybody else, and /health says
// so. What is wrong everywhere is found all the same.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import t, { type Test } from 'tap'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'

type Answer = (request: IncomingMessage, response: ServerResponse, body: string) => void

const OK = JSON.stringify({
  id: 'c',
  object: 'chat.completion',
  choices: [{ index: 0, finish_reason: 'stop', message: { role: 'assistant', content: 'hi' } }],
  usage: { prompt_tokens: 5, completion_tokens: 1, total_tokens: 6 },
})

function say(response: ServerResponse, status: number, body: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(body)
}

interface Backend {
  readonly url: string
  readonly asked: string[]
}

async function backend(t: Test, answer: Answer): Promise<Backend> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', chunk => {
      body += String(chunk)
    })
    request.on('end', () => {
      asked.push(body)
      answer(request, response, body)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  return { url: `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`, asked }
}

const REST =
  'retry: {timeout: 2s, first_output_timeout: 2s, idle_timeout: 2s}\nhealth_check: {enabled: false, recovery: 60s}'

/** Three backends that answer a poisoned prompt like this, and any other one well. */
async function poisoned(t: Test, answer: Answer, more = ''): Promise<{ running: RunningProxy; backends: Backend[] }> {
  const made: Backend[] = []
  for (let i = 0; i < 3; i++) {
    made.push(
      await backend(t, (request, response, body) =>
        body.includes('POISON') ? answer(request, response, body) : say(response, 200, OK),
      ),
    )
  }
  const running = await runProxy(
    t,
    configFor(
      made.map(({ url }) => ({ url, more })),
      { rest: REST },
    ),
  )
  return { running, backends: made }
}

const POISON = { model: 'gpt-4o', messages: [{ role: 'user', content: 'POISON' }] }

async function health({ url }: RunningProxy): Promise<unknown> {
  return (await fetch(`${url}/health`)).json()
}

const HTML_403 = '<html><head><title>403 Forbidden</title></head></html>'
const QUOTA = '{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:02:00."}'

interface Row {
  readonly what: string
  readonly answer: Answer
  /** The client's status; undefined: 502. */
  readonly status?: number
  readonly stream?: boolean
}

const ROWS: readonly Row[] = [
  { what: 'a reset', answer: request => request.socket.destroy() },
  { what: 'bytes that are no HTTP', answer: request => request.socket.end('nonsense\r\n\r\n') },
  { what: 'a 500', answer: (_, response) => say(response, 500, '{"error":{"message":"x"}}'), status: 500 },
  {
    what: 'a 502 of its gateway',
    answer: (_, response) => say(response, 502, '<html>', { 'content-type': 'text/html' }),
    status: 502,
  },
  { what: 'a 503', answer: (_, response) => say(response, 503, '{"error":{"message":"x"}}'), status: 503 },
  {
    what: 'a 503 for a day',
    answer: (_, response) => say(response, 503, '{}', { 'retry-after': '86400' }),
    status: 503,
  },
  { what: 'a 401', answer: (_, response) => say(response, 401, '{"error":{"code":"401","message":"Access denied"}}') },
  { what: 'a 403 of the API', answer: (_, response) => say(response, 403, '{"error":{"code":"403","message":"no"}}') },
  {
    what: 'a 403 of a firewall',
    answer: (_, response) => say(response, 403, HTML_403, { 'content-type': 'text/html' }),
    status: 403,
  },
  {
    what: 'a 404 DeploymentNotFound',
    answer: (_, response) => say(response, 404, '{"error":{"code":"DeploymentNotFound","message":"x"}}'),
  },
  {
    what: 'a 404 page',
    answer: (_, response) => say(response, 404, 'default backend - 404', { 'content-type': 'text/plain' }),
    status: 404,
  },
  {
    what: 'a 400 OperationNotSupported',
    answer: (_, response) => say(response, 400, '{"error":{"code":"OperationNotSupported","message":"x"}}'),
    status: 400,
  },
  { what: 'a redirect', answer: (_, response) => say(response, 302, '', { location: 'https://login.example/' }) },
  {
    what: 'a login page',
    answer: (_, response) => say(response, 200, '<html>sign in</html>', { 'content-type': 'text/html' }),
  },
  {
    what: 'an error object with 200',
    answer: (_, response) => say(response, 200, '{"error":{"message":"overloaded"}}'),
    status: 200,
  },
  { what: 'a 402', answer: (_, response) => say(response, 402, '{"error":{"message":"Insufficient Balance"}}') },
  {
    what: 'a 400 of 300 KB',
    answer: (_, response) => say(response, 400, `{"error":{"message":"${'x'.repeat(300_000)}"}}`),
    status: 400,
  },
  {
    what: 'a stream that ends before any output',
    answer: (_, response) => say(response, 200, ': hi\n\n', { 'content-type': 'text/event-stream' }),
    stream: true,
  },
]

for (const { what, answer, status = 502, stream = false } of ROWS) {
  t.test(`${what} that one prompt provokes everywhere takes nobody out`, async t => {
    const { running } = await poisoned(t, answer)
    for (let i = 0; i < 2; i++) {
      const told = await running.post('/v1/chat/completions', { ...POISON, stream })
      await told.text()
      t.equal(told.status, status)
      t.match(await health(running), { status: 'ok', models: { 'gpt-4o': { healthy: 3, total: 3 } } })
      const other = await running.chat()
      t.equal(other.status, 200)
      await other.text()
    }
    // As often as one likes, as long as others are served.
    for (let i = 0; i < 10; i++) {
      await (await running.post('/v1/chat/completions', { ...POISON, stream })).text()
      for (let good = 0; good < 3; good++) t.equal(await (await running.chat()).text(), OK)
    }
    t.match(await health(running), { status: 'ok' })
  })
}

t.test('a firewall that dislikes a prompt at one backend only costs the client nothing', async t => {
  const first = await backend(t, (_, response) => say(response, 403, HTML_403, { 'content-type': 'text/html' }))
  const second = await backend(t, (_, response) => say(response, 200, OK))
  const running = await runProxy(
    t,
    configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest: REST }),
  )
  t.equal((await running.chat()).headers.get('x-proxy-backend'), 'b2')
})

t.test('a quota of API Management is a throttle with its time', async t => {
  const { running } = await poisoned(t, (_, response) => say(response, 403, QUOTA, { 'retry-after': '50' }))
  const told = await running.post('/v1/chat/completions', POISON)
  t.equal(told.status, 429)
  t.equal(told.headers.get('retry-after'), '50')
  t.equal(told.headers.get('x-should-retry'), null)
  t.match(await health(running), { status: 'ok' }, 'throttled is sound')
})

for (const [header, status] of [
  ['openai-organization', 401],
  ['OpenAI-Project', 403],
  ['x-ms-oai-image-generation-deployment', 404],
  ['x-ms-spillover-deployment', 404],
] as const) {
  t.test(`a ${status} of a request with ${header} is the client's own`, async t => {
    const body =
      '{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}'
    const { running, backends } = await poisoned(t, (_, response) => say(response, status, body))
    const told = await running.post('/v1/chat/completions', POISON, { headers: { [header]: 'bogus' } })
    t.equal(told.status, status)
    t.equal(await told.text(), body)
    t.equal(
      backends.reduce((sum, { asked }) => sum + asked.length, 0),
      1,
    )
    t.match(await health(running), { status: 'ok' })
  })
}

t.test('what is wrong everywhere puts a backend out with the fifth request in a row, and says so', async t => {
  const { running } = await poisoned(t, (_, response) =>
    say(response, 404, '{"error":{"code":"DeploymentNotFound","message":"x"}}'),
  )
  for (let i = 0; i < 4; i++) await (await running.post('/v1/chat/completions', POISON)).text()
  t.match(await health(running), { models: { 'gpt-4o': { healthy: 3 } } })
  await (await running.post('/v1/chat/completions', POISON)).text()
  t.match(await health(running), { status: 'unavailable', models: { 'gpt-4o': { healthy: 0 } } })
  t.ok(running.lines.some(({ msg, level }) => String(msg).startsWith('model down') && level === 'error'))
})

t.test('a stream that ends whole breaks the row of marks, however early its first output was', async t => {
  let end: () => void = () => undefined
  const only = await backend(t, (_, response, body) => {
    if (body.includes('POISON')) return say(response, 500, '{"error":{"message":"x"}}')
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write('data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
    end = () => response.end('data: [DONE]\n\n')
  })
  const running = await runProxy(t, configFor([{ url: only.url }], { rest: REST }))
  const poison = async (): Promise<void> => {
    await (await running.post('/v1/chat/completions', POISON)).text()
  }
  for (let i = 0; i < 3; i++) {
    const stream = await running.chat({ stream: true })
    for (let bad = 0; bad < 4; bad++) await poison()
    end()
    t.match(await stream.text(), /DONE/)
  }
  t.match(await health(running), { status: 'ok' })
  for (let bad = 0; bad < 5; bad++) await poison()
  t.match(await health(running), { status: 'unavailable' }, 'five in a row still do')
})

t.test('a backend that is really wrong goes out with its first request, and is not asked again', async t => {
  const wrong = await backend(t, (_, response) =>
    say(response, 401, '{"error":{"code":"401","message":"Access denied"}}'),
  )
  const good = await backend(t, (_, response) => say(response, 200, OK))
  const running = await runProxy(t, configFor([{ url: wrong.url }, { url: good.url }], { rest: REST }))
  for (let i = 0; i < 10; i++) t.equal(await (await running.chat()).text(), OK)
  t.equal(wrong.asked.length, 1)
})

t.test('three that refuse connections cost no attempt: the fourth serves', async t => {
  const good = await backend(t, (_, response) => say(response, 200, OK))
  const gone: string[] = []
  for (let i = 0; i < 3; i++) {
    const server = createServer()
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const address = server.address()
    gone.push(`http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`)
    await new Promise(resolve => server.close(resolve))
  }
  const backends = [
    ...gone.map((url, i) => ({ url, more: `priority: ${i + 1}` })),
    { url: good.url, more: 'priority: 9' },
  ]
  const running = await runProxy(t, configFor(backends, { rest: REST }))
  const answer = await running.chat()
  t.equal(answer.status, 200)
  t.equal(answer.headers.get('x-proxy-attempts'), '4', 'each try is counted for people')
})

t.test('the last real answer of any attempt is the client’s, not that of the last attempt', async t => {
  const first = await backend(t, (_, response) => say(response, 500, '{"error":{"message":"mine"}}'))
  const second = await backend(t, request => request.socket.destroy())
  const running = await runProxy(
    t,
    configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest: REST }),
  )
  const told = await running.chat()
  t.equal(told.status, 500)
  t.equal(await told.text(), '{"error":{"message":"mine"}}')
})

t.test(
  'a 404 page is avoided for no operation; "Resource not found" is, for ten seconds, and the log says so',
  async t => {
    let missing = true
    const first = await backend(t, (_, response) =>
      missing ? say(response, 404, '{"error":{"code":"404","message": "Resource not found"}}') : say(response, 200, OK),
    )
    const second = await backend(t, (_, response) => say(response, 200, OK))
    const running = await runProxy(
      t,
      configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest: REST }),
    )
    for (let i = 0; i < 3; i++) await (await running.chat()).text()
    t.equal(first.asked.length, 1, 'not asked again at once')
    t.match(
      running.lines.find(({ msg }) => String(msg).startsWith('operation avoided')),
      { backend: 'b1', operation: 'chat/completions', for_ms: 10_000 },
    )
    t.match(await health(running), { status: 'ok' })
    missing = false
  },
)
