// Responses over WebSocket: the handshake on the URL of POST /v1/responses.
import t from 'tap'
import { CLIENT_KEY, configFor, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { openWebSocket } from '../fixtures/websocket.ts'

const KEY = { authorization: `Bearer ${CLIENT_KEY}` }

t.test('a handshake that no backend could take is 426, on which Codex goes on by HTTP at once', async t => {
  const { url } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url, more: 'api_version: "2025-04-01-preview"' }]))
  for (const path of ['/v1/responses', '/openai/v1/responses', '/openai/responses?api-version=2025-04-01-preview']) {
    const refused = await openWebSocket(`${proxy.url}${path}`, KEY)
    t.match(refused, { status: 426 }, path)
    if ('status' in refused) t.match(JSON.parse(refused.body), { error: { code: 'upgrade_required' } })
  }
})

t.test('without a handshake the URL takes POST only', async t => {
  const { url } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url }]))
  const answer = await fetch(`${proxy.url}/v1/responses`, { headers: KEY })
  t.equal(answer.status, 405)
  t.equal(answer.headers.get('allow'), 'POST')
})
