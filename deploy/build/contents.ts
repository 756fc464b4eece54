// The contents of each archive.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BuildError } from './errors.ts'
import type { Platform } from './platforms.ts'
import type { Entry } from './tar.ts'

function file(root: string, from: string, to: string): Entry {
  const path = join(root, from)
  if (!existsSync(path)) throw new BuildError(`${from} is missing: it belongs into an archive`)
  return { path: to, bytes: readFileSync(path), executable: false }
}

/** What operators need beside the program, under the paths that the README links to. */
export const DEPLOY_FILES = [
  'docker-compose.yml',
  'deploy/README.md',
  'deploy/operate.md',
  'deploy/reference.md',
  'deploy/migrate.md',
  'deploy/clients.md',
  'deploy/network.md',
  'deploy/grafana-dashboard.json',
  'deploy/prometheus-rules.yaml',
  'deploy/kubernetes.yaml',
  'test/browser/screenshots/status-light.png',
] as const

/** What every archive holds beside the program. */
function common(root: string, nodeLicense: Buffer | undefined): readonly Entry[] {
  return [
    file(root, 'config.template.yaml', 'config.template.yaml'),
    file(root, 'README.md', 'README.md'),
    file(root, 'README.zh-CN.md', 'README.zh-CN.md'),
    file(root, 'LICENSE', 'LICENSE'),
    ...DEPLOY_FILES.map(path => file(root, path, path)),
    file(root, 'node_modules/yaml/LICENSE', 'licenses/yaml.txt'),
    ...(nodeLicense === undefined ? [] : [{ path: 'licenses/node.txt', bytes: nodeLicense, executable: false }]),
  ]
}

function under(folder: string, entries: readonly Entry[]): readonly Entry[] {
  return entries.map(entry => ({ ...entry, path: `${folder}/${entry.path}` }))
}

/**
 * The archive of an executable: one folder.
 * @throws BuildError when a file that belongs there is missing
 */
export function executableArchive(
  root: string,
  folder: string,
  platform: Platform,
  executable: Buffer,
  nodeLicense: Buffer,
): readonly Entry[] {
  const services = Object.entries(platform.serviceFiles).map(([from, to]) => file(root, from, to))
  const program = { path: `azure-openai-proxy${platform.suffix}`, bytes: executable, executable: true }
  return under(folder, [program, ...services, ...common(root, nodeLicense)])
}

/**
 * The portable archive, for machines that have Node: what `node bin/proxy.js` needs, and no npm.
 * @throws BuildError when a file that belongs there is missing
 */
export function portableArchive(root: string, folder: string, version: string): readonly Entry[] {
  const { name, description, license, type, engines, bin } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  ) as Readonly<Record<string, unknown>>
  const description2 = { name, version, description, license, private: true, type, engines, bin }
  return under(folder, [
    { path: 'package.json', bytes: Buffer.from(`${JSON.stringify(description2, null, 2)}\n`), executable: false },
    { ...file(root, 'bin/proxy.js', 'bin/proxy.js'), executable: true },
    file(root, 'bin/package.json', 'bin/package.json'),
    file(root, 'dist/proxy.cjs', 'dist/proxy.cjs'),
    file(root, 'dist/proxy.cjs.map', 'dist/proxy.cjs.map'),
    ...common(root, undefined),
  ])
}
