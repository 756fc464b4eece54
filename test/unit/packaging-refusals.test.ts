// Refusals of a build of packaged executables: the build itself is started, against a registry on this machine.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import process from 'node:process'
import t, { type Test } from 'tap'
import { gzip } from '../../deploy/build/compress.ts'
import { PLATFORM_NAMES } from '../../deploy/build/platforms.ts'
import { integrityOf } from '../../deploy/build/runtimes.ts'
import { writeTar } from '../../deploy/build/tar.ts'

const MAIN = join('dist', 'deploy', 'build', 'main.js')
/** No Node has it: so the build never starts itself again by what these tests offer it as a runtime. */
const VERSION = '0.0.1'
const PRESENT = 'node-of-the-test'

interface Ended {
  readonly code: number | null
  readonly stderr: string
}

function build(args: readonly string[], env: Readonly<Record<string, string>>): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [MAIN, ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
    })
    child.once('error', reject)
    child.once('close', code => resolve({ code, stderr }))
  })
}

/** A registry that has one package, of one version. */
async function startRegistry(t: Test, tarball: Buffer): Promise<string> {
  const server = http.createServer((request, response) => {
    if (request.url === '/runtime.tgz') {
      response.end(tarball)
      return
    }
    if (request.url !== `/${PRESENT}`) {
      response.writeHead(404, { 'content-type': 'application/json' }).end('{"error":"Not found"}')
      return
    }
    const dist = {
      tarball: `${url()}runtime.tgz`,
      integrity: integrityOf(tarball),
      shasum: createHash('sha1').update(tarball).digest('hex'),
    }
    const versions = { [VERSION]: { name: PRESENT, version: VERSION, dist } }
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ name: PRESENT, 'dist-tags': { latest: VERSION }, versions }))
  })
  const url = (): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return url()
}

interface Scene {
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** What stands in the output folder after the build. */
  left(): readonly string[]
}

/** A build whose six runtimes are one package, pinned to one hash. */
async function scene(t: Test, tarball: Buffer, name: string, integrity: string): Promise<Scene> {
  const folder = t.testdir({})
  const runtimes = join(folder, 'runtimes.json')
  const packages = Object.fromEntries(PLATFORM_NAMES.map(platform => [platform, { name, integrity }]))
  writeFileSync(runtimes, JSON.stringify({ node: VERSION, packages }))
  const registry = await startRegistry(t, tarball)
  const out = join(folder, 'out')
  return {
    args: ['current', '--out', out, '--runtimes', runtimes],
    env: { VERSION: '2.0.0', npm_config_registry: registry, npm_config_cache: join(folder, 'npm') },
    left: () => readdirSync(out, { recursive: true }).map(String).sort(),
  }
}

const RUNTIME = gzip(
  writeTar(
    [
      {
        path: 'package/package.json',
        bytes: Buffer.from(JSON.stringify({ name: PRESENT, version: VERSION })),
        executable: false,
      },
    ],
    0,
  ),
)
const TARBALL = `${PRESENT}-${VERSION}.tgz`

t.test('a wrong VERSION ends with exit code 2 and says how one looks', async t => {
  for (const version of ['two', 'v2.0.0', '../2.0.0']) {
    const { code, stderr } = await build(['current', '--out', join(t.testdir({}), 'out')], { VERSION: version })
    t.equal(code, 2)
    t.match(stderr, /^build: VERSION must look like 2\.0\.0 .*\n$/)
  }
})

t.test('a platform that is not one of the six ends with exit code 2 and names the six', async t => {
  const { code, stderr } = await build(['linux-riscv64'], { VERSION: '2.0.0' })
  t.equal(code, 2)
  t.match(stderr, /there is no platform "linux-riscv64", only linux-x64, .*win-arm64/)
})

t.test('a runtime package that the registry does not have stops the build, and nothing is left', async t => {
  const { args, env, left } = await scene(t, RUNTIME, 'no-such-node', integrityOf(RUNTIME))
  const { code, stderr } = await build(args, env)
  t.equal(code, 1)
  t.match(stderr, /^build: the runtime no-such-node@0\.0\.1 could not be fetched: .*404/)
  t.strictSame(left(), ['cache'])
})

t.test(
  'a runtime package with other bytes than the pinned ones stops the build, though the registry vouches for it',
  async t => {
    const pinned = integrityOf(Buffer.from('what the package was when it was pinned'))
    const { args, env, left } = await scene(t, RUNTIME, PRESENT, pinned)
    const { code, stderr } = await build(args, env)
    t.equal(code, 1)
    t.match(stderr, `build: the runtime ${PRESENT}@${VERSION} is not the pinned one`)
    t.match(stderr, integrityOf(RUNTIME))
    t.match(stderr, pinned)
    t.strictSame(left(), ['cache', join('cache', TARBALL)])
  },
)

t.test('a cached runtime package that was changed stops the build', async t => {
  const { args, env, left } = await scene(t, RUNTIME, PRESENT, integrityOf(RUNTIME))
  const first = await build(args, env)
  // The hash is right, so the build gets further: to the executable that this package lacks.
  t.match(first, { code: 1, stderr: /the runtime of .* has no package\/bin\/node/ })
  const out = args[2] ?? ''
  const changed = Buffer.from(RUNTIME)
  changed[changed.length - 1] = (changed.at(-1) ?? 0) ^ 1
  writeFileSync(join(out, 'cache', TARBALL), changed)
  const second = await build(args, env)
  t.equal(second.code, 1)
  t.match(second.stderr, /is not the pinned one, so nothing is built from it/)
  t.strictSame(left(), ['cache', join('cache', TARBALL)])
})
