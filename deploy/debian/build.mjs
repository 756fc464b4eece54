// Packs the executables of build/ as Debian packages: `make deb` (VERSION=…: which, where build/ holds several).
// The same executable, sources and commit give the same bytes. Nothing half made stays under a final name.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const NAME = 'azure-openai-proxy'
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const BUILD = join(ROOT, 'build')
const DEBIAN_ARCH = { x64: 'amd64', arm64: 'arm64' }

// Where each file of the repository goes, and who may do what with it.
const FILES = [
  ['deploy/systemd/azure-openai-proxy.service', 'lib/systemd/system/azure-openai-proxy.service', 0o644],
  ['deploy/debian/config.yaml', 'etc/azure-openai-proxy/config.yaml', 0o640],
  ['deploy/logrotate', 'etc/logrotate.d/azure-openai-proxy', 0o644],
  ['README.md', 'usr/share/doc/azure-openai-proxy/README.md', 0o644],
  ['deploy/README.md', 'usr/share/doc/azure-openai-proxy/deploy/README.md', 0o644],
  ...[
    'clients.md',
    'network.md',
    'operate.md',
    'reference.md',
    'migrate.md',
    'grafana-dashboard.json',
    'prometheus-rules.yaml',
  ].map(name => [`deploy/${name}`, `usr/share/doc/azure-openai-proxy/deploy/${name}`, 0o644]),
  ['config.template.yaml', 'usr/share/doc/azure-openai-proxy/config.template.yaml', 0o644],
]
const CONFFILES = ['/etc/azure-openai-proxy/config.yaml', '/etc/logrotate.d/azure-openai-proxy']
const SCRIPTS = ['postinst', 'prerm', 'postrm']

class Failure extends Error {}

function run(command, args, options = {}) {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], ...options })
  } catch (error) {
    if (error.code === 'ENOENT') throw new Failure(`${command} is needed, and is not installed`)
    throw new Failure(`${command} ${args[0]} failed: ${String(error.stderr ?? error.message).trim()}`)
  }
}

// Executables of build/: [version, x64 or arm64, path].
function executables(wanted) {
  const all = (existsSync(BUILD) ? readdirSync(BUILD) : []).flatMap(file => {
    const match = /^azure-openai-proxy-(\d.*)-linux-(x64|arm64)$/.exec(file)
    return match === null ? [] : [{ version: match[1], arch: match[2], path: join(BUILD, file) }]
  })
  const found = wanted ? all.filter(one => one.version === wanted) : all
  if (found.length === 0) {
    throw new Failure(`no ${NAME}-${wanted || 'VERSION'}-linux-x64 in build/: run "make build-current" first`)
  }
  const versions = [...new Set(found.map(one => one.version))]
  if (versions.length > 1) throw new Failure(`build/ holds ${versions.join(' and ')}: name one, VERSION=${versions[0]}`)
  return found
}

/** 2.0.0-rc.1 comes before 2.0.0 in semver; in Debian's order "~" says so. */
function debianVersion(version) {
  return version.replaceAll('-', '~')
}

// Seconds since 1970 that every file is dated with: the commit's, unless the environment says otherwise.
function sourceDate() {
  const given = process.env.SOURCE_DATE_EPOCH
  if (given !== undefined && /^\d{1,12}$/.test(given)) return Number(given)
  try {
    return Number(run('git', ['-C', ROOT, 'log', '-1', '--format=%ct']).trim())
  } catch {
    return 0
  }
}

// Licence texts of what is inside the executable: they stand in its archive.
function licences(executable) {
  const archive = `${executable}.tar.gz`
  if (!existsSync(archive)) throw new Failure(`${basename(archive)} is missing: run "make build-current" again`)
  const names = run('tar', ['-tzf', archive]).split('\n')
  const texts = names.filter(name => /licen[cs]e/i.test(name) && !name.endsWith('/')).sort()
  const read = name => run('tar', ['-xOzf', archive, name], { maxBuffer: 16 * 1024 * 1024 }).trimEnd()
  const found = texts.map(name => ({ name: name.split('/').slice(1).join('/'), text: read(name) }))
  if (found.length < 3)
    throw new Failure(`${basename(archive)} lacks licences: this program's, Node's and yaml's are due`)
  return found
}

// https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/ wants blank lines as dots.
function copyright(parts) {
  const indented = text => text.split('\n').map(line => (line.trim() === '' ? ' .' : ` ${line.trimEnd()}`))
  return [
    'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/',
    `Upstream-Name: ${NAME}`,
    'Comment: The executable holds this program (MIT), Node.js (MIT, with the parts its licence lists) and yaml (ISC).',
    ' Their texts follow.',
    ...parts.flatMap(({ name, text }) => [' .', ` ==== ${name} ====`, ' .', ...indented(text)]),
    '',
    'Files: *',
    'Copyright: see above',
    'License: MIT and ISC',
    ' See above.',
    '',
  ].join('\n')
}

function control({ version, arch, installedKiB }) {
  return `Package: ${NAME}
Version: ${debianVersion(version)}
Architecture: ${DEBIAN_ARCH[arch]}
Maintainer: Azure OpenAI Proxy maintainers <maintainers@azure-openai-proxy.invalid>
Section: net
Priority: optional
Installed-Size: ${installedKiB}
Depends: libc6 (>= 2.28), libstdc++6, passwd
Suggests: systemd, logrotate
Description: one URL and one key in front of all your Azure OpenAI resources
 Requests of any OpenAI client are balanced over Azure OpenAI deployments,
 streamed, and failed over unseen when one of them fails or throttles.
 One executable with its own runtime; nothing else is needed.
`
}

function put(tree, to, content, mode) {
  const path = join(tree, to)
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
  writeFileSync(path, content)
  chmodSync(path, mode)
}

function walk(folder) {
  return readdirSync(folder)
    .sort()
    .flatMap(name => {
      const path = join(folder, name)
      return lstatSync(path).isDirectory() ? [path, ...walk(path)] : [path]
    })
}

// Fills `tree` as the package unpacks, with DEBIAN/ beside it.
function fill(tree, executable) {
  for (const [from, to, mode] of FILES) put(tree, to, readFileSync(join(ROOT, from)), mode)
  put(tree, `usr/share/doc/${NAME}/copyright`, copyright(licences(executable.path)), 0o644)
  mkdirSync(join(tree, 'usr/bin'), { recursive: true, mode: 0o755 })
  copyFileSync(executable.path, join(tree, 'usr/bin', NAME))
  chmodSync(join(tree, 'usr/bin', NAME), 0o755)
  // Root alone: systemd reads them for the service.
  mkdirSync(join(tree, 'etc', NAME, 'secrets'), { mode: 0o700 })

  const files = walk(tree).filter(path => !lstatSync(path).isDirectory())
  const installedKiB = files.reduce((sum, path) => sum + Math.ceil(lstatSync(path).size / 1024), 0)
  const sums = files
    .map(path => path.slice(tree.length + 1))
    .filter(path => !CONFFILES.includes(`/${path}`))
    .map(
      path =>
        `${createHash('md5')
          .update(readFileSync(join(tree, path)))
          .digest('hex')}  ${path}\n`,
    )
  put(tree, 'DEBIAN/control', control({ ...executable, installedKiB }), 0o644)
  put(tree, 'DEBIAN/conffiles', CONFFILES.map(path => `${path}\n`).join(''), 0o644)
  put(tree, 'DEBIAN/md5sums', sums.join(''), 0o644)
  for (const script of SCRIPTS) {
    put(tree, `DEBIAN/${script}`, readFileSync(join(ROOT, 'deploy/debian', script)), 0o755)
  }
}

function pack(executable) {
  const date = sourceDate()
  const work = mkdtempSync(join(BUILD, '.deb-'))
  try {
    const tree = join(work, 'tree')
    mkdirSync(tree, { mode: 0o755 })
    chmodSync(tree, 0o755)
    fill(tree, executable)
    for (const path of [...walk(tree), tree]) utimesSync(path, date, date)
    const made = join(work, 'made.deb')
    const env = { ...process.env, SOURCE_DATE_EPOCH: String(date) }
    run('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', tree, made], { env })
    const name = `${NAME}_${debianVersion(executable.version)}_${DEBIAN_ARCH[executable.arch]}.deb`
    const sum = createHash('sha256').update(readFileSync(made)).digest('hex')
    writeFileSync(join(work, 'sum'), `${sum}  ${name}\n`)
    renameSync(made, join(BUILD, name))
    renameSync(join(work, 'sum'), join(BUILD, `${name}.sha256`))
    return { name, bytes: lstatSync(join(BUILD, name)).size, sum }
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

process.umask(0o022)
try {
  for (const executable of executables(process.env.VERSION)) {
    const { name, bytes, sum } = pack(executable)
    process.stdout.write(`build/${name}  ${(bytes / 1e6).toFixed(1)} MB  sha256 ${sum}\n`)
  }
} catch (error) {
  const full = error.code === 'ENOSPC' ? 'no space left on the device' : undefined
  process.stderr.write(`deb: ${full ?? (error instanceof Failure ? error.message : error.stack)}\n`)
  process.exitCode = 1
}
