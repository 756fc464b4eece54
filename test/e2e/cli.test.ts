// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// The command line as users' scripts see it: flags, exit codes, and what is printed where. PROXY_BIN=FILE tests a
// packaged program.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { flags, load, read } from '../fixtures/deploy-files.ts'
import { configFor } from '../fixtures/run-proxy.ts'
import { ask, CHAT, runToEnd, spawnProxy, startProxy } from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const run = promisify(execFile)
const { version }: { readonly version: string } = JSON.parse(read('package.json'))

/** An address at which nobody listens: the port was free a moment ago. */
async function deadUrl(): Promise<string> {
  const server = http.createServer()
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return `http://127.0.0.1:${port}`
}

/** A server of somebody else, with whatever answer to give. */
async function startServer(t: Test, listener: http.RequestListener = () => undefined): Promise<number> {
  const server = http.createServer(listener)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

t.test('--version prints the version of the package alone', async t => {
  const { code, stdout, stderr } = await runToEnd(t, ['--version'])
  // A packaged one also names the commit it was built from.
  const [plain, commit = '0'] = stdout.split('+')
  t.same({ code, plain, stderr }, { code: 0, plain: version, stderr: '' })
  t.match(commit, /^[0-9a-f]+$/)
})

t.test('--new-key prints a fresh key once, and config lines that hold only its hash', async t => {
  for (const name of ['team-a', 'a: "quoted" ${x} # name']) {
    const { code, stdout, stderr } = await runToEnd(t, ['--new-key', name])
    t.same({ code, stderr }, { code: 0, stderr: '' })
    const keys = stdout.match(/\bsk-[\w-]+/g) ?? []
    t.equal(keys.length, 1, 'once')
    const lines = stdout.slice(stdout.indexOf('- name:'))
    const models = 'models: {m: {backends: [{endpoint: "https://r.openai.azure.com", api_key: k}]}}'
    const result = load(`auth:\n  keys:\n    ${lines}\n${models}\n`)
    const hash = createHash('sha256').update(keys[0] ?? '')
    const read = result.kind === 'ok' ? result.config.auth.keys : []
    t.same(
      read.map(key => [key.name, key.digest.toString('hex')]),
      [[name, hash.digest('hex')]],
    )
    const again = await runToEnd(t, ['--new-key', name])
    t.not(again.stdout, stdout, 'another each time')
  }
})

t.test('--help names every flag and every exit code, on standard output', async t => {
  const { code, stdout, stderr } = await runToEnd(t, ['--help'])
  t.same({ code, stderr }, { code: 0, stderr: '' })
  t.ok(flags().includes('--config') && flags().includes('--new-key'))
  for (const flag of flags()) t.match(stdout, new RegExp(`(?: |, )${flag}[ ,]`), flag)
  t.match(stdout, /0 done; 1 could not run; 2 the command line or the config is wrong/)
})

t.test(
  'a command line that is wrong ends with 2, says what is wrong, and prints nothing on standard output',
  async t => {
    for (const [args, says] of [
      [['--konfig', 'x'], /--konfig/],
      [['--port', '70000'], /--port takes a whole number from 0 to 65535/],
      [['--check', '--probe'], /--check and --probe do not go together/],
      [['--new-key'], /new-key/],
      [['--new-key', ''], /--new-key takes a name/],
      [['--new-key', 'a', '--check'], /do not go together/],
      [['stray'], /unexpected argument "stray"/],
      [['mine.yaml'], /unexpected argument "mine\.yaml"; did you mean --config mine\.yaml\?/],
      [['--cofnig', 'x'], /there is no --cofnig; did you mean --config\?/],
      [['--usage', '--by', 'team'], /--by takes some of key,model,backend,day,month/],
      [['--usage', '--from', '2026-02-30'], /--from takes a date such as 2026-11-01, not "2026-02-30"/],
      [['--format', 'csv'], /--format goes with --usage/],
      [['--health', 'no url'], /is no URL/],
    ] as const) {
      const { code, stdout, stderr } = await runToEnd(t, args)
      t.same({ code, stdout }, { code: 2, stdout: '' }, args.join(' '))
      t.match(stderr, says)
    }
  },
)

t.test('a config that is not there ends with 2 and names the file', async t => {
  for (const args of [
    ['--config', 'nowhere.yaml'],
    ['--check', '--config', 'nowhere.yaml'],
  ]) {
    const { code, stdout, stderr } = await runToEnd(t, args)
    t.same({ code, stdout }, { code: 2, stdout: '' }, args.join(' '))
    t.match(stderr, /nowhere\.yaml/)
  }
  const { code, stderr } = await runToEnd(t, [])
  t.equal(code, 2, 'without --config too')
  t.match(stderr, /config\.yaml/, 'where config.yaml is meant')
})

const BAD = `auth: {keys: [{name: tester, key: a-secret-of-a-client}]}
modles: {}
models:
  gpt-4o:
    backends:
      - {endpoint: "ftp://somewhere", api_key: a-secret-of-azure}
retry: {max_attempts: 99}
`

t.test('a bad config ends with 2: every problem with its place and path, no secret, and nothing is served', async t => {
  for (const args of [
    ['--config', 'bad.yaml'],
    ['--check', '--config', 'bad.yaml'],
    ['--probe', '--config', 'bad.yaml'],
  ]) {
    const { code, stdout, stderr } = await runToEnd(t, args, { files: { 'bad.yaml': BAD } })
    t.same({ code, stdout }, { code: 2, stdout: '' }, args.join(' '))
    t.match(stderr, /^bad\.yaml:2:1 modles: .*models/m, 'a misspelt key and the nearest one')
    t.match(
      stderr,
      /^bad\.yaml:6:\d+ models\.gpt-4o\.backends\[0\]\.endpoint: .*https/m,
      'a wrong value and what is allowed',
    )
    t.match(stderr, /^bad\.yaml:7:\d+ retry\.max_attempts: .*10/m, 'all problems at once')
    t.notMatch(stderr, /a-secret/, 'no secret')
  }
})

t.test('--check says that a good config is sound, and asks no backend', async t => {
  const { url, resource } = await startResource(t)
  const { code, stdout, stderr } = await runToEnd(t, ['--check'], { files: { 'config.yaml': configFor([{ url }]) } })
  t.same(
    { code, stdout, stderr },
    { code: 0, stdout: 'config.yaml: ok, 1 model, 1 backend', stderr: '' },
    'config.yaml of its folder is taken where no other is named',
  )
  t.same(resource.requests, [])
})

t.test('--probe: a table and 0 where every backend is well, without a token spent', async t => {
  const { url, resource } = await startResource(t)
  const config = configFor([{ url, name: 'only' }])
  const { code, stdout } = await runToEnd(t, ['--probe', '--config', 'config.yaml'], {
    files: { 'config.yaml': config },
  })

  t.equal(code, 0)
  const [head, row] = stdout.split('\n')
  t.match(head, /MODEL +BACKEND .*KEY +DEPLOYMENT .*LATENCY +VERDICT/)
  t.match(row, /^gpt-4o +only .* yes +yes .*\d ms +ok$/)
  t.ok(resource.requests.length > 0, 'it was asked')
  // Whether a deployment is there only a question to it tells: one without any message, which is refused before it
  // costs.
  const asked = resource.requests.map(({ method, body }) => (method === 'GET' ? 'list' : JSON.parse(body.toString())))
  t.same(
    asked.filter(question => question !== 'list' && question.messages.length > 0),
    [],
    'nothing that costs a token',
  )
  t.same(resource.violations, [])
})

t.test('--probe: 1 where a backend is not well, and the table and --json say which and why, without a key', async t => {
  const { url } = await startResource(t)
  const backends = [
    { url, name: 'sound' },
    { url, name: 'locked', key: 'key-that-azure-refuses' },
    { url: await deadUrl(), name: 'gone' },
    { url, name: 'elsewhere', more: 'deployment: not-there' },
  ]
  const files = { 'config.yaml': configFor(backends) }
  const plain = await runToEnd(t, ['--probe'], { files })
  const json = await runToEnd(t, ['--probe', '--json'], { files })

  t.same([plain.code, json.code], [1, 1])
  const found: readonly { readonly backend: string; readonly problem?: string }[] = JSON.parse(json.stdout)
  t.same(
    found.map(({ backend, problem }) => [backend, problem === undefined ? 'well' : 'not']),
    [
      ['sound', 'well'],
      ['locked', 'not'],
      ['gone', 'not'],
      ['elsewhere', 'not'],
    ],
  )
  const row = (name: string): string => plain.stdout.split('\n').find(text => text.includes(` ${name} `)) ?? ''
  t.match(row('sound'), / ok$/)
  t.match(row('locked'), / NO .*credential is refused/)
  t.match(row('gone'), / NO /)
  t.match(row('elsewhere'), / yes +NO /)
  t.notMatch(plain.stdout + json.stdout, /key-that-azure-refuses|azure-key/)
})

t.test('--health: 0 where the proxy is well; 1 where it is not, or where nobody answers', async t => {
  const { url, resource } = await startResource(t)
  const proxy = await startProxy(t, configFor([{ url }], { rest: 'health_check: {enabled: false}' }))
  const files = { 'config.yaml': configFor([{ url }]) }

  const well = await runToEnd(t, ['--health', proxy.url])
  t.match(well, { code: 0, stdout: /"status":"ok"/ })
  t.match(await runToEnd(t, [`--health=${proxy.url}/health`]), { code: 0 }, 'with the path, and as one word')
  t.match(await runToEnd(t, ['--health', '--port', String(proxy.port)], { files }), { code: 0 }, 'by config and port')

  await resource.close()
  t.equal((await ask(proxy.port, { body: CHAT })).status, 502)
  t.match(await runToEnd(t, ['--health', proxy.url]), { code: 1, stdout: /"status":"unavailable"/ })

  t.match(await runToEnd(t, ['--health', await deadUrl()]), { code: 1, stderr: /does not answer/ })
})

t.test('a port that is taken ends with 1 and is named; with workers no process stays behind', async t => {
  const port = await startServer(t)
  const { url } = await startResource(t)
  const alone = configFor([{ url }])
  for (const text of [alone, alone.replace('server: {', 'server: {workers: 2, ')]) {
    const { code, stderr } = await runToEnd(t, ['--port', String(port)], { files: { 'config.yaml': text } })
    t.equal(code, 1)
    t.match(
      stderr,
      new RegExp(`^azure-openai-proxy: port ${port} is in use: .*server\\.port or --port N$`),
      'named, and what to do',
    )
  }
})

/** The curl commands of a text, whole: a backslash at a line's end goes on. */
function curlLines(text: string): readonly string[] {
  return [...text.matchAll(/^curl (?:.*\\\n)*.*$/gm)].map(([line]) => line)
}

async function hasCurl(): Promise<boolean> {
  return run('curl', ['--version']).then(
    () => true,
    () => false,
  )
}

/** Runs a curl line as a shell does, or, without a curl, sends by other means what it says. */
async function follow(line: string, curl: boolean): Promise<{ readonly status: number; readonly body: string }> {
  if (curl) {
    const marked = line.replace(/^curl /, "curl -sS -w '\\n%{http_code}' ")
    const { stdout } = await run('sh', ['-c', marked])
    const at = stdout.lastIndexOf('\n')
    return { status: Number(stdout.slice(at + 1)), body: stdout.slice(0, at) }
  }
  const url = line.match(/https?:\/\/\S+/)?.[0] ?? ''
  const headers = [...line.matchAll(/-H "([^:]+): ([^"]+)"/g)].map(
    ([, name = '', value = '']) => [name, value] as const,
  )
  const body = line.match(/-d '([^']*)'/)?.[1]
  const init = { method: body === undefined ? 'GET' : 'POST', headers: new Headers(headers.map(pair => [...pair])) }
  const response = await fetch(url, body === undefined ? init : { ...init, body })
  return { status: response.status, body: await response.text() }
}

t.test(
  '--demo needs neither account nor config: every curl line that it prints works, and so does every one of the README',
  async t => {
    const demo = spawnProxy(t, { args: ['--demo', '--port', '0'] })
    const port = Number((await demo.printed(/listening.*port=(\d+)/))[1])
    const curl = await hasCurl()
    if (!curl) t.comment('no curl on this machine: the lines are read and sent by fetch')

    const printed = curlLines(demo.stdout.join('\n'))
    const documented = curlLines(read('README.md')).filter(line => line.includes('demo-key'))
    t.ok(printed.length >= 4, `${printed.length} printed lines`)
    t.ok(documented.length >= 1, `${documented.length} lines in the README`)
    t.ok(
      printed.every(line => line.includes(`localhost:${port}/`)),
      'they name the port it listens on',
    )

    const lines = [...printed, ...documented.map(line => line.replaceAll('localhost:3000', `localhost:${port}`))]
    // Twice each and side by side, so that the moody backend has its turns and none of them is seen.
    await Promise.all(
      [...lines, ...lines].map(async line => {
        const { status, body } = await follow(line, curl)
        t.equal(status, 200, line)
        if (line.includes('"stream": true')) t.match(body, /data: \[DONE\]\s*$/, 'the stream has its end')
        else t.equal(typeof JSON.parse(body), 'object')
      }),
    )
    demo.kill('SIGINT')
    t.same(await demo.closed, { code: 0, signal: null }, 'Ctrl-C ends it')
  },
)

t.test('--demo --tls serves by https, with a certificate for localhost that is gone with it', async t => {
  const demo = spawnProxy(t, { args: ['--demo', '--tls', '--port', '0'] })
  const port = Number((await demo.printed(/listening.*port=(\d+)/))[1])
  const [, file = ''] = await demo.printed(/Its certificate is self-made: (\S+)/)
  const ca = readFileSync(file, 'utf8')
  const status = await new Promise<number | undefined>((resolve, reject) => {
    const headers = { authorization: 'Bearer demo-key' }
    https
      .get({ host: 'localhost', port, path: '/v1/models', ca, headers, agent: false }, response => {
        response.resume().once('end', () => resolve(response.statusCode))
      })
      .on('error', reject)
  })
  t.equal(status, 200)
  demo.kill('SIGINT')
  t.same(await demo.closed, { code: 0, signal: null })
  t.notOk(existsSync(file))
})

t.test('--demo on a port that is taken says that alone, and not that its own parts are gone', async t => {
  const port = await startServer(t)
  const demo = spawnProxy(t, { args: ['--demo', '--port', `${port}`] })
  t.same(await demo.closed, { code: 1, signal: null })
  t.match(demo.stderr, [new RegExp(`port ${port} is in use`)])
  t.same(demo.stdout, [])
})

t.test('--usage reads files and standard input, and counts broken lines without failing', async t => {
  const line = (key: string): string =>
    JSON.stringify({
      time: '2026-11-03T10:00:00Z',
      msg: 'request',
      key,
      model: 'gpt-4o',
      status: 200,
      prompt_tokens: 5,
      completion_tokens: 2,
      cached_tokens: 1,
      cost: 0.5,
    })
  const files = { 'one.jsonl': `${line('a')}\n{"cut`, 'two.jsonl': `${line('b')}\n` }
  const all = ['--usage', 'one.jsonl', 'two.jsonl', '--by', 'key', '--format', 'csv']
  const { code, stdout, stderr } = await runToEnd(t, all, { files })
  t.equal(code, 0)
  t.equal(
    stdout,
    'key,requests,errors,prompt_tokens,cached_tokens,completion_tokens,cost\na,1,0,5,1,2,0.5\nb,1,0,5,1,2,0.5',
  )
  t.match(stderr, /1 line is no JSON log line/)
  const missing = await runToEnd(t, ['--usage', 'nowhere.jsonl'])
  t.equal(missing.code, 1)
  t.match(missing.stderr, /nowhere\.jsonl cannot be read/)
  const piped = spawnProxy(t, { args: ['--usage', '--format', 'json'] })
  piped.child.stdin?.end(line('c'))
  t.same(await piped.closed, { code: 0, signal: null })
  t.match(JSON.parse(piped.stdout.join('\n')), [{ key: 'c', model: 'gpt-4o', month: '2026-11', requests: 1 }])
})
