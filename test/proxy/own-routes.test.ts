// The routes by which the proxy itself is watched: what they answer, while it drains too, and that they do not fill the
// log.
import t from 'tap'
import { fail } from '../../lib/simulator/faults.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

t.test('GET / sends browsers to the status page and names the routes to programs', async t => {
  const { url } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url }]))
  const browser = await fetch(proxy.url, { headers: { accept: 'text/html,*/*;q=0.8' }, redirect: 'manual' })
  t.equal(browser.status, 302)
  t.equal(browser.headers.get('location'), '/dashboard')
  const program = await fetch(proxy.url)
  t.equal(program.status, 200)
  const text = await program.text()
  t.match(JSON.parse(text), { name: 'azure-openai-proxy', version: 'test', routes: [] })
  for (const route of ['/v1/chat/completions', '/health', '/dashboard']) t.ok(text.includes(route))
  t.notMatch(text, /\n/)
  const posted = await fetch(proxy.url, { method: 'POST' })
  t.equal(posted.status, 404)
  await posted.text()
})

t.test('/readyz does not hang on Azure, and fails while the proxy drains', async t => {
  const { url, resource } = await startResource(t)
  resource.always(fail(500))
  const proxy = await runProxy(t, configFor([{ url }], { rest: 'health_check: {enabled: false}' }))
  for (let i = 0; i < 8; i++) await (await proxy.chat()).text()
  const ready = await fetch(`${proxy.url}/readyz`)
  t.equal(ready.status, 200)
  t.same(await ready.json(), { status: 'ok' })
  const stalled = await startResource(t, { firstDelayMs: 3_600_000 })
  const busy = await runProxy(t, configFor([{ url: stalled.url }]))
  const pending = busy.chat().catch(() => undefined)
  await until(() => stalled.resource.requests.length > 0)
  const over = busy.proxy.shutdown(200)
  const draining = await fetch(`${busy.url}/readyz`).catch(() => undefined)
  if (draining !== undefined) {
    t.equal(draining.status, 503)
    t.same(await draining.json(), { status: 'draining' })
  }
  await over
  await pending
})

t.test('the routes that watch the proxy are logged at debug unless they fail', async t => {
  const { url } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url }]))
  for (const path of ['/health', '/livez', '/readyz', '/metrics', '/dashboard', '/']) {
    const line = proxy.line('request')
    await (await fetch(`${proxy.url}${path}`)).text()
    t.match(await line, { path, level: 'debug' })
  }
  for (const path of ['/dashboard/events', '/v1/models']) {
    const line = proxy.line('request')
    await (await fetch(`${proxy.url}${path}`)).text()
    t.match(await line, { path, level: 'info', status: 401 })
  }
})
