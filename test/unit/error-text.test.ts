// An upstream's error in words for an operator: what Azure said is kept, secrets and the client's own text are not.
// covers: lib/azure/error-text.ts
import t from 'tap'
import { errorText } from '../../lib/azure/error-text.ts'
import { readError } from '../../lib/azure/errors.ts'

const KEY = '9f2c11d0c7ab4e5f8a1b2c3d4e5f6071'
const chat = (content: string): Buffer =>
  Buffer.from(JSON.stringify({ model: 'gpt-4o', messages: [{ role: 'user', content }] }))

function said(
  message: string,
  { code, content = 'hello', key = KEY }: { code?: string; content?: string; key?: string } = {},
) {
  const sent = { headers: ['host', 'contoso.openai.azure.com', 'api-key', key], body: [chat(content)] }
  return errorText('401', readError({ error: { code, message } }), sent)
}

t.test("Azure's own sentences are kept, with status and code", async t => {
  for (const [code, message] of [
    [
      '401',
      'Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.',
    ],
    ['403', 'Access denied due to Virtual Network/Firewall rules.'],
    ['DeploymentNotFound', 'The API deployment for this resource does not exist.'],
    [
      'OperationNotSupported',
      'The chatCompletion operation does not work with the specified model, text-embedding-3-small.',
    ],
    ['PermissionDenied', 'Principal does not have access to API/Operation.'],
    ['model_not_found', "The model 'gpt-4o-prod' does not exist or you do not have access to it."],
    ['InternalServerError', 'The server had an error while processing your request. Sorry about that!'],
  ] as const) {
    const text = said(message, { code })
    t.equal(text, code === '401' ? `401: ${message}` : `401 ${code}: ${message}`)
  }
})

t.test('no key, token, id, address or path is kept', async t => {
  for (const [message, ...secrets] of [
    [`Incorrect API key provided: ${KEY}.`, KEY],
    [
      'Incorrect API key provided: sk-proj-abcd****************wxyz. You can find your key at https://u:pw@platform.openai.com/account?key=abc.',
      'wxyz',
      'abc',
      'pw@',
    ],
    ['The token eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2ln is not valid', 'eyJ'],
    ['Authorization: Bearer short-one is refused', 'short-one'],
    ['Key short-key is refused', 'short-key'],
    ['Request 6f9619ff-8b86-d011-b42d-00cf4fc964ff of alice@contoso.com failed', '6f96', 'alice', 'contoso'],
    ['No route for /openai/deployments/x?api-key=hidden', 'hidden'],
    ['key=AbCdEfGhIjKlMnOpQrStUvWxYz0123456789+/== is expired', 'AbCd', '0123'],
  ] as const) {
    const text = said(message, { key: message.includes('short-key') ? 'short-key' : KEY })
    for (const secret of secrets) t.notMatch(text, secret, message)
    t.match(text, '…', message)
  }
})

t.test('what the client sent is not repeated, quoted or not, whole or in part', async t => {
  const prompt = 'My diagnosis is a rare illness of the liver, please keep it between us'
  for (const message of [
    `Invalid prompt: ${prompt}`,
    `Invalid prompt: "${prompt}" was refused`,
    `Invalid prompt: '${prompt}'`,
    `Cannot parse '... rare illness of the liver, please'`,
    `failed near a rare illness of the liver, ple`,
    `failed near A RARE ILLNESS OF THE LIVER`,
  ]) {
    const text = said(message, { content: prompt })
    t.notMatch(text, /illness|diagnosis|liver/i, message)
  }
  t.notMatch(said('unknown token swordfish at 3', { content: 'swordfish' }), 'swordfish')
  t.notMatch(said('cannot read: blue swordfish.', { content: 'blue swordfish' }), 'swordfish')
  t.notMatch(said('cannot read first line second line here', { content: 'first line\nsecond line' }), 'second line')
  t.notMatch(said('不能处理：我的秘密', { content: '我的秘密' }), '秘密')
  t.equal(said("The model 'gpt-4o' is not here", { content: 'is it here?' }), "401: The model 'gpt-4o' is not here")
})

t.test('it is short, one line, and quick whatever an upstream writes', async t => {
  t.ok(said('word '.repeat(100_000)).length < 220)
  t.notMatch(said('a\nb\u001b[31m c\u2028d'), /[^\x20-\x7e…]/)
  const beganMs = performance.now()
  for (const piece of ['a', 'a1', '"', "'", '@', '?', '*', 'https://', 'a@', '-', 'eyJ', ' "'])
    said(piece.repeat(50_000))
  t.ok(performance.now() - beganMs < 5_000)
  t.equal(said(''), '401')
  t.equal(said('…'), '401')
})

t.test('without what was sent at hand, or where that is long, the code alone is shown', async t => {
  const error = readError({ error: { code: 'server_error', message: 'Something is wrong' } })
  t.equal(errorText('500', error), '500 server_error')
  const long = { headers: [], body: [Buffer.alloc(2 * 1024 * 1024, 'x')] }
  t.equal(errorText('500', error, long), '500 server_error')
  t.equal(errorText('500', error, { headers: [], body: [] }), '500 server_error: Something is wrong')
  t.equal(errorText('500', readError({ error: { code: 'a code with blanks', message: '' } })), '500')
})
