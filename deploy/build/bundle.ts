// The program as one CommonJS file, and as the blob that a Node runtime takes in ("single executable application").
import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type BuildOptions, build } from 'esbuild'
import { BuildError } from './errors.ts'
import { PAGE_MODULE } from './page.ts'

/** Not minified: traces from a packaged program name places in this file, and no source map is applied there. */
const BUNDLE = 'app.cjs'
const BLOB = 'sea.blob'

export interface Bundle {
  readonly code: string
  readonly map: string
}

/** @throws BuildError when the bundle would name a folder of this machine, which no two machines have in common */
async function bundleOf(root: string, options: BuildOptions): Promise<Bundle> {
  const result = await build({
    absWorkingDir: root,
    outfile: BUNDLE,
    write: false,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    sourcemap: 'external',
    legalComments: 'eof',
    // A node_modules that is a link would otherwise show in the comments where it leads.
    preserveSymlinks: true,
    logLevel: 'error',
    // Made by page.ts, so it lies beside no source.
    plugins: [
      {
        name: 'status-page',
        setup(hooks) {
          hooks.onResolve({ filter: /^\.\/page\.js$/ }, () => ({ path: join(root, PAGE_MODULE) }))
        },
      },
    ],
    ...options,
  })
  const text = (suffix: string): string => result.outputFiles?.find(file => file.path.endsWith(suffix))?.text ?? ''
  const code = text('.cjs')
  const map = text('.map')
  if (code.includes(root) || map.includes(root)) throw new BuildError(`the bundle names the folder ${root}`)
  return { code, map }
}

/**
 * Bundles the program with its one dependency, for the executables.
 * @param root the repository
 * @param version what --version prints
 * @returns the bundle and its source map
 * @throws BuildError when the bundle is not the same on every machine
 */
export function bundle(root: string, version: string): Promise<Bundle> {
  return bundleOf(root, {
    entryPoints: ['deploy/build/sea-entry.ts'],
    define: { __APP_VERSION__: JSON.stringify(version) },
  })
}

/**
 * Bundles the program with its one dependency, for bin/proxy.js: a CommonJS module that exports what lib/main.ts does.
 * @param outfile where the bundle will lie; its source map lies beside it and names its sources from there
 * @throws BuildError when the bundle is not the same on every machine
 */
export function bundleForLauncher(root: string, outfile: string): Promise<Bundle> {
  return bundleOf(root, { entryPoints: ['lib/main.ts'], outfile, sourcemap: 'linked', sourcesContent: false })
}

/**
 * Makes the blob. Neither snapshot nor code cache, which would bind it to one platform; no execArgv, which would
 * disable NODE_OPTIONS.
 * @param node a runtime of this machine of the version the executables have
 * @param folder where it may leave its files
 */
export async function makeBlob(node: string, code: string, folder: string): Promise<string> {
  writeFileSync(join(folder, BUNDLE), code)
  // Relative paths: the blob holds the name of its source.
  const config = {
    main: BUNDLE,
    output: BLOB,
    disableExperimentalSEAWarning: true,
    useSnapshot: false,
    useCodeCache: false,
  }
  writeFileSync(join(folder, 'sea.json'), JSON.stringify(config))
  await promisify(execFile)(node, ['--experimental-sea-config', 'sea.json'], { cwd: folder }).catch(
    (error: unknown) => {
      throw new BuildError(`Node could not make the blob: ${error instanceof Error ? error.message : String(error)}`)
    },
  )
  return join(folder, BLOB)
}
