// This machine runs out of descriptors, ports, memory, buffers or answers of its resolver: one line of the log says so.
// covers: lib/server/shortage-log.ts
import net from 'node:net'
import t from 'tap'
import { createTransport } from '../../lib/http1/send.ts'
import { createShortageLog, SHORTAGE_LOG_MS } from '../../lib/server/shortage-log.ts'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { createFakeClock } from '../fixtures/fake-clock.ts'
import { createHandClock } from '../fixtures/hand-clock.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const LINE = 'this machine is short of what connections to backends need'

/** A log of its own whose clock the test moves; what it said. */
function shortageLog() {
  const clock = createHandClock()
  const said: Record<string, unknown>[] = []
  const attempted = createShortageLog(clock, { error: (msg, fields = {}) => void said.push({ msg, ...fields }) })
  return { clock, said, met: (code: string) => attempted({ label: 'shortage', detail: code }), attempted }
}

t.test('each shortage names its limit and what to do', async t => {
  for (const [code, limit] of [
    ['EMFILE', /open files of this process/],
    ['ENFILE', /open files of this machine/],
    ['ENOBUFS', /socket buffers/],
    ['ENOMEM', /memory/],
    ['EADDRNOTAVAIL', /ip_local_port_range/],
    ['EAI_AGAIN', /resolver/],
  ] as const) {
    const { said, met } = shortageLog()
    met(code)
    t.match(said, [{ msg: LINE, code, limit, todo: /^[A-Z].+\.$/, attempts: 1 }])
  }
})

t.test('a shortage that lasts is one line a minute, with the attempts since the line before', async t => {
  const { clock, said, met } = shortageLog()
  for (let i = 0; i < 1_000; i++) met('EMFILE')
  t.equal(said.length, 1)
  clock.advance(SHORTAGE_LOG_MS - 1)
  met('EMFILE')
  t.equal(said.length, 1)
  clock.advance(1)
  met('EMFILE')
  t.same(
    said.map(({ attempts }) => attempts),
    [1, 1_001],
  )
})

t.test('one limit does not hide another, and nothing else is a shortage', async t => {
  const { said, met, attempted } = shortageLog()
  met('EMFILE')
  met('EAI_AGAIN')
  t.same(
    said.map(({ code }) => code),
    ['EMFILE', 'EAI_AGAIN'],
  )
  attempted({ label: 'served', detail: '' })
  attempted({ label: 'failed', detail: 'ECONNREFUSED' })
  t.equal(said.length, 2)
})

t.test('a proxy without descriptors says so once, blames no backend, and answers 503', async t => {
  const clock = createFakeClock()
  const transport = createTransport(clock, {
    makeSocket: () => new net.Socket().destroy(Object.assign(new Error('too many open files'), { code: 'EMFILE' })),
  })
  const backends = ['http://127.0.0.1:1', 'http://127.0.0.2:1'].map(url => ({ url }))
  const running = await runProxy(t, configFor(backends, { rest: NO_PROBES }), { clock, transport })
  for (let i = 0; i < 20; i++) {
    const answer = await running.chat()
    t.equal(answer.status, 503)
    t.match(await answer.json(), { error: { code: 'overloaded' } })
  }
  const errors = running.lines.filter(({ level }) => level === 'error')
  t.match(errors, [{ msg: LINE, code: 'EMFILE', attempts: 1 }])
  t.equal(errors.length, 1)
  t.notOk(running.lines.some(({ msg }) => String(msg).startsWith('backend ejected')))
})

const PROBED = 'health_check: {interval: 10s, timeout: 2s}'

t.test('a shortage that only probes meet is said all the same, once a minute', async t => {
  const clock = createFakeClock()
  const transport = createTransport(clock, {
    makeSocket: () => new net.Socket().destroy(Object.assign(new Error('try again'), { code: 'EAI_AGAIN' })),
  })
  const running = await runProxy(t, configFor([{ url: 'http://127.0.0.1:1' }], { rest: PROBED }), { clock, transport })
  const errors = () => running.lines.filter(({ level }) => level === 'error')
  running.proxy.startProbes()
  for (let second = 0; second < 50; second++) {
    clock.advance(1_000)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.match(errors(), [{ msg: LINE, code: 'EAI_AGAIN', limit: /resolver/, attempts: 1 }])
  t.equal(errors().length, 1)
  t.notOk(running.lines.some(({ msg }) => String(msg).startsWith('backend ejected')))
})

t.test('a model that goes down while nobody asks has its error line, once, and another when it is back', async t => {
  const clock = createFakeClock()
  let refuses = true
  const { url } = await startResource(t, { name: 'b1' })
  const transport = createTransport(clock, {
    makeSocket: (_protocol, options) =>
      refuses || 'socket' in options
        ? new net.Socket().destroy(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))
        : net.connect(options),
  })
  const running = await runProxy(t, configFor([{ url }], { rest: PROBED }), { clock, transport })
  const lines = (start: string) => running.lines.filter(({ msg }) => String(msg).startsWith(start))
  const pass = async (holds: () => boolean): Promise<void> => {
    for (let second = 0; second < 60 || !holds(); second++) {
      // Time passes while no probe is in progress: its connection is real.
      if (transport.sockets().busy === 0) clock.advance(1_000)
      await new Promise(resolve => setImmediate(resolve))
    }
  }
  running.proxy.startProbes()
  await pass(() => lines('model down').length > 0)
  t.match(lines('model down'), [{ level: 'error', reasons: /^b1: probe_failed connect_failed: ECONNREFUSED/ }])
  t.equal(lines('model down').length, 1)
  refuses = false
  await pass(() => lines('model back').length > 0)
  t.match(lines('model back'), [{ level: 'info', model: 'gpt-4o' }])
})
