// Ends of certificates: the listener's, those that the config names and those that backends show. They stand in
// metrics, on the status page and once a day in the log. covers: lib/server/certificates.ts
import t, { type Test } from 'tap'
import { configCertificates, createCertificates } from '../../lib/server/certificates.ts'
import { makeCertificate } from '../fixtures/certificate.ts'
import { createHandClock } from '../fixtures/hand-clock.ts'
import { startRawBackend } from '../fixtures/raw-backend.ts'
import { CLIENT_KEY, configFor, readConfig, runProxy } from '../fixtures/run-proxy.ts'

const DAY_MS = 86_400_000

/** `YYMMDDHHMMSSZ`, as ASN.1 writes a time. */
function asnTime(epochMs: number): string {
  return `${new Date(epochMs).toISOString().slice(2, 19).replaceAll(/[-T:]/g, '')}Z`
}

/** A certificate that ends so many days from now. */
function endingIn(days: number): ReturnType<typeof makeCertificate> {
  return makeCertificate('backend', { until: asnTime(Date.now() + days * DAY_MS) })
}

async function metricsOf(url: string): Promise<ReadonlyMap<string, number>> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const found = [...text.matchAll(/^proxy_certificate_expiry_timestamp_seconds\{cert="([^"]+)"\} (\d+)$/gm)]
  return new Map(found.map(([, cert = '', endsS]) => [cert, Number(endsS)]))
}

async function certificatesOnPage(url: string): Promise<unknown> {
  const controller = new AbortController()
  const headers = { authorization: 'Bearer admin-key-1' }
  const response = await fetch(`${url}/dashboard/events`, { headers, signal: controller.signal })
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += Buffer.from(chunk).toString('utf8')
    if (text.includes('\n\n')) break
  }
  controller.abort()
  return JSON.parse(/^event: snapshot\ndata: (.*)$/m.exec(text)?.[1] ?? '{}').proxy?.certificates
}

/** A backend over TLS that answers every request with an empty list. */
async function startTlsBackend(t: Test, days: number) {
  const certificate = endingIn(days)
  const backend = await startRawBackend(t, { certificate })
  const answer = async (): Promise<void> => {
    for (;;)
      (await backend.next()).send(
        'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"data":[]}',
      )
  }
  answer()
  return { backend, certificate }
}

t.test(
  'all that the config names and what a backend shows have a series; what ends soon is on the page and in the log',
  async t => {
    const { backend, certificate } = await startTlsBackend(t, 5)
    const client = endingIn(3)
    const other = endingIn(100)
    const files: Readonly<Record<string, string>> = {
      '/ca.pem': certificate.cert,
      '/own.pem': other.cert,
      '/c.pem': client.cert,
      '/c.key': client.key,
    }
    const text = configFor(
      [
        { url: backend.url, name: 'sweden' },
        { url: 'https://nowhere.invalid', name: 'east', more: 'tls: {ca: /own.pem, cert: /c.pem, key: /c.key}' },
      ],
      { rest: 'egress: {ca: /ca.pem}\nhealth_check: {interval: 1h, timeout: 5s}' },
    ).replace(
      /auth: .*/,
      `auth: {keys: [{name: tester, key: ${CLIENT_KEY}}, {name: ops, key: admin-key-1, admin: true}]}`,
    )
    const proxy = await runProxy(t, text, { readFile: path => files[path] ?? '' })
    await proxy.proxy.probe()
    const ends = await metricsOf(proxy.url)
    const host = new URL(backend.url).host
    t.same([...ends.keys()].sort(), [host, 'east tls.ca', 'east tls.cert', 'egress.ca'].sort())
    const inDays = (cert: string): number => Math.round((Number(ends.get(cert)) * 1_000 - Date.now()) / DAY_MS)
    t.equal(inDays(host), 5)
    t.equal(inDays('egress.ca'), 5)
    t.equal(inDays('east tls.cert'), 3)
    t.equal(inDays('east tls.ca'), 100)
    t.match(await certificatesOnPage(proxy.url), [
      { cert: 'east tls.cert', kind: 'file' },
      { cert: String, kind: String },
      { cert: String, kind: String },
    ])
    const said = proxy.lines.filter(({ msg }) => msg === 'certificate ends soon')
    t.match(
      said.find(({ cert }) => cert === 'east tls.cert'),
      { level: 'warn', ends: /^20/, left: /days|hours/, todo: /reload/ },
    )
    t.notOk(said.some(({ cert }) => cert === 'east tls.ca'))
  },
)

t.test(
  'the log speaks of one that ends soon at the start and once a day, and of one that has ended as an error',
  async t => {
    const clock = createHandClock()
    const lines: { readonly level: string; readonly msg: string; readonly cert: unknown }[] = []
    const note =
      (level: string) =>
      (msg: string, fields: Readonly<Record<string, unknown>> = {}) =>
        void lines.push({ level, msg, cert: fields.cert })
    const log = {
      debug: note('debug'),
      info: note('info'),
      warn: note('warn'),
      error: note('error'),
      joined: () => undefined,
    }
    const config = readConfig(configFor([{ url: 'http://127.0.0.1:1' }]))
    const listenerEndsMs = clock.epochMs() + 1.5 * DAY_MS
    const certificates = createCertificates({ clock, log, config: () => config, listenerEndsMs: () => listenerEndsMs })
    certificates.start()
    t.same(lines, [{ level: 'warn', msg: 'certificate ends soon', cert: 'listener' }])
    clock.advance(DAY_MS - 1)
    t.equal(lines.length, 1)
    clock.advance(1)
    t.equal(lines.length, 2)
    clock.advance(DAY_MS)
    t.same(lines[2], { level: 'error', msg: 'certificate has ended', cert: 'listener' })
    certificates.stop()
    clock.advance(2 * DAY_MS)
    t.equal(lines.length, 3)
    t.equal(clock.timers(), 0)
  },
)

t.test('a bundle of public CAs, of which some always end, has no series; of a few the first to end counts', async t => {
  const [soon, late] = [endingIn(2), endingIn(50)]
  const few = readConfig(
    configFor([{ url: 'https://a.invalid' }], { rest: 'egress: {ca: /ca.pem}' }),
    () => late.cert + soon.cert,
  )
  t.equal(Math.round((Number(configCertificates(few).get('egress.ca')) - Date.now()) / DAY_MS), 2)
  const many = readConfig(configFor([{ url: 'https://a.invalid' }], { rest: 'egress: {ca: /ca.pem}' }), () =>
    late.cert.repeat(9),
  )
  t.same([...configCertificates(many)], [])
})
