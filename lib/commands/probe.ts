// `--probe`: asks every backend once, token-free, and prints what it found: reachable, key accepted, deployment there, latency.

import { createExchange } from '../azure/entra-http.ts'
import { systemClock } from '../clock.ts'
import { createTransport } from '../http1/send.ts'
import { createEntra } from './assemble.ts'
import type { ExitCode } from './exit-code.ts'
import { type Inspection, inspectBackends } from './inspect.ts'
import { loadOrReport } from './load.ts'

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0)))
  return rows
    .map(row =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

function yesNo(value: boolean | undefined): string {
  return value === undefined ? '?' : value ? 'yes' : 'NO'
}

function row(found: Inspection): string[] {
  return [
    found.model,
    found.backend,
    found.dnsMs === undefined ? 'NO' : `${found.dnsMs} ms`,
    found.tcpMs === undefined ? 'NO' : `${found.tcpMs} ms`,
    found.tls === undefined ? '-' : `${found.tls.daysLeft} days`,
    yesNo(found.keyAccepted),
    yesNo(found.deploymentFound),
    yesNo(found.apiVersionAccepted),
    found.latencyMs === undefined ? '-' : `${found.latencyMs} ms`,
    found.problem ?? 'ok',
  ]
}

const HEAD = ['MODEL', 'BACKEND', 'DNS', 'TCP', 'TLS', 'KEY', 'DEPLOYMENT', 'VERSION', 'LATENCY', 'VERDICT']

/** Exit 0 when every backend is sound, 1 when one is not, 2 when the config is wrong. */
export async function probe(file: string, { json }: { readonly json: boolean }): Promise<ExitCode> {
  const loaded = loadOrReport(file)
  if (loaded === undefined) return 2
  const clock = systemClock()
  // What goes wrong with a token stands in the verdict of its backends.
  const transport = createTransport(clock)
  const exchange = createExchange(transport, () => loaded.config.egress)
  const tokenAuthorizer = createEntra(clock, () => undefined, exchange)
  const found = await inspectBackends(loaded.config, { clock, tokenAuthorizer })
  tokenAuthorizer.close()
  process.stdout.write(json ? `${JSON.stringify(found, null, 2)}\n` : `${table([HEAD, ...found.map(row)])}\n`)
  return found.every(inspection => inspection.problem === undefined) ? 0 : 1
}
