// The log of backends and models, on a clock moved by hand: one line a change, a reminder an hour, and the reasons of a
// model that is down.
import t, { type Test } from 'tap'
import { ADVICE } from '../../lib/balancer/advice.ts'
import type { BackendHealth } from '../../lib/balancer/health.ts'
import { createHandClock } from '../fixtures/hand-clock.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'

const MINUTE_MS = 60_000

async function start(t: Test, names: readonly string[]) {
  const clock = createHandClock()
  const text = configFor(names.map((name, i) => ({ url: `http://127.0.0.1:${i + 1}`, name })))
  const running = await runProxy(t, text, { clock })
  const { shared, runtime } = running.proxy
  const healthOf = (name: string): BackendHealth => {
    const found = runtime()
      .pools.flatMap(pool => pool.members)
      .find(({ backend }) => backend.name === name)
    if (found === undefined) throw new Error(`no ${name}`)
    return found.health
  }
  const out = (name: string, detail = '403: Access denied due to Virtual Network/Firewall rules.'): void =>
    shared.health.withhold(healthOf(name), 'network_refused', detail, 5 * MINUTE_MS)
  return {
    clock,
    health: shared.health,
    healthOf,
    said: (pattern: RegExp) => running.lines.filter(({ msg }) => pattern.test(String(msg))),
    out,
    /** Time passes while it is tried again and again, and fails each time. */
    pass(name: string, minutes: number) {
      for (let i = 0; i < minutes; i++) {
        clock.advance(MINUTE_MS)
        if (i % 7 === 0) out(name)
      }
    },
  }
}

t.test('a backend that stays out is spoken of once, and again every hour, until it is back', async t => {
  const { clock, said, out, pass, health, healthOf } = await start(t, ['east', 'west'])
  out('east')
  const what = { model: 'gpt-4o', backend: 'east', reason: 'network_refused', todo: ADVICE.network_refused }
  t.match(said(/ejected/), [{ level: 'error', ...what, detail: /^403: Access denied due to Virtual/ }])
  pass('east', 59)
  t.equal(said(/still out/).length, 0)
  pass('east', 9)
  t.match(said(/still out/), [{ level: 'warn', ...what, out_for_ms: Number }])
  t.ok(Math.abs(Number(said(/still out/)[0]?.out_for_ms) - 60 * MINUTE_MS) <= 9 * MINUTE_MS)
  pass('east', 50)
  t.equal(said(/still out/).length, 1)
  pass('east', 15)
  t.equal(said(/still out/).length, 2)
  health.restore(healthOf('east'))
  t.match(said(/restored/), [{ level: 'info', backend: 'east' }])
  clock.advance(3 * 60 * MINUTE_MS)
  t.equal(said(/still out/).length, 2, 'what is back is not spoken of')
  t.equal(said(/ejected/).length, 1)
})

t.test('one taken out by hand is not reminded of: somebody knows', async t => {
  const { clock, said, health, healthOf } = await start(t, ['east', 'west'])
  health.eject(healthOf('east'), undefined)
  clock.advance(5 * 60 * MINUTE_MS)
  t.equal(said(/still out/).length, 0)
})

t.test(
  'a model that is down has one line of its own, with the reason of each of its backends, and one when it is back',
  async t => {
    const names = Array.from({ length: 10 }, (_, i) => `b${i + 1}`)
    const { said, out, health, healthOf } = await start(t, names)
    for (const name of names.slice(0, 9)) out(name)
    t.equal(said(/model/).length, 0)
    out('b10', 'another detail')
    const [down, ...more] = said(/model/)
    t.same(more, [])
    t.match(down, { level: 'error', model: 'gpt-4o', msg: /^model down/, todo: /run --probe/ })
    t.match(down?.reasons, /^b1: network_refused 403: Access denied due to Virtual Network\/Firewall rules\.; b2: /)
    t.match(down?.reasons, /; and 2 more$/)
    health.restore(healthOf('b3'))
    t.match(said(/model back/), [{ level: 'info', model: 'gpt-4o' }])
  },
)
