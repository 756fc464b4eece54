// Refusals in the words of other servers and of what stands in front of them: ingresses, gateways, frameworks. What
// another backend can serve goes on to it, what the request has caused is the client's.
import t, { type Test } from 'tap'
import { CHAT, NO_PROBES } from '../fixtures/backends-and-proxy.ts'
import { type RawBackend, startRawBackend } from '../fixtures/raw-backend.ts'
import { connect } from '../fixtures/raw-client.ts'
import { CLIENT_KEY, configFor, type RunningProxy, runProxy } from '../fixtures/run-proxy.ts'

const SOUND = '{"object":"chat.completion","choices":[]}'
const error = (fields: Readonly<Record<string, unknown>>): string => JSON.stringify({ error: fields })

interface Row {
  readonly what: string
  readonly status: number
  readonly body: string
  readonly headers?: readonly string[]
}

function respond({ what, status, body, headers = [] }: Row): string {
  const type = body.startsWith('<') ? 'text/html' : 'application/json'
  const lines = [`HTTP/1.1 ${status} ${what}`, `content-type: ${type}`, ...headers, `content-length: ${body.length}`]
  return `${lines.join('\r\n')}\r\n\r\n${body}`
}

/** Answers each request with the same bytes. */
async function always(backend: RawBackend, bytes: string): Promise<void> {
  for (;;) (await backend.next()).send(bytes)
}

interface Met {
  readonly status: number
  readonly attempts: string | null
  readonly text: string
  readonly running: RunningProxy
  /** The line about the first backend; undefined: nobody was blamed. */
  readonly line: string | undefined
}

/** A chat request that the first of two backends refuses so, while the second is sound. */
async function meet(t: Test, row: Row): Promise<Met> {
  const first = await startRawBackend(t)
  const second = await startRawBackend(t)
  void always(first, respond(row))
  void always(second, respond({ what: 'OK', status: 200, body: SOUND }))
  const text = configFor([{ url: first.url }, { url: second.url, more: 'priority: 2' }], { rest: NO_PROBES })
  const running = await runProxy(t, text)
  const response = await running.post(CHAT, { model: 'gpt-4o', messages: [] })
  const line = running.lines.find(({ msg }) => /^backend |^operation /.test(String(msg)))
  return {
    status: response.status,
    attempts: response.headers.get('x-proxy-attempts'),
    text: await response.text(),
    running,
    line: line && String(line.reason ?? line.msg),
  }
}

const ROUTES: readonly Row[] = [
  { what: 'Kong', status: 404, body: '{"message":"no Route matched with those values"}' },
  { what: 'Spring', status: 404, body: '{"timestamp":"x","status":404,"error":"Not Found","path":"/x"}' },
  { what: 'RFC 9457', status: 404, body: '{"type":"https://example/not-found","title":"Not Found","status":404}' },
  { what: 'FastAPI', status: 404, body: '{"detail":"Not Found"}' },
  { what: 'JSON text', status: 404, body: '"Not Found"' },
  { what: 'error in a word', status: 404, body: '{"error":"Not Found"}' },
  { what: 'LiteLLM', status: 404, body: error({ message: 'Not Found', type: 'None', param: 'None', code: '404' }) },
  { what: 'OpenAI', status: 404, body: error({ message: 'Invalid URL (POST /v1/x)', type: 'invalid_request_error' }) },
  { what: 'Resource Manager', status: 404, body: error({ code: 'ResourceNotFound', message: "'x' is no account." }) },
  { what: 'an empty page', status: 404, body: '' },
  { what: 'a page', status: 410, body: '<html>gone</html>' },
  { what: 'gone', status: 410, body: '{"message":"Gone"}' },
]

for (const row of ROUTES) {
  t.test(
    `a ${row.status} that names no object (${row.what}) goes on to the next backend, and is a mark alone`,
    async t => {
      const { status, attempts, line } = await meet(t, row)
      t.same({ status, attempts, line }, { status: 200, attempts: '2', line: undefined })
    },
  )
}

const CONFIG: readonly (Row & { readonly reason: string })[] = [
  { what: 'old vLLM', status: 404, body: '{"object":"error","message":"The model `x` does not exist.","code":404}' },
  { what: 'vLLM', status: 404, body: error({ message: 'The model `x` does not exist.', type: 'NotFoundError' }) },
  { what: 'Ollama', status: 404, body: error({ message: 'model "x" not found, try pulling it first' }) },
  { what: 'Ollama in a word', status: 404, body: `{"error":"model 'x' not found"}` },
  {
    what: 'LiteLLM',
    status: 400,
    body: error({ message: '/chat/completions: Invalid model name passed in model=x.' }),
  },
  { what: 'capitals', status: 404, body: error({ message: 'x', code: 'MODEL_NOT_FOUND' }) },
  { what: 'small letters', status: 404, body: error({ message: 'x', code: 'deploymentnotfound' }) },
].map(row => ({ ...row, reason: 'deployment_missing' }))

for (const row of [
  ...CONFIG,
  ...['operationnotsupported', 'operationNotSupported', 'operation_not_supported'].map(code => ({
    what: code,
    status: 400,
    body: error({ code, message: 'x' }),
    reason: 'operation_not_supported',
  })),
]) {
  t.test(`a deployment that is not there or of another kind (${row.what}) is out, and says so`, async t => {
    const { status, attempts, line } = await meet(t, row)
    t.same({ status, attempts, line }, { status: 200, attempts: '2', line: row.reason })
  })
}

const OWN: readonly Row[] = [
  { what: 'a file', status: 404, body: error({ message: 'No such File object: file-1', param: 'id' }) },
  { what: 'a vector store', status: 404, body: error({ message: 'Vector store with id [vs_1] not found.' }) },
  { what: 'a container', status: 404, body: error({ message: 'Container with id cntr_1 not found' }) },
  { what: 'a file in few words', status: 404, body: error({ message: 'Not found: file-abc', code: 'not_found' }) },
  { what: 'a file, FastAPI', status: 404, body: '{"detail":"File file-abc123 not found"}' },
  { what: 'a model elsewhere', status: 404, body: error({ code: 'model_not_found', param: 'tools[0].model' }) },
]

for (const row of OWN) {
  t.test(`a 404 that names what the request has named (${row.what}) is the client's`, async t => {
    const { status, attempts, text, line } = await meet(t, row)
    t.same({ status, attempts, text, line }, { status: 404, attempts: '1', text: row.body, line: undefined })
  })
}

t.test('a 400 that repeats its request in a header is the client’s, and blames nobody', async t => {
  const first = await startRawBackend(t)
  const echo = 'x'.repeat(40_000)
  void always(first, respond({ what: 'Echo', status: 400, body: '{}', headers: [`x-echo: ${echo}`] }))
  const running = await runProxy(t, configFor([{ url: first.url }], { rest: NO_PROBES }))
  const client = connect(running)
  const lines = ['host: x', `authorization: Bearer ${CLIENT_KEY}`, 'content-length: 18']
  client.send([`POST ${CHAT} HTTP/1.1`, ...lines], '{"model":"gpt-4o"}')
  const read = await client.until('\r\n\r\n{}')
  t.match(read, /^HTTP\/1\.1 400 /)
  t.ok(read.includes(echo))
  t.equal(first.requests.length, 1)
  t.same(
    running.lines.filter(({ msg }) => /ejected/.test(String(msg))),
    [],
  )
})

const THROTTLES: readonly Row[] = [
  { what: 'a code', body: error({ code: 'QuotaExceeded', message: 'Limit reached.' }) },
  { what: 'a type', body: error({ type: 'insufficient_quota', message: 'Look at your plan.' }) },
  { what: 'a rate', body: '{"statusCode":403,"message":"Rate limit is exceeded. Try again in 30 seconds."}' },
  { what: 'tokens', body: '{"statusCode":403,"message":"Token limit is exceeded. Try again in 86400 seconds."}' },
  { what: 'bandwidth', body: '{"statusCode":403,"message":"Out of bandwidth quota."}' },
  { what: 'a page with a wait', body: '<html>', headers: ['retry-after: 40'] },
  { what: 'a page with a date', body: '<html>', headers: [`Retry-After: ${new Date(2 ** 42).toUTCString()}`] },
].map(row => ({ ...row, status: 403 }))

for (const row of THROTTLES) {
  t.test(`a 403 of a quota (${row.what}) throttles`, async t => {
    const { status, attempts, line } = await meet(t, row)
    t.same({ status, attempts, line }, { status: 200, attempts: '2', line: 'backend throttled' })
  })
}
