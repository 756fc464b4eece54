// The way out that a host gets: proxies of the config and of the environment, and who goes around them. covers:
// lib/config/egress.ts, lib/config/backend-headers.ts
import t from 'tap'
import { goesAround, parseProxy } from '../../lib/config/egress.ts'
import { formatProblem, parseConfig } from '../../lib/config/load.ts'
import type { Config } from '../../lib/config/types.ts'
import { makeCertificate } from '../fixtures/certificate.ts'

const AROUND: readonly (readonly [string, readonly (readonly [string, number, boolean])[]])[] = [
  [
    'example.com',
    [
      ['example.com', 443, true],
      ['a.b.example.com', 443, true],
      ['badexample.com', 443, false],
    ],
  ],
  [
    '.example.com',
    [
      ['a.example.com', 443, true],
      ['example.com', 443, true],
      ['badexample.com', 443, false],
    ],
  ],
  [
    '*.example.com',
    [
      ['a.example.com', 443, true],
      ['example.org', 443, false],
    ],
  ],
  [
    'EXAMPLE.com.',
    [
      ['example.com', 443, true],
      ['Example.COM', 443, true],
    ],
  ],
  [
    'example.com:8443',
    [
      ['example.com', 8443, true],
      ['example.com', 443, false],
      ['a.example.com', 8443, true],
    ],
  ],
  [
    '*',
    [
      ['anything.test', 1, true],
      ['10.1.2.3', 443, true],
    ],
  ],
  [
    '10.0.0.0/8',
    [
      ['10.255.0.1', 443, true],
      ['11.0.0.1', 443, false],
      ['10.example.com', 443, false],
    ],
  ],
  [
    '192.0.2.7',
    [
      ['192.0.2.7', 443, true],
      ['192.0.2.70', 443, false],
      ['1.192.0.2.7', 443, false],
    ],
  ],
  [
    '192.0.2.7:80',
    [
      ['192.0.2.7', 80, true],
      ['192.0.2.7', 443, false],
    ],
  ],
  [
    'fd00::/8',
    [
      ['fd12::1', 443, true],
      ['fe80::1', 443, false],
    ],
  ],
  [
    '[fd12::1]:443',
    [
      ['fd12::1', 443, true],
      ['fd12::1', 80, false],
    ],
  ],
  [
    'com',
    [
      ['example.com', 443, true],
      ['example.org', 443, false],
    ],
  ],
]
t.test('hosts, suffixes, ports, ranges and the asterisk go around the proxy', t => {
  for (const [rule, cases] of AROUND) {
    for (const [host, port, expected] of cases)
      t.equal(goesAround([rule], host, port), expected, `${rule}: ${host}:${port}`)
  }
  t.equal(goesAround([], 'example.com', 443), false)
  t.end()
})

const PROXIES: readonly (readonly [string, string | undefined, string | undefined])[] = [
  ['http://proxy.test:3128', 'http://proxy.test:3128', undefined],
  ['proxy.test:3128', 'http://proxy.test:3128', undefined],
  ['https://proxy.test', 'https://proxy.test', undefined],
  ['http://proxy.test/', 'http://proxy.test', undefined],
  ['http://u:p%40ss@proxy.test:3128', 'http://proxy.test:3128', 'u:p@ss'],
  ['http://u@proxy.test:3128', 'http://proxy.test:3128', 'u:'],
  ['http://[fd00::1]:3128', 'http://[fd00::1]:3128', undefined],
  ['socks5://proxy.test:1080', undefined, undefined],
  ['http://proxy.test:3128/path', undefined, undefined],
  ['http://proxy.test:0', undefined, undefined],
  ['ftp://proxy.test', undefined, undefined],
  ['http://u:%zz@proxy.test', undefined, undefined],
  ['http://', undefined, undefined],
]
t.test('a proxy’s URL is taken apart, its password decoded, and never shown again', t => {
  for (const [text, url, pair] of PROXIES) {
    const parsed = parseProxy(text)
    if (parsed.kind === 'invalid' || parsed.proxy === 'none') {
      t.equal(url, undefined, text)
      continue
    }
    t.equal(parsed.proxy.url, url, text)
    const proof = parsed.proxy.authorization?.reveal()
    t.equal(proof, pair === undefined ? undefined : `Basic ${Buffer.from(pair).toString('base64')}`, text)
  }
  t.same(parseProxy('none'), { kind: 'ok', proxy: 'none' })
  t.end()
})

type Env = Readonly<Record<string, string>>

function configOf(
  { backend = '', rest = '' }: { backend?: string; rest?: string },
  env: Env = {},
  files: Readonly<Record<string, string>> = {},
): { readonly config: Config | undefined; readonly said: readonly string[] } {
  const text = `
auth: {keys: [{name: a, key: a-client-key-1}]}
models:
  m:
    backends:
      - {endpoint: "https://one.test", api_key: azure-key-1${backend}}
      - {endpoint: "http://two.test", api_key: azure-key-2}
      - {endpoint: "http://127.0.0.1:8080", api_key: azure-key-3}
${rest}`
  const readSecretFile = (path: string): string => {
    const found = files[path]
    if (found === undefined) throw Object.assign(new Error('none'), { code: 'ENOENT' })
    return found
  }
  const result = parseConfig(text, { file: 'c.yaml', env, readSecretFile })
  return result.kind === 'ok'
    ? { config: result.config, said: result.warnings.map(formatProblem) }
    : { config: undefined, said: result.problems.map(formatProblem) }
}

const proxiesOf = (config: Config | undefined): readonly (string | undefined)[] =>
  config?.models[0]?.backends.map(({ endpoint }) => endpoint.route?.proxy?.url) ?? []

t.test('the environment names the proxies, lower case first; empty counts as not set', t => {
  const env = {
    HTTPS_PROXY: 'http://upper.test:1',
    https_proxy: 'http://lower.test:2',
    HTTP_PROXY: 'http://plain.test:3',
  }
  t.strictSame(proxiesOf(configOf({}, env).config), ['http://lower.test:2', 'http://plain.test:3', undefined])
  t.strictSame(proxiesOf(configOf({}, { ...env, https_proxy: '' }).config)[0], 'http://upper.test:1')
  t.strictSame(proxiesOf(configOf({}, { ...env, NO_PROXY: 'two.test, 10.0.0.0/8' }).config), [
    'http://lower.test:2',
    undefined,
    undefined,
  ])
  t.strictSame(proxiesOf(configOf({}, { ...env, NO_PROXY: 'two.test', no_proxy: 'one.test' }).config), [
    undefined,
    'http://plain.test:3',
    undefined,
  ])
  t.strictSame(proxiesOf(configOf({}, { ...env, no_proxy: '*' }).config), [undefined, undefined, undefined])
  t.end()
})

t.test('the config goes before the environment, and a backend before both', t => {
  const env = { HTTPS_PROXY: 'http://env.test:1', HTTP_PROXY: 'http://env.test:1', NO_PROXY: 'one.test' }
  const rest = 'egress: {proxy: "http://conf.test:2"}'
  t.strictSame(
    proxiesOf(configOf({ rest }, env).config),
    [undefined, 'http://conf.test:2', undefined],
    'NO_PROXY stays',
  )
  const own = 'egress: {proxy: "http://conf.test:2", no_proxy: [two.test]}'
  t.strictSame(proxiesOf(configOf({ rest: own }, env).config), ['http://conf.test:2', undefined, undefined])
  t.strictSame(proxiesOf(configOf({ rest: 'egress: {proxy: none}' }, env).config), [undefined, undefined, undefined])
  const backend = ', proxy: "http://own.test:3"'
  t.strictSame(proxiesOf(configOf({ backend, rest }, env).config), [
    'http://own.test:3',
    'http://conf.test:2',
    undefined,
  ])
  t.strictSame(proxiesOf(configOf({ backend: ', proxy: none', rest: own }, env).config)[0], undefined)
  t.end()
})

t.test(
  'a proxy of the environment that cannot be used is a warning, one of the config an error; neither shows its password',
  t => {
    const env = { HTTPS_PROXY: 'socks5://u:s3cret-password@proxy.test:1' }
    const warned = configOf({}, env)
    t.ok(warned.config)
    t.match(warned.said.join('\n'), /HTTPS_PROXY is not heeded: it names a SOCKS proxy/)
    const wrong = configOf({ rest: 'egress: {proxy: "socks5://u:s3cret-password@proxy.test:1"}' })
    t.match(wrong.said, [/c\.yaml:\d+:\d+ egress\.proxy: names a SOCKS proxy/])
    t.notMatch([...warned.said, ...wrong.said].join('\n'), /s3cret/)
    t.end()
  },
)

t.test('certificates: files are read, kept as secrets, and must fit', t => {
  const [one, other] = [makeCertificate('one'), makeCertificate('other')]
  const files = { 'ca.pem': one.cert, 'cert.pem': one.cert, 'key.pem': one.key, 'other.pem': other.key, 'no.pem': 'x' }
  const { config } = configOf(
    { backend: ', tls: {ca: [ca.pem], cert: cert.pem, key: key.pem, server_name: real.test}' },
    {},
    files,
  )
  const route = config?.models[0]?.backends[0]?.endpoint.route
  t.equal(route?.serverName, 'real.test')
  t.equal(route?.identity?.key.reveal(), one.key)
  t.notMatch(JSON.stringify(config), /BEGIN/)
  for (const [tls, problem] of [
    ['{ca: no.pem}', /tls\.ca: must name a PEM file/],
    ['{ca: gone.pem}', /tls\.ca: names a file that cannot be read \(ENOENT\)/],
    ['{cert: cert.pem}', /tls\.cert: stands alone/],
    ['{cert: cert.pem, key: other.pem}', /tls\.key: does not fit the certificate/],
  ] as const) {
    t.match(configOf({ backend: `, tls: ${tls}` }, {}, files).said, [problem], tls)
  }
  const renewed = configOf({ rest: 'egress: {ca: ca.pem}' }, {}, { 'ca.pem': other.cert }).config
  const before = configOf({ rest: 'egress: {ca: ca.pem}' }, {}, files).config
  const idOf = (from: Config | undefined) => from?.models[0]?.backends[0]?.endpoint.route?.id
  t.not(idOf(renewed), idOf(before), 'a renewed file makes another route, with connections of its own')
  t.end()
})

t.test('verification cannot be switched off from the environment, which is said', t => {
  const { said } = configOf({}, { NODE_TLS_REJECT_UNAUTHORIZED: '0' })
  t.match(said, [/NODE_TLS_REJECT_UNAUTHORIZED=0 is not heeded/])
  t.end()
})

t.test('headers of a backend: names are checked, values are secret, ten fit', t => {
  const { config } = configOf({ backend: ', headers: {Ocp-Apim-Subscription-Key: a-secret-value, X-Team: " blue "}' })
  const headers = config?.models[0]?.backends[0]?.headers
  t.strictSame(
    headers?.map(({ name, value }) => [name, value.reveal()]),
    [
      ['ocp-apim-subscription-key', 'a-secret-value'],
      ['x-team', 'blue'],
    ],
  )
  t.notMatch(JSON.stringify(config), /a-secret-value/)
  const many = Array.from({ length: 11 }, (_, i) => `x-${i}: v`).join(', ')
  for (const [text, problem] of [
    ['{Host: x}', /headers\.Host: is written by the proxy itself/],
    ['{content-length: "1"}', /written by the proxy itself/],
    ['{api-key: x}', /is the header of this backend's api_key/],
    ['{"a b": x}', /is no name of a header/],
    ['{x-a: v, X-A: w}', /stands here twice/],
    ['{x-a: "a\\nb"}', /line breaks/],
    [`{${many}}`, /are more than 10/],
  ] as const) {
    t.match(configOf({ backend: `, headers: ${text}` }).said.join('\n'), problem, text)
  }
  t.end()
})
