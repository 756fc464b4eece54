// The connections of an agent that are kept: bounded in rest, age and number. covers: lib/http1/keeper.ts
import net from 'node:net'
import t from 'tap'
import { parseEndpoint } from '../../lib/config/endpoint.ts'
import type { Endpoint } from '../../lib/config/types.ts'
import { NO_SLOT } from '../../lib/dense-set.ts'
import { ConnectionKeeper, type KeptConnection } from '../../lib/http1/keeper.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

function endpointOf(host: string): Endpoint {
  const parsed = parseEndpoint(`https://${host}`, 'azure')
  if (parsed.kind === 'invalid') throw new Error(parsed.message)
  return parsed.endpoint
}

const connection = (): KeptConnection => ({ socket: new net.Socket(), slot: NO_SLOT, bornMs: 0, restsUntilMs: 0 })

t.test(
  'endpoints to which nothing rests are forgotten beyond a thousand, and what is in use to them is not kept',
  t => {
    const keeper = new ConnectionKeeper(createFakeClock(), () => 300_000)
    const [busy, idle] = [keeper.hostOf(endpointOf('busy.test')), keeper.hostOf(endpointOf('idle.test'))]
    const resting = connection()
    keeper.add(resting)
    keeper.rest(busy, resting, 60_000)
    const inUse = connection()
    keeper.add(inUse)
    for (let i = 0; i < 2_000; i++) keeper.hostOf(endpointOf(`h${i}.test`))
    t.equal(keeper.hostOf(endpointOf('busy.test')), busy)
    t.not(keeper.hostOf(endpointOf('idle.test')), idle)
    keeper.rest(idle, inUse, 60_000)
    t.ok(inUse.socket.destroyed)
    t.equal(keeper.take(busy), resting)
    keeper.close()
    t.end()
  },
)

t.test('a connection rests no longer than its age allows', t => {
  const clock = createFakeClock()
  const keeper = new ConnectionKeeper(clock, () => 10_000)
  const host = keeper.hostOf(endpointOf('a.test'))
  const one = connection()
  keeper.add(one)
  keeper.rest(host, one, 60_000)
  clock.advance(9_999)
  t.equal(keeper.take(host), one)
  clock.advance(1)
  keeper.rest(host, one, 60_000)
  t.ok(one.socket.destroyed)
  t.same(keeper.counts(), { busy: 1, free: 0 }, 'until it says that it is gone')
  keeper.gone(host, one)
  t.same(keeper.counts(), { busy: 0, free: 0 })
  t.end()
})
