// Traces: what a collector gets, what goes upstream, and that a collector that is gone costs nothing.
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { fail } from '../../lib/simulator/faults.ts'
import { configFor, runProxy } from '../fixtures/run-proxy.ts'
import { until } from '../fixtures/spawn-proxy.ts'
import { startResource } from '../fixtures/start-simulator.ts'

interface Span {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  readonly kind: number
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: readonly { readonly key: string; readonly value: Readonly<Record<string, unknown>> }[]
  readonly status: { readonly code?: number }
}

async function startCollector(t: Test): Promise<{ url: string; spans: Span[]; headers: http.IncomingHttpHeaders[] }> {
  const spans: Span[] = []
  const headers: http.IncomingHttpHeaders[] = []
  const server = http.createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += String(chunk)
    headers.push({ ...request.headers, path: request.url ?? '' })
    const body: { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] } = JSON.parse(text)
    spans.push(...body.resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap(scope => scope.spans)))
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans, headers }
}

function attributes({ attributes: list }: Span): Readonly<Record<string, unknown>> {
  return Object.fromEntries(list.map(({ key, value }) => [key, Object.values(value)[0]]))
}

const CALLER = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

t.test(
  'a request is a span under its caller, each attempt one below it, and upstream gets the attempt as its parent',
  async t => {
    const collector = await startCollector(t)
    const [first, second] = [await startResource(t), await startResource(t)]
    first.resource.next(fail(503))
    const rest = `tracing: {otlp: "${collector.url}", headers: {x-otlp-key: otlp-secret}}\nhealth_check: {enabled: false}`
    const proxy = await runProxy(t, configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest }))
    await (await proxy.chat({ headers: { traceparent: CALLER } })).text()
    await until(() => collector.spans.length === 3)

    const root = collector.spans.find(({ kind }) => kind === 2)
    t.match(root, {
      traceId: '0af7651916cd43dd8448eb211c80319c',
      parentSpanId: 'b7ad6b7169203331',
      name: 'chat gpt-4o',
    })
    if (root === undefined) return
    t.match(attributes(root), {
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': 'azure.ai.openai',
      'gen_ai.request.model': 'gpt-4o',
      'http.response.status_code': '200',
      'proxy.attempts': '2',
    })
    t.match(attributes(root)['gen_ai.usage.input_tokens'], /^\d+$/)
    const attempts = collector.spans.filter(({ kind }) => kind === 3)
    t.same(
      attempts.map(span => [
        span.parentSpanId,
        span.traceId,
        attributes(span)['proxy.backend'],
        attributes(span)['proxy.outcome'],
      ]),
      [
        [root.spanId, root.traceId, 'b1', 'failed'],
        [root.spanId, root.traceId, 'b2', 'served'],
      ],
    )
    t.equal(attempts[0]?.status.code, 2)
    for (const span of collector.spans) t.ok(BigInt(span.endTimeUnixNano) >= BigInt(span.startTimeUnixNano))
    const sent = [first, second].map(({ resource }) => resource.requests.at(-1)?.headers.traceparent)
    t.same(
      sent,
      attempts.map(({ traceId, spanId }) => `00-${traceId}-${spanId}-01`),
    )
    t.match(collector.headers[0], {
      path: '/v1/traces',
      'x-otlp-key': 'otlp-secret',
      'content-type': 'application/json',
    })
  },
)

t.test('the caller’s sampled flag holds, and sample is for roots', async t => {
  const collector = await startCollector(t)
  const { url, resource } = await startResource(t)
  const none = await runProxy(t, configFor([{ url }], { rest: `tracing: {otlp: "${collector.url}", sample: 0%}` }))
  await (await none.chat()).text()
  const unsampled = CALLER.replace(/1$/, '0')
  await (await none.chat({ headers: { traceparent: unsampled } })).text()
  t.equal(resource.requests.at(-1)?.headers.traceparent, unsampled, 'passes as it is')
  await (await none.chat({ headers: { traceparent: CALLER } })).text()
  await until(() => collector.spans.length >= 2)
  t.same([...new Set(collector.spans.map(({ traceId }) => traceId))], ['0af7651916cd43dd8448eb211c80319c'])
})

t.test('a collector that is gone costs no request anything, and is said once', async t => {
  const { url } = await startResource(t)
  const proxy = await runProxy(t, configFor([{ url }], { rest: 'tracing: {otlp: "http://127.0.0.1:9"}' }))
  const said = proxy.line('traces cannot be exported: ECONNREFUSED')
  for (let i = 0; i < 5; i++) {
    const answer = await proxy.chat()
    t.equal(answer.status, 200)
    await answer.text()
  }
  t.match(await said, { level: 'warn' })
  t.equal(proxy.lines.filter(({ msg }) => String(msg).startsWith('traces')).length, 1)
})
