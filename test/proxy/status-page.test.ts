// The live status page as part of the proxy: who may see what, what it shows of real traffic, and operators' orders.
import t, { type Test } from 'tap'
import { fail, refuseWith } from '../../lib/simulator/faults.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { type StartedResource, startResource } from '../fixtures/start-simulator.ts'

const ADMIN = { authorization: 'Bearer admin-key-1' }
const PLAIN = { authorization: `Bearer ${CLIENT_KEY}` }

async function start(
  t: Test,
): Promise<{ readonly proxy: RunningProxy; readonly backends: readonly StartedResource[] }> {
  const backends = [await startResource(t), await startResource(t)]
  const text = configFor(
    backends.map(({ url }) => ({ url })),
    { rest: 'health_check: {enabled: false}' },
  ).replace(
    /auth: .*/,
    `auth: {keys: [{name: tester, key: ${CLIENT_KEY}}, {name: ops, key: admin-key-1, admin: true}]}`,
  )
  return { proxy: await runProxy(t, text), backends }
}

/** The first event of the page's stream. */
async function snapshotOf(url: string): Promise<Record<string, unknown>> {
  const controller = new AbortController()
  const response = await fetch(`${url}/dashboard/events`, { headers: ADMIN, signal: controller.signal })
  if (response.body === null) throw new Error('no stream')
  let text = ''
  for await (const chunk of response.body) {
    text += Buffer.from(chunk).toString('utf8')
    if (text.includes('\n\n')) break
  }
  controller.abort()
  return JSON.parse(/^event: snapshot\ndata: (.*)$/m.exec(text)?.[1] ?? 'null')
}

function order(
  { url }: RunningProxy,
  action: string,
  backend: string,
  headers: Record<string, string> = ADMIN,
): Promise<Response> {
  return fetch(`${url}/dashboard/backends/${action}`, {
    method: 'POST',
    headers: { ...headers, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'gpt-4o', backend }),
  })
}

t.test('the page is for everyone, its data for an admin key', async t => {
  const { proxy } = await start(t)
  const page = await fetch(`${proxy.url}/dashboard`)
  t.equal(page.status, 200)
  t.match(page.headers.get('content-security-policy'), /default-src 'none'/)
  t.notMatch(await page.text(), CLIENT_KEY)
  for (const [headers, status, code] of [
    [{}, 401, 'invalid_api_key'],
    [PLAIN, 403, 'admin_key_required'],
  ] as const) {
    const events = await fetch(`${proxy.url}/dashboard/events`, { headers })
    t.equal(events.status, status)
    t.match(await events.json(), { error: { code } })
    const steered = await order(proxy, 'eject', 'b1', headers)
    t.equal(steered.status, status)
    await steered.arrayBuffer()
  }
})

t.test('it shows who is out and why, and the requests that others saved', async t => {
  const { proxy, backends } = await start(t)
  backends[0]?.resource.always(fail(503))
  const done = proxy.line('request')
  await (await proxy.chat()).arrayBuffer()
  await done
  const snapshot = await snapshotOf(proxy.url)
  t.match(snapshot.backends, [
    { model: 'gpt-4o', backend: 'b1', state: 'ejected', reason: 'server_error', detail: /503/ },
    { model: 'gpt-4o', backend: 'b2', state: 'healthy' },
  ])
  t.match(snapshot.requests, [
    { model: 'gpt-4o', backend: 'b2', key: 'tester', client: '127.0.0.1', status: 200, attempts: 2 },
  ])
  t.match(snapshot.changes, [{ backend: 'b1', kind: 'ejected' }])
})

t.test('a backend taken out by hand gets nothing until it is brought back; both are logged with the key', async t => {
  const { proxy, backends } = await start(t)
  const ejected = await order(proxy, 'eject', 'b1')
  t.equal(ejected.status, 200)
  await ejected.arrayBuffer()
  for (let i = 0; i < 4; i++) await (await proxy.chat()).arrayBuffer()
  t.equal(backends[0]?.resource.requests.length, 0)
  const restored = await order(proxy, 'restore', 'b1')
  t.equal(restored.status, 200)
  await restored.arrayBuffer()
  for (let i = 0; i < 4; i++) await (await proxy.chat()).arrayBuffer()
  t.equal(backends[0]?.resource.requests.length, 2)
  const orders = proxy.lines.filter(({ msg }) => /by hand$/.test(String(msg)))
  t.match(orders, [
    { audit: true, msg: 'backend ejected by hand', backend: 'b1', key: 'ops', client: '127.0.0.1', id: String },
    { audit: true, msg: 'backend restored by hand', backend: 'b1', key: 'ops', client: '127.0.0.1', id: String },
  ])
  const unknown = await order(proxy, 'eject', 'nobody')
  t.equal(unknown.status, 404)
  await unknown.arrayBuffer()
})

t.test('each refused admin login is an audit line, with whose key it was and where it came from', async t => {
  const { proxy } = await start(t)
  for (const headers of [{ authorization: `Bearer ${CLIENT_KEY}` }, { authorization: 'Bearer a-guess-at-a-key' }, {}]) {
    await (await fetch(`${proxy.url}/dashboard/events`, { headers })).arrayBuffer()
  }
  await (await order(proxy, 'eject', 'b1', { authorization: `Bearer ${CLIENT_KEY}` })).arrayBuffer()
  const lines = proxy.lines.filter(({ audit }) => audit === true)
  t.match(lines, [
    { msg: 'admin access refused', asked: 'read', key: 'tester', client: '127.0.0.1', error: 'admin_key_required' },
    { msg: 'admin access refused', asked: 'read', key: null, client: '127.0.0.1', error: 'invalid_api_key' },
    { msg: 'admin access refused', asked: 'eject', key: 'tester', client: '127.0.0.1', error: 'admin_key_required' },
  ])
  t.equal(lines.length, 3, 'who shows no key has not tried to log in')
  t.notOk(JSON.stringify(proxy.lines).includes('a-guess'))
})

t.test('an open page does not hold up the shutdown', async t => {
  const { proxy } = await start(t)
  const events = await fetch(`${proxy.url}/dashboard/events`, { headers: ADMIN })
  const ended = events.text()
  await proxy.proxy.shutdown(60_000)
  t.match(await ended, /event: snapshot/)
})

t.test('a backend that does not serve an operation at its api_version is marked with both', async t => {
  const { proxy, backends } = await start(t)
  backends[0]?.resource.always(refuseWith('resource_not_found'))
  for (let i = 0; i < 2; i++) await (await proxy.chat()).text()
  const snapshot = await snapshotOf(proxy.url)
  t.match(snapshot.backends, [
    { backend: 'b1', state: 'healthy', lacks: ['chat/completions at api_version v1'] },
    { backend: 'b2', lacks: [] },
  ])
})
