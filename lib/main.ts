// From the command line to a command to an exit code. The flags are the contract's section 2.
import cluster from 'node:cluster'
import { parseArgs } from 'node:util'
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
       azure-openai-proxy --demo | --check | --probe [--json] | --health [URL] | --version | --help

  --config FILE   the config; config.yaml in the current folder if left out
  --demo          simulated Azure OpenAI backends and a proxy in front of them: no account, no config
  --check         validates the config, prints every problem with its place, exits
  --probe         validates, then asks every backend once, token-free, and prints a table (--json: for scripts)
  --health [URL]  asks a running proxy's /health: exit 0 healthy, 1 not
  --port N        listens on this port instead of the config's
  --version       prints the version
  --help          prints this

Exit codes: 0 done; 1 could not run; 2 the command line or the config is wrong.
`

interface Flags {
  readonly config: string | undefined
  readonly port: number | undefined
  readonly command: 'serve' | 'demo' | 'check' | 'probe' | 'health' | 'version' | 'help'
  readonly url: string | undefined
  readonly json: boolean
}

function parsePort(text: string | undefined): number | undefined | 'wrong' {
  if (text === undefined) return undefined
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  return port >= 0 && port <= 65_535 ? port : 'wrong'
}

/** @returns the flags, or what is wrong with them */
function parse(argv: readonly string[]): Flags | string {
  // `--health URL` and `--health=URL` both: util.parseArgs knows no optional values.
  const args = argv.flatMap(arg => (arg.startsWith('--health=') ? ['--health', arg.slice(9)] : [arg]))
  let parsed: ReturnType<typeof parseFlags>
  try {
    parsed = parseFlags(args)
  } catch (error) {
    return error instanceof Error ? error.message : 'the command line is wrong'
  }
  const { values, positionals } = parsed
  const commands = (['demo', 'check', 'probe', 'health', 'version', 'help'] as const).filter(
    name => values[name] === true,
  )
  if (values.help === true) return { command: 'help', config: undefined, port: undefined, url: undefined, json: false }
  if (commands.length > 1) return `--${commands.join(' and --')} do not go together`
  const command = commands[0] ?? 'serve'
  const stray = positionals[command === 'health' ? 1 : 0]
  if (stray !== undefined) return `unexpected argument ${JSON.stringify(stray)}`
  const port = parsePort(values.port)
  if (port === 'wrong') return `--port takes a whole number from 0 to 65535, not ${JSON.stringify(values.port)}`
  if (values.json === true && command !== 'probe') return '--json goes with --probe'
  if (command === 'demo' && values.config !== undefined) return '--demo takes no --config: it brings its own'
  return { command, config: values.config, port, url: positionals[0], json: values.json === true }
}

function parseFlags(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    strict: true,
    options: {
      config: { type: 'string', short: 'c' },
      port: { type: 'string', short: 'p' },
      demo: { type: 'boolean' },
      check: { type: 'boolean' },
      probe: { type: 'boolean' },
      json: { type: 'boolean' },
      health: { type: 'boolean' },
      version: { type: 'boolean', short: 'v' },
      help: { type: 'boolean', short: 'h' },
    },
  })
}

/**
 * Runs the program.
 * @param argv without node and the script
 * @returns the exit code, once there is nothing left to do
 */
export async function main(argv: readonly string[], build: Build): Promise<ExitCode> {
  const workerArgs = process.env[WORKER_ARGS]
  if (cluster.isWorker && workerArgs !== undefined) return serveAsWorker(workerArgs)
  const flags = parse(argv)
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
      return (await import('./commands/health.ts')).health(flags.url, { file: config, port })
    case 'demo':
      return (await import('./commands/demo.ts')).demo({ port, version: build.version })
    case 'serve':
      return serve({ file, port, version: build.version })
  }
}
