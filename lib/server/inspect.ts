// One look at every backend, step by step.
import type { TokenAuthorizerFactory } from '../azure/credentials.ts'
import type { Clock } from '../clock.ts'
import type { Config } from '../config/types.ts'

export interface Inspection {
  readonly model: string
  readonly backend: string
  readonly dnsMs: number | undefined
  readonly tcpMs: number | undefined
  readonly tls: { readonly daysLeft: number } | undefined
  readonly keyAccepted: boolean | undefined
  readonly deploymentFound: boolean | undefined
  readonly apiVersionAccepted: boolean | undefined
  readonly latencyMs: number | undefined
  /** undefined when all is well. */
  readonly problem: string | undefined
}

export async function inspectBackends(
  _config: Config,
  _deps: { readonly clock: Clock; readonly tokenAuthorizer: TokenAuthorizerFactory },
): Promise<readonly Inspection[]> {
  return []
}
