// From the command line to a command to an exit code. The flags are the contract's section 2.
import cluster from 'node:cluster'
import { HELP, parseCommandLine } from './commands/command-line.ts'
import type { ExitCode } from './commands/exit-code.ts'
import { serve } from './commands/serve.ts'
import { serveAsWorker } from './commands/serve-worker.ts'
import { WORKER_ARGS } from './workers/supervisor.ts'

/** What the launcher knows of the build. */
export interface Build {
  readonly version: string
}

/**
 * Runs the program.
 * @param argv without node and the script
 * @returns the exit code, once there is nothing left to do
 */
export async function main(argv: readonly string[], build: Build): Promise<ExitCode> {
  const workerArgs = process.env[WORKER_ARGS]
  if (cluster.isWorker && workerArgs !== undefined) return serveAsWorker(workerArgs)
  const flags = parseCommandLine(argv)
  if (typeof flags === 'string') {
    process.stderr.write(`azure-openai-proxy: ${flags}\nTry --help.\n`)
    return 2
  }
  const { config, port } = flags
  const file = config ?? 'config.yaml'
  // What serving does not need is loaded only when it is asked for: a service starts the sooner.
  switch (flags.command) {
    case 'help':
      process.stdout.write(HELP)
      return 0
    case 'version':
      process.stdout.write(`${build.version}\n`)
      return 0
    case 'check':
      return (await import('./commands/check.ts')).check(file)
    case 'probe':
      return (await import('./commands/probe.ts')).probe(file, { json: flags.json })
    case 'health':
      return (await import('./commands/health.ts')).health(flags.rest[0], { file: config, port })
    case 'usage': {
      const { rest: files, by, from, to, format } = flags
      return (await import('./commands/usage.ts')).usage({ files, by, from, to, format })
    }
    case 'new-key':
      return (await import('./commands/new-key.ts')).newKey(flags.keyName)
    case 'demo':
      return (await import('./commands/demo.ts')).demo({ port, version: build.version })
    case 'serve':
      return serve({ file, port, version: build.version })
  }
}
