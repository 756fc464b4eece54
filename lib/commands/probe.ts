// `--probe`: asks every backend once, token-free, and prints what it found: reachable, key accepted, deployment there,
// latency.

import { createExchange } from '../azure/entra-http.ts'
import { systemClock } from '../clock.ts'
import { createTransport, lookupPlaces } from '../http1/send.ts'
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

function yesNo(value: boolean | null): string {
  return value === null ? '?' : value ? 'yes' : 'NO'
}

/** `the credential is refused (401: Access denied …). Check api_key, …`: what is wrong, what was said, what to do. */
function verdict({ problem, detail, todo }: Inspection): string {
  if (problem === null) return 'ok'
  return `${problem}${detail === null ? '' : ` (${detail})`}. ${todo ?? ''}`.trimEnd()
}

function row(found: Inspection): string[] {
  return [
    found.model,
    found.backend,
    found.dns_ms === null ? 'NO' : `${found.dns_ms} ms`,
    found.tcp_ms === null ? 'NO' : `${found.tcp_ms} ms`,
    found.tls_days_left === null ? '-' : `${found.tls_days_left} days`,
    yesNo(found.key_accepted),
    yesNo(found.deployment_found),
    yesNo(found.api_version_accepted),
    found.latency_ms === null ? '-' : `${found.latency_ms} ms`,
    verdict(found),
  ]
}

/** Backends named in the last line, for one reason. */
const MAX_NAMED = 5

const HEAD = ['MODEL', 'BACKEND', 'DNS', 'TCP', 'TLS', 'KEY', 'DEPLOYMENT', 'VERSION', 'LATENCY', 'VERDICT']

/** `2 of 5 backends are not well: network_refused (eastus, sweden).`: what concerns many is said once. */
function summary(all: readonly Inspection[]): string {
  const bad = all.filter(({ problem }) => problem !== null)
  const proxies = [...new Set(all.flatMap(({ proxy }) => proxy ?? []))]
  const way = proxies.length === 0 ? '' : `; by the proxy ${proxies.join(', ')}`
  if (bad.length === 0) return `${all.length === 1 ? 'The backend is' : `All ${all.length} backends are`} well${way}.`
  const reasons = [...new Set(bad.map(({ reason }) => reason ?? ''))].map(reason => {
    const names = [...new Set(bad.filter(each => each.reason === reason).map(({ backend }) => backend))]
    const more = names.length > MAX_NAMED ? ` and ${names.length - MAX_NAMED} more` : ''
    return `${reason} (${names.slice(0, MAX_NAMED).join(', ')}${more})`
  })
  const are = bad.length === 1 ? 'is' : 'are'
  return `${bad.length} of ${all.length} backends ${are} not well${way}: ${reasons.join(', ')}.`
}

/** What was not found out is left out. */
function withoutNull(_name: string, value: unknown): unknown {
  return value === null ? undefined : value
}

/** Exit 0 when every backend is well, 1 when one is not, 2 when the config is wrong. */
export async function probe(file: string, { json }: { readonly json: boolean }): Promise<ExitCode> {
  const loaded = loadOrReport(file)
  if (loaded === undefined) return 2
  const clock = systemClock()
  const transport = createTransport(clock, { lookupPlaces: lookupPlaces(process.env.UV_THREADPOOL_SIZE) })
  const exchange = createExchange(transport, () => loaded.config.egress)
  // What goes wrong with a token stands in the verdict of its backends.
  const tokenAuthorizer = createEntra(clock, () => undefined, exchange)
  try {
    const found = await inspectBackends(loaded.config, { clock, tokenAuthorizer, transport })
    const text = json ? JSON.stringify(found, withoutNull, 2) : `${table([HEAD, ...found.map(row)])}\n${summary(found)}`
    process.stdout.write(`${text}\n`)
    return found.every(({ problem }) => problem === null) ? 0 : 1
  } finally {
    tokenAuthorizer.close()
    transport.close()
  }
}
