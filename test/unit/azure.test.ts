// Under which URL a backend answers which operation, that no name ever leaves its place in it, and what error bodies
// say.
import t from 'tap'
import { authorizerFor, credentialId, resourceId } from '../../lib/azure/credentials.ts'
import {
  isClientMistake,
  isDeploymentMissing,
  isForeignState,
  isOperationUnsupported,
  isReadable,
  isThrottle,
  isUndecryptable,
  readError,
  readErrorBody,
} from '../../lib/azure/errors.ts'
import {
  allOperations,
  type Operation,
  operationNamed,
  operationPath,
  probePath,
  readsModelFromBody,
  realtimePath,
  storedResponsePath,
} from '../../lib/azure/operations.ts'
import type { BackendConfig } from '../../lib/config/types.ts'
import { configFor, readConfig } from '../fixtures/run-proxy.ts'

function backend(more = '', url = 'https://one.openai.azure.com', key = 'azure-key'): BackendConfig {
  const found = readConfig(configFor([{ url, key, more }])).models[0]?.backends[0]
  if (found === undefined) throw new Error('the config has no backend')
  return found
}

function operation(name: string): Operation {
  const found = operationNamed(name)
  if (found === undefined) throw new Error(`no operation ${name}`)
  return found
}

const classic = backend('api_version: 2024-10-21, deployment: my-gpt')
const v1 = backend('deployment: my-gpt')
const preview = backend('api_version: preview, deployment: my-gpt')
const openai = backend('type: openai, deployment: my-gpt', 'https://api.example.com/v1')
const prefixed = backend('api_version: 2024-10-21, deployment: my-gpt', 'https://apim.example.com/team/llm/')
const chat = operation('chat/completions')
const responses = operation('responses')

t.test('a dated version means the classic form: the deployment in the path, the version in the query', t => {
  t.equal(operationPath(chat, classic, ''), '/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21')
  t.equal(
    operationPath(operation('audio/transcriptions'), classic, ''),
    '/openai/deployments/my-gpt/audio/transcriptions?api-version=2024-10-21',
  )
  t.equal(
    operationPath(responses, classic, ''),
    '/openai/responses?api-version=2024-10-21',
    'Responses have none in it',
  )
  t.end()
})

t.test('v1 means the v1 form without a version; preview says so', t => {
  t.equal(operationPath(chat, v1, ''), '/openai/v1/chat/completions')
  t.equal(operationPath(responses, v1, ''), '/openai/v1/responses')
  t.equal(operationPath(chat, preview, ''), '/openai/v1/chat/completions?api-version=preview')
  t.end()
})

t.test('an OpenAI-compatible server is asked under /v1, without a version', t => {
  t.equal(operationPath(chat, openai, ''), '/v1/chat/completions')
  t.equal(operationPath(responses, openai, ''), '/v1/responses')
  t.end()
})

t.test("an endpoint's path prefix comes first", t => {
  t.equal(
    operationPath(chat, prefixed, ''),
    '/team/llm/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21',
  )
  t.equal(storedResponsePath('resp_1', '', prefixed, ''), '/team/llm/openai/responses/resp_1?api-version=2024-10-21')
  t.equal(probePath(prefixed), '/team/llm/openai/models?api-version=2024-10-21')
  t.equal(realtimePath(prefixed, ''), '/team/llm/openai/realtime?deployment=my-gpt&api-version=2024-10-21')
  t.end()
})

t.test("the client's query stays as it is, and the backend's version comes behind it", t => {
  t.equal(
    operationPath(chat, classic, 'a=1&b=%20&include[]=x'),
    '/openai/deployments/my-gpt/chat/completions?a=1&b=%20&include[]=x&api-version=2024-10-21',
  )
  t.equal(operationPath(chat, v1, 'a=1'), '/openai/v1/chat/completions?a=1')
  t.equal(operationPath(chat, openai, 'a=1'), '/v1/chat/completions?a=1')
  t.end()
})

t.test('the body names the deployment wherever the URL does not', t => {
  for (const each of allOperations()) {
    const inPath = operationPath(each, classic, '').includes('/deployments/my-gpt/')
    t.equal(readsModelFromBody(each, classic), !inPath, `${each.name}, classic`)
    for (const [name, other] of Object.entries({ v1, preview, openai })) {
      t.equal(readsModelFromBody(each, other), true, `${each.name}, ${name}`)
      t.notMatch(operationPath(each, other, ''), 'my-gpt')
    }
  }
  t.end()
})

t.test('what is documented can be asked, and nothing is found that is not listed', t => {
  for (const name of [
    'chat/completions',
    'embeddings',
    'responses',
    'completions',
    'images/generations',
    'images/edits',
    'audio/speech',
    'audio/transcriptions',
    'audio/translations',
  ]) {
    t.equal(operation(name).name, name)
  }
  for (const name of ['', 'chat', 'Chat/Completions', 'chat/completions/', '__proto__', 'constructor', '../models']) {
    t.equal(operationNamed(name), undefined, name)
  }
  t.same(
    allOperations()
      .filter(({ body }) => body === 'multipart')
      .map(({ name }) => name),
    ['images/edits', 'images/variations', 'audio/transcriptions', 'audio/translations'],
  )
  t.same(
    ['chat/completions', 'completions', 'responses', 'embeddings'].map(name => operation(name).dialect),
    ['chat', 'chat', 'responses', 'opaque'],
  )
  t.end()
})

t.test('a stored response is asked for under its id, and its parts below it', t => {
  t.equal(storedResponsePath('resp_1', '', v1, ''), '/openai/v1/responses/resp_1')
  t.equal(storedResponsePath('resp_1', 'cancel', v1, ''), '/openai/v1/responses/resp_1/cancel')
  t.equal(
    storedResponsePath('resp_1', 'input_items', classic, 'limit=5'),
    '/openai/responses/resp_1/input_items?limit=5&api-version=2024-10-21',
  )
  t.equal(storedResponsePath('resp_1', '', openai, ''), '/v1/responses/resp_1')
  t.end()
})

const HOSTILE = [
  'a/b',
  '../../models',
  'a/../../x',
  '..%2f..%2fx',
  'a?api-version=evil',
  'a#b',
  'a&deployment=b',
  'a b',
  'a\r\nhost: evil',
  'a\u0000b',
  'a\\b',
  'a;b=c',
  'ä€😀',
  '%',
  '%2e%2e',
  '//evil.example.com/',
  "';--",
]

t.test('a hostile id or deployment stays one segment of its path', t => {
  for (const name of HOSTILE) {
    const shown = JSON.stringify(name)
    const stored = storedResponsePath(name, 'cancel', v1, '')
    t.match(stored, /^\/openai\/v1\/responses\/[^/?#&\s\\]+\/cancel$/, shown)
    t.match(stored, /^[\x21-\x7e]+$/, 'only what may stand in a request line')
    const url = new URL(stored, 'https://one.openai.azure.com')
    t.equal(url.host, 'one.openai.azure.com')
    t.same(url.pathname.split('/').length, 6, 'no server that resolves the path finds another one')
    t.equal(decodeURIComponent(url.pathname.split('/')[4] ?? ''), name)

    const deployed = { ...classic, deployment: name }
    const path = operationPath(chat, deployed, '')
    t.match(path, /^\/openai\/deployments\/[^/?#&\s\\]+\/chat\/completions\?api-version=2024-10-21$/, shown)
    const asked = new URL(realtimePath(deployed, 'a=1'), 'https://one.openai.azure.com')
    t.equal(asked.pathname, '/openai/realtime')
    t.equal(asked.searchParams.get('deployment'), name)
    t.same([...asked.searchParams.keys()], ['deployment', 'a', 'api-version'])
  }
  t.end()
})

t.test('a probe asks for the model list, which costs no token', t => {
  t.equal(probePath(v1), '/openai/v1/models')
  t.equal(probePath(preview), '/openai/v1/models?api-version=preview')
  t.equal(probePath(classic), '/openai/models?api-version=2024-10-21')
  t.equal(probePath(openai), '/v1/models')
  t.end()
})

t.test('a realtime session names the deployment in its query', t => {
  t.equal(realtimePath(v1, ''), '/openai/v1/realtime?model=my-gpt')
  t.equal(realtimePath(openai, 'x=1'), '/v1/realtime?model=my-gpt&x=1')
  t.equal(realtimePath(classic, 'x=1'), '/openai/realtime?deployment=my-gpt&x=1&api-version=2024-10-21')
  t.end()
})

t.test('a key goes to Azure as api-key and to OpenAI-compatible servers as Bearer', t => {
  const noTokens = (): never => {
    throw new Error('a key needs no token')
  }
  t.same(authorizerFor(v1, noTokens).authorize(), { kind: 'header', name: 'api-key', value: 'azure-key' })
  t.same(authorizerFor(openai, noTokens).authorize(), {
    kind: 'header',
    name: 'authorization',
    value: 'Bearer azure-key',
  })
  t.same(authorizerFor({ ...openai, credential: { kind: 'none' } }, noTokens).authorize(), { kind: 'none' })
  t.end()
})

t.test('a resource is an endpoint and a credential, whichever deployment; its name shows no key', t => {
  const twin = backend('deployment: other')
  t.equal(resourceId(twin), resourceId(v1))
  t.not(resourceId(backend('', 'https://one.openai.azure.com', 'another-key')), resourceId(v1))
  t.not(resourceId(backend('', 'https://two.openai.azure.com')), resourceId(v1))
  t.match(credentialId(v1.credential), /^[0-9a-f]{12}$/)
  t.notMatch(resourceId(v1), 'azure-key')
  t.end()
})

t.test('every family of error bodies is read', t => {
  const azure = '{"error":{"code":"DeploymentNotFound","message":"m","type":null,"param":null}}'
  t.same(readErrorBody(Buffer.from(azure)), {
    code: 'DeploymentNotFound',
    type: undefined,
    message: 'm',
    param: undefined,
    shape: 'api',
  })
  const runtime = '{ "statusCode": 401, "message": "Access denied" }'
  t.match(readErrorBody(Buffer.from(runtime)), { code: '401', message: 'Access denied' })
  t.match(readError({ type: 'error', code: 'server_error', message: 'm', param: 'p' }), {
    code: 'server_error',
    type: 'error',
    message: 'm',
    param: 'p',
  })
  t.match(readError({ error: { code: 429, message: 'm' } }), { code: '429' })
  t.match(readError({ error: 'in words' }), { message: 'in words' })
  t.end()
})

t.test('a body that is no error object says nothing, and nothing throws', t => {
  const bodies = [
    '',
    '<html>502</html>',
    '[]',
    'null',
    '"x"',
    '7',
    '{',
    '{"error":null}',
    '{"error":[]}',
    '\ufeff{}',
    '\xff',
  ]
  for (const body of bodies) {
    const error = readErrorBody(Buffer.from(body, 'latin1'))
    t.equal(isReadable(error), false, JSON.stringify(body))
    t.same(error, { code: undefined, type: undefined, message: '', param: undefined })
  }
  t.match(readError({ error: { code: {}, message: [], type: true } }), {
    code: undefined,
    message: '',
    type: undefined,
  })
  t.end()
})

t.test('what an error says decides what it is, and one error is one thing', t => {
  const rows: readonly (readonly [string, Readonly<Record<string, unknown>>])[] = [
    ['missing', { code: 'DeploymentNotFound', message: 'x' }],
    ['missing', { message: 'The API deployment for this resource does not exist. Wait 5 minutes.' }],
    ['foreign', { code: 'previous_response_not_found', message: 'x', type: 'invalid_request_error' }],
    ['foreign', { code: 'invalid_encrypted_content', message: 'x', type: 'invalid_request_error' }],
    ['foreign', { message: 'The encrypted content gAAA could not be verified.' }],
    ['throttle', { code: 'rate_limit_exceeded', message: 'x' }],
    ['throttle', { code: 'RateLimitReached', message: 'x' }],
    ['throttle', { message: 'Your requests have exceeded token rate limit of your pricing tier.' }],
    ['mistake', { code: 'content_filter', message: 'x' }],
    ['mistake', { type: 'invalid_request_error', message: 'max_tokens is too large' }],
    ['nothing', { code: 'server_error', message: 'The server had an error.' }],
    ['nothing', { message: 'Rate your experience; encrypted content is fine; the deployment exists.' }],
  ]
  for (const [expected, given] of rows) {
    const error = readError({ error: given })
    const found = [
      isDeploymentMissing(error) && 'missing',
      isForeignState(400, error) && 'foreign',
      isThrottle(error) && 'throttle',
      isClientMistake(error) && 'mistake',
    ].filter(kind => kind !== false)
    t.same(found, expected === 'nothing' ? [] : [expected], JSON.stringify(given))
  }
  t.equal(isUndecryptable(readError({ error: { message: 'Encrypted content could not be decrypted' } })), true)
  t.equal(isUndecryptable(readError({ error: { code: 'previous_response_not_found' } })), false)
  t.end()
})

t.test('a path or version that is not served is told from a deployment that is not there', t => {
  const notFound = readError({ error: { code: '404', message: 'Resource not found' } })
  t.equal(isOperationUnsupported(404, notFound), true)
  t.equal(isOperationUnsupported(404, readError({})), false, 'a page says nothing of the operation')
  t.equal(isOperationUnsupported(404, readError({ error: { code: 'DeploymentNotFound', message: 'x' } })), false)
  t.equal(isOperationUnsupported(400, readError({ error: { message: 'API version not supported' } })), true)
  t.equal(isOperationUnsupported(400, readError({ error: { message: 'The parameter is not supported' } })), false)
  t.equal(isOperationUnsupported(500, notFound), false)
  t.end()
})
