// `backends[].headers`: on every request to that backend, in place of the client's, counted among Azure's ten, shown to
// nobody. covers: lib/config/backend-headers.ts, lib/forward/headers.ts, lib/forward/send.ts,
// lib/forward/resource-query.ts
import t from 'tap'
import { CLIENT_KEY, configFor, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const NO_PROBES = 'health_check: {enabled: false}'
const OWN = 'headers: {Ocp-Apim-Subscription-Key: secret-subscription, X-Team: blue}'

t.test('requests, streams, probes and realtime carry them, and only to their backend', async t => {
  const [first, second] = [
    await startResource(t, { deployments: [{ name: 'gpt-4o', kind: 'realtime' }] }),
    await startResource(t),
  ]
  const text = configFor(
    [
      { url: first.url, more: OWN },
      { url: second.url, more: 'priority: 2' },
    ],
    { rest: NO_PROBES },
  )
  const running = await runProxy(t, text)
  const opened = await openWebSocket(`${running.url}/v1/realtime?model=gpt-4o`, {
    authorization: `Bearer ${CLIENT_KEY}`,
  })
  const session = mustBeOpen(opened)
  await session.next()
  session.close()
  await session.ended
  await (await running.chat()).arrayBuffer()
  await running.proxy.probe()
  t.ok(first.resource.requests.length >= 2)
  for (const { headers } of first.resource.requests) {
    t.match(headers, { 'ocp-apim-subscription-key': 'secret-subscription', 'x-team': 'blue' })
  }
  for (const { headers } of second.resource.requests) t.equal(headers['x-team'], undefined)
  t.notMatch(JSON.stringify(running.lines), /secret-subscription/)
})

t.test("the client's header of that name stays here, and Azure's ten are not exceeded", async t => {
  const { url, resource } = await startResource(t)
  const running = await runProxy(t, configFor([{ url, more: OWN }], { rest: NO_PROBES }))
  const many = Object.fromEntries(Array.from({ length: 14 }, (_, i) => [`x-own-${i}`, 'v']))
  const answered = await running.chat({ headers: { ...many, 'X-TEAM': 'red', traceparent: '00-1-2-3' } })
  t.equal(answered.status, 200)
  const headers = resource.requests[0]?.headers ?? {}
  t.equal(headers['x-team'], 'blue')
  t.equal(headers.traceparent, '00-1-2-3', 'what matters most goes first')
  const custom = Object.keys(headers).filter(name => /^(x-own-|x-team|ocp-apim|traceparent)/.test(name))
  t.equal(custom.length, 10)
  t.strictSame(resource.violations, [])
})

t.test('a change of them is said in the log of a reload without their values', async t => {
  const { url } = await startResource(t)
  const before = configFor([{ url, more: OWN }], { rest: NO_PROBES })
  const running = await runProxy(t, before)
  running.proxy.reload(readConfig(before.replace('secret-subscription', 'another-subscription')), undefined)
  const changes = running.lines.filter(({ msg }) => msg === 'config change').map(({ change }) => String(change))
  t.ok(
    changes.some(change => /headers/.test(change)),
    changes.join('; '),
  )
  t.notMatch(JSON.stringify(running.lines), /(secret|another)-subscription/)
  t.equal((await running.chat()).status, 200)
})
