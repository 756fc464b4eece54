// A simulated identity service: Entra's token endpoint, the metadata service of virtual machines and App Service's form of it
// (wire reference, 2.3 to 2.5). Strict: what the real ones would refuse, it refuses with their words. It remembers its
// tokens, so that a simulated resource can ask whether one is good.
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Clock } from '../clock.ts'
import type { Answer } from './errors.ts'
import { digest } from './text.ts'

export interface SimulatedApp {
  readonly clientId: string
  readonly secret?: string
  /** Whether a federated token is good. */
  readonly acceptsAssertion?: (assertion: string) => boolean
}

export interface SimulatedIdentityOptions {
  readonly clock: Clock
  readonly tenantId: string
  readonly apps: readonly SimulatedApp[]
  /** Client ids of identities assigned to "this machine"; the first is the one that is meant when none is named. */
  readonly managedIdentities?: readonly string[]
  /** App Service's proof; left out: that endpoint is not there. */
  readonly identityHeader?: string
  /** Audiences there are; left out: the two of Azure OpenAI. */
  readonly audiences?: readonly string[]
}

/** What the next requests meet instead of their answer. */
export type IdentityFault =
  | {
      readonly kind: 'answer'
      readonly status: number
      readonly body?: string
      readonly headers?: Readonly<Record<string, string>>
    }
  | { readonly kind: 'hang_up' }
  | { readonly kind: 'silence' }
  /** The right answer, held back until `release()`. */
  | { readonly kind: 'hold' }

export interface SimulatedIdentity {
  listen(port?: number): Promise<{ readonly url: string; readonly port: number }>
  close(): Promise<void>
  next(...faults: readonly IdentityFault[]): void
  always(fault: IdentityFault): void
  clear(): void
  /** Lets go of what `hold` holds. */
  release(): void
  /** Of tokens given from now on, in seconds. */
  setLifetime(seconds: number): void
  /** Requests for a token so far, whatever came of them. */
  fetches(): number
  /** Resolves when one more than those so far has come. */
  fetched(): Promise<void>
  /** The tokens given, the last last; a thousand at most. */
  readonly tokens: readonly string[]
  /** Whether a token was given here for this audience and lives. */
  accepts(token: string, audience: string): boolean
}

const AUDIENCES = ['https://cognitiveservices.azure.com', 'https://ai.azure.com']
/** As Entra gives it (wire reference, 2.3). */
const DEFAULT_LIFETIME_S = 3_599
const MAX_BODY_BYTES = 64 * 1024
/** Tokens that are remembered; older ones count as unknown. */
const MAX_TOKENS = 1_000
const ASSERTION_TYPE = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'

function json(status: number, value: object, headers: Readonly<Record<string, string>> = {}): Answer {
  return {
    status,
    headers: { 'Content-Type': 'application/json; charset=utf-8', ...headers },
    body: JSON.stringify(value),
  }
}

function entraError(status: number, error: string, code: number, text: string, epochMs: number): Answer {
  return json(status, {
    error,
    error_description: `AADSTS${code}: ${text} Trace ID: 0000aaaa-11bb-cccc-dd22-eeeeee333333`,
    error_codes: [code],
    timestamp: new Date(epochMs).toISOString(),
    trace_id: '0000aaaa-11bb-cccc-dd22-eeeeee333333',
    correlation_id: 'aaaa0000-bb11-2222-33cc-444444dddddd',
    error_uri: `https://login.microsoftonline.com/error?code=${code}`,
  })
}

async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue
    bytes += chunk.length
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk)
  }
  return new URLSearchParams(Buffer.concat(chunks).toString('utf8'))
}

/** Makes one; nothing listens yet. */
export function createSimulatedIdentity(options: SimulatedIdentityOptions): SimulatedIdentity {
  const { clock, tenantId, apps, managedIdentities = [], identityHeader, audiences = AUDIENCES } = options
  const given = new Map<string, { readonly audience: string; readonly endsAtMs: number }>()
  const tokens: string[] = []
  let waiting: IdentityFault[] = []
  let standing: IdentityFault | undefined
  let held: (() => void)[] = []
  let listeners: (() => void)[] = []
  let lifetimeS = DEFAULT_LIFETIME_S
  let fetches = 0
  let issued = 0

  const issue = (audience: string, subject: string): string => {
    const token = `simulated.${digest(`${subject} ${audience} ${issued}`, 64)}.token${++issued}`
    given.set(token, { audience, endsAtMs: clock.nowMs() + lifetimeS * 1000 })
    tokens.push(token)
    if (tokens.length > MAX_TOKENS) tokens.shift()
    for (const oldest of given.keys()) {
      if (given.size <= MAX_TOKENS) break
      given.delete(oldest)
    }
    return token
  }

  /** Entra's token endpoint (wire reference, 2.3 and 2.4). */
  const grant = (tenant: string, request: IncomingMessage, form: URLSearchParams): Answer => {
    const refuse = (status: number, error: string, code: number, text: string): Answer =>
      entraError(status, error, code, text, clock.epochMs())
    if (tenant !== tenantId) return refuse(400, 'invalid_request', 90002, 'Tenant not found.')
    if (request.headers['content-type'] !== 'application/x-www-form-urlencoded') {
      return refuse(400, 'invalid_request', 900144, 'The request body is no form.')
    }
    if (form.get('grant_type') !== 'client_credentials') {
      return refuse(400, 'unsupported_grant_type', 70003, 'The grant type is not supported.')
    }
    const app = apps.find(({ clientId }) => clientId === form.get('client_id'))
    if (app === undefined)
      return refuse(400, 'unauthorized_client', 700016, 'Application was not found in the directory.')
    const scope = form.get('scope') ?? ''
    const audience = scope.replace(/\/\.default$/, '')
    if (audience === scope || !audiences.includes(audience)) {
      return refuse(400, 'invalid_scope', 70011, 'The provided value for the input parameter scope is not valid.')
    }
    const assertion = form.get('client_assertion')
    if (assertion !== null) {
      const good = form.get('client_assertion_type') === ASSERTION_TYPE && app.acceptsAssertion?.(assertion) === true
      if (!good) return refuse(401, 'invalid_client', 700213, 'No matching federated identity record found.')
    } else if (app.secret === undefined || form.get('client_secret') !== app.secret) {
      return refuse(401, 'invalid_client', 7000215, 'Invalid client secret provided.')
    }
    const token = issue(audience, app.clientId)
    return json(200, { token_type: 'Bearer', expires_in: lifetimeS, ext_expires_in: lifetimeS, access_token: token })
  }

  /** Both forms of the platform's endpoint (wire reference, 2.5): everything in their answers is a string. */
  const identityToken = (query: URLSearchParams, version: string, withRelative: boolean): Answer => {
    const refuse = (error: string, description: string): Answer => json(400, { error, error_description: description })
    if (query.get('api-version') !== version) return refuse('invalid_request', 'The api-version is not supported.')
    const resource = query.get('resource')
    if (resource === null || !audiences.includes(resource)) return refuse('invalid_resource', 'Unknown resource.')
    const clientId = query.get('client_id') ?? managedIdentities[0]
    if (clientId === undefined || !managedIdentities.includes(clientId)) {
      return refuse('invalid_request', 'Identity not found')
    }
    return json(200, {
      access_token: issue(resource, clientId),
      client_id: clientId,
      ...(withRelative ? { expires_in: String(lifetimeS), ext_expires_in: String(lifetimeS), refresh_token: '' } : {}),
      expires_on: String(Math.floor(clock.epochMs() / 1000) + lifetimeS),
      resource,
      token_type: 'Bearer',
    })
  }

  const answerTo = (request: IncomingMessage, form: URLSearchParams): Answer => {
    const url = new URL(request.url ?? '', 'http://simulated')
    const tenant = /^\/([^/]+)\/oauth2\/v2\.0\/token$/.exec(url.pathname)?.[1]
    if (tenant !== undefined && request.method === 'POST') return grant(decodeURIComponent(tenant), request, form)
    if (url.pathname === '/metadata/identity/oauth2/token' && request.method === 'GET') {
      return request.headers.metadata === 'true'
        ? identityToken(url.searchParams, '2018-02-01', true)
        : json(400, { error: 'bad_request_102', error_description: 'Required metadata header not specified' })
    }
    if (url.pathname === '/msi/token' && request.method === 'GET' && identityHeader !== undefined) {
      return request.headers['x-identity-header'] === identityHeader
        ? identityToken(url.searchParams, '2019-08-01', false)
        : json(401, { statusCode: 401, message: 'Unauthorized' })
    }
    return { status: 404, headers: {}, body: '' }
  }

  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const form = await readForm(request)
    fetches++
    const fault = waiting.shift() ?? standing
    const told = listeners
    listeners = []
    for (const listener of told) listener()
    switch (fault?.kind) {
      case 'hang_up':
        request.socket.resetAndDestroy()
        return
      case 'silence':
        return
      case 'answer':
        response.writeHead(fault.status, fault.headers ?? {})
        response.end(fault.body ?? '')
        return
      case 'hold':
        await new Promise<void>(resolve => held.push(resolve))
        break
      default:
    }
    const { status, headers, body } = answerTo(request, form)
    response.writeHead(status, headers)
    response.end(body)
  }

  const server = http.createServer((request, response) => {
    response.on('error', () => undefined)
    serve(request, response).catch(() => response.destroy())
  })

  return {
    listen(port = 0) {
      return new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen(port, '127.0.0.1', () => {
          const bound = server.address() as AddressInfo
          resolve({ url: `http://127.0.0.1:${bound.port}`, port: bound.port })
        })
      })
    },
    close() {
      return new Promise(resolve => {
        server.close(() => resolve())
        server.closeAllConnections()
      })
    },
    next(...faults) {
      waiting.push(...faults)
    },
    always(fault) {
      standing = fault
    },
    clear() {
      waiting = []
      standing = undefined
    },
    release() {
      const all = held
      held = []
      for (const go of all) go()
    },
    setLifetime(value) {
      lifetimeS = value
    },
    fetches: () => fetches,
    fetched: () => new Promise(resolve => listeners.push(resolve)),
    tokens,
    accepts(token, audience) {
      const found = given.get(token)
      return found !== undefined && found.audience === audience && found.endsAtMs > clock.nowMs()
    },
  }
}
