// The proxy's knowledge of itself, for the status page and alerts: name, last reload, end of the certificate, and
// deployments reached by a probe.
import type { Clock } from '../clock.ts'
import type { ProxyEntry } from '../dashboard/entries.ts'
import { certificateEndMs } from './certificates.ts'
import type { TlsFiles } from './listener.ts'

/** Deployments remembered as probed; more than any config has. */
const MAX_PROBED = 10_000

export interface SelfWatch {
  /** A config is in force. @param tls the listener's new certificate; undefined: it keeps the one it has */
  reloaded(tls: TlsFiles | undefined): void
  /** The last config that was read is not in force. */
  reloadFailed(problem: string): void
  probed(deployment: string): void
  wasProbed(deployment: string): boolean
  describe(): Omit<ProxyEntry, 'started_ms' | 'workers' | 'certificates'>
}

/** Epoch milliseconds; null where there is no certificate, or none that says it. */
function endOf(tls: TlsFiles | undefined): number | null {
  return (tls === undefined ? undefined : certificateEndMs(tls.cert)) ?? null
}

/** @param tls the listener's certificate at the start */
export function createSelfWatch(
  clock: Clock,
  { host, version, tls }: { readonly host: string; readonly version: string; readonly tls: TlsFiles | undefined },
): SelfWatch {
  const met = new Set<string>()
  let reloaded_ms: number | null = null
  let reload_failed: ProxyEntry['reload_failed'] = null
  let certificate_ends_ms = endOf(tls)
  return {
    reloaded(fresh) {
      reloaded_ms = clock.epochMs()
      reload_failed = null
      if (fresh !== undefined) certificate_ends_ms = endOf(fresh)
    },
    reloadFailed(problem) {
      reload_failed = { time_ms: clock.epochMs(), problem }
    },
    probed(deployment) {
      if (met.size >= MAX_PROBED) met.clear()
      met.add(deployment)
    },
    wasProbed: deployment => met.has(deployment),
    describe: () => ({ host, version, reloaded_ms, reload_failed, certificate_ends_ms }),
  }
}
