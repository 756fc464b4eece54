// Many at once at a deployment that admits few: how often it is asked before all are served, and the time against the
// ideal. In virtual time, with the pool and the queue as they are.
import t from 'tap'
import { createPoolOn } from '../fixtures/pools.ts'
import { createEngine, createHost } from '../simulation/engine.ts'

/** How a deployment counts what it admits, and what a 429 names as the wait in milliseconds; undefined: nothing. */
interface Limit {
  /** Admits one more at this time; otherwise how long until it does. */
  take(nowMs: number): number
  named(waitMs: number): number | undefined
}

/** So many in each window of the deployment's own clock. */
function windows(count: number, perMs: number, named: Limit['named']): Limit {
  let window = -1
  let taken = 0
  return {
    named,
    take(nowMs) {
      const now = Math.floor(nowMs / perMs)
      if (now !== window) taken = 0
      window = now
      if (taken++ < count) return 0
      return (now + 1) * perMs - nowMs
    },
  }
}

/** A bucket of so many, which fills evenly. */
function bucket(count: number, perMs: number, named: Limit['named']): Limit {
  let tokens = count
  let atMs = 0
  return {
    named,
    take(nowMs) {
      tokens = Math.min(count, tokens + ((nowMs - atMs) * count) / perMs)
      atMs = nowMs
      // Sums of fractions fall short of a whole by the last bit.
      if (tokens >= 1 - 1e-9) {
        tokens--
        return 0
      }
      return ((1 - tokens) * perMs) / count
    },
  }
}

const exactMs: Limit['named'] = waitMs => Math.ceil(waitMs)
const seconds: Limit['named'] = waitMs => Math.ceil(waitMs / 1_000) * 1_000
const nothing: Limit['named'] = () => undefined
/** A 429 that names no wait (azure/waits.ts). */
const UNNAMED_MS = 10_000
/** Longer than any wave of the table takes. */
const PATIENCE_MS = 3 * 3_600_000

/** Admitted, in so many milliseconds, and the wave. */
const ROWS: readonly (readonly [number, number, number])[] = [1, 5, 20].flatMap(count =>
  [1_000, 10_000].flatMap(perMs => [40, 400].map((wave): [number, number, number] => [count, perMs, wave])),
)

interface Wave {
  readonly limit: Limit
  readonly wave: number
  /** Of an answer; a refusal takes a fifth. */
  readonly latencyMs?: number
  /** From this time on another limit holds. */
  readonly later?: { readonly atMs: number; readonly limit: Limit }
}

/** Sends a wave in one moment; what became of it. */
async function run({
  limit,
  wave,
  latencyMs = 20,
  later,
}: Wave): Promise<{ asked: number; served: number; doneMs: number }> {
  const engine = createEngine()
  const clock = engine.clockOf(createHost('proxy'))
  // Off the deployment's own windows.
  const startMs = 300
  let asked = 0
  let served = 0
  let doneMs = 0
  const { pool, queue } = createPoolOn(clock, [''])
  const request = async (): Promise<void> => {
    const picker = pool.picker({})
    const beganMs = clock.nowMs()
    const place = queue.nextPlace()
    for (;;) {
      if (queue.waiting(pool) > 0) queue.serve(pool)
      const first = picker.pick()
      const untilMs = beganMs + PATIENCE_MS
      const leaving = { onCancel: () => () => undefined }
      const pick =
        first.kind === 'throttled' ? await queue.wait({ pool, picker, leaving, untilMs, beganMs, place }) : first
      if (pick.kind !== 'lease') throw new Error(pick.kind)
      asked++
      const current = later !== undefined && clock.nowMs() >= later.atMs ? later.limit : limit
      const waitMs = current.take(clock.nowMs())
      await new Promise<void>(resolve => engine.at(clock.nowMs() + (waitMs > 0 ? latencyMs / 5 : latencyMs), resolve))
      if (waitMs === 0) {
        pick.lease.release({ kind: 'healthy' })
        served++
        doneMs = clock.nowMs() - startMs
        return
      }
      pick.lease.release({ kind: 'throttled', waitMs: current.named(waitMs) ?? UNNAMED_MS })
      picker.throttled(pick.member)
    }
  }
  engine.at(startMs, () => {
    for (let i = 0; i < wave; i++) void request()
  })
  await engine.run(() => PATIENCE_MS, { before: () => undefined, settled: () => undefined })
  return { asked, served, doneMs }
}

const NAMES = { 'retry-after-ms': exactMs, 'Retry-After': seconds, nothing } as const
const KINDS = { windows, bucket } as const

function idealMs(kind: string, { count, perMs, wave }: { count: number; perMs: number; wave: number }): number {
  return kind === 'bucket' ? ((wave - count) * perMs) / count : Math.floor((wave - 1) / count) * perMs
}

for (const [kind, make] of Object.entries(KINDS)) {
  for (const [name, named] of Object.entries(NAMES)) {
    t.test(`waves at ${kind} where a 429 names ${name}: asked three times each at most, as fast as is let`, async t => {
      for (const [count, perMs, wave] of ROWS) {
        const { asked, served, doneMs } = await run({ limit: make(count, perMs, named), wave })
        // A 429 that names nothing throttles for ten seconds.
        const ideal = idealMs(kind, { count, perMs: name === 'nothing' ? Math.max(perMs, UNNAMED_MS) : perMs, wave })
        const figures = `asked ${asked}, ${Math.round(doneMs / 1000)} s of ${Math.round(ideal / 1000)} s`
        t.equal(served, wave)
        t.ok(
          asked <= 3 * wave && doneMs <= 1.05 * ideal + 2_000,
          `${wave} at ${count} in ${perMs / 1_000} s: ${figures}`,
        )
      }
    })
  }
}

t.test('forty at five a second are asked a hundred times at most, however long an answer takes', async t => {
  for (const [kind, make] of Object.entries(KINDS)) {
    for (const [name, named] of Object.entries(NAMES)) {
      for (const latencyMs of [1, 5, 50, 200, 500, 1_000, 3_000]) {
        const { asked, served, doneMs } = await run({ limit: make(5, 1_000, named), wave: 40, latencyMs })
        t.equal(served, 40)
        t.ok(asked <= 100, `${kind}, ${name}, ${latencyMs} ms: asked ${asked}, ${Math.round(doneMs / 1000)} s`)
      }
    }
  }
})

t.test('a limit that has risen is found within seconds, one that has fallen at once', async t => {
  for (const [kind, make] of Object.entries(KINDS)) {
    const risen = await run({
      limit: make(5, 1_000, exactMs),
      wave: 400,
      later: { atMs: 20_000, limit: make(100, 1_000, exactMs) },
    })
    t.ok(risen.doneMs < 35_000, `${kind}: 400 in ${Math.round(risen.doneMs / 1000)} s, asked ${risen.asked}`)
    const open = await run({
      limit: make(5, 1_000, exactMs),
      wave: 400,
      later: { atMs: 20_000, limit: { take: () => 0, named: exactMs } },
    })
    t.ok(open.doneMs < 30_000, `${kind}: 400 in ${Math.round(open.doneMs / 1000)} s, asked ${open.asked}`)
    const fallen = await run({
      limit: make(20, 1_000, exactMs),
      wave: 400,
      later: { atMs: 10_000, limit: make(2, 1_000, exactMs) },
    })
    t.ok(fallen.asked < 3 * 400, `${kind}: 400 in ${Math.round(fallen.doneMs / 1000)} s, asked ${fallen.asked}`)
  }
})
