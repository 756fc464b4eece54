// The proxy with node:http's client over the same agents in place of its own: what our own client saves is measured
// anew with each Node. `node twin.js --config FILE`, for the benchmark alone.
import { systemClock } from '../../lib/clock.ts'
import { loadConfig } from '../../lib/config/load.ts'
import { createLog } from '../../lib/log.ts'
import { createLogOutput } from '../../lib/log-output.ts'
import { createProxy } from '../../lib/server/proxy.ts'
import { createNodeTransport } from '../fixtures/node-client.ts'

const result = loadConfig({ file: process.argv.at(-1) ?? '', env: process.env })
if (result.kind === 'invalid') throw new Error(result.problems.map(({ message }) => message).join('\n'))

const clock = systemClock()
const output = createLogOutput({ kind: 'fd', fd: 1 })
const proxy = createProxy({
  config: result.config,
  version: 'twin',
  clock,
  random: Math.random,
  log: createLog({ clock, level: () => 'info', format: () => 'json', write: output.write }),
  tokenAuthorizer: () => ({
    authorize: () => ({ kind: 'unavailable', reason: 'no tokens in the benchmark', waitMs: 60_000, permanent: true }),
  }),
  transport: createNodeTransport(clock),
})
await proxy.listen()
process.on('SIGTERM', () => process.exit())
