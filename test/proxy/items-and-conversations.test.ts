// State that is named by item, by conversation or by what only its maker can read. It finds its resource, and what that
// takes is bounded.
import t, { type Test } from 'tap'
import type { Clock } from '../../lib/clock.ts'
import { denyItem, fail, throttle } from '../../lib/simulator/faults.ts'
import type { SimulatedResource } from '../../lib/simulator/resource.ts'
import { dig } from '../fixtures/dig.ts'
import { configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/settle.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { steadyClock } from '../fixtures/steady-clock.ts'

const REST = 'health_check: {enabled: false, recovery: 30s}'

interface Stage {
  readonly resources: readonly SimulatedResource[]
  /** One more proxy in front of the same resources, which knows nothing. */
  proxy(model?: string): Promise<RunningProxy>
}

async function stage(t: Test, count = 3, clock: Clock = steadyClock): Promise<Stage> {
  const started = await Promise.all(
    Array.from({ length: count }, (_, i) => startResource(t, { name: `resource ${i}`, deltas: 3 })),
  )
  const backends = started.map(({ url }) => ({ url }))
  return {
    resources: started.map(({ resource }) => resource),
    proxy: (model = '') => runProxy(t, configFor(backends, { model, rest: REST }), { clock }),
  }
}

interface Turn {
  readonly status: number
  readonly backend: string
  readonly value: unknown
}

/** Asks for a response; a streamed one tells its last event's. */
async function turn({ post }: RunningProxy, body: Readonly<Record<string, unknown>>): Promise<Turn> {
  const answer = await post('/v1/responses', { model: 'gpt-4o', input: 'Hi', ...body })
  const text = await answer.text()
  const data = text.startsWith('event:') ? (text.trimEnd().split('\ndata: ').at(-1) ?? '') : text
  const value: unknown = JSON.parse(data)
  const backend = answer.headers.get('x-proxy-backend') ?? ''
  return { status: answer.status, backend, value: dig(value, 'response') ?? value }
}

function indexOf({ backend }: Turn): number {
  return Number(backend.slice(1)) - 1
}

function output({ value }: Turn, index: number): object {
  return Object(dig(value, `output.${index}`))
}

function reference(item: object): object {
  return { type: 'item_reference', id: Reflect.get(item, 'id') }
}

t.test('a follow-up that refers to items of an earlier answer reaches the resource that made them', async t => {
  const { resources, proxy } = await stage(t)
  const running = await proxy()
  for (const stream of [false, true]) {
    for (let i = 0; i < 6; i++) {
      const first = await turn(running, { stream })
      const input = [
        reference(output(first, 0)),
        { role: 'user', content: 'More' },
        { id: Reflect.get(output(first, 1), 'id') },
      ]
      const second = await turn(running, { input, stream })
      t.equal(second.status, 200)
      t.equal(second.backend, first.backend)
      const bare = { type: 'reasoning', id: Reflect.get(output(second, 0), 'id'), summary: [] }
      t.equal((await turn(running, { input: [bare, { role: 'user', content: 'And?' }] })).backend, first.backend)
    }
  }
  t.ok(resources.every(({ violations }) => violations.length === 0))
})

t.test('items that a proxy has not seen made are looked for in turn, once', async t => {
  const { proxy } = await stage(t)
  const [before, after] = [await proxy(), await proxy()]
  for (let i = 0; i < 3; i++) {
    const first = await turn(before, {})
    const input = [reference(output(first, 0))]
    const found = await turn(after, { input })
    t.equal(found.status, 200)
    t.equal(found.backend, first.backend)
    const again = await after.post('/v1/responses', { model: 'gpt-4o', input })
    t.equal(again.headers.get('x-proxy-attempts'), '1', 'from then on it is known')
    await again.text()
  }
  const nowhere = await turn(after, { input: [{ type: 'item_reference', id: 'rs_0000000000' }] })
  t.match(nowhere, { status: 400, value: { error: { message: "Item with id 'rs_0000000000' not found." } } })
})

/** A clock on which waits of half a second, which nothing else takes, last as long as the test wants. */
function pausingClock() {
  const pauses: (() => void)[] = []
  const clock: Clock = {
    ...steadyClock,
    after(delayMs, run) {
      if (delayMs !== 500) return steadyClock.after(delayMs, run)
      pauses.push(run)
      return { cancel: () => void pauses.splice(pauses.indexOf(run), 1) }
    },
  }
  return { clock, pauses }
}

t.test('an owner that denies an item it has made is asked once more, after half a second', async t => {
  for (const count of [1, 3]) {
    const { clock, pauses } = pausingClock()
    const { resources, proxy } = await stage(t, count, clock)
    const running = await proxy()
    const first = await turn(running, {})
    const owner = resources[indexOf(first)]
    const input = [reference(output(first, 0))]
    for (const [faults, status] of [
      [[denyItem()], 200],
      [[denyItem(), denyItem()], 400],
    ] as const) {
      const before = owner?.requests.length ?? 0
      owner?.next(...faults)
      const answer = turn(running, { input })
      await until(() => pauses.length === 1)
      t.equal(owner?.requests.length, before + 1, 'not before the time is over')
      pauses.shift()?.()
      t.equal((await answer).status, status, `${count} resources, ${faults.length} denials`)
      t.equal(owner?.requests.length, before + 2, 'and only once')
    }
  }
})

t.test('a client that leaves while its item is waited for costs no second question', async t => {
  const { clock, pauses } = pausingClock()
  const { resources, proxy } = await stage(t, 1, clock)
  const running = await proxy()
  const first = await turn(running, {})
  resources[0]?.next(denyItem())
  const leaving = new AbortController()
  const body = { model: 'gpt-4o', input: [reference(output(first, 0))] }
  const asked = running.post('/v1/responses', body, { signal: leaving.signal })
  await until(() => pauses.length === 1)
  const logged = running.line('request')
  leaving.abort()
  await t.rejects(asked)
  t.match(await logged, { error: 'client_closed', attempts: 1 })
  t.equal(pauses.length, 0)
  t.equal(resources[0]?.requests.length, 2)
})

t.test(
  'a turn in a conversation reaches the resource where it lives, also through a proxy that knows nothing',
  async t => {
    const { resources, proxy } = await stage(t)
    const home = resources[1]
    const made = await fetch(`http://${home?.host()}/openai/v1/conversations`, {
      method: 'POST',
      headers: { 'api-key': 'azure-key', 'content-type': 'application/json' },
      body: '{}',
    })
    const { id } = Object(await made.json())
    const running = await proxy()
    for (const conversation of [id, { id }, id]) {
      const answer = await turn(running, { conversation })
      t.match(answer, { status: 200, backend: 'b2' })
    }
    t.match(await turn(running, { conversation: 'conv_0000' }), { status: 404 })
  },
)

t.test('encrypted reasoning whose maker is out is left out where that is wanted, and waited for where not', async t => {
  const include = ['reasoning.encrypted_content']
  for (const trouble of [throttle(7), fail(503)]) {
    const { resources, proxy } = await stage(t, 2)
    const running = await proxy('strip_foreign_reasoning: true')
    const first = await turn(running, { include, store: false })
    const input = [
      { role: 'user', content: 'Hi' },
      output(first, 0),
      output(first, 1),
      { role: 'user', content: 'More' },
    ]
    t.equal((await turn(running, { input, include, store: false })).backend, first.backend)
    resources[indexOf(first)]?.always(trouble)
    const elsewhere = await turn(running, { input, include, store: false })
    t.equal(elsewhere.status, 200)
    t.not(elsewhere.backend, first.backend)
    const sent = Object(JSON.parse(String(resources[indexOf(elsewhere)]?.requests.at(-1)?.body)))
    t.same(
      sent.input,
      input.filter((_, i) => i !== 1),
      'everything but the reasoning goes there',
    )
    // A history with reasoning of both is readable by nobody as a whole.
    const mixed = [...input, output(elsewhere, 0), output(elsewhere, 1), { role: 'user', content: 'And?' }]
    t.equal((await turn(running, { input: mixed, include, store: false })).status, 200)
    resources[indexOf(first)]?.clear()
    const plain = await proxy()
    t.match(await turn(plain, { input, include, store: false }), { status: 200, backend: first.backend })
    resources[indexOf(first)]?.always(throttle(7))
    t.match(await turn(plain, { input, include, store: false }), { status: 429 })
  }
})

t.test('reasoning of an unknown maker is left out when the only ones that are there cannot read it', async t => {
  const include = ['reasoning.encrypted_content']
  const { resources, proxy } = await stage(t, 2)
  const first = await turn(await proxy(), { include, store: false })
  const fresh = await proxy('strip_foreign_reasoning: true')
  resources[indexOf(first)]?.always(throttle(7))
  const input = [output(first, 0), output(first, 1), { role: 'user', content: 'More' }]
  for (let i = 0; i < 2; i++) t.match(await turn(fresh, { input, include, store: false }), { status: 200 })
})
