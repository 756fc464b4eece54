// The cost of work for strangers, counted: renderings, hashes, connections, windows of a gauge.
import t from 'tap'
import { loopDelayReader } from '../../lib/commands/assemble.ts'
import { maxConnectionsFor } from '../../lib/commands/file-limit.ts'
import { redactedPath } from '../../lib/server/redacted-path.ts'
import { createSharedRendering, RENDERING_MS } from '../../lib/server/shared-rendering.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'

const settle = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

t.test('a rendering', async t => {
  t.test('is shared by all who ask before it begins, and made ten times a second at most', async t => {
    const clock = createFakeClock()
    let made = 0
    const ask = createSharedRendering(clock, async () => ++made)
    const got: number[] = []
    const asks = (count: number): void => {
      for (let i = 0; i < count; i++) ask().then(value => void got.push(value))
    }
    asks(1)
    await settle()
    asks(2_000)
    await settle()
    t.same({ made, got: got.length }, { made: 1, got: 1 })
    clock.advance(RENDERING_MS)
    await settle()
    t.same({ made, got: got.length }, { made: 2, got: 2_001 })
    for (let ms = 0; ms < 1_000; ms++) {
      asks(2)
      clock.advance(1)
      await settle()
    }
    t.ok(made <= 2 + 10, `${made} made`)
  })

  t.test('is never older than the question, and its failure is nobody else’s', async t => {
    const clock = createFakeClock()
    let value = 'old'
    const ends: (() => void)[] = []
    const ask = createSharedRendering(clock, async () => {
      const seen = value
      await new Promise<void>(resolve => ends.push(resolve))
      if (seen === 'broken') throw new Error('broken')
      return seen
    })
    const first = ask()
    await settle()
    value = 'new'
    const second = ask()
    clock.advance(RENDERING_MS * 5)
    t.equal(ends.length, 1, 'one at a time')
    ends[0]?.()
    t.equal(await first, 'old')
    await settle()
    ends[1]?.()
    t.equal(await second, 'new')

    value = 'broken'
    const third = ask()
    clock.advance(RENDERING_MS)
    await settle()
    ends[2]?.()
    await t.rejects(third)
    value = 'mended'
    const fourth = ask()
    clock.advance(RENDERING_MS)
    await settle()
    ends[3]?.()
    t.equal(await fourth, 'mended')
  })
})

t.test('a path of 31 KB is cut before its parts are looked at; a key at the cut is hidden whole', async t => {
  let looked = 0
  const shown = redactedPath('/aa'.repeat(10_300), () => {
    looked++
    return false
  })
  t.ok(looked <= 130, `${looked} parts`)
  t.equal(shown.length, 257)
  t.ok(shown.endsWith('…'))

  const key = 'k'.repeat(40)
  for (let at = 200; at < 260; at++) {
    const path = redactedPath(`/${'x'.repeat(at)}/${key}/${'y'.repeat(300)}`, text => text === key)
    t.notMatch(path, 'kk', `at ${at}`)
  }
})

t.test('half of the files that the limit leaves may be connections of clients', async t => {
  t.equal(maxConnectionsFor(undefined), undefined)
  t.equal(maxConnectionsFor(64), 16)
  t.equal(maxConnectionsFor(1_024), 496)
  t.equal(maxConnectionsFor(20), 8)
})

t.test('the delay of the event loop is the same for every reader, for a minute at least', async t => {
  let nowMs = 0
  let resets = 0
  const delay = { max: 520e6, percentile: (p: number) => p * 1e6, reset: () => void resets++ }
  const read = loopDelayReader(delay, () => nowMs)
  for (let i = 0; i < 10; i++) t.equal(read().max, 0.5)
  t.equal(resets, 0)
  nowMs = 60_000
  t.equal(read().max, 0.5)
  t.equal(resets, 1)
  delay.max = 30e6
  for (let i = 0; i < 10; i++) t.equal(read().max, 0.5, 'the last whole window counts too')
  nowMs = 120_000
  t.equal(read().max, 0.5)
  t.ok(Math.abs(read().max - 0.01) < 1e-9, 'and no longer')
})
