// From a request line to what is asked for: the proxy's own URLs and every form that clients made for Azure use.
import t from 'tap'
import { v1Operation } from '../../lib/azure/operations.ts'
import { redactedPath } from '../../lib/server/redacted-path.ts'
import { type Route, route } from '../../lib/server/router.ts'

/** An inference route as `operation model query`. */
function inference(target: string, method = 'POST'): string {
  const found = route(method, target)
  return found.kind === 'inference' ? `${found.operation.name} ${found.model ?? '-'} ${found.query}`.trim() : found.kind
}

t.test('an operation is found under every prefix that clients use', t => {
  for (const target of [
    '/v1/chat/completions',
    '/openai/v1/chat/completions',
    '/openai/chat/completions?api-version=2024-10-21',
    '//openai/chat/completions',
    '/v1/chat/completions/',
    'http://proxy.example.com/v1/chat/completions',
    '/v1/chat/completions#x',
  ]) {
    t.equal(inference(target), 'chat/completions -', target)
  }
  t.equal(inference('/openai/deployments/gpt-4o/chat/completions?api-version=x'), 'chat/completions gpt-4o')
  t.equal(inference('//openai/deployments/gpt-4o/images/edits/'), 'images/edits gpt-4o')
  t.equal(inference('/openai/deployments/org%2Fmy%20model/embeddings'), 'embeddings org/my model')
  t.end()
})

t.test("the client's api-version and credentials leave the query, in any spelling; the rest stays as it is", t => {
  t.equal(inference('/v1/responses?a=1&api-version=x&b=%20&include[]=y'), 'responses - a=1&b=%20&include[]=y')
  t.equal(inference('/v1/responses?API-Version=x&api%2Dkey=s&subscription-key=s&&a'), 'responses - a')
  t.equal(inference('/v1/responses?%zz=1'), 'responses -', 'a name that cannot be read goes nowhere')
  t.end()
})

t.test('stored responses and their parts are found, with the methods that they take', t => {
  const at = '/v1/responses/resp_1'
  t.match(route('GET', `${at}?stream=true`), {
    kind: 'stored_response',
    id: 'resp_1',
    action: '',
    query: 'stream=true',
  })
  t.match(route('DELETE', `/openai${at}`), { kind: 'stored_response', action: '' })
  t.match(route('POST', `${at}/cancel`), { kind: 'stored_response', action: 'cancel' })
  t.match(route('GET', `${at}/input_items`), { kind: 'stored_response', action: 'input_items' })
  t.match(route('PUT', at), { kind: 'method_not_allowed', allow: 'GET, DELETE' })
  t.match(route('GET', `${at}/cancel`), { kind: 'method_not_allowed', allow: 'POST' })
  t.end()
})

t.test('what is no id goes nowhere, and a broken escape is malformed', t => {
  const hostile = [
    '.',
    '..',
    '%2e',
    '%2E%2e',
    '.%2e',
    '..%2Ffiles',
    '..%5Cfiles',
    'resp_1%00',
    'resp%201',
    'ü',
    '%C3%BC',
    'a.b',
  ]
  for (const id of [...hostile, 'x'.repeat(257)]) {
    for (const tail of ['', '/cancel', '/input_items']) {
      t.equal(route('POST', `/v1/responses/${id}${tail}`).kind, 'no_object_id', `${id.slice(0, 20)}${tail}`)
    }
  }
  for (const path of ['responses/%', 'responses/%zz/cancel', 'responses/%ff', 'models/%f', 'models/%c3%28']) {
    t.equal(route('GET', `/v1/${path}`).kind, 'malformed', path)
  }
  t.equal(route('POST', '/openai/deployments/%zz/chat/completions').kind, 'malformed')
  t.match(route('GET', '/v1/responses/resp%5F1'), { kind: 'stored_response', id: 'resp_1' })
  t.end()
})

t.test('models are listed and named, with slashes in their names too', t => {
  t.same(route('GET', '/v1/models'), { kind: 'models' })
  t.same(route('GET', '/openai/models?api-version=x'), { kind: 'models' })
  t.same(route('GET', '/v1/models/org/name'), { kind: 'model', id: 'org/name' })
  t.same(route('POST', '/v1/models'), { kind: 'method_not_allowed', allow: 'GET, HEAD' })
  t.end()
})

t.test('a realtime session names its model in the query or in the path, and one name of it goes no further', t => {
  const queries: readonly (readonly [string, string | undefined, string])[] = [
    ['model=gpt-rt&x=1', 'gpt-rt', 'x=1'],
    ['api-version=x&deployment=gpt%20rt', 'gpt rt', ''],
    ['', undefined, ''],
    ['model=m&%6dodel=other', 'm', ''],
    ['%6Dodel=m&a=%6d', 'm', 'a=%6d'],
    ['%256dodel=m', 'm', ''],
    ['model[]=m&model[0]=n&model%5B%5D=o&include[]=x', 'm', 'include[]=x'],
    ['MODEL=m&Deployment=n&d%65ployment=o', 'm', ''],
    ['a=1;model=m;b=2&c', 'm', 'a=1;b=2&c'],
    ['mod+el=m&model%00x=n&%20model=o', 'm', ''],
    ['model=%zz', undefined, ''],
    ['model=m&%zz=1', 'm', ''],
    ['models=x&model_id=y', undefined, 'models=x&model_id=y'],
  ]
  for (const [query, model, rest] of queries) {
    t.same(route('GET', `/v1/realtime?${query}`), { kind: 'realtime', model, query: rest }, query)
  }
  t.end()
})

t.test("the proxy's own pages stand at the root alone, for GET and HEAD", t => {
  for (const kind of ['health', 'livez', 'metrics'] as const satisfies readonly Route['kind'][]) {
    t.same(route('GET', `/${kind}`), { kind })
    t.same(route('HEAD', `/${kind}?x`), { kind })
    t.same(route('POST', `/${kind}`), { kind: 'method_not_allowed', allow: 'GET, HEAD' })
    t.equal(route('GET', `/${kind}/x`).kind, 'unknown_url')
    t.match(route('GET', `/v1/${kind}`), { kind: 'unknown_url', near: `/${kind}` })
  }
  t.match(route('GET', '/dashboard/data'), { kind: 'dashboard', path: 'data' })
  t.end()
})

t.test('everything else is an unknown URL, and what belongs to one resource is told so', t => {
  for (const target of [
    '',
    '/',
    '*',
    '/v1',
    '/openai/deployments',
    '/openai/deployments/x',
    'ftp://x/v1/models',
    'example.com:443',
    '/wp-login.php',
    `/${'chat/completions/'.repeat(9)}`,
  ]) {
    t.same(route('POST', target), { kind: 'unknown_url', hint: undefined }, target)
  }
  for (const family of ['files', 'batches', 'assistants', 'vector_stores']) {
    const found = route('GET', `/v1/${family}/x?a=1&x-proxy-backend=b2`)
    t.same(found, { kind: 'resource_object', path: [family, 'x'], query: 'a=1', backend: 'b2' }, family)
  }
  t.match(route('GET', '/v1/chat/completions'), { kind: 'resource_object', path: ['chat', 'completions'] })
  t.match(route('GET', '/v1/chat/completions/chatcmpl-1/messages'), { kind: 'resource_object' })
  t.same(route('PUT', '/v1/embeddings'), { kind: 'method_not_allowed', allow: 'POST' })
  t.end()
})

t.test('conversations and their items have their own methods', t => {
  for (const [method, path, expected] of [
    ['POST', '', []],
    ['GET', '/conv_1', ['conv_1']],
    ['POST', '/conv_1/items', ['conv_1', 'items']],
    ['DELETE', '/conv_1/items/msg_1', ['conv_1', 'items', 'msg_1']],
  ] as const) {
    t.same(route(method, `/openai/v1/conversations${path}?b=c`), { kind: 'conversation', path: expected, query: 'b=c' })
  }
  t.same(route('GET', '/v1/conversations'), { kind: 'method_not_allowed', allow: 'POST' })
  t.same(route('POST', '/v1/conversations/c/items/i'), { kind: 'method_not_allowed', allow: 'GET, DELETE' })
  t.match(route('GET', '/v1/conversations/c/other'), { kind: 'unknown_url' })
  t.match(route('GET', '/v1/conversations/a%2Fb'), { kind: 'no_object_id' })
  t.end()
})

t.test('messages are found below both of their prefixes, added operations below v1', t => {
  for (const path of ['/anthropic/v1/messages?beta=true', '/v1/messages']) {
    t.match(route('POST', path), { kind: 'inference', operation: { name: 'messages', dialect: 'claude' } }, path)
  }
  t.match(route('POST', '/anthropic/v1/chat/completions'), { kind: 'unknown_url' })
  const extra = new Map([['team/thing', v1Operation('team/thing')]])
  t.match(route('POST', '/v1/team/thing', extra), { kind: 'inference', operation: { name: 'team/thing' } })
  t.match(route('GET', '/v1/team/thing', extra), { kind: 'method_not_allowed' })
  t.match(route('POST', '/v1/team/thing'), { kind: 'unknown_url' })
  t.end()
})

t.test('a mistaken URL is answered with the one that was meant', t => {
  const meant: Readonly<Record<string, readonly string[]>> = {
    '/v1/chat/completions': [
      '/chat/completions',
      '/chat/completions?api-version=1',
      '/v1/v1/chat/completions',
      '/v1/openai/chat/completions',
      '/openai/v1/v1/chat/completions',
      '/models/chat/completions',
      '/v2/chat/completions',
      '/V1/Chat/Completions',
      '/api/openai/v1/chat/completions',
      '/v1/chat/completion',
      '/v1/chat/completions/chat/completions',
      '/v1/chat%2Fcompletions',
      'http://proxy.example.com/chat/completions',
    ],
    '/v1/responses': ['/responses', '/v1/response', '/v1/v1/responses'],
    '/v1/responses/{id}': ['/responses/resp_1', '/v1/v1/responses/resp_1'],
    '/v1/embeddings': ['/embeddings', '/v1/embedding', '/models/embeddings'],
    '/v1/models': ['/models', '/v1/model', '/v1/chat/../models'],
    '/health': ['/healthz', '/v1/health', '/helth'],
    '/metrics': ['/v1/metrics', '/metric'],
  }
  for (const [url, mistakes] of Object.entries(meant)) {
    for (const mistake of mistakes) t.match(route('POST', mistake), { kind: 'unknown_url', near: url }, mistake)
  }
  t.end()
})

t.test('a path is shown without its query, which may hold a key, and bounded', t => {
  t.equal(
    redactedPath('/v1/models?api-key=secret', () => false),
    '/v1/models',
  )
  t.equal(
    redactedPath('/v1/models#secret', () => false),
    '/v1/models',
  )
  t.equal(
    redactedPath('/v1/key-1/x', text => text === 'key-1'),
    '/v1/[secret]/x',
  )
  t.equal(redactedPath(`/${'x'.repeat(1_000)}`, () => false).length, 257)
  t.end()
})

t.test('a path of the API is shown as it is, and anything else in its place is looked at', t => {
  const asked: string[] = []
  const isSecret = (text: string): boolean => {
    asked.push(text)
    return text === 'key-1'
  }
  const shown = (target: string): string => redactedPath(target, isSecret)
  for (const path of ['/v1/chat/completions', '/openai/v1/responses', '/openai/audio/speech', '/v1/models']) {
    for (const tail of ['', '?', '?api-key=key-1', '?a=?b']) t.equal(shown(path + tail), path)
  }
  t.same(asked, [], "nobody is asked of the program's own words")
  t.equal(shown('/v1/chat/completions/key-1'), '/v1/chat/completions/[secret]')
  t.equal(shown('/v1/chat/completions;key-1'), '/v1/chat/completions;[secret]')
  t.equal(shown('/v1/chat/completions#key-1?x'), '/v1/chat/completions')
  t.equal(shown('/v1/chat/key%2D1'), '/v1/chat/[secret]')
  t.equal(shown('http://key-1@proxy.example.com/v1/chat/completions?key-1'), '/v1/chat/completions')
  t.equal(shown('/openai/deployments/key-1/chat/completions?x'), '/openai/deployments/[secret]/chat/completions')
  t.equal(shown('?key-1'), '')
  t.end()
})
