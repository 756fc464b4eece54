// Container and Kubernetes files agree with the program: its routes, flags, defaults and config.
import { spawnSync } from 'node:child_process'
import { cpSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { at, CONFIG_PATH, defaultPort, drainSeconds, flags, items, load, read } from '../fixtures/deploy-files.ts'

function manifest(kind: string): unknown {
  const found = parseAllDocuments(read('deploy/kubernetes.yaml'))
    .map((document): unknown => document.toJS())
    .find(object => at(object, 'kind') === kind)
  if (found === undefined) throw new Error(`the manifest has no ${kind}`)
  return found
}

function checkContainer(root: string) {
  const { status, stdout } = spawnSync(process.execPath, ['deploy/check-container.mjs', '--static', '--root', root], {
    encoding: 'utf8',
  })
  return { status, stdout }
}

t.test('the container files pass their own check', async t => {
  const { status, stdout } = checkContainer('.')
  t.equal(status, 0, stdout)
})

t.test('the check of the container files notices', async t => {
  const broken = [
    ['Dockerfile', 'USER 1000:1000', 'USER root', 'USER root'],
    [
      'Dockerfile',
      'ENTRYPOINT ["node", "--max-semi-space-size=8", "bin/proxy.js"]',
      'ENTRYPOINT node bin/proxy.js',
      'ENTRYPOINT must be',
    ],
    ['Dockerfile', 'COPY lib ./lib', 'COPY source ./lib', 'COPY source: there is no such file'],
    ['Dockerfile', '--from=build', '--from=elsewhere', 'COPY --from=elsewhere'],
    ['Dockerfile', 'STOPSIGNAL SIGTERM', 'STOPSIGNAL SIGKILL', 'STOPSIGNAL'],
    ['Dockerfile', '"--health"', '"--version"', 'HEALTHCHECK must be the program'],
    ['.dockerignore', '!lib\n', '', 'COPY lib: .dockerignore keeps it out'],
    ['.dockerignore', '!LICENSE', '!*.yaml', 'lets config.yaml into the build'],
    ['docker-compose.yml', 'read_only: true\n    tmpfs', 'tmpfs', 'read_only'],
    ['docker-compose.yml', '      - ALL', '      - CHOWN', 'cap_drop'],
    ['deploy/kubernetes.yaml', 'runAsNonRoot: true', 'runAsNonRoot: false', 'runAsNonRoot'],
  ] as const
  for (const [file, from, to, expected] of broken) {
    const root = t.testdir({})
    const needed = ['Dockerfile', '.dockerignore', 'docker-compose.yml', 'deploy/kubernetes.yaml', 'package.json']
    const copied = [
      'package-lock.json',
      '.npmrc',
      'tsconfig.json',
      'LICENSE',
      'config.template.yaml',
      'bin',
      'lib',
      'deploy/build',
    ]
    for (const path of [...needed, ...copied]) cpSync(path, join(root, path), { recursive: true })
    const text = read(file)
    t.ok(text.includes(from), `${file} has ${JSON.stringify(from)}`)
    writeFileSync(join(root, file), text.replace(from, to))
    const { status, stdout } = checkContainer(root)
    t.equal(status, 1, `${file}: ${to}`)
    t.ok(stdout.includes(expected), `${expected}: ${stdout}`)
  }
})

t.test('the image listens, is asked and is configured where the program expects it', async t => {
  const dockerfile = read('Dockerfile')
  t.match(dockerfile, new RegExp(`^EXPOSE ${defaultPort()}$`, 'm'))
  t.match(dockerfile, `CMD ["--config", "${CONFIG_PATH}"]`)
  t.match(dockerfile, `"--health", "--config", "${CONFIG_PATH}"`)
  for (const flag of dockerfile.matchAll(/"(--[a-z]+)"/g)) t.ok(flags().includes(flag[1] ?? ''), flag[0])
})

t.test('docker-compose mounts the config where the image looks, and waits for the drain', async t => {
  const proxy = at(parse(read('docker-compose.yml')), 'services', 'proxy')
  t.same(at(proxy, 'volumes', 0), { type: 'bind', source: './config', target: dirname(CONFIG_PATH), read_only: true })
  t.match(read('docker-compose.yml'), /kill -s HUP proxy/, 'a change is a reload, not a restart')
  t.same(at(proxy, 'ports'), [`${defaultPort()}:${defaultPort()}`])
  t.ok(Number.parseInt(String(at(proxy, 'stop_grace_period')), 10) > drainSeconds())
})

t.test('the ConfigMap is a valid config, once its key is edited, whose secrets are mounted where it looks', async t => {
  const secret = { ...Object(at(manifest('Secret'), 'stringData')), 'client-key': 'a-key-of-my-own' }
  const pod = at(manifest('Deployment'), 'spec', 'template', 'spec')
  const mount = at(pod, 'containers', 0, 'volumeMounts', 0)
  const sources = items(at(pod, 'volumes', 0, 'projected', 'sources'))
  t.equal(at(mount, 'name'), at(pod, 'volumes', 0, 'name'))
  const mounted = sources.flatMap(source => [
    ...items(at(source, 'configMap', 'items')),
    ...items(at(source, 'secret', 'items')),
  ])
  const files = Object.fromEntries(
    mounted.map(item => [
      `${String(at(mount, 'mountPath'))}/${String(at(item, 'path'))}`,
      String(at(secret, String(at(item, 'key'))) ?? ''),
    ]),
  )
  t.ok(CONFIG_PATH in files)
  t.same(at(pod, 'containers', 0, 'args'), ['--config', CONFIG_PATH])
  const result = load(String(at(manifest('ConfigMap'), 'data', 'config.yaml')), files)
  t.equal(result.kind, 'ok')
  if (result.kind !== 'ok') return
  t.equal(result.config.server.watch, true)
  t.same(
    result.warnings.filter(({ message }) => !message.includes('placeholder')),
    [],
    'nothing is warned of but what its reader has to fill in',
  )
  t.same(
    result.files.slice(1).sort(),
    Object.keys(files)
      .filter(path => path !== CONFIG_PATH)
      .sort(),
  )
})

t.test('Kubernetes probes the routes there are, on the port there is, and waits for preStop and the drain', async t => {
  const pod = at(manifest('Deployment'), 'spec', 'template', 'spec')
  const container = at(pod, 'containers', 0)
  t.same(at(container, 'ports'), [{ name: 'http', containerPort: defaultPort() }])
  t.same(at(container, 'livenessProbe', 'httpGet'), { path: '/livez', port: 'http' })
  t.same(at(container, 'startupProbe', 'httpGet'), { path: '/livez', port: 'http' })
  t.same(at(container, 'readinessProbe', 'httpGet'), { path: '/readyz', port: 'http' }, 'does not hang on Azure')
  t.equal(at(manifest('Service'), 'spec', 'ports', 0, 'targetPort'), 'http')
  const pause = Number(at(container, 'lifecycle', 'preStop', 'exec', 'command', 1))
  t.ok(Number(at(pod, 'terminationGracePeriodSeconds')) > pause + drainSeconds())
})

t.test('Service, PodDisruptionBudget and Deployment select the same pods', async t => {
  const labels = at(manifest('Deployment'), 'spec', 'template', 'metadata', 'labels')
  t.same(at(manifest('Deployment'), 'spec', 'selector', 'matchLabels'), labels)
  t.same(at(manifest('Service'), 'spec', 'selector'), labels)
  t.same(at(manifest('PodDisruptionBudget'), 'spec', 'selector', 'matchLabels'), labels)
  t.ok(
    Number(at(manifest('Deployment'), 'spec', 'replicas')) >
      Number(at(manifest('PodDisruptionBudget'), 'spec', 'minAvailable')),
  )
})
