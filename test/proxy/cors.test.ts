// Browser apps of other origins: preflights without a key, answers and errors that their pages may read.
import t, { type Test } from 'tap'
import { BEARER, CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { jsonAnswer, startRawBackend } from '../fixtures/raw-backend.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const APP = 'https://app.example.com'

async function start(t: Test, origins: string | undefined): Promise<RunningProxy> {
  const { url } = await startResource(t)
  const text = configFor([{ url }], { rest: NO_PROBES })
  return runProxy(t, origins === undefined ? text : text.replace('server: {', `server: {cors_origins: ${origins}, `))
}

function preflight(url: string, path: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${url}${path}`, {
    method: 'OPTIONS',
    headers: {
      origin: APP,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type,x-stainless-lang',
      ...headers,
    },
  })
}

t.test('a preflight of an allowed origin is answered without a key, on every route of the API', async t => {
  const { url } = await start(t, `["${APP}", "http://localhost:5173"]`)
  for (const path of [
    CHAT,
    '/v1/responses/resp_1',
    '/v1/models',
    '/openai/deployments/gpt-4o/chat/completions?api-version=1',
    '/health',
  ]) {
    const answer = await preflight(url, path)
    t.equal(answer.status, 204, path)
    t.equal(await answer.text(), '')
    t.match(Object.fromEntries(answer.headers), {
      'access-control-allow-origin': APP,
      'access-control-allow-methods': 'GET, POST, DELETE',
      'access-control-allow-headers': 'authorization,content-type,x-stainless-lang',
      'access-control-max-age': '7200',
      vary: 'origin',
    })
  }
  t.equal((await preflight(url, CHAT, { origin: 'http://localhost:5173' })).status, 204)
  const odd = await preflight(url, CHAT, { 'access-control-request-headers': 'a: b' })
  t.equal(odd.headers.get('access-control-allow-headers'), null, 'what is no list of names is not repeated')
})

t.test(
  'another origin gets no word of it, nor does the status page, nor anybody where the option is not set',
  async t => {
    const { url } = await start(t, `["${APP}"]`)
    const plain = await start(t, undefined)
    for (const [base, path, origin] of [
      [url, CHAT, 'https://app.example.com.evil.example'],
      [url, CHAT, 'http://app.example.com'],
      [url, CHAT, 'https://app.example.com:8443'],
      [url, CHAT, 'null'],
      [url, '/dashboard/events', APP],
      [url, '/dashboard/backends/eject', APP],
      [plain.url, CHAT, APP],
    ] as const) {
      const answer = await preflight(base, path, { origin })
      t.not(answer.status, 204, `${path} ${origin}`)
      t.notOk([...answer.headers.keys()].some(name => name.startsWith('access-control-')))
      await answer.arrayBuffer()
      const asked = await fetch(`${base}/v1/models`, { headers: { ...BEARER, origin } })
      if (path === CHAT) t.equal(asked.headers.get('access-control-allow-origin'), null)
      await asked.arrayBuffer()
    }
  },
)

t.test('answers, streams and errors say that the page may read them, and which of their headers', async t => {
  const running = await start(t, `["${APP}"]`)
  const headers = { origin: APP }
  const answers = [
    await running.chat({ headers }),
    await running.chat({ headers, stream: true }),
    await running.chat({ headers, model: 'nothing' }),
    await fetch(`${running.url}/v1/models`, { headers }),
    await fetch(`${running.url}/v1/models`, { headers: { ...BEARER, ...headers } }),
    await fetch(`${running.url}/nothing`, { headers }),
  ]
  t.same(
    answers.map(({ status }) => status),
    [200, 200, 404, 401, 200, 404],
  )
  for (const answer of answers) {
    t.equal(answer.headers.get('access-control-allow-origin'), APP)
    t.match(answer.headers.get('access-control-expose-headers'), /x-request-id, .*x-proxy-backend, .*retry-after-ms/)
    t.match(answer.headers.get('vary'), /origin/)
    t.ok((await answer.text()).length > 0)
  }
  const own = await running.chat()
  t.equal(own.headers.get('access-control-allow-origin'), null, 'who sends no origin is no page')
  await own.arrayBuffer()
})

t.test('with * every origin may, and the answer says so', async t => {
  const running = await start(t, '["*"]')
  const answer = await running.chat({ headers: { origin: 'https://anything.example' } })
  t.equal(answer.headers.get('access-control-allow-origin'), '*')
  t.equal((await preflight(running.url, CHAT)).headers.get('access-control-allow-origin'), '*')
  await answer.arrayBuffer()
})

t.test(
  'an upstream that speaks of origins itself is not heard beside the proxy, but is where the proxy says nothing',
  async t => {
    const backend = await startRawBackend(t)
    const text = configFor([{ url: backend.url }], { rest: NO_PROBES })
    const lines = ['Access-Control-Allow-Origin: *', 'Access-Control-Expose-Headers: x-other', 'Vary: Accept-Encoding']
    const asked = async (config: string): Promise<Record<string, string>> => {
      const running = await runProxy(t, config)
      const pending = running.chat({ headers: { origin: APP } })
      const request = await backend.next()
      request.send(jsonAnswer('{"id":"x"}', lines))
      const answer = await pending
      await answer.arrayBuffer()
      return Object.fromEntries(answer.headers)
    }
    const own = await asked(text.replace('server: {', `server: {cors_origins: ["${APP}"], `))
    t.match(own, { 'access-control-allow-origin': APP, vary: 'Accept-Encoding, origin' })
    t.match(own['access-control-expose-headers'], /x-proxy-backend/)
    const passed = await asked(text)
    t.match(passed, {
      'access-control-allow-origin': '*',
      'access-control-expose-headers': 'x-other',
      vary: 'Accept-Encoding',
    })
  },
)
