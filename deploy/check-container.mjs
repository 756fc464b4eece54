// `make container-check`: is the container packaging sound? A check of our own always; docker-compose and buildah where they
// are installed (BUILDAH_STORAGE=vfs: where overlay file systems are not to be had). Says plainly what ran and what did not.
// `--static`: our own check alone; `--root FOLDER`: of another tree.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { parse, parseAllDocuments } from 'yaml'

const BASE_IMAGE = 'docker.io/library/node:24-bookworm-slim'

/** One instruction a line: comments out, continued lines joined. */
function instructions(text) {
  const lines = text
    .split('\n')
    .filter(line => !/^\s*(#|$)/.test(line))
    .join('\n')
    .replaceAll(/\\\n\s*/g, ' ')
    .split('\n')
  return lines.map(line => {
    const [, name, rest] = /^\s*(\S+)\s+(.*)$/.exec(line) ?? [undefined, line, '']
    return { name: name.toUpperCase(), rest: rest.trim() }
  })
}

/** What .dockerignore lets through: the last pattern that matches counts. */
function isSent(path, patterns) {
  let sent = true
  for (const raw of patterns) {
    const keeps = raw.startsWith('!')
    const pattern = keeps ? raw.slice(1) : raw
    const source = pattern
      .split('**/')
      .map(part => part.replaceAll(/[.+^$()|[\]{}]/g, '\\$&').replaceAll('*', '[^/]*'))
      .join('(?:.*/)?')
    if (new RegExp(`^${source}(?:/.*)?$`).test(path)) sent = keeps
  }
  return sent
}

function isExecForm(text) {
  try {
    const list = JSON.parse(text)
    return Array.isArray(list) && list.length > 0 && list.every(item => typeof item === 'string')
  } catch {
    return false
  }
}

function checkDockerfile(root, say) {
  const all = instructions(readFileSync(join(root, 'Dockerfile'), 'utf8'))
  const ignored = readFileSync(join(root, '.dockerignore'), 'utf8')
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))
  if (ignored[0] !== '*') say('.dockerignore: must begin with * and then allow, so that nothing new slips in')
  for (const path of ['config.yaml', '.env', '.git/config', 'node_modules/yaml/package.json', 'build/x', 'test/x.ts']) {
    if (isSent(path, ignored)) say(`.dockerignore: lets ${path} into the build`)
  }

  const stages = new Set(all.flatMap(({ name, rest }) => (name === 'FROM' ? [/\sAS\s+(\S+)/i.exec(rest)?.[1]] : [])))
  for (const { name, rest } of all) {
    if (name === 'ADD') say('Dockerfile: ADD unpacks and downloads; use COPY')
    if (name !== 'COPY') continue
    const from = /^--from=(\S+)/.exec(rest)?.[1]
    if (from !== undefined) {
      if (!stages.has(from)) say(`Dockerfile: COPY --from=${from}: there is no such stage`)
      continue
    }
    for (const source of rest.split(/\s+/).slice(0, -1)) {
      const path = source.replace(/\/$/, '')
      if (!existsSync(join(root, path))) say(`Dockerfile: COPY ${source}: there is no such file`)
      else if (!isSent(path, ignored)) say(`Dockerfile: COPY ${source}: .dockerignore keeps it out`)
    }
  }

  const last = all.slice(all.findLastIndex(({ name }) => name === 'FROM'))
  const one = wanted => last.findLast(({ name }) => name === wanted)?.rest
  if (last.some(({ name }) => name === 'RUN')) say('Dockerfile: the last stage runs nothing, it only copies')
  const user = one('USER') ?? 'root'
  if (!/^[1-9]\d*:[1-9]\d*$/.test(user)) say(`Dockerfile: USER ${user}: must be two numbers, neither of them 0`)
  for (const name of ['ENTRYPOINT', 'CMD']) {
    if (!isExecForm(one(name) ?? '')) say(`Dockerfile: ${name} must be a JSON list: a shell would swallow SIGTERM`)
  }
  const health = one('HEALTHCHECK') ?? ''
  if (!isExecForm(/\bCMD\s+(.*)$/.exec(health)?.[1] ?? '')) say('Dockerfile: HEALTHCHECK must be CMD and a JSON list')
  if (!health.includes('"--health"')) say('Dockerfile: HEALTHCHECK must be the program, with --health')
  if (one('STOPSIGNAL') !== 'SIGTERM') say('Dockerfile: STOPSIGNAL must be SIGTERM, which drains')
  for (const { name, rest } of last) {
    if ((name === 'ENV' || name === 'ARG') && /key|secret|token|password/i.test(rest))
      say(`Dockerfile: ${name} ${rest}`)
  }
}

function checkCompose(root, say) {
  const { services } = parse(readFileSync(join(root, 'docker-compose.yml'), 'utf8'))
  for (const [name, service] of Object.entries(services)) {
    const must = (sound, what) => (sound ? undefined : say(`docker-compose.yml: ${name}: ${what}`))
    must(service.read_only === true, 'read_only must be true')
    must(service.cap_drop?.includes('ALL'), 'cap_drop must hold ALL')
    must(service.security_opt?.includes('no-new-privileges:true'), 'security_opt must hold no-new-privileges:true')
    must(service.mem_limit !== undefined && service.pids_limit > 0, 'mem_limit and pids_limit must be set')
    must(service.privileged !== true && service.cap_add === undefined, 'no privileges')
    must(service.init === true, 'init must be true')
    must(
      service.volumes?.every(volume => typeof volume === 'object' && volume.read_only === true),
      'every volume must be read_only, in the long form',
    )
  }
}

function checkManifest(root, say) {
  const file = 'deploy/kubernetes.yaml'
  const documents = parseAllDocuments(readFileSync(join(root, file), 'utf8'))
  for (const document of documents) {
    for (const error of [...document.errors, ...document.warnings]) say(`${file}: ${error.message}`)
  }
  const objects = documents.map(document => document.toJS())
  for (const object of objects) {
    if (!object?.apiVersion || !object.kind || !object.metadata?.name) say(`${file}: an object lacks kind or name`)
  }
  for (const { spec } of objects.filter(object => object.kind === 'Deployment')) {
    const pod = spec.template.spec
    if (pod.securityContext?.runAsNonRoot !== true) say(`${file}: runAsNonRoot must be true`)
    for (const { name, securityContext, resources } of pod.containers) {
      const sound =
        securityContext?.readOnlyRootFilesystem === true &&
        securityContext.allowPrivilegeEscalation === false &&
        securityContext.capabilities?.drop?.includes('ALL')
      if (!sound) say(`${file}: ${name}: the securityContext must be read-only, without privileges and capabilities`)
      if (resources?.limits?.memory === undefined) say(`${file}: ${name}: the memory must be limited`)
    }
  }
}

function ownCheck(root) {
  const problems = []
  const say = problem => problems.push(problem)
  for (const check of [checkDockerfile, checkCompose, checkManifest]) check(root, say)
  return problems
}

function run(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', ...options })
  if (error?.code === 'ENOENT') return { kind: 'absent' }
  const said = `${stdout ?? ''}${stderr ?? ''}`.trim()
  return { kind: status === 0 ? 'ok' : 'failed', said: said || String(error?.message ?? '') }
}

// In a copy, with a config beside it: a compose file is resolved against its folder, and config.yaml need not be there.
function composeCheck(root, print) {
  const work = mkdtempSync(join(tmpdir(), 'container-check-'))
  try {
    cpSync(join(root, 'docker-compose.yml'), join(work, 'docker-compose.yml'))
    mkdirSync(join(work, 'config'))
    writeFileSync(join(work, 'config', 'config.yaml'), '')
    const { kind, said } = run('docker-compose', ['config', '-q'], { cwd: work })
    if (kind === 'absent') print('docker-compose config: NOT RUN: docker-compose is not installed')
    else print(`docker-compose config: ${kind === 'ok' ? 'ok' : `FAILED\n${said}`}`)
    return kind !== 'failed'
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

// Builds only over a base image that is there already: an image is pulled on purpose, not by a check.
function imageCheck(root, print) {
  const storage = process.env.BUILDAH_STORAGE ? ['--storage-driver', process.env.BUILDAH_STORAGE] : []
  const buildah = (...args) => run('buildah', [...storage, ...args], { cwd: root, maxBuffer: 64 * 1024 * 1024 })
  const base = buildah('inspect', '--type', 'image', BASE_IMAGE)
  if (base.kind === 'absent') return print('image: NOT BUILT: buildah is not installed') ?? true
  if (base.kind === 'failed') return print(`image: NOT BUILT: ${BASE_IMAGE} is not here (buildah pull)`) ?? true
  const image = 'azure-openai-proxy:container-check'
  const built = buildah('bud', '--isolation', 'chroot', '--format', 'docker', '--pull-never', '-t', image, '.')
  if (built.kind === 'failed') return print(`image: FAILED\n${built.said}`) ?? false
  const name = buildah('from', '--pull-never', image).said?.split('\n').at(-1)
  try {
    const started = buildah('run', '--isolation', 'chroot', name, '--', 'node', 'bin/proxy.js', '--version')
    print(`image: built; --version in it: ${started.kind === 'ok' ? started.said : `FAILED\n${started.said}`}`)
    return started.kind === 'ok'
  } finally {
    buildah('rm', name)
    buildah('rmi', image)
  }
}

const { values } = parseArgs({ options: { static: { type: 'boolean' }, root: { type: 'string' } } })
const root = values.root ?? fileURLToPath(new URL('..', import.meta.url))
const print = line => void process.stdout.write(`container-check: ${line}\n`)
if (!statSync(root).isDirectory()) throw new Error(`${root} is no folder`)
const problems = ownCheck(root)
for (const problem of problems) print(problem)
print(
  `own check of Dockerfile, .dockerignore, docker-compose.yml, deploy/kubernetes.yaml: ${problems.length === 0 ? 'ok' : 'FAILED'}`,
)
let sound = problems.length === 0
if (values.static !== true) {
  sound = composeCheck(root, print) && sound
  sound = imageCheck(root, print) && sound
}
process.exitCode = sound ? 0 : 1
