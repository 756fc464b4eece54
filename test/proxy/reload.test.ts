// Reload: swapped at once under load, nothing lost, nothing forgotten, and every change said.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { systemClock } from '../../lib/clock.ts'
import { applyConfig, reloadConfig } from '../../lib/commands/reload.ts'
import { createLog } from '../../lib/log.ts'
import { fail, throttle } from '../../lib/simulator/faults.ts'
import { NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { chatEvent, DONE, startHeldBackend } from '../fixtures/held-backend.ts'
import { CLIENT_KEY, configFor, type RunningProxy, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const RELOADS = 100

interface Setup {
  readonly backends: readonly string[]
  readonly keys: readonly string[]
  readonly heldUrl: string
  readonly heldName?: string
}

/** Two models: `gpt-4o` over these backends, and `held` whose streams the test writes. */
function configText({ backends, keys, heldUrl, heldName = 'holder' }: Setup): string {
  return `
auth:
  keys:
${keys.map(key => `    - {name: tester, key: ${key}}`).join('\n')}
models:
  gpt-4o:
    backends:
${backends.map(backend => `      - ${backend}`).join('\n')}
  held:
    backends:
      - {name: ${heldName}, endpoint: "${heldUrl}", api_key: azure-key}
server: {port: 0, host: 127.0.0.1, shutdown_grace: 1s}
${NO_PROBES}
`
}

function changesSaid(running: RunningProxy): unknown[] {
  return running.lines.filter(({ msg }) => msg === 'config change').map(({ change }) => change)
}

async function sample(running: RunningProxy, series: string): Promise<number> {
  const text = await (await fetch(`${running.url}/metrics`)).text()
  const line = text.split('\n').find(candidate => candidate.startsWith(`${series} `))
  return line === undefined ? Number.NaN : Number(line.slice(series.length + 1))
}

t.test('100 reloads under load lose no request and cut no stream', async t => {
  const names = ['a', 'b', 'c'] as const
  const started = await Promise.all(names.map(name => startResource(t, { name, deltas: 3 })))
  const [first, second] = [await startHeldBackend(t), await startHeldBackend(t)]
  const line = (i: number, weight: number, priority = 1): string =>
    `{name: ${names[i]}, endpoint: "${started[i]?.url}", api_key: azure-key, weight: ${weight}, priority: ${priority}}`
  const shapes = [
    [line(0, 1), line(1, 1)],
    [line(0, 5), line(1, 1)],
    [line(1, 1), line(2, 2)],
    [line(2, 2)],
    [line(0, 1, 2), line(2, 1)],
    [line(2, 3), line(1, 7), line(0, 2)],
  ]
  let keys: readonly string[] = ['client-key-0']
  const text = (round: number): string =>
    configText({
      backends: shapes[round % shapes.length] ?? [],
      keys,
      // The streams' own backend leaves in every other round: what it has begun it finishes.
      heldUrl: round % 2 === 0 ? first.url : second.url,
    })
  const file = join(t.testdir({ 'config.yaml': text(0) }), 'config.yaml')
  const running = await runProxy(t, text(0))
  const said: Record<string, unknown>[] = []
  const log = createLog({
    clock: systemClock(),
    level: () => 'debug',
    format: () => 'json',
    write: written => void said.push(JSON.parse(written)),
  })
  const reload = (written: string): boolean => {
    writeFileSync(file, written)
    const again = reloadConfig(file, log)
    if (again !== undefined) applyConfig(running.proxy, again, log)
    return again !== undefined
  }

  // Streams that are open before the first reload and end after the last.
  const bearer = (key: string): Record<string, string> => ({ authorization: `Bearer ${key}` })
  const streams = await Promise.all(
    Array.from({ length: 6 }, async (_, i) => {
      const messages = [{ role: 'user', content: `stream ${i}` }]
      const asked = running.post(
        '/v1/chat/completions',
        { model: 'held', stream: true, messages },
        { headers: bearer('client-key-0') },
      )
      const held = await first.next()
      held.stream()
      const opening = chatEvent('begun')
      held.response.write(opening)
      return { held, written: [opening], bytes: (await asked).text() }
    }),
  )

  // Clients that never stop; which key a request uses is known, so that a key goes only when nobody uses it any more.
  const inUse = new Map<string, number>()
  const outcomes = new Map<string, number>()
  let finished = 0
  let stopped = false
  let progress: () => void = () => undefined
  const askOnce = async (stream: boolean): Promise<string> => {
    const key = keys.at(-1) ?? ''
    inUse.set(key, (inUse.get(key) ?? 0) + 1)
    try {
      const response = await running.chat({ stream, headers: bearer(key) })
      const body = await response.text()
      const whole = stream ? body.endsWith(DONE) : JSON.parse(body).object === 'chat.completion'
      return `${response.status} ${whole ? 'whole' : 'broken'}`
    } catch (error) {
      return String(error)
    } finally {
      inUse.set(key, (inUse.get(key) ?? 0) - 1)
    }
  }
  const client = async (stream: boolean): Promise<void> => {
    while (!stopped) {
      const outcome = await askOnce(stream)
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
      finished++
      progress()
    }
  }
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>(resolve => (progress = resolve))
  }
  const clients = Array.from({ length: 6 }, (_, i) => client(i % 2 === 0))

  let refused = 0
  for (let round = 1; round <= RELOADS; round++) {
    if (round % 10 === 3) keys = [...keys, `client-key-${round}`]
    if (round % 10 === 7) {
      const [old = ''] = keys
      await until(() => (inUse.get(old) ?? 0) === 0)
      keys = keys.slice(1)
    }
    if (round % 10 === 5) {
      if (!reload(text(round).replace('weight:', 'wieght:').replace('priority: 1', 'priority: none'))) refused++
    }
    if (!reload(text(round))) t.fail(`round ${round} was refused`)
    for (const { held, written } of streams) {
      const event = chatEvent(`after reload ${round}`)
      written.push(event)
      held.response.write(event)
    }
    const before = finished
    await until(() => finished >= before + 3)
  }
  stopped = true
  await Promise.all(clients)
  for (const { held, written } of streams) {
    written.push(DONE)
    held.response.end(DONE)
  }

  t.strictSame([...outcomes.keys()].sort(), ['200 whole'], 'every request had its whole answer')
  t.ok(finished >= 3 * RELOADS, `${finished} requests were served meanwhile`)
  for (const { bytes, written } of streams) t.equal(await bytes, written.join(''), 'the stream came byte for byte')
  t.equal(running.lines.filter(({ msg }) => msg === 'config reloaded').length, RELOADS)
  t.equal(refused, 10, 'the broken files between were refused')
  const problems = said.filter(({ msg }) => msg === 'config not reloaded').map(({ problem }) => String(problem))
  t.equal(problems.length, 20, 'each with all of its mistakes')
  t.match(problems[0], /config\.yaml:\d+:\d+ models\.gpt-4o\.backends\[0\]\.wieght: .*weight/)
  t.strictSame(
    [...new Set(running.lines.filter(({ level }) => level === 'error'))],
    [],
    'nothing went wrong in the log',
  )
  for (const { resource } of started) {
    t.ok(resource.requests.length > 0, `${resource.name} had its share`)
    t.strictSame(resource.violations, [])
  }
})

t.test('a broken file leaves the config in force as it is', async t => {
  const { url } = await startResource(t)
  const text = configFor([{ url }], { rest: NO_PROBES })
  const file = join(t.testdir({ 'config.yaml': `${text}\nauht: {}` }), 'config.yaml')
  const running = await runProxy(t, text)
  const before = running.proxy.runtime()
  const said: string[] = []
  const log = createLog({
    clock: systemClock(),
    level: () => 'debug',
    format: () => 'json',
    write: x => void said.push(x),
  })
  t.equal(reloadConfig(file, log), undefined)
  t.equal(running.proxy.runtime(), before)
  t.match(said.join(''), /config not reloaded.*auht.*auth/)
  t.equal((await running.chat()).status, 200)
})

/** A proxy over three backends, of which the first is out and the second throttled. */
async function withTrouble(t: Test) {
  const [out, throttled, well] = [await startResource(t), await startResource(t), await startResource(t)]
  const backends = (weight: number): string =>
    configFor(
      [
        { url: out.url, name: 'out' },
        { url: throttled.url, name: 'throttled', more: 'priority: 2' },
        { url: well.url, name: 'well', more: `priority: 3, weight: ${weight}` },
      ],
      { rest: NO_PROBES },
    )
  const running = await runProxy(t, backends(1))
  out.resource.next(fail(500))
  throttled.resource.next(throttle(60))
  t.equal((await running.chat()).headers.get('x-proxy-backend'), 'well')
  return { out, throttled, well, running, backends }
}

t.test('an unchanged backend keeps its health over a reload: out stays out, throttled stays throttled', async t => {
  const { out, throttled, running, backends } = await withTrouble(t)
  const healthRegistry = running.proxy.runtime().pools[0]?.members.map(member => member.health)
  running.proxy.reload(readConfig(backends(9)), undefined)
  const kept = running.proxy.runtime().pools[0]?.members.map(member => member.health)
  t.equal(kept?.length, 3)
  kept?.forEach((health, i) => {
    t.equal(health, healthRegistry?.[i])
  })
  const answer = await running.chat()
  t.equal(answer.headers.get('x-proxy-backend'), 'well')
  t.equal(answer.headers.get('x-proxy-attempts'), '1', 'nobody else was even asked')
  t.equal(out.resource.requests.length, 1)
  t.equal(throttled.resource.requests.length, 1)
  t.equal(await sample(running, 'proxy_backend_up{model="gpt-4o",backend="out"}'), 0)
})

t.test('counters and connections go on over a reload', async t => {
  const { well, running, backends } = await withTrouble(t)
  const served = 'proxy_requests_total{model="gpt-4o",key="tester",status="200"}'
  const before = await sample(running, served)
  running.proxy.reload(readConfig(backends(9)), undefined)
  t.equal((await running.chat()).status, 200)
  t.equal(await sample(running, served), before + 1)
  t.equal(well.resource.requests.at(-1)?.reused, true, 'the connection is the one from before')
})

t.test('a backend that leaves and comes back under another key begins anew', async t => {
  const { url, resource } = await startResource(t, { keys: ['old-key', 'new-key'] })
  const other = await startResource(t)
  const text = (key: string): string =>
    configFor(
      [
        { url, key },
        { url: other.url, more: 'priority: 2' },
      ],
      { rest: NO_PROBES },
    )
  const running = await runProxy(t, text('wrong-key'))
  t.equal((await running.chat()).headers.get('x-proxy-backend'), 'b2')
  running.proxy.reload(readConfig(text('new-key')), undefined)
  t.equal((await running.chat()).headers.get('x-proxy-backend'), 'b1', 'the mended credential is used at once')
  t.equal(resource.requests.at(-1)?.headers['api-key'], 'new-key')
})

t.test('a removed backend finishes what is in flight, and is asked nothing more', async t => {
  const leaving = await startHeldBackend(t)
  const staying = await startResource(t)
  const running = await runProxy(t, configFor([{ url: leaving.url, name: 'leaving' }], { rest: NO_PROBES }))
  const stream = running.chat({ stream: true })
  const streamed = await leaving.next()
  streamed.stream()
  streamed.response.write(chatEvent('one'))
  const bytes = (await stream).text()
  const plain = running.chat()
  const asked = await leaving.next()

  running.proxy.reload(readConfig(configFor([{ url: staying.url, name: 'staying' }], { rest: NO_PROBES })), undefined)
  for (let i = 0; i < 3; i++) t.equal((await running.chat()).headers.get('x-proxy-backend'), 'staying')
  streamed.response.end(`${chatEvent('two')}${DONE}`)
  asked.response.writeHead(200, { 'content-type': 'application/json' }).end('{"object":"chat.completion"}')
  t.equal(await bytes, `${chatEvent('one')}${chatEvent('two')}${DONE}`)
  const answer = await plain
  t.equal(answer.headers.get('x-proxy-backend'), 'leaving')
  t.strictSame(await answer.json(), { object: 'chat.completion' })
  t.equal(leaving.count(), 2)
})

t.test('keys rotate: two of one name are both good, and the one that goes is refused from then on', async t => {
  const { url } = await startResource(t)
  const text = configFor([{ url }], { rest: NO_PROBES })
  const running = await runProxy(t, text)
  const status = async (key: string): Promise<number> =>
    (await running.chat({ headers: { authorization: `Bearer ${key}` } })).status
  const first = `{name: tester, key: ${CLIENT_KEY}}`
  const next = '{name: tester, key: client-key-2}'
  t.strictSame([await status(CLIENT_KEY), await status('client-key-2')], [200, 401])
  running.proxy.reload(readConfig(text.replace(first, `${first}, ${next}`)), undefined)
  t.strictSame([await status(CLIENT_KEY), await status('client-key-2')], [200, 200])
  running.proxy.reload(readConfig(text.replace(first, next)), undefined)
  t.strictSame([await status(CLIENT_KEY), await status('client-key-2')], [401, 200])
})

t.test('what changed is logged line by line, secrets as "changed" only', async t => {
  const secrets = ['client-key-a', 'client-key-b', 'client-key-c', 'azure-key-a', 'azure-key-b', 'azure-key-c']
  const running = await runProxy(
    t,
    `
auth: {keys: [{name: rotated, key: client-key-a}, {name: leaves, key: client-key-b}]}
models:
  gpt-4o:
    backends:
      - {name: one, endpoint: "https://one.openai.azure.com", api_key: azure-key-a}
      - {name: two, endpoint: "https://two.openai.azure.com", api_key: azure-key-b}
server: {port: 0, host: 127.0.0.1}
${NO_PROBES}`,
  )
  const next = `
auth: {keys: [{name: rotated, key: client-key-c}]}
models:
  gpt-4o:
    balance: least_busy
    backends:
      - {name: one, endpoint: "https://one.openai.azure.com", api_key: azure-key-c, weight: 4}
      - {name: three, endpoint: "https://three.openai.azure.com", api_key: azure-key-b}
  gpt-5:
    backends: [{name: one, endpoint: "https://one.openai.azure.com", api_key: azure-key-c}]
server: {port: 0, host: 127.0.0.1}
retry: {max_attempts: 5}
${NO_PROBES}`
  running.proxy.reload(readConfig(next), undefined)
  t.strictSame(
    [...changesSaid(running)].sort(),
    [
      'auth.keys[leaves]: removed',
      'auth.keys[rotated].digest: changed',
      'models[gpt-4o].backends[one].credential.key: changed',
      'models[gpt-4o].backends[one].weight: 1 → 4',
      'models[gpt-4o].backends[three]: added',
      'models[gpt-4o].backends[two]: removed',
      'models[gpt-4o].balance: "round_robin" → "least_busy"',
      'models[gpt-5]: added',
      'retry.maxAttempts: 3 → 5',
    ].sort(),
  )
  t.equal(running.lines.find(({ msg }) => msg === 'config reloaded')?.changes, 9)
  const all = JSON.stringify(running.lines)
  for (const secret of secrets) t.notOk(all.includes(secret), `${secret} is nowhere`)

  running.proxy.reload(readConfig(next), undefined)
  t.equal(changesSaid(running).length, 9, 'the same config again changes nothing')
})

t.test('port, host, workers and the log file are said to need a restart, and stay as they are', async t => {
  const { url } = await startResource(t)
  const text = configFor([{ url }], { rest: NO_PROBES })
  const running = await runProxy(t, text)
  const moved = text.replace(
    'server: {port: 0, host: 127.0.0.1,',
    'logging: {file: elsewhere.log}\nserver: {port: 4321, host: 127.0.0.2, workers: 2,',
  )
  running.proxy.reload(readConfig(moved), undefined)
  const warning = running.lines.find(({ msg }) => msg === 'config change needs a restart')
  t.equal(warning?.level, 'warn')
  t.equal(warning?.options, 'server.port, server.host, server.workers, logging.file')
  const { server, logging } = running.proxy.runtime().config
  t.match({ ...server, file: logging.file ?? null }, { port: 0, host: '127.0.0.1', workers: 1, file: null })
  t.equal((await running.chat()).status, 200)
})
