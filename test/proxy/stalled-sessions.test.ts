// Realtime sessions in which one side takes nothing more: neither holds the other, its place or its memory for ever.
import { Duplex } from 'node:stream'
import t, { type Test } from 'tap'
import { closeFrame, tunnel } from '../../lib/forward/tunnel.ts'
import type { RelayResult } from '../../lib/forward/upstream.ts'
import { createCancellation } from '../../lib/request-context.ts'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock, type FakeClock } from '../fixtures/fake-clock.ts'
import { type RawRequest, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect, type RawClient } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'
import { handshakeLines } from '../fixtures/websocket.ts'

interface Session {
  readonly clock: FakeClock
  readonly running: RunningProxy
  readonly client: RawClient
  readonly backend: RawRequest
}

async function open(t: Test): Promise<Session> {
  const clock = createFakeClock()
  const raw = await startRawBackend(t)
  const running = await runProxy(t, configFor([raw], { rest: `${NO_PROBES}\nretry: {idle_timeout: 10s}` }), { clock })
  const client = connect(running)
  t.teardown(() => client.socket.destroy())
  client.send(handshakeLines('/v1/realtime?model=gpt-4o', CLIENT_KEY))
  const backend = await raw.next()
  backend.send('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  await client.until('\r\n\r\n')
  return { clock, running, client, backend }
}

/** One unmasked frame; a tunnel looks at nothing but its length. */
function frame(bytes: number): Buffer {
  const head = Buffer.alloc(10)
  head[0] = 0x82
  head[1] = 127
  head.writeBigUInt64BE(BigInt(bytes), 2)
  return Buffer.concat([head, Buffer.alloc(bytes)])
}

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/** Lets the session's time pass in steps, until it is over; far fewer are needed. @returns how much time it took */
async function untilOver({ clock, running }: Session, stepMs: number): Promise<number> {
  const beganMs = clock.nowMs()
  while (running.proxy.app.inFlight() > 0) {
    clock.advance(stepMs)
    for (let i = 0; i < 20; i++) await turn()
  }
  return clock.nowMs() - beganMs
}

const MANY_BYTES = 32 * 1024 * 1024

for (const how of ['leaves', 'resets'] as const) {
  t.test(
    `a client that ${how} behind more than may wait, while the backend reads nothing, is given up in time`,
    async t => {
      const session = await open(t)
      const { client, backend, clock, running } = session
      backend.socket.pause()
      client.socket.write(frame(MANY_BYTES))
      // The way is full once nothing has moved for some turns.
      for (let still = 0, last = -1; still < 200; ) {
        await turn()
        still = client.socket.bytesWritten === last ? still + 1 : 0
        last = client.socket.bytesWritten
      }
      if (how === 'resets') client.socket.resetAndDestroy()
      else client.socket.destroy()
      const tookMs = await untilOver(session, 500)
      t.ok(tookMs <= 15_000, `${tookMs} ms`)
      clock.advance(1_000)
      t.equal(running.proxy.shared.transport.sockets().busy, 0)
    },
  )
}

t.test('a backend that takes nothing for idle_timeout ends the session, and the client hears why', async t => {
  const session = await open(t)
  session.backend.socket.pause()
  session.client.socket.write(frame(MANY_BYTES))
  const logged = session.running.line('request')
  t.ok((await untilOver(session, 500)) >= 9_000)
  session.clock.advance(1_000)
  t.match(await session.client.closed, closeFrame(1011, 'The backend takes nothing more.').toString('latin1'))
  t.match(await logged, { status: 101, error: 'idle_timeout' })
})

t.test('a client that takes nothing for idle_timeout is let go, and its backend session with it', async t => {
  const session = await open(t)
  session.client.socket.pause()
  session.backend.socket.write(frame(MANY_BYTES))
  const logged = session.running.line('request')
  const gone = new Promise(resolve => session.backend.socket.once('close', resolve))
  t.ok((await untilOver(session, 500)) >= 9_000)
  t.match(await logged, { error: 'client_stalled' })
  session.clock.advance(1_000)
  await gone
})

/** A socket whose writes a test takes or leaves. */
class HandSocket extends Duplex {
  readonly written: Buffer[] = []
  private held: (() => void) | undefined
  private takes = true

  constructor() {
    super({ highWaterMark: 100 })
  }

  override _read(): void {}

  override _write(bytes: Buffer, _encoding: string, done: () => void): void {
    this.written.push(bytes)
    if (this.takes) done()
    else this.held = done
  }

  stopTaking(): void {
    this.takes = false
  }

  /** Takes the one write that waits. */
  takeOne(): void {
    const { held } = this
    this.held = undefined
    held?.()
  }
}

function join(): { client: HandSocket; backend: HandSocket; clock: FakeClock; ended: () => RelayResult | undefined } {
  const client = new HandSocket()
  const backend = new HandSocket()
  const clock = createFakeClock()
  let end: RelayResult | undefined
  const empty = Buffer.alloc(0)
  const parts = { client, backend, clientHead: empty, backendHead: empty, clock, idleMs: 10_000 }
  void tunnel({ ...parts, cancellation: createCancellation(), onBytes: () => undefined }).then(told => (end = told))
  return { client, backend, clock, ended: () => end }
}

t.test('a client that leaves behind what may wait is noticed at once, though the backend takes nothing', async t => {
  for (const leave of [
    (client: HandSocket) => client.push(null),
    (client: HandSocket) => client.destroy(new Error('reset')),
  ]) {
    const { client, backend, ended } = join()
    backend.stopTaking()
    for (let i = 0; i < 1_000; i++) client.push(Buffer.alloc(1_000))
    await turn()
    leave(client)
    for (let i = 0; i < 10; i++) await turn()
    t.match(ended(), { kind: 'cancelled', reason: 'client_closed' })
  }
})

t.test('a side is read no further than so much ahead of the other', async t => {
  const { client, backend } = join()
  backend.stopTaking()
  for (let i = 0; i < 3_000; i++) client.push(Buffer.alloc(1_000))
  for (let i = 0; i < 10; i++) await turn()
  t.ok(backend.writableLength < 1_100_000, `${backend.writableLength} wait`)
  t.ok(client.isPaused())
})

t.test('a side that takes a little every now and then is not stalled', async t => {
  const { client, backend, clock, ended } = join()
  backend.stopTaking()
  for (let i = 0; i < 8; i++) client.push(Buffer.alloc(150))
  await turn()
  for (let i = 0; i < 6; i++) {
    clock.advance(9_000)
    backend.takeOne()
    await turn()
  }
  t.equal(ended(), undefined, 'after 54 seconds')
  clock.advance(11_000)
  await turn()
  t.match(ended(), { kind: 'cut', detail: 'idle_timeout' })
})

t.test('a close frame of the proxy never stands inside another frame', async t => {
  const { length } = frame(20)
  for (let cut = 0; cut <= length; cut++) {
    const { client, backend, ended } = join()
    const sent = frame(20).subarray(0, cut)
    if (cut > 0) backend.push(sent)
    await turn()
    backend.push(null)
    while (ended() === undefined) await turn()
    const got = Buffer.concat(client.written)
    const whole = cut === 0 || cut === length
    const expected = whole ? Buffer.concat([sent, closeFrame(1011, 'The backend broke off.')]) : sent
    t.ok(got.equals(expected), `after ${cut} bytes`)
    t.equal(client.destroyed, !whole, 'inside a frame the connection is cut')
  }
})
