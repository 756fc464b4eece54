// server.workers: 2, seen from outside: two processes that behave as one, and that end as one.
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import type http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fail, throttle } from '../../lib/simulator/faults.ts'
import { createHandClock } from '../fixtures/hand-clock.ts'
import { type BackendText, configFor } from '../fixtures/run-proxy.ts'
import {
  ask,
  CHAT,
  childrenOf,
  isAlive,
  keptConnection,
  type ServingProxy,
  spawnProxy,
  startProxy,
  until,
} from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const WORKERS = 2
// Which processes there are is read from Linux's /proc.
const skip = process.platform === 'linux' ? false : 'needs /proc'

interface Workers extends ServingProxy {
  /** Their process ids, now. */
  pids(): readonly number[]
  /** One connection to each: new ones are dealt out in turn. */
  readonly connections: readonly http.Agent[]
}

interface WorkersOptions {
  readonly rest?: string
  readonly limits?: string
  readonly grace?: string
}

function workersConfig(backends: readonly BackendText[], { rest = '', limits = '', grace = '1s' }: WorkersOptions) {
  return configFor(backends, { rest })
    .replace('shutdown_grace: 1s', `shutdown_grace: ${grace}, workers: ${WORKERS}`)
    .replace('name: tester,', `name: tester, ${limits === '' ? '' : `limits: {${limits}}, `}`)
}

/** A series' value in the answer to GET /metrics; 0 where it is not there. */
function valueIn(text: string, series: string): number {
  const line = text.split('\n').find(candidate => candidate.startsWith(`${series} `))
  return line === undefined ? 0 : Number(line.slice(series.length + 1))
}

async function metric(port: number, series: string): Promise<number> {
  return valueIn((await ask(port, { path: '/metrics' })).body, series)
}

/** Starts the program and waits until all workers serve. */
async function startWorkers(t: Test, backends: readonly BackendText[], options: WorkersOptions = {}): Promise<Workers> {
  const proxy = await startProxy(t, workersConfig(backends, options))
  await until(async () => (await metric(proxy.port, 'proxy_workers')) === WORKERS)
  const connections = [keptConnection(t), keptConnection(t)]
  for (const agent of connections) await ask(proxy.port, { path: '/livez', agent })
  return { ...proxy, pids: () => childrenOf(proxy.pid), connections }
}

t.test('a stored response that one worker saw made is not there for another key at the other', { skip }, async t => {
  const backends = [{ url: (await startResource(t)).url }, { url: (await startResource(t)).url }]
  const text = workersConfig(backends, {}).replace('auth: {keys: [', 'auth: {keys: [{name: other, key: other-key}, ')
  const proxy = await startProxy(t, text)
  await until(async () => (await metric(proxy.port, 'proxy_workers')) === WORKERS)
  const [one, two] = [keptConnection(t), keptConnection(t)]
  for (const agent of [one, two]) await ask(proxy.port, { path: '/livez', agent })
  const made = await ask(proxy.port, { path: '/v1/responses', body: { model: 'gpt-4o', input: 'Hi' }, agent: one })
  const id = /"id": ?"(resp_\w+)"/.exec(made.body)?.[1] ?? ''
  const path = `/v1/responses/${id}`
  // What a worker learns is sent to the others a few hundredths of a second later.
  await until(async () => (await ask(proxy.port, { path, key: 'other-key', agent: two })).status === 404)
  t.equal((await ask(proxy.port, { path, key: 'other-key', agent: one })).status, 404)
  t.equal((await ask(proxy.port, { path, agent: two })).status, 200)
})

t.test('an ejected backend is asked once: what one worker learns, the other one knows', { skip }, async t => {
  const failing = await startResource(t)
  failing.resource.always(fail(500))
  const sound = await startResource(t)
  const backends = [
    { url: failing.url, name: 'failing' },
    { url: sound.url, name: 'sound' },
  ]
  const rest = 'health_check: {enabled: false, recovery: 1h}'
  const { port, connections, line, log } = await startWorkers(t, backends, { rest })
  const [one, other] = connections
  if (one === undefined || other === undefined) throw new Error('two connections are needed')

  // The turn of the failing one comes with the first or the second request.
  const asks = (): number => failing.resource.requests.length
  while (asks() === 0) t.equal((await ask(port, { body: CHAT, agent: one })).status, 200)
  await line('backend ejected')
  const health = async (): Promise<string> => (await ask(port, { path: '/health', agent: other })).body
  await until(async () => (await health()).includes('"degraded"'))

  for (let i = 0; i < 6; i++) {
    for (const agent of [one, other, undefined]) {
      const { status, headers } = await ask(port, agent === undefined ? { body: CHAT } : { body: CHAT, agent })
      t.match({ status, headers }, { status: 200, headers: { 'x-proxy-backend': 'sound', 'x-proxy-attempts': '1' } })
    }
  }
  t.equal(asks(), 1)
  t.equal(log('backend ejected').length, 1, 'and it is said once')
})

t.test('what both workers meet in the same moment is one line of the log', { skip }, async t => {
  const throttled = await startResource(t)
  throttled.resource.always(throttle(60))
  const backends = [
    { url: throttled.url, name: 'throttled' },
    // Nobody listens there.
    { url: 'http://127.0.0.1:9', name: 'dead' },
  ]
  const rest = 'health_check: {enabled: false, recovery: 1h}'
  for (const [given, said] of [
    [backends, ['backend throttled', 'backend ejected']],
    [backends.slice(1), ['backend ejected', 'model down: every backend is out']],
  ] as const) {
    const { port, connections, log } = await startWorkers(t, given, { rest })
    const before = throttled.resource.requests.length
    await Promise.all(connections.map(agent => ask(port, { body: CHAT, agent })))
    // A worker's words come in order: those of the last request are there behind its line.
    await until(() => said.every(msg => log(msg).length > 0) && log('request').length === 2)
    await ask(port, { path: '/metrics' })
    for (const msg of said) t.equal(log(msg).length, 1, msg)
    if (given.length > 1) t.equal(throttled.resource.requests.length - before, 2, 'both were told to wait')
  }
})

t.test("a key's requests_per_minute holds exactly, whichever worker answers", { skip }, async t => {
  const { url } = await startResource(t)
  const limits = 'requests_per_minute: 9'
  const { port, connections } = await startWorkers(t, [{ url }], { limits })

  const statuses: number[] = []
  // Side by side over both, so that neither could keep to the limit by itself.
  const asked = connections.flatMap(agent => Array.from({ length: 10 }, () => ask(port, { body: CHAT, agent })))
  for (const answer of await Promise.all(asked)) {
    statuses.push(answer.status)
    if (answer.status === 429) {
      t.ok(Number(answer.headers['retry-after']) > 0, 'with its wait')
      t.match(answer.body, /"code":"rate_limit_exceeded"/)
    }
  }
  const count = (status: number): number => statuses.filter(candidate => candidate === status).length
  t.same({ ok: count(200), refused: count(429) }, { ok: 9, refused: 11 })
})

t.test('/metrics counts every request once, whichever worker answered it and whichever is asked', { skip }, async t => {
  const { url } = await startResource(t)
  const { port, connections } = await startWorkers(t, [{ url }])
  const requests = 'proxy_requests_total{model="gpt-4o",key="tester",status="200"}'
  const attempts = 'proxy_attempts_total{backend="b1",outcome="success"}'

  // Each on a connection of its own, so that they are dealt out; and one over each that is known to be another
  // worker's.
  for (let i = 0; i < 8; i++) t.equal((await ask(port, { body: CHAT })).status, 200)
  for (const agent of connections) t.equal((await ask(port, { body: CHAT, agent })).status, 200)
  await until(async () => (await metric(port, requests)) >= 10)

  for (const agent of connections) {
    const { body } = await ask(port, { path: '/metrics', agent })
    t.same(
      { requests: valueIn(body, requests), workers: valueIn(body, 'proxy_workers') },
      { requests: 10, workers: WORKERS },
    )
    t.match(body, new RegExp(attempts.replace(/[{}]/g, '\\$&').replace('success', '[a-z_]+').concat(' 10$'), 'm'))
  }
})

t.test('a worker that is killed is replaced, and only its own requests are lost', { skip }, async t => {
  const clock = createHandClock()
  const { url, resource } = await startResource(t, { clock, firstDelayMs: 1_000 })
  const { port, pids, connections, line } = await startWorkers(t, [{ url }], { rest: 'health_check: {enabled: false}' })
  const before = pids()
  t.equal(before.length, WORKERS)
  const results = connections.map(agent =>
    ask(port, { body: CHAT, agent }).then(
      ({ status }) => status,
      () => 'lost',
    ),
  )
  await until(() => clock.timers() === 2)

  const [victim = 0, survivor = 0] = before
  process.kill(victim, 'SIGKILL')
  t.match(await line('worker died and is replaced'), { pid: victim, signal: 'SIGKILL', level: 'error' })
  clock.advance(1_000)
  t.same((await Promise.all(results)).sort(), [200, 'lost'], 'one on each: one lives')

  await until(() => pids().length === WORKERS)
  t.ok(pids().includes(survivor) && !pids().includes(victim), 'the other one goes on, a new one is there')
  await until(async () => (await metric(port, 'proxy_workers')) === WORKERS)
  const again = [keptConnection(t), keptConnection(t)]
  for (const agent of again) t.equal((await ask(port, { path: '/livez', agent })).status, 200)
  t.same(resource.violations, [])
})

t.test(
  'SIGTERM: both finish what is in flight, the program exits 0, and no process stays behind',
  { skip },
  async t => {
    const clock = createHandClock()
    const { url } = await startResource(t, { clock, firstDelayMs: 1_000 })
    const rest = 'health_check: {enabled: false}'
    const { port, pids, connections, kill, line, closed, log } = await startWorkers(t, [{ url }], { rest, grace: '1m' })
    const workers = pids()
    const results = connections.map(agent => ask(port, { body: CHAT, agent }))
    await until(() => clock.timers() === 2)

    kill('SIGTERM')
    await line('draining')
    t.ok(workers.every(isAlive), 'they wait for what is in flight')
    clock.advance(1_000)
    t.same(
      (await Promise.all(results)).map(({ status }) => status),
      [200, 200],
    )
    t.same(await closed, { code: 0, signal: null }, 'and nobody holds its output any more')
    t.same(workers.filter(isAlive), [])
    t.equal(log('stopped').length, 1)
    t.equal(
      log('request').filter(({ status, model }) => status === 200 && model === 'gpt-4o').length,
      2,
      'no log line lost',
    )
  },
)

t.test('a second signal, or the death of the first process, ends the workers too', { skip }, async t => {
  for (const last of ['SIGTERM', 'SIGKILL'] as const) {
    const clock = createHandClock()
    const { url } = await startResource(t, { clock, firstDelayMs: 1_000 })
    const rest = 'health_check: {enabled: false}'
    const { port, pids, connections, kill, line, closed } = await startWorkers(t, [{ url }], { rest, grace: '1h' })
    const workers = pids()
    const lost = connections.map(agent => t.rejects(ask(port, { body: CHAT, agent })))
    await until(() => clock.timers() === 2)

    if (last === 'SIGTERM') {
      kill('SIGTERM')
      await line('draining')
    }
    kill(last)
    t.same(await closed, last === 'SIGTERM' ? { code: 1, signal: null } : { code: null, signal: 'SIGKILL' })
    await until(() => !workers.some(isAlive))
    await Promise.all(lost)
  }
})

t.test(
  'SIGHUP reaches both; a worker that dies while the file is broken comes back with the config in force',
  { skip },
  async t => {
    const { url } = await startResource(t)
    const proxy = await startWorkers(t, [{ url }])
    const text = workersConfig([{ url }], {})
    const knows = async (model: string): Promise<boolean> => {
      const bodies = await Promise.all(proxy.connections.map(agent => ask(proxy.port, { path: '/v1/models', agent })))
      return bodies.every(({ body }) => body.includes(`"${model}"`))
    }
    proxy.rewrite(text.replace('  gpt-4o:', '  gpt-5:'))
    proxy.kill('SIGHUP')
    await until(() => knows('gpt-5'))

    proxy.rewrite('nonsense')
    proxy.kill('SIGHUP')
    await proxy.line('config not reloaded')
    t.ok(await knows('gpt-5'), 'both keep the old one')

    const [victim = 0] = proxy.pids()
    process.kill(victim, 'SIGKILL')
    await proxy.line('worker died and is replaced')
    await until(async () => (await metric(proxy.port, 'proxy_workers')) === WORKERS)
    for (const agent of [keptConnection(t), keptConnection(t)]) {
      const { body } = await ask(proxy.port, { path: '/v1/models', agent })
      t.match(body, /"gpt-5"/)
    }
  },
)

t.test(
  'after a rename and SIGHUP both write to the new log file, even while the config is broken',
  { skip },
  async t => {
    const { url } = await startResource(t)
    const folder = t.testdir({})
    const file = join(folder, 'proxy.log')
    const text = workersConfig([{ url }], { rest: `logging: {file: "${file}"}` })
    const proxy = spawnProxy(t, { files: { 'config.yaml': text } })
    const linesOf = (path: string, msg: string): readonly Readonly<Record<string, unknown>>[] => {
      const whole = existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(0, -1) : []
      return whole.map(line => JSON.parse(line)).filter(line => line.msg === msg)
    }
    await until(() => linesOf(file, 'listening').length === 1)
    const port = Number(linesOf(file, 'listening')[0]?.port)
    await until(async () => (await metric(port, 'proxy_workers')) === WORKERS)
    const connections = [keptConnection(t), keptConnection(t)]
    for (const agent of connections) t.equal((await ask(port, { body: CHAT, agent })).status, 200)
    await until(() => linesOf(file, 'request').filter(({ model }) => model === 'gpt-4o').length === 2)

    renameSync(file, `${file}.1`)
    writeFileSync(join(proxy.folder, 'config.yaml'), 'nonsense')
    proxy.kill('SIGHUP')
    await until(() => linesOf(file, 'config not reloaded').length > 0)
    const paths = connections.map((_, i) => `/v1/asked-of-${i}`)
    const seen = (path: string): boolean => linesOf(file, 'request').some(line => line.path === path)
    // The word of the rename reaches a worker when it does: what it writes until then is in the renamed file.
    for (const [i, agent] of connections.entries()) {
      await until(async () => {
        await ask(port, { path: paths[i] ?? '', agent })
        return seen(paths[i] ?? '')
      })
    }
    t.ok(paths.every(seen))
    proxy.kill('SIGTERM')
    t.same(await proxy.closed, { code: 0, signal: null })
    t.same(proxy.stdout, [], 'nothing on standard output')
  },
)

const REQUESTS = 'proxy_requests_total{model="gpt-4o",key="tester",status="200"}'

t.test(
  'all workers killed at one moment: the program goes on, serves again, and has lost no count',
  { skip },
  async t => {
    const { url } = await startResource(t)
    const { port, pids, line, log, closed, kill } = await startWorkers(t, [{ url }])
    for (let i = 0; i < 10; i++) t.equal((await ask(port, { body: CHAT })).status, 200)
    await until(async () => (await metric(port, REQUESTS)) === 10)

    const before = pids()
    t.equal(before.length, WORKERS)
    for (const pid of before) process.kill(pid, 'SIGKILL')
    await line('worker died and is replaced', ({ pid }) => pid === before[0])
    await line('worker died and is replaced', ({ pid }) => pid === before[1])
    await until(async () => {
      const answer = await ask(port, { path: '/livez' }).catch(() => undefined)
      return answer?.status === 200
    })
    t.equal((await ask(port, { body: CHAT })).status, 200)
    await until(async () => (await metric(port, REQUESTS)) === 11)
    t.equal(log('worker died and is replaced').length, WORKERS)
    kill('SIGTERM')
    t.same(await closed, { code: 0, signal: null }, 'and ends when it is told to')
  },
)

t.test(
  'a worker that stands still takes no count away, and one that is replaced knows what is out',
  { skip },
  async t => {
    const [one, other] = [await startResource(t), await startResource(t)]
    const backends = [
      { url: one.url, name: 'one' },
      { url: other.url, name: 'other' },
    ]
    const config = workersConfig(backends, { rest: 'health_check: {enabled: false}' })
    const proxy = await startProxy(t, config.replace('name: tester,', 'name: tester, admin: true,'))
    const { port, pid, line } = proxy
    await until(async () => (await metric(port, 'proxy_workers')) === WORKERS)
    for (let i = 0; i < 10; i++) t.equal((await ask(port, { body: CHAT })).status, 200)
    await until(async () => (await metric(port, REQUESTS)) === 10)

    const order = { model: 'gpt-4o', backend: 'one' }
    t.equal((await ask(port, { path: '/dashboard/backends/eject', body: order })).status, 200)
    const [still = 0, victim = 0] = childrenOf(pid)
    process.kill(still, 'SIGSTOP')
    t.teardown(() => process.kill(still, 'SIGCONT'))
    // New connections are dealt out in turn, so that some reach the worker that runs: it answers first.
    const asked = Array.from({ length: WORKERS * 2 }, () => ask(port, { path: '/metrics' }))
    t.equal(valueIn((await Promise.race(asked)).body, REQUESTS), 10)
    process.kill(still, 'SIGCONT')
    await Promise.all(asked)

    process.kill(victim, 'SIGKILL')
    await line('worker died and is replaced', ({ pid }) => pid === victim)
    await until(() => childrenOf(pid).length === WORKERS)
    await until(async () => (await metric(port, 'proxy_workers')) === WORKERS)
    const before = one.resource.requests.length
    for (let i = 0; i < 12; i++) {
      const { body } = await ask(port, { path: '/health' })
      t.match(body, /"healthy":1,"total":2/, 'whichever worker answers')
      t.equal((await ask(port, { body: CHAT })).headers['x-proxy-backend'], 'other')
    }
    t.equal(one.resource.requests.length, before)
    t.equal((await metric(port, REQUESTS)) >= 22, true)
  },
)

t.test('while the primary stands still a limited key gets 503, and nothing stays taken', { skip }, async t => {
  const { url } = await startResource(t)
  const { port, pid, connections } = await startWorkers(t, [{ url }], { limits: 'concurrent: 1' })
  const [agent] = connections
  if (agent === undefined) throw new Error('a connection')
  t.equal((await ask(port, { body: CHAT, agent })).status, 200)
  process.kill(pid, 'SIGSTOP')
  t.teardown(() => process.kill(pid, 'SIGCONT'))
  const refused = await ask(port, { body: CHAT, agent })
  process.kill(pid, 'SIGCONT')
  t.match(refused, { status: 503, body: /"code":"overloaded"/ })
  t.ok(Number(refused.headers['retry-after']) > 0)
  await until(async () => (await ask(port, { body: CHAT, agent })).status === 200)
  t.equal(await metric(port, 'proxy_key_limited_total{key="tester",limit="concurrent"}'), 0)
})

t.test('SIGUSR1 and SIGUSR2 open no debugger and end nobody', { skip }, async t => {
  const { url } = await startResource(t)
  const { port, pid, pids, stderr } = await startWorkers(t, [{ url }])
  const all = [pid, ...pids()]
  for (const signal of ['SIGUSR1', 'SIGUSR2'] as const) for (const each of all) process.kill(each, signal)
  for (let i = 0; i < 4; i++) t.equal((await ask(port, { body: CHAT })).status, 200)
  t.same([pid, ...pids()], all)
  t.notMatch(stderr.join('\n'), 'Debugger')
})

t.test('standard output whose reader is stuck does not keep the program at its end', { skip }, async t => {
  const { url } = await startResource(t)
  for (const workers of [1, 2]) {
    const config = workersConfig([{ url }], { grace: '0s' }).replace('workers: 2', `workers: ${workers}`)
    const { port, child, kill, ended } = await startProxy(t, config)
    child.stdout?.pause()
    for (let i = 0; i < 150; i++) await ask(port, { path: `/v1/unknown-${i}/${'x'.repeat(4_000)}` })
    kill('SIGTERM')
    t.same(await ended, { code: 0, signal: null }, `${workers} workers`)
  }
})

t.test('a port in use ends a start with 1, and a second try is not made', { skip }, async t => {
  const { url } = await startResource(t)
  const { port } = await startWorkers(t, [{ url }])
  const config = workersConfig([{ url }], {}).replace('port: 0', `port: ${port}`)
  const second = spawnProxy(t, { files: { 'config.yaml': config } })
  t.same(await second.closed, { code: 1, signal: null })
  t.match(second.stderr.join('\n'), `port ${port} is in use`)
})

t.test("a key's month holds over workers and over a restart of the whole proxy", { skip }, async t => {
  const { url } = await startResource(t)
  // Not the test's own folder, which is made anew with every start.
  const folder = mkdtempSync(join(tmpdir(), 'usage-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'usage.jsonl')
  const options = { limits: 'tokens_per_month: 40', rest: `usage: {file: ${JSON.stringify(file)}}` }
  const first = await startWorkers(t, [{ url }], options)
  const asked: number[] = []
  for (let i = 0; asked.at(-1) !== 429; i++) {
    const agent = first.connections[i % WORKERS]
    const answer = await ask(first.port, agent === undefined ? { body: CHAT } : { body: CHAT, agent })
    asked.push(answer.status)
    if (answer.status !== 429) continue
    t.match(answer.body, /"code":"quota_exceeded"/)
    t.equal(answer.headers['x-should-retry'], 'false')
  }
  t.ok(asked.length > 1, 'some were admitted')
  for (const agent of first.connections) t.equal((await ask(first.port, { body: CHAT, agent })).status, 429)
  first.kill('SIGTERM')
  await first.ended
  t.match(readFileSync(file, 'utf8'), /^\{"day":"[\d-]+","key":"tester","tokens":\d+,"cost":0\}$/m)
  const second = await startWorkers(t, [{ url }], options)
  t.equal((await ask(second.port, { body: CHAT })).status, 429)
})
