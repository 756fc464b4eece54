// The live status page's wire: the page and its policy, the event stream, an operator's eject and restore; over real
// sockets.
import { createHash } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { connect } from 'node:net'
import { Script } from 'node:vm'
import t, { type Test } from 'tap'
import {
  ADMIN_KEY,
  type DashboardServer,
  type DashboardServerOptions,
  PLAIN_KEY,
  startDashboard,
} from '../fixtures/dashboard-server.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'

type Json = Readonly<Record<string, unknown>>

interface Viewer {
  /** The next event of the stream; undefined at its end. */
  next(): Promise<{ readonly event: string; readonly data: Json } | undefined>
  leave(): void
}

const PLACES = [
  { model: 'gpt-4o', backend: 'b1' },
  { model: 'gpt-4o', backend: 'b2', tier: 2, weight: 3 },
] as const

async function stage(
  t: Test,
  { places = PLACES }: { places?: DashboardServerOptions['places'] } = {},
): Promise<DashboardServer & { readonly clock: FakeClock; view(headers?: Record<string, string>): Promise<Viewer> }> {
  const clock = createFakeClock(0)
  const server = await startDashboard({ clock, places })
  t.teardown(() => server.close())
  return {
    ...server,
    clock,
    async view(headers = { authorization: `Bearer ${ADMIN_KEY}` }) {
      const abort = new AbortController()
      t.teardown(() => abort.abort())
      const response = await fetch(`${server.url}/dashboard/events`, { headers, signal: abort.signal })
      if (response.status !== 200 || response.body === null) throw new Error(`status ${response.status}`)
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
      let rest = ''
      return {
        leave: () => abort.abort(),
        async next() {
          for (;;) {
            const end = rest.indexOf('\n\n')
            if (end !== -1) {
              const [, event = '', data = ''] = /^event: (\w+)\ndata: (.*)$/.exec(rest.slice(0, end)) ?? []
              rest = rest.slice(end + 2)
              const value: Json = JSON.parse(data)
              return { event, data: value }
            }
            const { done, value } = await reader.read()
            if (done) return undefined
            rest += value
          }
        },
      }
    },
  }
}

const REQUEST = {
  time_ms: 1,
  id: 'r1',
  key: 'webshop',
  client: '10.1.2.3',
  method: 'POST',
  path: '/v1/embeddings',
  model: 'gpt-4o',
  backend: 'b1',
  status: 200,
  attempts: 1,
  duration_ms: 12,
  ttfb_ms: 11,
  prompt_tokens: 10,
  completion_tokens: null,
  cached_tokens: null,
  stream: false,
  error: null,
} as const

const OPERATOR = { key: 'operator', client: undefined, id: 'request-1' }

function steer(server: DashboardServer, action: string, body: string, key = ADMIN_KEY): Promise<Response> {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  return fetch(`${server.url}/dashboard/backends/${action}`, { method: 'POST', headers, body })
}

t.test('the page', async t => {
  t.test('is one document that its own policy allows and that asks nobody else', async t => {
    const server = await stage(t)
    const response = await fetch(`${server.url}/dashboard`)
    const html = await response.text()
    const csp = response.headers.get('content-security-policy') ?? ''
    for (const [tag, directive] of [
      ['style', 'style-src'],
      ['script', 'script-src'],
    ] as const) {
      const inside = [...html.matchAll(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`, 'g'))].map(match => match[1] ?? '')
      t.equal(inside.length, 1, `one ${tag}`)
      const hash = createHash('sha256')
        .update(inside[0] ?? '')
        .digest('base64')
      t.ok(csp.includes(`${directive} 'sha256-${hash}'`), `the policy allows this ${tag}`)
    }
    t.match(csp, /^default-src 'none'; /)
    t.match(csp, /connect-src 'self'/)
    t.match(csp, /require-trusted-types-for 'script'/)
    t.notMatch(csp, /unsafe|\*|https?:/)
    t.notMatch(html, /\s(?:src|style|on\w+)=/, 'no outside source, no inline style or handler')
    t.notMatch(html.replaceAll('http://www.w3.org/2000/svg', ''), /https?:\/\//)
    t.notMatch(html, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|localStorage|document\.cookie/)
    t.match(response.headers.get('x-frame-options'), 'DENY')
    t.match(response.headers.get('cache-control'), 'no-store')
  })

  t.test('holds a script that can be read as one', async t => {
    const server = await stage(t)
    const html = await (await fetch(`${server.url}/dashboard`)).text()
    const script = /<script>([\s\S]*)<\/script>/.exec(html)?.[1] ?? ''
    t.doesNotThrow(() => new Script(script))
  })

  t.test('answers HEAD without a body, and no other method', async t => {
    const server = await stage(t)
    const head = await fetch(`${server.url}/dashboard`, { method: 'HEAD' })
    t.equal(await head.text(), '')
    t.ok(Number(head.headers.get('content-length')) > 10_000)
    t.equal((await fetch(`${server.url}/dashboard`, { method: 'POST' })).status, 405)
    t.equal((await fetch(`${server.url}/dashboard/backends/eject`)).status, 405)
    t.equal((await fetch(`${server.url}/dashboard/elsewhere`)).status, 404)
  })
})

t.test('the event stream', async t => {
  t.test('begins with the whole state', async t => {
    const server = await stage(t)
    server.status.requestDone(REQUEST)
    server.healthRegistry.lease(server.health('gpt-4o', 'b2')).release({
      kind: 'failed',
      suspect: 'no',
      timeout: false,
      reason: 'server_error',
      detail: '503',
    })
    const first = await (await server.view()).next()
    t.equal(first?.event, 'snapshot')
    t.match(first?.data, {
      backends: [
        { model: 'gpt-4o', backend: 'b1', state: 'healthy', tier: 1, weight: 1 },
        {
          backend: 'b2',
          state: 'ejected',
          reason: 'server_error',
          detail: '503',
          tier: 2,
          weight: 3,
          until_ms: server.clock.epochMs() + 30_000,
        },
      ],
      requests: [{ id: 'r1' }],
      changes: [{ kind: 'ejected', backend: 'b2', reason: 'server_error' }],
    })
  })

  t.test('tells every second how it stands, and of requests and changes once', async t => {
    const server = await stage(t)
    const viewer = await server.view()
    await viewer.next()
    server.clock.advance(1_000)
    t.match(await viewer.next(), { event: 'tick', data: { backends: [{ state: 'healthy' }, { state: 'healthy' }] } })

    server.status.requestDone(REQUEST)
    server.healthRegistry.lease(server.health('gpt-4o', 'b1')).release({ kind: 'throttled', waitMs: 5_000 })
    server.clock.advance(1_000)
    t.match(await viewer.next(), { event: 'tick', data: { backends: [{ state: 'throttled' }, {}] } })
    t.match(await viewer.next(), { event: 'request', data: { requests: [{ id: 'r1' }], skipped: 0 } })
    t.match(await viewer.next(), { event: 'change', data: { changes: [{ kind: 'throttled', backend: 'b1' }] } })
    server.clock.advance(1_000)
    t.equal((await viewer.next())?.event, 'tick')
    server.clock.advance(1_000)
    t.equal((await viewer.next())?.event, 'tick', 'neither is told twice')
  })

  t.test('tells of 50 requests a second and counts the rest', async t => {
    const server = await stage(t)
    const viewer = await server.view()
    await viewer.next()
    for (let i = 1; i <= 170; i++) server.status.requestDone({ ...REQUEST, id: `r${i}` })
    server.clock.advance(1_000)
    await viewer.next()
    const told = await viewer.next()
    const requests = told?.data.requests
    t.ok(Array.isArray(requests) && requests.length === 50)
    t.match(told?.data, { skipped: 120, requests: [{ id: 'r170' }] })
  })

  t.test('goes from ejected over trial to healthy by the clock and the first answer', async t => {
    const server = await stage(t)
    const health = server.health('gpt-4o', 'b1')
    server.healthRegistry
      .lease(health)
      .release({ kind: 'failed', suspect: 'no', timeout: false, reason: 'connect_failed', detail: 'ECONNREFUSED' })
    const viewer = await server.view()
    await viewer.next()
    const states: unknown[] = []
    for (let second = 1; second <= 30; second++) {
      server.clock.advance(1_000)
      states.push((await viewer.next())?.data.backends)
    }
    t.match(states.at(-2), [{ state: 'ejected' }, {}])
    t.match(states.at(-1), [{ state: 'trial', reason: 'connect_failed', until_ms: null }, {}])
    server.healthRegistry.lease(health).release({ kind: 'healthy' })
    server.clock.advance(1_000)
    t.match(await viewer.next(), { data: { backends: [{ state: 'healthy', reason: null }, {}] } })
    t.match(await viewer.next(), { event: 'change', data: { changes: [{ kind: 'restored', by: 'trial' }] } })
  })

  t.test('ends when a reload takes the right away', async t => {
    const server = await stage(t)
    const viewer = await server.view()
    await viewer.next()
    server.revoke()
    server.clock.advance(1_000)
    t.equal(await viewer.next(), undefined)
    t.equal(server.dashboard.viewers(), 0)
  })

  t.test('ends when the process stops', async t => {
    const server = await stage(t)
    const viewer = await server.view()
    await viewer.next()
    server.dashboard.close()
    t.equal(await viewer.next(), undefined)
  })

  t.test('is refused to a wrong key and to one that is no admin', async t => {
    const server = await stage(t)
    await t.rejects(server.view({}), /401/)
    await t.rejects(server.view({ authorization: 'Bearer wrong' }), /401/)
    await t.rejects(server.view({ authorization: `Bearer ${PLAIN_KEY}` }), /403/)
    t.equal(server.dashboard.viewers(), 0)
  })

  t.test('costs no timer while nobody watches', async t => {
    const server = await stage(t)
    t.equal(server.clock.pending(), 0)
    const viewer = await server.view()
    await viewer.next()
    t.equal(server.clock.pending(), 1)
    const gone = new Promise<void>(resolve => {
      const look = (): void => {
        if (server.dashboard.viewers() === 0) resolve()
        else setImmediate(look)
      }
      look()
    })
    viewer.leave()
    await gone
    t.equal(server.clock.pending(), 0)
  })

  t.test('has 16 places; the next one is told when to come back', async t => {
    const server = await stage(t)
    for (let i = 0; i < 16; i++) await (await server.view()).next()
    const response = await fetch(`${server.url}/dashboard/events`, {
      headers: { authorization: `Bearer ${ADMIN_KEY}` },
    })
    t.equal(response.status, 503)
    t.equal(response.headers.get('retry-after'), '10')
    t.match(await response.json(), { error: { code: 'overloaded' } })
  })

  t.test('drops a viewer that does not read, and holds little for it until then', async t => {
    const places = Array.from({ length: 400 }, (_, i) => ({ model: `model-${i}`, backend: `backend-${i}` }))
    const server = await stage(t, { places })
    let held = 0
    const responses: ServerResponse[] = []
    server.server.on('request', (_, response) => responses.push(response))
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.on('error', () => undefined)
    socket.pause()
    socket.write(`GET /dashboard/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN_KEY}\r\n\r\n`)
    const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
    while (server.dashboard.viewers() === 0) await turn()
    // The kernel takes some megabytes for the reader; after that it is up to the proxy.
    for (let i = 0; i < 2_000 && server.dashboard.viewers() > 0; i++) {
      server.clock.advance(1_000)
      await turn()
      held = Math.max(held, responses[0]?.writableLength ?? 0)
    }
    t.equal(server.dashboard.viewers(), 0)
    t.ok(held < 2 * 1024 * 1024, `${held} bytes held`)
  })
})

t.test('eject and restore by hand', async t => {
  t.test('take a backend out until restored, and viewers see both at once', async t => {
    const server = await stage(t)
    const viewer = await server.view()
    await viewer.next()
    const order = JSON.stringify({ model: 'gpt-4o', backend: 'b1' })
    const ejected = await steer(server, 'eject', order)
    t.equal(ejected.status, 200)
    t.match(await ejected.json(), { action: 'eject', model: 'gpt-4o', backend: 'b1' })
    t.match(await viewer.next(), {
      event: 'tick',
      data: { backends: [{ state: 'ejected', reason: 'by_hand', until_ms: null }, {}] },
    })
    t.match(await viewer.next(), { event: 'change', data: { changes: [{ reason: 'by_hand', until_ms: null }] } })

    t.equal((await steer(server, 'restore', order)).status, 200)
    t.match(await viewer.next(), { event: 'tick', data: { backends: [{ state: 'healthy' }, {}] } })
    t.match(await viewer.next(), { event: 'change', data: { changes: [{ kind: 'restored', by: 'hand' }] } })
    t.same(server.orders, [
      { action: 'eject', model: 'gpt-4o', backend: 'b1', by: OPERATOR },
      { action: 'restore', model: 'gpt-4o', backend: 'b1', by: OPERATOR },
    ])
  })

  t.test('one deployment in two models is out in both, and its requests in flight count once', async t => {
    const places = [
      { model: 'gpt-4o', backend: 'b1', deployment: 'shared' },
      { model: 'gpt-4o-mini', backend: 'b1', deployment: 'shared' },
    ]
    const server = await stage(t, { places })
    const lease = server.healthRegistry.lease(server.health('gpt-4o', 'b1'))
    await steer(server, 'eject', JSON.stringify({ model: 'gpt-4o-mini', backend: 'b1' }))
    t.match((await (await server.view()).next())?.data, {
      totals: { in_flight: 1 },
      backends: [{ state: 'ejected' }, { state: 'ejected' }],
      changes: [{ model: 'gpt-4o,gpt-4o-mini', backend: 'b1' }],
    })
    lease.release({ kind: 'none' })
  })

  t.test('what is not an order is refused, and changes nothing', async t => {
    const server = await stage(t)
    for (const body of ['', 'null', '[]', '{"model":"gpt-4o"}', '{"model":"gpt-4o","backend":7}', '{"model":']) {
      const response = await steer(server, 'eject', body)
      t.equal(response.status, 400, body)
      t.match(await response.json(), { error: { code: 'invalid_json' } })
    }
    const large = await steer(server, 'eject', JSON.stringify({ model: 'm'.repeat(5_000), backend: 'b1' }))
    t.equal(large.status, 413)
    for (const name of ['b9', '__proto__', 'constructor']) {
      const unknown = await steer(server, 'eject', JSON.stringify({ model: 'gpt-4o', backend: name }))
      t.equal(unknown.status, 404, name)
      t.match(await unknown.json(), { error: { param: 'backend' } })
    }
    t.equal((await steer(server, 'eject', JSON.stringify(PLACES[0]), 'wrong')).status, 401)
    t.equal((await steer(server, 'eject', JSON.stringify(PLACES[0]), PLAIN_KEY)).status, 403)
    t.same(server.orders, [])
  })
})
