// One cure for each kind of trouble: log, status page, alerts (by a metric's label) and --probe have the same sentence,
// and Azure's own words. No key and nothing of a client's prompt stands in any of them. covers: lib/balancer/advice.ts,
// lib/azure/error-text.ts
import http from 'node:http'
import t, { type Test } from 'tap'
import { ADVICE, type AdviceCode } from '../../lib/balancer/advice.ts'
import { systemClock } from '../../lib/clock.ts'
import { inspectBackends } from '../../lib/commands/inspect.ts'
import { createTransport } from '../../lib/http1/send.ts'
import { refuseWith } from '../../lib/simulator/faults.ts'
import { startForwardProxy } from '../fixtures/forward-proxy.ts'
import { CLIENT_KEY, configFor, readConfig, runProxy } from '../fixtures/run-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

const ADMIN = { authorization: 'Bearer admin-key-1' }
const PROMPT = 'the merger with Fabrikam is announced on Monday'

type Row = Readonly<Record<string, unknown>>

async function rowsOf(url: string): Promise<readonly Row[]> {
  const controller = new AbortController()
  const response = await fetch(`${url}/dashboard/events`, { headers: ADMIN, signal: controller.signal })
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += Buffer.from(chunk).toString('utf8')
    if (text.includes('\n\n')) break
  }
  controller.abort()
  const snapshot: { readonly backends?: readonly Row[] } = JSON.parse(
    /^event: snapshot\ndata: (.*)$/m.exec(text)?.[1] ?? '{}',
  )
  return snapshot.backends ?? []
}

/** A server that answers everything alike; `{prompt}` in its body is what it was sent. */
async function answeringAlike(t: Test, status: number, type: string, body: string): Promise<string> {
  const server = http.createServer((request, response) => {
    let sent = ''
    request.setEncoding('utf8').on('data', (text: string) => {
      sent += text
    })
    request.on('end', () => {
      const prompt = /"content":"([^"]*)"/.exec(sent)?.[1] ?? ''
      response
        .writeHead(status, { 'content-type': type })
        .end(body.replace('{prompt}', prompt).replace('{key}', String(request.headers['api-key'])))
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return `http://127.0.0.1:${address.port}`
}

interface Trouble {
  readonly name: string
  readonly code: AdviceCode
  /** Of the line's and the row's reason, where that is not the code. */
  readonly reason: string
  readonly said: RegExp
  /** The faulty backend: its URL, and more of its options. */
  readonly make: (t: Test) => Promise<{ readonly url: string; readonly more?: string; readonly rest?: string }>
}

const error = (status: number, code: string, message: string) => async (t: Test) => ({
  url: await answeringAlike(t, status, 'application/json', JSON.stringify({ error: { code, message } })),
})

const simulated = (more: string, fault?: 'network_rule' | 'wrong_key') => async (t: Test) => {
  const { url, resource } = await startResource(t, { keys: ['faulty-azure-key-1'] })
  if (fault !== undefined) resource.always(refuseWith(fault))
  return { url, more }
}

const TROUBLES: readonly Trouble[] = [
  {
    name: 'the resource’s firewall',
    code: 'network_refused',
    reason: 'network_refused',
    said: /^403: Access denied due to Virtual Network\/Firewall rules\.$/,
    make: simulated('', 'network_rule'),
  },
  {
    name: 'a wrong key',
    code: 'credentials_refused',
    reason: 'credentials_refused',
    said: /^401: Access denied due to invalid subscription key/,
    make: simulated('', 'wrong_key'),
  },
  {
    name: 'a key that the answer repeats',
    code: 'credentials_refused',
    reason: 'credentials_refused',
    said: /^401 invalid_api_key: Incorrect API key provided: …\.?$/,
    make: error(401, 'invalid_api_key', 'Incorrect API key provided: {key}.'),
  },
  {
    name: 'a missing deployment',
    code: 'deployment_missing',
    reason: 'deployment_missing',
    said: /^404 DeploymentNotFound: The API deployment for this resource does not exist\./,
    make: simulated('deployment: gpt-4o-prod'),
  },
  {
    name: 'a web page',
    code: 'not_an_api',
    reason: 'not_an_api',
    said: /^200 HTML$/,
    make: async t => ({ url: await answeringAlike(t, 200, 'text/html', '<html>Please sign in</html>') }),
  },
  {
    name: 'an error of the server that repeats the prompt',
    code: 'server_error',
    reason: 'server_error',
    said: /^500 oops: cannot serve/,
    make: error(500, 'oops', 'cannot serve: {prompt}'),
  },
  {
    name: 'a name that nobody knows',
    code: 'name_unknown',
    reason: 'connect_failed',
    said: /ENOTFOUND/,
    make: async () => ({ url: 'http://nowhere.invalid' }),
  },
  {
    name: 'a dead egress proxy',
    code: 'egress_refused',
    reason: 'egress_refused',
    said: /407/,
    make: async t => {
      const out = await startForwardProxy(t)
      out.be({ kind: 'refuse', status: 407 })
      return { url: 'https://contoso.test', more: `proxy: "${out.url}"` }
    },
  },
]

for (const { name, code, reason, said, make } of TROUBLES) {
  t.test(`log, page, metrics and --probe say the same of ${name}`, async t => {
    const { url, more = '' } = await make(t)
    const sound = await startResource(t)
    const text = configFor([
      { url, name: 'faulty', key: 'faulty-azure-key-1', more },
      { url: sound.url, name: 'sound' },
    ]).replace(
      /auth: .*/,
      `auth: {keys: [{name: tester, key: ${CLIENT_KEY}}, {name: ops, key: admin-key-1, admin: true}]}`,
    )
    const proxy = await runProxy(t, text)
    for (let i = 0; i < 2; i++) {
      const body = { model: 'gpt-4o', messages: [{ role: 'user', content: PROMPT }] }
      await (await proxy.post('/v1/chat/completions', body)).arrayBuffer()
    }
    const row = (await rowsOf(proxy.url)).find(({ backend }) => backend === 'faulty')
    t.match(row, { state: 'ejected', reason, detail: said, advice: code, todo: ADVICE[code] }, 'page')
    const metrics = await (await fetch(`${proxy.url}/metrics`)).text()
    t.match(metrics, `proxy_backend_out{model="gpt-4o",backend="faulty",reason="${reason}",todo="${ADVICE[code]}"} 1`)
    const lines = proxy.lines.filter(({ msg }) => /ejected|egress proxy fails/.test(String(msg)))
    if (reason === 'egress_refused') t.match(lines[0], { msg: 'egress proxy fails', todo: ADVICE[code] }, 'log')
    else t.match(lines[0], { backend: 'faulty', reason, detail: said, todo: ADVICE[code] }, 'log')
    const clock = systemClock()
    const transport = createTransport(clock)
    t.teardown(() => transport.close())
    const tokenAuthorizer = () => ({ authorize: () => ({ kind: 'none' }) as const })
    const [found] = await inspectBackends(readConfig(text), { clock, transport, tokenAuthorizer })
    t.match(found, { backend: 'faulty', reason, todo: ADVICE[code] }, '--probe')
    const everything = JSON.stringify([proxy.lines, row, metrics, found])
    t.notMatch(everything, /faulty-azure-key-1|Fabrikam|merger/, 'no key, nothing of the prompt')
  })
}

for (const [name, code, more, path] of [
  ['a wrong api_version', 'wrong_version', 'api_version: 2031-02-01', ''],
  ['a wrong path', 'wrong_path', '', '/team'],
] as const) {
  t.test(`log, page, metrics and --probe say the same of ${name}`, async t => {
    const { url } = await startResource(t)
    const sound = await startResource(t)
    const text = configFor([
      { url: `${url}${path}`, name: 'faulty', more },
      { url: sound.url, name: 'sound' },
    ]).replace(
      /auth: .*/,
      `auth: {keys: [{name: tester, key: ${CLIENT_KEY}}, {name: ops, key: admin-key-1, admin: true}]}`,
    )
    const proxy = await runProxy(t, text)
    for (let i = 0; i < 2; i++) await (await proxy.chat()).arrayBuffer()
    const row = (await rowsOf(proxy.url)).find(({ backend }) => backend === 'faulty')
    t.match(row, { lack_advice: code, lack_todo: ADVICE[code] }, 'page')
    const metrics = await (await fetch(`${proxy.url}/metrics`)).text()
    t.match(
      metrics,
      `proxy_operation_avoided{model="gpt-4o",backend="faulty",operation="chat/completions",reason="${code}",todo="${ADVICE[code]}"} 1`,
    )
    const line = proxy.lines.find(({ msg }) => /^operation avoided/.test(String(msg)))
    t.match(line, { backend: 'faulty', reason: code, todo: ADVICE[code] }, 'log')
    const clock = systemClock()
    const transport = createTransport(clock)
    t.teardown(() => transport.close())
    const tokenAuthorizer = () => ({ authorize: () => ({ kind: 'none' }) as const })
    const [found] = await inspectBackends(readConfig(text), { clock, transport, tokenAuthorizer })
    t.match(found, { backend: 'faulty', reason: code, todo: ADVICE[code] }, '--probe')
  })
}
