// bin/proxy.js and what the build leaves for it in dist: the program as one file and its source map.
import { execFile } from 'node:child_process'
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { read } from '../fixtures/deploy-files.ts'

const { version }: { readonly version: string } = JSON.parse(read('package.json'))

/** A folder with what the portable archive has of the program. */
function installed(t: Test): string {
  const folder = t.testdir({})
  for (const path of ['bin', 'package.json', 'dist/proxy.cjs', 'dist/proxy.cjs.map']) {
    cpSync(path, join(folder, path), { recursive: true })
  }
  return folder
}

function filesIn(folder: string): string[] {
  return readdirSync(folder).flatMap(name => {
    const path = join(folder, name)
    return statSync(path).isDirectory() ? filesIn(path) : [path]
  })
}

interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** As a user starts it: the runner of the tests adds modules to all that it starts, and maps traces for itself. */
function run(folder: string, args: readonly string[], nodeArgs: readonly string[] = []): Promise<Ended> {
  return new Promise(resolve => {
    const command = [process.execPath, ...nodeArgs, join(folder, 'bin/proxy.js'), ...args]
    execFile('env', ['-u', 'NODE_OPTIONS', ...command], (error, stdout, stderr) =>
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

t.test('an older Node than package.json asks for gets one sentence, and 1', async t => {
  const folder = installed(t)
  const text = readFileSync(join(folder, 'package.json'), 'utf8')
  for (const [needed, isOld] of [
    ['99.1', true],
    [process.versions.node, false],
  ] as const) {
    writeFileSync(
      join(folder, 'package.json'),
      text.replace(/"node": ">=[^"]*"/, () => `"node": ">=${needed}"`),
    )
    const stderr = `azure-openai-proxy: needs Node.js ${needed} or newer, this is ${process.versions.node}\n`
    t.same(
      await run(folder, ['--version']),
      isOld ? { code: 1, stdout: '', stderr } : { code: 0, stdout: `${version}\n`, stderr: '' },
    )
  }
})

t.test('it starts again and again, with whatever lies in the compile cache, and says nothing of it', async t => {
  const folder = installed(t)
  const sound = { code: 0, stdout: `${version}\n`, stderr: '' }
  t.same(await run(folder, ['--version']), sound)
  t.same(await run(folder, ['--version']), sound, 'from the cache, where Node keeps one')

  const cache = join(folder, 'dist/compile-cache')
  for (const file of existsSync(cache) ? filesIn(cache) : []) writeFileSync(file, 'no code')
  t.same(await run(folder, ['--version']), sound, 'of another content')
  rmSync(cache, { recursive: true, force: true })
  writeFileSync(cache, 'no folder')
  t.same(await run(folder, ['--version']), sound, 'no folder can be made')
})

t.test('a trace names the lines of the bundle; where source maps are asked for, those of lib', async t => {
  const folder = installed(t)
  const preload = join(folder, 'no-server.cjs')
  writeFileSync(preload, 'require("node:http").createServer = () => { throw new Error("no server here") }')
  writeFileSync(
    join(folder, 'config.yaml'),
    'auth: {keys: [{name: a, key: a-key}]}\nmodels: {m: {backends: [{endpoint: "http://127.0.0.1:9", api_key: b}]}}\n',
  )
  const start = (...flags: readonly string[]) =>
    run(folder, ['--config', join(folder, 'config.yaml')], [...flags, '--require', preload])
  const mapped = await start('--enable-source-maps')
  t.equal(mapped.code, 1)
  t.match(mapped.stderr, /Error: no server here\n {4}at .*no-server\.cjs/)
  const [, line] = /at .*createListener \(.*[\\/]lib[\\/]server[\\/]listener\.ts:(\d+):\d+\)/.exec(mapped.stderr) ?? []
  t.match(read('lib/server/listener.ts').split('\n')[Number(line) - 1], 'http.createServer', 'the very line')

  const ofBundle = /no server here\n(?:.*\n)*.*at .*createListener.*proxy\.cjs:\d+:\d+/
  // The runner of the tests asks for maps in what it starts.
  t.match(
    (await start('--no-enable-source-maps')).stderr,
    ofBundle,
    'no map is read at a start that nobody asked it of',
  )
  rmSync(join(folder, 'dist/proxy.cjs.map'))
  t.match((await start('--enable-source-maps')).stderr, ofBundle, 'the map is missing')
})
