// Reverse proxies in front, with the configs of deploy/network.md as they are printed there: events are not held back,
// bodies pass, a realtime session runs. Left out, with a word, where a program is not installed. covers:
// deploy/network.md
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { chatEvent, DONE, startHeldBackend } from '../fixtures/held-backend.ts'
import { CLIENT_KEY, configFor, runProxy } from '../fixtures/run-proxy.ts'
import { freePort, listens } from '../fixtures/squid.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const PAGE = readFileSync('deploy/network.md', 'utf8')
const NO_PROBES = 'health_check: {enabled: false, recovery: 60s}'

/** The config that the page shows for a program, with these ports. */
function configOf(language: string, front: number, proxy: number): string {
  const found = new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(PAGE)?.[1]
  if (found === undefined) throw new Error(`the page shows no ${language}`)
  return found.replaceAll('127.0.0.1:3000', `127.0.0.1:${proxy}`).replaceAll('8080', String(front))
}

interface Front {
  readonly name: string
  readonly paths: readonly string[]
  /** Its files and its command line, in a folder of its own. */
  prepare(folder: string, front: number, proxy: number): readonly string[]
}

const FRONTS: readonly Front[] = [
  {
    name: 'nginx',
    paths: ['/usr/sbin/nginx'],
    prepare(folder, front, proxy) {
      writeFileSync(join(folder, 'site.conf'), configOf('nginx', front, proxy))
      const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
        kind => `${kind}_temp_path ${join(folder, kind)};`,
      )
      const main = `daemon off; pid ${join(folder, 'pid')}; error_log stderr; events {} http { access_log off; ${paths.join(' ')} include ${join(folder, 'site.conf')}; }`
      writeFileSync(join(folder, 'nginx.conf'), main)
      return ['-c', join(folder, 'nginx.conf')]
    },
  },
  {
    name: 'haproxy',
    paths: ['/usr/sbin/haproxy'],
    prepare(folder, front, proxy) {
      writeFileSync(join(folder, 'haproxy.cfg'), configOf('haproxy', front, proxy))
      return ['-db', '-f', join(folder, 'haproxy.cfg')]
    },
  },
  {
    name: 'caddy',
    paths: ['/usr/bin/caddy'],
    prepare(folder, front, proxy) {
      writeFileSync(join(folder, 'Caddyfile'), configOf('caddyfile', front, proxy))
      return ['run', '--adapter', 'caddyfile', '--config', join(folder, 'Caddyfile')]
    },
  },
]

async function startFront(t: Test, { paths, prepare }: Front, proxyPort: number): Promise<number> {
  const program = paths.find(path => existsSync(path))
  if (program === undefined) throw new Error('not installed')
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'front-'))
  const env = { ...process.env, HOME: folder, XDG_DATA_HOME: folder, XDG_CONFIG_HOME: folder }
  const child: ChildProcess = spawn(program, [...prepare(folder, port, proxyPort)], { stdio: 'ignore', env })
  const killNow = (): void => void child.kill('SIGKILL')
  process.once('exit', killNow)
  t.teardown(async () => {
    process.off('exit', killNow)
    // nginx has workers of its own, which end with an orderly stop.
    child.kill('SIGTERM')
    if (child.exitCode === null && child.signalCode === null) await new Promise(resolve => child.once('exit', resolve))
    rmSync(folder, { recursive: true, force: true })
  })
  // One that checks the health of what is behind it takes a moment to believe in it.
  const serves = async (): Promise<boolean> =>
    (await listens(port)) && (await fetch(`http://127.0.0.1:${port}/livez`).catch(() => undefined))?.status === 200
  while (!(await serves())) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  return port
}

for (const front of FRONTS) {
  const installed = front.paths.some(path => existsSync(path))
  const options = installed ? {} : { skip: `${front.name} is not installed` }

  t.test(`behind ${front.name}: events come as they are sent, a large body passes`, options, async t => {
    const backend = await startHeldBackend(t)
    const running = await runProxy(t, configFor([{ url: backend.url }], { rest: NO_PROBES }))
    const port = await startFront(t, front, running.port)
    const headers = { authorization: `Bearer ${CLIENT_KEY}`, 'content-type': 'application/json' }
    const body = JSON.stringify({
      model: 'gpt-4o',
      stream: true,
      messages: [{ role: 'user', content: 'x'.repeat(8 * 1024 * 1024) }],
    })
    const asking = fetch(`http://127.0.0.1:${port}/v1/chat/completions`, { method: 'POST', headers, body })
    const held = await backend.next()
    held.stream()
    held.response.write(chatEvent('before'))
    const response = await asking
    t.equal(response.status, 200)
    const reader = response.body?.getReader()
    const first = await reader?.read()
    t.match(Buffer.from(first?.value ?? []).toString(), 'before', 'while the stream goes on')
    held.response.end(DONE)
    for (let piece = await reader?.read(); piece?.done === false; ) piece = await reader?.read()
  })

  t.test(`behind ${front.name}: a realtime session runs`, options, async t => {
    const { url } = await startResource(t, { deployments: [{ name: 'gpt-4o', kind: 'realtime' }] })
    const running = await runProxy(t, configFor([{ url }], { rest: NO_PROBES }))
    const port = await startFront(t, front, running.port)
    const authorization = `Bearer ${CLIENT_KEY}`
    const opened = await openWebSocket(`http://127.0.0.1:${port}/v1/realtime?model=gpt-4o`, { authorization })
    const session = mustBeOpen(opened)
    t.equal((await session.next()).type, 'session.created')
    session.close()
    await session.ended
  })
}

t.test('the page names what the program really does', async t => {
  t.ok(net.isIP('169.254.169.254'))
  for (const option of [
    'retry.connection_max_age',
    'server.shutdown_grace',
    'server.trusted_proxies',
    'egress:',
    'no_proxy',
  ]) {
    t.ok(PAGE.includes(option), option)
  }
})
