// `--probe`, as a function over sockets: what it says of each kind of trouble, and that it goes the way of requests.
// covers: lib/commands/inspect.ts, lib/http1/look.ts
import http from 'node:http'
import t, { type Test } from 'tap'
import { ADVICE } from '../../lib/balancer/advice.ts'
import { systemClock } from '../../lib/clock.ts'
import { type Inspection, inspectBackends } from '../../lib/commands/inspect.ts'
import { createTransport } from '../../lib/http1/send.ts'
import { refuseWith } from '../../lib/simulator/faults.ts'
import { makeCertificate } from '../fixtures/certificate.ts'
import { startForwardProxy } from '../fixtures/forward-proxy.ts'
import { startRawBackend } from '../fixtures/raw-backend.ts'
import { type BackendText, configFor, readConfig } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

async function inspect(
  t: Test,
  backends: readonly BackendText[],
  rest = '',
  readFile?: (path: string) => string,
): Promise<readonly Inspection[]> {
  const clock = systemClock()
  const transport = createTransport(clock)
  t.teardown(() => transport.close())
  const config = readConfig(configFor(backends, { rest }), readFile)
  const tokenAuthorizer = () => ({ authorize: () => ({ kind: 'none' }) as const })
  return inspectBackends(config, { clock, transport, tokenAuthorizer })
}

/** A server that answers everything alike. */
async function answeringAlike(t: Test, status: number, headers: Record<string, string>, body: string): Promise<string> {
  const server = http.createServer((_request, response) => response.writeHead(status, headers).end(body))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return `http://127.0.0.1:${address.port}`
}

t.test('only a JSON list and a JSON refusal make a backend well', async t => {
  const html = { 'content-type': 'text/html' }
  const json = { 'content-type': 'application/json' }
  const { url } = await startResource(t)
  const cases: readonly (readonly [string, string | undefined, RegExp | undefined])[] = [
    [url, undefined, undefined],
    [await answeringAlike(t, 200, html, '<html>blocked</html>'), 'not_an_api', /a web page answers|web page/],
    [await answeringAlike(t, 302, { location: 'https://login.corp/' }, ''), 'not_an_api', /it redirects/],
    [await answeringAlike(t, 200, json, '{"status":"ok"}'), 'not_an_api', /no JSON list/],
    [await answeringAlike(t, 200, json, '[1]'), undefined, undefined],
    [
      await answeringAlike(t, 404, json, '{"error":{"code":"404","message":"Resource not found"}}'),
      'wrong_path',
      /neither the model list nor chat\/completions is served at http:\/\/127/,
    ],
    [await answeringAlike(t, 500, json, '{}'), 'server_error', /it answers 500/],
  ]
  const found = await inspect(
    t,
    cases.map(([url]) => ({ url })),
  )
  for (const [i, [, reason, problem]] of cases.entries()) {
    if (reason !== undefined) t.equal(found[i]?.reason, reason, `${i}`)
    if (problem === undefined) t.equal(found[i]?.problem, null, `${i}`)
    else t.match(found[i]?.problem, problem, `${i}`)
  }
  t.equal(found[6]?.key_accepted, null, 'a 500 says nothing of the key')
})

t.test('network rules are told from a wrong key', async t => {
  const { url, resource } = await startResource(t)
  const other = await startResource(t)
  resource.always(refuseWith('network_rule'))
  other.resource.always(refuseWith('wrong_key'))
  const [rules, key] = await inspect(t, [{ url }, { url: other.url }])
  t.match(rules, { reason: 'network_refused', key_accepted: null })
  t.match(rules, {
    problem: "the resource's network rules refuse this machine's address",
    detail: '403: Access denied due to Virtual Network/Firewall rules.',
    todo: ADVICE.network_refused,
  })
  t.match(key, { reason: 'credentials_refused', key_accepted: false, todo: ADVICE.credentials_refused })
  t.match(key?.detail, /^401: Access denied due to invalid subscription key or wrong API endpoint\./)
})

t.test('it goes through the proxy, which resolves, and names what the proxy refuses', async t => {
  const { port } = await startResource(t)
  const out = await startForwardProxy(t, { names: { 'one.test:80': port } })
  const rest = `egress: {proxy: "${out.url}"}`
  const [well] = await inspect(t, [{ url: 'http://one.test' }], rest)
  t.match(well, { proxy: out.url, problem: null, key_accepted: true, deployment_found: true })
  out.be({ kind: 'refuse', status: 407 })
  const [refused] = await inspect(t, [{ url: 'https://two.test' }], rest)
  t.match(refused, { reason: 'egress_refused' })
  t.match(refused?.problem, /wants a user name and password \(407\)/)
})

t.test('certificates: days left, and words for what is wrong', async t => {
  const certificate = makeCertificate('backend', { until: '301231235959Z' })
  const backend = await startRawBackend(t, { certificate })
  const answer = async (): Promise<void> => {
    for (;;)
      (await backend.next()).send(
        'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"data":[]}',
      )
  }
  answer()
  const [strange] = await inspect(t, [{ url: backend.url }])
  t.match(strange, {
    problem: /CA that this machine does not know/,
    detail: 'DEPTH_ZERO_SELF_SIGNED_CERT',
    todo: ADVICE.ca_unknown,
  })
  const [known] = await inspect(t, [{ url: backend.url }], 'egress: {ca: /ca.pem}', () => certificate.cert)
  t.equal(known?.problem, null)
  t.ok((known?.tls_days_left ?? 0) > 30)
})

t.test('a wrong version, a wrong path, a wrong deployment and a wrong kind are told apart', async t => {
  const { url } = await startResource(t)
  const chat = await startResource(t, {
    deployments: [
      { name: 'gpt-4o', kind: 'chat' },
      { name: 'prod', kind: 'embeddings' },
    ],
  })
  const found = await inspect(t, [
    { url, name: 'version', more: 'api_version: 2031-02-01' },
    { url: `${url}/team`, name: 'path' },
    { url: `${url}/team`, name: 'dated-path', more: 'api_version: 2024-10-21' },
    { url, name: 'type', more: 'type: openai' },
    { url, name: 'deployment', more: 'deployment: gpt-4o-prod' },
    { url, name: 'embedding', more: 'deployment: embed' },
    { url: chat.url, name: 'kind', more: 'deployment: prod' },
    { url: 'http://nowhere.invalid', name: 'name' },
  ])
  const said = Object.fromEntries(found.map(each => [each.backend, each]))
  t.match(said.version, { reason: 'wrong_version', todo: ADVICE.wrong_version, api_version_accepted: false })
  t.match(said.path, { reason: 'wrong_path', todo: ADVICE.wrong_path, problem: /is served at http:.*\/team$/ })
  t.match(said['dated-path'], { reason: 'wrong_path' })
  t.match(said.type, { reason: 'wrong_path' })
  t.match(said.deployment, { reason: 'deployment_missing', deployment_found: false, todo: ADVICE.deployment_missing })
  t.match(said.deployment?.problem, 'there is no deployment "gpt-4o-prod"')
  t.equal(said.embedding?.problem, null, 'a deployment that is no chat model by its name refuses chat rightly')
  t.match(said.kind, { reason: 'operation_not_supported', todo: ADVICE.operation_not_supported })
  t.match(said.name, { reason: 'connect_failed', detail: 'ENOTFOUND', todo: ADVICE.name_unknown })
})
