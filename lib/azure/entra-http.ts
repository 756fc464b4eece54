// One small HTTP exchange with a token endpoint or an issuer. It is bounded in time and size, follows no redirect, and
// takes the way out that the config names. Platform identity endpoints are reached straight: they are on the same host,
// and no proxy knows them.
import type { Clock } from '../clock.ts'
import { routeFor } from '../config/egress.ts'
import type { EgressConfig, Endpoint } from '../config/types.ts'
import { ConnectError, createTransport, type Transport } from '../http1/send.ts'
import type { HttpResponse, TokenRequest } from './entra-requests.ts'

export type Exchanged =
  | { readonly kind: 'response'; readonly response: HttpResponse }
  /** @property code the system's error code, or a few plain words; holds nothing of what was sent */
  | { readonly kind: 'lost'; readonly code: string }

/**
 * Sends a request and reads its response whole. Never throws: what goes wrong is said as `lost`.
 * @param signal ends it at once; the caller bounds the whole exchange in time with it
 * @param maxResponseBytes a longer response counts as lost
 */
export type Exchange = (request: TokenRequest, signal: AbortSignal, maxResponseBytes?: number) => Promise<Exchanged>

/** Token responses have 2 to 8 KB; more is no token response. */
const MAX_RESPONSE_BYTES = 64 * 1024

const STRAIGHT: EgressConfig = { httpsProxy: undefined, httpProxy: undefined, noProxy: [], ca: [] }

function endpointOf({ url, platform }: TokenRequest, egress: EgressConfig): Endpoint {
  const protocol = url.protocol === 'https:' ? 'https:' : 'http:'
  const target = {
    protocol,
    hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? (protocol === 'https:' ? 443 : 80) : Number(url.port),
  } as const
  const route = platform === true ? undefined : routeFor(egress, target)
  return { ...target, host: url.host, basePath: '', url: url.origin, route }
}

function lostCode(error: Error, connectMs: number): string {
  if (error instanceof ConnectError) {
    if (error.phase === 'proxy' || error.phase === 'tls') return error.message
    return error.timeout ? `no connection within ${connectMs / 1000} s` : error.code
  }
  const code: unknown = 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^\w{1,64}$/.test(code) ? code : 'connection lost'
}

function headerObject(names: readonly string[], rawHeaders: readonly string[]): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [i, name] of names.entries()) headers[name] ??= rawHeaders[2 * i + 1] ?? ''
  return headers
}

/**
 * Exchanges over a transport.
 * @param egress asked each time: a reload may change it
 */
export function createExchange(transport: Transport, egress: () => EgressConfig): Exchange {
  return (request, signal, maxResponseBytes = MAX_RESPONSE_BYTES) =>
    new Promise(resolve => {
      const { url, method, headers, body, connectMs } = request
      const endpoint = endpointOf(request, egress())
      const bytes = Buffer.from(body)
      const list = ['host', endpoint.host, ...Object.entries(headers).flat(), 'accept', 'application/json']
      if (method === 'POST') list.push('content-length', String(bytes.length))
      let giveUp = (): void => sent.destroy()
      const finish = (exchanged: Exchanged): void => {
        signal.removeEventListener('abort', onAbort)
        resolve(exchanged)
      }
      const lost = (code: string): void => {
        finish({ kind: 'lost', code })
        giveUp()
      }
      const onAbort = (): void => lost('gave up')
      if (signal.aborted) {
        resolve({ kind: 'lost', code: 'gave up' })
        return
      }
      signal.addEventListener('abort', onAbort)
      const wire = { endpoint, method, path: `${url.pathname}${url.search}`, headers: list }
      const sent = transport.send(
        wire,
        bytes.length === 0 ? [] : [bytes],
        { fresh: true, closes: true, connectMs },
        {
          connected: () => undefined,
          head(head, responseBody) {
            giveUp = () => responseBody.destroy()
            const chunks: Buffer[] = []
            let size = 0
            responseBody.attach({
              data(chunk) {
                size += chunk.length
                if (size > maxResponseBytes) lost('oversized response')
                else chunks.push(chunk)
              },
              end() {
                const text = Buffer.concat(chunks).toString('utf8')
                const response = { status: head.status, headers: headerObject(head.names, head.rawHeaders), body: text }
                finish({ kind: 'response', response })
              },
              lost: error => lost(lostCode(error, connectMs)),
            })
          },
          switched(_head, socket) {
            socket.destroy()
            lost('connection lost')
          },
          failed: error => finish({ kind: 'lost', code: lostCode(error, connectMs) }),
        },
      )
    })
}

/** Exchanges straight to their hosts, over connections of their own. */
export function createStraightExchange(clock: Clock): Exchange {
  return createExchange(createTransport(clock), () => STRAIGHT)
}
