// The program while it serves: signals, reloads, log files, and a config as people write it, seen from outside the
// process.
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createHandClock } from '../fixtures/hand-clock.ts'
import { CLIENT_KEY, configFor } from '../fixtures/run-proxy.ts'
import { ask, CHAT, isAlive, keptConnection, spawnProxy, startProxy, until } from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

/** A resource that responds only on the test's order. */
async function startHeldResource(t: Test) {
  const clock = createHandClock()
  const { url, resource } = await startResource(t, { clock, firstDelayMs: 1_000 })
  return {
    url,
    resource,
    /** Resolves once so many requests wait for their answer. */
    holds: (count: number) => until(() => clock.timers() === count),
    letGo: () => clock.advance(1_000),
  }
}

/** The names that a client is shown. */
async function modelsOf(port: number): Promise<readonly string[]> {
  const { body } = await ask(port, { path: '/v1/models' })
  const { data }: { readonly data: readonly { readonly id: string }[] } = JSON.parse(body)
  return data.map(({ id }) => id)
}

t.test('config.yaml of the current folder is served where no other is named', async t => {
  const { url } = await startResource(t)
  const proxy = await startProxy(t, configFor([{ url, name: 'only' }]))
  const { status, headers } = await ask(proxy.port, { body: CHAT })

  t.match({ status, headers }, { status: 200, headers: { 'x-proxy-backend': 'only' } })
  t.match(await proxy.line('request'), { key: 'tester', model: 'gpt-4o', status: 200, attempts: 1, backend: 'only' })
  t.same(proxy.stderr, [], 'nothing to complain of')
})

t.test('an environment variable and a mounted file may hold the secrets; one that is missing ends with 2', async t => {
  const { url, resource } = await startResource(t, { keys: ['key-from-the-file'] })
  const text = configFor([{ url, key: `"\${file:azure.key}"` }]).replace(CLIENT_KEY, `"\${CLIENT_KEY_OF_TEST}"`)
  const files = { 'azure.key': 'key-from-the-file\n' }
  const proxy = await startProxy(t, text, { files, env: { CLIENT_KEY_OF_TEST: 'key-from-the-environment' } })

  t.equal((await ask(proxy.port, { body: CHAT, key: 'key-from-the-environment' })).status, 200)
  t.equal((await ask(proxy.port, { body: CHAT })).status, 401, 'and no other is good')
  t.same(resource.violations, [])
  t.notMatch([...proxy.stdout, ...proxy.stderr].join('\n'), /key-from-the/, 'nothing prints them')

  const lacking = spawnProxy(t, { files: { 'config.yaml': text } })
  t.match(await lacking.closed, { code: 2 })
  t.match(lacking.stderr.join('\n'), /config\.yaml:\d+:\d+ auth\.keys\[0\]\.key: .*CLIENT_KEY_OF_TEST/)
  t.match(lacking.stderr.join('\n'), /models\.gpt-4o\.backends\[0\]\.api_key: .*azure\.key/)
})

t.test('--port stands above the port of the config', async t => {
  const { url } = await startResource(t)
  const config = configFor([{ url }]).replace('port: 0', 'port: 1')
  const proxy = await startProxy(t, config, { args: ['--port', '0'] })
  t.equal((await ask(proxy.port, { path: '/livez' })).status, 200)
})

t.test(
  'SIGTERM: what is in flight is finished, /health says draining, newcomers are told, then it exits 0',
  async t => {
    const held = await startHeldResource(t)
    const config = configFor([{ url: held.url }]).replace('shutdown_grace: 1s', 'shutdown_grace: 1m')
    const proxy = await startProxy(t, config)
    const known = keptConnection(t)
    const other = keptConnection(t)
    await ask(proxy.port, { path: '/livez', agent: known })
    await ask(proxy.port, { path: '/livez', agent: other })
    const whole = ask(proxy.port, { body: CHAT })
    const stream = ask(proxy.port, { body: { ...CHAT, stream: true } })
    await held.holds(2)

    proxy.kill('SIGTERM')
    t.match(await proxy.line('draining'), { signal: 'SIGTERM', in_flight: 2 })
    t.match(await ask(proxy.port, { path: '/health', agent: known }), { status: 503, body: /"draining"/ })
    const late = await ask(proxy.port, { body: CHAT, agent: other })
    t.match(late, { status: 503, body: /"code":"draining"/ })
    t.ok(Number(late.headers['retry-after']) > 0, 'with a Retry-After')

    held.letGo()
    t.equal((await whole).status, 200)
    const { status, body } = await stream
    t.equal(status, 200)
    t.match(body, /data: \[DONE\]\s*$/, 'the stream has all of its events')
    t.same(await proxy.closed, { code: 0, signal: null })
    t.equal(proxy.log('request').filter(line => line.status === 200 && line.model === 'gpt-4o').length, 2)
    t.equal(proxy.log('stopped').length, 1, 'the last word is in the log')
  },
)

t.test('a second signal exits at once, with 1', async t => {
  const held = await startHeldResource(t)
  const config = configFor([{ url: held.url }]).replace('shutdown_grace: 1s', 'shutdown_grace: 1h')
  const proxy = await startProxy(t, config)
  const lost = t.rejects(ask(proxy.port, { body: CHAT }), 'what was in flight is lost')
  await held.holds(1)

  proxy.kill('SIGTERM')
  await proxy.line('draining')
  t.ok(isAlive(proxy.pid), 'it waits for what is in flight')
  proxy.kill('SIGINT')
  t.same(await proxy.closed, { code: 1, signal: null })
  await lost
})

t.test(
  'SIGHUP: the models are those of the file again; a broken file leaves the old ones and its mistakes are told',
  async t => {
    const held = await startHeldResource(t)
    const first = configFor([{ url: held.url }])
    const proxy = await startProxy(t, first)
    const across = ask(proxy.port, { body: CHAT })
    await held.holds(1)

    proxy.rewrite(first.replace('  gpt-4o:', '  gpt-5:'))
    proxy.kill('SIGHUP')
    await proxy.line('config reloaded')
    t.match(await proxy.line('config reload'), { audit: true, by: 'SIGHUP', file: /config\.yaml$/ })
    t.same(await modelsOf(proxy.port), ['gpt-5'])
    t.equal((await ask(proxy.port, { body: CHAT })).status, 404)
    held.letGo()
    t.equal((await across).status, 200, 'what was in flight is not harmed')

    const secret = 'secret-of-the-broken-file'
    proxy.rewrite(first.replace('azure-key', secret).replace('backends:', 'backend:'))
    proxy.kill('SIGHUP')
    const { level, problem } = await proxy.line('config not reloaded')
    t.equal(level, 'error')
    t.match(await proxy.line('config reload refused'), { audit: true, by: 'SIGHUP' })
    t.match(problem, /config\.yaml:\d+:\d+ models\.gpt-4o\.backend: .*backends/)
    t.same(await modelsOf(proxy.port), ['gpt-5'], 'the old one stays in force')

    proxy.rewrite(`models: {\n${first}`)
    proxy.kill('SIGHUP')
    await proxy.line('config not reloaded', line => line.problem !== problem)
    t.same(await modelsOf(proxy.port), ['gpt-5'], 'after a file that is no YAML too')

    proxy.rewrite(first)
    proxy.kill('SIGHUP')
    await until(async () => (await modelsOf(proxy.port)).includes('gpt-4o'))
    t.notMatch(proxy.stdout.join('\n'), new RegExp(secret))
  },
)

t.test(
  'server.watch: a change of the file is taken over by itself, and a change of a secret that it names',
  async t => {
    const { url } = await startResource(t, { keys: ['azure-key', 'renewed-key'] })
    const config = configFor([{ url }])
      .replace('server: {', 'server: {watch: true, ')
      .replace('azure-key', `"\${file:key}"`)
    const proxy = await startProxy(t, config, { files: { key: 'a-key-that-azure-refuses' } })
    t.equal((await ask(proxy.port, { body: CHAT })).status, 502)

    writeFileSync(join(proxy.folder, 'key'), 'renewed-key')
    t.match(await proxy.line('config reload'), { audit: true, by: 'file_change' })
    t.equal((await ask(proxy.port, { body: CHAT })).status, 200, 'the renewed secret is used')

    proxy.rewrite(config.replace('  gpt-4o:', '  gpt-4o-mini:'))
    await until(async () => (await modelsOf(proxy.port)).includes('gpt-4o-mini'))
    proxy.rewrite('nonsense')
    await proxy.line('config not reloaded')
    t.same(await modelsOf(proxy.port), ['gpt-4o-mini'], 'a broken one is reported and not taken')
  },
)

t.test('logging.file: lines go there, and after a rename and SIGHUP to a new file of that name, none lost', async t => {
  const { url } = await startResource(t)
  const folder = t.testdir({})
  const file = join(folder, 'proxy.log')
  const config = configFor([{ url }], { rest: `logging: {file: "${file}"}` })
  const proxy = spawnProxy(t, { files: { 'config.yaml': config } })
  const linesOf = (path: string): readonly Record<string, unknown>[] => {
    try {
      const whole = readFileSync(path, 'utf8').split('\n').slice(0, -1)
      return whole.map(line => JSON.parse(line))
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
      throw error
    }
  }
  const count = (path: string, msg: string): number => linesOf(path).filter(line => line.msg === msg).length
  await until(() => count(file, 'listening') === 1)
  const port = Number(linesOf(file).find(line => line.msg === 'listening')?.port)

  await ask(port, { body: CHAT })
  await until(() => count(file, 'request') === 1)
  const rotated = `${file}.1`
  renameSync(file, rotated)
  await ask(port, { body: CHAT })
  await until(() => count(rotated, 'request') === 2)
  proxy.kill('SIGHUP')
  await until(() => count(file, 'config reloaded') === 1)
  await ask(port, { body: CHAT })
  proxy.kill('SIGTERM')
  t.same(await proxy.closed, { code: 0, signal: null })

  t.equal(count(rotated, 'request'), 2, 'until the signal the renamed file is written')
  t.equal(count(file, 'request'), 1, 'then the new one')
  t.equal(count(file, 'stopped'), 1)
  t.same(proxy.stdout, [], 'and nothing on standard output')
})

/** Requests whose log lines together are more than a pipe or a socket pair holds. */
const MANY = 150
const longPath = (i: number): string => `/v1/unknown-${i}/${'x'.repeat(4_000)}`

t.test('a reader of standard output that falls asleep holds nobody up, and finds the lines when it wakes', async t => {
  const { url } = await startResource(t)
  const proxy = await startProxy(t, configFor([{ url }]))
  const { stdout } = proxy.child
  stdout?.pause()
  for (let i = 0; i < MANY; i++) await ask(proxy.port, { path: longPath(i) })
  t.ok(proxy.log('request').length < MANY, 'the reader has not seen them')
  t.equal((await ask(proxy.port, { body: CHAT })).status, 200)

  stdout?.resume()
  await until(() => proxy.log('request').length === MANY + 1)
  proxy.kill('SIGTERM')
  t.same(await proxy.closed, { code: 0, signal: null })
})

t.test('a reader of standard output that is gone stops nothing', async t => {
  const { url } = await startResource(t)
  const proxy = await startProxy(t, configFor([{ url }]))
  proxy.child.stdout?.destroy()
  for (let i = 0; i < MANY; i++) t.equal((await ask(proxy.port, { path: longPath(i) })).status, 404)
  t.equal((await ask(proxy.port, { body: CHAT })).status, 200)
  const { body } = await ask(proxy.port, { path: '/metrics' })
  t.match(body, /^proxy_log_lines_dropped_total [1-9]/m, 'the lines that nobody got are counted')
  proxy.kill('SIGTERM')
  t.same(await proxy.ended, { code: 0, signal: null })
})

t.test(
  'strangers who connect up to the limit of open files take neither a client its answer nor a backend its place',
  { skip: process.platform === 'linux' ? false : 'the limit is read from /proc' },
  async t => {
    const backends = [await startResource(t), await startResource(t)]
    const config = configFor(
      backends.map(({ url }) => ({ url })),
      { rest: 'health_check: {enabled: false}' },
    )
    const proxy = await startProxy(t, config, { openFiles: 64 })
    const agent = keptConnection(t)
    t.equal((await ask(proxy.port, { body: CHAT, agent })).status, 200)
    const strangers = Array.from({ length: 60 }, () => net.connect(proxy.port, '127.0.0.1'))
    t.teardown(() => strangers.forEach(socket => void socket.destroy()))
    for (const socket of strangers) socket.on('error', () => undefined)
    await proxy.line('connections refused: server.max_connections is reached')
    for (let i = 0; i < 10; i++) t.equal((await ask(proxy.port, { body: CHAT, agent })).status, 200)
    t.match(await ask(proxy.port, { path: '/health', agent }), { status: 200, body: /"status":"ok"/ })
    t.same(proxy.log('backend ejected'), [])
  },
)

t.test('a certificate that its key does not fit: --check says so, and nothing starts', async t => {
  const { url } = await startResource(t)
  const [one, other] = [makeCertificate('one'), makeCertificate('other')]
  const text = configFor([{ url }]).replace('server: {', 'server: {tls: {cert: cert.pem, key: key.pem}, ')
  for (const workers of [1, 2]) {
    const files = {
      'config.yaml': text.replace('server: {', `server: {workers: ${workers}, `),
      'cert.pem': one.cert,
      'key.pem': other.key,
    }
    for (const args of [['--check'], []]) {
      const { closed, stderr } = spawnProxy(t, { args, files })
      t.same(await closed, { code: 2, signal: null })
      t.match(stderr.join('\n'), /^config\.yaml:\d+:\d+ server\.tls\.key: does not fit the certificate/)
    }
  }
})
