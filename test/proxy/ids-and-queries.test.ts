// A name means the same to the proxy and to a backend, however it is spelt: ids in paths, parameters in queries,
// mistaken URLs.
import t from 'tap'
import { BEARER, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { jsonAnswer, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, runProxy } from '../fixtures/run-proxy.ts'
import { handshakeLines } from '../fixtures/websocket.ts'

const HOSTILE_IDS = [
  '..%2Ffiles',
  '..%2F..%2F..%2Fopenai%2Fv1%2Ffiles',
  '..%5Cfiles',
  '%2e%2e',
  'resp_1%00',
  'a%2Fb',
  'a.b',
  'a%20b',
]

t.test(
  'what is no id of a stored object is 404 here, with a malformed escape 400, and no backend hears of it',
  async t => {
    const backend = await startRawBackend(t)
    const { url } = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
    const at = (method: string, path: string): Promise<Response> => fetch(`${url}${path}`, { method, headers: BEARER })
    for (const id of HOSTILE_IDS) {
      for (const [method, tail] of [
        ['GET', ''],
        ['DELETE', ''],
        ['POST', '/cancel'],
        ['GET', '/input_items'],
      ] as const) {
        // fetch itself resolves `%2e%2e`, as browsers do: that path ends at another place, which is unknown too.
        const answer = await at(method, `/v1/responses/${id}${tail}`)
        t.equal(answer.status, 404, `${method} ${id}${tail}`)
        const code = id === '%2e%2e' ? /unknown_url|response_not_found/ : /response_not_found/
        t.match(await answer.text(), code)
      }
    }
    for (const path of [
      '/v1/responses/%zz',
      '/v1/responses/%',
      '/v1/models/%ff',
      '/openai/deployments/%c3%28/chat/completions',
    ]) {
      const answer = await at('GET', path)
      t.equal(answer.status, 400, path)
      t.match(await answer.json(), { error: { code: 'invalid_request', type: 'invalid_request_error' } })
    }
    t.equal((await fetch(`${url}/v1/responses/..%2Ffiles`)).status, 401, 'a stranger learns nothing')
    t.equal(backend.requests.length, 0)
  },
)

const SPELLINGS = [
  '%6dodel',
  'd%65ployment',
  'model[]',
  'model%5B0%5D',
  'MODEL',
  'Deployment',
  '%256dodel',
  'mod%65l%00',
  'x=1;model',
]

t.test('a second name of the model goes upstream in no spelling: realtime sessions and calls', async t => {
  const backend = await startRawBackend(t)
  const text = configFor([{ url: backend.url, more: 'type: openai, deployment: own-name' }], { rest: NO_PROBES })
  const running = await runProxy(t, text)
  for (const spelling of SPELLINGS) {
    const query = `model=gpt-4o&${spelling}=secret-model&keep%5B%5D=%20y`
    const client = connect(running)
    client.send(handshakeLines(`/v1/realtime?${query}`, CLIENT_KEY))
    const handshake = await backend.next()
    handshake.send('HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}')
    await client.until('{}')
    client.socket.destroy()
    const asked = fetch(`${running.url}/v1/realtime/calls?${query}`, {
      method: 'POST',
      body: 'v=0',
      headers: { ...BEARER, 'content-type': 'application/sdp' },
    })
    const call = await backend.next()
    call.send(jsonAnswer())
    await asked
    for (const { head } of [handshake, call]) {
      const [line = ''] = head.split('\r\n')
      t.notMatch(line, /secret-model/, spelling)
      t.match(line, /[?&]model=own-name(&| )/)
      t.match(line, /keep%5B%5D=%20y/)
    }
  }
})

t.test("a client's api-version and credentials go upstream in no spelling", async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(
    t,
    configFor([{ url: backend.url, more: 'api_version: "2024-10-21"' }], { rest: NO_PROBES }),
  )
  const query =
    'API-Version=a&api%2Dversion=b&api-version[]=c&api-key=s1&API%2dKEY=s2&subscription%2dkey=s3&a=1;api-key=s4&keep=1'
  const asked = running.post(`/v1/chat/completions?${query}`, { model: 'gpt-4o', messages: [] })
  const request = await backend.next()
  request.send(jsonAnswer())
  await asked
  t.match(
    request.head,
    /^POST \/openai\/deployments\/gpt-4o\/chat\/completions\?a=1&keep=1&api-version=2024-10-21 HTTP/,
  )
})

t.test('a mistaken URL is answered with the one that was meant, in the OpenAI shape', async t => {
  const backend = await startRawBackend(t)
  const running = await runProxy(t, configFor([backend], { rest: NO_PROBES }))
  for (const path of ['/chat/completions', '/v1/v1/chat/completions', '/models/chat/completions?api-version=x']) {
    const answer = await running.post(path, {})
    t.equal(answer.status, 404)
    t.match(await answer.json(), {
      error: { code: 'unknown_url', type: 'invalid_request_error', message: /did you mean \/v1\/chat\/completions\?$/ },
    })
  }
})
