// One look at the way to an endpoint, for --probe: the name, addresses, proxy and TLS that requests get, with the time
// of each step. No request is sent.
import tls from 'node:tls'
import type { Clock } from '../clock.ts'
import type { Endpoint } from '../config/types.ts'
import type { AgentPair } from './agents.ts'
import type { ConnectError } from './connect-error.ts'

/** What was found; a step is undefined where an earlier one failed. Times are milliseconds. */
export interface Look {
  /** Of the endpoint's name, or of the proxy's. */
  readonly resolvedMs: number | undefined
  /** TCP to the endpoint, or to the proxy. */
  readonly connectedMs: number | undefined
  /** When the certificate ends, by the wall clock; undefined for plain http. */
  readonly certificateEndsMs: number | undefined
  readonly error: ConnectError | undefined
}

/** Makes a connection, says how, and closes it. */
export function look(agents: AgentPair, endpoint: Endpoint, connectMs: number, clock: Clock): Promise<Look> {
  const beganMs = clock.nowMs()
  let resolvedMs: number | undefined
  let connectedMs: number | undefined
  return new Promise(resolve => {
    const found = (error: ConnectError | undefined, certificateEndsMs?: number): void =>
      resolve({ resolvedMs, connectedMs, certificateEndsMs, error })
    agents[endpoint.protocol].connect(
      endpoint,
      { connectMs, tunnelled: false, onread: undefined },
      {
        connecting() {
          resolvedMs = clock.nowMs() - beganMs
        },
        reached() {
          connectedMs = clock.nowMs() - beganMs - (resolvedMs ?? 0)
        },
        connected(socket) {
          const ends = socket instanceof tls.TLSSocket ? Date.parse(socket.getPeerCertificate().valid_to) : undefined
          socket.destroy()
          found(undefined, endpoint.protocol === 'https:' ? ends : undefined)
        },
        failed: error => found(error),
      },
    )
  })
}
