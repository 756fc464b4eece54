// biome-ignore-all lint/suspicious/noTemplateCurlyInString: ${…} is the syntax of the config here
// What `--check` warns of without refusing it, each with its place and its cure; and names of other tools in messages.
import t from 'tap'
import { parseConfig } from '../../lib/config/load.ts'

const SOURCES = {
  file: 'config.yaml',
  env: {},
  readSecretFile: () => {
    throw new Error('no files in this test')
  },
}

/** Sound, and nothing to warn of. */
const SOUND = `auth:
  keys:
    - name: webshop
      key: a-key-of-my-own
models:
  gpt-4o:
    backends:
      - endpoint: https://contoso.openai.azure.com
        api_key: 0123456789abcdef0123456789abcdef
`

function warningsOf(text: string, more: { readonly worldReadable?: boolean } = {}): readonly string[] {
  const result = parseConfig(text, { ...SOURCES, ...more })
  if (result.kind === 'invalid') throw new Error(result.problems.map(({ message }) => message).join('\n'))
  return result.warnings.map(({ line, path, message }) => `${line} ${path}: ${message}`)
}

t.test('a sound config has no warnings', async t => {
  t.same(warningsOf(SOUND), [])
})

t.test('what looks like a mistake is said with its line and its cure', async t => {
  for (const [from, to, line, says] of [
    ['contoso.openai', 'your-resource.openai', 8, /placeholder of the template/],
    ['0123456789abcdef0123456789abcdef', 'your-azure-api-key', 9, /placeholder of the template/],
    ['0123456789abcdef0123456789abcdef', '$AZURE_KEY', 9, /write \$\{AZURE_KEY\} for a variable/],
    ['0123456789abcdef0123456789abcdef', 'os.environ/AZURE_KEY', 9, /write \$\{AZURE_KEY\} for a variable/],
    ['        api_key', '        deployment: “gpt-4o”\n        api_key', 9, /curly quotes/],
    ['        api_key', '        deployment: "gpt-4o "\n        api_key', 9, /blank: remove it/],
    ['0123456789abcdef0123456789abcdef', '“a-key-of-azure”', 9, /curly quotes/],
    ['0123456789abcdef0123456789abcdef', '"a-key-of-azure "', 9, /blank: remove it/],
    ['key: a-key-of-my-own', 'key: “pasted”', 4, /curly quotes/],
    ['key: a-key-of-my-own', 'key: " pasted"', 4, /blank: remove it/],
    ['  gpt-4o:', '  "gpt-4o ":', 6, /blank: remove it/],
    ['https://contoso.openai.azure.com', 'https://api.openai.com', 8, /"type: openai"/],
    ['https://contoso.openai.azure.com', 'https://c.services.ai.azure.com/api/projects/p', 8, /Foundry project.*entra/],
    ['https://contoso.openai.azure.com', 'https://c.privatelink.openai.azure.com', 8, /public name/],
    ['auth:\n', 'auth:\n  enabled: false\n', 2, /server\.host: 127\.0\.0\.1/],
    ['key: a-key-of-my-own', 'key: a-key-of-my-own\n      limits: {cost_per_month: 5}', 5, /no model has a price/],
    ['https://contoso.openai.azure.com', 'http://contoso.example', 8, /plain http/],
  ] as const) {
    const text = SOUND.replace(from, () => to)
    t.not(text, SOUND)
    const found = warningsOf(text)
    t.equal(found.length, 1, `${to}: ${found.join(' | ')}`)
    t.match(found[0], says)
    t.match(found[0], new RegExp(`^${line} `))
    t.notMatch(found[0], /0123456789abcdef|a-key-of-my-own/, 'and no secret')
  }
})

t.test('a proxy without keys on this machine alone is nobody’s mistake', async t => {
  t.same(warningsOf(SOUND.replace('auth:\n', 'server: {host: 127.0.0.1}\nauth:\n  enabled: false\n')), [])
})

t.test('the same backend twice in a model is said of the second', async t => {
  const again = `      - {name: two, endpoint: "https://contoso.openai.azure.com/", api_key: 0123456789abcdef0123456789abcdef}\n`
  t.match(warningsOf(SOUND + again), [/^10 .*same backend as on line 8/])
  const another = again.replace('api_key', 'deployment: gpt-4o-ptu, api_key')
  t.same(warningsOf(SOUND + another), [])
})

t.test('a secret in a file that everybody may read is said; one from the environment does not stand there', async t => {
  t.match(warningsOf(SOUND, { worldReadable: true }), [/^9 .*chmod 600/])
  t.same(warningsOf(SOUND, { worldReadable: false }), [])
  const apart = SOUND.replace('0123456789abcdef0123456789abcdef', '${KEY}').replace('a-key-of-my-own', '${KEY}')
  const result = parseConfig(apart, { ...SOURCES, env: { KEY: 'from-the-environment' }, worldReadable: true })
  t.same(result.kind === 'ok' && result.warnings, [])
})

t.test('the default name of a backend leaves out what all of Azure’s resources share', async t => {
  for (const [endpoint, name] of [
    ['https://contoso-prod-sweden.openai.azure.com', 'contoso-prod-sweden/gpt-4o'],
    ['https://contoso.cognitiveservices.azure.com', 'contoso/gpt-4o'],
    ['https://contoso.openai.azure.us', 'contoso/gpt-4o'],
    ['https://contoso.openai.azure.cn', 'contoso/gpt-4o'],
    ['https://gw.azure-api.net/team', 'gw.azure-api.net/gpt-4o'],
  ] as const) {
    const result = parseConfig(SOUND.replace('https://contoso.openai.azure.com', endpoint), SOURCES)
    t.equal(result.kind === 'ok' && result.config.models[0]?.backends[0]?.name, name)
  }
})

t.test('names of other tools get the name that is meant here', async t => {
  for (const [from, to, says] of [
    ['endpoint:', 'api_base:', /here it is called "endpoint"/],
    ['endpoint:', 'azure_endpoint:', /here it is called "endpoint"/],
    ['key: a-key-of-my-own', 'key: a-key-of-my-own\n      rpm: 5', /requests_per_minute under "limits"/],
    ['key: a-key-of-my-own', 'key: a-key-of-my-own\n      requests_per_minute: 5', /under "limits"/],
    ['auth:', 'server: {health_check: {enabled: false}}\nauth:', /stands at the top level/],
    ['auth:', 'model_list: []\nauth:', /LiteLLM config: deploy\/migrate\.md/],
  ] as const) {
    const result = parseConfig(
      SOUND.replace(from, () => to),
      SOURCES,
    )
    const said = result.kind === 'invalid' ? result.problems.map(({ message }) => message).join('\n') : 'ok'
    t.match(said, says, to)
  }
  const result = parseConfig(SOUND.replace('        api_key', '       api_key'), SOURCES)
  t.match(result.kind === 'invalid' && result.problems.map(({ message }) => message).join('\n'), /indentation/)
})
