// The proxy behind its own certificate: modern versions only, renewed without a restart.
import { X509Certificate } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { join } from 'node:path'
import tls, { type SecureVersion } from 'node:tls'
import t, { type Test } from 'tap'
import { systemClock } from '../../lib/clock.ts'
import { applyConfig, reloadConfig } from '../../lib/commands/reload.ts'
import { createLog } from '../../lib/log.ts'
import { CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { type Certificate, makeCertificate } from '../fixtures/certificate.ts'
import { chatEvent, DONE, startHeldBackend } from '../fixtures/held-backend.ts'
import { type BackendText, CLIENT_KEY, configFor, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'
import { mustBeOpen, openWebSocket } from '../fixtures/websocket.ts'

const readText = (path: string): string => readFileSync(path, 'utf8')

/** A proxy with a certificate, its files on disk, and the reload that SIGHUP does. */
async function withTls(t: Test, backends: readonly BackendText[], model = '') {
  const first = makeCertificate('first')
  const folder = t.testdir({ 'cert.pem': first.cert, 'key.pem': first.key, 'config.yaml': '' })
  const [certFile, keyFile, configFile] = ['cert.pem', 'key.pem', 'config.yaml'].map(name => join(folder, name))
  const configText = (rest = NO_PROBES): string =>
    configFor(backends, { model, rest }).replace(
      'shutdown_grace: 1s',
      `shutdown_grace: 1s, tls: {cert: "${certFile}", key: "${keyFile}"}`,
    )
  const files = { cert: Buffer.from(first.cert), key: Buffer.from(first.key) }
  if (configFile === undefined) throw new Error('no folder')
  const running = await runProxy(t, configText(), { tls: files, readFile: readText })
  const said: string[] = []
  const log = createLog({
    clock: systemClock(),
    level: () => 'debug',
    format: () => 'json',
    write: line => void said.push(line),
  })
  return {
    running,
    first,
    said,
    renew({ cert, key }: Certificate, rest?: string) {
      writeFileSync(certFile ?? '', cert)
      writeFileSync(keyFile ?? '', key)
      writeFileSync(configFile, configText(rest))
      const again = reloadConfig(configFile, log)
      if (again !== undefined) applyConfig(running.proxy, again, log)
    },
  }
}

function ask(url: string, ca: string | undefined, stream: boolean): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = https.request(url, {
      method: 'POST',
      agent: false,
      headers: { authorization: `Bearer ${CLIENT_KEY}`, 'content-type': 'application/json' },
      ...(ca === undefined ? { rejectUnauthorized: false } : { ca }),
    })
    request.on('response', resolve).on('error', reject)
    request.end(JSON.stringify({ model: 'gpt-4o', stream, messages: [{ role: 'user', content: 'Hello' }] }))
  })
}

async function bodyOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of response) if (Buffer.isBuffer(chunk)) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}

/** How a handshake with exactly this version ends: the version agreed on, or the error's code. */
function handshake(port: number, version: SecureVersion): Promise<string> {
  return new Promise(resolve => {
    // Level 0 lets the client offer what is long outdated; without it, it would refuse itself.
    const options = {
      minVersion: version,
      maxVersion: version,
      ciphers: 'DEFAULT@SECLEVEL=0',
      rejectUnauthorized: false,
    }
    const socket = tls.connect({ port, host: '127.0.0.1', ...options })
    socket.once('secureConnect', () => {
      resolve(socket.getProtocol() ?? 'none')
      socket.destroy()
    })
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
  })
}

/** The name in the certificate that a new connection is shown. */
function shownName(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
    socket.once('error', reject)
    socket.once('secureConnect', () => {
      resolve(new X509Certificate(socket.getPeerCertificate().raw).subject)
      socket.destroy()
    })
  })
}

t.test('requests and streams are served over TLS, with a certificate that a client can verify', async t => {
  const { url, resource } = await startResource(t)
  const { running, first } = await withTls(t, [{ url }])
  const plain = await ask(`${running.url}${CHAT}`, first.cert, false)
  t.equal(plain.statusCode, 200)
  t.equal(JSON.parse(await bodyOf(plain)).object, 'chat.completion')
  const stream = await ask(`${running.url}${CHAT}`, first.cert, true)
  t.ok((await bodyOf(stream)).endsWith(DONE))
  t.strictSame(resource.violations, [])
  await t.rejects(ask(`${running.url}${CHAT}`, makeCertificate('other').cert, false), {
    code: 'DEPTH_ZERO_SELF_SIGNED_CERT',
  })
})

t.test('TLS 1.3 and 1.2 are spoken, 1.1 and 1.0 are refused by the server', async t => {
  const { url } = await startResource(t)
  const { running } = await withTls(t, [{ url }])
  t.equal(await handshake(running.port, 'TLSv1.3'), 'TLSv1.3')
  t.equal(await handshake(running.port, 'TLSv1.2'), 'TLSv1.2')
  const refused = 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION'
  t.equal(await handshake(running.port, 'TLSv1.1'), refused)
  t.equal(await handshake(running.port, 'TLSv1'), refused)
})

t.test('plain HTTP on the TLS port is cut off, and the next client is served', async t => {
  const { url } = await startResource(t)
  const { running } = await withTls(t, [{ url }])
  const socket = net.connect(running.port, '127.0.0.1')
  const closed = new Promise(resolve => socket.once('close', resolve))
  socket.on('error', () => undefined).resume()
  socket.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n')
  await closed
  t.equal((await ask(`${running.url}${CHAT}`, undefined, false)).statusCode, 200)
})

t.test('a renewed certificate is shown to new connections, and no open stream is dropped for it', async t => {
  const backend = await startHeldBackend(t)
  const { running, first, renew } = await withTls(t, [{ url: backend.url }])
  const asking = ask(`${running.url}${CHAT}`, first.cert, true)
  const held = await backend.next()
  held.stream()
  held.response.write(chatEvent('before'))
  const response = await asking
  t.equal(await shownName(running.port), 'CN=first')
  const second = makeCertificate('second')
  renew(second)
  t.equal(await shownName(running.port), 'CN=second')
  held.response.end(`${chatEvent('after')}${DONE}`)
  t.equal(await bodyOf(response), `${chatEvent('before')}${chatEvent('after')}${DONE}`)

  renew(makeCertificate('third'))
  t.equal(
    await handshake(running.port, 'TLSv1.1'),
    'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION',
    'the versions stay as they were',
  )
})

t.test('a certificate that cannot be used leaves certificate and config in force, and says so', async t => {
  const { url } = await startResource(t)
  const { running, said, renew } = await withTls(t, [{ url }])
  const config = running.proxy.runtime().config
  const [one, other] = [makeCertificate('one'), makeCertificate('other')]
  const changed = `${NO_PROBES}\nretry: {max_attempts: 7}`
  renew({ cert: one.cert, key: other.key }, changed)
  renew({ cert: 'no certificate at all', key: one.key }, changed)
  t.equal(said.filter(line => line.includes('config not reloaded')).length, 2)
  t.equal(running.proxy.runtime().config, config, 'nothing of the new config is in force')
  t.equal(await shownName(running.port), 'CN=first')
  for (const text of [one.key, other.key]) t.notOk(said.join('').includes(text.split('\n')[1] ?? text))
  renew(one, changed)
  t.equal(running.proxy.runtime().config.retry.maxAttempts, 7)
  t.equal(await shownName(running.port), 'CN=one')
})

t.test('switching TLS on needs a restart, which is said; the plain listener goes on', async t => {
  const { url } = await startResource(t)
  const text = configFor([{ url }], { rest: NO_PROBES })
  const running = await runProxy(t, text)
  const { cert, key } = makeCertificate('late')
  const next = text.replace('shutdown_grace: 1s', 'shutdown_grace: 1s, tls: {cert: /c.pem, key: /k.pem}')
  const read = (path: string): string => (path === '/c.pem' ? cert : key)
  running.proxy.reload(readConfig(next, read), { cert: Buffer.from(cert), key: Buffer.from(key) })
  t.equal(running.lines.find(({ msg }) => msg === 'config change needs a restart')?.options, 'server.tls')
  t.equal((await running.chat()).status, 200)
})

t.test('a WebSocket session runs over TLS', async t => {
  const { url, resource } = await startResource(t, { deployments: [{ name: 'gpt-4o', kind: 'realtime' }] })
  const { running, first } = await withTls(t, [{ url }])
  const opened = await openWebSocket(
    `${running.url}/v1/realtime?model=gpt-4o`,
    { authorization: `Bearer ${CLIENT_KEY}` },
    first.cert,
  )
  const session = mustBeOpen(opened)
  t.equal((await session.next()).type, 'session.created')
  session.send({ type: 'session.update', session: { instructions: 'Be brief.' } })
  t.equal((await session.next()).type, 'session.updated')
  session.close()
  t.equal((await session.ended)?.code, 1000)
  t.strictSame(resource.violations, [])
})

/** What Java's client sends to every server, secure or not: it would speak HTTP/2, and goes on without. */
function upgradeToH2c(): string {
  const body = JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content: 'Hello' }] })
  const lines = [
    `POST ${CHAT} HTTP/1.1`,
    'Host: proxy',
    `Authorization: Bearer ${CLIENT_KEY}`,
    'Content-Type: application/json',
    `Content-Length: ${body.length}`,
    'Connection: Upgrade, HTTP2-Settings',
    'Upgrade: h2c',
    'HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA',
  ]
  return `${lines.join('\r\n')}\r\n\r\n${body}`
}

/** Writes, and reads until the text that is waited for has come. */
function converse(socket: net.Socket, text: string, until: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let read = ''
    socket.on('error', reject)
    socket.on('close', () => resolve(read))
    socket.on('data', chunk => {
      read += chunk.toString('latin1')
      if (read.includes(until)) socket.destroy()
    })
    socket.write(text)
  })
}

t.test('a request that asks for h2c beside is served as HTTP/1.1', async t => {
  const { url, resource } = await startResource(t)
  const plain = await runProxy(t, configFor([{ url }], { rest: NO_PROBES }))
  const answer = await converse(net.connect(plain.port, '127.0.0.1'), upgradeToH2c(), '"chat.completion"')
  t.match(answer, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(answer, '"chat.completion"')
  const headers = resource.requests.at(-1)?.headers
  t.strictSame([headers?.upgrade, headers?.['http2-settings']], [undefined, undefined])

  const secure = await withTls(t, [{ url }])
  const socket = tls.connect({ port: secure.running.port, host: '127.0.0.1', rejectUnauthorized: false })
  t.match(await converse(socket, upgradeToH2c(), '"chat.completion"'), /^HTTP\/1\.1 200 OK\r\n/)
})
