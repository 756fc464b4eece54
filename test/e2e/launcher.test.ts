// bin/proxy.js and what the build leaves for it in dist: the program as one file, its source map, V8's code cache of it.
import { execFile } from 'node:child_process'
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { read } from '../fixtures/deploy-files.ts'

const { version }: { readonly version: string } = JSON.parse(read('package.json'))

/** A folder with what the portable archive has of the program, and the cache. */
function installed(t: Test): string {
  const folder = t.testdir({})
  for (const path of ['bin', 'package.json', 'dist/proxy.cjs', 'dist/proxy.cjs.map', 'dist/proxy.cache']) {
    cpSync(path, join(folder, path), { recursive: true })
  }
  return folder
}

interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

function run(folder: string, args: readonly string[], nodeArgs: readonly string[] = []): Promise<Ended> {
  return new Promise(resolve => {
    execFile(process.execPath, [...nodeArgs, join(folder, 'bin/proxy.js'), ...args], (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    )
  })
}

t.test('where nothing is built it says what to do, and ends with 1', async t => {
  const folder = installed(t)
  rmSync(join(folder, 'dist'), { recursive: true })
  const { code, stdout, stderr } = await run(folder, ['--version'])
  t.same({ code, stdout }, { code: 1, stdout: '' })
  t.match(stderr, 'run "make build" first')
})

t.test('it runs with the code cache, without one, and with one that does not fit, and says nothing of it', async t => {
  const folder = installed(t)
  const file = join(folder, 'dist/proxy.cache')
  const fits = readFileSync(file)
  const sound = { code: 0, stdout: `${version}\n`, stderr: '' }
  t.same(await run(folder, ['--version']), sound)

  for (const [what, bytes] of [
    ['of another source', Buffer.concat([Buffer.alloc(64, 'f'), fits.subarray(64)])],
    ['of another V8', Buffer.concat([fits.subarray(0, 64), Buffer.alloc(fits.length - 64, 1)])],
    ['cut off', fits.subarray(0, 1_000)],
    ['empty', Buffer.alloc(0)],
  ] as const) {
    writeFileSync(file, bytes)
    t.same(await run(folder, ['--version']), sound, what)
  }
  rmSync(file)
  t.same(await run(folder, ['--version']), sound, 'none')
})

t.test('a trace names the lines of lib; without the source map, those of the bundle', async t => {
  const folder = installed(t)
  const preload = join(folder, 'no-server.cjs')
  writeFileSync(preload, 'require("node:http").createServer = () => { throw new Error("no server here") }')
  writeFileSync(
    join(folder, 'config.yaml'),
    'auth: {keys: [{name: a, key: a-key}]}\nmodels: {m: {backends: [{endpoint: "http://127.0.0.1:9", api_key: b}]}}\n',
  )
  const start = () => run(folder, ['--config', join(folder, 'config.yaml')], ['--require', preload])
  const mapped = await start()
  t.equal(mapped.code, 1)
  t.match(mapped.stderr, /Error: no server here\n {4}at .*no-server\.cjs/)
  const [, line] = /at .*createListener \(.*[\\/]lib[\\/]server[\\/]listener\.ts:(\d+):\d+\)/.exec(mapped.stderr) ?? []
  t.match(read('lib/server/listener.ts').split('\n')[Number(line) - 1], 'http.createServer', 'the very line')

  rmSync(join(folder, 'dist/proxy.cjs.map'))
  t.match((await start()).stderr, /no server here\n(?:.*\n)*.*at .*createListener.*proxy\.cjs:\d+:\d+/)
})
