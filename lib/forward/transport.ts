// Sockets to the backends: keep-alive agents, one for http and one for https, shared by all attempts. It knows no Azure.
import http, { type ClientRequest } from 'node:http'
import https from 'node:https'
import type { Endpoint } from '../config/types.ts'

/** What goes on the wire; `headers` is a flat list and complete but for Connection. */
export interface WireRequest {
  readonly endpoint: Endpoint
  readonly method: string
  readonly path: string
  readonly headers: readonly string[]
}

export interface Transport {
  /** Opens a request; nothing is sent before the caller writes or ends it. `fresh`: on a connection of its own. */
  open(request: WireRequest, fresh: boolean): ClientRequest
  /** Sockets in use and resting, for leak checks and the status page. */
  sockets(): { readonly busy: number; readonly free: number }
  close(): void
}

/** Below the 4 minutes after which Azure's load balancers drop silent flows without a word (wire reference, section 9). */
const TCP_KEEPALIVE_MS = 30_000
/** A resting socket is closed before the far side is likely to have closed it. */
const FREE_SOCKET_MS = 55_000
/** Sockets kept for reuse per backend host: a burst's worth; above that they close after their answer. */
const MAX_FREE_SOCKETS = 256
/** An answer's head beyond this is an error of the far side; Node's own default. */
const MAX_ANSWER_HEAD_BYTES = 16_384

function count(lists: Readonly<NodeJS.Dict<readonly unknown[]>>): number {
  let sum = 0
  for (const list of Object.values(lists)) sum += list?.length ?? 0
  return sum
}

export function createTransport(): Transport {
  const pooled = {
    keepAlive: true,
    keepAliveMsecs: TCP_KEEPALIVE_MS,
    // The bound on sockets in use is the bound on requests in flight; queueing in the agent would hide it.
    maxSockets: Number.POSITIVE_INFINITY,
    maxFreeSockets: MAX_FREE_SOCKETS,
    timeout: FREE_SOCKET_MS,
    noDelay: true,
    // The most recently used socket is the least likely to have been dropped meanwhile.
    scheduling: 'lifo' as const,
  }
  const single = { keepAlive: false, noDelay: true, maxSockets: Number.POSITIVE_INFINITY }
  const agents = {
    'http:': { pooled: new http.Agent(pooled), fresh: new http.Agent(single) },
    'https:': { pooled: new https.Agent(pooled), fresh: new https.Agent(single) },
  }
  const all = [agents['http:'].pooled, agents['http:'].fresh, agents['https:'].pooled, agents['https:'].fresh]

  return {
    open({ endpoint, method, path, headers }, fresh) {
      const module = endpoint.protocol === 'https:' ? https : http
      const { pooled, fresh: own } = agents[endpoint.protocol]
      return module.request({
        agent: fresh ? own : pooled,
        host: endpoint.hostname,
        port: endpoint.port,
        method,
        path,
        headers,
        setHost: false,
        maxHeaderSize: MAX_ANSWER_HEAD_BYTES,
      })
    },
    sockets() {
      return {
        busy: all.reduce((sum, agent) => sum + count(agent.sockets), 0),
        free: all.reduce((sum, agent) => sum + count(agent.freeSockets), 0),
      }
    },
    close() {
      for (const agent of all) agent.destroy()
    },
  }
}
