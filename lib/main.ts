// From the command line to a command to an exit code. `--help` lists the flags.
import cluster from 'node:cluster'
import { parseCommandLine } from './commands/command-line.ts'
import type { ExitCode } from './commands/exit-code.ts'
import { serve } from './commands/serve.ts'
import { serveAsWorker } from './commands/serve-worker.ts'
import { WORKER_ARGS } from './workers/supervisor.ts'

/** What the launcher knows of the build. */
export interface Build {
  readonly version: string
}

const HELP = `Azure OpenAI Proxy: one URL and one key in front of all your Azure OpenAI resources.

Usage: azure-openai-proxy [--config FILE] [--port N]
       azure-openai-proxy --demo [--tls] | --check | --probe [--json] | --health [URL] | --new-key NAME | --version | --help
       azure-openai-proxy --usage [FILE...] [--by LIST] [--from DATE] [--to DATE] [--format table|csv|json]

  --config FILE | -c  the config; config.yaml in the current folder if left out
  --port N | -p       listens on this port instead of the config's
  --demo              simulated Azure OpenAI backends and a proxy in front of them: no account, no config
  --tls               with --demo: by https, for SDKs that insist on it
  --check             validates the config, prints every problem with its place and what looks like a mistake, exits
  --probe             validates, then asks every backend once, token-free, and prints a table (--json: for scripts)
  --health [URL]      asks a running proxy's /health: exit 0 healthy, 1 not
  --new-key NAME      prints a fresh client key once, and the config lines that hold only its hash
  --usage [FILE...]   sums up JSON logs (.gz too; none: standard input): requests, errors, tokens, cost
  --by LIST           with --usage: any of key,model,backend,day,month; key,model,month if left out
  --from DATE         with --usage: the first day, such as 2026-11-01 (UTC)
  --to DATE           with --usage: the last day
  --format FORMAT     with --usage: table, csv or json
  --version | -v      prints the version
  --help | -h         prints this

Exit codes: 0 done; 1 could not run; 2 the command line or the config is wrong.
`

/**
 * Threads of libuv: half of them may wait for the resolver at once, and the log file and random numbers need some too.
 */
const THREADS = '16'

/**
 * Runs the program.
 * @param argv without node and the script
 * @returns the exit code, once there is nothing left to do
 */
export async function main(argv: readonly string[], build: Build): Promise<ExitCode> {
  // Before anything uses the pool, which is made with this many threads; workers inherit it.
  process.env.UV_THREADPOOL_SIZE ??= THREADS
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
      return (await import('./commands/demo.ts')).demo({ port, tls: flags.tls, version: build.version })
    case 'serve':
      return serve({ file, port, version: build.version })
  }
}
